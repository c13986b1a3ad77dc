//! Keeps the agent's certificate fresh: renews it in time, and takes one that `trainyard-agent join` has put there.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use trainyard_access::{Connector, KeyRequest};
use trainyard_proto::route::parse_list;
use trainyard_service::ServiceManager;

use super::calls;
use super::files::{self, Joined, Record};
use super::{Credentials, EnrolmentSettings, how_to_join};
use crate::message::Reloaded;

/// How often the clock and the files are looked at. The clock is the calendar's: machines sleep.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// The longest wait between tries that fail.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);
/// So long before the end the log says so.
const WARN_BEFORE: SignedDuration = SignedDuration::from_hours(7 * 24);
/// How often the log warns of the end.
const WARN_EVERY: Duration = Duration::from_secs(6 * 3600);

/// The task that renews the agent's certificate.
pub struct Renewal {
    settings: EnrolmentSettings,
    /// What was joined; `None` before anything was.
    joined: Option<Joined>,
    credentials: watch::Sender<Credentials>,
    /// Revision of the files that was last read.
    revision: Option<(u64, i64, i64)>,
    /// Tries that failed in a row.
    failures: u32,
    next_try: Instant,
    warned: Option<Instant>,
    has_said_over: bool,
}

impl Renewal {
    /// For what was joined; new certificates go to `credentials`.
    pub fn new(
        settings: EnrolmentSettings,
        joined: Option<Joined>,
        credentials: watch::Sender<Credentials>,
    ) -> Self {
        // What was put there before the first look is news to who has nothing.
        let revision = joined.as_ref().and_then(|_| files::revision(&settings.data_dir));
        let has_said_over = joined.as_ref().is_some_and(Joined::is_over);
        let (failures, next_try, warned) = (0, Instant::now(), None);
        Self { settings, joined, credentials, revision, failures, next_try, warned, has_said_over }
    }

    /// Runs until `stop` is cancelled. Looks at the files at once when `reload` changes. The service manager hears of a
    /// certificate that cannot be used.
    pub async fn run(
        mut self,
        mut reload: watch::Receiver<Reloaded>,
        service: ServiceManager,
        stop: CancellationToken,
    ) {
        let mut ticks = interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
                Ok(()) = reload.changed() => {}
            }
            if let Some(outcome) = self.take_from_disk() {
                let problem = outcome.err().map(|error| {
                    let problem = format!("the new certificate cannot be used: {error:#}");
                    warn!("{problem}");
                    problem
                });
                service.problem("certificate", problem);
            }
            if stop.run_until_cancelled(self.renew_if_due()).await.is_none() {
                return;
            }
            self.warn_of_the_end();
        }
    }

    /// Takes a certificate that another process has put there; `None` while nothing is new.
    fn take_from_disk(&mut self) -> Option<anyhow::Result<()>> {
        let revision = files::revision(&self.settings.data_dir);
        if revision == self.revision {
            return None;
        }
        self.revision = revision;
        match Joined::load(&self.settings.data_dir) {
            Ok(Some(joined)) if Some(&joined) != self.joined.as_ref() => {
                info!(expires = %joined.record.expire_time, "a new certificate is there, and is used");
                self.follow(&joined.record.scheduler);
                Some(self.publish(joined))
            }
            Ok(_) => Some(Ok(())),
            Err(error) => Some(Err(error)),
        }
    }

    /// Goes to the scheduler that was joined, unless the configuration names another one.
    fn follow(&mut self, scheduler: &str) {
        let joined: Vec<String> = parse_list(scheduler).map(str::to_owned).collect();
        if joined == self.settings.schedulers {
            return;
        }
        let set = self.settings.schedulers.join(",");
        if self.settings.follows_join {
            info!(before = set, now = scheduler, "this machine has joined another scheduler, and goes there");
            self.settings.schedulers = joined;
        } else {
            warn!(
                "this machine has joined {scheduler}, and `scheduler` is set to `{set}`, which counts: change or remove it, \
                 and start this agent again"
            );
        }
    }

    fn publish(&mut self, joined: Joined) -> anyhow::Result<()> {
        let credentials = self.settings.credentials_of(&joined)?;
        self.joined = Some(joined);
        (self.failures, self.next_try, self.warned) = (0, Instant::now(), None);
        self.has_said_over = false;
        self.credentials.send_replace(credentials);
        Ok(())
    }

    async fn renew_if_due(&mut self) {
        let Some(joined) = &self.joined else { return };
        let ends = joined.record.expire_time;
        if Timestamp::now() < joined.record.renew_time || joined.is_over() || Instant::now() < self.next_try {
            return;
        }
        match self.renew(joined).await {
            Ok(joined) => {
                info!(expires = %joined.record.expire_time, "the certificate was renewed");
                self.revision = files::revision(&self.settings.data_dir);
                if let Err(error) = self.publish(joined) {
                    warn!("the renewed certificate cannot be used: {error:#}");
                }
            }
            Err(text) => {
                if self.failures == 0 {
                    warn!("the certificate is not renewed, will try again; it counts until {ends}: {text}");
                }
                let wait = LOOK_EVERY.saturating_mul(1 << self.failures.min(16)).min(LONGEST_WAIT);
                self.failures = self.failures.saturating_add(1);
                self.next_try = Instant::now() + crate::backoff::Backoff::jittered(wait);
            }
        }
    }

    async fn renew(&self, before: &Joined) -> Result<Joined, String> {
        let connector = self.credentials.borrow().connector.clone();
        let joined = before.renewed(&self.settings.schedulers, &connector).await?;
        // One that could not be used would be worse than the one that ends.
        joined.credentials(self.settings.ca.as_deref()).map_err(|error| format!("{error:#}"))?;
        joined.save(&self.settings.data_dir).map_err(|error| format!("{error:#}"))?;
        Ok(joined)
    }

    /// Says loudly that the certificate ends, from a week before.
    fn warn_of_the_end(&mut self) {
        let Some(joined) = &self.joined else { return };
        let Record { expire_time, scheduler, .. } = &joined.record;
        let way_out = how_to_join(scheduler);
        if joined.is_over() {
            if !std::mem::replace(&mut self.has_said_over, true) {
                error!("this machine's certificate ended at {expire_time}: {way_out}");
            }
            return;
        }
        let is_near = Timestamp::now() + WARN_BEFORE > *expire_time;
        if is_near && self.failures > 0 && self.warned.is_none_or(|warned| warned.elapsed() >= WARN_EVERY) {
            self.warned = Some(Instant::now());
            error!(
                "this machine's certificate ends at {expire_time} and was not renewed in {} tries; then no more jobs \
                 come: {way_out}",
                self.failures
            );
        }
    }
}

impl Joined {
    /// The same with a new certificate for the same key: so the two never stand side by side on disk without belonging
    /// together.
    ///
    /// # Errors
    /// Why there is none, a sentence.
    pub async fn renewed(&self, schedulers: &[String], connector: &Connector) -> Result<Self, String> {
        let request = KeyRequest::again(&self.key_pem).map_err(|error| error.to_string())?;
        let answer = calls::renew(schedulers, connector, &request.request_pem).await;
        let answer = answer.map_err(|refusal| format!("{}: {}", refusal.scheduler, refusal.text()))?;
        let (renew_time, expire_time) = times(answer.renew_time, answer.expire_time)?;
        let record = Record { renew_time, expire_time, ..self.record.clone() };
        Ok(Self { record, chain_pem: answer.certificate_chain, ..self.clone() })
    }
}

/// When to renew a certificate, and when it ends.
///
/// # Errors
/// The scheduler's answer lacks one of the times.
pub fn times(
    renew: Option<prost_types::Timestamp>,
    expire: Option<prost_types::Timestamp>,
) -> Result<(Timestamp, Timestamp), &'static str> {
    let parse = |time: Option<prost_types::Timestamp>| Timestamp::new(time?.seconds, 0).ok();
    let missing = "the scheduler's answer does not say how long the certificate counts";
    Ok((parse(renew).ok_or(missing)?, parse(expire).ok_or(missing)?))
}

#[cfg(test)]
mod tests {
    use trainyard_access::Trust;
    use trainyard_access::testing::TestAuthority;
    use trainyard_types::AgentId;

    use super::*;

    fn joined(scheduler: &str) -> Joined {
        let (authority, agent) = (TestAuthority::default(), AgentId(uuid::Uuid::from_u128(7)));
        let KeyRequest { key_pem, request_pem } = KeyRequest::make().unwrap();
        let chain_pem = authority.sign_agent(&request_pem, &agent.to_string(), -1, 30);
        let (renew_time, expire_time) = (
            Timestamp::now() + SignedDuration::from_hours(24),
            Timestamp::now() + SignedDuration::from_hours(48),
        );
        let (scheduler, pin) = (scheduler.to_owned(), authority.pin().to_string());
        Joined { record: Record { scheduler, agent, pin, renew_time, expire_time }, key_pem, chain_pem }
    }

    #[test]
    fn an_agent_that_never_joined_follows_the_first_scheduler_that_is_joined_and_one_with_its_own_does_not() {
        for (follows_join, wanted) in [(true, &["https://lab:7433", "https://b:1"][..]), (false, &[])] {
            let dir = tempfile::tempdir().unwrap();
            let settings = EnrolmentSettings {
                schedulers: vec!["http://127.0.0.1:7433".into()],
                follows_join,
                name: "lab-1".into(),
                data_dir: dir.path().to_owned(),
                ca: None,
                join_token_file: None,
            };
            let connector = Trust::none().connector().unwrap();
            let first = Credentials { connector, agent: None, schedulers: Vec::new() };
            let (sender, credentials) = watch::channel(first);
            let mut renewal = Renewal::new(settings, None, sender);
            assert!(renewal.take_from_disk().is_none());
            joined("https://lab:7433,https://b:1").save(dir.path()).unwrap();
            renewal.take_from_disk().unwrap().unwrap();
            let now = credentials.borrow();
            assert_eq!(now.schedulers, wanted);
            assert!(now.agent.is_some());
        }
    }
}

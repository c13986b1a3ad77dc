//! Keeps the agent's certificate fresh: renews it in time, and takes one that `trainyard-agent join` has put there.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use trainyard_access::{Connector, KeyRequest};

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
    joined: Joined,
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
    pub fn new(settings: EnrolmentSettings, joined: Joined, credentials: watch::Sender<Credentials>) -> Self {
        let revision = files::revision(&settings.data_dir);
        let (failures, next_try, warned, has_said_over) = (0, Instant::now(), None, joined.is_over());
        Self { settings, joined, credentials, revision, failures, next_try, warned, has_said_over }
    }

    /// Runs until `stop` is cancelled. Looks at the files at once when `reload` changes.
    pub async fn run(mut self, mut reload: watch::Receiver<Reloaded>, stop: CancellationToken) {
        let mut ticks = interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
                Ok(()) = reload.changed() => {}
            }
            self.take_from_disk();
            if stop.run_until_cancelled(self.renew_if_due()).await.is_none() {
                return;
            }
            self.warn_of_the_end();
        }
    }

    /// Takes a certificate that another process has put there.
    fn take_from_disk(&mut self) {
        let revision = files::revision(&self.settings.data_dir);
        if revision == self.revision {
            return;
        }
        self.revision = revision;
        match Joined::load(&self.settings.data_dir) {
            Ok(Some(joined)) if joined != self.joined => {
                info!(expires = %joined.record.expire_time, "a new certificate is there, and is used");
                self.publish(joined);
            }
            Ok(_) => {}
            Err(error) => warn!("a new certificate is there and cannot be used: {error:#}"),
        }
    }

    fn publish(&mut self, joined: Joined) {
        match joined.credentials(self.settings.ca.as_deref()) {
            Ok(credentials) => {
                self.joined = joined;
                (self.failures, self.next_try, self.warned) = (0, Instant::now(), None);
                self.has_said_over = false;
                self.credentials.send_replace(credentials);
            }
            Err(error) => warn!("a new certificate cannot be used: {error:#}"),
        }
    }

    async fn renew_if_due(&mut self) {
        if Timestamp::now() < self.joined.record.renew_time
            || self.joined.is_over()
            || Instant::now() < self.next_try
        {
            return;
        }
        match self.renew().await {
            Ok(joined) => {
                info!(expires = %joined.record.expire_time, "the certificate was renewed");
                self.revision = files::revision(&self.settings.data_dir);
                self.publish(joined);
            }
            Err(text) => {
                if self.failures == 0 {
                    let ends = self.joined.record.expire_time;
                    warn!("the certificate is not renewed, will try again; it counts until {ends}: {text}");
                }
                let wait = LOOK_EVERY.saturating_mul(1 << self.failures.min(16)).min(LONGEST_WAIT);
                self.failures = self.failures.saturating_add(1);
                self.next_try = Instant::now() + crate::backoff::Backoff::jittered(wait);
            }
        }
    }

    async fn renew(&self) -> Result<Joined, String> {
        let connector = self.credentials.borrow().connector.clone();
        let joined = self.joined.renewed(&self.settings.schedulers, &connector).await?;
        // One that could not be used would be worse than the one that ends.
        joined.credentials(self.settings.ca.as_deref()).map_err(|error| format!("{error:#}"))?;
        joined.save(&self.settings.data_dir).map_err(|error| format!("{error:#}"))?;
        Ok(joined)
    }

    /// Says loudly that the certificate ends, from a week before.
    fn warn_of_the_end(&mut self) {
        let Record { expire_time, scheduler, .. } = &self.joined.record;
        let way_out = how_to_join(scheduler);
        if self.joined.is_over() {
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

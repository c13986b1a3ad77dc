//! Data sets of machines, looked at by an agent before jobs queue that name them.
//!
//! A check never holds a submission up for long, and none fails for want of one: without an answer in time nothing is known. Of
//! one data set one check runs at a time, whoever submits. What it found is kept for a moment, unless it found errors: whoever
//! mends the files submits again at once. Must not know: gRPC.

mod findings;
mod sessions;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};
use trainyard_proto::convert::agent::DataChecked;
use trainyard_types::{AgentId, DataCheck, DataToCheck, JobSpec, Session};

use crate::driver::{Handle, StateView};
pub use findings::Finding;
use findings::{Findings, Key, Looked};
use sessions::Sessions;
pub use sessions::{Order, Reply};

/// Agents that are asked for one check, if those before cannot see the data set.
const MOST_ASKED: usize = 3;

/// The agents that look at data sets, and what they found. Clones share all of it.
#[derive(Clone)]
pub struct DataChecks(Arc<Inner>);

struct Inner {
    driver: Handle,
    /// How long a submission waits at most; zero looks at nothing.
    time_limit: Duration,
    closing: CancellationToken,
    tasks: TaskTracker,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    sessions: Sessions,
    findings: Findings,
}

impl DataChecks {
    /// Of a scheduler whose submissions wait no longer than `time_limit`.
    pub fn new(driver: Handle, time_limit: Duration, closing: CancellationToken, tasks: TaskTracker) -> Self {
        Self(Arc::new(Inner { driver, time_limit, closing, tasks, state: Mutex::default() }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When a submission that comes now goes on at the latest.
    pub fn deadline(&self) -> Instant {
        Instant::now() + self.0.time_limit
    }

    /// An agent that looks at data sets has opened a session. Returns what it is to look at.
    pub fn opened(&self, agent: AgentId, session: Session) -> mpsc::Receiver<Order> {
        let mut state = self.state();
        // It may see what nobody saw.
        state.findings.forget_unknown();
        state.sessions.open(agent, session)
    }

    /// A session has ended. Those who wait for it are told that they wait in vain.
    pub fn closed(&self, agent: AgentId, session: Session) {
        self.state().sessions.close(agent, session);
    }

    /// An agent has answered. One that nobody waits for any more is left out, and so is one that was not asked.
    pub fn answered(&self, agent: AgentId, session: Session, id: u64, answer: DataChecked) {
        self.state().sessions.answer(agent, session, id, answer);
    }

    /// Whether anything is looked at now.
    pub fn is_on(&self) -> bool {
        !self.0.time_limit.is_zero() && !self.state().sessions.is_empty()
    }

    /// What is known of the data set of `spec`, which is a path of machines. Waits until `deadline` at the longest.
    pub async fn look(&self, spec: &JobSpec, deadline: Instant) -> Finding {
        if self.0.time_limit.is_zero() {
            return Finding::Unknown;
        }
        let (key, came) = (Key::from(&spec.train), Instant::now());
        loop {
            let (mut found, begun) = {
                let mut state = self.state();
                match state.findings.look(&key, came) {
                    Looked::Known(finding) => return finding,
                    Looked::Running(found, begun) => (found, begun),
                    Looked::TooMany => return Finding::Unknown,
                    // Without agents that look at anything, nobody is asked for those that do.
                    Looked::New if state.sessions.is_empty() => return Finding::Unknown,
                    Looked::New => (self.begin(&mut state, key.clone(), spec.clone()), came),
                }
            };
            let finding = match timeout_at(deadline, found.wait_for(Option::is_some)).await {
                Ok(Ok(finding)) => finding.clone().unwrap_or(Finding::Unknown),
                Ok(Err(_)) | Err(_) => return Finding::Unknown,
            };
            // The files may have been mended since a check began that was under way already.
            if begun >= came || !matches!(finding, Finding::Unusable(_)) {
                return finding;
            }
        }
    }

    /// Starts a check. It goes on when whoever asked first does not wait any more: others may.
    fn begin(&self, state: &mut State, key: Key, spec: JobSpec) -> watch::Receiver<Option<Finding>> {
        let (sender, receiver) = watch::channel(None);
        state.findings.begin(key.clone(), receiver.clone());
        let checks = self.clone();
        self.0.tasks.spawn(async move {
            let run = checks.run(&spec);
            let finding = checks.0.closing.run_until_cancelled(run).await.unwrap_or(Finding::Unknown);
            // First, so that nobody who hears of errors finds them kept.
            checks.state().findings.end(&key, &finding);
            sender.send_replace(Some(finding));
        });
        receiver
    }

    /// Asks agents one after the other, until one can tell.
    async fn run(&self, spec: &JobSpec) -> Finding {
        let deadline = self.deadline();
        let wanted = spec.clone();
        let ask = move |state: &mut StateView<'_>| state.core.data_checkers(&wanted);
        let Ok(Ok(agents)) = timeout_at(deadline, self.0.driver.ask_leader(ask)).await else {
            return Finding::Unknown;
        };
        let data = DataToCheck::from(&spec.train);
        for agent in agents.into_iter().take(MOST_ASKED) {
            match self.ask(agent, &data, deadline).await {
                Asked::Answered(DataChecked::Checked(check)) => return Finding::from(check),
                Asked::Answered(DataChecked::NotSeen(why)) => {
                    debug!(%agent, data = %data.data.display(), why, "an agent does not see a data set");
                }
                Asked::Answered(DataChecked::NotChecked(why)) => {
                    warn!(%agent, data = %data.data.display(), why, "a data set was not checked, jobs queue without");
                    let left = deadline.saturating_duration_since(Instant::now());
                    let took_long = left <= self.0.time_limit / 10;
                    return if took_long { Finding::TooLong } else { Finding::NoAnswer };
                }
                Asked::TooLate => {
                    let seconds = self.0.time_limit.as_secs();
                    warn!(%agent, data = %data.data.display(), seconds, "a data set was not checked in time, jobs queue without");
                    return Finding::TooLong;
                }
                Asked::Gone => {}
            }
        }
        Finding::Unknown
    }

    async fn ask(&self, agent: AgentId, data: &DataToCheck, deadline: Instant) -> Asked {
        // Less, so that an agent that works at it can say that it takes too long.
        let time_limit = deadline.saturating_duration_since(Instant::now()) * 9 / 10;
        let Some(Reply { id, answer }) = self.state().sessions.ask(agent, data, time_limit) else {
            return Asked::Gone;
        };
        match timeout_at(deadline, answer).await {
            Ok(Ok(answer)) => Asked::Answered(answer),
            Ok(Err(_)) => Asked::Gone,
            Err(_) => {
                self.state().sessions.give_up(id);
                Asked::TooLate
            }
        }
    }
}

/// The end of asking one agent.
enum Asked {
    Answered(DataChecked),
    /// It has left, or does not read what it is sent.
    Gone,
    TooLate,
}

impl From<DataCheck> for Finding {
    fn from(check: DataCheck) -> Self {
        let is_usable = check.is_usable();
        let check = Arc::new(check);
        if is_usable { Self::Usable(check) } else { Self::Unusable(check) }
    }
}

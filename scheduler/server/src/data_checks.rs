//! Data sets of machines, looked at by an agent before jobs queue that name them.
//!
//! A check never holds a submission up for long, and none fails for want of one: without an answer in time nothing is known,
//! and why not. Of one data set one check runs at a time, whoever submits. What it found is kept for a moment, unless it found
//! errors: whoever mends the files submits again at once.
//!
//! A data.yaml may name a folder that only one machine has. So where one agent does not see all of a data set, others are
//! asked, and only if none has it, and nobody is left who might, it is wrong. Must not know: gRPC.

mod asking;
mod findings;
mod sessions;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trainyard_proto::convert::agent::DataChecked;
use trainyard_types::{AgentId, JobSpec, Session};

use crate::driver::Handle;
pub use findings::{Finding, Unchecked};
use findings::{Findings, Key, Looked};
pub use sessions::Order;
use sessions::Sessions;

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

    /// Whether data sets are looked at.
    pub fn is_on(&self) -> bool {
        !self.0.time_limit.is_zero()
    }

    /// What is known of the data set of `spec`, which is a path of machines. Waits until `deadline` at the longest.
    pub async fn look(&self, spec: &JobSpec, deadline: Instant) -> Finding {
        if !self.is_on() {
            return Finding::Unchecked(Unchecked::Off);
        }
        let (key, came) = (Key::from(&spec.train), Instant::now());
        loop {
            let (mut found, begun) = {
                let mut state = self.state();
                match state.findings.look(&key, came) {
                    Looked::Known(finding) => return finding,
                    Looked::Running(found, begun) => (found, begun),
                    Looked::TooMany => return Finding::Unchecked(Unchecked::TooMany),
                    // Without agents that look at anything, nobody is asked for those that do.
                    Looked::New if state.sessions.is_empty() => {
                        return Finding::Unchecked(Unchecked::NobodyLooks);
                    }
                    Looked::New => (self.begin(&mut state, key.clone(), spec.clone()), came),
                }
            };
            let finding = match timeout_at(deadline, found.wait_for(Option::is_some)).await {
                Ok(Ok(finding)) => finding.clone().unwrap_or(Finding::Unchecked(Unchecked::Closing)),
                Ok(Err(_)) => return Finding::Unchecked(Unchecked::Closing),
                Err(_) => return Finding::Unchecked(Unchecked::TooLong(deadline.duration_since(came))),
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
            let finding = checks.0.closing.run_until_cancelled(run).await;
            let finding = finding.unwrap_or(Finding::Unchecked(Unchecked::Closing));
            // First, so that nobody who hears of errors finds them kept.
            checks.state().findings.end(&key, &finding);
            sender.send_replace(Some(finding));
        });
        receiver
    }
}

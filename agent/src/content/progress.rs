//! Tells an attempt how far its data set or weights have come, and the scheduler how far what is prefetched has.

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use trainyard_types::trainer::LogLevel;
use trainyard_types::{AttemptId, Fetching, Prefetching};

use crate::agent_status::AgentStatus;
use crate::message::{Event, Input};

/// How far a fetch is, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that are there.
    pub done: u64,
    /// Bytes that were missing when fetching began.
    pub total: u64,
}

/// Who is told.
enum Listener {
    Attempt(AttemptId, mpsc::Sender<Input>),
    Scheduler(watch::Sender<AgentStatus>),
}

/// Tells of one version.
pub struct Teller {
    listener: Listener,
    /// The version as the job names it.
    what: String,
    began: Option<Instant>,
    told: Option<(Instant, Progress)>,
}

impl Teller {
    /// For an attempt that was told nothing yet.
    pub fn new(attempt: AttemptId, what: String, inbox: mpsc::Sender<Input>) -> Self {
        Self { listener: Listener::Attempt(attempt, inbox), what, began: None, told: None }
    }

    /// For the agent's status, of what is prefetched.
    pub fn of_prefetch(what: String, status: watch::Sender<AgentStatus>) -> Self {
        Self { listener: Listener::Scheduler(status), what, began: None, told: None }
    }

    /// Tells how far it is, if that is news.
    pub async fn tell(&mut self, now: Progress) {
        if self.told.is_some_and(|(_, told)| told == now) {
            return;
        }
        let time = Instant::now();
        let began = *self.began.get_or_insert(time);
        let (since, before) = match self.told {
            Some((then, told)) if now.done < now.total && told.done <= now.done => (then, told.done),
            _ => (began, 0),
        };
        let seconds = time.duration_since(since).as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "for people")]
        let bytes_per_second = if seconds > 0.0 { (now.done - before) as f64 / seconds } else { 0.0 };
        self.told = Some((time, now));
        let fetching = Fetching {
            what: self.what.clone(),
            done_bytes: now.done,
            total_bytes: now.total,
            bytes_per_second,
        };
        match &self.listener {
            Listener::Attempt(attempt, inbox) => send(inbox, Event::Fetching(*attempt, fetching)).await,
            Listener::Scheduler(status) => {
                status.send_if_modified(|status| {
                    let before = status.fitness.prefetching.replace(Prefetching { now: Some(fetching) });
                    // That it comes is news; how far it is tells the next heartbeat.
                    before.is_none_or(|before| before.now.is_none())
                });
            }
        }
    }

    /// Tells that all is there, if anything was told.
    pub async fn tell_whole(&mut self) {
        if let Some((_, told)) = self.told {
            self.tell(Progress { done: told.total, total: told.total }).await;
        }
    }

    /// Tells the attempt's user something.
    pub async fn note(&self, message: String) {
        if let Listener::Attempt(attempt, inbox) = &self.listener {
            send(inbox, Event::PreparationNote(*attempt, LogLevel::Warning, message)).await;
        }
    }
}

async fn send(inbox: &mpsc::Sender<Input>, event: Event) {
    // The inbox is closed when the agent is leaving.
    let _leaving = inbox.send(Input::Core(event)).await;
}

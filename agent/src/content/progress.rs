//! Tells an attempt how far its data set or weights have come.

use tokio::sync::mpsc;
use tokio::time::Instant;
use trainyard_types::trainer::LogLevel;
use trainyard_types::{AttemptId, Fetching};

use crate::message::{Event, Input};

/// How far a fetch is, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that are there.
    pub done: u64,
    /// Bytes that were missing when fetching began.
    pub total: u64,
}

/// Tells one attempt of one version.
pub struct Teller {
    attempt: AttemptId,
    /// The version as the job names it.
    what: String,
    inbox: mpsc::Sender<Input>,
    began: Option<Instant>,
    told: Option<(Instant, Progress)>,
}

impl Teller {
    /// For an attempt that was told nothing yet.
    pub fn new(attempt: AttemptId, what: String, inbox: mpsc::Sender<Input>) -> Self {
        Self { attempt, what, inbox, began: None, told: None }
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
        self.send(Event::Fetching(self.attempt, fetching)).await;
    }

    /// Tells that all is there, if anything was told.
    pub async fn tell_whole(&mut self) {
        if let Some((_, told)) = self.told {
            self.tell(Progress { done: told.total, total: told.total }).await;
        }
    }

    /// Tells the attempt's user something.
    pub async fn note(&self, message: String) {
        self.send(Event::PreparationNote(self.attempt, LogLevel::Warning, message)).await;
    }

    async fn send(&self, event: Event) {
        // The inbox is closed when the agent is leaving.
        let _leaving = self.inbox.send(Input::Core(event)).await;
    }
}

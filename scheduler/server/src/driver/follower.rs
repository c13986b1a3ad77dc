//! A standby's view: what is stored, read when somebody asks and kept for a moment.
//!
//! Sessions and telemetry are only in the leader's memory, and so is why a job waits. What a standby shows is
//! as old as its view: a second, or ten times what reading it took, so that a large queue does not keep Redis
//! busy with those who only look.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::task::AbortOnDropHandle;
use tracing::warn;
use trainyard_scheduler_core::{Core, CoreConfig};
use trainyard_types::JobId;

use super::changed_jobs::ChangedJobs;
use super::message::{Audience, Message, Question};
use super::metrics::DriverMetrics;
use super::state_view::{EventMark, StateView};
use crate::clock::Clock;
use crate::store::{Store, StoreError};

/// How old a view may be at least.
const AGE: Duration = Duration::from_secs(1);
/// How much longer it is used than it took to read.
const AGE_FACTOR: u32 = 10;
/// Questions that may wait for a view.
const WAITING: usize = 1024;

/// A task of its own: a long queue must not keep the driver from seeing that the leader's lease has ended.
type Reading = AbortOnDropHandle<Result<View, StoreError>>;

struct View {
    core: Core,
    fresh_until: Instant,
}

/// Answers questions while another scheduler leads.
pub(super) struct Follower {
    store: Arc<dyn Store>,
    config: CoreConfig,
    clock: Clock,
    view: Option<View>,
    reading: Option<Reading>,
    waiting: Vec<Question>,
    watchers: BTreeMap<JobId, watch::Sender<EventMark>>,
    /// Where the leader is; without one nothing is answered.
    leader: Option<Arc<str>>,
}

impl Follower {
    pub(super) fn new(store: Arc<dyn Store>, config: CoreConfig, clock: Clock) -> Self {
        let (waiting, watchers) = Default::default();
        Self { store, config, clock, view: None, reading: None, waiting, watchers, leader: None }
    }

    /// The store answers, and another leads.
    pub(super) fn follow(&mut self, leader: &Arc<str>) {
        self.leader = Some(Arc::clone(leader));
    }

    /// The store does not answer: whoever asked is told so.
    pub(super) fn lose(&mut self) {
        (self.leader, self.view, self.reading) = (None, None, None);
        self.waiting.clear();
        self.watchers.clear();
    }

    /// Answers a question, at once or after [`Follower::refresh`]; turns everything else down.
    pub(super) fn take(&mut self, message: Message) {
        let Message::Ask(question, Audience::Anyone) = message else { return };
        if self.leader.is_none() || self.waiting.len() >= WAITING {
            return;
        }
        self.waiting.push(question);
        if self.is_fresh() {
            self.answer();
        }
    }

    fn is_fresh(&self) -> bool {
        self.view.as_ref().is_some_and(|view| Instant::now() < view.fresh_until)
    }

    fn answer(&mut self) {
        let (Some(view), Some(leader)) = (&self.view, &self.leader) else { return };
        let now = self.clock.now();
        let (core, watchers, metrics) = (&view.core, &mut self.watchers, &DriverMetrics::default());
        let changed_jobs = &mut ChangedJobs::default();
        let mut state = StateView { core, now, watchers, changed_jobs, elsewhere: Some(leader), metrics };
        for question in self.waiting.drain(..) {
            question(&mut state);
        }
    }

    /// Reads the store when somebody waits for it. Never returns where there is nothing to do; may be dropped
    /// and called again at any time.
    pub(super) async fn refresh(&mut self) {
        if self.reading.is_none() {
            self.watchers.retain(|_, watcher| watcher.receiver_count() > 0);
            if self.waiting.is_empty() {
                match &self.view {
                    Some(view) if !self.watchers.is_empty() => sleep_until(view.fresh_until).await,
                    Some(_) | None => return std::future::pending().await,
                }
            }
            self.reading = Some(read(Arc::clone(&self.store), self.config.clone(), self.clock));
        }
        let Some(reading) = &mut self.reading else { return };
        let result = reading.await;
        self.reading = None;
        let result = match result {
            Ok(result) => result,
            Err(end) if end.is_panic() => std::panic::resume_unwind(end.into_panic()),
            // The runtime ends, and this task with it.
            Err(_) => return,
        };
        match result {
            Ok(view) => {
                self.view = Some(view);
                self.wake();
                self.answer();
            }
            Err(cause) => {
                warn!(%cause, "store cannot be read, standing by");
                self.waiting.clear();
            }
        }
    }

    /// Tells watchers how far their jobs have come.
    fn wake(&mut self) {
        let Some(View { core, .. }) = &self.view else { return };
        self.watchers.retain(|job, watcher| {
            let Some(mark) = core.job(*job).map(EventMark::of) else { return false };
            watcher.send_if_modified(|known| {
                let changed = *known != mark;
                *known = mark;
                changed
            });
            !mark.is_final
        });
    }
}

fn read(store: Arc<dyn Store>, config: CoreConfig, clock: Clock) -> Reading {
    AbortOnDropHandle::new(tokio::spawn(async move {
        let begun = Instant::now();
        let loaded = store.peek().await?;
        let core = Core::load(config, clock.now(), loaded.into());
        let now = Instant::now();
        Ok(View { core, fresh_until: now + AGE.max((now - begun) * AGE_FACTOR) })
    }))
}

//! Versions that could not be fetched: the scheduler sends no job for one of them here until a later try succeeds.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{info, warn};
use trainyard_content::Kind;
use trainyard_types::reference::Reference;

use super::{Content, FetchError, room};
use crate::disk::path_monitor::PathMonitor;

/// From a failure to the next try.
const FIRST_WAIT: Duration = Duration::from_secs(10);
/// The longest such wait: it doubles with each failure.
const LONGEST_WAIT: Duration = Duration::from_secs(600);
/// A version that cannot be fetched for so long is forgotten: a job that still names it asks again.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(24 * 3600);
/// So many are remembered, the newest ones.
const MOST: usize = 256;

/// The versions that could not be fetched.
pub struct Unfetchable {
    paths: PathMonitor,
    state: Mutex<BTreeMap<String, Failure>>,
    changed: Notify,
}

#[derive(Debug, Clone)]
struct Failure {
    kind: Kind,
    reference: Reference,
    /// Whether the scheduler is told that it cannot be fetched. One that seems to be fetchable again is remembered, so
    /// that the next failure is not tried again as soon as the first.
    is_told: bool,
    since: Instant,
    wait: Duration,
    next_try: Instant,
}

impl Unfetchable {
    pub fn new(paths: PathMonitor) -> Self {
        Self { paths, state: Mutex::default(), changed: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, BTreeMap<String, Failure>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self) {
        let told = self
            .state()
            .iter()
            .filter(|(_, failure)| failure.is_told)
            .map(|(name, _)| name.clone())
            .collect();
        self.paths.set_unfetchable(told);
        self.changed.notify_one();
    }

    /// The one whose next try comes first.
    fn next(&self) -> Option<Failure> {
        let state = self.state();
        state.values().filter(|failure| failure.is_told).min_by_key(|failure| failure.next_try).cloned()
    }
}

impl Content {
    /// Notes that a version cannot be fetched here, so that the scheduler knows before the attempt's end is reported.
    pub fn note_unfetchable(&self, kind: Kind, reference: &Reference) {
        let unfetchable = &self.0.unfetchable;
        let (name, now) = (reference.to_string(), Instant::now());
        warn!(version = name, "a job names a version that cannot be fetched here");
        let mut state = unfetchable.state();
        // A job that comes all the same is no reason to try sooner.
        let wait = state.get(&name).map_or(FIRST_WAIT, |before| (before.wait * 2).min(LONGEST_WAIT));
        let failure = Failure {
            kind,
            reference: reference.clone(),
            is_told: true,
            since: now,
            wait,
            next_try: now + wait,
        };
        state.insert(name, failure);
        if state.len() > MOST {
            let oldest = state.iter().min_by_key(|(_, failure)| failure.since).map(|(name, _)| name.clone());
            oldest.and_then(|oldest| state.remove(&oldest));
        }
        drop(state);
        unfetchable.tell();
    }

    pub(super) fn forget_unfetchable(&self, name: &str) {
        if self.0.unfetchable.state().remove(name).is_some() {
            self.0.unfetchable.tell();
        }
    }

    /// The scheduler may send jobs for it again.
    fn may_be_fetched(&self, name: &str) {
        if let Some(failure) = self.0.unfetchable.state().get_mut(name) {
            info!(version = name, "a version may be fetched again");
            failure.is_told = false;
        }
        self.0.unfetchable.tell();
    }

    /// Waits for the next try, and makes it.
    pub(super) async fn try_unfetchable(&self) {
        let unfetchable = &self.0.unfetchable;
        let Some(failure) = unfetchable.next() else { return unfetchable.changed.notified().await };
        tokio::select! {
            () = sleep_until(failure.next_try) => {}
            () = unfetchable.changed.notified() => return,
        }
        let name = failure.reference.to_string();
        let is_old = failure.since.elapsed() > FORGOTTEN_AFTER;
        // One version that hangs must not hold up the others for long.
        let tried = timeout(self.0.source.patience.stall_after, self.probe(&failure)).await;
        match tried {
            // A job that names it is told so.
            Ok(Ok(()) | Err(FetchError::Gone)) => self.may_be_fetched(&name),
            _ if is_old => self.forget_unfetchable(&name),
            _ => {
                if let Some(failure) = unfetchable.state().get_mut(&name) {
                    failure.wait = (failure.wait * 2).min(LONGEST_WAIT);
                    failure.next_try = Instant::now() + failure.wait;
                }
            }
        }
    }

    /// Whether a version may be fetched now: the scheduler has it, and it finds room.
    async fn probe(&self, failure: &Failure) -> Result<(), FetchError> {
        let store = self.store()?;
        let found = self.0.source.describe(failure.kind, &failure.reference).await?;
        let is_held = found.version.parse().is_ok_and(|id| store.holds(id));
        let needed = if is_held { 0 } else { found.size_bytes };
        room::check(&store, self.0.limits, needed)?;
        Ok(())
    }
}

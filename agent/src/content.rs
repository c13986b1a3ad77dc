//! Data sets and weights of the cluster's store: fetched by content, kept on this machine's disk by quota, and given to
//! trainers as folders that are read-only.
//!
//! A version that is here is read through before each training, so that a bit that the disk has lost is found and fetched
//! again. Two attempts that want the same version fetch it once.
//!
//! Must not know: attempts beyond their ids, and what a trainer does with a folder.

mod blob;
mod check;
mod fetch;
mod fetch_error;
mod incoming;
mod layout;
mod make_whole;
mod manifest_file;
mod obtain;
mod prefetch;
mod progress;
mod retry;
mod room;
mod source;
mod store;
#[cfg(test)]
mod tests;
mod tree;
mod unfetchable;
mod unfinished;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use trainyard_content::Digest;
use trainyard_proto::convert::agent::limits;
use trainyard_types::{AttemptId, Prefetching};

pub use fetch_error::FetchError;
use obtain::InFlight;
pub use obtain::{Obtained, Wanted};
use retry::Patience;
pub use room::Limits;
use source::Source;
use store::Store;
use unfetchable::Unfetchable;

use crate::agent_status::AgentStatus;
use crate::disk::path_monitor::PathMonitor;
use crate::message::{Input, Prefetch, SchedulerLink};

/// How long the disk of the store may take to show what it has, before the agent goes on without it.
const OPENED_WITHIN: Duration = Duration::from_secs(20);
/// How often it is seen whether the disk has room.
const FLOOR_EVERY: Duration = Duration::from_secs(30);

/// The folder, limits and connections that the store works with.
pub struct ContentContext {
    /// The folder below which contents and versions lie.
    pub cache_dir: PathBuf,
    /// Bytes that contents may take, and that stay free.
    pub limits: Limits,
    /// A stream that moves no byte for so long is ended.
    pub stall_after: Duration,
    /// A fetch for which no byte comes for so long is given up.
    pub give_up_after: Duration,
    /// The scheduler, when it is there.
    pub link: watch::Receiver<Option<SchedulerLink>>,
    /// The version that the scheduler wants prefetched; `None` for none.
    pub prefetch: watch::Receiver<Option<Prefetch>>,
    /// Where it is told what is held.
    pub status: watch::Sender<AgentStatus>,
    /// Where it is told what cannot be fetched.
    pub paths: PathMonitor,
    /// The driver's inbox, for what attempts are told.
    pub inbox: mpsc::Sender<Input>,
}

/// What was counted since the agent's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ContentCounts {
    /// Bytes that blobs take on disk.
    pub stored_bytes: u64,
    /// Bytes that came from the scheduler.
    pub fetched_bytes: u64,
    /// Versions that an attempt wanted, and that were here whole.
    pub held: u64,
    /// Versions that an attempt wanted, and that were fetched, or a part of them.
    pub fetched: u64,
    /// Versions that an attempt wanted, and that could not be had.
    pub failed: u64,
    /// Files whose bytes had changed on this machine's disk.
    pub damaged: u64,
}

/// The store of this machine. Clones are the same store.
#[derive(Clone)]
pub struct Content(Arc<Inner>);

struct Inner {
    /// `None` where there is none, for a reason that is in the log.
    store: Result<Arc<Store>, String>,
    limits: Limits,
    source: Source,
    status: watch::Sender<AgentStatus>,
    inbox: mpsc::Sender<Input>,
    /// The version that the scheduler wants prefetched; `None` for none.
    prefetch: watch::Receiver<Option<Prefetch>>,
    /// Number of attempts that fetch.
    attempts_fetching: watch::Sender<usize>,
    in_flight: Mutex<BTreeMap<Digest, Arc<InFlight>>>,
    unfetchable: Unfetchable,
    counts: Counts,
}

#[derive(Debug, Default)]
struct Counts {
    fetched_bytes: Arc<AtomicU64>,
    held: AtomicU64,
    fetched: AtomicU64,
    failed: AtomicU64,
    damaged: AtomicU64,
}

impl Content {
    /// Opens the store, and tells what is held. Without one the agent trains what lies in its data roots.
    pub async fn open(context: ContentContext) -> Self {
        let ContentContext { cache_dir, limits, link, prefetch, status, paths, inbox, .. } = context;
        let patience = Patience { stall_after: context.stall_after, give_up_after: context.give_up_after };
        let folder = cache_dir.clone();
        let opening = spawn_blocking(move || Store::open(&folder));
        let store = match timeout(OPENED_WITHIN, opening).await {
            Ok(Ok(Ok(store))) => Ok(Arc::new(store)),
            Ok(Ok(Err(error))) => Err(error.to_string()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("the disk of `cache_dir` ({}) does not answer", cache_dir.display())),
        };
        if let Err(error) = &store {
            warn!(%error, "no store for data sets and weights: jobs that name pushed ones do not come here");
        }
        let content = Self(Arc::new(Inner {
            store,
            limits,
            source: Source { link, patience },
            status,
            inbox,
            prefetch,
            attempts_fetching: watch::Sender::new(0),
            in_flight: Mutex::default(),
            unfetchable: Unfetchable::new(paths),
            counts: Counts::default(),
        }));
        content.0.status.send_modify(|status| {
            status.fitness.prefetching = content.0.store.is_ok().then(Prefetching::default);
        });
        content.tell_held();
        content
    }

    fn store(&self) -> Result<Arc<Store>, FetchError> {
        self.0.store.clone().map_err(FetchError::NoStore)
    }

    /// Cleans the store up, keeps its disk from becoming full, and tries again what could not be fetched, until `end`.
    pub async fn run(self, end: CancellationToken) {
        let Ok(store) = self.store() else { return };
        let cleaned = Arc::clone(&store);
        // The thread goes on beside an agent that leaves: what it has not removed, the next one does.
        let counting = spawn_blocking(move || cleaned.clean_and_count());
        if end.run_until_cancelled(counting).await.is_none() {
            return;
        }
        let prefetching = self.prefetch_as_told(self.0.prefetch.clone());
        tokio::select! {
            () = self.keep_house(&store, &end) => {}
            // The connection is gone: the agent is leaving.
            () = prefetching => end.cancelled().await,
        }
    }

    async fn keep_house(&self, store: &Arc<Store>, end: &CancellationToken) {
        let mut ticks = tokio::time::interval(FLOOR_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = end.cancelled() => return,
                () = self.try_unfetchable() => {}
                _ = ticks.tick() => {
                    let (store, limits) = (Arc::clone(store), self.0.limits);
                    // The agent is leaving.
                    let _leaving = spawn_blocking(move || room::keep_floor(&store, limits)).await;
                    self.tell_held();
                }
            }
        }
    }

    /// Tells the scheduler which versions are whole here.
    fn tell_held(&self) {
        let held = self.0.store.as_ref().ok().map(|store| {
            let newest = store.held().into_iter().take(limits::HELD_VERSIONS);
            newest.map(|id| id.to_string()).collect::<Vec<String>>()
        });
        self.0.status.send_if_modified(|status| {
            let changes = status.fitness.held_versions != held;
            status.fitness.held_versions = held;
            changes
        });
    }

    /// The folders of the versions that an attempt trains with.
    pub fn folders_of(&self, attempt: AttemptId) -> Vec<PathBuf> {
        let Ok(store) = self.store() else { return Vec::new() };
        store.needed_by(attempt).into_iter().map(|id| store.layout().tree(id)).collect()
    }

    /// Lets go of what attempts needed that read no data any more.
    pub fn keep_for(&self, reads_data: impl Fn(AttemptId) -> bool) {
        if let Ok(store) = &self.0.store {
            store.keep_for(reads_data);
        }
    }

    /// Numbers of bytes, requests and damaged files since the start.
    pub fn counts(&self) -> ContentCounts {
        let counts = &self.0.counts;
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        ContentCounts {
            stored_bytes: self.0.store.as_ref().map_or(0, |store| store.taken_and_promised().0),
            fetched_bytes: read(&counts.fetched_bytes),
            held: read(&counts.held),
            fetched: read(&counts.fetched),
            failed: read(&counts.failed),
            damaged: read(&counts.damaged),
        }
    }

    fn in_flight(&self, id: Digest) -> Arc<InFlight> {
        let mut all = self.0.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody waits for those that only this map has.
        all.retain(|other, in_flight| *other == id || Arc::strong_count(in_flight) > 1);
        Arc::clone(all.entry(id).or_default())
    }
}

/// Moves decoded images of a former version, which lay in `cache_dir` itself, to their own folder.
pub fn move_decoded(cache_dir: &Path, decoded_dir: &Path) {
    let is_decoded = |path: &PathBuf| {
        let extension = path.extension().and_then(|extension| extension.to_str());
        extension.is_some_and(|extension| ["tycache", "tylabels", "lock"].contains(&extension))
    };
    let found: Vec<PathBuf> = layout::entries(cache_dir).filter(is_decoded).collect();
    if found.is_empty() || trainyard_files::create_private_folder(decoded_dir).is_err() {
        return;
    }
    info!(files = found.len(), to = %decoded_dir.display(), "decoded images move to a folder of their own");
    for path in found {
        if let Some(name) = path.file_name()
            && let Err(error) = std::fs::rename(&path, decoded_dir.join(name))
        {
            warn!(path = %path.display(), %error, "a file of decoded images cannot be moved");
        }
    }
}

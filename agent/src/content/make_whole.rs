//! One attempt's work on a version: check what is here, fetch the rest, give the folder its name.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{info, warn};
use trainyard_content::{Entry, Manifest};

use super::check::{Checked, check};
use super::fetch::{STREAMS, Target, each_content_once, fetch};
use super::fetch_error::FetchError;
use super::obtain::{InFlight, TELL_EVERY};
use super::progress::{Progress, Teller};
use super::source::Version;
use super::store::Store;
use super::{Content, manifest_file, room, tree, unfinished};

/// So many damaged files are named.
const NAMED: usize = 3;

/// One attempt's work on a version, which nobody else works on meanwhile.
pub struct Work<'a> {
    pub content: &'a Content,
    pub store: &'a Arc<Store>,
    pub version: &'a Version,
    pub manifest: &'a Arc<Manifest>,
    pub in_flight: &'a InFlight,
    pub manner: Manner,
}

/// Whether a version comes for an attempt, or ahead of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// An attempt that waits for it.
    Attempt,
    /// A job that may start here: it leaves the line, and what others may want soon, to them.
    Prefetch,
}

impl Manner {
    const fn streams(self) -> usize {
        match self {
            Self::Attempt => STREAMS,
            Self::Prefetch => 1,
        }
    }

    /// How long a version must have been unused to go for this.
    const fn least_unused(self) -> Duration {
        match self {
            Self::Attempt => Duration::ZERO,
            Self::Prefetch => Duration::from_secs(24 * 3600),
        }
    }
}

impl Work<'_> {
    /// Fetches the files that are missing. Returns whether there were any.
    pub async fn make_whole(&self, teller: &mut Teller) -> Result<bool, FetchError> {
        let (layout, id) = (self.store.layout(), self.version.id);
        let is_held = self.store.holds(id);
        let root = if is_held { layout.tree(id) } else { layout.tree_being_made(id) };
        std::fs::create_dir_all(&root).map_err(FetchError::at(&root))?;
        let Checked { missing, damaged } = self.check(&root).await?;
        self.tell_of_damage(&damaged, teller).await;
        let fetches = !missing.is_empty();
        if fetches {
            self.fetch(&root, missing, teller).await?;
        }
        if !is_held || fetches || !damaged.is_empty() {
            self.finish(root, is_held).await?;
        }
        self.store.used(id);
        teller.tell_whole().await;
        Ok(fetches)
    }

    async fn check(&self, root: &Path) -> Result<Checked, FetchError> {
        let (store, manifest, path) = (Arc::clone(self.store), Arc::clone(self.manifest), root.to_owned());
        let (end, _ends_with_this) = cancelled_with_this();
        let began = Instant::now();
        let checked = blocking(move || check(&store, &path, &manifest, &end)).await?;
        let checked = checked.map_err(FetchError::at(root))?;
        let (files, bytes) = (self.manifest.len(), self.manifest.total_bytes());
        let (missing, seconds) = (checked.missing.len(), began.elapsed().as_secs_f64());
        info!(version = %self.version, files, bytes, missing, seconds, "checked what is here of a version");
        Ok(checked)
    }

    async fn tell_of_damage(&self, damaged: &[u32], teller: &Teller) {
        if damaged.is_empty() {
            return;
        }
        self.content.0.counts.damaged.fetch_add(damaged.len() as u64, Ordering::Relaxed);
        let path = |at: &u32| self.manifest.get(*at as usize).map_or("", |entry| entry.path);
        let mut names = damaged.iter().take(NAMED).map(path).collect::<Vec<_>>().join(", ");
        if damaged.len() > NAMED {
            names.push_str(&format!(" and {} more", damaged.len() - NAMED));
        }
        let text = format!(
            "{}: {} of {} files had other bytes on this agent's disk than were fetched; they are replaced: {names}",
            self.version,
            damaged.len(),
            self.manifest.len()
        );
        warn!(version = %self.version, damaged = damaged.len(), names, "files of a fetched version are damaged");
        teller.note(text).await;
    }

    async fn fetch(&self, root: &Path, missing: Vec<u32>, teller: &mut Teller) -> Result<(), FetchError> {
        let (store, manifest, limits) =
            (Arc::clone(self.store), Arc::clone(self.manifest), self.content.0.limits);
        let (streams, least_unused) = (self.manner.streams(), self.manner.least_unused());
        let (missing, total, promise) = blocking(move || {
            let missing = each_content_once(&manifest, missing);
            let left = |entry: Entry<'_>| entry.size_bytes - unfinished::bytes_found(&store, entry);
            let length = |at: &u32| manifest.get(*at as usize).map_or(0, left);
            let lengths: Vec<u64> = missing.iter().map(length).collect();
            let promise = room::make(&store, limits, lengths.iter().copied(), least_unused);
            (missing, lengths.iter().sum(), promise)
        })
        .await?;
        // What has gone for it is told before anything else.
        self.content.tell_held();
        let done = Arc::new(AtomicU64::new(0));
        let target = Target {
            store: Arc::clone(self.store),
            root: root.to_owned(),
            manifest: Arc::clone(self.manifest),
            promise: promise?,
            done: Arc::clone(&done),
            received: Arc::clone(&self.content.0.counts.fetched_bytes),
        };
        self.tell(Progress { done: 0, total }, teller).await;
        let began = Instant::now();
        let source = &self.content.0.source;
        let fetching = fetch(self.version, Arc::new(target), missing, streams, source);
        tokio::pin!(fetching);
        let mut ticks = interval(TELL_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    // It is whole when its folder is, and what came in vain comes again.
                    let done = done.load(Ordering::Relaxed).min(total.saturating_sub(1));
                    self.tell(Progress { done, total }, teller).await;
                }
                fetched = &mut fetching => {
                    fetched?;
                    let seconds = began.elapsed().as_secs_f64();
                    info!(version = %self.version, bytes = total, seconds, "fetched");
                    return Ok(());
                }
            }
        }
    }

    /// Tells this attempt how far the fetch is, and those that wait for it.
    async fn tell(&self, progress: Progress, teller: &mut Teller) {
        self.in_flight.progress.send_replace(Some(progress));
        teller.tell(progress).await;
    }

    /// Links what has the same content as another file, and gives the tree its name.
    async fn finish(&self, root: PathBuf, is_held: bool) -> Result<(), FetchError> {
        let (store, manifest, id) = (Arc::clone(self.store), Arc::clone(self.manifest), self.version.id);
        let (end, _ends_with_this) = cancelled_with_this();
        blocking(move || {
            for entry in manifest.entries() {
                let path = root.join(entry.path);
                if end.is_cancelled() {
                    return Ok(());
                }
                if std::fs::symlink_metadata(&path).is_err() {
                    tree::place(store.layout(), &root, entry).map_err(FetchError::at(&path))?;
                }
            }
            tree::seal(&root, &manifest).map_err(FetchError::at(&root))?;
            // It may have gone with the same version, which was removed until just now.
            let list = store.layout().manifest(id);
            if !list.exists() {
                manifest_file::write(store.layout(), id, &manifest).map_err(FetchError::at(&list))?;
            }
            if !is_held {
                let whole = store.layout().tree(id);
                std::fs::rename(&root, &whole).map_err(FetchError::at(&whole))?;
            }
            Ok(())
        })
        .await?
    }
}

/// A token that is cancelled as soon as the guard is dropped: a thread cannot be dropped.
fn cancelled_with_this() -> (CancellationToken, DropGuard) {
    let end = CancellationToken::new();
    (end.clone(), end.drop_guard())
}

/// Does `work` where it may block.
///
/// # Errors
/// The agent is stopping.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, FetchError> {
    spawn_blocking(work).await.map_err(|_| FetchError::Stopping)
}

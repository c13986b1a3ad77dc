//! Makes a version whole on this machine, for an attempt.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, watch};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{info, warn};
use trainyard_content::{Kind, Manifest};
use trainyard_types::AttemptId;
use trainyard_types::reference::Reference;

use super::check::{Checked, check};
use super::fetch::{Target, each_content_once, fetch};
use super::fetch_error::FetchError;
use super::progress::{Progress, Teller};
use super::source::Version;
use super::store::Store;
use super::{Content, manifest_file, room, tree};

/// How often an attempt is told how far its version has come.
const TELL_EVERY: Duration = Duration::from_secs(2);
/// So many damaged files are named.
const NAMED: usize = 3;

/// What an attempt wants.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The attempt.
    pub attempt: AttemptId,
    /// A data set, or weights.
    pub kind: Kind,
    /// Its name and version.
    pub reference: Reference,
}

/// A version that is whole.
#[derive(Debug, Clone)]
pub struct Obtained {
    /// Its data.yaml, or its one file.
    pub file: PathBuf,
}

/// A version that somebody checks or fetches.
#[derive(Debug)]
pub struct InFlight {
    /// When it was whole last. Held by whoever works on it.
    whole: Mutex<Option<Instant>>,
    /// How far a fetch is.
    progress: watch::Sender<Option<Progress>>,
}

impl Default for InFlight {
    fn default() -> Self {
        Self { whole: Mutex::new(None), progress: watch::Sender::new(None) }
    }
}

impl Content {
    /// Fetches what is missing of a version, and checks what is there. It stays until the attempt is over.
    ///
    /// # Errors
    /// See [`FetchError`]. What came before stays, and is not fetched again.
    pub async fn obtain(&self, wanted: &Wanted) -> Result<Obtained, FetchError> {
        let (store, counts) = (self.store()?, &self.0.counts);
        let version = self.0.source.version(wanted.kind, &wanted.reference).await?;
        store.need(wanted.attempt, version.id);
        let mut teller = Teller::new(wanted.attempt, wanted.reference.to_string(), self.0.inbox.clone());
        let obtained = self.obtain_version(&store, &version, &mut teller).await;
        match &obtained {
            Ok((_, true)) => counts.fetched.fetch_add(1, Ordering::Relaxed),
            Ok((_, false)) => counts.held.fetch_add(1, Ordering::Relaxed),
            Err(_) => counts.failed.fetch_add(1, Ordering::Relaxed),
        };
        if obtained.is_ok() {
            self.forget_unfetchable(&wanted.reference.to_string());
        }
        self.tell_held();
        obtained.map(|(file, _)| Obtained { file })
    }

    /// The file, and whether anything of the version was fetched.
    async fn obtain_version(
        &self,
        store: &Arc<Store>,
        version: &Version,
        teller: &mut Teller,
    ) -> Result<(PathBuf, bool), FetchError> {
        let (arrived, in_flight) = (Instant::now(), self.in_flight(version.id));
        let mut ticks = interval(TELL_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut whole = loop {
            tokio::select! {
                whole = in_flight.whole.lock() => break whole,
                _ = ticks.tick() => {
                    // Another attempt fetches it: that is this one's progress, too.
                    let progress = *in_flight.progress.borrow();
                    if let Some(progress) = progress {
                        teller.tell(progress).await;
                    }
                }
            }
        };
        store.counted().await;
        let manifest = Arc::new(self.manifest(store, version).await?);
        let file = main_file(store, version, &manifest)?;
        // Whoever had it before has just made it whole.
        if whole.is_some_and(|since| since >= arrived) && store.holds(version.id) {
            teller.tell_whole().await;
            return Ok((file, false));
        }
        let work = Work { content: self, store, version, manifest: &manifest, in_flight: &in_flight };
        let fetches = work.make_whole(teller).await;
        in_flight.progress.send_replace(None);
        *whole = fetches.is_ok().then(Instant::now);
        fetches.map(|fetched| (file, fetched))
    }

    /// The version's list of files: the one that is here, or the scheduler's.
    async fn manifest(&self, store: &Arc<Store>, version: &Version) -> Result<Manifest, FetchError> {
        let (reader, id) = (Arc::clone(store), version.id);
        if let Some(manifest) = blocking(move || manifest_file::read(reader.layout(), id)).await? {
            return Ok(manifest);
        }
        let manifest = self.0.source.files(version).await?;
        let (writer, id) = (Arc::clone(store), version.id);
        let (manifest, written) = blocking(move || {
            let written = manifest_file::write(writer.layout(), id, &manifest);
            (manifest, written)
        })
        .await?;
        written.map_err(FetchError::at(&store.layout().manifest(id)))?;
        Ok(manifest)
    }
}

/// One attempt's work on a version, which nobody else works on meanwhile.
struct Work<'a> {
    content: &'a Content,
    store: &'a Arc<Store>,
    version: &'a Version,
    manifest: &'a Arc<Manifest>,
    in_flight: &'a InFlight,
}

impl Work<'_> {
    /// Whether anything had to be fetched.
    async fn make_whole(&self, teller: &mut Teller) -> Result<bool, FetchError> {
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

    async fn check(&self, root: &std::path::Path) -> Result<Checked, FetchError> {
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

    async fn fetch(
        &self,
        root: &std::path::Path,
        missing: Vec<u32>,
        teller: &mut Teller,
    ) -> Result<(), FetchError> {
        let (store, manifest, limits) =
            (Arc::clone(self.store), Arc::clone(self.manifest), self.content.0.limits);
        let (missing, promise) = blocking(move || {
            let missing = each_content_once(&manifest, missing);
            let length = |at: &u32| manifest.get(*at as usize).map_or(0, |entry| entry.size_bytes);
            let promise = room::make(&store, limits, missing.iter().map(length));
            (missing, promise)
        })
        .await?;
        // What has gone for it is told before anything else.
        self.content.tell_held();
        let length = |at: &u32| self.manifest.get(*at as usize).map_or(0, |entry| entry.size_bytes);
        let total = missing.iter().map(length).sum();
        let done = Arc::new(AtomicU64::new(0));
        let target = Target {
            store: Arc::clone(self.store),
            root: root.to_owned(),
            manifest: Arc::clone(self.manifest),
            promise: promise?,
            done: Arc::clone(&done),
            received: Arc::clone(&self.content.0.counts.fetched_bytes),
        };
        let began = Instant::now();
        let source = &self.content.0.source;
        let fetching = fetch(self.version, Arc::new(target), missing, &source.link, source.patience);
        tokio::pin!(fetching);
        let mut ticks = interval(TELL_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                // First, so that a fetch is told of from its beginning.
                biased;
                _ = ticks.tick() => {
                    let progress = Progress { done: done.load(Ordering::Relaxed), total };
                    self.in_flight.progress.send_replace(Some(progress));
                    teller.tell(progress).await;
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

/// The file that a trainer is given: the data.yaml, or the one file of weights.
fn main_file(store: &Store, version: &Version, manifest: &Manifest) -> Result<PathBuf, FetchError> {
    let name = match version.kind {
        Kind::DataSet => "data.yaml",
        Kind::Weights => manifest.get(0).map_or("", |entry| entry.path),
    };
    if manifest.kind() != version.kind {
        return Err(FetchError::OtherVersion);
    }
    Ok(store.layout().tree(version.id).join(name))
}

/// A token that is cancelled as soon as the guard is dropped: a thread cannot be dropped.
fn cancelled_with_this() -> (CancellationToken, DropGuard) {
    let end = CancellationToken::new();
    (end.clone(), end.drop_guard())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, FetchError> {
    spawn_blocking(work).await.map_err(|_| FetchError::Stopping)
}

//! The store on disk: which versions it holds, how many bytes it takes, who needs what.
//!
//! Must not know: the scheduler, and how anything comes here.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tracing::warn;
use trainyard_content::{Digest, Entry};
use trainyard_types::AttemptId;

use super::layout::{Layout, entries, is_partial, on_disk};
use super::{blob, tree};

/// A content without a version stays for so long: whoever has fetched it, and was stopped, goes on with it.
const KEPT_WITHOUT_VERSION: Duration = Duration::from_secs(24 * 3600);

/// Why the store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another agent has it.
    #[error("another agent keeps what it fetches in {0}; give each its own `cache_dir`")]
    InUse(PathBuf),
    /// A file of the store cannot be linked.
    #[error("{0} is on a file system without hard links ({1}); choose another `cache_dir`")]
    NoLinks(PathBuf, io::Error),
    /// The disk refuses something else.
    #[error("{0} cannot be used: {1}")]
    Disk(PathBuf, io::Error),
}

/// The store of one agent.
#[derive(Debug)]
pub struct Store {
    layout: Layout,
    /// Keeps other agents out.
    _lock: File,
    state: Mutex<State>,
    /// Whether it is known what the store takes.
    counted: watch::Sender<bool>,
    /// Held while something is removed to make room.
    pub(super) making_room: Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    /// Bytes that all blobs take.
    taken: u64,
    /// Bytes that fetches under way will still take.
    promised: u64,
    /// The versions that are whole, and when each was used last.
    held: BTreeMap<Digest, SystemTime>,
    /// Versions that attempts need.
    needed: BTreeMap<AttemptId, BTreeSet<Digest>>,
}

impl Store {
    /// Opens the store below `cache_dir`, and finds the versions that are whole.
    ///
    /// # Errors
    /// Another agent uses it, or its disk cannot hold it.
    pub fn open(cache_dir: &Path) -> Result<Self, OpenError> {
        let layout = Layout::new(cache_dir);
        let disk = |error| OpenError::Disk(cache_dir.to_owned(), error);
        layout.create().map_err(disk)?;
        let lock = File::create(layout.lock()).map_err(disk)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenError::InUse(cache_dir.to_owned())),
            Err(TryLockError::Error(error)) => return Err(disk(error)),
        }
        entries(&layout.unfinished()).try_for_each(fs::remove_file).map_err(disk)?;
        let (probe, linked) = (blob::unfinished_name(&layout), layout.versions().join("link"));
        fs::write(&probe, "").map_err(disk)?;
        let _former = fs::remove_file(&linked);
        let links = fs::hard_link(&probe, &linked);
        let _gone = fs::remove_file(&probe);
        links.map_err(|error| OpenError::NoLinks(cache_dir.to_owned(), error))?;
        fs::remove_file(&linked).map_err(disk)?;
        let state = State { held: find_versions(&layout), ..State::default() };
        let counted = watch::Sender::new(false);
        Ok(Self { layout, _lock: lock, state: Mutex::new(state), counted, making_room: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The store's folders.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Removes what a former process has left unfinished, and adds up what the rest takes.
    pub fn clean_and_count(&self) {
        for path in entries(self.layout.versions()) {
            let stem = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
            let left = match path.extension().and_then(|extension| extension.to_str()) {
                Some("part" | "gone") => tree::remove(&path),
                Some("manifest") if stem.is_none_or(|id| !self.holds(id)) => fs::remove_file(&path),
                _ => Ok(()),
            };
            if let Err(error) = left {
                warn!(path = %path.display(), %error, "what was left of a version cannot be removed");
            }
        }
        let mut taken = 0;
        self.each_blob(|path, known| {
            use std::os::unix::fs::MetadataExt as _;
            let age = known.modified().ok().and_then(|time| time.elapsed().ok()).unwrap_or_default();
            let is_old = known.nlink() == 1 && age > KEPT_WITHOUT_VERSION;
            let goes = if is_partial(path) {
                age > KEPT_WITHOUT_VERSION
            } else {
                is_old || !blob::is_finished(path)
            };
            if !goes || fs::remove_file(path).is_err() {
                taken += on_disk(known.len());
            }
        });
        self.state().taken += taken;
        self.counted.send_replace(true);
    }

    /// Waits until it is known what the store takes.
    pub async fn counted(&self) {
        // The sender is this store's own.
        let mut counted = self.counted.subscribe();
        let _known = counted.wait_for(|counted| *counted).await;
    }

    /// Shows every blob, also unfinished ones.
    pub(super) fn each_blob(&self, mut see: impl FnMut(&Path, &fs::Metadata)) {
        for folder in entries(self.layout.content()) {
            if folder.file_name().is_none_or(|name| name.len() != 2) {
                continue;
            }
            for path in entries(&folder) {
                if let Ok(known) = fs::symlink_metadata(&path) {
                    see(&path, &known);
                }
            }
        }
    }

    /// Bytes that all blobs take, and that fetches under way will.
    pub fn taken_and_promised(&self) -> (u64, u64) {
        let state = self.state();
        (state.taken, state.promised)
    }

    /// Whether a version is whole.
    pub fn holds(&self, id: Digest) -> bool {
        self.state().held.contains_key(&id)
    }

    /// The versions that are whole, the one used last first.
    pub fn held(&self) -> Vec<Digest> {
        let mut held: Vec<(SystemTime, Digest)> =
            self.state().held.iter().map(|(id, used)| (*used, *id)).collect();
        held.sort_by(|one, other| other.cmp(one));
        held.into_iter().map(|(_, id)| id).collect()
    }

    /// Notes that a version is whole, and used now.
    pub fn used(&self, id: Digest) {
        let now = SystemTime::now();
        // A restart finds it older than it is.
        let _older = File::open(self.layout.manifest(id)).and_then(|file| file.set_modified(now));
        self.state().held.insert(id, now);
    }

    /// Keeps a version from being removed for as long as the attempt reads it.
    pub fn need(&self, attempt: AttemptId, id: Digest) {
        self.state().needed.entry(attempt).or_default().insert(id);
    }

    /// Versions that an attempt needs.
    pub fn needed_by(&self, attempt: AttemptId) -> Vec<Digest> {
        self.state().needed.get(&attempt).into_iter().flatten().copied().collect()
    }

    /// Forgets what attempts need that read no data any more.
    pub fn keep_for(&self, reads_data: impl Fn(AttemptId) -> bool) {
        self.state().needed.retain(|attempt, _| reads_data(*attempt));
    }

    /// Whether an attempt needs a version.
    pub(super) fn is_needed(&self, id: Digest) -> bool {
        self.state().needed.values().any(|needed| needed.contains(&id))
    }

    /// How many of the versions that are whole attempts need, and how many they do not.
    pub(super) fn needed_and_others(&self) -> (usize, usize) {
        let state = self.state();
        let needed: BTreeSet<&Digest> = state.needed.values().flatten().collect();
        let used = state.held.keys().filter(|id| needed.contains(id)).count();
        (used, state.held.len() - used)
    }

    /// The version that was used longest ago of those that nobody needs, if that is long enough. It counts as held no more.
    pub(super) fn take_oldest(&self, least_unused: Duration) -> Option<Digest> {
        let mut state = self.state();
        let is_free = |id: &Digest| !state.needed.values().any(|needed| needed.contains(id));
        let oldest = state.held.iter().filter(|(id, _)| is_free(id)).min_by_key(|(_, used)| **used);
        let is_unused = |used: &SystemTime| used.elapsed().is_ok_and(|unused| unused >= least_unused);
        let id = oldest.filter(|(_, used)| least_unused.is_zero() || is_unused(used)).map(|(id, _)| *id)?;
        state.held.remove(&id);
        Some(id)
    }

    /// Promises so many bytes to a fetch, or takes a part of the promise back.
    pub(super) fn promise(&self, change: impl FnOnce(u64) -> u64) {
        let mut state = self.state();
        state.promised = change(state.promised);
    }

    /// Makes a file that is written whole a blob, and part of the tree at `root`.
    ///
    /// # Errors
    /// The disk's.
    pub fn add(&self, root: &Path, entry: Entry<'_>, unfinished: &Path) -> io::Result<()> {
        // First the link: a blob that has one is of a version, and not removed.
        tree::place_file(&self.layout, root, entry, unfinished)?;
        let blob = self.layout.blob(entry.digest);
        let is_new = fs::symlink_metadata(&blob).is_err();
        fs::rename(unfinished, &blob)?;
        if is_new {
            self.state().taken += on_disk(entry.size_bytes);
        }
        Ok(())
    }

    /// A part of a large content had and has so many bytes.
    pub(super) fn partial_changed(&self, had: u64, has: u64) {
        let mut state = self.state();
        state.taken = state.taken.saturating_sub(on_disk(had)).saturating_add(on_disk(has));
    }

    /// Removes a blob, if it is there.
    ///
    /// # Errors
    /// The disk's.
    pub fn remove_blob(&self, blob: &Path, length: u64) -> io::Result<()> {
        match fs::remove_file(blob) {
            Ok(()) => {
                let mut state = self.state();
                state.taken = state.taken.saturating_sub(on_disk(length));
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// The versions whose folders have their final names, and when each was used last.
fn find_versions(layout: &Layout) -> BTreeMap<Digest, SystemTime> {
    let id = |path: &Path| path.file_name()?.to_str()?.parse::<Digest>().ok();
    let used = |id| fs::metadata(layout.manifest(id)).and_then(|known| known.modified());
    let whole = entries(layout.versions()).filter_map(|path| id(&path).filter(|_| path.is_dir()));
    whole.map(|id| (id, used(id).unwrap_or(SystemTime::UNIX_EPOCH))).collect()
}

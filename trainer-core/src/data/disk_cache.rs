//! Decoded images in one mapped file for each data set and size. A cache only: whatever goes wrong here
//! costs time, never a training.
//!
//! Pixels are kept raw (docs/data.md has the figures): a mosaic reads about a third of the pixels of its
//! images, and of a mapped file only those pages are read. The first pass fills the file. One process
//! fills at a time, by a lock that dies with it; others use what is there already.

pub mod admin;
pub mod format;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use memmap2::Mmap;
use rustix::fs::{FlockOperation, flock};

use self::format::{Entry, Header, Key, Layout, stamp};
use crate::data::items::Items;
use crate::data::planes::Planes;

/// How much disk the cache may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of all data sets together in one directory; `None` for half of the file system.
    pub quota_bytes: Option<u64>,
    /// Bytes of the file system that stay free; `None` for a twentieth of it, at most 10 GiB.
    pub floor_bytes: Option<u64>,
}

impl Limits {
    /// Both as a share of the file system.
    pub const DEFAULT: Self = Self { quota_bytes: None, floor_bytes: None };

    /// As the environment says: `TRAINYARD_CACHE_QUOTA_GIB` and `TRAINYARD_CACHE_FLOOR_GIB`, whole numbers.
    pub fn from_env() -> Self {
        let bytes = |name: &str| {
            let gibibytes: u64 = std::env::var(name).ok()?.trim().parse().ok()?;
            gibibytes.checked_mul(1 << 30)
        };
        Self {
            quota_bytes: bytes("TRAINYARD_CACHE_QUOTA_GIB"),
            floor_bytes: bytes("TRAINYARD_CACHE_FLOOR_GIB"),
        }
    }
}

/// How often a process that does not fill looks whether it may.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// How many images are written between two looks at the free space.
const LOOK_AT_SPACE: u64 = 32;

/// The cached images of one data set at one size.
#[derive(Debug)]
pub struct DiskCache {
    directory: PathBuf,
    key: Key,
    layout: Layout,
    limits: Limits,
    /// Something of the data set for people to know it by.
    name: String,
    state: Mutex<State>,
    /// For each image whether its pixels have been checked by this process.
    checked: Vec<AtomicU8>,
    /// No more is written after a failure.
    given_up: AtomicBool,
    written: AtomicU64,
    /// For the user, once each.
    warnings: Mutex<Vec<String>>,
}

#[derive(Debug, Default)]
struct State {
    open: Option<Arc<Opened>>,
    /// Held by the one process that fills.
    filler: Option<File>,
    looked: Option<Instant>,
}

/// The file, while this process uses it: a shared lock keeps others from evicting it.
#[derive(Debug)]
struct Opened {
    file: File,
    map: Arc<Mmap>,
    writable: bool,
}

const UNKNOWN: u8 = 0;
const GOOD: u8 = 1;
/// Its own pixels do not fit its place, or it was found damaged and cannot be written again.
const NEVER: u8 = 2;

impl DiskCache {
    /// The cache of `items` at a long side of `imgsz`, in a file of `directory`. Nothing is read yet.
    pub fn new(directory: PathBuf, items: &Items, imgsz: usize, limits: Limits) -> Self {
        let folder = items.folders().next();
        Self {
            key: Key::new(items, imgsz),
            layout: Layout::new(items, imgsz),
            limits,
            name: folder.map(|folder| folder.display().to_string()).unwrap_or_default(),
            directory,
            state: Mutex::default(),
            checked: (0..items.len()).map(|_| AtomicU8::new(UNKNOWN)).collect(),
            given_up: AtomicBool::new(false),
            written: AtomicU64::new(0),
            warnings: Mutex::default(),
        }
    }

    /// What the user should know since the last call.
    pub fn take_warnings(&self) -> Vec<String> {
        std::mem::take(&mut *self.warnings.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Where the file is, once it is there.
    pub fn path(&self) -> PathBuf {
        self.directory.join(self.key.name()).with_extension(admin::SUFFIX)
    }

    /// The pixels of image `index`, which share the mapped file; `None` when they are not there.
    pub fn read(&self, index: usize) -> Option<Planes> {
        let checked = self.checked[index].load(Ordering::Relaxed);
        if checked == NEVER {
            return None;
        }
        let open = self.opened()?;
        // A file that was cut short since must not be touched behind its end.
        if open.file.metadata().ok()?.len() < self.layout.file_bytes() {
            self.give_up("was cut short by somebody");
            return None;
        }
        let entry = Entry::read(&open.file, index)?;
        if entry.offset != self.layout.offset(index) || !self.layout.has_room(index, entry.bytes()) {
            return None;
        }
        let start = usize::try_from(entry.offset).ok()?;
        let (width, height) = (entry.width as usize, entry.height as usize);
        let planes = Planes::mapped(Arc::clone(&open.map), start, width, height);
        if checked == UNKNOWN {
            if format::checksum(planes.bytes()) != entry.checksum {
                return None;
            }
            self.checked[index].store(GOOD, Ordering::Relaxed);
        }
        Some(planes)
    }

    /// Keeps the pixels of image `index`, made from `source`, if this process is the one that fills.
    /// `before` is the source's [`stamp`] from before it was read.
    pub fn write(&self, index: usize, source: &Path, before: Option<[u8; 24]>, planes: &Planes) {
        if self.given_up.load(Ordering::Relaxed) || !self.fills() {
            return;
        }
        let Some(open) = self.opened().filter(|open| open.writable) else { return };
        // A file that changed meanwhile belongs to another key.
        if before.is_none() || stamp(source) != before || !self.layout.has_room(index, planes.bytes().len()) {
            self.checked[index].store(NEVER, Ordering::Relaxed);
            return;
        }
        if self.written.fetch_add(1, Ordering::Relaxed).is_multiple_of(LOOK_AT_SPACE)
            && let Some(why) = admin::lacks_space(&self.directory, 0, &self.limits)
        {
            self.give_up(&why);
            return;
        }
        // Pixels first: an entry is a promise.
        let offset = self.layout.offset(index);
        let entry = Entry::of(planes.width, planes.height, offset, planes.bytes());
        let written = open.file.write_all_at(planes.bytes(), offset);
        if let Err(error) = written.and_then(|()| entry.write(&open.file, index)) {
            self.give_up(&format!("cannot be written ({error})"));
        }
    }

    fn give_up(&self, why: &str) {
        if !self.given_up.swap(true, Ordering::Relaxed) {
            let warning =
                format!("the image cache `{}` {why}; going on with what is in it", self.directory.display());
            self.warnings.lock().unwrap_or_else(PoisonError::into_inner).push(warning);
        }
    }

    /// Whether this process fills the file, which it may become at any time.
    fn fills(&self) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).filler.is_some()
    }

    /// The open file; opens or makes it if that can be done now.
    fn opened(&self) -> Option<Arc<Opened>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let settled = state.open.is_some() && state.filler.is_some();
        let looked = state.looked.is_some_and(|looked| looked.elapsed() < LOOK_AGAIN);
        if settled || looked || self.given_up.load(Ordering::Relaxed) {
            return state.open.clone();
        }
        state.looked = Some(Instant::now());
        if let Err(why) = self.look(&mut state) {
            self.give_up(&why);
        }
        state.open.clone()
    }

    /// Tries to become the one that fills, and to open the file. The error is for the user.
    fn look(&self, state: &mut State) -> Result<(), String> {
        let unwritable = |error: io::Error| format!("cannot be written ({error})");
        let path = self.path();
        if state.filler.is_none() {
            match self.try_lock() {
                Ok(lock) => state.filler = lock,
                // A cache that is complete is of use in a read-only directory, too.
                Err(error) if !path.exists() => return Err(unwritable(error)),
                Err(_) => {}
            }
        }
        if state.open.is_some() {
            return Ok(());
        }
        state.open = self.open_file(&path);
        if state.open.is_none() && state.filler.is_some() {
            let needed = self.layout.file_bytes();
            admin::evict(&self.directory, needed, &self.limits, &path);
            if let Some(why) = admin::lacks_space(&self.directory, needed, &self.limits) {
                state.filler = None;
                return Err(why);
            }
            self.create(&path).map_err(unwritable)?;
            state.open = self.open_file(&path);
        }
        Ok(())
    }

    /// The lock of whoever fills; `None` when another process has it. The system frees it with its owner.
    fn try_lock(&self) -> io::Result<Option<File>> {
        fs::create_dir_all(&self.directory)?;
        let path = self.directory.join(self.key.name()).with_extension(admin::LOCK_SUFFIX);
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes the file with an empty index; it appears whole.
    fn create(&self, path: &Path) -> io::Result<()> {
        let header = Header {
            imgsz: self.layout.imgsz,
            images: self.layout.images() as u64,
            file_bytes: self.layout.file_bytes(),
            key: self.key,
            name: self.name.clone(),
        };
        let temporary = path.with_extension("part");
        let file = File::create(&temporary)?;
        // Without blocks: they come with the pixels.
        file.set_len(self.layout.file_bytes())?;
        file.write_all_at(&header.encode(), 0)?;
        fs::rename(&temporary, path)
    }

    /// Opens the file for use; `None` when there is none, or not a whole one of this key.
    fn open_file(&self, path: &Path) -> Option<Arc<Opened>> {
        let (file, writable) = match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => (file, true),
            Err(_) => (File::open(path).ok()?, false),
        };
        flock(&file, FlockOperation::LockShared).ok()?;
        // Between opening and locking it may have been evicted: then its name is another's, or nobody's.
        if !admin::is_at(&file, path) {
            return None;
        }
        let header = Header::read(&file)?;
        let whole = header.key == self.key
            && header.file_bytes == self.layout.file_bytes()
            && file.metadata().ok()?.len() == header.file_bytes;
        if !whole {
            return None;
        }
        // Its age is what eviction goes by; where that cannot be set, it is evicted early.
        let _ = file.set_modified(std::time::SystemTime::now());
        // SAFETY: the file is written only through this module, by this process or others, and an entry
        // that names pixels is written behind them; they do not change after it. Its length is looked at
        // before each use.
        let map = unsafe { Mmap::map(&file) }.ok()?;
        Some(Arc::new(Opened { file, map: Arc::new(map), writable }))
    }
}

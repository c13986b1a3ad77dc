//! Decoded images in one mapped file for each data set and size. A cache only: whatever goes wrong here
//! costs time, never a training.
//!
//! Pixels are kept raw (docs/explanation/data-pipeline.md has the figures): a mosaic reads about a third of the pixels of its
//! images, and of a mapped file only those pages are read. The first pass fills the file. One process
//! fills at a time, by a lock that dies with it; others use what is there already.
//!
//! Each image has the digest of the file that it was made of. Before its first use in a process, that file is
//! looked at; if it was touched since the digest was taken, it is read and compared.

pub mod admin;
pub mod format;
pub mod mapping;
mod place;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use self::admin::Need;
use self::format::{Entry, Header, Key, Layout, checksum};
use self::mapping::Mapping;
pub use self::place::{Limits, Place, is_inside};
use crate::items::Items;
use crate::planes::Planes;
use crate::source::{self, Stamp};

/// How often a process that does not fill looks whether it may.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// How many images are written between two looks at the free space.
const LOOK_AT_SPACE: u64 = 32;

/// The cached images of one data set at one size.
#[derive(Debug)]
pub struct DiskCache {
    place: Place,
    key: Key,
    layout: Layout,
    /// Something of the data set for people to know it by.
    name: String,
    open: OnceLock<Opened>,
    /// Held while files are opened and made.
    state: Mutex<State>,
    /// Whether this process is the one that fills.
    fills: AtomicBool,
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
    /// Held by the one process that fills.
    filler: Option<File>,
    looked: Option<Instant>,
}

/// The file, while this process uses it: a shared lock keeps others from evicting it.
#[derive(Debug)]
struct Opened {
    file: File,
    map: Arc<Mapping>,
    writable: bool,
    /// Held while room is made behind all places.
    growing: Mutex<()>,
}

impl Opened {
    fn is_cut(&self) -> bool {
        let length = || self.file.metadata().map(|metadata| metadata.len());
        self.map.is_cut() || length().is_ok_and(|length| length < self.map.len() as u64)
    }
}

/// An image file as it was read.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// Where it is.
    pub path: &'a Path,
    /// From before it was read.
    pub stamp: Option<Stamp>,
    /// All that was read.
    pub bytes: &'a [u8],
}

const UNKNOWN: u8 = 0;
const GOOD: u8 = 1;
/// This process has no use for what the file has, and writes it no more.
const NEVER: u8 = 2;

impl DiskCache {
    /// The cache of `items` at a long side of `imgsz`. Nothing is read yet.
    pub fn new(place: Place, items: &Items, imgsz: usize) -> Self {
        let folder = items.folders().next();
        Self {
            key: Key::new(items, imgsz),
            layout: Layout::new(items, imgsz),
            name: folder.map(|folder| folder.display().to_string()).unwrap_or_default(),
            place,
            open: OnceLock::new(),
            state: Mutex::default(),
            fills: AtomicBool::new(false),
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
        self.place.directory.join(self.key.name()).with_extension(admin::SUFFIX)
    }

    /// Bytes of memory that this takes beside mapped ones.
    pub fn memory_bytes(&self) -> usize {
        self.layout.memory_bytes() + self.checked.capacity()
    }

    /// Whether the file has the pixels of every image but those that are `left_out`.
    pub fn is_complete(&self, left_out: impl Fn(usize) -> bool) -> bool {
        let Some(open) = self.open.get().filter(|open| !open.map.is_cut()) else { return false };
        (0..self.checked.len()).all(|index| left_out(index) || Entry::read(&open.file, index).is_some())
    }

    /// Whether the file was cut under somebody's hands. Pixels that were used meanwhile may be wrong; from then on
    /// the file is not used any more.
    pub fn is_cut(&self) -> bool {
        self.open.get().is_some_and(Opened::is_cut)
    }

    /// The pixels of image `index`, which share the mapped file; `None` when they are not there, or not of what
    /// `source` has now.
    pub fn read(&self, index: usize, source: &Path) -> Option<Planes> {
        let checked = self.checked[index].load(Ordering::Relaxed);
        if checked == NEVER {
            return None;
        }
        let open = self.opened()?;
        if open.is_cut() {
            self.give_up("was cut short by somebody");
            return None;
        }
        let entry = Entry::read(&open.file, index)?;
        let in_place =
            entry.offset == self.layout.offset(index) && self.layout.has_room(index, entry.bytes());
        let behind = entry.offset >= self.layout.file_bytes();
        let start = usize::try_from(entry.offset).ok()?;
        let inside = start.checked_add(entry.bytes()).is_some_and(|end| end <= open.map.len());
        if !inside || !(in_place || behind) {
            return None;
        }
        let (width, height) = (entry.width as usize, entry.height as usize);
        let planes = Planes::mapped(Arc::clone(&open.map), start, width, height);
        if checked == UNKNOWN {
            if checksum(planes.bytes()) != entry.checksum || !self.is_of(source, &entry, open, index) {
                return None;
            }
            self.checked[index].store(GOOD, Ordering::Relaxed);
        }
        Some(planes)
    }

    /// Whether an entry was made of what `source` has now.
    fn is_of(&self, source: &Path, entry: &Entry, open: &Opened, index: usize) -> bool {
        let Some(stamp) = Stamp::of(source) else { return false };
        if entry.stamp == stamp.number() {
            return true;
        }
        let same = fs::read(source).is_ok_and(|bytes| source::digest(&bytes) == entry.digest);
        if let Some(stamp) = stamp.settled().filter(|_| same && self.may_write(open)) {
            // The next process need not read it. If that cannot be written, it reads.
            let _ = Entry { stamp, ..*entry }.write(&open.file, index);
        }
        same
    }

    /// Keeps the pixels of image `index`, made from `source`, if this process is the one that fills.
    pub fn write(&self, index: usize, source: &Source<'_>, planes: &Planes) {
        let Some(open) = self.opened().filter(|open| self.may_write(open)) else { return };
        // What changed while it was read is read again at its next use.
        let Some(stamp) = source.stamp.filter(|before| Stamp::of(source.path) == Some(*before)) else {
            return;
        };
        if self.checked[index].load(Ordering::Relaxed) == NEVER {
            return;
        }
        if !self.layout.has_room(index, planes.bytes().len()) {
            // Of another size than in the scan: the next one gives it a place.
            self.checked[index].store(NEVER, Ordering::Relaxed);
            return;
        }
        if self.written.fetch_add(1, Ordering::Relaxed).is_multiple_of(LOOK_AT_SPACE)
            && let Some(why) = self.make_room(true)
        {
            self.give_up(&why);
            return;
        }
        let digest = source::digest(source.bytes);
        if let Err(error) = self.put(open, index, digest, stamp.settled(), planes) {
            self.give_up(&unwritable(&error));
        }
    }

    fn put(
        &self,
        open: &Opened,
        index: usize,
        digest: u128,
        stamp: Option<u64>,
        planes: &Planes,
    ) -> io::Result<()> {
        let old = Entry::read(&open.file, index);
        let same = old.filter(|old| old.digest == digest);
        let mut offset = same.map_or(self.layout.offset(index), |same| same.offset);
        if old.is_some() && (same.is_none() || offset >= open.map.len() as u64) {
            // Others may be reading the old pixels; the new ones are for those who open the file next.
            self.checked[index].store(NEVER, Ordering::Relaxed);
            if same.is_some() {
                return Ok(());
            }
            let Some(behind) = self.grow(open, planes.bytes().len())? else { return Ok(()) };
            offset = behind;
        }
        // Pixels first: an entry is a promise.
        open.file.write_all_at(planes.bytes(), offset)?;
        Entry::of(planes, offset, digest, stamp.unwrap_or(0)).write(&open.file, index)
    }

    /// Room for so many bytes behind all places; `None` when as much as all of them have was taken already.
    fn grow(&self, open: &Opened, bytes: usize) -> io::Result<Option<u64>> {
        let _alone = open.growing.lock().unwrap_or_else(PoisonError::into_inner);
        let start = open.file.metadata()?.len().next_multiple_of(format::ALIGNMENT);
        let end = start + bytes as u64;
        if end > 2 * self.layout.file_bytes() {
            return Ok(None);
        }
        open.file.set_len(end)?;
        Ok(Some(start))
    }

    fn may_write(&self, open: &Opened) -> bool {
        open.writable && self.fills.load(Ordering::Relaxed) && !self.given_up.load(Ordering::Relaxed)
    }

    /// Writes no more, and leaves that to others.
    fn give_up(&self, why: &str) {
        if !self.given_up.swap(true, Ordering::Relaxed) {
            self.lock().filler = None;
            self.fills.store(false, Ordering::Relaxed);
            let warning = format!(
                "the image cache `{}` {why}; going on with what is in it",
                self.place.directory.display()
            );
            self.warnings.lock().unwrap_or_else(PoisonError::into_inner).push(warning);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The open file; opens or makes it if that can be done now.
    fn opened(&self) -> Option<&Opened> {
        let settled = self.open.get().is_some() && self.fills.load(Ordering::Relaxed);
        if !settled
            && !self.given_up.load(Ordering::Relaxed)
            && let Err(why) = self.look_in_time()
        {
            self.give_up(&why);
        }
        self.open.get()
    }

    fn look_in_time(&self) -> Result<(), String> {
        let mut state = self.lock();
        // Under the lock: whoever gives up takes it to leave.
        let given_up = self.given_up.load(Ordering::Relaxed);
        if given_up || state.looked.is_some_and(|looked| looked.elapsed() < LOOK_AGAIN) {
            return Ok(());
        }
        state.looked = Some(Instant::now());
        self.look(&mut state)
    }

    /// Tries to become the one that fills, and to open the file. The error is for the user.
    fn look(&self, state: &mut State) -> Result<(), String> {
        let path = self.path();
        let was_filler = state.filler.is_some();
        if !was_filler {
            match self.try_lock() {
                Ok(lock) => state.filler = lock,
                // A cache that is complete is of use in a read-only directory, too.
                Err(error) if !path.exists() => return Err(unwritable(&error)),
                Err(_) => {}
            }
        }
        let mut opened = if self.open.get().is_none() { self.open_file(&path) } else { None };
        if state.filler.is_some() && !was_filler {
            // Two that count at the same time would take the same room.
            let _alone = admin::alone(&self.place.directory);
            let lacking = self.make_room(false);
            // What is there already goes on as far as there is room.
            if opened.is_none() && self.open.get().is_none() {
                if let Some(why) = lacking {
                    return Err(why);
                }
                self.create(&path).map_err(|error| unwritable(&error))?;
                opened = self.open_file(&path);
            }
        }
        if let Some(opened) = opened {
            // Nobody else sets it: the state is locked.
            let _ = self.open.set(opened);
        }
        self.fills.store(state.filler.is_some(), Ordering::Relaxed);
        Ok(())
    }

    /// Makes room for the whole file, or, once it is written, for as much as there is. Why that cannot be had.
    fn make_room(&self, begun: bool) -> Option<String> {
        let (file, full) = (self.path(), self.layout.file_bytes());
        admin::make_room(&self.place, &Need { file: &file, full, begun })
    }

    /// The lock of whoever fills; `None` when another process has it. The system frees it with its owner.
    fn try_lock(&self) -> io::Result<Option<File>> {
        fs::create_dir_all(&self.place.directory)?;
        let path = self.place.directory.join(self.key.name()).with_extension(admin::LOCK_SUFFIX);
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
    fn open_file(&self, path: &Path) -> Option<Opened> {
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
            && file.metadata().ok()?.len() >= header.file_bytes;
        if !whole {
            return None;
        }
        // Its age is what eviction goes by; where that cannot be set, it is evicted early.
        let _ = file.set_modified(std::time::SystemTime::now());
        let map = Arc::new(Mapping::new(&file).ok()?);
        Some(Opened { file, map, writable, growing: Mutex::default() })
    }
}

fn unwritable(error: &io::Error) -> String {
    format!("cannot be written ({error})")
}

//! Decoded images in one mapped file for each data set and size. It is a cache only: whatever goes wrong here costs time,
//! never a training.
//!
//! Pixels are kept raw (docs/explanation/data-pipeline.md has the figures): a mosaic reads about a third of the pixels of
//! its images, and of a mapped file only those pages are read. The first pass fills the file. One process fills at a
//! time, by a lock that dies with it; others use what is there already.
//!
//! Each image has the digest of the image file that it was made of. Before its first use in a process, the stamp of that
//! file is compared; if the file was touched since the digest was taken, it is read and its digest is compared.

pub mod directory;
pub mod format;
mod limits;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use trainyard_files::write_atomically_with;
use trainyard_types::SizeLimit;

use self::directory::SpaceRequest;
use self::format::{Entry, Header, Key, Layout};
pub use self::limits::{CacheDir, Limits, is_inside};
use crate::dataset::ImageIndex;
use crate::files::{self, FileStamp, MappedFile, checksum, mark_as_used};
use crate::image::PlanarImage;

/// Pause after which a process that does not fill tries again to become the one that does.
const RETRY_AFTER: Duration = Duration::from_secs(2);
/// Number of images that are written between two checks of the free space.
const CHECK_SPACE_EVERY: u64 = 32;

/// The cached images of one data set at one size.
#[derive(Debug)]
pub struct DiskCache {
    dir: CacheDir,
    key: Key,
    layout: Layout,
    /// A folder of the data set, by which people know it.
    name: String,
    open: OnceLock<Opened>,
    /// Held while files are opened and made.
    state: Mutex<State>,
    /// Whether this process is the one that fills.
    fills: AtomicBool,
    /// For each image [`UNCHECKED`], [`VERIFIED`] or [`UNUSABLE`].
    checked: Vec<AtomicU8>,
    /// Set by a failure; nothing is written any more.
    given_up: AtomicBool,
    /// Number of images that were to be written.
    written: AtomicU64,
    /// Warnings that the user has not been told of yet; each comes once.
    warnings: Mutex<Vec<String>>,
}

#[derive(Debug, Default)]
struct State {
    /// The locked lock file, if this process is the one that fills.
    filler: Option<File>,
    /// When this process last tried to become the one that fills.
    tried: Option<Instant>,
}

/// The file, while this process uses it: a shared lock keeps others from evicting it.
#[derive(Debug)]
struct Opened {
    file: File,
    map: Arc<MappedFile>,
    writable: bool,
    /// Held while space is appended.
    appending: Mutex<()>,
}

impl Opened {
    fn is_truncated(&self) -> bool {
        let length = || self.file.metadata().map(|metadata| metadata.len());
        self.map.is_truncated() || length().is_ok_and(|length| length < self.map.len() as u64)
    }
}

/// An image file as it was read.
#[derive(Debug, Clone, Copy)]
pub struct SourceFile<'a> {
    /// The path of the image file.
    pub path: &'a Path,
    /// Its stamp before it was read.
    pub stamp: Option<FileStamp>,
    /// All of its bytes.
    pub bytes: &'a [u8],
}

/// This process has not compared the cached pixels with the image file yet.
const UNCHECKED: u8 = 0;
/// The cached pixels are those of the image file.
const VERIFIED: u8 = 1;
/// This process neither uses the cached pixels nor writes new ones.
const UNUSABLE: u8 = 2;

impl DiskCache {
    /// The cache of `images` at a long side of `imgsz` pixels. Nothing is read yet.
    pub fn new(dir: CacheDir, images: &ImageIndex, imgsz: usize) -> Self {
        let folder = images.folders().next();
        Self {
            key: Key::new(images, imgsz),
            layout: Layout::new(images, imgsz),
            name: folder.map(|folder| folder.display().to_string()).unwrap_or_default(),
            dir,
            open: OnceLock::new(),
            state: Mutex::default(),
            fills: AtomicBool::new(false),
            checked: (0..images.len()).map(|_| AtomicU8::new(UNCHECKED)).collect(),
            given_up: AtomicBool::new(false),
            written: AtomicU64::new(0),
            warnings: Mutex::default(),
        }
    }

    /// What the user should know since the last call: one sentence each.
    pub fn take_warnings(&self) -> Vec<String> {
        std::mem::take(&mut *self.warnings.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The path of the file, whether it exists or not.
    pub fn path(&self) -> PathBuf {
        self.dir.directory.join(self.key.name()).with_extension(directory::SUFFIX)
    }

    /// Bytes of memory that this takes, without mapped ones.
    pub fn memory_bytes(&self) -> usize {
        self.layout.memory_bytes() + self.checked.capacity()
    }

    /// Whether the file has the pixels of every image but those that are `left_out`.
    pub fn is_complete(&self, left_out: impl Fn(usize) -> bool) -> bool {
        let Some(open) = self.open.get().filter(|open| !open.map.is_truncated()) else { return false };
        (0..self.checked.len()).all(|index| left_out(index) || Entry::read(&open.file, index).is_some())
    }

    /// Whether somebody truncated the file while it was in use. Pixels that were used meanwhile may be wrong; from then on
    /// the file is not used any more.
    pub fn is_truncated(&self) -> bool {
        self.open.get().is_some_and(Opened::is_truncated)
    }

    /// The pixels of image `index`, which share the mapped file; `None` when they are not there, or were not made of what
    /// the image file `source` has now.
    pub fn read(&self, index: usize, source: &Path) -> Option<PlanarImage> {
        let checked = self.checked[index].load(Ordering::Relaxed);
        if checked == UNUSABLE {
            return None;
        }
        let open = self.opened()?;
        if open.is_truncated() {
            self.give_up("was cut short by somebody");
            return None;
        }
        let entry = Entry::read(&open.file, index)?;
        let in_place = entry.offset == self.layout.offset(index) && self.layout.fits(index, entry.bytes());
        let is_appended = entry.offset >= self.layout.file_bytes();
        let start = usize::try_from(entry.offset).ok()?;
        let inside = start.checked_add(entry.bytes()).is_some_and(|end| end <= open.map.len());
        if !inside || !(in_place || is_appended) {
            return None;
        }
        let (width, height) = (entry.width as usize, entry.height as usize);
        let planes = PlanarImage::mapped(Arc::clone(&open.map), start, width, height);
        if checked == UNCHECKED {
            if checksum(planes.bytes()) != entry.checksum || !self.is_of(source, &entry, open, index) {
                return None;
            }
            self.checked[index].store(VERIFIED, Ordering::Relaxed);
        }
        Some(planes)
    }

    /// Whether an entry was made of what the image file `source` has now.
    fn is_of(&self, source: &Path, entry: &Entry, open: &Opened, index: usize) -> bool {
        let Some(stamp) = FileStamp::of(source) else { return false };
        if entry.stamp == stamp.number() {
            return true;
        }
        let same = files::read_once(source, SizeLimit::IMAGE)
            .is_ok_and(|bytes| files::digest(&bytes) == entry.digest);
        if let Some(stamp) = stamp.settled().filter(|_| same && self.may_write(open)) {
            // So that the next process need not read it. If that cannot be written, it reads.
            let _ = Entry { stamp, ..*entry }.write(&open.file, index);
        }
        same
    }

    /// Keeps the pixels of image `index`, made of `source`, if this process is the one that fills.
    pub fn write(&self, index: usize, source: &SourceFile<'_>, planes: &PlanarImage) {
        let Some(open) = self.opened().filter(|open| self.may_write(open)) else { return };
        // What changed while it was read is read again at its next use.
        let Some(stamp) = source.stamp.filter(|before| FileStamp::of(source.path) == Some(*before)) else {
            return;
        };
        if self.checked[index].load(Ordering::Relaxed) == UNUSABLE {
            return;
        }
        if !self.layout.fits(index, planes.bytes().len()) {
            // Its size is not that of the scan: the next scan gives it an offset.
            self.checked[index].store(UNUSABLE, Ordering::Relaxed);
            return;
        }
        if self.written.fetch_add(1, Ordering::Relaxed).is_multiple_of(CHECK_SPACE_EVERY)
            && let Some(why) = self.make_space(true)
        {
            self.give_up(&why);
            return;
        }
        let digest = files::digest(source.bytes);
        if let Err(error) = self.write_pixels(open, index, digest, stamp.settled(), planes) {
            self.give_up(&unwritable(&error));
        }
    }

    /// Writes pixels and their entry.
    fn write_pixels(
        &self,
        open: &Opened,
        index: usize,
        digest: u128,
        stamp: Option<u64>,
        planes: &PlanarImage,
    ) -> io::Result<()> {
        let old = Entry::read(&open.file, index);
        let same = old.filter(|old| old.digest == digest);
        let mut offset = same.map_or(self.layout.offset(index), |same| same.offset);
        if old.is_some() && (same.is_none() || offset >= open.map.len() as u64) {
            // Others may be reading the old pixels; the new ones are for those who open the file next.
            self.checked[index].store(UNUSABLE, Ordering::Relaxed);
            if same.is_some() {
                return Ok(());
            }
            let Some(appended) = self.append(open, planes.bytes().len())? else { return Ok(()) };
            offset = appended;
        }
        // Pixels first: an entry is a promise.
        open.file.write_all_at(planes.bytes(), offset)?;
        Entry::of(planes, offset, digest, stamp.unwrap_or(0)).write(&open.file, index)
    }

    /// Appends space of `bytes` to the file, and returns its offset; `None` when as much as the file had at first was
    /// appended already.
    fn append(&self, open: &Opened, bytes: usize) -> io::Result<Option<u64>> {
        let _alone = open.appending.lock().unwrap_or_else(PoisonError::into_inner);
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

    /// Stops writing, and leaves that to other processes. `why` is for the user.
    fn give_up(&self, why: &str) {
        if !self.given_up.swap(true, Ordering::Relaxed) {
            self.lock().filler = None;
            self.fills.store(false, Ordering::Relaxed);
            let warning = format!(
                "the image cache `{}` {why}; going on with what is in it",
                self.dir.directory.display()
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
            && let Err(why) = self.retry_open()
        {
            self.give_up(&why);
        }
        self.open.get()
    }

    /// Tries again to open and to fill, if the last try was long enough ago.
    fn retry_open(&self) -> Result<(), String> {
        let mut state = self.lock();
        // Under the lock: whoever gives up takes it to leave.
        let given_up = self.given_up.load(Ordering::Relaxed);
        if given_up || state.tried.is_some_and(|tried| tried.elapsed() < RETRY_AFTER) {
            return Ok(());
        }
        state.tried = Some(Instant::now());
        self.try_open(&mut state)
    }

    /// Tries to become the one that fills, and to open the file. The error is for the user.
    fn try_open(&self, state: &mut State) -> Result<(), String> {
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
            // Two processes that measure at the same time would take the same space.
            let _lock = directory::lock(&self.dir.directory);
            let shortage = self.make_space(false);
            // A file that exists already is filled as far as there is space.
            if opened.is_none() && self.open.get().is_none() {
                if let Some(why) = shortage {
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

    /// Makes space for the whole file, or, once it is being written, for what it has. Why that cannot be had, if so.
    fn make_space(&self, is_begun: bool) -> Option<String> {
        let (file, full_bytes) = (self.path(), self.layout.file_bytes());
        directory::make_space(&self.dir, &SpaceRequest { file: &file, full_bytes, is_begun })
    }

    /// The locked lock file of the process that fills; `None` when another process has it. The system frees the lock when
    /// its owner ends.
    fn try_lock(&self) -> io::Result<Option<File>> {
        fs::create_dir_all(&self.dir.directory)?;
        let path = self.dir.directory.join(self.key.name()).with_extension(directory::LOCK_SUFFIX);
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Creates the file with an empty index; it appears whole.
    fn create(&self, path: &Path) -> io::Result<()> {
        let header = Header {
            imgsz: self.layout.imgsz,
            images: self.layout.images() as u64,
            file_bytes: self.layout.file_bytes(),
            key: self.key,
            name: self.name.clone(),
        };
        // Only the process that fills comes here, so no other has the unfinished file.
        write_atomically_with(path, &path.with_extension("part"), |file| {
            // Without blocks: they come with the pixels.
            file.set_len(self.layout.file_bytes())?;
            file.write_all_at(&header.encode(), 0)
        })
    }

    /// Opens the file for use; `None` when there is none, or not a whole one of this key.
    fn open_file(&self, path: &Path) -> Option<Opened> {
        let (file, writable) = match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => (file, true),
            Err(_) => (File::open(path).ok()?, false),
        };
        flock(&file, FlockOperation::LockShared).ok()?;
        // Between opening and locking it may have been evicted: then its name is another's, or nobody's.
        if !directory::is_named(&file, path) {
            return None;
        }
        let header = Header::read(&file)?;
        let whole = header.key == self.key
            && header.file_bytes == self.layout.file_bytes()
            && file.metadata().ok()?.len() >= header.file_bytes;
        if !whole {
            return None;
        }
        // Eviction goes by the time of change; where that stays, the file is evicted early.
        let _ = mark_as_used(&file);
        let map = Arc::new(MappedFile::new(&file).ok()?);
        Some(Opened { file, map, writable, appending: Mutex::default() })
    }
}

fn unwritable(error: &io::Error) -> String {
    format!("cannot be written ({error})")
}

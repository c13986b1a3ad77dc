//! Hashes the files of a version on all cores, in the background. Whoever sends the list of files takes each digest as
//! soon as those before it are there, so hashing and sending overlap.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use tokio::sync::watch;
use trainyard_content::{Digest, Hasher};
use trainyard_data::files::open;
use trainyard_data::packing::{Origin, PackedFile, PackingList};

use super::hash_cache::{FileState, HashCache, state_of};
use super::progress::Progress;
use crate::failure::Failure;
use crate::terminal;

/// Bytes that are read at once.
const BUFFER_BYTES: usize = 1 << 20;
/// Digests that wait to be put in order.
const WAITING: usize = 4096;
/// After so many bytes what was hashed is kept, so that a push that is stopped does not begin anew.
const SAVE_EVERY_BYTES: u64 = 4 << 30;

/// The digests of a version's first files, in order.
#[derive(Debug, Default)]
pub struct Known {
    pub digests: Vec<Digest>,
    /// Set when there will be no more digests.
    pub failure: Option<Failure>,
}

/// The digests as they come.
pub type Digests = watch::Receiver<Known>;

/// The digest of one file, and its state if the next push may rely on it.
type Hashed = (Digest, Option<FileState>);

/// Begins to hash the files of `list`. It ends early when nobody is left who receives.
pub fn start(list: Arc<PackingList>, cache: HashCache, progress: Arc<Progress>) -> Digests {
    let (known, receiver) = watch::channel(Known::default());
    thread::spawn(move || {
        let work = Work {
            list: &list,
            cache: &cache,
            progress: &progress,
            next: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
        };
        thread::scope(|scope| {
            let (hashed, results) = mpsc::sync_channel(WAITING);
            for _ in 0..thread::available_parallelism().map_or(2, usize::from) {
                let (work, hashed) = (&work, hashed.clone());
                scope.spawn(move || work.run(&hashed));
            }
            drop(hashed);
            work.collect(&results, &known);
        });
    });
    receiver
}

/// Waits until the hashes are kept for the next push.
pub async fn finished(mut digests: Digests) {
    while digests.changed().await.is_ok() {}
}

/// The list and the digests that the threads share.
struct Work<'a> {
    list: &'a PackingList,
    cache: &'a HashCache,
    progress: &'a Progress,
    /// The next file that no thread has.
    next: AtomicUsize,
    stop: AtomicBool,
}

impl Work<'_> {
    fn run(&self, hashed: &mpsc::SyncSender<(usize, Result<Hashed, Failure>)>) {
        let mut buffer = vec![0; BUFFER_BYTES];
        while !self.stop.load(Ordering::Relaxed) {
            let at = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(file) = self.list.get(at) else { return };
            let result = self.hash(&file, &mut buffer);
            self.progress.add(file.size_bytes);
            if hashed.send((at, result)).is_err() {
                return;
            }
        }
    }

    fn hash(&self, file: &PackedFile<'_>, buffer: &mut [u8]) -> Result<Hashed, Failure> {
        let source = match &file.origin {
            Origin::Made(bytes) => return Ok((Digest::of(bytes), None)),
            Origin::File(source) => source,
        };
        let before = state_of(source);
        if let Some(known) = before.and_then(|(state, _)| self.cache.get(state)) {
            return Ok((known, before.map(|(state, _)| state)));
        }
        let mut hasher = Hasher::new();
        let take = |bytes: &[u8]| {
            hasher.update(bytes);
            !self.stop.load(Ordering::Relaxed)
        };
        let length = read_all(source, buffer, take).map_err(|error| unreadable(source, &error))?;
        if length != file.size_bytes
            || state_of(source).map(|(state, _)| state) != before.map(|(state, _)| state)
        {
            return Err(changed(source));
        }
        Ok((hasher.take(), before.filter(|(_, is_settled)| *is_settled).map(|(state, _)| state)))
    }

    /// Puts the results in order, and gives them out.
    fn collect(
        &self,
        results: &mpsc::Receiver<(usize, Result<Hashed, Failure>)>,
        known: &watch::Sender<Known>,
    ) {
        let (mut early, mut states) = (BTreeMap::new(), Vec::with_capacity(self.list.len()));
        known.send_modify(|known| known.digests.reserve_exact(self.list.len()));
        let (mut next, mut unsaved) = (0, 0);
        for (at, result) in results {
            let (digest, state) = match result {
                Ok(hashed) => hashed,
                Err(failure) => {
                    self.stop.store(true, Ordering::Relaxed);
                    known.send_modify(|known| known.failure = known.failure.take().or(Some(failure)));
                    continue;
                }
            };
            states.extend(state.map(|state| (state, digest)));
            unsaved += self.list.get(at).map_or(0, |file| file.size_bytes);
            if unsaved >= SAVE_EVERY_BYTES {
                unsaved = 0;
                self.cache.save(states.clone(), true);
            }
            early.insert(at, digest);
            if at != next {
                continue;
            }
            known.send_modify(|known| {
                while let Some(digest) = early.remove(&next) {
                    known.digests.push(digest);
                    next += 1;
                }
            });
            if known.is_closed() {
                self.stop.store(true, Ordering::Relaxed);
            }
        }
        self.cache.save(states, next < self.list.len());
    }
}

/// Reads a regular file to its end, or as long as `take` says. Returns how much was read.
///
/// # Errors
/// Those of the file system.
pub fn read_all(file: &Path, buffer: &mut [u8], mut take: impl FnMut(&[u8]) -> bool) -> io::Result<u64> {
    let mut file = open_regular(file)?;
    let mut length = 0;
    loop {
        let count = match file.read(buffer) {
            Ok(0) => return Ok(length),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        length += count as u64;
        if !take(&buffer[..count]) {
            return Ok(length);
        }
    }
}

/// Opens a file that has bytes of its own: no pipe, no device.
///
/// # Errors
/// Those of the file system.
pub fn open_regular(file: &Path) -> io::Result<std::fs::File> {
    let file = open(file)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "is no regular file any more"));
    }
    Ok(file)
}

/// Said of a file that is another one than when the push began.
pub fn changed(file: &Path) -> Failure {
    Failure::local(format!(
        "`{}` changed while it was pushed; nothing that is half was stored",
        terminal::shown(file)
    ))
    .hint("run the same command again: what is stored already is not sent again")
}

/// Said of a file that was there when the push began.
pub fn unreadable(file: &Path, error: &io::Error) -> Failure {
    Failure::local(format!("`{}` cannot be read any more: {error}", terminal::shown(file)))
        .hint("run the same command again once it can be read: what is stored already is not sent again")
}

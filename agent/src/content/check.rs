//! Reads every byte of a version that is here, and mends what can be mended without the scheduler.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use tokio_util::sync::CancellationToken;
use trainyard_content::Manifest;

use super::blob::{self, Likeness};
use super::store::Store;
use super::tree;

/// Files that a thread takes at a time.
const SHARE: usize = 16;
/// More threads do not make a disk faster.
const MOST_THREADS: usize = 8;

/// The damaged and missing files that a check has found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Files whose content is not here, by their places in the version's order.
    pub missing: Vec<u32>,
    /// Files that were here, with other bytes.
    pub damaged: Vec<u32>,
}

/// Compares all files of the tree at `root` with the list. A file that is not there, or is damaged, becomes a link to its
/// blob if that is sound. Damaged blobs are removed.
///
/// # Errors
/// The disk's, when something is to be removed or linked.
pub fn check(
    store: &Store,
    root: &Path,
    manifest: &Manifest,
    end: &CancellationToken,
) -> io::Result<Checked> {
    let next = AtomicUsize::new(0);
    let threads = thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS);
    let work = || check_share(store, root, manifest, &next, end);
    let parts: Vec<io::Result<Checked>> = thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let own = work();
        let join = |thread: thread::ScopedJoinHandle<'_, io::Result<Checked>>| {
            thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread that compares files has failed")))
        };
        others.into_iter().map(join).chain([own]).collect()
    });
    let mut all = Checked::default();
    for part in parts {
        let part = part?;
        all.missing.extend(part.missing);
        all.damaged.extend(part.damaged);
    }
    all.missing.sort_unstable();
    all.damaged.sort_unstable();
    Ok(all)
}

fn check_share(
    store: &Store,
    root: &Path,
    manifest: &Manifest,
    next: &AtomicUsize,
    end: &CancellationToken,
) -> io::Result<Checked> {
    let (mut found, mut buffer) = (Checked::default(), vec![0; blob::BUFFER_BYTES]);
    loop {
        let from = next.fetch_add(SHARE, Ordering::Relaxed);
        if from >= manifest.len() || end.is_cancelled() {
            return Ok(found);
        }
        for at in from..manifest.len().min(from + SHARE) {
            check_file(store, root, manifest, at, &mut buffer, end, &mut found)?;
        }
    }
}

fn check_file(
    store: &Store,
    root: &Path,
    manifest: &Manifest,
    at: usize,
    buffer: &mut [u8],
    end: &CancellationToken,
    found: &mut Checked,
) -> io::Result<()> {
    let Some(entry) = manifest.get(at) else { return Ok(()) };
    let place = u32::try_from(at).unwrap_or(u32::MAX);
    let file = root.join(entry.path);
    match blob::compare(&file, entry, buffer, end) {
        Likeness::Same => return Ok(()),
        Likeness::Other => {
            found.damaged.push(place);
            tree::remove_file(&file)?;
        }
        Likeness::Absent => {}
    }
    let blob = store.layout().blob(entry.digest);
    match blob::compare(&blob, entry, buffer, end) {
        Likeness::Same => match tree::place(store.layout(), root, entry) {
            // It was removed between the two.
            Err(error) if error.kind() == io::ErrorKind::NotFound => found.missing.push(place),
            placed => return placed,
        },
        Likeness::Other => {
            store.remove_blob(&blob, entry.size_bytes)?;
            found.missing.push(place);
        }
        Likeness::Absent => found.missing.push(place),
    }
    Ok(())
}

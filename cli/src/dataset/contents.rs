//! The contents that the scheduler has asked for, read and checked ahead of the connection by several threads.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::thread;

use tokio::sync::mpsc;
use trainyard_content::{Digest, Hasher};
use trainyard_data::packing::{Origin, PackedFile, PackingList};

use super::hashing::{changed, read_all, unreadable};
use crate::failure::Failure;

/// Bytes of a message: small files share one. A slow uplink sends one within the time that the scheduler waits for the next.
const MESSAGE_BYTES: usize = 256 << 10;
/// Messages of one large file that are read ahead.
const AHEAD: usize = 4;

/// Files by their places in the version's order, neighbours together.
pub type Ranges = Vec<Range<usize>>;

/// Files that are read by one thread: small ones together, a large one alone.
type Job = Vec<usize>;

/// The next files of `places` that share a message.
fn next_job(list: &PackingList, places: &mut std::iter::Peekable<impl Iterator<Item = usize>>) -> Job {
    let (mut job, mut total) = (Vec::new(), 0);
    while let Some(at) = places.peek() {
        total += list.get(*at).map_or(0, |file| file.size_bytes);
        if !job.is_empty() && total > MESSAGE_BYTES as u64 {
            break;
        }
        job.extend(places.next());
    }
    job
}

/// Reads the files of `ranges` in order, and gives their bytes out one after the other.
///
/// # Errors
/// A file is not the one any more that was hashed. Its bytes may have been given out in part.
pub async fn give_out(
    list: &Arc<PackingList>,
    digests: &Arc<Vec<Digest>>,
    ranges: &Ranges,
    out: &mpsc::Sender<Vec<u8>>,
) -> Result<(), Failure> {
    let threads = thread::available_parallelism().map_or(2, usize::from) + 1;
    let mut places = ranges.iter().cloned().flatten().peekable();
    let mut reading = VecDeque::new();
    loop {
        while reading.len() < threads && places.peek().is_some() {
            reading.push_back(spawn(Arc::clone(list), Arc::clone(digests), next_job(list, &mut places)));
        }
        let Some(mut job) = reading.pop_front() else { return Ok(()) };
        while let Some(piece) = job.recv().await {
            if out.send(piece?).await.is_err() {
                // The connection is gone; whoever holds it knows why.
                return Ok(());
            }
        }
    }
}

fn spawn(
    list: Arc<PackingList>,
    digests: Arc<Vec<Digest>>,
    job: Job,
) -> mpsc::Receiver<Result<Vec<u8>, Failure>> {
    let (pieces, receiver) = mpsc::channel(AHEAD);
    tokio::task::spawn_blocking(move || {
        let mut reader = Reader { pieces: &pieces, piece: Vec::new() };
        for at in job {
            let Some((file, digest)) = list.get(at).zip(digests.get(at)) else { continue };
            if let Err(failure) = reader.read(&file, *digest) {
                // Whoever received is gone, or is told.
                let _ = pieces.blocking_send(Err(failure));
                return;
            }
        }
        reader.flush();
    });
    receiver
}

struct Reader<'a> {
    pieces: &'a mpsc::Sender<Result<Vec<u8>, Failure>>,
    /// Bytes that are not given out yet.
    piece: Vec<u8>,
}

impl Reader<'_> {
    /// Reads a file. The last of its bytes are given out only if it is the one that was hashed.
    fn read(&mut self, file: &PackedFile<'_>, digest: Digest) -> Result<(), Failure> {
        let source = match &file.origin {
            Origin::Made(bytes) => {
                self.piece.extend_from_slice(bytes);
                return Ok(());
            }
            Origin::File(source) => source,
        };
        let (mut hasher, mut length) = (Hasher::new(), 0);
        let mut buffer =
            vec![0; MESSAGE_BYTES.min(usize::try_from(file.size_bytes).unwrap_or(MESSAGE_BYTES) + 1)];
        let read = read_all(source, &mut buffer, |bytes| {
            length += bytes.len() as u64;
            // A file that grows is not sent on and on.
            if length > file.size_bytes {
                return false;
            }
            let is_wanted = self.piece.len() + bytes.len() <= MESSAGE_BYTES || self.flush();
            hasher.update(bytes);
            self.piece.extend_from_slice(bytes);
            is_wanted
        });
        read.map_err(|error| unreadable(source, &error))?;
        if length == file.size_bytes && hasher.take() == digest { Ok(()) } else { Err(changed(source)) }
    }

    /// Gives out what was read. `false` when nobody receives any more.
    fn flush(&mut self) -> bool {
        let piece = std::mem::take(&mut self.piece);
        piece.is_empty() || self.pieces.blocking_send(Ok(piece)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn given_out(content: &[u8], digest: Digest, later: Option<&[u8]>) -> Result<Vec<u8>, Failure> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("w.pt");
        std::fs::write(&file, content).unwrap();
        let list = Arc::new(PackingList::of_file(&file, "w.pt").unwrap());
        if let Some(later) = later {
            std::fs::write(&file, later).unwrap();
        }
        let (out, mut pieces) = mpsc::channel(100);
        let ranges = vec![Range { start: 0, end: 1 }];
        give_out(&list, &Arc::new(vec![digest]), &ranges, &out).await?;
        drop(out);
        let mut all = Vec::new();
        while let Some(piece) = pieces.recv().await {
            assert!(piece.len() <= MESSAGE_BYTES);
            all.extend(piece);
        }
        Ok(all)
    }

    #[tokio::test]
    async fn a_file_comes_whole_and_one_that_changed_is_named() {
        let content: Vec<u8> = (0..5 * MESSAGE_BYTES / 2).map(|at| (at % 251) as u8).collect();
        let digest = Digest::of(&content);
        assert_eq!(given_out(&content, digest, None).await.unwrap(), content);
        assert_eq!(given_out(b"", Digest::of(b""), None).await.unwrap(), b"");
        let longer = [&content[..], b"x"].concat();
        for later in [&content[1..], &longer, &[vec![9], content[1..].to_vec()].concat()] {
            let failure = given_out(&content, digest, Some(later)).await.unwrap_err();
            assert!(failure.message.contains("w.pt` changed while it was pushed"), "{failure:?}");
        }
    }
}

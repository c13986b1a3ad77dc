//! Fetches contents of a version that are not here, several streams at a time.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::task::{JoinSet, spawn_blocking};
use tonic::Status;
use tracing::warn;
use trainyard_content::Manifest;
use trainyard_proto::pb;
use trainyard_proto::pb::dataset_service_client::DatasetServiceClient;

use super::fetch_error::FetchError;
use super::incoming::Incoming;
use super::retry::{Patience, Retry};
use super::room::Promise;
use super::source::{Source, Version};
use super::store::Store;
use super::unfinished::KEPT_FROM;
use crate::message::SchedulerLink;
use crate::report::transfer::while_moving;

/// Streams at a time, for an attempt that waits.
pub const STREAMS: usize = 4;
/// Bytes that one call asks for, and the file that goes beyond.
const CALL_BYTES: u64 = 32 << 20;
/// Files that one call asks for: far less than the ranges that one may name.
const CALL_FILES: usize = 4096;
/// A file that came so many times with other bytes is given up.
const MOST_DAMAGED: u32 = 3;

/// The folder that a version comes to, and its files.
pub struct Target {
    /// The store that keeps it.
    pub store: Arc<Store>,
    /// The tree that its files are part of.
    pub root: PathBuf,
    /// The version's list of files.
    pub manifest: Arc<Manifest>,
    /// The room that it takes.
    pub promise: Promise,
    /// Bytes of contents that have come, without those that were damaged.
    pub done: Arc<AtomicU64>,
    /// Bytes that have come, those of damaged contents, too.
    pub received: Arc<AtomicU64>,
}

impl Target {
    /// Counts bytes of a content, as they come.
    pub fn came(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts bytes no more that have come in vain.
    pub fn lost(&self, bytes: u64) {
        self.done.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// A content is stored, which takes so many bytes on disk.
    pub fn stored(&self, on_disk: u64) {
        self.promise.used(on_disk);
    }
}

/// One place of each content of `missing`, in the version's order.
pub fn each_content_once(manifest: &Manifest, mut missing: Vec<u32>) -> Vec<u32> {
    let digest = |at: &u32| manifest.get(*at as usize).map(|entry| entry.digest);
    missing.sort_by_key(|at| (digest(at), *at));
    missing.dedup_by_key(|at| digest(at));
    missing.sort_unstable();
    missing
}

/// Fetches the contents of the files `missing`, each of which is another one, by so many streams at a time.
///
/// # Errors
/// See [`FetchError`]. What came before stays.
pub async fn fetch(
    version: &Version,
    target: Arc<Target>,
    missing: Vec<u32>,
    at_a_time: usize,
    source: &Source,
) -> Result<(), FetchError> {
    let calls = Arc::new(Mutex::new(Calls { missing, next: 0 }));
    let mut streams = JoinSet::new();
    for _ in 0..at_a_time {
        let stream = Stream {
            version: version.clone(),
            target: Arc::clone(&target),
            retry: Retry::new(&source.link, source.patience),
            patience: source.patience,
        };
        streams.spawn(stream.run(Arc::clone(&calls)));
    }
    // The first error drops the other streams.
    while let Some(ended) = streams.join_next().await {
        ended.map_err(|_| FetchError::Stopping)??;
    }
    Ok(())
}

/// What is still to be asked for.
struct Calls {
    missing: Vec<u32>,
    next: usize,
}

impl Calls {
    /// The files of the next call; empty when all were asked for.
    fn next(&mut self, manifest: &Manifest) -> Vec<u32> {
        let (from, mut bytes) = (self.next, 0);
        while let Some(at) = self.missing.get(self.next) {
            if bytes >= CALL_BYTES || self.next - from >= CALL_FILES {
                break;
            }
            let size = manifest.get(*at as usize).map_or(0, |entry| entry.size_bytes);
            // A large file goes on where a former stream was cut, so nothing comes before it.
            if size >= KEPT_FROM && self.next > from {
                break;
            }
            bytes += size;
            self.next += 1;
            if size >= KEPT_FROM {
                break;
            }
        }
        self.missing[from..self.next].to_vec()
    }
}

/// One of the streams by which contents come.
struct Stream {
    version: Version,
    target: Arc<Target>,
    retry: Retry,
    patience: Patience,
}

impl Stream {
    async fn run(mut self, calls: Arc<Mutex<Calls>>) -> Result<(), FetchError> {
        loop {
            let files = calls.lock().unwrap_or_else(PoisonError::into_inner).next(&self.target.manifest);
            if files.is_empty() {
                return Ok(());
            }
            self.call(files).await?;
        }
    }

    /// Fetches some files, those that come damaged again.
    async fn call(&mut self, mut files: Vec<u32>) -> Result<(), FetchError> {
        let mut times = BTreeMap::new();
        while !files.is_empty() {
            files = self.call_once(files).await?;
            for at in &files {
                let path = self.target.manifest.get(*at as usize).map_or("", |entry| entry.path);
                let times = times.entry(*at).or_insert(0);
                *times += 1;
                warn!(version = self.version.id.to_string(), path, times, "a file came with other bytes");
                if *times >= MOST_DAMAGED {
                    return Err(FetchError::Damaged { path: path.to_owned(), times: *times });
                }
            }
        }
        Ok(())
    }

    /// Fetches some files, and returns those that came with other bytes.
    async fn call_once(&mut self, files: Vec<u32>) -> Result<Vec<u32>, FetchError> {
        let ranges = ranges(&files);
        let incoming = Arc::new(Mutex::new(Incoming::new(Arc::clone(&self.target), files)));
        with(&incoming, Incoming::begin).await??;
        let mut before = 0;
        loop {
            let (offset, is_over) =
                with(&incoming, |incoming| (incoming.offset(), incoming.is_over())).await?;
            // What was not taken is no progress.
            if offset > before {
                self.retry.moved();
            }
            before = offset;
            // Also where a stream ends before it says so.
            if is_over {
                return with(&incoming, |incoming| incoming.damaged().to_vec()).await;
            }
            let link = self.retry.connected().await?;
            let moved = AtomicU64::new(0);
            let request = self.version.read(ranges.clone(), offset);
            let reading = read(link, request, &incoming, &moved, &self.target);
            let ended = while_moving(&moved, self.patience.stall_after, reading).await;
            let status = match ended {
                Some(ended) => match ended? {
                    None => continue,
                    Some(status) => status,
                },
                None => Status::deadline_exceeded("no byte came for too long"),
            };
            self.retry.wait(&self.version.to_string(), status).await?;
        }
    }
}

/// Reads one stream to its end, or until it is cut, with the status that says so.
async fn read(
    link: SchedulerLink,
    request: pb::ReadDatasetRequest,
    incoming: &Arc<Mutex<Incoming>>,
    moved: &AtomicU64,
    target: &Target,
) -> Result<Option<Status>, FetchError> {
    let mut client = DatasetServiceClient::new(link.channel);
    let mut stream = match client.read_dataset(request).await {
        Ok(answer) => answer.into_inner(),
        Err(status) => return Ok(Some(status)),
    };
    loop {
        let part = match stream.message().await {
            Ok(Some(part)) => part,
            Ok(None) => break,
            Err(status) => return Ok(Some(status)),
        };
        moved.fetch_add(part.data.len() as u64, Ordering::Relaxed);
        target.received.fetch_add(part.data.len() as u64, Ordering::Relaxed);
        let taken = with(incoming, move |incoming| incoming.take(part.offset, &part.data)).await??;
        if taken.is_err() {
            return Ok(Some(Status::data_loss("the scheduler sends other bytes than were asked for")));
        }
    }
    // Empty files at the end have no bytes.
    let is_over = with(incoming, |incoming| {
        let taken = incoming.take(incoming.offset(), &[]);
        taken.map(|_| incoming.is_over())
    });
    if is_over.await?? { Ok(None) } else { Ok(Some(Status::unavailable("the stream ended early"))) }
}

/// Does `work` where it may block.
async fn with<T: Send + 'static>(
    incoming: &Arc<Mutex<Incoming>>,
    work: impl FnOnce(&mut Incoming) -> T + Send + 'static,
) -> Result<T, FetchError> {
    let incoming = Arc::clone(incoming);
    let work = move || work(&mut incoming.lock().unwrap_or_else(PoisonError::into_inner));
    spawn_blocking(work).await.map_err(|_| FetchError::Stopping)
}

/// Neighbouring files as ranges.
fn ranges(files: &[u32]) -> Vec<pb::FileRange> {
    let mut ranges: Vec<pb::FileRange> = Vec::new();
    for at in files.iter().map(|at| u64::from(*at)) {
        match ranges.last_mut() {
            Some(last) if last.first + last.count == at => last.count += 1,
            _ => ranges.push(pb::FileRange { first: at, count: 1 }),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use trainyard_content::{Builder, Digest, Kind};

    use super::*;

    #[test]
    fn neighbours_are_asked_for_together_and_each_content_once() {
        let mut builder = Builder::new(Kind::DataSet);
        for (path, content) in [("a", "1"), ("b", "2"), ("c", "1"), ("d", "3"), ("data.yaml", "2")] {
            builder.add(path, 1, Digest::of(content.as_bytes())).unwrap();
        }
        let manifest = builder.finish().unwrap();
        let once = each_content_once(&manifest, vec![4, 2, 1, 0, 3]);
        assert_eq!(once, [0, 1, 3]);
        assert_eq!(each_content_once(&manifest, vec![2, 4]), [2, 4]);
        let asked: Vec<(u64, u64)> =
            ranges(&once).into_iter().map(|range| (range.first, range.count)).collect();
        assert_eq!(asked, [(0, 2), (3, 1)]);
        let mut calls = Calls { missing: once, next: 0 };
        assert_eq!(calls.next(&manifest), [0, 1, 3]);
        assert!(calls.next(&manifest).is_empty());
    }
}

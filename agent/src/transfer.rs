//! Moves files between this machine and the scheduler's artifact store, with hashes checked on the way.
//!
//! A scheduler that is away is waited for, and so is room on its disk; what it refuses for another reason is tried a
//! few times and then given up. A try that moves no byte for too long is ended, and made again.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic::transport::Channel;
use tracing::{info, warn};
use trainyard_proto::pb;
use trainyard_proto::pb::artifact_service_client::ArtifactServiceClient;
use trainyard_proto::pb::upload_artifact_request::Part;
use trainyard_types::trainer::CheckpointSaved;
use trainyard_types::{Artifact, AttemptId, Checkpoint, JobId, Session};

use crate::backoff::Backoff;
use crate::core::Event;
use crate::driver::Input;
use crate::job_dir::JobDir;

/// Bytes of one message.
const CHUNK_BYTES: usize = 256 * 1024;

/// How often a refusal is taken for a mishap.
const TRIES: u32 = 5;

/// What a full disk of the scheduler is called to a person who waits for it.
pub const ROOM: &str = "room on the scheduler's disk";

/// What too many open files on this machine are called to a person who waits for it.
const DESCRIPTORS: &str = "files that it may open: its limit (`LimitNOFILE`, `ulimit -n`) is too low";

/// How often it is seen whether a file can be opened again.
const DESCRIPTORS_AGAIN: Duration = Duration::from_secs(1);

/// How patient a transfer is, and who hears of it.
#[derive(Debug, Clone)]
pub struct Terms {
    /// A try that moves no byte for so long is ended.
    pub stall_after: Duration,
    /// So long it is tried while the scheduler is there; `None`: as long as it takes.
    pub give_up_after: Option<Duration>,
    /// Of an attempt that hands in: the driver's inbox, which is told what the transfer waits for, and with an empty
    /// text that it goes on.
    pub hands_in: Option<(AttemptId, mpsc::Sender<Input>)>,
}

impl Terms {
    async fn tell(&self, waits_for: &str) {
        if let Some((attempt, inbox)) = &self.hands_in {
            // The inbox is closed when the agent is leaving.
            let _leaving = inbox.send(Input::Core(Event::HandingIn(*attempt, waits_for.to_owned()))).await;
        }
    }
}

/// A scheduler that has welcomed this agent.
#[derive(Debug, Clone)]
pub struct Link {
    /// The connection.
    pub channel: Channel,
    /// This agent's session on it.
    pub session: Session,
}

/// Why files were not moved.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The disk's.
    #[error("{path}: {source}")]
    File {
        /// The file that was not moved.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A path that leaves its directory.
    #[error("{0} leaves the run directory")]
    Escapes(PathBuf),
    /// The scheduler's answer.
    #[error("the scheduler refuses {name}: {} ({:?})", status.message(), status.code())]
    Refused {
        /// The file's name.
        name: String,
        /// The scheduler's reason.
        status: Box<tonic::Status>,
    },
    /// What arrived has another hash.
    #[error("{0} arrived damaged")]
    Damaged(String),
    /// The file was not moved in the time that there was.
    #[error("{name} was not moved within {} s: {last}", within.as_secs())]
    Stalled {
        /// The file's name.
        name: String,
        /// The span from the first failure to giving up.
        within: Duration,
        /// The last try's error.
        last: String,
    },
    /// The agent is going down.
    #[error("the agent is stopping")]
    Stopping,
}

impl TransferError {
    /// What the disk said, if it was the disk.
    pub const fn of_the_disk(&self) -> Option<&io::Error> {
        match self {
            Self::File { source, .. } => Some(source),
            _ => None,
        }
    }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> TransferError {
    move |source| TransferError::File { path: path.to_owned(), source }
}

/// Uploads files of `root`; names are paths relative to it.
///
/// # Errors
/// A file cannot be read, or the scheduler refuses it.
pub async fn upload(
    (link, terms): (&mut watch::Receiver<Option<Link>>, &Terms),
    attempt: AttemptId,
    root: &Path,
    names: &[PathBuf],
) -> Result<Vec<Artifact>, TransferError> {
    let mut artifacts = Vec::new();
    for name in names {
        // One after the other: many attempts may wait to hand in, and each holds one file open.
        let file = open(root, name, terms).await?;
        let name = name.to_string_lossy().into_owned();
        artifacts.push(upload_file((link, terms), attempt, name, file).await?);
    }
    Ok(artifacts)
}

/// Opens a file of `root`; waits for a while if too many are open.
async fn open(root: &Path, name: &Path, terms: &Terms) -> Result<File, TransferError> {
    if !name.components().all(|part| matches!(part, Component::Normal(_))) {
        return Err(TransferError::Escapes(name.to_owned()));
    }
    let path = root.join(name);
    descriptor(terms, || File::open(&path)).await.map_err(at(&path))
}

/// Gets a descriptor; waits for a while if the process or the machine has none left.
async fn descriptor(terms: &Terms, get: impl Fn() -> io::Result<File>) -> io::Result<File> {
    let (since, mut waits) = (Instant::now(), false);
    loop {
        match get() {
            Err(error) if lacks_descriptors(&error) && since.elapsed() < terms.stall_after => {
                if !waits {
                    terms.tell(DESCRIPTORS).await;
                }
                waits = true;
                sleep(DESCRIPTORS_AGAIN).await;
            }
            got => {
                if waits {
                    terms.tell("").await;
                }
                return got;
            }
        }
    }
}

/// Whether the process or the machine has too many open files.
fn lacks_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error().map(Errno::from_raw), Some(Errno::EMFILE | Errno::ENFILE))
}

/// Uploads the files of a checkpoint.
///
/// # Errors
/// As [`upload`].
pub async fn upload_checkpoint(
    (link, terms): (&mut watch::Receiver<Option<Link>>, &Terms),
    attempt: AttemptId,
    run_dir: &Path,
    saved: &CheckpointSaved,
) -> Result<Checkpoint, TransferError> {
    if !saved.path.components().all(|part| matches!(part, Component::Normal(_))) {
        return Err(TransferError::Escapes(saved.path.clone()));
    }
    let root = run_dir.join(&saved.path);
    let mut names = Vec::new();
    list(&root, Path::new(""), &mut names).map_err(at(&root))?;
    names.sort();
    // All are opened first: the trainer may delete an old checkpoint while it is on its way.
    let mut opened = Vec::new();
    for name in &names {
        opened.push((name.to_string_lossy().into_owned(), open(&root, name, terms).await?));
    }
    let mut files = Vec::new();
    for (name, file) in opened {
        files.push(upload_file((link, terms), attempt, name, file).await?);
    }
    info!(%attempt, step = saved.step, "checkpoint uploaded");
    Ok(Checkpoint { step: saved.step, epoch: saved.epoch, files })
}

fn list(root: &Path, below: &Path, names: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in std::fs::read_dir(root.join(below))? {
        let entry = entry?;
        let name = below.join(entry.file_name());
        if entry.file_type()?.is_dir() { list(root, &name, names)? } else { names.push(name) }
    }
    Ok(())
}

async fn upload_file(
    (link, terms): (&mut watch::Receiver<Option<Link>>, &Terms),
    attempt: AttemptId,
    name: String,
    file: File,
) -> Result<Artifact, TransferError> {
    let path = PathBuf::from(&name);
    let (file, size_bytes, sha256) = blocking(move || hash(file)).await.map_err(at(&path))?;
    let artifact = Artifact { name, size_bytes, sha256 };
    let mut retry = Retry::default();
    loop {
        let there = connected(link).await?;
        let copy = descriptor(terms, || file.try_clone()).await.map_err(at(&path))?;
        let moved = Arc::new(AtomicU64::new(0));
        let upload = try_upload(there, attempt, &artifact, (copy, Arc::clone(&moved)));
        match watched(&moved, terms.stall_after, upload).await.unwrap_or_else(|| Err(stalled(terms))) {
            Ok(()) => {
                terms.tell("").await;
                return Ok(artifact);
            }
            Err(status) => retry.wait(&artifact.name, status, (link, terms)).await?,
        }
    }
}

/// Does `work`, unless `moved` does not grow for `stall_after`; then `None`.
async fn watched<T>(moved: &AtomicU64, stall_after: Duration, work: impl Future<Output = T>) -> Option<T> {
    let still = async {
        let (mut before, mut since) = (moved.load(Ordering::Relaxed), Instant::now());
        while since.elapsed() < stall_after {
            sleep(stall_after / 8).await;
            let now = moved.load(Ordering::Relaxed);
            if now != before {
                (before, since) = (now, Instant::now());
            }
        }
    };
    tokio::select! {
        done = work => Some(done),
        () = still => None,
    }
}

fn stalled(terms: &Terms) -> tonic::Status {
    tonic::Status::deadline_exceeded(format!("no byte was moved for {} s", terms.stall_after.as_secs()))
}

/// Runs `work` where it may block.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

fn hash(mut file: File) -> io::Result<(File, u64, String)> {
    let mut digest = Sha256::new();
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut size = 0;
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok((file, size, hex::encode(digest.finalize())));
        }
        digest.update(&buffer[..count]);
        size += count as u64;
    }
}

async fn try_upload(
    link: Link,
    attempt: AttemptId,
    artifact: &Artifact,
    (mut file, moved): (File, Arc<AtomicU64>),
) -> Result<(), tonic::Status> {
    let io_error = |error: io::Error| tonic::Status::internal(error.to_string());
    file.rewind().map_err(io_error)?;
    let header = pb::UploadHeader {
        attempt: attempt.to_string(),
        session: link.session.0,
        artifact: Some(artifact.into()),
    };
    let (parts, stream) = mpsc::channel(4);
    // Ends by itself: with the file, or when the scheduler has the blob already and hangs up.
    let produce = async move {
        let mut file = tokio::fs::File::from_std(file);
        let mut part = Part::Header(header);
        while parts.send(pb::UploadArtifactRequest { part: Some(part) }).await.is_ok() {
            let mut buffer = vec![0; CHUNK_BYTES];
            // A file that cannot be read ends the stream early, and the scheduler finds the hash wrong.
            let count = file.read(&mut buffer).await.unwrap_or(0);
            if count == 0 {
                return;
            }
            buffer.truncate(count);
            moved.fetch_add(count as u64, Ordering::Relaxed);
            part = Part::Data(buffer);
        }
    };
    let mut client = ArtifactServiceClient::new(link.channel);
    let call = client.upload_artifact(ReceiverStream::new(stream));
    tokio::pin!(call, produce);
    let answer = tokio::select! {
        answer = &mut call => answer,
        () = &mut produce => call.await,
    };
    answer.map(|_| ())
}

/// Fetches a checkpoint of `job` into its directory, whole or not at all.
///
/// # Errors
/// The scheduler does not have it, or the disk cannot take it.
pub async fn download_checkpoint(
    (link, terms): (&mut watch::Receiver<Option<Link>>, &Terms),
    job: JobId,
    checkpoint: &Checkpoint,
    dir: &JobDir,
) -> Result<(), TransferError> {
    let target = dir.checkpoint(checkpoint.step);
    let temporary = dir.checkpoints().join(format!(".step-{:08}.download", checkpoint.step));
    if temporary.exists() {
        std::fs::remove_dir_all(&temporary).map_err(at(&temporary))?;
    }
    std::fs::create_dir_all(&temporary).map_err(at(&temporary))?;
    for file in &checkpoint.files {
        let path = temporary.join(&file.name);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(at(folder))?;
        }
        let mut retry = Retry::default();
        loop {
            let there = connected(link).await?;
            let moved = AtomicU64::new(0);
            let download = try_download(there, job, file, (&path, &moved));
            let status = match watched(&moved, terms.stall_after, download).await {
                Some(Ok(())) => break,
                Some(Err(TransferError::Refused { status, .. })) => *status,
                Some(Err(TransferError::Damaged(name))) => {
                    tonic::Status::data_loss(format!("{name} arrived damaged"))
                }
                Some(Err(other)) => return Err(other),
                None => stalled(terms),
            };
            retry.wait(&file.name, status, (link, terms)).await?;
        }
    }
    std::fs::rename(&temporary, &target).map_err(at(&target))?;
    info!(%job, step = checkpoint.step, "checkpoint downloaded");
    Ok(())
}

async fn try_download(
    link: Link,
    job: JobId,
    file: &Artifact,
    (path, moved): (&Path, &AtomicU64),
) -> Result<(), TransferError> {
    use std::io::Write;
    let refused = |status| TransferError::Refused { name: file.name.clone(), status: Box::new(status) };
    let request = pb::DownloadArtifactRequest {
        job_id: job.to_string(),
        sha256: file.sha256.clone(),
        ..pb::DownloadArtifactRequest::default()
    };
    let mut client = ArtifactServiceClient::new(link.channel);
    let mut stream = client.download_artifact(request).await.map_err(refused)?.into_inner();
    let mut target = File::create(path).map_err(at(path))?;
    let mut digest = Sha256::new();
    let mut size = 0;
    while let Some(part) = stream.message().await.map_err(refused)? {
        size += part.data.len() as u64;
        if part.offset + part.data.len() as u64 != size || size > file.size_bytes {
            return Err(TransferError::Damaged(file.name.clone()));
        }
        moved.store(size, Ordering::Relaxed);
        digest.update(&part.data);
        target.write_all(&part.data).map_err(at(path))?;
    }
    if size != file.size_bytes || hex::encode(digest.finalize()) != file.sha256 {
        return Err(TransferError::Damaged(file.name.clone()));
    }
    target.sync_all().map_err(at(path))
}

async fn connected(link: &mut watch::Receiver<Option<Link>>) -> Result<Link, TransferError> {
    let there = link.wait_for(Option::is_some).await.map_err(|_| TransferError::Stopping)?;
    there.clone().ok_or(TransferError::Stopping)
}

/// One transfer's failures.
#[derive(Debug, Default)]
struct Retry {
    backoff: Backoff,
    refusals: u32,
    /// Since when it fails although the scheduler is there.
    since: Option<Instant>,
}

impl Retry {
    /// Waits before the next try, or gives up.
    async fn wait(
        &mut self,
        name: &str,
        status: tonic::Status,
        (link, terms): (&watch::Receiver<Option<Link>>, &Terms),
    ) -> Result<(), TransferError> {
        if !is_transient(status.code()) {
            self.refusals += 1;
            if self.refusals >= TRIES {
                return Err(TransferError::Refused { name: name.to_owned(), status: Box::new(status) });
            }
        }
        if link.borrow().is_none() {
            self.since = None; // It is away, which is waited for.
        } else {
            let since = *self.since.get_or_insert_with(Instant::now);
            if let Some(within) = terms.give_up_after.filter(|within| since.elapsed() >= *within) {
                let last = format!("{} ({:?})", status.message(), status.code());
                return Err(TransferError::Stalled { name: name.to_owned(), within, last });
            }
        }
        if self.backoff.failures() == 0 {
            warn!(name, code = ?status.code(), told = status.message(), "transfer failed, will retry");
        }
        if status.code() == Code::ResourceExhausted {
            terms.tell(ROOM).await;
        }
        sleep(self.backoff.next_wait()).await;
        Ok(())
    }
}

/// Whether waiting may help: the scheduler is away, changes, or does not know this session yet. An attempt
/// that is not ours any more is revoked, which ends its transfers.
const fn is_transient(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable
            | Code::Cancelled
            | Code::Unknown
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::Internal
            | Code::ResourceExhausted
            | Code::FailedPrecondition
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_transfer_that_moves_no_byte_is_ended_and_one_that_does_is_not() {
        let (moved, patience) = (AtomicU64::new(0), Duration::from_millis(80));
        // Every question finds more bytes, however slow this machine is.
        let more = async {
            for _ in 0..1000 {
                moved.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
        };
        assert_eq!(watched(&moved, Duration::from_secs(3600), more).await, Some(()));
        assert_eq!(watched(&moved, patience, std::future::pending::<()>()).await, None);
    }
}

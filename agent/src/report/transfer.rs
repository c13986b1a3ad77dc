//! Moves files between this machine and the scheduler's artifact store, with hashes checked on the way.
//!
//! A transfer waits for a scheduler that is away, and for room on its disk. What the scheduler refuses for another reason
//! is tried a few times and then given up. A try that moves no byte for too long is ended, and made again.

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
use tracing::{info, warn};
use trainyard_proto::pb;
use trainyard_proto::pb::artifact_service_client::ArtifactServiceClient;
use trainyard_proto::pb::upload_artifact_request::Part;
use trainyard_types::trainer::CheckpointSaved;
use trainyard_types::{Artifact, AttemptId, Checkpoint, JobId};

use crate::backoff::Backoff;
use crate::disk::job_dir::JobDir;
use crate::message::{Event, Input, SchedulerLink};

/// Bytes of one message.
const CHUNK_BYTES: usize = 256 * 1024;

/// After so many refusals a transfer is given up.
const MOST_REFUSALS: u32 = 5;

/// What a transfer waits for while the scheduler's disk is full, for a person.
pub const ROOM: &str = "room on the scheduler's disk";

/// What a transfer waits for while this machine has too many open files, for a person.
const DESCRIPTORS: &str = "files that it may open: its limit (`LimitNOFILE`, `ulimit -n`) is too low";

/// How often a file is opened again that could not be opened.
const DESCRIPTORS_POLL: Duration = Duration::from_secs(1);

/// Tells the driver what handing in waits for.
#[derive(Debug, Clone)]
pub struct HandInProgress {
    /// The attempt that hands in.
    pub attempt: AttemptId,
    /// The driver's inbox.
    pub inbox: mpsc::Sender<Input>,
}

/// Moves files over one connection: how long it waits, and who is told what it waits for.
#[derive(Debug, Clone)]
pub struct Transfer {
    /// The scheduler, when it is there.
    pub link: watch::Receiver<Option<SchedulerLink>>,
    /// A try that moves no byte for so long is ended.
    pub stall_after: Duration,
    /// It is given up after so long, while the scheduler is there; `None` for never.
    pub give_up_after: Option<Duration>,
    /// Whom a transfer that hands in tells what it waits for.
    pub progress: Option<HandInProgress>,
}

/// Why files were not moved.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The system refuses a file.
    #[error("{path}: {source}")]
    File {
        /// The file that was not moved.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A path leads out of its directory.
    #[error("{0} leaves the run directory")]
    Escapes(PathBuf),
    /// The scheduler refuses a file.
    #[error("the scheduler refuses {name}: {} ({:?})", status.message(), status.code())]
    Refused {
        /// The file's name.
        name: String,
        /// The scheduler's reason.
        status: Box<tonic::Status>,
    },
    /// What arrived has another hash than the scheduler said.
    #[error("{0} arrived damaged")]
    Damaged(String),
    /// A file was not moved before the transfer was given up.
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
    /// The system's error, if it refused a file.
    pub const fn file_error(&self) -> Option<&io::Error> {
        match self {
            Self::File { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// An error of the file at `path`.
fn at(path: &Path) -> impl FnOnce(io::Error) -> TransferError {
    move |source| TransferError::File { path: path.to_owned(), source }
}

impl Transfer {
    /// Uploads files of `root`; names are paths relative to it.
    ///
    /// # Errors
    /// A file cannot be read, or the scheduler refuses it.
    pub async fn upload(
        &mut self,
        attempt: AttemptId,
        root: &Path,
        names: &[PathBuf],
    ) -> Result<Vec<Artifact>, TransferError> {
        let mut artifacts = Vec::new();
        for name in names {
            // One after the other: many attempts may wait to hand in, and each holds one file open.
            let file = self.open(root, name).await?;
            let name = name.to_string_lossy().into_owned();
            artifacts.push(self.upload_file(attempt, name, file).await?);
        }
        Ok(artifacts)
    }

    /// Opens a file of `root`; waits for a while if too many are open.
    async fn open(&self, root: &Path, name: &Path) -> Result<File, TransferError> {
        if !name.components().all(|part| matches!(part, Component::Normal(_))) {
            return Err(TransferError::Escapes(name.to_owned()));
        }
        let path = root.join(name);
        self.descriptor(|| File::open(&path)).await.map_err(at(&path))
    }

    /// Gets a descriptor; waits for a while if the process or the machine has none left.
    async fn descriptor(&self, get: impl Fn() -> io::Result<File>) -> io::Result<File> {
        let (since, mut waits) = (Instant::now(), false);
        loop {
            match get() {
                Err(error) if lacks_descriptors(&error) && since.elapsed() < self.stall_after => {
                    if !waits {
                        self.tell(DESCRIPTORS).await;
                    }
                    waits = true;
                    sleep(DESCRIPTORS_POLL).await;
                }
                got => {
                    if waits {
                        self.tell("").await;
                    }
                    return got;
                }
            }
        }
    }

    /// Uploads the files of a checkpoint.
    ///
    /// # Errors
    /// As [`Self::upload`].
    pub async fn upload_checkpoint(
        &mut self,
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
            opened.push((name.to_string_lossy().into_owned(), self.open(&root, name).await?));
        }
        let mut files = Vec::new();
        for (name, file) in opened {
            files.push(self.upload_file(attempt, name, file).await?);
        }
        info!(%attempt, step = saved.step, "checkpoint uploaded");
        Ok(Checkpoint { step: saved.step, epoch: saved.epoch, files })
    }

    /// Fetches a checkpoint of `job` into its directory, whole or not at all.
    ///
    /// # Errors
    /// The scheduler does not have it, or the disk cannot take it.
    pub async fn download_checkpoint(
        &mut self,
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
                let link = self.connected().await?;
                let moved = AtomicU64::new(0);
                let download = try_download(link, job, file, &path, &moved);
                let status = match while_moving(&moved, self.stall_after, download).await {
                    Some(Ok(())) => break,
                    Some(Err(TransferError::Refused { status, .. })) => *status,
                    Some(Err(TransferError::Damaged(name))) => {
                        tonic::Status::data_loss(format!("{name} arrived damaged"))
                    }
                    Some(Err(other)) => return Err(other),
                    None => self.stalled(),
                };
                retry.wait(&file.name, status, self).await?;
            }
        }
        std::fs::rename(&temporary, &target).map_err(at(&target))?;
        info!(%job, step = checkpoint.step, "checkpoint downloaded");
        Ok(())
    }

    /// Uploads an open file under a name.
    pub(super) async fn upload_file(
        &mut self,
        attempt: AttemptId,
        name: String,
        file: File,
    ) -> Result<Artifact, TransferError> {
        let path = PathBuf::from(&name);
        let (file, size_bytes, sha256) = blocking(move || hash(file)).await.map_err(at(&path))?;
        let artifact = Artifact { name, size_bytes, sha256 };
        let mut retry = Retry::default();
        loop {
            let link = self.connected().await?;
            let copy = self.descriptor(|| file.try_clone()).await.map_err(at(&path))?;
            let moved = Arc::new(AtomicU64::new(0));
            let upload = try_upload(link, attempt, &artifact, copy, Arc::clone(&moved));
            match while_moving(&moved, self.stall_after, upload).await.unwrap_or_else(|| Err(self.stalled()))
            {
                Ok(()) => {
                    self.tell("").await;
                    return Ok(artifact);
                }
                Err(status) => retry.wait(&artifact.name, status, self).await?,
            }
        }
    }

    /// Waits for the scheduler.
    async fn connected(&mut self) -> Result<SchedulerLink, TransferError> {
        let there = self.link.wait_for(Option::is_some).await.map_err(|_| TransferError::Stopping)?;
        there.clone().ok_or(TransferError::Stopping)
    }

    fn stalled(&self) -> tonic::Status {
        tonic::Status::deadline_exceeded(format!("no byte was moved for {} s", self.stall_after.as_secs()))
    }

    /// Tells what the transfer waits for; an empty text that it goes on.
    async fn tell(&self, waits_for: &str) {
        if let Some(HandInProgress { attempt, inbox }) = &self.progress {
            // The inbox is closed when the agent is leaving.
            let _leaving = inbox.send(Input::Core(Event::HandingIn(*attempt, waits_for.to_owned()))).await;
        }
    }
}

/// Whether the process or the machine has too many open files.
fn lacks_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error().map(Errno::from_raw), Some(Errno::EMFILE | Errno::ENFILE))
}

/// Adds the names of all files under `root`, relative to it.
fn list(root: &Path, below: &Path, names: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in std::fs::read_dir(root.join(below))? {
        let entry = entry?;
        let name = below.join(entry.file_name());
        if entry.file_type()?.is_dir() { list(root, &name, names)? } else { names.push(name) }
    }
    Ok(())
}

/// Does `work`, unless `moved` does not grow for `stall_after`; then `None`.
pub async fn while_moving<T>(
    moved: &AtomicU64,
    stall_after: Duration,
    work: impl Future<Output = T>,
) -> Option<T> {
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

/// Runs `work` where it may block.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
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
    link: SchedulerLink,
    attempt: AttemptId,
    artifact: &Artifact,
    mut file: File,
    moved: Arc<AtomicU64>,
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

async fn try_download(
    link: SchedulerLink,
    job: JobId,
    file: &Artifact,
    path: &Path,
    moved: &AtomicU64,
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

/// The failures of one file's transfer.
#[derive(Debug, Default)]
struct Retry {
    backoff: Backoff,
    refusals: u32,
    /// Since when the transfer fails although the scheduler is there.
    since: Option<Instant>,
}

impl Retry {
    /// Waits before the next try, or gives up.
    async fn wait(
        &mut self,
        name: &str,
        status: tonic::Status,
        transfer: &Transfer,
    ) -> Result<(), TransferError> {
        if !is_transient(status.code()) {
            self.refusals += 1;
            if self.refusals >= MOST_REFUSALS {
                return Err(TransferError::Refused { name: name.to_owned(), status: Box::new(status) });
            }
        }
        if transfer.link.borrow().is_none() {
            self.since = None; // The scheduler is away, which is waited for.
        } else {
            let since = *self.since.get_or_insert_with(Instant::now);
            if let Some(within) = transfer.give_up_after.filter(|within| since.elapsed() >= *within) {
                let last = format!("{} ({:?})", status.message(), status.code());
                return Err(TransferError::Stalled { name: name.to_owned(), within, last });
            }
        }
        if self.backoff.failures() == 0 {
            warn!(name, code = ?status.code(), told = status.message(), "transfer failed, will retry");
        }
        if status.code() == Code::ResourceExhausted {
            transfer.tell(ROOM).await;
        }
        sleep(self.backoff.next_wait()).await;
        Ok(())
    }
}

/// Whether waiting may help: the scheduler is away, changes, or does not know this session yet. An attempt
/// that is not ours any more is revoked, which ends its transfers.
pub const fn is_transient(code: Code) -> bool {
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
        assert_eq!(while_moving(&moved, Duration::from_secs(3600), more).await, Some(()));
        assert_eq!(while_moving(&moved, patience, std::future::pending::<()>()).await, None);
    }
}

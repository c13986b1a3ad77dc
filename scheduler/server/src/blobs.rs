//! Files that attempts leave behind, by content: `<data_dir>/blobs/<job id>/<sha256>`.
//!
//! A blob is there whole or not at all: it is written under another name, synced, and then renamed.

use std::io::{self, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::fs::{self, File};
use tokio::io::{AsyncSeekExt as _, AsyncWriteExt as _, BufWriter};
use tracing::warn;
use trainyard_types::{Artifact, JobId};
use uuid::Uuid;

#[cfg(test)]
mod tests;

/// A job's history, once it has expired.
const HISTORY: &str = "history.jsonl";
/// Pieces of it until then: `events-FIRST-LAST.jsonl`.
const PIECE: &str = "events-";
/// What unfinished uploads are called; nobody reads them.
const UNFINISHED: &str = "part";
/// An unfinished upload that nothing was added to for so long is nobody's any more; another scheduler may
/// share the directory.
const ABANDONED: Duration = Duration::from_secs(3600);
/// Holds the directory's id, by which schedulers find out whether they share it.
const ID_FILE: &str = "id";

/// Why an upload came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// More or fewer bytes than announced.
    #[error("has {received} bytes, {announced} were announced")]
    Size {
        /// What the header says.
        announced: u64,
        /// What has come until now.
        received: u64,
    },
    /// The bytes are not those that were announced.
    #[error("has SHA-256 {received}, {announced} was announced")]
    Hash {
        /// What the header says.
        announced: String,
        /// Of the bytes that came.
        received: String,
    },
    #[error("cannot be written: {0}")]
    Disk(#[from] io::Error),
}

/// Reads the directory's id, or draws it. Of several processes that draw at once, one's stays.
fn directory_id(root: &Path) -> io::Result<Uuid> {
    let path = root.join(ID_FILE);
    if !path.try_exists()? {
        let temporary = root.join(format!("{ID_FILE}.{}", Uuid::new_v4()));
        std::fs::write(&temporary, format!("{}\n", Uuid::new_v4()))?;
        let linked = std::fs::hard_link(&temporary, &path);
        std::fs::remove_file(&temporary)?;
        match linked {
            Err(cause) if cause.kind() != io::ErrorKind::AlreadyExists => return Err(cause),
            Ok(()) | Err(_) => std::fs::File::open(root)?.sync_all()?,
        }
    }
    let text = std::fs::read_to_string(&path)?;
    text.trim().parse().map_err(|_| io::Error::other(format!("{} is damaged", path.display())))
}

/// The directory of all blobs.
#[derive(Debug, Clone)]
pub struct Blobs {
    root: Arc<Path>,
    id: Uuid,
}

impl Blobs {
    /// Opens the directory, gives it an id if it has none, and removes what uploads of earlier processes left
    /// unfinished. Blocks.
    ///
    /// # Errors
    /// It cannot be created or read.
    pub fn open(root: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(root)?;
        for job in std::fs::read_dir(root)? {
            let job = job?.path();
            for file in if job.is_dir() { std::fs::read_dir(job)? } else { continue } {
                let file = file?.path();
                if file.extension().is_some_and(|extension| extension == UNFINISHED) {
                    let age = std::fs::metadata(&file)?.modified()?.elapsed().unwrap_or_default();
                    if age > ABANDONED {
                        std::fs::remove_file(file)?;
                    }
                }
            }
        }
        Ok(Self { root: root.into(), id: directory_id(root)? })
    }

    /// Of the directory, for as long as it exists.
    pub fn id(&self) -> Uuid {
        self.id
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Bytes of its disk that are free for this user, and all; `None` when the system does not tell. Blocks for a
    /// moment.
    pub fn room(&self) -> Option<(u64, u64)> {
        let disk = nix::sys::statvfs::statvfs(&*self.root).ok()?;
        let unit = disk.fragment_size();
        Some((disk.blocks_available().saturating_mul(unit), disk.blocks().saturating_mul(unit)))
    }

    fn directory(&self, job: JobId) -> PathBuf {
        self.root.join(job.to_string())
    }

    fn path(&self, job: JobId, sha256: &str) -> PathBuf {
        self.directory(job).join(sha256)
    }

    /// Whether the blob is there whole.
    pub async fn contains(&self, job: JobId, artifact: &Artifact) -> bool {
        let metadata = fs::metadata(self.path(job, &artifact.sha256)).await;
        metadata.is_ok_and(|metadata| metadata.len() == artifact.size_bytes)
    }

    /// A blob from `offset` on, and its whole size in bytes. The hash is of 64 hexadecimal digits.
    ///
    /// # Errors
    /// It is not there, or cannot be read.
    pub async fn read(&self, job: JobId, sha256: &str, offset: u64) -> io::Result<(File, u64)> {
        let mut file = File::open(self.path(job, sha256)).await?;
        let size = file.metadata().await?.len();
        file.seek(SeekFrom::Start(offset)).await?;
        Ok((file, size))
    }

    /// Begins to store a blob.
    ///
    /// # Errors
    /// The disk.
    pub async fn upload(&self, job: JobId, artifact: Artifact) -> io::Result<Upload> {
        let directory = self.directory(job);
        if !fs::try_exists(&directory).await? {
            fs::create_dir_all(&directory).await?;
            File::open(&self.root).await?.sync_all().await?;
        }
        let path = directory.join(format!("{}.{UNFINISHED}", Uuid::new_v4()));
        let file = File::options().write(true).create_new(true).open(&path).await?;
        let unfinished = Unfinished(path);
        Ok(Upload { unfinished, file, directory, artifact, hash: Sha256::new(), received: 0 })
    }

    /// Begins to write a job's history, or a piece of it, which takes the place of an earlier one when it is
    /// finished.
    ///
    /// # Errors
    /// The disk.
    pub async fn history(&self, job: JobId) -> io::Result<History> {
        let directory = self.directory(job);
        if !fs::try_exists(&directory).await? {
            fs::create_dir_all(&directory).await?;
            File::open(&self.root).await?.sync_all().await?;
        }
        let path = directory.join(format!("{}.{UNFINISHED}", Uuid::new_v4()));
        let file = File::options().write(true).create_new(true).open(&path).await?;
        Ok(History { unfinished: Unfinished(path), file: BufWriter::new(file), directory })
    }

    /// The pieces of a job's events, by their first and last cursor.
    async fn pieces(&self, job: JobId) -> io::Result<Vec<(u64, u64, PathBuf)>> {
        let mut pieces = Vec::new();
        let mut entries = match fs::read_dir(self.directory(job)).await {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(pieces),
            entries => entries?,
        };
        while let Some(entry) = entries.next_entry().await? {
            let name = entry.file_name();
            let cursors = name.to_str().and_then(|name| name.strip_prefix(PIECE)?.strip_suffix(".jsonl"));
            let cursors = cursors.and_then(|cursors| cursors.split_once('-'));
            let parsed = cursors.and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
            pieces.extend(parsed.map(|(first, last)| (first, last, entry.path())));
        }
        pieces.sort();
        Ok(pieces)
    }

    /// The lines of the first piece of a job's events that reaches beyond a cursor; nothing if none does.
    ///
    /// # Errors
    /// The disk.
    pub async fn piece_after(&self, job: JobId, cursor: u64) -> io::Result<Vec<u8>> {
        let pieces = self.pieces(job).await?;
        match pieces.into_iter().find(|(_, last, _)| *last > cursor) {
            Some((_, _, path)) => fs::read(path).await,
            None => Ok(Vec::new()),
        }
    }

    /// Removes the pieces of a job's events in the background: its whole history is there.
    pub fn remove_pieces_later(&self, job: JobId) {
        let blobs = self.clone();
        tokio::spawn(async move {
            for (_, _, path) in blobs.pieces(job).await.unwrap_or_default() {
                if let Err(cause) = fs::remove_file(&path).await {
                    warn!(path = %path.display(), %cause, "piece of a history cannot be removed");
                }
            }
        });
    }

    /// Removes blobs in the background; what cannot be removed is logged and stays.
    pub fn remove_later(&self, blobs: &[(JobId, String)]) {
        if blobs.is_empty() {
            return;
        }
        let paths: Vec<PathBuf> = blobs.iter().map(|(job, sha256)| self.path(*job, sha256)).collect();
        tokio::spawn(async move {
            for path in paths {
                match fs::remove_file(&path).await {
                    Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
                        warn!(path = %path.display(), %cause, "blob cannot be removed");
                    }
                    _ => {}
                }
            }
        });
    }
}

/// A file that is removed unless it is renamed first.
#[derive(Debug)]
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        // After the rename there is nothing left to remove.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A blob on its way in. Dropped before [`Upload::finish`], it leaves nothing.
#[derive(Debug)]
pub struct Upload {
    unfinished: Unfinished,
    file: File,
    directory: PathBuf,
    artifact: Artifact,
    hash: Sha256,
    received: u64,
}

impl Upload {
    /// Takes the next bytes.
    ///
    /// # Errors
    /// More came than was announced; the disk.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), UploadError> {
        self.received += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if self.received > self.artifact.size_bytes {
            return Err(self.wrong_size());
        }
        self.hash.update(bytes);
        Ok(self.file.write_all(bytes).await?)
    }

    fn wrong_size(&self) -> UploadError {
        UploadError::Size { announced: self.artifact.size_bytes, received: self.received }
    }

    /// Makes the blob durable, and only then visible.
    ///
    /// # Errors
    /// The bytes are not those that were announced; the disk.
    pub async fn finish(mut self) -> Result<(), UploadError> {
        if self.received != self.artifact.size_bytes {
            return Err(self.wrong_size());
        }
        let received = hex::encode(self.hash.finalize());
        if received != self.artifact.sha256 {
            return Err(UploadError::Hash { announced: self.artifact.sha256, received });
        }
        self.file.flush().await?;
        self.file.sync_all().await?;
        fs::rename(&self.unfinished.0, self.directory.join(received)).await?;
        Ok(File::open(&self.directory).await?.sync_all().await?)
    }
}

/// The file of a history that is being written.
#[derive(Debug)]
pub struct History {
    unfinished: Unfinished,
    file: BufWriter<File>,
    directory: PathBuf,
}

impl History {
    /// Adds a line.
    ///
    /// # Errors
    /// The disk.
    pub async fn line(&mut self, line: &[u8]) -> io::Result<()> {
        self.file.write_all(line).await?;
        self.file.write_all(b"\n").await
    }

    /// Makes it durable as the whole history.
    ///
    /// # Errors
    /// The disk; the earlier history is as it was.
    pub async fn finish(self) -> io::Result<()> {
        self.finish_as(HISTORY).await
    }

    /// Makes it durable as a piece of the history.
    ///
    /// # Errors
    /// The disk.
    pub async fn finish_piece(self, first: u64, last: u64) -> io::Result<()> {
        self.finish_as(&format!("{PIECE}{first:020}-{last:020}.jsonl")).await
    }

    async fn finish_as(self, name: &str) -> io::Result<()> {
        let Self { unfinished, mut file, directory } = self;
        file.flush().await?;
        file.get_ref().sync_all().await?;
        fs::rename(&unfinished.0, directory.join(name)).await?;
        File::open(&directory).await?.sync_all().await
    }
}

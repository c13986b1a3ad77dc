//! Files that attempts leave behind, by content: `<job id>/<sha256>` in the store of objects.
//!
//! A blob is there whole or not at all: it gets its name when all of it is durable.

use std::pin::Pin;

use bytes::Bytes;
use object_store::path::Path;
use object_store::{
    GetOptions, GetRange, ObjectStore as _, ObjectStoreExt as _, PutMode, PutPayload, WriteMultipart,
};
use sha2::{Digest as _, Sha256};
use tokio_stream::{Stream, StreamExt as _};
use tracing::warn;
use trainyard_types::{Artifact, JobId};
use uuid::Uuid;

use crate::objects::Objects;

#[cfg(test)]
mod tests;

/// A job's history, once it has expired.
const HISTORY: &str = "history.jsonl";
/// Pieces of it until then: `events-FIRST-LAST.jsonl`.
const PIECE: &str = "events-";
/// Holds the store's id, by which schedulers find out whether they share it.
const ID: &str = "id";
/// Parts of a file that are sent to the store at a time.
const PARTS_AT_A_TIME: usize = 4;

/// Why a blob cannot be read or written.
pub type BlobError = object_store::Error;

/// A blob's bytes, piece by piece.
pub type BlobStream = Pin<Box<dyn Stream<Item = Result<Bytes, BlobError>> + Send>>;

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
    Store(#[from] BlobError),
}

/// The blobs of all jobs, in one store of objects.
#[derive(Debug, Clone)]
pub struct Blobs {
    objects: Objects,
    id: Uuid,
}

/// Reads the store's id, or draws it. Of several processes that draw at once, one's stays.
async fn store_id(objects: &Objects) -> Result<Uuid, BlobError> {
    let path = Path::from(ID);
    let drawn = PutPayload::from(format!("{}\n", Uuid::new_v4()));
    match objects.store.put_opts(&path, drawn, PutMode::Create.into()).await {
        Ok(_) | Err(BlobError::AlreadyExists { .. }) => {}
        Err(cause) => return Err(cause),
    }
    let bytes = objects.store.get(&path).await?.bytes().await?;
    let parsed = std::str::from_utf8(&bytes).ok().and_then(|text| text.trim().parse().ok());
    parsed.ok_or_else(|| BlobError::Generic {
        store: "blobs",
        source: format!("`{ID}` in {} is damaged", objects.place).into(),
    })
}

fn path(job: JobId, name: &str) -> Path {
    Path::from(format!("{job}/{name}"))
}

impl Blobs {
    /// Opens the store, and gives it an id if it has none.
    ///
    /// # Errors
    /// The store cannot be read or written.
    pub async fn open(objects: Objects) -> Result<Self, BlobError> {
        let id = store_id(&objects).await?;
        Ok(Self { objects, id })
    }

    /// Of the store, for as long as it exists.
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// Whether the store is still the one that was opened: somebody may have put another in its place.
    pub async fn is_the_same(&self) -> bool {
        store_id(&self.objects).await.is_ok_and(|id| id == self.id)
    }

    /// Removes what killed processes left half-written in a directory.
    pub async fn tidy(&self) {
        let objects = self.objects.clone();
        let tidied = tokio::task::spawn_blocking(move || objects.tidy()).await;
        if let Ok(Err(cause)) = tidied {
            warn!(%cause, "unfinished files cannot be removed");
        }
    }

    /// The directory or URL of the store.
    pub fn place(&self) -> &str {
        &self.objects.place
    }

    /// Bytes that are free on the store's disk, and all; see [`Objects::room`].
    pub fn room(&self) -> Option<(u64, u64)> {
        self.objects.room()
    }

    /// Whether the blob is there whole.
    pub async fn contains(&self, job: JobId, artifact: &Artifact) -> bool {
        let found = self.objects.store.head(&path(job, &artifact.sha256)).await;
        found.is_ok_and(|found| found.size == artifact.size_bytes)
    }

    /// A blob's bytes from `offset` on; none from its end on, which object stores take for an error.
    ///
    /// # Errors
    /// It is not there, or cannot be read.
    pub async fn read(&self, job: JobId, artifact: &Artifact, offset: u64) -> Result<BlobStream, BlobError> {
        if offset >= artifact.size_bytes {
            return Ok(Box::pin(tokio_stream::empty()));
        }
        let options = GetOptions { range: Some(GetRange::Offset(offset)), ..GetOptions::default() };
        Ok(self.objects.store.get_opts(&path(job, &artifact.sha256), options).await?.into_stream())
    }

    /// Begins to store a blob.
    ///
    /// # Errors
    /// The store.
    pub async fn upload(&self, job: JobId, artifact: Artifact) -> Result<Upload, BlobError> {
        let upload = self.objects.store.put_multipart(&path(job, &artifact.sha256)).await?;
        Ok(Upload { parts: WriteMultipart::new(upload), artifact, hash: Sha256::new(), received: 0 })
    }

    /// Begins a job's history, which takes the place of an earlier one when it is finished.
    ///
    /// # Errors
    /// The store.
    pub async fn history(&self, job: JobId) -> Result<Lines, BlobError> {
        self.lines(job, HISTORY).await
    }

    /// Begins the piece of a job's history from one cursor to another.
    ///
    /// # Errors
    /// The store.
    pub async fn history_piece(&self, job: JobId, first: u64, last: u64) -> Result<Lines, BlobError> {
        self.lines(job, &format!("{PIECE}{first:020}-{last:020}.jsonl")).await
    }

    async fn lines(&self, job: JobId, name: &str) -> Result<Lines, BlobError> {
        let upload = self.objects.store.put_multipart(&path(job, name)).await?;
        Ok(Lines(WriteMultipart::new(upload)))
    }

    /// The pieces of a job's events, by their first and last cursor.
    async fn pieces(&self, job: JobId) -> Result<Vec<(u64, u64, Path)>, BlobError> {
        let mut pieces = Vec::new();
        let mut listed = self.objects.store.list(Some(&Path::from(job.to_string())));
        while let Some(found) = listed.next().await {
            let found = found?.location;
            let name = found.filename().unwrap_or_default();
            let cursors = name.strip_prefix(PIECE).and_then(|name| name.strip_suffix(".jsonl"));
            let cursors = cursors.and_then(|cursors| cursors.split_once('-'));
            let parsed = cursors.and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
            pieces.extend(parsed.map(|(first, last)| (first, last, found.clone())));
        }
        pieces.sort();
        Ok(pieces)
    }

    /// The lines of the first piece of a job's events that reaches beyond a cursor; nothing if none does.
    ///
    /// # Errors
    /// The store.
    pub async fn piece_after(&self, job: JobId, cursor: u64) -> Result<Bytes, BlobError> {
        let pieces = self.pieces(job).await?;
        match pieces.into_iter().find(|(_, last, _)| *last > cursor) {
            Some((_, _, path)) => self.objects.store.get(&path).await?.bytes().await,
            None => Ok(Bytes::new()),
        }
    }

    /// Removes the pieces of a job's events in the background: its whole history is there.
    pub fn remove_pieces_later(&self, job: JobId) {
        let blobs = self.clone();
        tokio::spawn(async move {
            let pieces = blobs.pieces(job).await.unwrap_or_default();
            blobs.remove(pieces.into_iter().map(|(_, _, path)| path)).await;
        });
    }

    /// Removes blobs in the background; what cannot be removed is logged and stays.
    pub fn remove_later(&self, blobs: &[(JobId, String)]) {
        if blobs.is_empty() {
            return;
        }
        let paths: Vec<Path> = blobs.iter().map(|(job, sha256)| path(*job, sha256)).collect();
        let blobs = self.clone();
        tokio::spawn(async move { blobs.remove(paths.into_iter()).await });
    }

    async fn remove(&self, paths: impl Iterator<Item = Path>) {
        for path in paths {
            match self.objects.store.delete(&path).await {
                Ok(()) | Err(BlobError::NotFound { .. }) => {}
                Err(cause) => warn!(%path, %cause, "blob cannot be removed"),
            }
        }
    }
}

/// A blob on its way in. Dropped before [`Upload::finish`], it leaves nothing that has its name.
#[derive(Debug)]
pub struct Upload {
    parts: WriteMultipart,
    artifact: Artifact,
    hash: Sha256,
    received: u64,
}

impl Upload {
    /// Takes the next bytes.
    ///
    /// # Errors
    /// More came than was announced; the store.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), UploadError> {
        self.received += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if self.received > self.artifact.size_bytes {
            return Err(self.wrong_size());
        }
        self.hash.update(&bytes);
        self.parts.wait_for_capacity(PARTS_AT_A_TIME).await?;
        self.parts.put(bytes);
        Ok(())
    }

    fn wrong_size(&self) -> UploadError {
        UploadError::Size { announced: self.artifact.size_bytes, received: self.received }
    }

    /// Drops what has come.
    pub async fn abandon(self) {
        // What is left of it is removed in time, as what a killed process leaves.
        let _ = self.parts.abort().await;
    }

    /// Makes the blob durable, and only then visible.
    ///
    /// # Errors
    /// The bytes are not those that were announced; the store.
    pub async fn finish(mut self) -> Result<(), UploadError> {
        if self.received != self.artifact.size_bytes {
            let wrong = self.wrong_size();
            self.abandon().await;
            return Err(wrong);
        }
        let received = hex::encode(self.hash.finalize_reset());
        if received != self.artifact.sha256 {
            let announced = self.artifact.sha256.clone();
            self.abandon().await;
            return Err(UploadError::Hash { announced, received });
        }
        self.parts.finish().await?;
        Ok(())
    }
}

/// A file of lines that is being written. Dropped before [`Lines::finish`], it leaves an earlier one as it was.
#[derive(Debug)]
pub struct Lines(WriteMultipart);

impl Lines {
    /// Adds a line.
    ///
    /// # Errors
    /// The store.
    pub async fn line(&mut self, line: &[u8]) -> Result<(), BlobError> {
        self.0.wait_for_capacity(PARTS_AT_A_TIME).await?;
        self.0.write(line);
        self.0.write(b"\n");
        Ok(())
    }

    /// Makes all lines durable, under their name.
    ///
    /// # Errors
    /// The store.
    pub async fn finish(self) -> Result<(), BlobError> {
        self.0.finish().await.map(drop)
    }
}

//! One stream of a pull: files one after the other, hashed and written in a thread of its own.

use std::io::Write;
use std::sync::Arc;

use tokio::sync::mpsc;
use tonic::Status;
use trainyard_content::{Kind, Manifest};
use trainyard_proto::pb;

use super::folder::{Folder, Unfinished};
use super::wrong_content;
use crate::client::Client;
use crate::dataset::progress::Progress;
use crate::dataset::push::wire_kind;
use crate::failure::{Exit, Failure, is_temporary};
use crate::reconnect::Reconnect;
use crate::terminal::shown;

/// Files that one stream fetches, by their places in the version's order.
pub type Run = Vec<usize>;

/// Pieces that wait to be written.
const QUEUED: usize = 4;

/// The version and the folder that all streams share.
#[derive(Clone)]
pub struct Fetch {
    pub client: Client,
    pub kind: Kind,
    pub dataset: pb::Dataset,
    pub manifest: Arc<Manifest>,
    pub folder: Arc<Folder>,
    pub progress: Arc<Progress>,
}

impl Fetch {
    /// Fetches the files of `run`.
    ///
    /// # Errors
    /// The scheduler stays away, or sends something else; the disk is full.
    pub async fn run(&self, run: &Run) -> Result<(), Failure> {
        let (pieces, received) = mpsc::channel(QUEUED);
        let (begun, begin) = tokio::sync::oneshot::channel();
        let (writer, files) = (self.clone(), run.clone());
        let writing = tokio::task::spawn_blocking(move || writer.write(&files, begun, received));
        // Without a beginning the writer has failed, and says why below.
        let received = match begin.await {
            Ok(begin) => self.receive(run, begin, pieces).await,
            Err(_) => Ok(()),
        };
        let written = writing.await.map_err(|error| Failure::local(error.to_string()))?;
        received.and(written)
    }

    /// Receives bytes from place `offset` on until all are there, over as many connections as it takes.
    async fn receive(
        &self,
        run: &Run,
        mut offset: u64,
        pieces: mpsc::Sender<Vec<u8>>,
    ) -> Result<(), Failure> {
        let sizes = run.iter().filter_map(|at| self.manifest.get(*at)).map(|file| file.size_bytes);
        let total: u64 = sizes.sum();
        let mut reconnect = Reconnect::new(&self.client);
        while offset < total {
            let before = offset;
            let Err(status) = self.stream(run, &mut offset, total, &pieces).await? else { return Ok(()) };
            if !is_temporary(&status) {
                return Err(self.client.failure(&status));
            }
            if offset > before {
                reconnect.progressed();
            }
            reconnect.wait(&status).await?;
        }
        Ok(())
    }

    /// One connection. The outer error is of what came, the inner one of the connection.
    async fn stream(
        &self,
        run: &Run,
        offset: &mut u64,
        total: u64,
        pieces: &mpsc::Sender<Vec<u8>>,
    ) -> Result<Result<(), Status>, Failure> {
        let request = pb::ReadDatasetRequest {
            kind: wire_kind(self.kind).into(),
            name: self.dataset.name.clone(),
            version: self.dataset.version.clone(),
            ranges: ranges(run),
            offset: *offset,
            ..Default::default()
        };
        let mut stream = match self.client.datasets().read_dataset(request).await {
            Ok(answer) => answer.into_inner(),
            Err(status) => return Ok(Err(status)),
        };
        while *offset < total {
            let message = match stream.message().await {
                Ok(Some(message)) => message,
                Ok(None) => return Ok(Err(Status::unavailable("the server ended the stream early"))),
                Err(status) => return Ok(Err(status)),
            };
            let count = message.data.len() as u64;
            if message.offset != *offset || count > total - *offset {
                return Err(Failure::new(Exit::Refused, "the server sent other bytes than were asked for"));
            }
            *offset += count;
            if pieces.send(message.data).await.is_err() {
                // The writer says why it has ended.
                return Ok(Ok(()));
            }
            self.progress.add(count);
        }
        Ok(Ok(()))
    }

    /// Writes what comes. Tells first how much of the first file an earlier pull has left.
    fn write(
        &self,
        run: &Run,
        begun: tokio::sync::oneshot::Sender<u64>,
        mut pieces: mpsc::Receiver<Vec<u8>>,
    ) -> Result<(), Failure> {
        let mut begun = Some(begun);
        let mut piece: Vec<u8> = Vec::new();
        let mut used = 0;
        for at in run {
            let Some(file) = self.manifest.get(*at) else { continue };
            let failed = |error: std::io::Error| {
                Failure::local(format!("{}: {error}", shown(&self.folder.path().join(file.path))))
            };
            let path = self.folder.unfinished(file.path, file.digest).map_err(failed)?;
            if begun.is_none() && path.exists() {
                // Left by an earlier pull, of which only the first file of a stream is gone on with.
                std::fs::remove_file(&path).map_err(failed)?;
            }
            let mut unfinished = Unfinished::open(path, file.size_bytes).map_err(failed)?;
            if let Some(begun) = begun.take() {
                self.progress.add(unfinished.bytes);
                // Whoever receives is gone only with this command.
                let _ = begun.send(unfinished.bytes);
            }
            while unfinished.bytes < file.size_bytes {
                if used == piece.len() {
                    // Without another piece the receiving end says why.
                    let Some(next) = pieces.blocking_recv() else { return Ok(()) };
                    (piece, used) = (next, 0);
                    continue;
                }
                let left = usize::try_from(file.size_bytes - unfinished.bytes).unwrap_or(usize::MAX);
                let part = &piece[used..][..left.min(piece.len() - used)];
                unfinished.file.write_all(part).map_err(failed)?;
                unfinished.hasher.update(part);
                unfinished.bytes += part.len() as u64;
                used += part.len();
            }
            if unfinished.hasher.take() != file.digest {
                std::fs::remove_file(&unfinished.path).map_err(failed)?;
                return Err(wrong_content(file.path, file.digest));
            }
            self.folder.place(&unfinished.path, file.path).map_err(failed)?;
        }
        Ok(())
    }
}

/// The files of a run, neighbours together.
fn ranges(run: &Run) -> Vec<pb::FileRange> {
    let mut ranges: Vec<pb::FileRange> = Vec::new();
    for at in run.iter().map(|at| *at as u64) {
        match ranges.last_mut().filter(|last| last.first + last.count == at) {
            Some(last) => last.count += 1,
            None => ranges.push(pb::FileRange { first: at, count: 1 }),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_asked_for_together() {
        let got: Vec<_> =
            ranges(&vec![0, 1, 5, 6, 7, 9]).into_iter().map(|range| (range.first, range.count)).collect();
        assert_eq!(got, [(0, 2), (5, 3), (9, 1)]);
    }
}

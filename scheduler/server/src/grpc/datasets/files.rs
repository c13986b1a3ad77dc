//! The files of a version: their list, and their contents.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tonic::Status;
use trainyard_content::Manifest;
use trainyard_proto::pb;
use trainyard_types::Violation;

use crate::content::{Permit, ReadError, Reader};
use crate::grpc::status::ApiError;

/// Files in one message: some 100 bytes each.
const FILES: usize = 2000;
/// Bytes in one message of contents.
const CHUNK: usize = 256 << 10;
/// How long a reader may take for one message.
const STALLED: Duration = Duration::from_secs(120);
/// Ranges in one request.
const MOST_RANGES: usize = 65_536;

/// Sends all files of a version.
pub(super) async fn send_list(
    manifest: Arc<Manifest>,
    messages: mpsc::Sender<Result<pb::ListDatasetFilesResponse, Status>>,
) {
    for first in (0..manifest.len()).step_by(FILES) {
        let places = first..manifest.len().min(first + FILES);
        let files = places.filter_map(|at| manifest.get(at)).map(|entry| pb::DatasetFile {
            path: entry.path.to_owned(),
            size_bytes: entry.size_bytes,
            sha256: entry.digest.0.to_vec(),
        });
        let message = pb::ListDatasetFilesResponse { files: files.collect() };
        if messages.send(Ok(message)).await.is_err() {
            return;
        }
    }
}

/// Sends contents of `size_bytes` in all, from `offset` on. Returns whether one of them is damaged.
pub(super) async fn send_contents(
    mut reader: Reader,
    mut offset: u64,
    size_bytes: u64,
    messages: mpsc::Sender<Result<pb::ReadDatasetResponse, Status>>,
    _permit: Permit,
) -> bool {
    let mut is_first = true;
    loop {
        let mut bytes = match reader.next().await {
            Ok(Some(bytes)) => bytes,
            Ok(None) => {
                if is_first {
                    // The size is told even of nothing; the reader may be gone.
                    let nothing = pb::ReadDatasetResponse { offset, data: Vec::new(), size_bytes };
                    let _ = messages.send(Ok(nothing)).await;
                }
                return false;
            }
            Err(error) => {
                let is_damaged = !matches!(error, ReadError::Store(_));
                // The reader may be gone.
                let _ = messages.send(Err(ApiError::from(error).into())).await;
                return is_damaged;
            }
        };
        while !bytes.is_empty() {
            let data = bytes.split_to(CHUNK.min(bytes.len()));
            let count = data.len() as u64;
            // The message owns its bytes; prost's `Vec` makes it a copy.
            let message = pb::ReadDatasetResponse { offset, data: data.into(), size_bytes };
            (offset, is_first) = (offset + count, false);
            // Whoever reads nothing for so long gives its place to others, and goes on with another call.
            match messages.send_timeout(Ok(message), STALLED).await {
                Ok(()) => {}
                Err(_) => return false,
            }
        }
    }
}

/// Ranges of files that are there.
pub(super) fn parse_ranges(
    ranges: &[pb::FileRange],
    manifest: &Manifest,
) -> Result<Vec<Range<usize>>, ApiError> {
    if ranges.len() > MOST_RANGES {
        let text = format!("has {} ranges; use at most {MOST_RANGES}, and several calls", ranges.len());
        return Err(ApiError::field("ranges", text));
    }
    let files = manifest.len() as u64;
    let count = ranges.iter().fold(0_u64, |all, range| all.saturating_add(range.count));
    if count > files {
        let text = format!("name {count} files, and there are {files}; name each at most once");
        return Err(ApiError::field("ranges", text));
    }
    let parse = |(at, range): (usize, &pb::FileRange)| {
        let end = range.first.checked_add(range.count).filter(|end| *end <= files);
        let place = |value: u64| usize::try_from(value).ok();
        end.and_then(|end| Some(place(range.first)?..place(end)?)).ok_or_else(|| {
            let text = format!("is {} files from {} on; there are {files}", range.count, range.first);
            ApiError::Invalid(vec![Violation::new(format!("ranges[{at}]"), text)])
        })
    };
    ranges.iter().enumerate().map(parse).collect()
}

/// The one file with a path.
pub(super) fn of_path(
    path: &str,
    ranges: &[pb::FileRange],
    manifest: &Manifest,
) -> Result<Vec<Range<usize>>, ApiError> {
    if !ranges.is_empty() {
        return Err(ApiError::field("path", "is given as well as `ranges`; give one of them"));
    }
    let hint = "`yard data show NAME --files` lists what there is";
    let found =
        manifest.find(path).ok_or(ApiError::NotFound { kind: "file", name: path.to_owned(), hint })?;
    Ok(std::iter::once(found..found + 1).collect())
}

/// The bytes of all contents, which are at least as many as are to be skipped.
pub(super) fn size_after(manifest: &Manifest, ranges: &[Range<usize>], offset: u64) -> Result<u64, ApiError> {
    let files = ranges.iter().cloned().flatten().filter_map(|at| manifest.get(at));
    let size_bytes = files.fold(0_u64, |all, entry| all.saturating_add(entry.size_bytes));
    if offset > size_bytes { Err(ApiError::OffsetTooLarge { offset, size_bytes }) } else { Ok(size_bytes) }
}

impl From<ReadError> for ApiError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Missing(_) => Self::ContentMissing(error.to_string()),
            ReadError::Damaged(_) => Self::DataLoss(error.to_string()),
            ReadError::Store(cause) => Self::objects(&cause),
        }
    }
}

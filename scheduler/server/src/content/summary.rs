//! What is in a data set's version, for people who look: its classes, how often each is marked, some of its pictures.
//! Read from its label files once, and kept beside them.

mod count;
mod tree;

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use object_store::path::Path;
use object_store::{ObjectStoreExt as _, PutPayload};
use serde::{Deserialize, Serialize};
use trainyard_content::{Digest, Manifest};
use trainyard_types::SizeLimit;

use super::{Content, ContentError, ReadError, Reader, aside};
use crate::content_records::VersionRecord;
use count::Count;
use tree::{Label, Most, Tree};

/// The folder of summaries among the objects.
pub(super) const FOLDER: &str = "summaries";
/// Label files that are read: of more, some are left out evenly.
const LABELS: Most = Most { files: 300_000, bytes: 2 << 30 };
/// Texts of label files that are in memory at once.
const AT_ONCE: Most = Most { files: 4096, bytes: 32 << 20 };
/// The rules by which summaries are made: one that was kept under others is made anew.
const RULES: u32 = 1;

/// Images of a split.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SplitImages {
    pub split: String,
    pub count: u64,
}

/// A class, and how often it is marked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassCount {
    pub name: String,
    pub boxes: u64,
    /// Images that have it at least once.
    pub images: u64,
}

/// A box, relative to its image: centre and size from 0 to 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MarkedBox {
    pub class: u32,
    pub x: f32,
    pub y: f32,
    pub width: f32,
    pub height: f32,
}

/// A picture with its boxes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    pub path: String,
    pub split: String,
    pub boxes: Vec<MarkedBox>,
}

/// Splits, classes and pictures of a version.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    pub images: Vec<SplitImages>,
    /// By id.
    pub classes: Vec<ClassCount>,
    pub samples: Vec<Sample>,
    /// Whether label files were left out.
    pub partial: bool,
    /// The rules by which it was made.
    #[serde(default)]
    rules: u32,
}

/// Why there is no summary.
#[derive(Debug, thiserror::Error)]
pub enum SummaryError {
    #[error(transparent)]
    Content(#[from] ContentError),
    #[error(transparent)]
    Read(#[from] ReadError),
}

pub(super) fn path(id: Digest) -> Path {
    Path::from(format!("{FOLDER}/{id}"))
}

impl Content {
    /// What is in a version of a data set. What its files do not tell is left out.
    ///
    /// # Errors
    /// A content is missing or damaged; the stores.
    pub async fn summary(&self, version: &VersionRecord) -> Result<Summary, SummaryError> {
        if let Some(kept) = self.kept_summary(version.id).await? {
            return Ok(kept);
        }
        // Whoever waited for another one's finds it kept.
        let _turn = self.0.summaries.lock().await;
        if let Some(kept) = self.kept_summary(version.id).await? {
            return Ok(kept);
        }
        let manifest = self.manifest(version).await?;
        let summary = self.count(&manifest).await?;
        // What cannot be kept is read again next time.
        if let Ok(text) = serde_json::to_vec(&summary) {
            let _kept = self.0.objects.put(&path(version.id), PutPayload::from(text)).await;
        }
        Ok(summary)
    }

    async fn kept_summary(&self, id: Digest) -> Result<Option<Summary>, ContentError> {
        let bytes = match self.0.objects.get(&path(id)).await {
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            read => read?.bytes().await?,
        };
        Ok(serde_json::from_slice(&bytes).ok().filter(|kept: &Summary| kept.rules == RULES))
    }

    async fn count(&self, manifest: &Arc<Manifest>) -> Result<Summary, SummaryError> {
        let mut files = Vec::new();
        for name in tree::FILES {
            let limit = if name.ends_with(".txt") { SizeLimit::LIST } else { SizeLimit::DATA_YAML };
            files.push(self.small_file(manifest, name, limit).await?);
        }
        let tree = aside(manifest, move |manifest| Tree::of(manifest, &files, LABELS)).await;
        let mut count = Count::new(&tree);
        let reader = self.reader(Arc::clone(manifest), runs(&tree.labels), 0).await?;
        let mut files = Files { reader, rest: BytesMut::new() };
        let mut read = tree.labels.into_iter().peekable();
        while read.peek().is_some() {
            // Texts of some thousand files are parsed where nobody waits for it.
            let (mut some, mut bytes) = (Vec::new(), 0);
            while some.len() < AT_ONCE.files && bytes < AT_ONCE.bytes {
                let Some(label) = read.next() else { break };
                let size = manifest.get(label.file).map_or(0, |entry| entry.size_bytes);
                bytes += size;
                some.push((label, files.next(size).await?));
            }
            count = aside(manifest, move |_| {
                some.into_iter().for_each(|(label, text)| count.take(&label, &text));
                count
            })
            .await;
        }
        Ok(Summary { rules: RULES, ..count.finish() })
    }

    /// A file's content; empty where it is not there or too large.
    async fn small_file(
        &self,
        manifest: &Arc<Manifest>,
        name: &str,
        limit: SizeLimit,
    ) -> Result<Bytes, SummaryError> {
        let Some(at) = manifest.find(name) else { return Ok(Bytes::new()) };
        let (places, mut content) = (self.places().await?, BytesMut::new());
        self.read_file(manifest, &places, at, limit, |part| content.extend_from_slice(&part)).await?;
        Ok(content.freeze())
    }
}

/// Label files that follow each other, as ranges.
fn runs(labels: &[Label]) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for label in labels {
        match runs.last_mut().filter(|last| last.end == label.file) {
            Some(last) => last.end += 1,
            None => runs.push(label.file..label.file + 1),
        }
    }
    runs
}

/// Files as they come from a reader, one after the other.
struct Files {
    reader: Reader,
    rest: BytesMut,
}

impl Files {
    async fn next(&mut self, size: u64) -> Result<Bytes, ReadError> {
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        while self.rest.len() < size {
            match self.reader.next().await? {
                Some(bytes) => self.rest.extend_from_slice(&bytes),
                None => break,
            }
        }
        Ok(self.rest.split_to(size.min(self.rest.len())).freeze())
    }
}

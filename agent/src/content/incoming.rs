//! Makes blobs of the bytes of a stream: the contents of some files, one after the other.

use std::sync::Arc;

use trainyard_content::{Entry, Hasher, Manifest};

use super::fetch::Target;
use super::fetch_error::FetchError;
use super::unfinished::{KEPT_FROM, Unfinished};

/// What comes of some files of a version. A cut stream goes on at [`Self::offset`].
pub struct Incoming {
    target: Arc<Target>,
    /// The files, by their places in the version's order.
    files: Vec<u32>,
    /// Number of `files` that have come whole.
    over: usize,
    /// Bytes of those that are over.
    over_bytes: u64,
    file: Option<Unfinished>,
    hasher: Hasher,
    /// Those that came with other bytes than the list says.
    damaged: Vec<u32>,
}

/// The stream has other bytes than were asked for.
#[derive(Debug, PartialEq, Eq)]
pub struct Misplaced;

impl Incoming {
    /// A stream of `files` of which no byte has come yet.
    pub fn new(target: Arc<Target>, files: Vec<u32>) -> Self {
        Self { target, files, over: 0, over_bytes: 0, file: None, hasher: Hasher::new(), damaged: Vec::new() }
    }

    /// Takes what a former stream has left of the first file, if that is a large one.
    ///
    /// # Errors
    /// The disk's.
    pub fn begin(&mut self) -> Result<(), FetchError> {
        let target = Arc::clone(&self.target);
        let first = self.current(&target.manifest).filter(|entry| entry.size_bytes >= KEPT_FROM);
        let Some(entry) = first else { return Ok(()) };
        let found = Unfinished::found(&target.store, entry, &mut self.hasher);
        let found = found.map_err(FetchError::at(&target.store.layout().partial(entry.digest)))?;
        if found.bytes() < entry.size_bytes {
            self.file = Some(found);
            return Ok(());
        }
        self.finish(&target, entry, found)
    }

    /// Number of bytes that have come.
    pub fn offset(&self) -> u64 {
        self.over_bytes + self.file.as_ref().map_or(0, Unfinished::bytes)
    }

    /// Whether all files have come.
    pub fn is_over(&self) -> bool {
        self.over == self.files.len()
    }

    /// Those that came with other bytes than the list says.
    pub fn damaged(&self) -> &[u32] {
        &self.damaged
    }

    /// Takes the next bytes, which begin at `offset` of all.
    ///
    /// # Errors
    /// They are not the next ones (`Ok(Err(…))`), or the disk refuses them.
    pub fn take(&mut self, offset: u64, mut data: &[u8]) -> Result<Result<(), Misplaced>, FetchError> {
        if offset != self.offset() {
            return Ok(Err(Misplaced));
        }
        let target = Arc::clone(&self.target);
        loop {
            let Some(entry) = self.current(&target.manifest) else {
                return Ok(if data.is_empty() { Ok(()) } else { Err(Misplaced) });
            };
            let mut unfinished = match self.file.take() {
                Some(unfinished) => unfinished,
                None => Unfinished::new(&target.store, entry)
                    .map_err(FetchError::at(target.store.layout().content()))?,
            };
            let left = entry.size_bytes - unfinished.bytes();
            let count = usize::try_from(left).unwrap_or(usize::MAX).min(data.len());
            let (now, later) = data.split_at(count);
            let written = unfinished.write(now);
            written.map_err(FetchError::at(unfinished.path()))?;
            self.hasher.update(now);
            target.came(count as u64);
            data = later;
            if unfinished.bytes() < entry.size_bytes {
                self.file = Some(unfinished);
                return Ok(Ok(()));
            }
            self.finish(&target, entry, unfinished)?;
        }
    }

    fn current<'a>(&self, manifest: &'a Manifest) -> Option<Entry<'a>> {
        manifest.get(*self.files.get(self.over)? as usize)
    }

    fn finish(
        &mut self,
        target: &Target,
        entry: Entry<'_>,
        unfinished: Unfinished,
    ) -> Result<(), FetchError> {
        if self.hasher.take() == entry.digest {
            let added = unfinished.finish(&target.root, entry);
            target.stored(added.map_err(FetchError::at(&target.root.join(entry.path)))?);
        } else {
            target.lost(unfinished.came());
            unfinished.discard();
            self.damaged.push(self.files[self.over]);
        }
        self.over += 1;
        self.over_bytes += entry.size_bytes;
        Ok(())
    }
}

//! The ZIP around a pickle and its storages. Nothing is ever written to disk, so names lead nowhere.

use std::io::{Read, Seek};

use zip::ZipArchive;

use super::PtError;
use super::pickle::MAX_BYTES;

/// Entries of a ZIP; the largest YOLOv8 has some 700 tensors.
const MAX_ENTRIES: usize = 20_000;

/// An open `.pt` file.
pub(super) struct Archive<R> {
    zip: ZipArchive<R>,
    /// The folder inside that everything is in: `best/`.
    root: String,
    /// Bytes that may still be read. Entries do not overlap, so more than the file has is a trick.
    left: u64,
}

impl<R: Read + Seek> Archive<R> {
    pub(super) fn open(file: R, length: u64) -> Result<Self, PtError> {
        let zip = ZipArchive::new(file)?;
        if zip.len() > MAX_ENTRIES {
            return Err(PtError::TooLarge { what: "parts", limit: MAX_ENTRIES as u64 });
        }
        let root = zip.file_names().flatten().find_map(|name| {
            let root = name.strip_suffix("data.pkl")?;
            (root.ends_with('/') && root.matches('/').count() == 1).then(|| root.to_owned())
        });
        let root = root.ok_or_else(|| PtError::NoEntry("data.pkl".to_owned()))?;
        let mut archive = Self { zip, root, left: length };
        // Old versions do not say, and were little-endian.
        match archive.entry("byteorder", None) {
            Ok(order) if order != b"little" => Err(PtError::BigEndian),
            Ok(_) | Err(PtError::NoEntry(_)) => Ok(archive),
            Err(error) => Err(error),
        }
    }

    /// The pickle.
    pub(super) fn pickle(&mut self) -> Result<Vec<u8>, PtError> {
        self.entry("data.pkl", None)
    }

    /// The storage with that key, which must have `bytes` bytes.
    pub(super) fn storage(&mut self, key: u32, bytes: u64) -> Result<Vec<u8>, PtError> {
        self.entry(&format!("data/{key}"), Some(bytes))
    }

    fn entry(&mut self, name: &str, expected: Option<u64>) -> Result<Vec<u8>, PtError> {
        let full = format!("{}{name}", self.root);
        let mut entry = match self.zip.by_name(&full) {
            Err(zip::result::ZipError::FileNotFound) => return Err(PtError::NoEntry(full)),
            entry => entry?,
        };
        let size = entry.size();
        let limit = expected.unwrap_or(MAX_BYTES as u64);
        if size > limit || expected.is_some_and(|expected| expected != size) {
            return Err(PtError::Size { name: full, found: size, expected: limit });
        }
        // A ZIP's directory may lie about sizes: what is not there is not reserved, either.
        self.left = self.left.checked_sub(size).ok_or_else(|| PtError::Size {
            name: full.clone(),
            found: self.left,
            expected: size,
        })?;
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
        entry.by_ref().take(size).read_to_end(&mut bytes)?;
        if bytes.len() as u64 == size {
            return Ok(bytes);
        }
        Err(PtError::Size { name: full, found: bytes.len() as u64, expected: size })
    }
}

//! Decoded images in files, named after what they were made of. A cache only: whatever goes wrong here
//! costs time, never a training.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::UNIX_EPOCH;

use sha2::{Digest, Sha256};

use crate::data::image::Image;

/// First bytes of an entry; changes with the format, the decoder and the resize.
const MAGIC: [u8; 8] = *b"TYIMG\x00\x00\x01";

/// Magic, width, height, checksum.
const HEADER_BYTES: usize = 24;

/// Tells temporary files of one process apart.
static NEXT_TEMPORARY: AtomicU64 = AtomicU64::new(0);

/// A directory of decoded images.
#[derive(Debug)]
pub struct DiskCache {
    directory: PathBuf,
    /// Set by the first failed write; no more are tried then.
    read_only: AtomicBool,
}

impl DiskCache {
    /// Entries go below `directory`, which is created by the first of them.
    pub fn new(directory: PathBuf) -> Self {
        Self { directory, read_only: AtomicBool::new(false) }
    }

    /// The file for `source` at a long side of `imgsz`: another as soon as the source changes.
    /// `None` when the source cannot be looked at.
    pub fn entry(&self, source: &Path, imgsz: usize) -> Option<PathBuf> {
        let metadata = fs::metadata(source).ok()?;
        let modified = metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
        let mut hash = Sha256::new();
        hash.update(MAGIC);
        for number in [metadata.len(), modified.as_secs(), modified.subsec_nanos().into(), imgsz as u64] {
            hash.update(number.to_le_bytes());
        }
        // Beside numbers of fixed length, so that no two keys run together.
        hash.update(source.as_os_str().as_encoded_bytes());
        let name = hex::encode(&hash.finalize()[..16]);
        Some(self.directory.join(&name[..2]).join(format!("{name}.rgb")))
    }

    /// The image of an entry; `None` when there is none, or a damaged one.
    pub fn read(&self, entry: &Path) -> Option<Image> {
        let mut file = fs::File::open(entry).ok()?;
        let mut header = [0; HEADER_BYTES];
        file.read_exact(&mut header).ok()?;
        let word =
            |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        if header[..8] != MAGIC {
            return None;
        }
        let (width, height) = (word(8) as usize, word(12) as usize);
        let checksum = u64::from(word(16)) | u64::from(word(20)) << 32;
        let bytes = width.checked_mul(height)?.checked_mul(3)?;
        // A damaged header must not make us reserve the machine's memory.
        if file.metadata().ok()?.len() != (HEADER_BYTES + bytes) as u64 {
            return None;
        }
        let mut rgb = Vec::with_capacity(bytes);
        file.read_to_end(&mut rgb).ok()?;
        (rgb.len() == bytes && checksum_of(&rgb, width) == checksum).then_some(Image { width, height, rgb })
    }

    /// Writes an entry, whole or not at all. Returns a warning for the user at the first failure; after
    /// that nothing is written any more.
    pub fn write(&self, entry: &Path, image: &Image) -> Option<String> {
        if self.read_only.load(Ordering::Relaxed) {
            return None;
        }
        let error = self.try_write(entry, image).err()?;
        let first = !self.read_only.swap(true, Ordering::Relaxed);
        let directory = self.directory.display();
        first.then(|| {
            format!("the image cache `{directory}` cannot be written ({error}); going on without it")
        })
    }

    fn try_write(&self, entry: &Path, image: &Image) -> io::Result<()> {
        let folder = entry.parent().unwrap_or(&self.directory);
        fs::create_dir_all(folder)?;
        let number = NEXT_TEMPORARY.fetch_add(1, Ordering::Relaxed);
        let temporary = folder.join(format!(".{}-{number}.part", std::process::id()));
        let written = write_file(&temporary, image).and_then(|()| fs::rename(&temporary, entry));
        if written.is_err() {
            // It may not even exist; the write's own error is the one to report.
            let _ = fs::remove_file(&temporary);
        }
        written
    }
}

fn write_file(path: &Path, image: &Image) -> io::Result<()> {
    let side = |pixels: usize| u32::try_from(pixels).map_err(io::Error::other);
    let mut header = Vec::with_capacity(HEADER_BYTES);
    header.extend_from_slice(&MAGIC);
    header.extend_from_slice(&side(image.width)?.to_le_bytes());
    header.extend_from_slice(&side(image.height)?.to_le_bytes());
    header.extend_from_slice(&checksum_of(&image.rgb, image.width).to_le_bytes());
    let mut file = fs::File::create(path)?;
    file.write_all(&header)?;
    file.write_all(&image.rgb)
}

/// Finds torn and flipped bytes; not meant against malice. Four lanes, so that it runs at memory speed.
fn checksum_of(bytes: &[u8], width: usize) -> u64 {
    const FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;
    let mut lanes = [bytes.len() as u64, width as u64, FACTOR, !FACTOR];
    let mut blocks = bytes.chunks_exact(32);
    for block in &mut blocks {
        for (lane, word) in lanes.iter_mut().zip(block.chunks_exact(8)) {
            let word = u64::from_le_bytes(word.try_into().expect("chunks of 8 bytes"));
            *lane = (*lane ^ word).wrapping_mul(FACTOR).rotate_left(29);
        }
    }
    for (index, byte) in blocks.remainder().iter().enumerate() {
        lanes[index % 4] = (lanes[index % 4] ^ u64::from(*byte)).wrapping_mul(FACTOR).rotate_left(29);
    }
    lanes.into_iter().fold(0, |sum, lane| (sum ^ lane).wrapping_mul(FACTOR).rotate_left(31))
}

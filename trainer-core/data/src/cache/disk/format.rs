//! The file of a disk cache: a header, an index entry for each image, then the pixels of all images.
//!
//! The offset of each image is known before its pixels are, as sizes follow from the data set. So images are written in
//! any order, by any thread, and an entry says with its checksums that its pixels are there and whole. An entry of zeros
//! is empty. Pixels of an image file that has changed are appended, where no reader of the old ones can meet them half
//! written. All numbers are little-endian.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use sha2::{Digest, Sha256};

use crate::dataset::ImageIndex;
use crate::files::checksum;
use crate::image::PlanarImage;
use crate::resample::resize::loaded_size;

/// Changes with the layout, the decoder and the resize.
const MAGIC: [u8; 8] = *b"TYCACHE\x04";
/// Bytes of the header: magic, image size, number of images, file length, key, name of the data set, checksum.
const HEADER_BYTES: usize = 4096;
const NAME_BYTES: usize = 1024;
const NAME_AT: usize = 64;
/// Bytes of an entry: width and height, offset of the pixels, their checksum, digest and stamp of their source file,
/// eight unused, and a checksum of all that.
const ENTRY_BYTES: usize = 64;
/// Offset in an entry of the checksum of the entry itself.
const OWN_CHECKSUM: usize = ENTRY_BYTES - 8;
/// The pixels of the first image, and appended ones, begin at a multiple of this: a page.
pub const ALIGNMENT: u64 = 4096;

/// What a file's images were made of, and so the file's name. It follows from contents, not from paths: a
/// data set that was moved or copied finds its cache again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key([u8; 32]);

impl Key {
    /// The key of `images` at a long side of `imgsz` pixels. It has the fingerprints of image files; the entry of an image
    /// has the digest of every byte.
    pub fn new(images: &ImageIndex, imgsz: usize) -> Self {
        let mut hash = Sha256::new();
        hash.update(MAGIC);
        hash.update((imgsz as u64).to_le_bytes());
        for index in 0..images.len() {
            let [width, height] = images.size(index);
            for number in [images.fingerprint(index), width as u64, height as u64] {
                hash.update(number.to_le_bytes());
            }
        }
        Self(hash.finalize().into())
    }

    /// The name of the file, without extension.
    pub fn name(&self) -> String {
        hex::encode(&self.0[..16])
    }
}

/// Where in the file the pixels of each image lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Long side of the images, pixels.
    pub imgsz: u32,
    /// Where the pixels of each image begin, and where those of the last one end.
    offsets: Vec<u64>,
}

impl Layout {
    /// The layout of `images` at a long side of `imgsz` pixels.
    pub fn new(images: &ImageIndex, imgsz: usize) -> Self {
        let index = HEADER_BYTES + images.len() * ENTRY_BYTES;
        let mut next = (index as u64).next_multiple_of(ALIGNMENT);
        let mut offsets = Vec::with_capacity(images.len() + 1);
        offsets.push(next);
        for index in 0..images.len() {
            let [width, height] = loaded_size(images.size(index), imgsz);
            next = next.saturating_add((3 * width * height) as u64).next_multiple_of(64);
            offsets.push(next);
        }
        Self { imgsz: u32::try_from(imgsz).unwrap_or(u32::MAX), offsets }
    }

    /// Bytes of memory that this takes.
    pub fn memory_bytes(&self) -> usize {
        self.offsets.capacity() * size_of::<u64>()
    }

    /// Number of images.
    pub fn images(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Length of the whole file while no image has changed, bytes.
    pub fn file_bytes(&self) -> u64 {
        self.offsets[self.images()]
    }

    /// Where the pixels of an image begin.
    pub fn offset(&self, index: usize) -> u64 {
        self.offsets[index]
    }

    /// Whether `bytes` of pixels fit between the offset of an image and that of the next.
    pub fn fits(&self, index: usize, bytes: usize) -> bool {
        self.offsets[index] + bytes as u64 <= self.offsets[index + 1]
    }
}

/// What a cache file says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Long side of its images, pixels.
    pub imgsz: u32,
    /// Number of images that it has room for.
    pub images: u64,
    /// Its length while no pixels are appended, bytes.
    pub file_bytes: u64,
    /// What its images were made of.
    pub key: Key,
    /// A folder of the data set, for people.
    pub name: String,
}

impl Header {
    /// The header as bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&u64::from(self.imgsz).to_le_bytes());
        bytes.extend_from_slice(&self.images.to_le_bytes());
        bytes.extend_from_slice(&self.file_bytes.to_le_bytes());
        bytes.extend_from_slice(&self.key.0);
        bytes.extend(self.name.bytes().take(NAME_BYTES));
        bytes.resize(HEADER_BYTES - 8, 0);
        let checksum = checksum(&bytes);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// The header of a file; `None` when it has none, or a damaged one.
    pub fn read(file: &File) -> Option<Self> {
        let mut bytes = vec![0; HEADER_BYTES];
        file.read_exact_at(&mut bytes, 0).ok()?;
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        if bytes[..8] != MAGIC || checksum(&bytes[..HEADER_BYTES - 8]) != word(HEADER_BYTES - 8) {
            return None;
        }
        let name: Vec<u8> =
            bytes[NAME_AT..NAME_AT + NAME_BYTES].iter().copied().take_while(|b| *b != 0).collect();
        let key = Key(bytes[32..64].try_into().expect("32 bytes"));
        Some(Self {
            imgsz: u32::try_from(word(8)).ok()?,
            images: word(16),
            file_bytes: word(24),
            key,
            name: String::from_utf8_lossy(&name).into_owned(),
        })
    }
}

/// What the index says of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Pixels from left to right.
    pub width: u32,
    /// Pixels from top to bottom.
    pub height: u32,
    /// Where in the file the pixels begin.
    pub offset: u64,
    /// The checksum of the pixels.
    pub checksum: u64,
    /// The digest of all bytes of the image file that they were made of.
    pub digest: u128,
    /// The stamp of the image file when it had this digest; 0 when it has to be read to know.
    pub stamp: u64,
}

impl Entry {
    /// The entry of `planes`, whose pixels begin at `offset`.
    pub fn of(planes: &PlanarImage, offset: u64, digest: u128, stamp: u64) -> Self {
        let side = |side: usize| u32::try_from(side).unwrap_or(u32::MAX);
        let (width, height) = (side(planes.width), side(planes.height));
        Self { width, height, offset, checksum: checksum(planes.bytes()), digest, stamp }
    }

    /// Number of bytes of the pixels.
    pub fn bytes(&self) -> usize {
        3 * self.width as usize * self.height as usize
    }

    fn encode(&self) -> [u8; ENTRY_BYTES] {
        let mut bytes = [0; ENTRY_BYTES];
        bytes[..4].copy_from_slice(&self.width.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.height.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.offset.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.checksum.to_le_bytes());
        bytes[24..40].copy_from_slice(&self.digest.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.stamp.to_le_bytes());
        let own = checksum(&bytes[..OWN_CHECKSUM]);
        bytes[OWN_CHECKSUM..].copy_from_slice(&own.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; ENTRY_BYTES]) -> Option<Self> {
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let half = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let entry = Self {
            width: half(0),
            height: half(4),
            offset: word(8),
            checksum: word(16),
            digest: u128::from(word(24)) | u128::from(word(32)) << 64,
            stamp: word(40),
        };
        let whole = word(OWN_CHECKSUM) == checksum(&bytes[..OWN_CHECKSUM]);
        (entry.width > 0 && entry.height > 0 && whole).then_some(entry)
    }

    /// Whether the entry of image `index` was never written.
    pub fn is_empty(file: &File, index: usize) -> bool {
        let mut bytes = [0; ENTRY_BYTES];
        file.read_exact_at(&mut bytes, entry_offset(index)).is_ok() && bytes == [0; ENTRY_BYTES]
    }

    /// The entry of image `index`; `None` when it is empty, or damaged.
    pub fn read(file: &File, index: usize) -> Option<Self> {
        let mut bytes = [0; ENTRY_BYTES];
        file.read_exact_at(&mut bytes, entry_offset(index)).ok()?;
        Self::decode(&bytes)
    }

    /// Writes it as the entry of image `index`.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn write(&self, file: &File, index: usize) -> io::Result<()> {
        file.write_all_at(&self.encode(), entry_offset(index))
    }
}

/// The offset of the entry of image `index`.
fn entry_offset(index: usize) -> u64 {
    (HEADER_BYTES + index * ENTRY_BYTES) as u64
}

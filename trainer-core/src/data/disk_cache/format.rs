//! The file of a disk cache: a header, an index entry for each image, then the pixels of all images.
//!
//! Every place is known before a pixel is: sizes follow from the data set. So images are written in any
//! order, by any thread, and an entry says with its checksums that its pixels are there and whole. Entries
//! that are zero are empty. All numbers are little-endian.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::UNIX_EPOCH;

use sha2::{Digest, Sha256};

use crate::data::items::Items;
use crate::data::letterbox::loaded_size;

/// Changes with the layout, the decoder and the resize.
const MAGIC: [u8; 8] = *b"TYCACHE\x02";
/// Magic, image size, images, file length, key, name of the data set.
const HEADER_BYTES: usize = 4096;
const NAME_BYTES: usize = 1024;
const NAME_AT: usize = 64;
/// Width and height, where the pixels begin, their checksum, and a checksum of all that.
const ENTRY_BYTES: usize = 32;
/// Pixels begin at multiples of this.
const ALIGNMENT: u64 = 4096;

/// What a file's images were made of, and so the file's name: a change to any source makes another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key([u8; 32]);

impl Key {
    /// Of images at a long side of `imgsz`. Sources are known by path, length and time of change.
    pub fn new(items: &Items, imgsz: usize) -> Self {
        let mut hash = Sha256::new();
        hash.update(MAGIC);
        hash.update((imgsz as u64).to_le_bytes());
        for item in items.iter() {
            let path = item.path.as_os_str().as_encoded_bytes();
            for number in [path.len() as u64, item.width as u64, item.height as u64] {
                hash.update(number.to_le_bytes());
            }
            hash.update(path);
            hash.update(stamp(&item.path).unwrap_or_default());
        }
        Self(hash.finalize().into())
    }

    /// The name of its file, without a suffix.
    pub fn name(&self) -> String {
        hex::encode(&self.0[..16])
    }
}

/// Length and time of change of a file, as bytes; `None` when it cannot be looked at.
pub fn stamp(source: &Path) -> Option<[u8; 24]> {
    let metadata = std::fs::metadata(source).ok()?;
    let changed = metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    let mut stamp = [0; 24];
    for (place, number) in
        stamp.chunks_exact_mut(8).zip([metadata.len(), changed.as_secs(), u64::from(changed.subsec_nanos())])
    {
        place.copy_from_slice(&number.to_le_bytes());
    }
    Some(stamp)
}

/// Where everything is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Long side of the images.
    pub imgsz: u32,
    /// Where the pixels of each image begin, and where the last ones end.
    offsets: Vec<u64>,
}

impl Layout {
    /// Of a data set's images at a long side of `imgsz`.
    pub fn new(items: &Items, imgsz: usize) -> Self {
        let index = HEADER_BYTES + items.len() * ENTRY_BYTES;
        let mut next = (index as u64).next_multiple_of(ALIGNMENT);
        let mut offsets = Vec::with_capacity(items.len() + 1);
        offsets.push(next);
        for index in 0..items.len() {
            let [width, height] = loaded_size(items.size(index), imgsz);
            next = next.saturating_add((3 * width * height) as u64).next_multiple_of(64);
            offsets.push(next);
        }
        Self { imgsz: u32::try_from(imgsz).unwrap_or(u32::MAX), offsets }
    }

    /// Images.
    pub fn images(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Length of the whole file, bytes.
    pub fn file_bytes(&self) -> u64 {
        self.offsets[self.images()]
    }

    /// Where the pixels of an image begin.
    pub fn offset(&self, index: usize) -> u64 {
        self.offsets[index]
    }

    /// Whether an image of so many bytes has room in its place.
    pub fn has_room(&self, index: usize, bytes: usize) -> bool {
        self.offsets[index] + bytes as u64 <= self.offsets[index + 1]
    }
}

/// What a file says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Long side of its images.
    pub imgsz: u32,
    /// How many images there is room for.
    pub images: u64,
    /// Its length, bytes.
    pub file_bytes: u64,
    /// What it was made of.
    pub key: Key,
    /// A folder of the data set, for people.
    pub name: String,
}

impl Header {
    /// As bytes.
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

    /// Of a file; `None` when it has none, or a damaged one.
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
    /// Of the pixels.
    pub checksum: u64,
}

impl Entry {
    /// Of these pixels, which begin at `offset`.
    pub fn of(width: usize, height: usize, offset: u64, pixels: &[u8]) -> Self {
        let side = |side: usize| u32::try_from(side).unwrap_or(u32::MAX);
        Self { width: side(width), height: side(height), offset, checksum: checksum(pixels) }
    }

    /// Bytes of the pixels.
    pub fn bytes(&self) -> usize {
        3 * self.width as usize * self.height as usize
    }

    fn encode(&self) -> [u8; ENTRY_BYTES] {
        let mut bytes = [0; ENTRY_BYTES];
        bytes[..4].copy_from_slice(&self.width.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.height.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.offset.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.checksum.to_le_bytes());
        let own = checksum(&bytes[..24]);
        bytes[24..].copy_from_slice(&own.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; ENTRY_BYTES]) -> Option<Self> {
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let half = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let entry = Self { width: half(0), height: half(4), offset: word(8), checksum: word(16) };
        (entry.width > 0 && entry.height > 0 && word(24) == checksum(&bytes[..24])).then_some(entry)
    }

    /// Whether nothing was ever written as that of image `index`.
    pub fn is_empty(file: &File, index: usize) -> bool {
        let mut bytes = [0; ENTRY_BYTES];
        file.read_exact_at(&mut bytes, place(index)).is_ok() && bytes == [0; ENTRY_BYTES]
    }

    /// Of image `index`; `None` when it is empty, or damaged.
    pub fn read(file: &File, index: usize) -> Option<Self> {
        let mut bytes = [0; ENTRY_BYTES];
        file.read_exact_at(&mut bytes, place(index)).ok()?;
        Self::decode(&bytes)
    }

    /// Writes it as that of image `index`.
    pub fn write(&self, file: &File, index: usize) -> io::Result<()> {
        file.write_all_at(&self.encode(), place(index))
    }
}

fn place(index: usize) -> u64 {
    (HEADER_BYTES + index * ENTRY_BYTES) as u64
}

/// Finds torn and flipped bytes; not meant against malice. Four lanes, so that it runs at memory speed.
pub fn checksum(bytes: &[u8]) -> u64 {
    const FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;
    let mut lanes = [bytes.len() as u64, 1, FACTOR, !FACTOR];
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

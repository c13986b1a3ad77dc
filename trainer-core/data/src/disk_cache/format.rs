//! The file of a disk cache: a header, an index entry for each image, then the pixels of all images.
//!
//! Every place is known before a pixel is: sizes follow from the data set. So images are written in any
//! order, by any thread, and an entry says with its checksums that its pixels are there and whole. Entries
//! that are zero are empty. Pixels of an image file that has changed are put behind all places, where no reader of the
//! old ones can meet them half written. All numbers are little-endian.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use sha2::{Digest, Sha256};
use xxhash_rust::xxh3::xxh3_64;

use crate::items::Items;
use crate::letterbox::loaded_size;
use crate::planes::Planes;

/// Changes with the layout, the decoder and the resize.
const MAGIC: [u8; 8] = *b"TYCACHE\x04";
/// Magic, image size, images, file length, key, name of the data set.
const HEADER_BYTES: usize = 4096;
const NAME_BYTES: usize = 1024;
const NAME_AT: usize = 64;
/// Width and height, where the pixels begin, their checksum, digest and stamp of their source, nothing yet, and a
/// checksum of all that.
const ENTRY_BYTES: usize = 64;
const OWN_CHECKSUM: usize = ENTRY_BYTES - 8;
/// Pixels begin at multiples of this.
pub const ALIGNMENT: u64 = 4096;

/// What a file's images were made of, and so the file's name. It follows from contents, not from places: a
/// data set that was moved or copied finds its cache again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key([u8; 32]);

impl Key {
    /// Of images at a long side of `imgsz`. Files are known by their fingerprints here; that no byte of one
    /// differs is seen at its entry.
    pub fn new(items: &Items, imgsz: usize) -> Self {
        let mut hash = Sha256::new();
        hash.update(MAGIC);
        hash.update((imgsz as u64).to_le_bytes());
        for index in 0..items.len() {
            let [width, height] = items.size(index);
            for number in [items.fingerprint(index), width as u64, height as u64] {
                hash.update(number.to_le_bytes());
            }
        }
        Self(hash.finalize().into())
    }

    /// The name of its file, without a suffix.
    pub fn name(&self) -> String {
        hex::encode(&self.0[..16])
    }
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

    /// Bytes of memory that this takes.
    pub fn memory_bytes(&self) -> usize {
        self.offsets.capacity() * size_of::<u64>()
    }

    /// Images.
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
    /// Of all bytes of the image file that they were made from.
    pub digest: u128,
    /// The stamp of a file that was seen to have this digest; 0 when it has to be read again.
    pub stamp: u64,
}

impl Entry {
    /// Of these pixels, which begin at `offset`.
    pub fn of(planes: &Planes, offset: u64, digest: u128, stamp: u64) -> Self {
        let side = |side: usize| u32::try_from(side).unwrap_or(u32::MAX);
        let (width, height) = (side(planes.width), side(planes.height));
        Self { width, height, offset, checksum: checksum(planes.bytes()), digest, stamp }
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

/// Finds torn and flipped bytes; not meant against malice.
pub fn checksum(bytes: &[u8]) -> u64 {
    xxh3_64(bytes)
}

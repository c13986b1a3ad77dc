//! The image file directory (IFD) of a TIFF's first picture, and where in the file its entries stand. Reads TIFF and
//! BigTIFF, with offsets of 32 and of 64 bits.

use std::fs::File;
use std::os::unix::fs::FileExt;

/// The tags StripOffsets and TileOffsets.
const OFFSETS: [u16; 2] = [273, 324];
/// The tags StripByteCounts and TileByteCounts.
const LENGTHS: [u16; 2] = [279, 325];
/// The most bytes of a list of offsets or lengths that is read.
const MAX_LIST_BYTES: usize = 16 << 20;
/// The most entries of a directory.
const MAX_ENTRIES: u64 = 1 << 16;

/// A file, or its bytes, read at any offset.
pub(super) trait ReadAt {
    /// Fills `bytes` with those from `at` on; `None` when there are not so many.
    fn fill(&self, bytes: &mut [u8], at: u64) -> Option<()>;
}

impl ReadAt for &File {
    fn fill(&self, bytes: &mut [u8], at: u64) -> Option<()> {
        self.read_exact_at(bytes, at).ok()
    }
}

impl ReadAt for &[u8] {
    fn fill(&self, bytes: &mut [u8], at: u64) -> Option<()> {
        let at = usize::try_from(at).ok()?;
        bytes.copy_from_slice(self.get(at..at.checked_add(bytes.len())?)?);
        Some(())
    }
}

/// The first image file directory of a file.
pub(super) struct Ifd<B> {
    file: B,
    layout: Layout,
    /// Offset of the first entry.
    begin: u64,
    /// The bytes of all entries.
    entries: Vec<u8>,
}

impl<B: ReadAt> Ifd<B> {
    /// Reads the first directory of a file; `None` when it has none, or a damaged one.
    pub fn read(file: B) -> Option<Self> {
        let mut head = [0; 16];
        file.fill(&mut head[..8], 0)?;
        let order = ByteOrder::of(head[..2].try_into().ok()?)?;
        let (layout, at) = match order.number(&head[2..4]) {
            42 => (Layout { order, word: 4, count: 2 }, order.number(&head[4..8])),
            43 => {
                file.fill(&mut head, 0)?;
                (Layout { order, word: 8, count: 8 }, order.number(&head[8..16]))
            }
            _ => return None,
        };
        let mut count = [0; 8];
        let count = &mut count[..layout.count];
        file.fill(count, at)?;
        let count = Some(order.number(count)).filter(|count| *count <= MAX_ENTRIES)?;
        let mut entries = vec![0; layout.entry() * usize::try_from(count).ok()?];
        let begin = at.checked_add(layout.count as u64)?;
        file.fill(&mut entries, begin)?;
        Some(Self { file, layout, begin, entries })
    }

    /// The value of a tag of type SHORT; `None` when there is no such tag.
    pub fn short(&self, tag: u16) -> Option<Short> {
        let Layout { order, word, .. } = self.layout;
        let size = self.layout.entry();
        let mut entries = self.entries.chunks_exact(size).enumerate();
        let (number, entry) = entries.find(|(_, entry)| self.layout.tag(entry) == tag)?;
        let at = self.begin + (number * size + 4 + word) as u64;
        Some(Short { value: order.short(&entry[4 + word..]), order, at })
    }

    /// The offset at which the last chunk of the picture ends; `None` where that cannot be told.
    pub fn pixels_end(&self) -> Option<u64> {
        let starts = self.numbers(OFFSETS)?;
        starts
            .into_iter()
            .zip(self.numbers(LENGTHS)?)
            .map(|(start, length)| start.saturating_add(length))
            .max()
    }

    /// The whole numbers of the entry that has one of two tags.
    fn numbers(&self, tags: [u16; 2]) -> Option<Vec<u64>> {
        let Layout { order, word, .. } = self.layout;
        let mut entries = self.entries.chunks_exact(self.layout.entry());
        let entry = entries.find(|entry| tags.contains(&self.layout.tag(entry)))?;
        let size = match order.number(&entry[2..4]) {
            3 => 2,
            4 => 4,
            16 => 8,
            _ => return None,
        };
        let (length, value) = entry[4..].split_at(word);
        let length = usize::try_from(order.number(length)).ok()?.checked_mul(size)?;
        if length > MAX_LIST_BYTES {
            return None;
        }
        let mut bytes = vec![0; length];
        // What is short enough stands in the entry itself.
        match value.get(..length) {
            Some(inside) => bytes.copy_from_slice(inside),
            None => self.file.fill(&mut bytes, order.number(value))?,
        }
        Some(bytes.chunks_exact(size).map(|number| order.number(number)).collect())
    }
}

/// The value of a tag of type SHORT, a number of two bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Short {
    pub value: u16,
    pub order: ByteOrder,
    /// Its offset in the file.
    pub at: u64,
}

/// How the numbers of a directory are written.
#[derive(Debug, Clone, Copy)]
struct Layout {
    order: ByteOrder,
    /// Bytes of an offset.
    word: usize,
    /// Bytes of the number that counts the entries.
    count: usize,
}

impl Layout {
    /// Bytes of an entry: tag, type, number of values, and the values or their offset.
    fn entry(self) -> usize {
        4 + 2 * self.word
    }

    fn tag(self, entry: &[u8]) -> u16 {
        self.order.short(entry)
    }
}

/// Which byte of a number comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ByteOrder {
    LittleEndian,
    BigEndian,
}

impl ByteOrder {
    fn of(mark: [u8; 2]) -> Option<Self> {
        match &mark {
            b"II" => Some(Self::LittleEndian),
            b"MM" => Some(Self::BigEndian),
            _ => None,
        }
    }

    fn number(self, bytes: &[u8]) -> u64 {
        let add = |number: u64, byte: &u8| number << 8 | u64::from(*byte);
        match self {
            Self::LittleEndian => bytes.iter().rev().fold(0, add),
            Self::BigEndian => bytes.iter().fold(0, add),
        }
    }

    /// The number that begins `bytes`.
    fn short(self, bytes: &[u8]) -> u16 {
        u16::try_from(self.number(&bytes[..2])).expect("two bytes")
    }

    /// The two bytes of a number, as they stand in the file.
    pub fn bytes(self, number: u16) -> [u8; 2] {
        match self {
            Self::LittleEndian => number.to_le_bytes(),
            Self::BigEndian => number.to_be_bytes(),
        }
    }
}

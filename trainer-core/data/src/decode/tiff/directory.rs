//! The directory of a TIFF's first picture: what it says, and where in the file it says so. Of both kinds, with
//! offsets of 32 and of 64 bits.

use std::fs::File;
use std::os::unix::fs::FileExt;

/// Tags of where the parts of a picture begin, and of how long they are: of strips, or of tiles.
const STARTS: [u16; 2] = [273, 324];
const LENGTHS: [u16; 2] = [279, 325];
/// Bytes of the longest list of parts that is looked through.
const LONGEST_LIST: usize = 16 << 20;
/// Entries of the longest directory.
const MOST_ENTRIES: u64 = 1 << 16;

/// Bytes at any place.
pub(super) trait Bytes {
    /// Fills `bytes` with those from `at` on; `None` when there are not so many.
    fn fill(&self, bytes: &mut [u8], at: u64) -> Option<()>;
}

impl Bytes for &File {
    fn fill(&self, bytes: &mut [u8], at: u64) -> Option<()> {
        self.read_exact_at(bytes, at).ok()
    }
}

impl Bytes for &[u8] {
    fn fill(&self, bytes: &mut [u8], at: u64) -> Option<()> {
        let at = usize::try_from(at).ok()?;
        bytes.copy_from_slice(self.get(at..at.checked_add(bytes.len())?)?);
        Some(())
    }
}

/// The first directory of a file.
pub(super) struct Directory<B> {
    file: B,
    layout: Layout,
    /// Where the first entry is.
    begin: u64,
    /// All entries.
    entries: Vec<u8>,
}

impl<B: Bytes> Directory<B> {
    /// Of a file; `None` when it has none, or a damaged one.
    pub fn read(file: B) -> Option<Self> {
        let mut head = [0; 16];
        file.fill(&mut head[..8], 0)?;
        let order = Order::of(head[..2].try_into().ok()?)?;
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
        let count = Some(order.number(count)).filter(|count| *count <= MOST_ENTRIES)?;
        let mut entries = vec![0; layout.entry() * usize::try_from(count).ok()?];
        let begin = at.checked_add(layout.count as u64)?;
        file.fill(&mut entries, begin)?;
        Some(Self { file, layout, begin, entries })
    }

    /// A number of two bytes, which stands in its entry.
    pub fn short(&self, tag: u16) -> Option<Short> {
        let Layout { order, word, .. } = self.layout;
        let size = self.layout.entry();
        let mut entries = self.entries.chunks_exact(size).enumerate();
        let (number, entry) = entries.find(|(_, entry)| self.layout.tag(entry) == tag)?;
        let at = self.begin + (number * size + 4 + word) as u64;
        Some(Short { value: order.short(&entry[4 + word..]), order, at })
    }

    /// Where the last part of the picture ends; `None` where that cannot be told.
    pub fn pixels_end(&self) -> Option<u64> {
        let starts = self.numbers(STARTS)?;
        starts
            .into_iter()
            .zip(self.numbers(LENGTHS)?)
            .map(|(start, length)| start.saturating_add(length))
            .max()
    }

    /// The whole numbers of an entry of one of two tags.
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
        if length > LONGEST_LIST {
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

/// A number of two bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Short {
    pub value: u16,
    pub order: Order,
    /// Where it stands in the file.
    pub at: u64,
}

/// How a directory is written.
#[derive(Debug, Clone, Copy)]
struct Layout {
    order: Order,
    /// Bytes of an offset.
    word: usize,
    /// Bytes of the number of entries.
    count: usize,
}

impl Layout {
    /// Bytes of an entry: tag, type, number of values, values or where they are.
    fn entry(self) -> usize {
        4 + 2 * self.word
    }

    fn tag(self, entry: &[u8]) -> u16 {
        self.order.short(entry)
    }
}

/// Which byte of a number comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    LittleEndian,
    BigEndian,
}

impl Order {
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

    /// A number as it stands in the file.
    pub fn bytes(self, number: u16) -> [u8; 2] {
        match self {
            Self::LittleEndian => number.to_le_bytes(),
            Self::BigEndian => number.to_be_bytes(),
        }
    }
}

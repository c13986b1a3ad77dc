//! Where a TIFF's pixels lie: unlike those of other formats, anywhere in the file.

use std::fs::File;
use std::os::unix::fs::FileExt;

const ENTRY_BYTES: usize = 12;
/// Tags of where the parts of a picture begin, and of how long they are: of strips, or of tiles.
const STARTS: [u16; 2] = [273, 324];
const LENGTHS: [u16; 2] = [279, 325];
/// Bytes of the longest list of parts that is looked through.
const LONGEST_LIST: usize = 16 << 20;

/// Whether a part of the first picture lies beyond the `length` bytes of the file. Also true where that cannot be
/// told, as of a file with 64-bit offsets.
pub(super) fn seems_cut(file: &File, length: u64) -> bool {
    pixels_end(file).is_none_or(|end| end > length)
}

/// Where the last part of the first picture ends.
fn pixels_end(file: &File) -> Option<u64> {
    let mut head = [0; 8];
    file.read_exact_at(&mut head, 0).ok()?;
    let order = Order::of(head[..2].try_into().ok()?)?;
    if order.number(&head[2..4]) != 42 {
        return None;
    }
    let directory = order.number(&head[4..8]);
    let mut count = [0; 2];
    file.read_exact_at(&mut count, directory).ok()?;
    let mut entries = vec![0; ENTRY_BYTES * usize::try_from(order.number(&count)).ok()?];
    file.read_exact_at(&mut entries, directory + 2).ok()?;
    let list = |tags: [u16; 2]| {
        let mut entries = entries.chunks_exact(ENTRY_BYTES);
        let entry = entries.find(|entry| tags.iter().any(|tag| order.number(&entry[..2]) == u64::from(*tag)));
        numbers(file, order, entry?)
    };
    let ends = list(STARTS)?.into_iter().zip(list(LENGTHS)?).map(|(start, length)| start + length);
    ends.max()
}

/// The whole numbers of an entry.
fn numbers(file: &File, order: Order, entry: &[u8]) -> Option<Vec<u64>> {
    let size = match order.number(&entry[2..4]) {
        3 => 2,
        4 => 4,
        _ => return None,
    };
    let length = usize::try_from(order.number(&entry[4..8])).ok()?.checked_mul(size)?;
    if length > LONGEST_LIST {
        return None;
    }
    let mut bytes = vec![0; length];
    // What is short enough stands in the entry itself.
    match entry[8..].get(..length) {
        Some(inside) => bytes.copy_from_slice(inside),
        None => file.read_exact_at(&mut bytes, order.number(&entry[8..])).ok()?,
    }
    Some(bytes.chunks_exact(size).map(|number| order.number(number)).collect())
}

#[derive(Debug, Clone, Copy)]
enum Order {
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
}

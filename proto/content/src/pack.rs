//! Packs: the contents of many files in one object, since a million objects of 20 kB are slow on any store.
//!
//! | bytes | what |
//! |---|---|
//! | … | contents, one after the other |
//! | 40 each | index: SHA-256, size in bytes (`u64`, little endian), in the contents' order |
//! | 32 | SHA-256 of the index |
//! | 8 | number of contents (`u64`, little endian) |
//! | 8 | `trypack1` |

use crate::digest::Digest;

/// A pack is closed before it would have more bytes of contents. A larger file has one of its own.
pub const TARGET_BYTES: u64 = 64 << 20;
/// Bytes of the end of a pack, which tells how long the index before it is.
pub const FOOTER_BYTES: usize = 48;
/// Bytes of a row of the index.
const ROW_BYTES: usize = 40;
const MAGIC: &[u8; 8] = b"trypack1";

/// A pack that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PackError {
    /// It does not end as packs do.
    #[error("it does not end as a pack does")]
    Footer,
    /// The index has other bytes than were written.
    #[error("its index is damaged")]
    Index,
}

/// A content in a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    pub digest: Digest,
    /// Bytes of the pack before the content.
    pub offset: u64,
    pub size_bytes: u64,
}

/// The index of a pack.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Index {
    rows: Vec<Placed>,
    end: u64,
}

impl Index {
    /// Takes the next content.
    pub fn add(&mut self, digest: Digest, size_bytes: u64) {
        self.rows.push(Placed { digest, offset: self.end, size_bytes });
        self.end += size_bytes;
    }

    /// All contents, in the order in which they lie.
    pub fn rows(&self) -> &[Placed] {
        &self.rows
    }

    /// Bytes of all contents.
    pub fn content_bytes(&self) -> u64 {
        self.end
    }

    /// Whether there is nothing in the pack.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The bytes that follow the contents: index and footer.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.rows.len() * ROW_BYTES + FOOTER_BYTES);
        for row in &self.rows {
            bytes.extend_from_slice(&row.digest.0);
            bytes.extend_from_slice(&row.size_bytes.to_le_bytes());
        }
        let digest = Digest::of(&bytes);
        bytes.extend_from_slice(&digest.0);
        bytes.extend_from_slice(&(self.rows.len() as u64).to_le_bytes());
        bytes.extend_from_slice(MAGIC);
        bytes
    }

    /// Bytes from the index on to the pack's end, by its last [`FOOTER_BYTES`].
    ///
    /// # Errors
    /// These are not the last bytes of a pack.
    pub fn tail_bytes(footer: &[u8]) -> Result<u64, PackError> {
        let count = footer.strip_suffix(MAGIC).and_then(|rest| rest.last_chunk::<8>());
        let count = count.map(|count| u64::from_le_bytes(*count)).ok_or(PackError::Footer)?;
        let index = count.checked_mul(ROW_BYTES as u64).ok_or(PackError::Footer)?;
        index.checked_add(FOOTER_BYTES as u64).ok_or(PackError::Footer)
    }

    /// Reads what [`Self::encode`] has written.
    ///
    /// # Errors
    /// The index or the footer is damaged.
    pub fn decode(tail: &[u8]) -> Result<Self, PackError> {
        if Self::tail_bytes(tail)? != tail.len() as u64 {
            return Err(PackError::Footer);
        }
        let (index, footer) = tail.split_at(tail.len() - FOOTER_BYTES);
        if footer[..32] != Digest::of(index).0 {
            return Err(PackError::Index);
        }
        let mut read = Self::default();
        for row in index.chunks_exact(ROW_BYTES) {
            let (digest, size) = row.split_at(32);
            let (Some(digest), Ok(size)) = (Digest::from_bytes(digest), size.try_into()) else {
                return Err(PackError::Index);
            };
            read.add(digest, u64::from_le_bytes(size));
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_reads_what_it_has_written() {
        let mut index = Index::default();
        index.add(Digest::of(b"abc"), 3);
        index.add(Digest::of(b""), 0);
        index.add(Digest::of(b"z"), 1);
        let tail = index.encode();
        assert_eq!(Index::tail_bytes(&tail[tail.len() - FOOTER_BYTES..]), Ok(tail.len() as u64));
        assert_eq!(Index::decode(&tail), Ok(index.clone()));
        let offsets: Vec<u64> = index.rows().iter().map(|row| row.offset).collect();
        assert_eq!((offsets, index.content_bytes()), (vec![0, 3, 3], 4));
    }

    #[test]
    fn a_flipped_bit_anywhere_is_found() {
        let mut index = Index::default();
        index.add(Digest::of(b"abc"), 3);
        index.add(Digest::of(b"d"), 1);
        let tail = index.encode();
        for bit in 0..tail.len() * 8 {
            let mut damaged = tail.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(Index::decode(&damaged).is_err(), "bit {bit}");
        }
        for cut in 0..tail.len() {
            assert!(Index::decode(&tail[cut + 1..]).is_err());
        }
    }
}

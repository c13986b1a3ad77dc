//! The images of a split in little memory: a million of them fit in tens of megabytes, and can be written
//! to a file and read again as they are.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::labels::Label;

/// One usable image.
#[derive(Debug, Clone, PartialEq)]
pub struct Item<'a> {
    /// Where it is.
    pub path: PathBuf,
    /// Pixels, after EXIF orientation.
    pub width: usize,
    /// Pixels, after EXIF orientation.
    pub height: usize,
    /// Its objects.
    pub labels: &'a [Label],
}

/// What an image's file shows without being decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Pixels after EXIF orientation, `[width, height]`.
    pub size: [usize; 2],
    /// See [`crate::source::Ends::fingerprint`].
    pub fingerprint: u64,
}

/// Bytes of an encoded entry.
const ENTRY_BYTES: usize = 24;

/// Usable images, in order.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Items {
    folders: Vec<PathBuf>,
    entries: Vec<Entry>,
    /// File names, one behind the other.
    names: Vec<u8>,
    labels: Vec<Label>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Entry {
    folder: u32,
    /// Where its name ends; it begins where the one before it ends.
    name_end: u32,
    label_end: u32,
    width: u16,
    height: u16,
    /// See [`crate::source::Ends::fingerprint`].
    fingerprint: u64,
}

/// Too many names or labels for an index: four billion bytes, or labels.
fn narrow(number: usize) -> u32 {
    u32::try_from(number).expect("a split of so many images is refused by its scan's memory first")
}

impl Items {
    /// Images.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes that this takes.
    pub fn memory_bytes(&self) -> usize {
        let folders: usize = self.folders.iter().map(|folder| folder.as_os_str().len() + 24).sum();
        self.entries.capacity() * size_of::<Entry>()
            + self.names.capacity()
            + self.labels.capacity() * size_of::<Label>()
            + folders
    }

    fn begin(&self, index: usize) -> (usize, usize) {
        let before = index.checked_sub(1).map(|before| self.entries[before]);
        before.map_or((0, 0), |entry| (entry.name_end as usize, entry.label_end as usize))
    }

    /// Where an image is.
    ///
    /// # Panics
    /// When `index` is not below [`Items::len`]; so do the others.
    pub fn path(&self, index: usize) -> PathBuf {
        let entry = &self.entries[index];
        let name = &self.names[self.begin(index).0..entry.name_end as usize];
        self.folders[entry.folder as usize].join(OsStr::from_bytes(name))
    }

    /// The size of an image, `[width, height]`.
    pub fn size(&self, index: usize) -> [usize; 2] {
        let entry = &self.entries[index];
        [entry.width.into(), entry.height.into()]
    }

    /// What an image's file is known by, wherever it lies.
    pub fn fingerprint(&self, index: usize) -> u64 {
        self.entries[index].fingerprint
    }

    /// The objects of an image.
    pub fn labels(&self, index: usize) -> &[Label] {
        &self.labels[self.begin(index).1..self.entries[index].label_end as usize]
    }

    /// All of one image.
    pub fn get(&self, index: usize) -> Item<'_> {
        let [width, height] = self.size(index);
        Item { path: self.path(index), width, height, labels: self.labels(index) }
    }

    /// All images.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Item<'_>> {
        (0..self.len()).map(|index| self.get(index))
    }

    /// The folders that images lie in.
    pub fn folders(&self) -> impl Iterator<Item = &Path> {
        self.folders.iter().map(PathBuf::as_path)
    }

    /// As bytes, for [`Items::decode`].
    pub fn encode(&self, bytes: &mut Vec<u8>) {
        let folders: Vec<u8> =
            self.folders.iter().flat_map(|folder| [folder.as_os_str().as_bytes(), b"\0"].concat()).collect();
        for length in [folders.len(), self.entries.len(), self.names.len(), self.labels.len()] {
            bytes.extend_from_slice(&(length as u64).to_le_bytes());
        }
        bytes.extend_from_slice(&folders);
        for entry in &self.entries {
            for number in [entry.folder, entry.name_end, entry.label_end] {
                bytes.extend_from_slice(&number.to_le_bytes());
            }
            bytes.extend_from_slice(&entry.width.to_le_bytes());
            bytes.extend_from_slice(&entry.height.to_le_bytes());
            bytes.extend_from_slice(&entry.fingerprint.to_le_bytes());
        }
        bytes.extend_from_slice(&self.names);
        for label in &self.labels {
            bytes.extend_from_slice(&label.class.to_le_bytes());
            label.cxcywh.iter().for_each(|number| bytes.extend_from_slice(&number.to_le_bytes()));
        }
    }

    /// From what [`Items::encode`] wrote; `None` if it is something else.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes;
        let mut take = |length: usize| {
            let (part, behind) = rest.split_at_checked(length)?;
            rest = behind;
            Some(part)
        };
        let lengths: Vec<usize> = take(32)?
            .chunks_exact(8)
            .map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes")).try_into().ok())
            .collect::<Option<_>>()?;
        let folders =
            take(lengths[0])?.split(|byte| *byte == 0).map(|folder| PathBuf::from(OsStr::from_bytes(folder)));
        let mut folders: Vec<PathBuf> = folders.collect();
        folders.pop();
        let entries = take(lengths[1].checked_mul(ENTRY_BYTES)?)?
            .chunks_exact(ENTRY_BYTES)
            .map(Entry::decode)
            .collect();
        let names = take(lengths[2])?.to_vec();
        let labels = take(lengths[3].checked_mul(20)?)?.chunks_exact(20).map(decode_label).collect();
        let items = Self { folders, entries, names, labels };
        (rest.is_empty() && items.is_sound()).then_some(items)
    }

    /// Whether every place is inside.
    fn is_sound(&self) -> bool {
        let mut last = (0, 0);
        self.entries.iter().all(|entry| {
            let before = std::mem::replace(&mut last, (entry.name_end, entry.label_end));
            (entry.folder as usize) < self.folders.len() && before.0 <= last.0 && before.1 <= last.1
        }) && (last.0 as usize, last.1 as usize) == (self.names.len(), self.labels.len())
    }
}

/// Puts [`Items`] together.
#[derive(Debug, Default)]
pub struct ItemsBuilder {
    items: Items,
    /// The number of each folder.
    folders: HashMap<PathBuf, u32>,
}

impl ItemsBuilder {
    /// Appends an image. Sides are at most 65535, as decoders bound them.
    pub fn push(&mut self, path: &Path, seen: Seen, labels: &[Label]) {
        let folder = self.folder(path.parent().unwrap_or(Path::new("")));
        let items = &mut self.items;
        items.names.extend_from_slice(path.file_name().unwrap_or_default().as_bytes());
        items.labels.extend_from_slice(labels);
        let side = |side: usize| u16::try_from(side).unwrap_or(u16::MAX);
        items.entries.push(Entry {
            folder,
            name_end: narrow(items.names.len()),
            label_end: narrow(items.labels.len()),
            width: side(seen.size[0]),
            height: side(seen.size[1]),
            fingerprint: seen.fingerprint,
        });
    }

    fn folder(&mut self, folder: &Path) -> u32 {
        // Images of a folder mostly come together.
        let last = self.items.entries.last().map(|entry| entry.folder);
        if let Some(last) = last.filter(|last| self.items.folders[*last as usize] == folder) {
            return last;
        }
        if let Some(known) = self.folders.get(folder) {
            return *known;
        }
        let number = narrow(self.items.folders.len());
        self.items.folders.push(folder.to_path_buf());
        self.folders.insert(folder.to_path_buf(), number);
        number
    }

    /// All that was appended, in no more memory than it takes.
    pub fn finish(self) -> Items {
        let mut items = self.items;
        items.entries.shrink_to_fit();
        items.names.shrink_to_fit();
        items.labels.shrink_to_fit();
        items
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

impl Entry {
    fn decode(bytes: &[u8]) -> Self {
        let half = |at: usize| u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"));
        let [folder, name_end, label_end] = [0, 4, 8].map(|at| word(bytes, at));
        let fingerprint = u64::from(word(bytes, 16)) | u64::from(word(bytes, 20)) << 32;
        Self { folder, name_end, label_end, width: half(12), height: half(14), fingerprint }
    }
}

fn decode_label(bytes: &[u8]) -> Label {
    Label { class: word(bytes, 0), cxcywh: [4, 8, 12, 16].map(|at| f32::from_bits(word(bytes, at))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out_also_through_bytes_and_nothing_else_is_read() {
        let label = |class: u32| Label { class, cxcywh: [0.5, 0.25, 0.125, 1.0] };
        let seen = |width, height| Seen { size: [width, height], fingerprint: 1 << 40 | width as u64 };
        let mut items = ItemsBuilder::default();
        items.push(Path::new("/a/b/one.jpg"), seen(640, 480), &[label(1), label(2)]);
        items.push(Path::new("two.jpg"), seen(1, 65_535), &[]);
        items.push(Path::new("/a/b/three.jpg"), seen(7, 8), &[label(3)]);
        let items = items.finish();
        assert_eq!(items.path(0), Path::new("/a/b/one.jpg"));
        assert_eq!(items.path(1), Path::new("two.jpg"));
        assert_eq!((items.size(1), items.labels(1).len()), ([1, 65_535], 0));
        assert_eq!(items.fingerprint(0), 1 << 40 | 640);
        assert_eq!(items.get(2).labels, [label(3)]);
        assert_eq!(items.folders().count(), 2);
        let mut bytes = Vec::new();
        items.encode(&mut bytes);
        assert_eq!(Items::decode(&bytes), Some(items));
        for keep in 0..bytes.len() {
            assert_eq!(Items::decode(&bytes[..keep]), None, "{keep}");
        }
        // The first entry's folder, and where its name ends.
        for at in [38, 42] {
            let mut damaged = bytes.clone();
            damaged[at] = 0xFF;
            assert_eq!(Items::decode(&damaged), None, "{at}");
        }
    }
}

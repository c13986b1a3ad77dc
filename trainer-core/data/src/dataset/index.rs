//! The index of a split: path, size, fingerprint and labels of each image, in little memory. A million images take tens
//! of megabytes, and can be written to a file and read again as they are.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::decode::ImageProbe;
use crate::labels::Label;

/// One usable image.
#[derive(Debug, Clone, PartialEq)]
pub struct IndexedImage<'a> {
    /// The path of the image.
    pub path: PathBuf,
    /// Pixels from left to right, after EXIF orientation.
    pub width: usize,
    /// Pixels from top to bottom, after EXIF orientation.
    pub height: usize,
    /// The objects in the image.
    pub labels: &'a [Label],
}

/// Bytes of an encoded entry.
const ENTRY_BYTES: usize = 24;

/// The usable images of a split, in order. Methods that take an index panic when it is not below [`ImageIndex::len`].
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ImageIndex {
    folders: Vec<PathBuf>,
    entries: Vec<Entry>,
    /// File names, one behind the other, without folders.
    names: Vec<u8>,
    labels: Vec<Label>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Entry {
    /// Index of its folder.
    folder: u32,
    /// End of its name in `names`; it begins where the one before it ends.
    name_end: u32,
    /// End of its labels in `labels`; they begin where those before them end.
    label_end: u32,
    width: u16,
    height: u16,
    /// Tells contents apart, [`crate::files::HeadAndTail::fingerprint`].
    fingerprint: u64,
}

/// An end in `names` or `labels`, which have less than 2^32 elements.
fn narrow(number: usize) -> u32 {
    u32::try_from(number).expect("a split of so many images is refused by its scan's memory first")
}

impl ImageIndex {
    /// Number of images.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no image.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes of memory that this takes.
    pub fn memory_bytes(&self) -> usize {
        let folders: usize = self.folders.iter().map(|folder| folder.as_os_str().len() + 24).sum();
        self.entries.capacity() * size_of::<Entry>()
            + self.names.capacity()
            + self.labels.capacity() * size_of::<Label>()
            + folders
    }

    /// Where the name and the labels of an image begin.
    fn begin(&self, index: usize) -> (usize, usize) {
        let before = index.checked_sub(1).map(|before| self.entries[before]);
        before.map_or((0, 0), |entry| (entry.name_end as usize, entry.label_end as usize))
    }

    /// The file of an image.
    pub fn path(&self, index: usize) -> PathBuf {
        let entry = &self.entries[index];
        let name = &self.names[self.begin(index).0..entry.name_end as usize];
        self.folders[entry.folder as usize].join(OsStr::from_bytes(name))
    }

    /// The size of an image in pixels, `[width, height]`, after EXIF orientation.
    pub fn size(&self, index: usize) -> [usize; 2] {
        let entry = &self.entries[index];
        [entry.width.into(), entry.height.into()]
    }

    /// The fingerprint of an image's file, by which it is known wherever it lies.
    pub fn fingerprint(&self, index: usize) -> u64 {
        self.entries[index].fingerprint
    }

    /// The objects of an image.
    pub fn labels(&self, index: usize) -> &[Label] {
        &self.labels[self.begin(index).1..self.entries[index].label_end as usize]
    }

    /// All that is known of one image.
    pub fn get(&self, index: usize) -> IndexedImage<'_> {
        let [width, height] = self.size(index);
        IndexedImage { path: self.path(index), width, height, labels: self.labels(index) }
    }

    /// All images, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = IndexedImage<'_>> {
        (0..self.len()).map(|index| self.get(index))
    }

    /// The folders that images lie in, in the order of their first image.
    pub fn folders(&self) -> impl Iterator<Item = &Path> {
        self.folders.iter().map(PathBuf::as_path)
    }

    /// Appends the index to `bytes`, for [`ImageIndex::decode`].
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

    /// The index that [`ImageIndex::encode`] wrote; `None` if `bytes` are something else.
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
        let images = Self { folders, entries, names, labels };
        (rest.is_empty() && images.is_sound()).then_some(images)
    }

    /// Whether every range is inside.
    fn is_sound(&self) -> bool {
        let mut last = (0, 0);
        self.entries.iter().all(|entry| {
            let before = std::mem::replace(&mut last, (entry.name_end, entry.label_end));
            (entry.folder as usize) < self.folders.len() && before.0 <= last.0 && before.1 <= last.1
        }) && (last.0 as usize, last.1 as usize) == (self.names.len(), self.labels.len())
    }
}

/// Puts an [`ImageIndex`] together.
#[derive(Debug, Default)]
pub struct ImageIndexBuilder {
    images: ImageIndex,
    /// The number of each folder.
    folders: HashMap<PathBuf, u32>,
}

impl ImageIndexBuilder {
    /// Appends an image. Sides are at most 65535, as decoders bound them.
    pub fn push(&mut self, path: &Path, probe: ImageProbe, labels: &[Label]) {
        let folder = self.folder(path.parent().unwrap_or(Path::new("")));
        let images = &mut self.images;
        images.names.extend_from_slice(path.file_name().unwrap_or_default().as_bytes());
        images.labels.extend_from_slice(labels);
        let side = |side: usize| u16::try_from(side).unwrap_or(u16::MAX);
        images.entries.push(Entry {
            folder,
            name_end: narrow(images.names.len()),
            label_end: narrow(images.labels.len()),
            width: side(probe.size[0]),
            height: side(probe.size[1]),
            fingerprint: probe.fingerprint,
        });
    }

    fn folder(&mut self, folder: &Path) -> u32 {
        // Images of a folder mostly come together.
        let last = self.images.entries.last().map(|entry| entry.folder);
        if let Some(last) = last.filter(|last| self.images.folders[*last as usize] == folder) {
            return last;
        }
        if let Some(known) = self.folders.get(folder) {
            return *known;
        }
        let number = narrow(self.images.folders.len());
        self.images.folders.push(folder.to_path_buf());
        self.folders.insert(folder.to_path_buf(), number);
        number
    }

    /// All that was appended, in no more memory than it takes.
    pub fn finish(self) -> ImageIndex {
        let mut images = self.images;
        images.entries.shrink_to_fit();
        images.names.shrink_to_fit();
        images.labels.shrink_to_fit();
        images
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
        let probe = |width, height| ImageProbe { size: [width, height], fingerprint: 1 << 40 | width as u64 };
        let mut images = ImageIndexBuilder::default();
        images.push(Path::new("/a/b/one.jpg"), probe(640, 480), &[label(1), label(2)]);
        images.push(Path::new("two.jpg"), probe(1, 65_535), &[]);
        images.push(Path::new("/a/b/three.jpg"), probe(7, 8), &[label(3)]);
        let images = images.finish();
        assert_eq!(images.path(0), Path::new("/a/b/one.jpg"));
        assert_eq!(images.path(1), Path::new("two.jpg"));
        assert_eq!((images.size(1), images.labels(1).len()), ([1, 65_535], 0));
        assert_eq!(images.fingerprint(0), 1 << 40 | 640);
        assert_eq!(images.get(2).labels, [label(3)]);
        assert_eq!(images.folders().count(), 2);
        let mut bytes = Vec::new();
        images.encode(&mut bytes);
        assert_eq!(ImageIndex::decode(&bytes), Some(images));
        for keep in 0..bytes.len() {
            assert_eq!(ImageIndex::decode(&bytes[..keep]), None, "{keep}");
        }
        // The first entry's folder, and where its name ends.
        for at in [38, 42] {
            let mut damaged = bytes.clone();
            damaged[at] = 0xFF;
            assert_eq!(ImageIndex::decode(&damaged), None, "{at}");
        }
    }
}

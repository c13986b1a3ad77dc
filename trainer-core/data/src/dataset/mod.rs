//! A data set: what its data.yaml says (`data_yaml`), which images there are (`listing`, `image_list`,
//! `glob_patterns`), what a scan of them found (`scan`, `scan_cache`, `index`), and what the user is told of that (`notes`).
//!
//! [`Dataset`] is a split after its scan: images that exist, labels that make sense.

pub mod data_yaml;
pub mod glob_patterns;
pub mod image_list;
pub mod index;
pub mod listing;
pub mod notes;
pub mod scan;
pub(crate) mod scan_cache;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

pub use self::data_yaml::{DataYaml, YamlError};
pub use self::index::{ImageIndex, IndexedImage};
use self::listing::{ListedImage, Listing};
use self::notes::{MissingLabels, has_label_file, no_labels_error, split_notes};
pub use self::scan::ScanReport;
use crate::labels::LabelRules;

/// A part of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// Images that the model trains on.
    Train,
    /// Images that the model is validated on.
    Val,
    /// Test images, which no training reads.
    Test,
}

impl Split {
    /// Its key in a data.yaml.
    pub const fn key(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Val => "val",
            Self::Test => "test",
        }
    }
}

/// How a split is opened.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OpenOptions {
    /// Share of the images to use, above 0 and up to 1: the first ones.
    pub fraction: f64,
    /// Whether every class counts as one.
    pub single_cls: bool,
    /// Number of threads that scan.
    pub threads: usize,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self { fraction: 1.0, single_cls: false, threads: 2 }
    }
}

/// A split, ready to load.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    /// Its usable images.
    pub images: ImageIndex,
    /// Class names by id.
    pub names: Vec<String>,
    /// What the scan found.
    pub report: ScanReport,
    /// What the user should know of what was taken for images and labels: one sentence each.
    pub notes: Vec<String>,
    /// Set for training images of which not one has a label file, be it empty.
    unlabelled: Option<MissingLabels>,
}

/// Why a split cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The data.yaml is wrong.
    #[error(transparent)]
    Yaml(#[from] YamlError),
    /// A folder or list cannot be read.
    #[error("cannot list the images of `{place}`: {source}")]
    List {
        /// The folder or list.
        place: PathBuf,
        /// The reader's own error.
        source: std::io::Error,
    },
    /// The split has images in a folder that the caller does not allow.
    #[error("{file}: `{key}` has images in {folder}, which may not be read")]
    NotAllowed {
        /// The path of the data.yaml.
        file: PathBuf,
        /// The split's key: `train`, `val` or `test`.
        key: &'static str,
        /// The folder of the images.
        folder: PathBuf,
    },
    /// An entry exists, but is neither a folder nor a list.
    #[error(
        "{file}: `{key}` names `{place}`, which is neither a folder, nor an image, nor a .txt list of images"
    )]
    NeitherFolderNorList {
        /// The path of the data.yaml.
        file: PathBuf,
        /// The split's key: `train`, `val` or `test`.
        key: &'static str,
        /// What it names.
        place: PathBuf,
    },
    /// The split has no images.
    #[error(
        "{file}: `{key}: {entries}` has no images; put images there ({}), or correct `{key}`",
        crate::decode::EXTENSIONS.join(", ")
    )]
    Empty {
        /// The path of the data.yaml.
        file: PathBuf,
        /// The split's key: `train`, `val` or `test`.
        key: &'static str,
        /// The value of the key.
        entries: String,
    },
    /// There are images, but not one can be used.
    #[error("{file}: none of the {listed} images of `{key}` can be used; the first problem is: {first}")]
    NothingUsable {
        /// The path of the data.yaml.
        file: PathBuf,
        /// The split's key: `train`, `val` or `test`.
        key: &'static str,
        /// Number of images that were found.
        listed: usize,
        /// The problem of the first of them.
        first: String,
    },
    /// No image has a label file, so that every one would be background.
    #[error(
        "{file}: none of the {images} images of `{key}` has a label file; {searched}; put a \
         label file there for each image, an empty one where there is nothing to see"
    )]
    NoLabels {
        /// The path of the data.yaml.
        file: PathBuf,
        /// The split's key: `train`, `val` or `test`.
        key: &'static str,
        /// Number of images.
        images: usize,
        /// Which label file was looked for, in which folders, and what is there instead.
        searched: String,
    },
    /// Labels have class ids beyond `names`. Training would learn nonsense, so this is not a warning.
    #[error(
        "{files} label files have class ids that the data.yaml does not name ({classes} classes): {examples}; \
         correct the labels, or `names`"
    )]
    WrongClasses {
        /// Number of label files with such ids.
        files: usize,
        /// Number of classes in the data.yaml.
        classes: usize,
        /// The first such rows, with file and line.
        examples: String,
    },
}

impl Dataset {
    /// Lists and scans the images of `split`.
    ///
    /// A broken image or label row leaves the image out, with a warning in [`Dataset::report`]. A class
    /// id that the data.yaml does not know is an error, and so is a split without a usable image.
    ///
    /// # Errors
    /// See [`DataError`].
    pub fn open(yaml: &DataYaml, split: Split, options: &OpenOptions) -> Result<Self, DataError> {
        Self::open_within(yaml, split, options, None, &|_| true)
    }

    /// As [`Dataset::open`], but headers and labels that an earlier call has read with the same
    /// `directory` are not read again unless a file has changed.
    ///
    /// # Errors
    /// See [`DataError`].
    pub fn open_cached(
        yaml: &DataYaml,
        split: Split,
        options: &OpenOptions,
        directory: &Path,
    ) -> Result<Self, DataError> {
        Self::open_within(yaml, split, options, Some(directory), &|_| true)
    }

    /// As both, but no image is read before `allowed` has seen every folder that images lie in.
    ///
    /// # Errors
    /// See [`DataError`].
    pub fn open_within(
        yaml: &DataYaml,
        split: Split,
        options: &OpenOptions,
        cache: Option<&Path>,
        allowed: &dyn Fn(&Path) -> bool,
    ) -> Result<Self, DataError> {
        let key = split.key();
        let entries = match split {
            Split::Train => &yaml.train,
            Split::Val => &yaml.val,
            Split::Test => &yaml.test,
        };
        let Listing { images: listed, notes, unreadable, .. } = listing::list(yaml, key, entries)?;
        let refused =
            |folder: &Path| DataError::NotAllowed { file: yaml.file.clone(), key, folder: folder.to_owned() };
        if let Some(folder) = unreadable.iter().find(|folder| !allowed(folder)) {
            return Err(refused(folder));
        }
        if listed.is_empty() {
            let entries = entries.join(", ");
            return Err(DataError::Empty { file: yaml.file.clone(), key, entries });
        }
        let used = &listed[..share(listed.len(), options.fraction)];
        let folders: BTreeSet<&Path> = used.iter().filter_map(|image| image.path.parent()).collect();
        if let Some(folder) = folders.into_iter().find(|folder| !allowed(folder)) {
            return Err(refused(folder));
        }
        let (images, report) =
            known_or_scanned(used, &yaml.label_rules(options.single_cls), options.threads, cache)?;
        if images.is_empty() {
            let first = report.messages.first().cloned().unwrap_or_default();
            return Err(DataError::NothingUsable { file: yaml.file.clone(), key, listed: used.len(), first });
        }
        let missing = MissingLabels::of(yaml, &report);
        let notes = notes.into_iter().chain(split_notes(yaml, split, &report, missing.as_ref())).collect();
        let unlabelled = missing.filter(|_| split == Split::Train && !has_label_file(&listed, &report));
        let names = if options.single_cls { vec!["object".to_owned()] } else { yaml.names.clone() };
        Ok(Self { images, names, report, notes, unlabelled })
    }

    /// Refuses training images of which not one has a label file: nobody means that.
    ///
    /// # Errors
    /// [`DataError::NoLabels`], which names the folders where label files were looked for.
    pub fn require_label_files(&self, yaml: &DataYaml) -> Result<(), DataError> {
        let error = |missing| no_labels_error(yaml, Split::Train, self.report.images, missing);
        self.unlabelled.as_ref().map(error).map_or(Ok(()), Err)
    }

    /// Number of usable images.
    pub fn len(&self) -> usize {
        self.images.len()
    }

    /// Number of objects in the image that has most of them.
    pub fn most_objects(&self) -> usize {
        self.report.objects.keys().next_back().copied().unwrap_or(0)
    }

    /// Never true: a split without images is not opened.
    pub fn is_empty(&self) -> bool {
        self.images.is_empty()
    }
}

/// The index and the report of the images, from the scan cache in the folder `cache` or by a scan.
fn known_or_scanned(
    listed: &[ListedImage],
    rules: &LabelRules,
    threads: usize,
    cache: Option<&Path>,
) -> Result<(ImageIndex, ScanReport), DataError> {
    let cached = cache.map(|directory| scan_cache::find(directory, listed, rules, threads));
    if let Some(known) = cached.as_ref().and_then(scan_cache::read) {
        return Ok(known);
    }
    let (images, report) = scan::scan(listed, rules, threads)?;
    if let Some(cached) = cached {
        scan_cache::write(&cached, &images, &report);
    }
    Ok((images, report))
}

/// `fraction` of `count` images, at least one.
pub(crate) fn share(count: usize, fraction: f64) -> usize {
    let share = (count as f64 * fraction.clamp(0.0, 1.0)).round() as usize;
    share.clamp(1, count)
}

#[cfg(test)]
mod tests;

//! A split of a data set after its preflight: images that exist, labels that make sense.

use std::path::{Path, PathBuf};

use crate::items::Items;
use crate::label_cache;
use crate::labels::LabelRules;
use crate::listing::{self, Listed, Listing};
use crate::remarks::{Nearby, has_label_file, remarks, without_labels};
use crate::scan::{self, ScanReport};
use crate::yaml::{DataYaml, YamlError};

/// Which images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// Those that train.
    Train,
    /// Those that validate.
    Val,
    /// Those kept apart.
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
    /// Treat every class as one.
    pub single_cls: bool,
    /// Threads that scan.
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
    /// Its images.
    pub items: Items,
    /// Class names by id.
    pub names: Vec<String>,
    /// What the preflight found.
    pub report: ScanReport,
    /// What a person should know of what was taken for images and labels: one sentence each.
    pub remarks: Vec<String>,
    /// Where label files were looked for, of training images of which not one has any, be it empty.
    unlabelled: Option<Nearby>,
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
    /// An entry that exists, but is something else.
    #[error(
        "{file}: `{key}` names `{place}`, which is neither a folder, nor an image, nor a .txt list of images"
    )]
    NeitherFolderNorList {
        /// The data.yaml.
        file: PathBuf,
        /// The split's key: `train`, `val` or `test`.
        key: &'static str,
        /// What it names.
        place: PathBuf,
    },
    /// Nothing to train on, or to validate with.
    #[error(
        "{file}: `{key}: {entries}` has no images; put images there ({}), or correct `{key}`",
        crate::decode::EXTENSIONS.join(", ")
    )]
    Empty {
        /// The data.yaml.
        file: PathBuf,
        /// The split's key: `train`, `val` or `test`.
        key: &'static str,
        /// Its value.
        entries: String,
    },
    /// There are images, but not one can be used.
    #[error("{file}: none of the {listed} images of `{key}` can be used; the first problem is: {first}")]
    NothingUsable {
        /// The data.yaml.
        file: PathBuf,
        /// The split's key: `train`, `val` or `test`.
        key: &'static str,
        /// How many images there are.
        listed: usize,
        /// The first problem.
        first: String,
    },
    /// Every image would be background.
    #[error(
        "{file}: none of the {images} images of `{key}` has a label file; {searched}; put a \
         label file there for each image, an empty one where there is nothing to see"
    )]
    NoLabels {
        /// The data.yaml.
        file: PathBuf,
        /// The split's key: `train`, `val` or `test`.
        key: &'static str,
        /// How many images there are.
        images: usize,
        /// Which file was looked for, in which folders, and what is there instead.
        searched: String,
    },
    /// Class ids beyond `names`: training would learn nonsense, so this is not a warning.
    #[error(
        "{files} label files have class ids that the data.yaml does not name ({classes} classes): {examples}; \
         correct the labels, or `names`"
    )]
    WrongClasses {
        /// How many files.
        files: usize,
        /// Classes in the data.yaml.
        classes: usize,
        /// The first of them, with file and line.
        examples: String,
    },
}

impl Dataset {
    /// Lists and checks the images of `split`.
    ///
    /// A broken image or label row leaves the image out, with a warning in [`Dataset::report`]. A class
    /// id that the data.yaml does not know is an error, and so is a split without a usable image.
    ///
    /// # Errors
    /// See [`DataError`].
    pub fn open(yaml: &DataYaml, split: Split, options: &OpenOptions) -> Result<Self, DataError> {
        Self::open_with(yaml, split, options, None)
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
        Self::open_with(yaml, split, options, Some(directory))
    }

    fn open_with(
        yaml: &DataYaml,
        split: Split,
        options: &OpenOptions,
        cache: Option<&Path>,
    ) -> Result<Self, DataError> {
        let key = split.key();
        let entries = match split {
            Split::Train => &yaml.train,
            Split::Val => &yaml.val,
            Split::Test => &yaml.test,
        };
        let Listing { images: listed, notes, .. } = listing::list(yaml, key, entries)?;
        if listed.is_empty() {
            let entries = entries.join(", ");
            return Err(DataError::Empty { file: yaml.file.clone(), key, entries });
        }
        let used = &listed[..share(listed.len(), options.fraction)];
        let (items, report) = found(used, &yaml.label_rules(options.single_cls), options.threads, cache)?;
        if items.is_empty() {
            let first = report.messages.first().cloned().unwrap_or_default();
            return Err(DataError::NothingUsable { file: yaml.file.clone(), key, listed: used.len(), first });
        }
        let nearby = Nearby::of(yaml, &report);
        let remarks = notes.into_iter().chain(remarks(yaml, split, &report, nearby.as_ref())).collect();
        let unlabelled = nearby.filter(|_| split == Split::Train && !has_label_file(&listed, &report));
        let names = if options.single_cls { vec!["object".to_owned()] } else { yaml.names.clone() };
        Ok(Self { items, names, report, remarks, unlabelled })
    }

    /// Refuses training images of which not one has a label file: nobody means that.
    ///
    /// # Errors
    /// Names the places where label files were looked for.
    pub fn require_label_files(&self, yaml: &DataYaml) -> Result<(), DataError> {
        let error = |nearby| without_labels(yaml, Split::Train, self.report.images, nearby);
        self.unlabelled.as_ref().map(error).map_or(Ok(()), Err)
    }

    /// Usable images.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Objects in the image that has most of them.
    pub fn most_objects(&self) -> usize {
        self.report.objects.keys().next_back().copied().unwrap_or(0)
    }

    /// Never true: a split without images is not opened.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
}

/// What is known of the images, from the cache or by a scan.
fn found(
    listed: &[Listed],
    rules: &LabelRules,
    threads: usize,
    cache: Option<&Path>,
) -> Result<(Items, ScanReport), DataError> {
    let kept = cache.map(|directory| label_cache::find(directory, listed, rules, threads));
    if let Some(known) = kept.as_ref().and_then(label_cache::read) {
        return Ok(known);
    }
    let (items, report) = scan::scan(listed, rules, threads)?;
    if let Some(kept) = kept {
        label_cache::write(&kept, &items, &report);
    }
    Ok((items, report))
}

/// `fraction` of `count` images, at least one.
fn share(count: usize, fraction: f64) -> usize {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most `count`")]
    let share = (count as f64 * fraction.clamp(0.0, 1.0)).round() as usize;
    share.clamp(1, count)
}

#[cfg(test)]
mod tests;

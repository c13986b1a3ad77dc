//! What a data set consists of when it goes elsewhere: a tree of its usable images and their labels, on which a training
//! is the same one as on the user's files, whatever form they have.
//!
//! The tree has a `data.yaml` and a list of each split at its top. Images keep their paths relative to the data set's
//! folder, others come under `outside/`. A label file lies where a trainer looks first. Must not know: hashes, servers.

mod labels;
mod list;
mod normal_form;
mod places;
mod unsent;
mod whole_path;

use std::collections::HashSet;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::Metadata;
use std::io;
use std::path::{Path, PathBuf};

pub use self::list::{Origin, PackedFile, PackingList, SamePath};
pub use self::places::Outside;
pub use self::unsent::Unsent;

use self::labels::{LabelPlan, Planned};
use self::list::PackingListBuilder;
use self::places::Places;
use self::unsent::file_id;
use self::whole_path::WholePaths;
use crate::check::{CheckOptions, CheckReport, Checked, CheckedSplit};
use crate::dataset::DataYaml;
use crate::dataset::listing::ListedImage;
use crate::files::path_normalization::as_text;
use crate::files::read::check_is_regular;

/// A data set, ready to go elsewhere.
#[derive(Debug)]
pub struct Packed {
    pub list: PackingList,
    /// Files that would be one in the tree; one that has such cannot go elsewhere.
    pub clashes: Vec<SamePath>,
    /// Usable images of all splits.
    pub images: usize,
    /// Class names by id.
    pub names: Vec<String>,
    /// Folders elsewhere whose images are taken along.
    pub outside: Vec<Outside>,
    /// Folders elsewhere whose files look like the data set's own, through links.
    pub through_links: Vec<PathBuf>,
    /// What lies in the data set's folder and is no part of it.
    pub unsent: Unsent,
}

/// A file was there when the data set was checked, and cannot be packed.
#[derive(Debug, thiserror::Error)]
#[error("`{}` cannot be read: {source}", file.display())]
pub struct PackError {
    pub file: PathBuf,
    pub source: io::Error,
}

/// Checks everything that a data.yaml names, and packs it when it can be trained on.
///
/// # Errors
/// A file has changed since the check.
pub fn pack(file: &Path, threads: usize) -> Result<(CheckReport, Option<Packed>), PackError> {
    let Checked { report, yaml, splits, .. } = Checked::of(file, &CheckOptions::all(threads));
    match yaml.filter(|_| report.is_usable()) {
        Some(yaml) => Ok((report, Some(pack_checked(&yaml, &splits)?))),
        None => Ok((report, None)),
    }
}

fn pack_checked(yaml: &DataYaml, splits: &[CheckedSplit]) -> Result<Packed, PackError> {
    let images = || splits.iter().flat_map(|split| &split.usable);
    // A folder whose labels would meet those of others goes apart. That is rare, and then the plan begins anew.
    let mut apart: HashSet<OsString> = HashSet::new();
    let whole = WholePaths::default();
    let (places, plan) = loop {
        let places = Places::of(yaml, &whole, images(), &apart);
        match LabelPlan::of(&places, &whole, images()) {
            Ok(plan) => break (places, plan),
            Err(folder) => drop(apart.insert(folder)),
        }
    };
    // An image, its label; and a data.yaml with its lists.
    let builder = PackingListBuilder::with_capacity(2 * images().count() + 4);
    let own_folders = own_folders(yaml, &whole, images());
    let mut packing = Packing { builder, known: HashSet::new(), linked: HashSet::new(), whole };
    for split in splits.iter().filter(|split| !split.usable.is_empty()) {
        let list = packing.add_split(&places, &plan, split)?;
        packing.builder.add_made(&normal_form::list_name(split.split), list.into_bytes());
    }
    let used = splits.iter().filter(|split| !split.usable.is_empty()).map(|split| split.split);
    let text = normal_form::data_yaml(yaml, used);
    packing.builder.add_made(normal_form::DATA_YAML, text.into_bytes());
    packing.note_unsendable(yaml, splits);
    let (list, clashes) = packing.builder.finish();
    let unsent = Unsent::count(&own_folders, &mut packing.known);
    let through_links = places.through_links(packing.linked);
    Ok(Packed {
        list,
        clashes,
        images: images().count(),
        names: yaml.names.clone(),
        outside: places.outside,
        through_links,
        unsent,
    })
}

/// The list while files are added to it.
struct Packing {
    builder: PackingListBuilder,
    /// Files that are part of the data set.
    known: HashSet<unsent::FileId>,
    /// Folders that links of files lead to.
    linked: HashSet<PathBuf>,
    whole: WholePaths,
}

impl Packing {
    /// Adds the images of a split and their labels. Returns the text of its list.
    fn add_split(
        &mut self,
        places: &Places,
        plan: &LabelPlan,
        split: &CheckedSplit,
    ) -> Result<String, PackError> {
        let mut list = String::new();
        for image in &split.usable {
            let place = places.of_folder(image.path.parent().unwrap_or(Path::new("")));
            let tree = in_folder(&place.folder, &as_text(name_of(&image.path)));
            // Writing to a String cannot fail.
            let _ = writeln!(list, "./{tree}");
            self.add(&tree, &image.path)?;
            let first = labels::label_path(&place.label_folders[0], &image.path);
            match plan.of_image(places, image) {
                Planned::File(label) => self.add(&first, &label)?,
                Planned::Empty => self.builder.add_made(&first, Vec::new()),
                Planned::Nothing => {}
            }
        }
        Ok(list)
    }

    fn add(&mut self, path: &str, file: &Path) -> Result<(), PackError> {
        let failed = |source| PackError { file: file.to_path_buf(), source };
        let metadata = regular_metadata(file).map_err(failed)?;
        self.known.insert(file_id(&metadata));
        // What a link leads to is there: it was just looked at.
        if file.is_symlink()
            && let Ok(target) = file.canonicalize()
            && let Some(folder) = target.parent()
            && !self.linked.contains(folder)
        {
            self.linked.insert(folder.to_path_buf());
        }
        self.builder.add_file(path, &self.whole.of_file(file), metadata.len());
        Ok(())
    }

    /// Notes what is used and not sent as it is, or was named as left out.
    fn note_unsendable(&mut self, yaml: &DataYaml, splits: &[CheckedSplit]) {
        let lists = splits.iter().flat_map(|split| split.usable.iter().chain(&split.left_out));
        let mut files: HashSet<PathBuf> = HashSet::from([yaml.file.clone()]);
        for image in lists {
            if let Some(line) = &image.named_in
                && !files.contains(&line.list.file)
            {
                files.insert(line.list.file.clone());
            }
        }
        for image in splits.iter().flat_map(|split| &split.left_out) {
            files.extend(image.labels.path(&image.path));
            files.insert(image.path.clone());
        }
        self.known.extend(files.iter().filter_map(|file| Some(file_id(&std::fs::metadata(file).ok()?))));
    }
}

/// The metadata of a regular file; links are followed.
fn regular_metadata(file: &Path) -> io::Result<Metadata> {
    let metadata = std::fs::metadata(file)?;
    check_is_regular(metadata.file_type())?;
    Ok(metadata)
}

/// The data set's own folders that have images of it, none inside of another.
fn own_folders<'a>(
    yaml: &DataYaml,
    whole: &WholePaths,
    images: impl Iterator<Item = &'a ListedImage>,
) -> Vec<PathBuf> {
    let mut roots: Vec<PathBuf> = yaml.roots().iter().filter_map(|root| root.canonicalize().ok()).collect();
    roots.sort();
    roots.dedup_by(|inner, outer| inner.starts_with(outer));
    let mut used: HashSet<usize> = HashSet::new();
    for image in images {
        let folder = whole.of_folder(image.path.parent().unwrap_or(Path::new("")));
        used.extend(roots.iter().position(|root| folder.starts_with(root)));
    }
    roots.into_iter().enumerate().filter(|(at, _)| used.contains(at)).map(|(_, root)| root).collect()
}

/// The path of `name` in a folder of the tree.
fn in_folder(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}

fn name_of(file: &Path) -> &[u8] {
    std::os::unix::ffi::OsStrExt::as_bytes(file.file_name().unwrap_or_default())
}

#[cfg(test)]
mod tests;

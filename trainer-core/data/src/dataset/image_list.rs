//! Text files that list images: a path a line. Names are bytes, as file systems have them.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use trainyard_types::{SizeLimit, text};

use super::DataError;
use super::data_yaml::{DataYaml, YamlError};
use super::glob_patterns;
use super::listing::{self, Listing, WalkedFolder};
use crate::activity;
use crate::files;
use crate::files::path_normalization::{self, Respelling};

/// A text file that lists images.
#[derive(Debug)]
pub struct ImageList {
    /// The path of the list itself.
    pub file: PathBuf,
    /// Folders that its lines may be relative to, in the order in which they are tried.
    pub bases: Vec<PathBuf>,
}

/// Where an image is named: a line of a list.
#[derive(Debug, Clone)]
pub(crate) struct ListLine {
    pub list: Arc<ImageList>,
    /// The line's number, from 1.
    pub number: u32,
}

/// Whether a file is taken for a list by its name.
pub fn is_list_name(file: &Path) -> bool {
    file.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("txt"))
}

/// Calls `take` with the number of each line, from 1, and the file that the line names, whether it exists or not. A line
/// may also be a folder or a pattern, of which each file that is `wanted` is taken. A line that begins with `#` and names
/// no image is a comment. Returns sentences about lines that were respelled, and folders that cannot be read.
///
/// # Errors
/// When the list cannot be read, or is no text.
pub fn for_each(
    list: &ImageList,
    wanted: &dyn Fn(&Path) -> bool,
    mut take: impl FnMut(u32, PathBuf),
) -> Result<Vec<String>, DataError> {
    let file = &list.file;
    let bytes = files::read_once(file, SizeLimit::LIST)
        .map_err(|source| DataError::List { place: file.clone(), source })?;
    let (mut notes, mut respelled) = (Vec::new(), BTreeMap::new());
    let not_text = |source| YamlError::Text { file: file.clone(), source };
    for (line, number) in text::byte_lines(&bytes).map_err(not_text)?.zip(1..) {
        // Each line is looked for, which takes its time on a slow network file system.
        activity::tick();
        let line = unquoted(line.trim_ascii());
        if line.is_empty() {
            continue;
        }
        let (path, respelling) = named_file(line, &list.bases);
        if let Some(respelling) = respelling {
            respelled.entry(respelling).or_insert((0, number)).0 += 1;
        }
        // Names of files may have brackets.
        if wanted(&path) && (!glob_patterns::is_pattern(line) || path.exists()) {
            take(number, path);
            continue;
        }
        let found = folder_or_matches(line, &path, &list.bases, wanted)?;
        notes.extend(found.notes());
        let is_comment = line.starts_with(b"#") && !path.exists();
        if found.files.is_empty() && !path.is_dir() && !is_comment {
            take(number, path);
        } else {
            found.files.into_iter().for_each(|file| take(number, file));
        }
    }
    Ok(respelling_notes(&respelled, file).chain(notes).collect())
}

/// A sentence for each kind of respelling: how many lines have it, and which is the first.
fn respelling_notes<'a>(
    respelled: &'a BTreeMap<Respelling, (usize, u32)>,
    file: &'a Path,
) -> impl Iterator<Item = String> + 'a {
    respelled.iter().map(|(respelling, (count, first))| {
        format!("{}:{first}: {count} lines {}", file.display(), respelling.of_lines())
    })
}

/// A line without the quotes around it, if there are any.
fn unquoted(line: &[u8]) -> &[u8] {
    match line {
        [b'"', inner @ .., b'"'] | [b'\'', inner @ .., b'\''] => inner,
        line => line,
    }
}

/// The files of a line that is a folder, here `path`, or a pattern below one of `bases`.
fn folder_or_matches(
    line: &[u8],
    path: &Path,
    bases: &[PathBuf],
    wanted: &dyn Fn(&Path) -> bool,
) -> Result<WalkedFolder, DataError> {
    let walk = |place: &Path| {
        listing::walk(place, wanted).map_err(|source| DataError::List { place: place.to_path_buf(), source })
    };
    if path.is_dir() {
        return walk(path);
    }
    let mut found = WalkedFolder::default();
    if path.exists() {
        return Ok(found);
    }
    let pattern = String::from_utf8_lossy(line);
    let matches = bases.iter().map(|base| glob_patterns::matches(base, &pattern));
    for place in matches.into_iter().find(|matches| !matches.is_empty()).unwrap_or_default() {
        if place.is_dir() {
            let WalkedFolder { files, unreadable, loops } = walk(&place)?;
            found.files.extend(files);
            found.unreadable.extend(unreadable);
            found.loops.extend(loops);
        } else if wanted(&place) {
            found.files.push(place);
        }
    }
    Ok(found)
}

/// The file that a line names, and how its path differs from the line.
fn named_file(line: &[u8], bases: &[PathBuf]) -> (PathBuf, Option<Respelling>) {
    let path = Path::new(OsStr::from_bytes(line));
    if path.is_absolute() {
        // Whether it is there is seen later, when it is read.
        let other =
            if line.is_ascii() { None } else { path_normalization::find_existing(&[path.to_path_buf()]) };
        return other.unwrap_or_else(|| (path.to_path_buf(), None));
    }
    let mut candidates: Vec<PathBuf> = bases.iter().map(|base| base.join(path)).collect();
    // CVAT writes `data/obj_train_data/…` for what lies beside the list; Roboflow's `../` means nothing.
    if let Some(inner) = [b"data/".as_slice(), b"../"].iter().find_map(|start| line.strip_prefix(*start)) {
        candidates.extend(bases.iter().map(|base| base.join(OsStr::from_bytes(inner))));
    }
    let is_windows = path_normalization::windows_root(line).is_some();
    // A path of Windows is told as it was written.
    let otherwise = || if is_windows { path.to_path_buf() } else { candidates[0].clone() };
    path_normalization::find_existing(&candidates).unwrap_or_else(|| (otherwise(), None))
}

/// Appends the images of a data set's list to `listing`.
///
/// # Errors
/// As [`for_each`].
pub(crate) fn read(yaml: &DataYaml, file: &Path, listing: &mut Listing) -> Result<(), DataError> {
    let folder = file.parent().unwrap_or(Path::new(""));
    let bases = [folder].into_iter().chain(yaml.roots().iter().map(PathBuf::as_path)).map(Path::to_path_buf);
    let list = Arc::new(ImageList { file: file.to_path_buf(), bases: bases.collect() });
    let notes = for_each(&list, &listing::is_image, |number, path| {
        let base = |of: &Path| yaml.base(of).or_else(|| Some(folder).filter(|folder| of.starts_with(folder)));
        listing.add(path, base, Some(ListLine { list: Arc::clone(&list), number }));
    })?;
    listing.notes.extend(notes);
    Ok(())
}

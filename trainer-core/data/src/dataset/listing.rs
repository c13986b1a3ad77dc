//! Which images a data set has: those in folders, those that lists name, those that patterns match. The rules are the
//! same for training, checking and predicting.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use xxhash_rust::xxh3::Xxh3DefaultBuilder;

use super::DataError;
use super::data_yaml::{DataYaml, Resolved};
use super::image_list::{self, ListLine};
use crate::activity;
use crate::decode;
use crate::files::path_normalization;
use crate::labels::search_path::LabelSearchPath;

/// An image of a split, which is not read yet.
#[derive(Debug)]
pub(crate) struct ListedImage {
    pub path: PathBuf,
    /// The line of the list that names it; `None` for an image of a folder or pattern.
    pub named_in: Option<ListLine>,
    /// Where its label file may be.
    pub labels: Arc<LabelSearchPath>,
}

impl ListedImage {
    /// A sentence about an image that does not exist.
    pub fn missing(&self) -> String {
        let shown = self.path.display();
        let Some(ListLine { list, number }) = &self.named_in else {
            return format!("image `{shown}` is a link to nothing, left out");
        };
        let advice = path_normalization::windows_advice(self.path.as_os_str().as_bytes(), &list.bases);
        let advice = advice.map(|advice| format!("; {advice}")).unwrap_or_default();
        format!("{}:{number}: image `{shown}` does not exist, left out{advice}", list.file.display())
    }
}

/// The images of a split.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// Sorted within each folder, in file order within each list.
    pub images: Vec<ListedImage>,
    /// What was passed over, or taken as it is probably meant: one sentence each.
    pub notes: Vec<String>,
    /// Folders inside of those that are named, which cannot be read.
    pub unreadable: Vec<PathBuf>,
    /// Where label files are looked for, by folder of images.
    search_paths: HashMap<OsString, Arc<LabelSearchPath>, Xxh3DefaultBuilder>,
}

impl Listing {
    /// Appends an image. `base` gives the folder of the data set in which the image's folder lies, if it does.
    pub fn add<'a>(
        &mut self,
        path: PathBuf,
        base: impl FnOnce(&Path) -> Option<&'a Path>,
        named_in: Option<ListLine>,
    ) {
        // Texts are compared much faster than paths.
        let folder = path.parent().unwrap_or(Path::new(""));
        let is_same = |last: &ListedImage| {
            last.path.parent().is_some_and(|last| last.as_os_str() == folder.as_os_str())
        };
        // Images of a folder mostly come together.
        let last = self.images.last().filter(|last| is_same(last)).map(|last| &last.labels);
        let known = last.or_else(|| self.search_paths.get(folder.as_os_str())).map(Arc::clone);
        let labels = known.unwrap_or_else(|| {
            let made = Arc::new(LabelSearchPath::of(folder, base(folder)));
            self.search_paths.insert(folder.as_os_str().to_owned(), Arc::clone(&made));
            made
        });
        self.images.push(ListedImage { path, named_in, labels });
    }
}

/// Lists all images of a split. `key` is its key in the data.yaml, and `entries` are the values there.
///
/// # Errors
/// When an entry is nowhere, is neither folder, list nor image, or cannot be read.
pub(crate) fn list(yaml: &DataYaml, key: &'static str, entries: &[String]) -> Result<Listing, DataError> {
    let mut listing = Listing::default();
    for entry in entries {
        let Resolved { places, respelling, by_pattern } = yaml.find(key, entry)?;
        if let Some(respelling) = respelling {
            listing.notes.push(format!("`{key}: {entry}`: {}", respelling.of_path()));
        }
        // A pattern matches label files and notes, too: .txt files are lists only where it asks for them.
        let has_lists = !by_pattern || image_list::is_list_name(Path::new(entry.trim()));
        for place in places {
            if place.is_dir() {
                let found = walk(&place, &is_image)
                    .map_err(|source| DataError::List { place: place.clone(), source })?;
                listing.notes.extend(found.notes());
                listing.unreadable.extend(found.unreadable.into_iter().map(|(folder, _)| folder));
                let base = yaml.base(&place);
                found.files.into_iter().for_each(|path| listing.add(path, |_| base, None));
            } else if has_lists && image_list::is_list_name(&place) {
                image_list::read(yaml, &place, &mut listing)?;
            } else if is_image(&place) {
                let base = yaml.base(&place);
                listing.add(place, |_| base, None);
            } else if !by_pattern {
                return Err(DataError::NeitherFolderNorList { file: yaml.file.clone(), key, place });
            }
        }
    }
    Ok(listing)
}

/// Whether a file's name is that of an image, be it of a format that is not read.
pub fn is_image(file: &Path) -> bool {
    decode::is_image_name(file) || decode::unsupported_format(file).is_some()
}

/// The folder that a file lies in; `.` for a bare name.
pub fn folder_of(file: &Path) -> &Path {
    file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Names of what systems and file managers leave in folders, beside names that begin with a dot; in small letters.
const SYSTEM_NAMES: [&str; 9] = [
    "$recycle.bin",
    "#recycle",
    "#snapshot",
    "@eadir",
    "@recycle",
    "__macosx",
    "lost+found",
    "system volume information",
    "thumbs.db",
];

/// Whether a file or folder of this name is hidden, or a system's own, and so no part of a data set.
pub(crate) fn is_system_name(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b".") || SYSTEM_NAMES.iter().any(|known| name.eq_ignore_ascii_case(known))
}

/// What a folder is known by, whatever its path: device and inode.
type FolderId = (u64, u64);

/// What is in a folder and those inside of it.
#[derive(Debug, Default)]
pub struct WalkedFolder {
    /// Wanted files, sorted by path.
    pub files: Vec<PathBuf>,
    /// Folders inside that cannot be read, and why.
    pub unreadable: Vec<(PathBuf, std::io::Error)>,
    /// Links to folders above them, which are passed over.
    pub loops: Vec<PathBuf>,
}

/// Unreadable folders that are named one by one.
const MAX_NAMED: usize = 5;

impl WalkedFolder {
    /// A sentence about each folder that cannot be read, and each link that leads back.
    pub fn notes(&self) -> Vec<String> {
        let told = |(folder, error): &(PathBuf, std::io::Error)| {
            format!("the folder `{}` cannot be read, so its images are left out: {error}", folder.display())
        };
        let mut notes: Vec<String> = self.unreadable.iter().take(MAX_NAMED).map(told).collect();
        if self.unreadable.len() > MAX_NAMED {
            notes.push(format!("{} more folders cannot be read", self.unreadable.len() - MAX_NAMED));
        }
        let looping = |link: &PathBuf| {
            format!("the link `{}` leads back to a folder above it; it was passed over", link.display())
        };
        notes.extend(self.loops.iter().take(MAX_NAMED).map(looping));
        if self.loops.len() > MAX_NAMED {
            notes.push(format!(
                "{} more links lead back to a folder above them",
                self.loops.len() - MAX_NAMED
            ));
        }
        notes
    }
}

/// Finds the files that are `wanted` in a folder and those inside of it. Follows links, as data sets are often assembled
/// from them, but none to one of the folders above it, which would never end, nor to one above `folder`, which would bring
/// the images of other splits.
///
/// # Errors
/// When the folder itself cannot be read.
pub fn walk(folder: &Path, wanted: &dyn Fn(&Path) -> bool) -> std::io::Result<WalkedFolder> {
    let mut found = WalkedFolder::default();
    let whole = folder.canonicalize()?;
    let above: Vec<FolderId> = whole.ancestors().skip(1).filter_map(|above| identity(above).ok()).collect();
    descend(folder, wanted, &above, &mut found)?;
    found.files.sort();
    Ok(found)
}

fn identity(folder: &Path) -> std::io::Result<FolderId> {
    let metadata = std::fs::metadata(folder)?;
    Ok((metadata.dev(), metadata.ino()))
}

fn descend(
    folder: &Path,
    wanted: &dyn Fn(&Path) -> bool,
    above: &[FolderId],
    found: &mut WalkedFolder,
) -> std::io::Result<()> {
    let identity = identity(folder)?;
    if above.contains(&identity) {
        found.loops.push(folder.to_path_buf());
        return Ok(());
    }
    let above = [above, &[identity]].concat();
    for entry in std::fs::read_dir(folder)? {
        activity::tick();
        let entry = entry?;
        if is_system_name(&entry.file_name()) {
            continue;
        }
        let (path, kind) = (entry.path(), entry.file_type()?);
        // Only links need a second look.
        if kind.is_dir() || (kind.is_symlink() && path.is_dir()) {
            if let Err(error) = descend(&path, wanted, &above, found) {
                found.unreadable.push((path, error));
            }
        } else if wanted(&path) {
            found.files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::test_data::TestData;

    fn walked(data: &TestData, folder: &str) -> Vec<String> {
        let found = walk(&data.path(folder), &is_image).unwrap();
        let relative = |path: &PathBuf| path.strip_prefix(data.path("")).unwrap().display().to_string();
        found.files.iter().map(relative).collect()
    }

    #[test]
    fn links_are_followed_but_not_round_and_round() {
        let data = TestData::new(2, 1);
        let inner = data.path("images/train/a/b");
        std::fs::create_dir_all(&inner).unwrap();
        data.write_image("elsewhere/far.jpg", 3);
        symlink(data.path("elsewhere"), inner.join("far")).unwrap();
        // Twice the same folder is no loop.
        symlink(data.path("elsewhere"), data.path("images/train/near")).unwrap();
        for (name, to) in [("up", "images/train"), ("higher", "images"), ("self", "images/train/a/b")] {
            symlink(data.path(to), inner.join(name)).unwrap();
        }
        let expected = [
            "images/train/000.jpg",
            "images/train/001.jpg",
            "images/train/a/b/far/far.jpg",
            "images/train/near/far.jpg",
        ];
        assert_eq!(walked(&data, "images/train"), expected);
    }

    #[test]
    fn hidden_files_and_what_file_managers_leave_are_no_data_but_a_data_set_may_lie_in_a_hidden_folder() {
        let data = TestData::new(1, 1);
        for name in [
            "._000.jpg",
            ".hidden.png",
            ".ipynb_checkpoints/000-checkpoint.jpg",
            ".Trash-1000/files/a.jpg",
            ".thumbnails/a.png",
            "@eaDir/000.jpg/SYNOPHOTO_THUMB_M.jpg",
            "lost+found/a.jpg",
            "__MACOSX/images/._000.jpg",
            "__MACOSX/000.jpg",
            "$RECYCLE.BIN/a.jpg",
            "System Volume Information/a.jpg",
            "#recycle/a.jpg",
        ] {
            data.write_image(&format!("images/train/{name}"), 1);
        }
        data.write_image("images/train/.nested/deep.set/kept.jpg", 1);
        assert_eq!(walked(&data, "images/train"), ["images/train/000.jpg"]);
        let inside = walked(&data, "images/train/.nested/deep.set");
        assert_eq!(inside, ["images/train/.nested/deep.set/kept.jpg"]);
        assert_eq!(data.open(crate::Split::Train).len(), 1);
    }

    /// Runs `work` as a user whom rights bind, in a thread of its own: rights do not bind root.
    fn as_nobody<T: Send>(work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                if rustix::process::geteuid().is_root() {
                    let keep = libc::uid_t::MAX;
                    // SAFETY: takes three numbers. The call itself, not the C library's function of that name, which
                    // would change all threads.
                    let done = unsafe { libc::syscall(libc::SYS_setresuid, keep, 65_534, keep) };
                    assert_eq!(done, 0, "root may become anybody");
                }
                work()
            });
            thread.join().unwrap()
        })
    }

    #[test]
    fn a_folder_inside_that_cannot_be_read_is_named_and_refuses_nothing_else() {
        let data = TestData::new(2, 1);
        data.write_image("images/train/closed/a.jpg", 1);
        data.write_image("images/train/open/b.jpg", 1);
        let rights = |name: &str, mode| {
            std::fs::set_permissions(data.path(name), std::fs::Permissions::from_mode(mode)).unwrap();
        };
        rights("", 0o755);
        rights("images/train/closed", 0o000);
        let (listing, top) = as_nobody(|| {
            let yaml = DataYaml::read(&data.path("data.yaml")).unwrap();
            (list(&yaml, "train", &yaml.train).unwrap(), walk(&data.path("images/train/closed"), &is_image))
        });
        rights("images/train/closed", 0o755);
        assert_eq!(listing.images.len(), 3);
        let [note] = &listing.notes[..] else { panic!("{:?}", listing.notes) };
        assert!(
            note.contains("images/train/closed` cannot be read, so its images are left out: Perm"),
            "{note}"
        );
        assert!(top.is_err(), "a folder that was asked for is another matter");
    }
}

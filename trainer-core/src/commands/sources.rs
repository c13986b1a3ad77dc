//! What `predict` looks at: images, folders, lists and patterns, by the rules for training images.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use trainyard_data::dataset::glob_patterns;
use trainyard_data::dataset::image_list::{self, ImageList};
use trainyard_data::dataset::listing::{self, folder_of};
use trainyard_data::files::path_normalization;
use trainyard_types::Violation;

use crate::train::error::TrainError;

/// An image to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    pub path: PathBuf,
    /// Where it lies below the folder that was named; else its file's name.
    pub name: PathBuf,
}

/// All that the sources of a command line lead to.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    /// The images, in the order of the sources, sorted within each folder.
    pub images: Vec<Source>,
    /// What was passed over, or taken as it is probably meant.
    pub notes: Vec<String>,
    /// Folders whose images are looked at as they were named: nothing is written there.
    folders: Vec<PathBuf>,
}

/// What a source may be, for whoever gave something else.
const KINDS: &str =
    "give an image, a folder of images, a .txt list of images, or a pattern such as 'images/**/*.jpg'";

/// Endings of videos, in small letters.
const VIDEOS: [&str; 13] =
    ["3gp", "asf", "avi", "flv", "m4v", "mkv", "mov", "mp4", "mpeg", "mpg", "ts", "webm", "wmv"];

/// Whether a file is a video by its name.
pub(crate) fn is_video(file: &Path) -> bool {
    let extension = file.extension().unwrap_or_default();
    VIDEOS.iter().any(|known| extension.eq_ignore_ascii_case(known))
}

/// Whether a file in a folder is looked at; of a video is told that it is not read.
fn is_wanted(file: &Path) -> bool {
    listing::is_image(file) || is_video(file)
}

impl Sources {
    /// Finds everything. Folders below `except`, where results go, are passed over.
    ///
    /// # Errors
    /// A source is nowhere, or of a kind that is not read.
    pub fn find(sources: &[PathBuf], except: &Path) -> Result<Self, TrainError> {
        let mut found = Self::default();
        for source in sources {
            found.add(source)?;
        }
        if let Ok(except) = except.canonicalize() {
            let is_own =
                |folder: &Path| folder.canonicalize().is_ok_and(|folder| folder.starts_with(&except));
            if !found.folders.iter().any(|folder| is_own(folder)) {
                let folders: HashSet<&Path> =
                    found.images.iter().map(|image| folder_of(&image.path)).collect();
                let own: HashSet<PathBuf> =
                    folders.into_iter().filter(|folder| is_own(folder)).map(Path::to_path_buf).collect();
                found.images.retain(|image| !own.contains(folder_of(&image.path)));
            }
        }
        if found.images.is_empty() {
            let shown: Vec<String> = sources.iter().map(|source| source.display().to_string()).collect();
            return Err(wrong(format!("{} has no images; {KINDS}", shown.join(", "))));
        }
        Ok(found)
    }

    fn add(&mut self, source: &Path) -> Result<(), TrainError> {
        if source.is_dir() {
            let walked = listing::walk(source, &is_wanted).map_err(TrainError::io(source))?;
            self.notes.extend(walked.notes());
            self.folders.push(source.to_path_buf());
            self.images.extend(walked.files.into_iter().map(|path| named(path, source)));
        } else if source.exists() {
            if image_list::is_list_name(source) {
                return self.add_list(source);
            }
            if is_video(source) {
                return Err(wrong(format!(
                    "{} is a video, and videos are not read; {KINDS}",
                    source.display()
                )));
            }
            self.folders.push(folder_of(source).to_path_buf());
            self.images.push(named(source.to_path_buf(), Path::new("")));
        } else if let Some((other, _)) = path_normalization::find_existing(&[source.to_path_buf()]) {
            return self.add(&other);
        } else {
            return self.add_pattern(source);
        }
        Ok(())
    }

    fn add_list(&mut self, file: &Path) -> Result<(), TrainError> {
        let folder = folder_of(file);
        // Relative to the list, or to where the command runs.
        let bases = [folder, Path::new("")].map(Path::to_path_buf).to_vec();
        let list = ImageList { file: file.to_path_buf(), bases };
        let images = &mut self.images;
        let take = |_, path| images.push(named(path, folder));
        self.notes.extend(image_list::for_each(&list, &is_wanted, take)?);
        Ok(())
    }

    fn add_pattern(&mut self, source: &Path) -> Result<(), TrainError> {
        let (shown, text) = (source.display(), source.as_os_str().as_bytes());
        let has = |part: &str| text.windows(part.len()).any(|window| window == part.as_bytes());
        if has("://") {
            return Err(wrong(format!("{shown} is an address, and nothing is fetched; {KINDS}")));
        }
        if !text.is_empty() && text.iter().all(u8::is_ascii_digit) {
            return Err(wrong(format!("{shown} would be a camera, and cameras are not read; {KINDS}")));
        }
        if !glob_patterns::is_pattern(text) {
            let advice = path_normalization::windows_advice(text, &[PathBuf::from(".")]);
            let advice = advice.unwrap_or_else(|| KINDS.to_owned());
            return Err(wrong(format!("{shown} does not exist; {advice}")));
        }
        let matches = glob_patterns::matches(Path::new(""), &source.to_string_lossy());
        if matches.is_empty() {
            return Err(wrong(format!("{shown} matches nothing; {KINDS}")));
        }
        let fixed = fixed_part(source);
        for path in matches {
            if path.is_dir() {
                let walked = listing::walk(&path, &is_wanted).map_err(TrainError::io(&path))?;
                self.notes.extend(walked.notes());
                self.images.extend(walked.files.into_iter().map(|path| named(path, &fixed)));
            } else if is_wanted(&path) {
                self.images.push(named(path, &fixed));
            }
        }
        Ok(())
    }
}

fn wrong(text: String) -> TrainError {
    TrainError::Spec(vec![Violation::new("source", text)])
}

fn named(path: PathBuf, folder: &Path) -> Source {
    let inside = Some(folder)
        .filter(|folder| !folder.as_os_str().is_empty())
        .and_then(|folder| path.strip_prefix(folder).ok());
    let plain = |name: &&Path| name.components().all(|part| matches!(part, std::path::Component::Normal(_)));
    let name =
        inside.filter(plain).unwrap_or_else(|| Path::new(path.file_name().unwrap_or_default())).to_path_buf();
    Source { path, name }
}

/// The folders of a pattern before its first wildcard.
fn fixed_part(pattern: &Path) -> PathBuf {
    let folder = pattern.parent().unwrap_or(Path::new(""));
    folder
        .components()
        .map(|part| part.as_os_str())
        .take_while(|part: &&OsStr| !glob_patterns::is_pattern(part.as_bytes()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_data::TestData;

    fn found(data: &TestData, sources: &[&str]) -> Result<Vec<String>, String> {
        let sources: Vec<PathBuf> = sources.iter().map(|source| data.path(source)).collect();
        let found = Sources::find(&sources, &data.path("out")).map_err(|error| error.to_string())?;
        Ok(found.images.iter().map(|image| image.name.display().to_string()).collect())
    }

    #[test]
    fn folders_lists_patterns_and_several_sources_follow_the_rules_for_training_images() {
        let data = TestData::new(2, 1);
        data.write("images/train/x.heic", b"");
        data.write("images/train/clip.mp4", b"");
        data.write("images/train/notes.md", b"");
        data.write_image("images/train/.ipynb_checkpoints/000-checkpoint.jpg", 1);
        data.write_image("images/out/no.jpg", 1);
        let all = ["train/000.jpg", "train/001.jpg", "train/clip.mp4", "train/x.heic", "val/000.jpg"];
        let with = |more: &[&str]| {
            [&["out/no.jpg"], &all[..], more]
                .concat()
                .iter()
                .map(|name| (*name).to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(found(&data, &["images"]).unwrap(), with(&[]));
        assert_eq!(found(&data, &["images", "images/val/000.jpg"]).unwrap(), with(&["000.jpg"]));
        assert_eq!(
            found(&data, &["images/**/*.jpg"]).unwrap(),
            ["out/no.jpg", "train/000.jpg", "train/001.jpg", "val/000.jpg"]
        );
        assert_eq!(found(&data, &["images/v*"]).unwrap(), ["val/000.jpg"]);
        data.write(
            "list.txt",
            "\u{feff}images/val/000.jpg\rimages\\train\\001.jpg\r\nimages/gone.jpg\n".as_bytes(),
        );
        assert_eq!(
            found(&data, &["list.txt"]).unwrap(),
            ["images/val/000.jpg", "images/train/001.jpg", "images/gone.jpg"]
        );
        data.write("several.txt", b"# these\nimages/va*/*.jpg\nimages/train\n'images/val/000.jpg'\n");
        assert_eq!(
            found(&data, &["several.txt"]).unwrap(),
            [
                "images/val/000.jpg",
                "images/train/000.jpg",
                "images/train/001.jpg",
                "images/train/clip.mp4",
                "images/train/x.heic",
                "images/val/000.jpg"
            ]
        );
        // What an earlier call has drawn is no source.
        data.write_image("out/images/000.png", 1);
        data.write_image("top.jpg", 1);
        assert!(found(&data, &[""]).unwrap().iter().all(|name| !name.starts_with("out/")));
    }

    #[test]
    fn what_is_no_source_is_told_what_may_be_one() {
        let data = TestData::new(1, 1);
        data.write("clip.mp4", b"");
        data.write("empty/notes.md", b"");
        let absolute = |source: &str| {
            Sources::find(&[PathBuf::from(source)], Path::new("/out")).unwrap_err().to_string()
        };
        for (error, part) in [
            (found(&data, &["clip.mp4"]).unwrap_err(), "is a video"),
            (found(&data, &["empty"]).unwrap_err(), "has no images"),
            (found(&data, &["none*.jpg"]).unwrap_err(), "matches nothing"),
            (found(&data, &["gone.jpg"]).unwrap_err(), "does not exist"),
            (absolute("https://host/a.jpg"), "is an address"),
            (absolute("rtsp://host/1"), "is an address"),
            (absolute("0"), "would be a camera"),
        ] {
            assert!(
                error.contains(part) && error.contains("give an image, a folder of images"),
                "{part}: {error}"
            );
        }
        assert!(absolute("D:/lab/a.jpg").contains("it is a Windows path (a drive letter)"));
    }
}

//! Pictures of a running trainer: finds those that are new in its run directory, and uploads them.
//!
//! The trainer may write there what it likes, so links are not followed, and only so many bytes are read.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use tracing::debug;
use trainyard_types::AttemptId;

use super::transfer::{Transfer, blocking};
use crate::message::Picture;

/// Pictures of a run, bytes of one, and of all. A trainer draws some twenty, of about a megabyte at most.
const MOST: usize = 24;
const PICTURE_BYTES: u64 = 8 << 20;
const ALL_BYTES: u64 = 32 << 20;
/// Bytes of a name.
const NAME_BYTES: usize = 255;

/// A picture in a run directory.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Found {
    name: String,
    size_bytes: u64,
    modified_ns: i128,
}

impl Found {
    fn new(name: String, metadata: &Metadata) -> Self {
        let modified_ns = i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
        Self { name, size_bytes: metadata.len(), modified_ns }
    }

    /// Whether this is what `picture` was made of.
    fn is(&self, picture: &Picture) -> bool {
        let Picture { artifact, modified_ns } = picture;
        (&self.name, self.size_bytes, self.modified_ns) == (&artifact.name, artifact.size_bytes, *modified_ns)
    }
}

/// The pictures of a run directory, the newest first, as far as the bounds allow.
fn find(run: &Path) -> io::Result<Vec<Found>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(run)? {
        let Ok(entry) = entry else { continue };
        let Ok(name) = entry.file_name().into_string() else { continue };
        let is_picture = name.ends_with(".jpg") || name.ends_with(".png");
        if !is_picture || name.starts_with('.') || name.contains('\\') || name.len() > NAME_BYTES {
            continue;
        }
        // Of a link it tells that it is one.
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_file() && (1..=PICTURE_BYTES).contains(&metadata.len()) {
            found.push(Found::new(name, &metadata));
        }
    }
    found.sort_by(|a, b| b.modified_ns.cmp(&a.modified_ns).then_with(|| a.name.cmp(&b.name)));
    let mut left = ALL_BYTES;
    found.retain(|picture| {
        let fits = picture.size_bytes <= left;
        left -= if fits { picture.size_bytes } else { 0 };
        fits
    });
    found.truncate(MOST);
    Ok(found)
}

/// Opens a picture; `None` if it is none any more.
fn open(run: &Path, name: String) -> io::Result<Option<(File, Found)>> {
    // A pipe in its place would wait for a writer.
    let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(run.join(&name))?;
    let metadata = file.metadata()?;
    let is_picture = metadata.is_file() && metadata.len() <= PICTURE_BYTES;
    Ok(is_picture.then(|| (file, Found::new(name, &metadata))))
}

/// Uploads the pictures of `run` that are not `stored` as they are now, until `is_paused`. Returns those that are stored
/// then, by name. What fails is left for the next time: nobody waits for it.
pub async fn upload(
    transfer: &mut Transfer,
    attempt: AttemptId,
    run: PathBuf,
    mut stored: Vec<Picture>,
    is_paused: &AtomicBool,
) -> Vec<Picture> {
    if is_paused.load(Ordering::Relaxed) {
        return stored;
    }
    let folder = run.clone();
    let found = match blocking(move || find(&folder)).await {
        Ok(found) => found,
        Err(error) => {
            debug!(%attempt, %error, "pictures cannot be looked for");
            return stored;
        }
    };
    stored.retain(|picture| found.iter().any(|found| found.name == picture.artifact.name));
    for found in found {
        if stored.iter().any(|picture| found.is(picture)) {
            continue;
        }
        if is_paused.load(Ordering::Relaxed) {
            break;
        }
        let (folder, name) = (run.clone(), found.name);
        let (file, found) = match blocking(move || open(&folder, name)).await {
            Ok(Some(opened)) => opened,
            Ok(None) => continue,
            Err(error) => {
                debug!(%attempt, %error, "a picture cannot be read");
                continue;
            }
        };
        match transfer.upload_file(attempt, found.name, file).await {
            Ok(artifact) => {
                stored.retain(|picture| picture.artifact.name != artifact.name);
                stored.push(Picture { artifact, modified_ns: found.modified_ns });
            }
            Err(error) => {
                debug!(%attempt, %error, "a picture was not uploaded");
                break;
            }
        }
    }
    stored.sort_by(|a, b| a.artifact.name.cmp(&b.artifact.name));
    stored
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(found: &[Found]) -> Vec<&str> {
        found.iter().map(|found| found.name.as_str()).collect()
    }

    fn write(run: &Path, name: &str, bytes: u64, at: i64) {
        let file = File::create(run.join(name)).unwrap();
        file.set_len(bytes).unwrap();
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(at.unsigned_abs());
        file.set_modified(time).unwrap();
    }

    #[test]
    fn only_pictures_are_found_and_the_newest_come_first() {
        let run = tempfile::tempdir().unwrap();
        write(run.path(), "labels.png", 10, 1);
        write(run.path(), "train_batch0.jpg", 10, 2);
        for other in ["results.csv", ".hidden.jpg", "empty.jpg", "large.png"] {
            write(run.path(), other, if other == "empty.jpg" { 0 } else { 10 }, 3);
        }
        write(run.path(), "large.png", PICTURE_BYTES + 1, 3);
        std::fs::create_dir(run.path().join("folder.jpg")).unwrap();
        std::os::unix::fs::symlink(run.path().join("results.csv"), run.path().join("link.jpg")).unwrap();
        assert_eq!(names(&find(run.path()).unwrap()), ["train_batch0.jpg", "labels.png"]);
        assert!(open(run.path(), "link.jpg".into()).is_err());
        assert!(open(run.path(), "large.png".into()).unwrap().is_none());
        assert!(open(run.path(), "labels.png".into()).unwrap().is_some());
    }

    #[test]
    fn pictures_are_bounded_in_number_and_in_all() {
        let run = tempfile::tempdir().unwrap();
        for number in 0..30 {
            write(run.path(), &format!("{number:02}.jpg"), 10, number);
        }
        let found = find(run.path()).unwrap();
        assert_eq!((found.len(), names(&found)[0]), (MOST, "29.jpg"));
        for number in 30..36 {
            write(run.path(), &format!("{number}.jpg"), PICTURE_BYTES, number);
        }
        let sizes = find(run.path()).unwrap().iter().map(|found| found.size_bytes).sum::<u64>();
        assert_eq!(sizes, ALL_BYTES);
    }
}

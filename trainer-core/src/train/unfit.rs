//! Which errors of a training are the machine's: the same job may run on another one.
//!
//! What each means is in [`faults`], the table that the agent uses, too; here it is found out of the errors.

use std::io;
use std::path::{Path, PathBuf};

use trainyard_data::{DataError, DataYaml, LoadError, YamlError};
use trainyard_types::faults::{self, Place};
use trainyard_types::{Unfit, UnfitKind};

use super::error::TrainError;
use crate::import::PtError;
use crate::weights::WeightsError;

/// What the machine lacks, if that is why training cannot go on.
pub fn unfit(error: &TrainError) -> Option<Unfit> {
    let message = error.to_string();
    let at = |kind: UnfitKind, path: &Path| Unfit::at(kind, path, message.clone());
    let of_machine = |kind: UnfitKind| Unfit::of_machine(kind, message.clone());
    match error {
        TrainError::Data(error) => data(error).map(|(kind, path)| at(kind, &path)),
        TrainError::Outside { data, .. } => Some(at(UnfitKind::OutsideDataRoots, data)),
        TrainError::PretrainedOutside(path) => Some(at(UnfitKind::OutsideDataRoots, path)),
        TrainError::Pretrained { path, source } => of_weights(source).map(|kind| at(kind, path)),
        // The headers of these images were read before: what the system says now is the machine's.
        TrainError::Load(LoadError::NothingReadable { first, last, .. }) => {
            let row = faults::errno_in(last).and_then(|errno| faults::of_errno(Place::Path, errno));
            row.and_then(|row| row.lack()).map(|kind| at(kind, Path::new(first)))
        }
        TrainError::Device(error) => error.lack().map(of_machine),
        TrainError::Torch(error) => {
            // Which path words are about is not known.
            let kind = faults::of_words(&error.message).and_then(|row| row.lack());
            kind.filter(|kind| !kind.is_of_path()).map(of_machine)
        }
        TrainError::Bug(text) => {
            let known = faults::errno_in(text).and_then(|errno| faults::of_errno(Place::Folder, errno));
            // Only what the machine has run out of: any other error at an unknown place is our bug.
            let kind = known.or_else(|| faults::of_words(text)).and_then(|row| row.lack());
            kind.filter(|kind| *kind == UnfitKind::OutOfResources).map(of_machine)
        }
        TrainError::Io { source, .. } => lack(Place::Folder, source).map(of_machine),
        _ => None,
    }
}

fn lack(place: Place, error: &io::Error) -> Option<UnfitKind> {
    faults::of_error(place, error).and_then(|row| row.lack())
}

fn of_weights(error: &WeightsError) -> Option<UnfitKind> {
    match error {
        WeightsError::Io { source, .. } | WeightsError::Checkpoint { source: PtError::Io(source), .. } => {
            lack(Place::Path, source)
        }
        _ => None,
    }
}

/// What of a data set is not to be seen here, and which path that is.
fn data(error: &DataError) -> Option<(UnfitKind, PathBuf)> {
    match error {
        DataError::Yaml(YamlError::Read { file, source }) => Some((lack(Place::Path, source)?, file.clone())),
        // Perhaps a slip of its author; but on a machine that lacks a share it looks just so.
        DataError::Yaml(YamlError::NotFound { wanted, .. }) => {
            Some((UnfitKind::PathMissing, wanted.to_path_buf()))
        }
        DataError::List { place, source } => Some((lack(Place::Path, source)?, place.clone())),
        DataError::Empty { file, key, entries } => {
            Some((UnfitKind::PathMissing, empty_folder(file, key, entries)?))
        }
        // A list is there, and what it lists is not.
        DataError::NothingUsable { file, first, .. } if first.contains("does not exist") => {
            Some((UnfitKind::PathMissing, file.clone()))
        }
        _ => None,
    }
}

/// A folder of a split that has nothing at all in it, as a share's that is not mounted.
fn empty_folder(file: &Path, key: &'static str, entries: &str) -> Option<PathBuf> {
    let yaml = DataYaml::read(file).ok()?;
    let places = entries.split(", ").filter_map(|entry| yaml.resolve(key, entry).ok()).flatten();
    let mut empty = places.filter(|place| place.read_dir().is_ok_and(|mut inside| inside.next().is_none()));
    empty.next()
}

#[cfg(test)]
mod tests {
    use trainyard_types::Violation;

    use super::*;
    use crate::libtorch::{DeviceError, TorchError};

    fn kind(error: &TrainError) -> Option<UnfitKind> {
        let failed = error.failed();
        assert!(failed.unfit.as_ref().is_none_or(|unfit| unfit.kind.is_of_path() != unfit.path.is_empty()));
        failed.unfit.map(|unfit| unfit.kind)
    }

    fn io(errno: i32) -> TrainError {
        TrainError::io("/cache")(io::Error::from_raw_os_error(errno))
    }

    #[test]
    fn what_a_machine_lacks_is_told_from_what_is_wrong_with_the_job() {
        let read = |errno| {
            let source = io::Error::from_raw_os_error(errno);
            TrainError::from(YamlError::Read { file: "/d/data.yaml".into(), source })
        };
        assert_eq!(kind(&read(2)), Some(UnfitKind::PathMissing));
        assert_eq!(kind(&read(116)), Some(UnfitKind::PathUnreadable));
        assert_eq!(kind(&read(36)), None);
        assert_eq!(kind(&read(24)), Some(UnfitKind::OutOfResources));
        assert_eq!(kind(&io(30)), Some(UnfitKind::FolderUnwritable));
        assert_eq!(kind(&io(13)), Some(UnfitKind::FolderUnwritable));
        assert_eq!(kind(&io(28)), None, "a full disk is told by its words");
        let torch = |message: &str| TrainError::from(TorchError { message: message.into() });
        assert_eq!(
            kind(&torch("CUDA error: no kernel image is available for execution on the device")),
            Some(UnfitKind::GpuUnsupported)
        );
        assert_eq!(kind(&torch("The size of tensor a must match")), None);
        let bug = |text: &str| TrainError::Bug(text.into());
        let thread = r#"failed to spawn thread: Os { code: 11, kind: WouldBlock, message: "…" }"#;
        assert_eq!(kind(&bug(thread)), Some(UnfitKind::OutOfResources));
        assert_eq!(kind(&bug("index out of bounds")), None);
        assert_eq!(kind(&TrainError::Spec(vec![Violation::new("epochs", "is 0")])), None);
        let absent = DeviceError::Absent { device: "cuda:0".into(), count: 0, complaint: None };
        assert_eq!(kind(&absent.into()), Some(UnfitKind::DriverUnusable));
    }

    #[test]
    fn images_that_vanish_are_the_machines_and_images_that_are_damaged_the_data_sets() {
        let gone = |last: &str| {
            let last = last.to_owned();
            TrainError::from(LoadError::NothingReadable { first: "/d/images/1.jpg".into(), tried: 9, last })
        };
        let unfit = gone("cannot be read: Stale file handle (os error 116)").failed().unfit.unwrap();
        assert_eq!((unfit.kind, unfit.path.as_str()), (UnfitKind::PathUnreadable, "/d/images/1.jpg"));
        assert_eq!(kind(&gone("no JPEG")), None);
    }

    #[test]
    fn an_empty_folder_may_be_a_share_that_is_not_mounted_and_one_with_other_files_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("data.yaml");
        std::fs::write(&file, "train: images\nval: images\nnames: [a]\n").unwrap();
        let images = folder.path().join("images");
        std::fs::create_dir(&images).unwrap();
        let error = || {
            let (key, entries) = ("train", "images".to_owned());
            TrainError::from(DataError::Empty { file: file.clone(), key, entries })
        };
        let unfit = error().failed().unfit.unwrap();
        assert_eq!((unfit.kind, unfit.path), (UnfitKind::PathMissing, images.display().to_string()));
        std::fs::write(images.join("notes.doc"), "").unwrap();
        assert_eq!(kind(&error()), None);
    }
}

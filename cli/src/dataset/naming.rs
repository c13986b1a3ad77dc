//! What a word of the command line names: something in the cluster's store, or a path.

use std::path::{Path, PathBuf};

use trainyard_types::habit;
use trainyard_types::reference::{Reference, check_name};

use crate::failure::Failure;
use crate::terminal::{self, clean};
use crate::values::absolute_path;

/// A data set by its name in the store, or by a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Named {
    InStore(Reference),
    Path(PathBuf),
}

/// What `word` names, as a user writes it: a word without a slash and without a file's ending is a name, unless there is
/// such a file.
///
/// # Errors
/// A name with a version that is none.
pub fn named(word: &Path) -> Result<Named, Failure> {
    match Reference::of_path(word) {
        Some(reference) if !word.is_file() => Ok(Named::InStore(reference)),
        None if is_bare(word) && word.to_string_lossy().contains('@') && !word.exists() => {
            let text = word.to_string_lossy();
            let error = text.parse::<Reference>().err().map(|error| error.to_string()).unwrap_or_default();
            Err(Failure::usage(format!("`{}` {error}", clean(&text)))
                .hint("write NAME, NAME@VERSION, or a path with a slash in it"))
        }
        _ => Ok(Named::Path(word.to_path_buf())),
    }
}

/// Says which of two things is meant by a name that a folder here has as well.
pub fn tell_name_apart(word: &Path, what: &str) {
    if word.is_dir() {
        let word = clean(&word.display().to_string());
        terminal::message(&format!(
            "note: `{word}` is taken for the pushed {what} of that name; the folder here is `./{word}`"
        ));
    }
}

fn is_bare(word: &Path) -> bool {
    !word.as_os_str().as_encoded_bytes().contains(&b'/')
}

/// The data.yaml that `path` means: itself, or the one that lies in that folder.
///
/// # Errors
/// A folder without one, or with several.
pub fn data_yaml(path: &Path) -> Result<PathBuf, Failure> {
    let Ok(entries) = std::fs::read_dir(path) else { return Ok(path.to_path_buf()) };
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let wrong =
        |text: String| Failure::usage(format!("data: {}", clean(&format!("`{}` {text}", path.display()))));
    habit::data_yaml(names.collect()).map(|name| path.join(name)).map_err(wrong)
}

/// The name that a data set has when the user gives none: its folder's.
///
/// # Errors
/// The folder's name has not a letter or digit.
pub fn of_data_yaml(file: &Path) -> Result<String, Failure> {
    let whole = absolute_path(file);
    let folder = whole.parent().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    valid_name(&folder.unwrap_or_default())
}

/// The name that weights have when the user gives none: their file's.
///
/// # Errors
/// The file's name has not a letter or digit.
pub fn of_weights(file: &Path) -> Result<String, Failure> {
    valid_name(&file.file_stem().unwrap_or_default().to_string_lossy())
}

/// A name that the user gave.
///
/// # Errors
/// What is wrong with it.
pub fn given(name: &str) -> Result<String, Failure> {
    check_name(name).map_err(|error| Failure::usage(format!("--name {}", clean(&error.to_string()))))?;
    Ok(name.to_owned())
}

fn valid_name(text: &str) -> Result<String, Failure> {
    made_valid(text).ok_or_else(|| {
        Failure::usage(format!("`{}` cannot be made a name", clean(text))).hint("give one with --name")
    })
}

/// A text made a name: other characters become dashes.
fn made_valid(text: &str) -> Option<String> {
    let allowed =
        |letter: char| if letter.is_ascii_alphanumeric() || "._".contains(letter) { letter } else { '-' };
    let dashed: String = text.chars().map(allowed).collect();
    let parts = dashed.split('-').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("-");
    let begun = parts.trim_start_matches(|letter: char| !letter.is_ascii_alphanumeric());
    let cut = begun.get(..begun.len().min(64))?;
    // `cells.yaml` is a file's name; a name has no such ending.
    let name = if check_name(cut).is_ok() { cut.to_owned() } else { cut.replace('.', "-") };
    check_name(&name).is_ok().then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_names_unless_they_look_like_paths_or_are_files() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("cells"), "").unwrap();
        let of = |word: &str| named(Path::new(word));
        assert!(
            matches!(of("cells-of-nobody"), Ok(Named::InStore(reference)) if reference.name() == "cells-of-nobody")
        );
        assert!(matches!(of("cells-x@3f9a"), Ok(Named::InStore(_))));
        for path in ["./cells", "data/cells", "data.yaml", "/data/cells", "yolov8n.pt", "é"] {
            assert_eq!(of(path).unwrap(), Named::Path(path.into()));
        }
        let file = folder.path().join("cells");
        assert_eq!(named(&file).unwrap(), Named::Path(file));
        // One of this crate's folders: a name all the same.
        assert!(Path::new("src").is_dir() && matches!(of("src"), Ok(Named::InStore(_))));
        let failure = of("cells@newest").unwrap_err();
        assert!(failure.message.contains("has the version `newest`; a version has"), "{failure:?}");
        assert_eq!(failure.exit.code(), 2);
    }

    #[test]
    fn names_are_made_of_folders_and_files() {
        for (folder, name) in [
            ("cells", Some("cells")),
            ("Blood cells (v2)", Some("Blood-cells-v2")),
            ("_raw.d", Some("raw.d")),
            ("Zellen ß 2024", Some("Zellen-2024")),
            ("my.yaml", Some("my-yaml")),
            ("ß", None),
            ("", None),
        ] {
            assert_eq!(made_valid(folder).as_deref(), name, "{folder}");
        }
        assert_eq!(made_valid(&"a".repeat(80)).unwrap().len(), 64);
        assert_eq!(of_data_yaml(Path::new("/data/cells/data.yaml")).unwrap(), "cells");
        assert_eq!(of_weights(Path::new("/w/yolov8n.pt")).unwrap(), "yolov8n");
    }
}

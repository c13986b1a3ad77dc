//! Which paths a version may have: those that every machine of the cluster can make, each in its own folder.

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, HashSet};
use std::hash::BuildHasher as _;

use unicode_normalization::UnicodeNormalization as _;

/// Bytes of a path.
pub const MAX_PATH_BYTES: usize = 1024;
/// Bytes of a folder's or file's name: what usual file systems take.
const MAX_NAME_BYTES: usize = 255;
/// The file by which a pull knows its folder again, at the top of it: no version has one.
pub const PULL_MARKER: &str = ".trainyard-pull";

/// Why a version cannot have a file of this path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    #[error("is empty")]
    Empty,
    #[error("has {0} bytes; use at most {MAX_PATH_BYTES}")]
    TooLong(usize),
    #[error("has a name of {0} bytes in it; use at most {MAX_NAME_BYTES}")]
    NameTooLong(usize),
    #[error("is absolute; give it relative to the data set's folder")]
    Absolute,
    /// It has `.`, `..` or nothing between two slashes.
    #[error("has the part `{0}`; leave it out, so that the path stays in the data set's folder")]
    Part(String),
    #[error("has a control character; rename the file")]
    Control,
    #[error("has the name by which a pull knows its folder, `{PULL_MARKER}`; rename the file")]
    Marker,
}

/// Checks one path: relative, with `/` between its parts, inside of its folder.
///
/// # Errors
/// What is wrong with it.
pub fn check_path(path: &str) -> Result<(), PathError> {
    if path.is_empty() {
        return Err(PathError::Empty);
    }
    if path.len() > MAX_PATH_BYTES {
        return Err(PathError::TooLong(path.len()));
    }
    if path.starts_with('/') {
        return Err(PathError::Absolute);
    }
    if path.chars().any(char::is_control) {
        return Err(PathError::Control);
    }
    for part in path.split('/') {
        if matches!(part, "" | "." | "..") {
            return Err(PathError::Part(part.to_owned()));
        }
        if part.len() > MAX_NAME_BYTES {
            return Err(PathError::NameTooLong(part.len()));
        }
    }
    // In any case, as file systems have it that do not tell cases apart.
    if path.split('/').next().is_some_and(|top| top.eq_ignore_ascii_case(PULL_MARKER)) {
        return Err(PathError::Marker);
    }
    Ok(())
}

/// Finds paths that are one on file systems which ignore case or normal form, and files that are folders as well.
///
/// It keeps 64 bits of each path: two paths clash by chance once in 10^7 versions of a million files.
#[derive(Debug, Default)]
pub struct SpellingClashes {
    files: HashSet<u64>,
    /// Folders without case, with the one way in which each is written.
    folders: HashMap<u64, u64>,
    random: RandomState,
}

impl SpellingClashes {
    /// Takes the next path; `false` if it clashes with one before.
    pub fn is_new(&mut self, path: &str) -> bool {
        let folded = folded(path);
        let own = self.random.hash_one(folded.as_str());
        if self.folders.contains_key(&own) || !self.files.insert(own) {
            return false;
        }
        let (mut rest, mut written) = (folded.as_str(), path);
        while let Some(((folder, _), (as_written, _))) = rest.rsplit_once('/').zip(written.rsplit_once('/')) {
            let hash = self.random.hash_one(folder);
            let spelling = self.random.hash_one(as_written);
            if self.files.contains(&hash) {
                return false;
            }
            match self.folders.insert(hash, spelling) {
                Some(before) if before != spelling => return false,
                // Its own folders are known, too.
                Some(_) => break,
                None => {}
            }
            (rest, written) = (folder, as_written);
        }
        true
    }
}

/// Whether two paths are one where upper and lower case or normal forms are not told apart, or if one of them would be a
/// folder of the other, or if a folder of theirs is written in two ways.
pub fn clash(one: &str, other: &str) -> bool {
    let mut clashes = SpellingClashes::default();
    !clashes.is_new(one) || !clashes.is_new(other)
}

/// A path without case, in one normal form.
fn folded(path: &str) -> String {
    if path.is_ascii() {
        return path.to_ascii_uppercase();
    }
    // Capitals, since `ß` and `ﬁ` are two letters there.
    path.nfd().flat_map(char::to_uppercase).nfd().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_in_their_folder() {
        for good in
            ["a", "images/train/001.jpg", "Bilder/Zellen ß.png", "a..b/...", "-", "a b", "a/.trainyard-pull"]
        {
            assert_eq!(check_path(good), Ok(()), "{good}");
        }
        for (bad, error) in [
            ("", PathError::Empty),
            ("/etc/passwd", PathError::Absolute),
            ("../a", PathError::Part("..".into())),
            ("a/../../b", PathError::Part("..".into())),
            ("a//b", PathError::Part(String::new())),
            ("a/", PathError::Part(String::new())),
            ("./a", PathError::Part(".".into())),
            ("a\nb", PathError::Control),
            ("a\0", PathError::Control),
            (".trainyard-pull", PathError::Marker),
            (".Trainyard-Pull/a", PathError::Marker),
        ] {
            assert_eq!(check_path(bad), Err(error), "{bad:?}");
        }
        assert!(check_path(&"a/".repeat(600)).is_err());
        assert!(check_path(&"a".repeat(256)).is_err());
    }

    #[test]
    fn paths_that_are_one_elsewhere_clash() {
        let clash = |paths: &[&str]| {
            let mut clashes = SpellingClashes::default();
            paths.iter().find(|path| !clashes.is_new(path)).map(|path| (*path).to_owned())
        };
        assert_eq!(clash(&["a/b.jpg", "a/c.jpg", "b/b.jpg", "a-b"]), None);
        assert_eq!(clash(&["a/b.jpg", "A/B.jpg"]).as_deref(), Some("A/B.jpg"));
        assert_eq!(clash(&["z\u{e9}.jpg", "ze\u{301}.jpg"]).as_deref(), Some("ze\u{301}.jpg"));
        assert_eq!(clash(&["\u{c9}t\u{e9}", "e\u{301}te\u{301}"]).as_deref(), Some("e\u{301}te\u{301}"));
        assert_eq!(clash(&["a", "a/b"]).as_deref(), Some("a/b"));
        assert_eq!(clash(&["stra\u{df}e", "STRASSE"]).as_deref(), Some("STRASSE"));
        assert_eq!(clash(&["images/Train/1", "images/train/2"]).as_deref(), Some("images/train/2"));
        assert_eq!(clash(&["\u{e9}/1", "e\u{301}/2"]).as_deref(), Some("e\u{301}/2"));
        assert_eq!(clash(&["a/b/c", "a/B"]).as_deref(), Some("a/B"));
        assert_eq!(clash(&["a/b/c", "a/b/d", "a"]).as_deref(), Some("a"));
        for (one, other) in [("a", "A"), ("a/b/c", "a/B"), ("images/Train/1", "images/train/2"), ("a", "a/b")]
        {
            assert!(super::clash(one, other) && super::clash(other, one), "{one} {other}");
        }
        assert!(!super::clash("a/b", "a/c"));
    }
}

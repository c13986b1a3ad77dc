//! What a data set or weights in the cluster's store are called: `cells`, `cells@3f9a`.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

/// Characters of a name.
const MAX_NAME: usize = 64;
/// Digits of a whole version.
const VERSION_DIGITS: usize = 64;
/// Digits of the shortest prefix of one.
const MIN_PREFIX: usize = 4;
/// Digits that people are shown.
const SHOWN_DIGITS: usize = 12;
/// A name that ends so is a file's.
const FILE_ENDINGS: [&str; 4] = [".yaml", ".yml", ".pt", ".safetensors"];

/// Why a text names nothing in the store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    #[error("is empty")]
    Empty,
    #[error(
        "has the name `{0}`; a name has up to {MAX_NAME} letters, digits, `.`, `_` and `-`, and begins with a letter or \
         digit"
    )]
    Name(String),
    #[error("has the name `{0}`, which is that of a file; leave the ending out")]
    FileName(String),
    #[error(
        "has the version `{0}`; a version has {MIN_PREFIX} to {VERSION_DIGITS} hexadecimal digits in small letters"
    )]
    Version(String),
}

/// A name, and a version of what has it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    name: String,
    version: String,
}

/// Checks the name of a data set or of weights.
///
/// # Errors
/// What is wrong with it.
pub fn check_name(name: &str) -> Result<(), ReferenceError> {
    if name.is_empty() {
        return Err(ReferenceError::Empty);
    }
    let is_allowed = |letter: char| letter.is_ascii_alphanumeric() || ".-_".contains(letter);
    let begins = name.starts_with(|letter: char| letter.is_ascii_alphanumeric());
    if !begins || name.len() > MAX_NAME || !name.chars().all(is_allowed) {
        return Err(ReferenceError::Name(name.to_owned()));
    }
    let lower = name.to_ascii_lowercase();
    if FILE_ENDINGS.iter().any(|ending| lower.ends_with(ending)) {
        return Err(ReferenceError::FileName(name.to_owned()));
    }
    Ok(())
}

impl Reference {
    /// A whole version; `id` has all its digits.
    pub fn exact(name: &str, id: &str) -> Self {
        Self { name: name.to_owned(), version: id.to_owned() }
    }

    /// What a job's path names, if it names something in the store: paths of machines are absolute.
    pub fn of_path(path: &Path) -> Option<Self> {
        path.to_str().filter(|_| path.is_relative())?.parse().ok()
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The version's first digits, or all; empty for the newest one.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Whether it names one version for good.
    pub fn is_exact(&self) -> bool {
        self.version.len() == VERSION_DIGITS
    }

    /// As people are shown it, with the first digits of the version.
    pub fn short(&self) -> String {
        let digits = self.version.len().min(SHOWN_DIGITS);
        Self { name: self.name.clone(), version: self.version[..digits].to_owned() }.to_string()
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if self.version.is_empty() { Ok(()) } else { write!(f, "@{}", self.version) }
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let (name, version) = match text.split_once('@') {
            Some((name, version)) => (name, Some(version)),
            None => (text, None),
        };
        check_name(name)?;
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        match version {
            Some(version)
                if !(MIN_PREFIX..=VERSION_DIGITS).contains(&version.len())
                    || !version.bytes().all(is_digit) =>
            {
                Err(ReferenceError::Version(version.to_owned()))
            }
            version => Ok(Self { name: name.to_owned(), version: version.unwrap_or_default().to_owned() }),
        }
    }
}

/// A path of a job as people are shown it: of a version in the store only its first digits.
pub fn shown(path: &Path) -> String {
    match Reference::of_path(path) {
        Some(reference) => reference.short(),
        None => path.display().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_read_what_they_print() {
        let id = "3f9a".repeat(16);
        for text in ["cells", "cells@3f9a", "BCCD-v2.1_x@0123abcd", &format!("cells@{id}")] {
            let reference: Reference = text.parse().unwrap();
            assert_eq!(reference.to_string(), text);
        }
        let exact = Reference::exact("cells", &id);
        assert!(exact.is_exact());
        assert_eq!(exact.short(), "cells@3f9a3f9a3f9a");
        assert_eq!(shown(Path::new(&exact.to_string())), "cells@3f9a3f9a3f9a");
        assert_eq!(shown(Path::new("/data/cells/data.yaml")), "/data/cells/data.yaml");
    }

    #[test]
    fn paths_are_no_references() {
        for text in [
            "",
            "/data/cells",
            "./cells",
            "cells/data.yaml",
            "cells.yaml",
            "best.PT",
            "-x",
            "a b",
            "é",
            "a@",
            "a@3F9A",
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text}");
            assert_eq!(Reference::of_path(Path::new(text)), None, "{text}");
        }
        assert!("a".repeat(65).parse::<Reference>().is_err());
        assert!("a@3f9".parse::<Reference>().is_err());
        assert!(format!("a@{}", "a".repeat(65)).parse::<Reference>().is_err());
    }
}

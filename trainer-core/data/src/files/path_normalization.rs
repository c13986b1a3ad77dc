//! Paths that mean one file and are written in two ways: with the separators of Windows, with accents as one character or
//! as two (Unicode's NFC, NFD), in UTF-8 or in Latin-1. Archives and lists carry them from one machine to another.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use unicode_normalization::{UnicodeNormalization, is_nfc};

/// How the path of an existing file differs from the path that was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Respelling {
    /// It has slashes for backslashes.
    Separators,
    /// It has the same letters in other bytes: another Unicode normal form, or Latin-1.
    Letters,
}

impl Respelling {
    /// The end of a sentence that begins with a number of lines: what was done with them.
    pub const fn of_lines(self) -> &'static str {
        match self {
            Self::Separators => "have backslashes, which were taken as slashes",
            Self::Letters => {
                "name files whose names have the same letters in other bytes (NFC, NFD or Latin-1); these were taken"
            }
        }
    }

    /// The end of a sentence that begins with a path: what was done with it.
    pub const fn of_path(self) -> &'static str {
        match self {
            Self::Separators => "the backslashes were taken as slashes",
            Self::Letters => {
                "what is there has the same letters in other bytes (NFC, NFD or Latin-1); it was taken"
            }
        }
    }
}

/// The normal form (NFC, UTF-8) of a file name. Names that differ only in the bytes of their letters share it.
pub(crate) fn normalized(name: &[u8]) -> Vec<u8> {
    match std::str::from_utf8(name) {
        Ok(text) if is_nfc(text) => name.to_vec(),
        Ok(text) => text.nfc().collect::<String>().into_bytes(),
        Err(_) => latin1(name).nfc().collect::<String>().into_bytes(),
    }
}

/// A file name as text: as it is in UTF-8, or else as Latin-1.
pub(crate) fn as_text(name: &[u8]) -> Cow<'_, str> {
    std::str::from_utf8(name).map_or_else(|_| latin1(name).into(), Cow::Borrowed)
}

fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

/// All ways to write the letters of a file name in bytes, its own first.
fn respellings(name: &[u8]) -> Vec<Vec<u8>> {
    let text = std::str::from_utf8(name).map_or_else(|_| latin1(name), str::to_owned);
    let (composed, decomposed) = (text.nfc().collect::<String>(), text.nfd().collect::<String>());
    let bytes: Option<Vec<u8>> = composed.chars().map(|letter| u8::try_from(letter).ok()).collect();
    let mut found = vec![name.to_vec(), composed.into_bytes(), decomposed.into_bytes()];
    found.extend(bytes);
    found
}

/// The existing file whose path has the letters of `path` in other bytes.
pub(crate) fn respelled(path: &Path) -> Option<PathBuf> {
    if path.as_os_str().as_bytes().is_ascii() {
        return None;
    }
    let mut found = PathBuf::new();
    for part in path.components() {
        let Component::Normal(name) = part else {
            found.push(part);
            continue;
        };
        let name = name.as_bytes();
        if name.is_ascii() {
            found.push(part);
            continue;
        }
        let places = respellings(name).into_iter().map(|name| found.join(OsStr::from_bytes(&name)));
        found = places.into_iter().find(|place| place.exists())?;
    }
    found.exists().then_some(found)
}

/// The first of `places` that exists, or else the first that does when respelled, and how that differs.
pub fn find_existing(places: &[PathBuf]) -> Option<(PathBuf, Option<Respelling>)> {
    if let Some(found) = places.iter().find(|place| place.exists()) {
        return Some((found.clone(), None));
    }
    let slashed = places.iter().filter_map(|place| with_slashes(place.as_os_str().as_bytes()));
    let slashed: Vec<PathBuf> = slashed.map(|place| PathBuf::from(OsStr::from_bytes(&place))).collect();
    if let Some(found) = slashed.iter().find(|place| place.exists()) {
        return Some((found.clone(), Some(Respelling::Separators)));
    }
    let other = places.iter().chain(&slashed).find_map(|place| respelled(place));
    other.map(|found| (found, Some(Respelling::Letters)))
}

/// `entry` with slashes for backslashes; `None` when it has no backslash.
pub(crate) fn with_slashes(entry: &[u8]) -> Option<Vec<u8>> {
    let slash = |byte: &u8| if *byte == b'\\' { b'/' } else { *byte };
    entry.contains(&b'\\').then(|| entry.iter().map(slash).collect())
}

/// What names a machine in a path of Windows: a drive letter, or a server; `None` in other paths.
pub(crate) fn windows_root(entry: &[u8]) -> Option<&'static str> {
    match entry {
        [letter, b':', b'/' | b'\\', ..] if letter.is_ascii_alphabetic() => Some("a drive letter"),
        [b'\\', b'\\', ..] => Some("a server"),
        _ => None,
    }
}

/// What to write instead of a path of Windows that does not exist, as the end of a sentence; `None` for other paths.
/// `bases` are folders that may have the end of the path.
pub fn windows_advice(entry: &[u8], bases: &[PathBuf]) -> Option<String> {
    let root = windows_root(entry);
    if root.is_none() && !entry.contains(&b'\\') {
        return None;
    }
    let what = match (root, entry.contains(&b'\\')) {
        (Some(root), true) => format!("{root} and backslashes"),
        (Some(root), false) => root.to_owned(),
        (None, _) => "backslashes".to_owned(),
    };
    let slashed = with_slashes(entry).map_or(Cow::Borrowed(entry), Cow::Owned);
    let parts: Vec<&[u8]> = slashed.split(|byte| *byte == b'/').filter(|part| !part.is_empty()).collect();
    // The drive is no part of it.
    let from = usize::from(root.is_some());
    let tails = (from..parts.len()).map(|at| parts[at..].join(&b'/'));
    let is_there = |tail: &Vec<u8>| bases.iter().any(|base| base.join(OsStr::from_bytes(tail)).exists());
    let example = tails.into_iter().find(is_there).map_or_else(
        || "a path of this machine with slashes, or one relative to the data.yaml".to_owned(),
        |tail| format!("`{}`", String::from_utf8_lossy(&tail)),
    );
    Some(format!("it is a Windows path ({what}); write {example}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_found_under_its_letters_in_other_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let (composed, decomposed, latin1) =
            ("세포_é".as_bytes(), "세포_e\u{301}".nfd().collect::<String>(), b"Gr\xF6\xDFe");
        let place = |name: &[u8]| folder.path().join(OsStr::from_bytes(name));
        std::fs::create_dir(place(decomposed.as_bytes())).unwrap();
        std::fs::create_dir(place(decomposed.as_bytes()).join(OsStr::from_bytes(latin1))).unwrap();
        let written = place(composed).join("Größe");
        let there = place(decomposed.as_bytes()).join(OsStr::from_bytes(latin1));
        assert_eq!(respelled(&written), Some(there.clone()));
        assert_eq!(respelled(&place(composed).join(OsStr::from_bytes(latin1))), Some(there));
        assert_eq!(respelled(&place(composed).join("Große")), None);
        assert_eq!(respelled(Path::new("/plain/name")), None);
        assert_eq!(normalized(composed), normalized(decomposed.as_bytes()));
        assert_eq!(normalized(latin1), normalized("Größe".as_bytes()));
        assert_ne!(normalized(latin1), normalized("Größ".as_bytes()));
    }

    #[test]
    fn a_path_of_windows_is_named_with_what_to_write() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("images/train")).unwrap();
        let bases = [folder.path().to_path_buf()];
        let advice = |entry: &str| windows_advice(entry.as_bytes(), &bases);
        let full = "it is a Windows path (a drive letter and backslashes); write `images/train`";
        assert_eq!(advice(r"D:\lab\set\images\train").as_deref(), Some(full));
        let slashes = "it is a Windows path (a drive letter); write `images/train`";
        assert_eq!(advice("D:/lab/set/images/train").as_deref(), Some(slashes));
        assert!(
            advice(r"\\nas\lab\set")
                .unwrap()
                .starts_with("it is a Windows path (a server and backslashes); write a path of")
        );
        assert_eq!(
            advice(r"images\train").as_deref(),
            Some("it is a Windows path (backslashes); write `images/train`")
        );
        assert_eq!([advice("images/train"), advice("a:b"), advice("/x")], [None, None, None]);
    }
}

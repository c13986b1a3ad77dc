//! What a version consists of.

use std::fmt;
use std::str::FromStr;

use crate::digest::{Digest, Hasher};
use crate::path_rules::{PathError, SpellingClashes, check_path, clash};

/// Files of a version.
pub const MAX_FILES: usize = 2_000_000;
/// Bytes of all paths.
const MAX_PATHS_BYTES: usize = 200 << 20;
/// How the name of a weights file ends.
const WEIGHTS_ENDINGS: [&str; 2] = [".pt", ".safetensors"];
/// Bytes of a file.
pub const MAX_FILE_BYTES: u64 = 64 << 30;

/// The kind of a version: data set or weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A data.yaml at the top, and what it names.
    DataSet,
    /// One file that trainings begin from.
    Weights,
}

impl Kind {
    /// As it is written in manifests and stored.
    pub const fn name(self) -> &'static str {
        match self {
            Self::DataSet => "dataset",
            Self::Weights => "weights",
        }
    }
}

/// The text is the name of no kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("is `{0}`; use `dataset` or `weights`")]
pub struct ParseKindError(String);

impl FromStr for Kind {
    type Err = ParseKindError;

    fn from_str(text: &str) -> Result<Self, ParseKindError> {
        let found = [Self::DataSet, Self::Weights].into_iter().find(|kind| kind.name() == text);
        found.ok_or_else(|| ParseKindError(text.to_owned()))
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a list of files is no manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    #[error("`{path}` {cause}")]
    Path { path: String, cause: PathError },
    #[error("`{0}` comes after a path that is greater or equal; sort by the paths' bytes, each once")]
    Order(String),
    #[error(
        "`{path}` is the same as `{other}` where upper and lower case or normal forms are not told apart; rename one of \
         them"
    )]
    Clash { path: String, other: String },
    #[error("`{path}` has {size_bytes} bytes; a file may have {MAX_FILE_BYTES}")]
    FileTooLarge { path: String, size_bytes: u64 },
    #[error("there are more than {MAX_FILES} files")]
    TooManyFiles,
    #[error("the paths of all files have more than {MAX_PATHS_BYTES} bytes")]
    TooLongPaths,
    /// It has no file, or not the one that its kind needs.
    #[error("{0}")]
    Incomplete(&'static str),
    /// The text of a manifest is damaged.
    #[error("line {0} of the manifest cannot be read")]
    Line(usize),
}

/// A file of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Relative to the version's folder.
    pub path: &'a str,
    pub size_bytes: u64,
    pub digest: Digest,
}

/// What is kept of a file beside its path: 48 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Row {
    digest: Digest,
    size_bytes: u64,
    /// Where its path ends in the text of all paths.
    path_end: u32,
}

/// The files of a version, sorted by the bytes of their paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    kind: Kind,
    rows: Vec<Row>,
    /// All paths, one after the other.
    paths: String,
}

impl Manifest {
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Number of files.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether it has no file, which no finished manifest has.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Bytes of all files.
    pub fn total_bytes(&self) -> u64 {
        self.rows.iter().map(|row| row.size_bytes).sum()
    }

    /// A file by its place.
    pub fn get(&self, at: usize) -> Option<Entry<'_>> {
        let row = self.rows.get(at)?;
        let begin = at.checked_sub(1).map_or(0, |before| self.rows[before].path_end);
        let path = &self.paths[begin as usize..row.path_end as usize];
        Some(Entry { path, size_bytes: row.size_bytes, digest: row.digest })
    }

    /// The place of the file with this path.
    pub fn find(&self, path: &str) -> Option<usize> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low.midpoint(high);
            match self.get(middle)?.path.as_bytes().cmp(path.as_bytes()) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Equal => return Some(middle),
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        None
    }

    /// All files in order.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = Entry<'_>> {
        (0..self.len()).map(|at| self.get(at).expect("`at` is below the number of rows"))
    }

    /// The version's id: the SHA-256 of [`Self::lines`].
    pub fn id(&self) -> Digest {
        let mut hasher = Hasher::new();
        self.lines().for_each(|line| hasher.update(line.as_bytes()));
        hasher.take()
    }

    /// The manifest as text: `trainyard KIND 1`, then `SHA256 SIZE PATH` of each file, each with a line feed.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        let line = |Entry { path, size_bytes, digest }| format!("{digest} {size_bytes} {path}\n");
        std::iter::once(header(self.kind)).chain(self.entries().map(line))
    }

    /// Reads what [`Self::lines`] has written.
    ///
    /// # Errors
    /// The text is damaged, or breaks a rule of manifests.
    pub fn parse(text: &str) -> Result<Self, ManifestError> {
        let mut lines = text.split_inclusive('\n');
        let first = lines.next().unwrap_or_default();
        let kind = [Kind::DataSet, Kind::Weights].into_iter().find(|kind| header(*kind) == first);
        let mut builder = Builder::new(kind.ok_or(ManifestError::Line(1))?);
        for (at, line) in lines.enumerate() {
            let parsed = || -> Option<(Digest, u64, &str)> {
                let (digest, rest) = line.strip_suffix('\n')?.split_once(' ')?;
                let (size_bytes, path) = rest.split_once(' ')?;
                Some((digest.parse().ok()?, size_bytes.parse().ok()?, path))
            };
            let (digest, size_bytes, path) = parsed().ok_or(ManifestError::Line(at + 2))?;
            builder.add(path, size_bytes, digest)?;
        }
        builder.finish()
    }
}

fn header(kind: Kind) -> String {
    format!("trainyard {kind} 1\n")
}

/// A manifest that is being made. It takes about 100 bytes a file.
#[derive(Debug)]
pub struct Builder {
    manifest: Manifest,
    clashes: SpellingClashes,
}

impl Builder {
    pub fn new(kind: Kind) -> Self {
        let manifest = Manifest { kind, rows: Vec::new(), paths: String::new() };
        Self { manifest, clashes: SpellingClashes::default() }
    }

    /// Number of files until now.
    pub fn len(&self) -> usize {
        self.manifest.len()
    }

    /// Whether there is no file yet.
    pub fn is_empty(&self) -> bool {
        self.manifest.is_empty()
    }

    /// Adds the next file; they come sorted by the bytes of their paths.
    ///
    /// # Errors
    /// The path, its place or the size breaks a rule. Nothing was added.
    pub fn add(&mut self, path: &str, size_bytes: u64, digest: Digest) -> Result<(), ManifestError> {
        let wrong = |cause| ManifestError::Path { path: without_controls(path), cause };
        check_path(path).map_err(wrong)?;
        if size_bytes > MAX_FILE_BYTES {
            return Err(ManifestError::FileTooLarge { path: path.to_owned(), size_bytes });
        }
        let last = self.len().checked_sub(1).and_then(|last| self.manifest.get(last));
        if last.is_some_and(|last| last.path >= path) {
            return Err(ManifestError::Order(path.to_owned()));
        }
        if self.len() >= MAX_FILES {
            return Err(ManifestError::TooManyFiles);
        }
        let paths_bytes = self.manifest.paths.len() + path.len();
        let path_end = u32::try_from(paths_bytes).ok().filter(|_| paths_bytes <= MAX_PATHS_BYTES);
        let path_end = path_end.ok_or(ManifestError::TooLongPaths)?;
        if !self.clashes.is_new(path) {
            let other = self.manifest.entries().find(|entry| clash(entry.path, path));
            let other = other.map_or_else(|| "another path".to_owned(), |entry| entry.path.to_owned());
            return Err(ManifestError::Clash { path: path.to_owned(), other });
        }
        self.manifest.paths.push_str(path);
        self.manifest.rows.push(Row { digest, size_bytes, path_end });
        Ok(())
    }

    /// The manifest of all files.
    ///
    /// # Errors
    /// A file is missing that its kind needs.
    pub fn finish(self) -> Result<Manifest, ManifestError> {
        let manifest = self.manifest;
        let top = |name: &str| manifest.entries().any(|entry| entry.path == name);
        match manifest.kind {
            Kind::DataSet if !top("data.yaml") => {
                Err(ManifestError::Incomplete("a data set needs a file `data.yaml` at its top"))
            }
            Kind::Weights if manifest.len() != 1 => Err(ManifestError::Incomplete("weights are one file")),
            Kind::Weights if !manifest.entries().all(|entry| is_weights_file(entry.path)) => {
                Err(ManifestError::Incomplete("weights are a file NAME.pt or NAME.safetensors, in no folder"))
            }
            _ => Ok(manifest),
        }
    }
}

/// A path for a message: a name with a line's end in it would make two of it, and escapes steer terminals.
fn without_controls(path: &str) -> String {
    path.replace(char::is_control, "\u{FFFD}")
}

fn is_weights_file(path: &str) -> bool {
    !path.contains('/')
        && WEIGHTS_ENDINGS.iter().any(|ending| path.strip_suffix(ending).is_some_and(|stem| !stem.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(files: &[(&str, &str)]) -> Result<Manifest, ManifestError> {
        let mut builder = Builder::new(Kind::DataSet);
        for (path, content) in files {
            builder.add(path, content.len() as u64, Digest::of(content.as_bytes()))?;
        }
        builder.finish()
    }

    #[test]
    fn the_id_is_the_hash_of_the_text() {
        let made = manifest(&[("data.yaml", "names: [a]"), ("images/1 2.jpg", "x")]).unwrap();
        let text: String = made.lines().collect();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "trainyard dataset 1");
        assert_eq!(lines[2], format!("{} 1 images/1 2.jpg", Digest::of(b"x")));
        assert_eq!(made.id(), Digest::of(text.as_bytes()));
        assert_eq!(Manifest::parse(&text), Ok(made.clone()));
        assert_eq!(made.total_bytes(), 11);
        let paths: Vec<&str> = made.entries().map(|entry| entry.path).collect();
        assert_eq!(paths, ["data.yaml", "images/1 2.jpg"]);
    }

    #[test]
    fn what_breaks_a_rule_is_named() {
        let error = |files: &[(&str, &str)]| manifest(files).unwrap_err().to_string();
        assert!(error(&[("images/1.jpg", "x")]).contains("data.yaml"));
        assert!(error(&[("b", ""), ("a", "")]).contains("`a` comes after"));
        assert!(error(&[("a", ""), ("a", "")]).contains("`a` comes after"));
        assert!(error(&[("A", ""), ("a", "")]).contains("`a` is the same as `A` where"));
        assert!(error(&[("../a", "")]).contains("`../a` has the part `..`"));
        assert!(error(&[("a\nb\u{1b}c", "")]).starts_with("`a\u{FFFD}b\u{FFFD}c` has a control character"));
        let mut builder = Builder::new(Kind::Weights);
        let too_large = builder.add("a", MAX_FILE_BYTES + 1, Digest([0; 32]));
        assert!(matches!(too_large, Err(ManifestError::FileTooLarge { .. })));
        assert!(builder.finish().is_err());
        for (path, is_good) in [
            ("n.pt", true),
            ("best.safetensors", true),
            (".pt", false),
            ("run.sh", false),
            (".ssh/n.pt", false),
        ] {
            let mut builder = Builder::new(Kind::Weights);
            builder.add(path, 1, Digest([0; 32])).unwrap();
            assert_eq!(builder.finish().is_ok(), is_good, "{path}");
        }
    }

    #[test]
    fn damaged_text_is_no_manifest() {
        let text: String = manifest(&[("data.yaml", "a"), ("z", "b")]).unwrap().lines().collect();
        for cut in 1..text.len() {
            let cut = &text[..cut];
            // What ends with a line is a shorter manifest, which has another id.
            assert!(Manifest::parse(cut).is_err() || cut.ends_with('\n'), "{cut:?}");
        }
        assert_eq!(Manifest::parse("trainyard dataset 2\n"), Err(ManifestError::Line(1)));
    }
}

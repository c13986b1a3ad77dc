//! Reads a data.yaml in its usual forms: Ultralytics', Roboflow's, CVAT's. Runs no `download:` script.

mod values;

use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use trainyard_types::SizeLimit;
use trainyard_types::text::{self, TextError};

use self::values::{Count, Entries, KeypointShape, Names, Plain};
use super::glob_patterns;
use super::listing::folder_of;
use crate::files;
use crate::files::path_normalization::{self, Respelling};
use crate::labels::LabelRules;

/// What a data.yaml says, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataYaml {
    /// The file itself.
    pub file: PathBuf,
    /// Class names by id.
    pub names: Vec<String>,
    /// Folders or lists of training images.
    pub train: Vec<String>,
    /// Folders or lists of validation images.
    pub val: Vec<String>,
    /// Folders or lists of test images; often empty.
    pub test: Vec<String>,
    /// `kpt_shape`, where labels have keypoints: `[keypoints of an object, numbers of each]`.
    pub keypoints: Option<[usize; 2]>,
    /// What the user should know of odd values, which were taken as they are probably meant: sentences without the file's
    /// name.
    pub notes: Vec<String>,
    /// Where relative entries are looked for, in this order; at least one.
    roots: Vec<PathBuf>,
    /// The lines of the keys of [`SPLITS`], from 1.
    lines: [Option<usize>; 4],
}

/// The most classes that a count alone makes: each gets a name.
const MAX_CLASSES: usize = 100_000;

/// The keys of splits, with the second name of `val`.
const SPLITS: [&str; 4] = ["train", "val", "valid", "test"];

/// Where an entry leads.
#[derive(Debug)]
pub(crate) struct Resolved {
    /// One place, or all that a pattern matches; never empty.
    pub places: Vec<PathBuf>,
    /// How the path of the one place differs from what was written.
    pub respelling: Option<Respelling>,
    /// Whether the entry is a pattern, which may match what is no data.
    pub by_pattern: bool,
}

/// Why a data.yaml cannot be used, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum YamlError {
    /// The file cannot be read.
    #[error("data: cannot read `{}`: {source}{}", file.display(), read_advice(file, source))]
    Read {
        file: PathBuf,
        /// The reader's own error.
        source: std::io::Error,
    },
    /// The file is no text.
    #[error("{}", source.in_file(file.display()))]
    Text {
        file: PathBuf,
        /// The reader's own error.
        source: TextError,
    },
    /// The file is no YAML, or a key has a value that it cannot have.
    #[error("{place}: {source}{advice}")]
    Parse {
        /// The file, and the line if the reason does not tell it.
        place: FileLine,
        /// Why, mostly with line and column.
        source: serde_norway::Error,
        /// The way out, if the reason does not tell it.
        advice: &'static str,
    },
    /// The file has a second document; a data.yaml has one.
    #[error("{place}: a second document begins (`---`); a data.yaml has one: remove the others")]
    Documents {
        /// The file, and the line of the second `---`.
        place: FileLine,
    },
    /// A required key is missing.
    #[error("{file}: `{key}` is missing; add {example}")]
    Missing {
        file: PathBuf,
        key: &'static str,
        /// What to write, as words.
        example: &'static str,
    },
    /// `nc` without `names` is more than any data set has.
    #[error(
        "{place}: `nc` is {nc}, and a data set has at most {MAX_CLASSES} classes; correct `nc`, or write `names`"
    )]
    TooManyClasses {
        /// The line of `nc`.
        place: FileLine,
        /// The value of `nc`.
        nc: usize,
    },
    /// `nc` and `names` disagree.
    #[error("{place}: `nc` is {nc}, but `names` has {names} names; make them agree, or remove `nc`")]
    CountMismatch {
        /// The line of `nc`.
        place: FileLine,
        /// The value of `nc`.
        nc: usize,
        /// Number of names.
        names: usize,
    },
    /// A folder or list does not exist.
    #[error("{place}: `{key}: {entry}` was not found; {searched}")]
    NotFound {
        /// The line of the key.
        place: FileLine,
        key: &'static str,
        /// The value of the key.
        entry: String,
        /// The path that was tried first.
        wanted: Box<Path>,
        /// Every path that was tried, and what to do.
        searched: String,
    },
}

/// A file, and a line of it where one is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileLine {
    pub file: PathBuf,
    /// The number of the line, from 1.
    pub line: Option<usize>,
}

impl fmt::Display for FileLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        self.line.map_or(Ok(()), |line| write!(f, ":{line}"))
    }
}

/// What to do where a path does not lead to a file, as the end of a sentence.
fn read_advice(file: &Path, source: &std::io::Error) -> String {
    let inside = file.join("data.yaml");
    match source.kind() {
        std::io::ErrorKind::IsADirectory if inside.is_file() => format!("; give `{}`", inside.display()),
        std::io::ErrorKind::NotFound | std::io::ErrorKind::IsADirectory => {
            "; give the path of the data set's data.yaml".to_owned()
        }
        _ => String::new(),
    }
}

fn shown(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| format!("`{}`", path.display())).collect::<Vec<_>>().join(", ")
}

/// The file as written.
#[derive(Deserialize, Default)]
struct Written {
    path: Option<Plain>,
    train: Option<Entries>,
    val: Option<Entries>,
    /// Roboflow's and others' second name for `val`.
    valid: Option<Entries>,
    test: Option<Entries>,
    nc: Option<Count>,
    names: Option<Names>,
    kpt_shape: Option<KeypointShape>,
}

impl Written {
    fn read(file: &Path, text: &str) -> Result<Self, YamlError> {
        let mut documents = serde_norway::Deserializer::from_str(text);
        let Some(first) = documents.next() else { return Ok(Self::default()) };
        let written = Option::<Self>::deserialize(first).map_err(|source| {
            let line = repeated_key_line(text, &source);
            let advice = if line.is_some() {
                "; each key comes once: remove one"
            } else {
                parse_advice(text, &source)
            };
            YamlError::Parse { place: FileLine { file: file.to_path_buf(), line }, source, advice }
        })?;
        // A file may end with a line that begins another document, which nobody meant.
        let others = documents.map(serde_norway::Value::deserialize);
        if others.into_iter().any(|other| !matches!(other, Ok(serde_norway::Value::Null))) {
            let line = second_document_line(text);
            return Err(YamlError::Documents { place: FileLine { file: file.to_path_buf(), line } });
        }
        Ok(written.unwrap_or_default())
    }
}

/// What to do about an error of YAML itself, as the end of a sentence.
fn parse_advice(text: &str, error: &serde_norway::Error) -> &'static str {
    let line = error.location().and_then(|place| text.lines().nth(place.line() - 1)).unwrap_or_default();
    let indent = line.len() - line.trim_start().len();
    if line[..indent].contains('\t') {
        "; the line begins with a tab, and YAML indents with blanks"
    } else if line.contains('\\') && error.to_string().contains("escape") {
        "; in double quotes a backslash begins an escape: write slashes"
    } else {
        ""
    }
}

/// The line of a key that comes twice, from 1.
fn repeated_key_line(text: &str, error: &serde_norway::Error) -> Option<usize> {
    let message = error.to_string();
    let key = message.strip_prefix("duplicate field `")?.strip_suffix('`')?;
    let last = text.lines().enumerate().filter(|(_, line)| is_key(line, key)).last();
    last.map(|(at, _)| at + 1)
}

/// The line on which a second document begins, from 1.
fn second_document_line(text: &str) -> Option<usize> {
    let is_mark = |line: &str| line == "---" || line.starts_with("--- ");
    let is_content = |line: &str| !line.trim().is_empty() && !line.starts_with(['#', '%']) && !is_mark(line);
    let first = text.lines().position(is_content)?;
    let mark = text.lines().skip(first).position(is_mark)?;
    Some(first + mark + 1)
}

/// Whether a line of the file's top has a key.
fn is_key(line: &str, key: &str) -> bool {
    let rest = line.trim_start_matches(['"', '\'']).strip_prefix(key);
    rest.is_some_and(|rest| rest.trim_start_matches(['"', '\'']).trim_start().starts_with(':'))
}

/// The line of a key of the file's top, from 1.
fn line_of(text: &str, key: &str) -> Option<usize> {
    text.lines().position(|line| is_key(line, key)).map(|at| at + 1)
}

impl DataYaml {
    /// Reads and checks `file`. Folders are looked for later, by [`DataYaml::resolve`].
    ///
    /// # Errors
    /// When the file cannot be read, is no YAML, or says something that cannot be meant.
    pub fn read(file: &Path) -> Result<Self, YamlError> {
        let bytes = files::read_once(file, SizeLimit::DATA_YAML)
            .map_err(|source| YamlError::Read { file: file.to_path_buf(), source })?;
        let text =
            text::decode(&bytes).map_err(|source| YamlError::Text { file: file.to_path_buf(), source })?;
        Self::parse(file, &text)
    }

    /// Checks `text`, which was read from `file`.
    ///
    /// # Errors
    /// As [`DataYaml::read`].
    pub fn parse(file: &Path, text: &str) -> Result<Self, YamlError> {
        let written = Written::read(file, text)?;
        let missing = |key, example| YamlError::Missing { file: file.to_path_buf(), key, example };
        let place = |key| FileLine { file: file.to_path_buf(), line: line_of(text, key) };
        let names = match (written.names, written.nc) {
            (Some(Names(names)), _) => names,
            (None, Some(Count(nc))) if nc > MAX_CLASSES => {
                return Err(YamlError::TooManyClasses { place: place("nc"), nc });
            }
            // Old files have only a count.
            (None, Some(Count(nc))) => (0..nc).map(|class| format!("class{class}")).collect(),
            (None, None) => return Err(missing("names", "`names: [first, second]`")),
        };
        if names.is_empty() {
            return Err(missing("names", "at least one class name"));
        }
        if let Some(Count(nc)) = written.nc.filter(|Count(nc)| *nc != names.len()) {
            return Err(YamlError::CountMismatch { place: place("nc"), nc, names: names.len() });
        }
        let Entries(train) = written.train.unwrap_or_default();
        if train.is_empty() {
            return Err(missing("train", "`train: images/train`"));
        }
        let Entries(val) = written.val.or(written.valid).unwrap_or_default();
        if val.is_empty() {
            return Err(missing("val", "`val: images/val`"));
        }
        let Entries(test) = written.test.unwrap_or_default();
        let keypoints = written.kpt_shape.map(|KeypointShape(shape)| shape);
        let mut notes = duplicate_name_notes(&names);
        let path = written.path.map(|Plain(path)| path);
        let roots = roots(file, path.as_deref(), &mut notes);
        let lines = SPLITS.map(|key| line_of(text, key));
        Ok(Self { file: file.to_path_buf(), names, train, val, test, keypoints, notes, roots, lines })
    }

    /// The existing places of `entry`, a value of `key`: one, or all that a pattern (`*`, `?`, `[…]`, `**`) matches.
    ///
    /// An absolute path is taken as it is. A relative one is looked for below `path`, then beside the
    /// data.yaml; one that begins with `../` is tried without that, too, because Roboflow's files mean
    /// the data.yaml's own folder by it.
    ///
    /// # Errors
    /// When it is nowhere; the error names every path tried.
    pub fn resolve(&self, key: &'static str, entry: &str) -> Result<Vec<PathBuf>, YamlError> {
        self.find(key, entry).map(|found| found.places)
    }

    /// As [`DataYaml::resolve`], with how the places were found.
    pub(crate) fn find(&self, key: &'static str, entry: &str) -> Result<Resolved, YamlError> {
        let tried = self.candidates(entry.trim());
        if let Some((place, respelling)) = path_normalization::find_existing(&tried) {
            return Ok(Resolved { places: vec![place], respelling, by_pattern: false });
        }
        let mut matches = self.roots.iter().map(|root| glob_patterns::matches(root, entry.trim()));
        if let Some(places) = matches.find(|places| !places.is_empty()) {
            return Ok(Resolved { places, respelling: None, by_pattern: true });
        }
        let advice = if glob_patterns::is_pattern(entry.as_bytes()) {
            Some("it is a pattern that nothing matches".to_owned())
        } else {
            let entry = entry.trim();
            path_normalization::windows_advice(entry.as_bytes(), &self.roots)
                .or_else(|| unsupported_advice(entry))
        };
        let advice = advice.unwrap_or_else(|| format!("correct `{key}` or `path`"));
        let searched = format!("tried {}; {advice}", shown(&tried));
        let wanted = tried.first().unwrap_or(&self.file).as_path().into();
        Err(YamlError::NotFound { place: self.place(key), key, entry: entry.to_owned(), wanted, searched })
    }

    fn place(&self, key: &str) -> FileLine {
        let at = SPLITS.iter().position(|known| *known == key);
        let mut line = at.and_then(|at| self.lines[at]);
        if key == "val" {
            line = line.or(self.lines[2]);
        }
        FileLine { file: self.file.clone(), line }
    }

    /// The data set's own folder: `path`, or else the file's.
    pub fn folder(&self) -> &Path {
        &self.roots[0]
    }

    /// How the rows of its label files are read.
    pub(crate) fn label_rules(&self, single_class: bool) -> LabelRules {
        LabelRules { classes: self.names.len(), single_class, keypoints: self.keypoints }
    }

    /// The folders that entries and lines of lists are relative to.
    pub(crate) fn roots(&self) -> &[PathBuf] {
        &self.roots
    }

    /// The folder of the data set in which `place` lies, if it does.
    pub(crate) fn base(&self, place: &Path) -> Option<&Path> {
        self.roots.iter().find(|root| place.starts_with(root)).map(PathBuf::as_path)
    }

    /// The paths that an entry may mean, in the order in which they are tried.
    fn candidates(&self, entry: &str) -> Vec<PathBuf> {
        if Path::new(entry).is_absolute() {
            return vec![PathBuf::from(entry)];
        }
        let mut found = Vec::new();
        for root in &self.roots {
            found.push(root.join(entry));
            if let Some(inner) = entry.strip_prefix("../") {
                found.push(root.join(inner));
            }
        }
        found
    }
}

/// What to write instead of an entry that only a shell, or a program with a network, could follow.
fn unsupported_advice(entry: &str) -> Option<String> {
    if entry.starts_with("~/") {
        Some("`~` is only a shell's word for the home folder; write the whole path".to_owned())
    } else if entry.contains("://") {
        Some("it is an address, and nothing is fetched; fetch it and write the path of a folder".to_owned())
    } else {
        None
    }
}

/// A sentence for each name that several classes have.
fn duplicate_name_notes(names: &[String]) -> Vec<String> {
    let mut sorted: Vec<(&str, usize)> =
        names.iter().zip(0..).map(|(name, id)| (name.as_str(), id)).collect();
    sorted.sort_unstable();
    let same = sorted.chunk_by(|a, b| a.0 == b.0).filter(|same| same.len() > 1);
    let told = |same: &[(&str, usize)]| {
        let ids = same.iter().map(|(_, id)| id.to_string()).collect::<Vec<_>>().join(", ");
        format!("`names` calls classes {ids} `{}`; give each a name of its own", same[0].0)
    };
    same.take(MAX_DUPLICATE_NAMES).map(told).collect()
}

/// Names that are told of at most.
const MAX_DUPLICATE_NAMES: usize = 5;

/// `path`, if given, then the file's own folder.
fn roots(file: &Path, path: Option<&str>, notes: &mut Vec<String>) -> Vec<PathBuf> {
    let folder = folder_of(file);
    let mut roots = Vec::new();
    if let Some(path) = path.map(str::trim).filter(|path| !path.is_empty() && *path != ".") {
        if let Some(what) = path_normalization::windows_root(path.as_bytes()) {
            notes.push(format!(
                "`path: {path}` is a Windows path ({what}), which this machine does not have; the data.yaml's own \
                 folder is taken. Remove `path`, or write one of this machine"
            ));
        } else {
            // An absolute `path` replaces the folder here.
            let written = folder.join(path);
            if let Some(slashed) = path_normalization::with_slashes(path.as_bytes()) {
                let slashed = folder.join(std::ffi::OsStr::from_bytes(&slashed));
                if slashed.exists() && !written.exists() {
                    notes.push(format!("`path: {path}`: {}", Respelling::Separators.of_path()));
                }
                roots.extend([written, slashed]);
            } else {
                roots.push(written);
            }
        }
    }
    roots.push(folder.to_path_buf());
    roots
}

#[cfg(test)]
mod tests;

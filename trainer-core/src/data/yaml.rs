//! Reads a data.yaml in its usual forms: Ultralytics', Roboflow's, CVAT's. Runs no `download:` script.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// A data set's description.
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
    /// Where relative entries are looked for, in this order; at least one.
    roots: Vec<PathBuf>,
}

/// What is wrong with a data.yaml, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum YamlError {
    /// The file cannot be read.
    #[error("data: cannot read `{file}`: {source}; give the path of the data set's data.yaml")]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is no YAML, or a key holds what it cannot.
    #[error("{file}: {source}")]
    Parse {
        /// The file.
        file: PathBuf,
        /// Why, with line and column.
        source: serde_norway::Error,
    },
    /// A key is absent.
    #[error("{file}: `{key}` is missing; add {example}")]
    Missing {
        /// The file.
        file: PathBuf,
        /// Which key.
        key: &'static str,
        /// What to write.
        example: &'static str,
    },
    /// `nc` and `names` disagree.
    #[error("{file}: `nc` is {nc}, but `names` has {names} names; make them agree, or remove `nc`")]
    CountMismatch {
        /// The file.
        file: PathBuf,
        /// The value of `nc`.
        nc: usize,
        /// Names given.
        names: usize,
    },
    /// `names` as a map does not number its classes 0, 1, 2 …
    #[error(
        "{file}: `names` has {count} names but no class {missing}; number the classes from 0 without gaps"
    )]
    NamesGap {
        /// The file.
        file: PathBuf,
        /// Names given.
        count: usize,
        /// The first id without a name.
        missing: u32,
    },
    /// A folder or list is nowhere.
    #[error("{file}: `{key}: {entry}` was not found; tried {}; correct `{key}` or `path`", shown(tried))]
    NotFound {
        /// The file.
        file: PathBuf,
        /// Which key.
        key: &'static str,
        /// Its value.
        entry: String,
        /// Every path that was looked at.
        tried: Vec<PathBuf>,
    },
}

fn shown(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| format!("`{}`", path.display())).collect::<Vec<_>>().join(", ")
}

/// The file as written.
#[derive(Deserialize)]
struct Written {
    path: Option<String>,
    train: Option<OneOrMany>,
    val: Option<OneOrMany>,
    /// Roboflow's and others' second name for `val`.
    valid: Option<OneOrMany>,
    test: Option<OneOrMany>,
    nc: Option<usize>,
    names: Option<Names>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a folder, a .txt file, or a list of these")]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn entries(written: Option<Self>) -> Vec<String> {
        let entries = match written {
            None => Vec::new(),
            Some(Self::One(entry)) => vec![entry],
            Some(Self::Many(entries)) => entries,
        };
        // `test: ` with nothing behind it means that there is none.
        entries.into_iter().filter(|entry| !entry.trim().is_empty()).collect()
    }
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected class names as a list, or as a map from class id to name")]
enum Names {
    List(Vec<Scalar>),
    Map(BTreeMap<u32, Scalar>),
}

/// A class may be called `1` or `true`.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a class name")]
enum Scalar {
    Text(String),
    Whole(i64),
    Real(f64),
    Truth(bool),
}

impl Scalar {
    fn text(self) -> String {
        match self {
            Self::Text(text) => text,
            Self::Whole(number) => number.to_string(),
            Self::Real(number) => number.to_string(),
            Self::Truth(truth) => truth.to_string(),
        }
    }
}

impl DataYaml {
    /// Reads and checks `file`. Folders are looked for later, by [`DataYaml::resolve`].
    ///
    /// # Errors
    /// When the file cannot be read, is no YAML, or says something that cannot be meant.
    pub fn read(file: &Path) -> Result<Self, YamlError> {
        let text = std::fs::read_to_string(file)
            .map_err(|source| YamlError::Read { file: file.to_path_buf(), source })?;
        Self::parse(file, &text)
    }

    /// Checks `text`, which was read from `file`.
    ///
    /// # Errors
    /// As [`DataYaml::read`].
    pub fn parse(file: &Path, text: &str) -> Result<Self, YamlError> {
        let written: Written = serde_norway::from_str(text)
            .map_err(|source| YamlError::Parse { file: file.to_path_buf(), source })?;
        let missing = |key, example| YamlError::Missing { file: file.to_path_buf(), key, example };
        let names = match written.names {
            Some(names) => class_names(file, names)?,
            // Old files have only a count.
            None => {
                let nc = written.nc.ok_or_else(|| missing("names", "`names: [first, second]`"))?;
                (0..nc).map(|class| format!("class{class}")).collect()
            }
        };
        if names.is_empty() {
            return Err(missing("names", "at least one class name"));
        }
        if let Some(nc) = written.nc.filter(|nc| *nc != names.len()) {
            return Err(YamlError::CountMismatch { file: file.to_path_buf(), nc, names: names.len() });
        }
        let train = OneOrMany::entries(written.train);
        if train.is_empty() {
            return Err(missing("train", "`train: images/train`"));
        }
        let val = OneOrMany::entries(written.val.or(written.valid));
        if val.is_empty() {
            return Err(missing("val", "`val: images/val`"));
        }
        let test = OneOrMany::entries(written.test);
        let roots = roots(file, written.path.as_deref());
        Ok(Self { file: file.to_path_buf(), names, train, val, test, roots })
    }

    /// The first existing place of `entry`, a value of `key`.
    ///
    /// An absolute path is taken as it is. A relative one is looked for below `path`, then beside the
    /// data.yaml; one that begins with `../` is tried without that, too, because Roboflow's files mean
    /// the data.yaml's own folder by it.
    ///
    /// # Errors
    /// When it is nowhere; the error names every path tried.
    pub fn resolve(&self, key: &'static str, entry: &str) -> Result<PathBuf, YamlError> {
        let tried = self.candidates(entry);
        tried.iter().find(|path| path.exists()).cloned().ok_or_else(|| YamlError::NotFound {
            file: self.file.clone(),
            key,
            entry: entry.to_owned(),
            tried,
        })
    }

    /// The data set's own folder: `path`, or else the file's.
    pub fn folder(&self) -> &Path {
        &self.roots[0]
    }

    /// Where an entry, or a line of a list, may be.
    pub(crate) fn candidates(&self, entry: &str) -> Vec<PathBuf> {
        let entry = entry.trim();
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

fn class_names(file: &Path, names: Names) -> Result<Vec<String>, YamlError> {
    match names {
        Names::List(names) => Ok(names.into_iter().map(Scalar::text).collect()),
        Names::Map(names) => {
            let count = names.len();
            if let Some((missing, _)) = (0..).zip(names.keys()).find(|(expected, id)| expected != *id) {
                return Err(YamlError::NamesGap { file: file.to_path_buf(), count, missing });
            }
            Ok(names.into_values().map(Scalar::text).collect())
        }
    }
}

/// `path`, if given, then the file's own folder.
fn roots(file: &Path, path: Option<&str>) -> Vec<PathBuf> {
    let folder = match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_path_buf(),
        _ => PathBuf::from("."),
    };
    let mut roots = Vec::new();
    if let Some(path) = path.map(str::trim).filter(|path| !path.is_empty() && *path != ".") {
        // An absolute `path` replaces the folder here.
        roots.push(folder.join(path));
    }
    roots.push(folder);
    roots
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<DataYaml, YamlError> {
        DataYaml::parse(Path::new("/data/set/data.yaml"), text)
    }

    fn message(text: &str) -> String {
        parse(text).unwrap_err().to_string()
    }

    #[test]
    fn names_may_be_a_list_or_a_map_and_nc_is_optional() {
        let list = parse("train: a\nval: b\nnc: 2\nnames: [cat, 7]").unwrap();
        let map = parse("train: a\nval: b\nnames:\n  0: cat\n  1: 7\ndownload: rm -rf /").unwrap();
        assert_eq!(list.names, ["cat", "7"]);
        assert_eq!(list.names, map.names);
        assert_eq!(parse("train: a\nval: b\nnc: 2").unwrap().names, ["class0", "class1"]);
    }

    #[test]
    fn splits_may_be_one_entry_or_several_and_test_may_be_empty() {
        let yaml = parse("train: [a, lists/b.txt]\nvalid: c\ntest:\nnames: [x]").unwrap();
        assert_eq!((yaml.train.len(), yaml.val.len(), yaml.test.len()), (2, 1, 0));
    }

    #[test]
    fn relative_entries_are_looked_for_below_path_then_beside_the_file() {
        let yaml = parse("path: sub\ntrain: ../train/images\nval: b\nnames: [x]").unwrap();
        let tried: Vec<String> =
            yaml.candidates(&yaml.train[0]).iter().map(|path| path.display().to_string()).collect();
        assert_eq!(
            tried,
            [
                "/data/set/sub/../train/images",
                "/data/set/sub/train/images",
                "/data/set/../train/images",
                "/data/set/train/images"
            ]
        );
        let yaml = parse("path: /elsewhere\ntrain: a\nval: /abs\nnames: [x]").unwrap();
        assert_eq!(yaml.candidates("a"), [Path::new("/elsewhere/a"), Path::new("/data/set/a")]);
        assert_eq!(yaml.candidates("/abs"), [Path::new("/abs")]);
    }

    #[test]
    fn what_is_wrong_is_named_with_file_key_value_and_a_way_out() {
        let file = "/data/set/data.yaml: ";
        assert_eq!(
            message("train: a\nval: b\nnc: 3\nnames: [x]"),
            format!("{file}`nc` is 3, but `names` has 1 names; make them agree, or remove `nc`")
        );
        assert!(message("val: b\nnames: [x]").contains("`train` is missing; add `train: images/train`"));
        assert!(message("train: a\nnames: [x]").contains("`val` is missing"));
        assert!(message("train: a\nval: b").contains("`names` is missing"));
        assert!(message("train: a\nval: b\nnames: []").contains("at least one class name"));
        assert!(message("train: a\nval: b\nnames: {0: a, 2: b}").contains("no class 1; number"));
        assert!(message("train: 3\nval: b\nnames: [x]").contains("expected a folder"));
        assert!(message("train: [a\nval").contains(file));
        let error = parse("path: gone\ntrain: a\nval: b\nnames: [x]").unwrap().resolve("val", "b");
        assert_eq!(
            error.unwrap_err().to_string(),
            format!(
                "{file}`val: b` was not found; tried `/data/set/gone/b`, `/data/set/b`; \
                 correct `val` or `path`"
            )
        );
        assert!(
            DataYaml::read(Path::new("/no/data.yaml")).unwrap_err().to_string().contains("`/no/data.yaml`")
        );
    }
}

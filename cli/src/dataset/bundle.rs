//! What a push sends: the files of one version, checked by the rules of versions before one of them is read.

use std::path::PathBuf;
use std::sync::Arc;

use trainyard_content::{
    Digest, Hasher, Kind, MAX_FILE_BYTES, MAX_FILES, SpellingClashes, check_path, clash,
};
use trainyard_data::packing::{Origin, PackedFile, PackingList};
use trainyard_types::size::bytes;

use crate::failure::Failure;
use crate::terminal::{clean, shown};

/// Problems that are shown word for word; the others are counted.
pub const MAX_SHOWN: usize = 20;

/// A version that is to be pushed.
#[derive(Debug, Clone)]
pub struct Bundle {
    pub kind: Kind,
    pub name: String,
    /// For people: "874 images, 3 classes".
    pub description: String,
    pub list: Arc<PackingList>,
    /// The file that the user named, by which hashes are kept from one push to the next.
    pub source: PathBuf,
}

impl Bundle {
    /// Refuses paths that not every machine can make, and files that no version may have.
    ///
    /// # Errors
    /// All such files by name.
    pub fn check(&self) -> Result<(), Failure> {
        let mut wrong = Shown::default();
        if self.list.len() > MAX_FILES {
            wrong.add(format!("there are {} files; a version may have {MAX_FILES}", self.list.len()));
        }
        let mut clashes = SpellingClashes::default();
        for file in self.list.iter() {
            let place = || named(&file);
            if let Err(error) = check_path(file.path) {
                wrong.add(format!("{} {error}", place()));
            } else if !clashes.is_new(file.path) {
                // Only those that are shown are worth a search.
                let search = || {
                    let mut before = self.list.iter().take_while(|other| other.path != file.path);
                    before.find(|other| clash(other.path, file.path))
                };
                let other = wrong.has_room().then(search).flatten();
                let other = other.map_or_else(|| "another file".to_owned(), |other| named(&other));
                wrong.add(format!(
                    "{} is the same as {other} where upper and lower case or normal forms are not told apart; rename one \
                     of them",
                    place()
                ));
            }
            if file.size_bytes > MAX_FILE_BYTES {
                let (size, most) = (bytes(file.size_bytes), bytes(MAX_FILE_BYTES));
                wrong.add(format!("{} has {size}; a file may have {most}", place()));
            }
        }
        wrong.failure(
            "some files cannot be pushed, and nothing was sent",
            "correct what is named and push again",
        )
    }

    /// The version's id, of the digests of its files in order: the hash of the text that the proto describes.
    pub fn id(&self, digests: &[Digest]) -> Digest {
        let mut hasher = Hasher::new();
        hasher.update(format!("trainyard {} 1\n", self.kind).as_bytes());
        for (file, digest) in self.list.iter().zip(digests) {
            hasher.update(format!("{digest} {} {}\n", file.size_bytes, file.path).as_bytes());
        }
        hasher.take()
    }
}

/// A file as its user knows it.
fn named(file: &PackedFile<'_>) -> String {
    match &file.origin {
        Origin::File(source) => format!("`{}`", shown(source)),
        Origin::Made(_) => format!("`{}`", clean(file.path)),
    }
}

/// The first of many problems, and how many there are.
#[derive(Debug, Default)]
pub struct Shown {
    first: Vec<String>,
    more: usize,
}

impl Shown {
    pub fn add(&mut self, problem: String) {
        if self.has_room() {
            self.first.push(problem);
        } else {
            self.more += 1;
        }
    }

    /// Whether the next problem would be shown.
    pub fn has_room(&self) -> bool {
        self.first.len() < MAX_SHOWN
    }

    /// The same, of so many problems: one text may tell of many in sum, behind those that are shown.
    #[must_use]
    pub fn counting(self, problems: usize) -> Self {
        let more = problems.saturating_sub(self.first.len()).max(self.more);
        Self { more, ..self }
    }

    /// The first problems, and a line about the others.
    pub fn lines(self) -> Vec<String> {
        let more = (self.more > 0).then(|| format!("… and {} more", self.more));
        self.first.into_iter().chain(more).collect()
    }

    /// Wrong usage, where there is a problem.
    ///
    /// # Errors
    /// A usage error with all problems as details, if there are any.
    pub fn failure(self, message: &str, hint: &str) -> Result<(), Failure> {
        if self.first.is_empty() {
            return Ok(());
        }
        Err(Failure::usage(message).details(self.lines()).hint(hint))
    }
}

impl FromIterator<String> for Shown {
    fn from_iter<T: IntoIterator<Item = String>>(problems: T) -> Self {
        let mut shown = Self::default();
        problems.into_iter().for_each(|problem| shown.add(problem));
        shown
    }
}

#[cfg(test)]
mod tests {
    use trainyard_content::Builder;

    use super::*;

    fn weights(path: &str) -> Bundle {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("w");
        std::fs::write(&file, "x").unwrap();
        Bundle {
            kind: Kind::Weights,
            name: "w".into(),
            description: String::new(),
            list: Arc::new(PackingList::of_file(&file, path).unwrap()),
            source: file,
        }
    }

    #[test]
    fn the_id_is_that_of_the_manifest() {
        let digest = Digest::of(b"x");
        let mut builder = Builder::new(Kind::Weights);
        builder.add("yolov8n.pt", 1, digest).unwrap();
        assert_eq!(weights("yolov8n.pt").id(&[digest]), builder.finish().unwrap().id());
    }

    #[test]
    fn paths_that_not_every_machine_can_make_are_refused_by_name() {
        assert!(weights("ok.pt").check().is_ok());
        let failure = weights("a\nb.pt").check().unwrap_err();
        assert_eq!(failure.exit.code(), 2);
        assert!(failure.details[0].contains("control character"), "{failure:?}");
    }

    #[test]
    fn of_many_problems_twenty_are_shown_and_the_others_counted() {
        let shown: Shown = (0..25).map(|at| at.to_string()).collect();
        let lines = shown.lines();
        assert_eq!((lines.len(), lines[20].as_str()), (21, "… and 5 more"));
        let shown: Shown = (0..25).map(|at| at.to_string()).collect();
        assert_eq!(shown.counting(100_000).lines()[20], "… and 99980 more");
    }
}

//! Data sets of a cluster's store: they are the same on every machine, and have all their files in one folder.

use std::path::PathBuf;

use trainyard_data::{DataError, DataYaml, YamlError};

use super::data_roots::is_allowed;
use super::error::TrainError;

/// Refuses entries that lead out of the data set's folder, the only one of `roots`. A list there would be read.
///
/// # Errors
/// The first such entry, or one that is nowhere.
pub fn check_entries(yaml: &DataYaml, roots: &[PathBuf]) -> Result<(), TrainError> {
    for (key, entries) in [("train", &yaml.train), ("val", &yaml.val)] {
        for entry in entries {
            if yaml.resolve(key, entry)?.iter().any(|place| !is_allowed(place, roots)) {
                let file = yaml.file.display();
                return Err(TrainError::Stored(format!(
                    "{file}: `{key}: {entry}` leads out of the data set"
                )));
            }
        }
    }
    Ok(())
}

/// What would be a machine's lack for other data sets is so on every machine for a stored one.
pub fn everywhere(error: TrainError) -> TrainError {
    match error {
        TrainError::Outside { data, folder } => TrainError::Stored(format!(
            "{} lists images in {}, which is outside of the data set",
            data.display(),
            folder.display()
        )),
        TrainError::Data(DataError::Yaml(YamlError::NotFound { .. }) | DataError::Empty { .. }) => {
            TrainError::Stored(error.to_string())
        }
        TrainError::Data(DataError::NothingUsable { ref first, .. }) if first.contains("does not exist") => {
            TrainError::Stored(error.to_string())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use trainyard_data::dataset::listing::folder_of;
    use trainyard_data::{OpenOptions, Split};
    use trainyard_types::trainer::exit_code;

    use super::*;
    use crate::events::Events;
    use crate::test_data::TestData;
    use crate::train::setup::open_split;

    fn open(file: &Path) -> Result<(), TrainError> {
        let yaml = DataYaml::read(file)?;
        let roots = [folder_of(file).to_owned()];
        let opened = check_entries(&yaml, &roots).and_then(|()| {
            open_split(&yaml, Split::Train, &OpenOptions::default(), None, &roots, &mut Events::recording())
        });
        opened.map(drop).map_err(everywhere)
    }

    #[test]
    fn what_leads_out_of_a_stored_data_set_is_wrong_everywhere_and_not_read() {
        let (data, other) = (TestData::new(2, 1), TestData::new(2, 1));
        let file = data.path("data.yaml");
        open(&file).unwrap();
        let elsewhere = other.path("images/train");
        let list = other.path("list.txt");
        fs::write(&list, data.path("images/train/000.jpg").display().to_string()).unwrap();
        let up = format!("../{}/images/train", other.path("").file_name().unwrap().to_str().unwrap());
        for (train, words) in [
            (elsewhere.display().to_string(), "leads out of the data set"),
            (list.display().to_string(), "leads out of the data set"),
            (up, "leads out of the data set"),
            ("/nowhere/at/all".to_owned(), "was not found"),
            ("images/none".to_owned(), "was not found"),
            ("own.txt".to_owned(), "lists images in"),
        ] {
            let inside = data.path("images/train/000.jpg").display().to_string();
            let outside = other.path("images/train/001.jpg").display().to_string();
            fs::write(data.path("own.txt"), format!("{inside}\n{outside}\n")).unwrap();
            fs::write(&file, format!("train: {train}\nval: images/val\nnames: [square, disc]\n")).unwrap();
            let error = open(&file).unwrap_err();
            let failed = error.failed();
            assert!(failed.message.contains(words), "{train}: {}", failed.message);
            assert!(failed.message.contains("push it again so"), "{}", failed.message);
            assert_eq!((error.exit_code(), failed.unfit), (exit_code::BAD_SPEC, None));
        }
    }
}

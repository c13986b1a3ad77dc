//! Which images a split has: those in its folders, and those that its lists name.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::data::dataset::DataError;
use crate::data::yaml::DataYaml;
use crate::data::{decode, labels};
use crate::pulse;

/// An image to look at, and where it is named.
pub(crate) struct Listed {
    pub path: PathBuf,
    /// The list and its line, for an image named in a list.
    pub named_in: Option<(Arc<Path>, u32)>,
}

/// All images of a split, sorted within each folder, in file order within each list.
pub(crate) fn list(yaml: &DataYaml, key: &'static str, entries: &[String]) -> Result<Vec<Listed>, DataError> {
    let mut listed = Vec::new();
    for entry in entries {
        let place = yaml.resolve(key, entry)?;
        if place.is_dir() {
            let mut found = Vec::new();
            walk(&place, &mut Vec::new(), &mut found)
                .map_err(|source| DataError::List { place: place.clone(), source })?;
            found.sort();
            listed.extend(found.into_iter().map(|path| Listed { path, named_in: None }));
        } else if place.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("txt")) {
            read_list(yaml, &place, &mut listed)?;
        } else {
            return Err(DataError::NeitherFolderNorList { file: yaml.file.clone(), key, place });
        }
    }
    Ok(listed)
}

/// A folder, whatever its path.
type Identity = (u64, u64);

/// Finds the images in a folder. Follows links, as data sets are often assembled from them, but none to one of the folders
/// `above` it, which would never end.
fn walk(folder: &Path, above: &mut Vec<Identity>, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
    let metadata = std::fs::metadata(folder)?;
    let identity = (metadata.dev(), metadata.ino());
    if above.contains(&identity) {
        return Ok(());
    }
    above.push(identity);
    for entry in std::fs::read_dir(folder)? {
        pulse::tick();
        let entry = entry?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        // Only links need a second look.
        if kind.is_dir() || (kind.is_symlink() && path.is_dir()) {
            walk(&path, above, found)?;
        } else if decode::is_image_name(&path) || decode::unsupported(&path).is_some() {
            found.push(path);
        }
    }
    above.pop();
    Ok(())
}

fn read_list(yaml: &DataYaml, file: &Path, listed: &mut Vec<Listed>) -> Result<(), DataError> {
    let text = std::fs::read_to_string(file)
        .map_err(|source| DataError::List { place: file.to_path_buf(), source })?;
    let list: Arc<Path> = Arc::from(file);
    for (index, line) in labels::without_bom(&text).lines().enumerate() {
        let line = line.trim();
        if line.is_empty() {
            continue;
        }
        let named_in = Some((Arc::clone(&list), u32::try_from(index + 1).unwrap_or(u32::MAX)));
        if Path::new(line).is_absolute() {
            listed.push(Listed { path: PathBuf::from(line), named_in });
            continue;
        }
        let mut candidates = Vec::new();
        candidates.extend(file.parent().map(|folder| folder.join(line)));
        candidates.extend(yaml.candidates(line));
        // CVAT writes `data/obj_train_data/…` for what lies beside the list.
        if let Some(inner) = line.strip_prefix("data/") {
            candidates.extend(yaml.candidates(inner));
        }
        let existing = candidates.iter().position(|path| path.exists());
        let path = candidates.swap_remove(existing.unwrap_or(0));
        listed.push(Listed { path, named_in });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::data::test_data::TestData;

    #[test]
    fn links_are_followed_but_not_round_and_round() {
        let data = TestData::new(2, 1);
        let inner = data.path("images/train/a/b");
        std::fs::create_dir_all(&inner).unwrap();
        data.write_image("elsewhere/far.jpg", 3);
        symlink(data.path("elsewhere"), inner.join("far")).unwrap();
        // Twice the same folder is no loop.
        symlink(data.path("elsewhere"), data.path("images/train/near")).unwrap();
        for (name, to) in [("up", "images/train"), ("higher", "images"), ("self", "images/train/a/b")] {
            symlink(data.path(to), inner.join(name)).unwrap();
        }
        let mut found = Vec::new();
        walk(&data.path("images/train"), &mut Vec::new(), &mut found).unwrap();
        let mut found: Vec<_> = found
            .iter()
            .map(|path| path.strip_prefix(data.path("images")).unwrap().display().to_string())
            .collect();
        found.sort();
        let higher = "train/a/b/higher/val/000.jpg";
        let expected =
            ["train/000.jpg", "train/001.jpg", "train/a/b/far/far.jpg", higher, "train/near/far.jpg"];
        assert_eq!(found, expected);
    }
}

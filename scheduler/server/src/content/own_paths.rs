//! Before a push becomes a version: whether all paths that its data.yaml and its lists name are its own.

use std::sync::Arc;

use trainyard_content::{Kind, Manifest};
use trainyard_types::{SizeLimit, Violation, text};

use super::leading_out::{ListLines, Named, depth_of, named_by_yaml};
use super::places::Places;
use super::{Content, ReadError};

const DATA_YAML: &str = "data.yaml";
/// Paths that an answer names.
const MOST: usize = 20;

impl Content {
    /// The paths of a data set that lead out of it, as violations.
    ///
    /// # Errors
    /// A content is gone or damaged; the store.
    pub(super) async fn paths_leading_out(
        &self,
        manifest: &Arc<Manifest>,
        places: &Arc<Places>,
    ) -> Result<Vec<Violation>, ReadError> {
        let yaml = manifest.find(DATA_YAML).filter(|_| manifest.kind() == Kind::DataSet);
        let Some(at) = yaml else { return Ok(Vec::new()) };
        let mut bytes = Vec::new();
        if !self.read_file(manifest, places, at, SizeLimit::DATA_YAML, |part| bytes.extend(part)).await? {
            return Ok(Vec::new());
        }
        // What is no text is refused when a training starts.
        let Ok(text) = text::decode(&bytes) else { return Ok(Vec::new()) };
        let named = named_by_yaml(&text);
        let path = named.iter().find(|named| named.key == "path").map_or("", |named| named.value.as_str());
        let depth = depth_of(0, path).unwrap_or(0);
        let is_out =
            |named: &&Named| depth_of(if named.key == "path" { 0 } else { depth }, &named.value).is_none();
        let mut found: Vec<Violation> =
            named.iter().filter(is_out).take(MOST).map(|named| told(at, DATA_YAML, named)).collect();
        let mut lists: Vec<usize> = named
            .iter()
            .filter(|named| named.key != "path" && named.value.to_ascii_lowercase().ends_with(".txt"))
            .flat_map(|named| [format!("{path}/{}", named.value), named.value.clone()])
            .filter_map(|list| manifest.find(&normal(&list)?))
            .collect();
        lists.sort_unstable();
        lists.dedup();
        for at in lists {
            let Some(file) = manifest.get(at).map(|entry| entry.path) else { continue };
            let folder = file.matches('/').count();
            let mut lines = ListLines::new(folder.max(depth), MOST.saturating_sub(found.len()));
            self.read_file(manifest, places, at, SizeLimit::LIST, |part| lines.take(&part)).await?;
            lines.end_line();
            found.extend(lines.found.iter().map(|named| told(at, file, named)));
        }
        Ok(found)
    }
}

/// The path of a file in the data set by one that may go up and down on its way; `None` when it leads out.
fn normal(path: &str) -> Option<String> {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

fn told(at: usize, file: &str, named: &Named) -> Violation {
    let Named { line, key, value } = named;
    let what = if key.is_empty() { value.clone() } else { format!("{key}: {value}") };
    let what = text::clean(&what);
    Violation::new(
        format!("files[{at}]"),
        format!(
            "{file}:{line}: `{what}` leads out of the data set; a version has all files that it names, by paths relative \
             to its own folder: push it with `yard data push`, which brings them along"
        ),
    )
}

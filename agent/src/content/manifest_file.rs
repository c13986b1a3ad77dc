//! A version's list of files on this machine's disk, which is checked by the version's id.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Write as _};

use tracing::warn;
use trainyard_content::{Builder, Digest, Kind, Manifest};

use super::blob;
use super::layout::Layout;

/// The list of a version; `None` where there is none, or it is damaged: then the scheduler has it.
pub fn read(layout: &Layout, id: Digest) -> Option<Manifest> {
    let path = layout.manifest(id);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            warn!(path = %path.display(), %error, "a fetched version's list of files cannot be read");
            return None;
        }
    };
    let manifest = parse(BufReader::new(file)).filter(|manifest| manifest.id() == id);
    if manifest.is_none() {
        warn!(path = %path.display(), "a fetched version's list of files is damaged");
    }
    manifest
}

/// Line by line: the text of a million files is larger than the list that is made of it.
fn parse(text: impl io::BufRead) -> Option<Manifest> {
    let mut lines = text.lines().map_while(Result::ok);
    let header = lines.next()?;
    let kind: Kind = header.strip_prefix("trainyard ")?.strip_suffix(" 1")?.parse().ok()?;
    let mut builder = Builder::new(kind);
    for line in lines {
        let (digest, rest) = line.split_once(' ')?;
        let (size_bytes, path) = rest.split_once(' ')?;
        builder.add(path, size_bytes.parse().ok()?, digest.parse().ok()?).ok()?;
    }
    builder.finish().ok()
}

/// Keeps the list of a version.
///
/// # Errors
/// The disk's.
pub fn write(layout: &Layout, id: Digest, manifest: &Manifest) -> io::Result<()> {
    let unfinished = blob::unfinished_name(layout);
    let written = File::create(&unfinished).and_then(|file| {
        let mut file = BufWriter::new(file);
        manifest.lines().try_for_each(|line| file.write_all(line.as_bytes()))?;
        file.flush()
    });
    let written = written.and_then(|()| fs::rename(&unfinished, layout.manifest(id)));
    if written.is_err() {
        // The first error is the one to tell.
        let _gone = fs::remove_file(&unfinished);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_comes_back_and_a_damaged_one_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path());
        layout.create().unwrap();
        let mut builder = Builder::new(Kind::DataSet);
        builder.add("data.yaml", 3, Digest::of(b"abc")).unwrap();
        builder.add("images/1 2.jpg", 1, Digest::of(b"x")).unwrap();
        let manifest = builder.finish().unwrap();
        let id = manifest.id();
        assert_eq!(read(&layout, id), None);
        write(&layout, id, &manifest).unwrap();
        assert_eq!(read(&layout, id), Some(manifest));
        let text = fs::read_to_string(layout.manifest(id)).unwrap();
        fs::write(layout.manifest(id), text.replace("1 2.jpg", "1 3.jpg")).unwrap();
        assert_eq!(read(&layout, id), None);
    }
}

//! What a run leaves for people to look at: results.csv, args.yaml, TensorBoard's events, pictures.

pub mod args_yaml;
pub mod draw;
pub mod pictures;
pub mod plots;
pub mod results_csv;
pub mod tensorboard;

use std::io;
use std::path::Path;

use crate::checkpoint::write::write_durably;

/// Writes a file so that a reader sees the old one or the new one, never a part, whatever happens meanwhile.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".part");
    let written =
        write_durably(Path::new(&temporary), bytes).and_then(|()| std::fs::rename(&temporary, path));
    if written.is_err() {
        // On a full disk what was written would only be in the way.
        let _ = std::fs::remove_file(&temporary);
    }
    written
}

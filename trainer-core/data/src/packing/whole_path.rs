//! One path for each file, however it was written: lists say `lists/../images/a.jpg` where folders say `images/a.jpg`.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Folders by their written paths, each looked up once.
#[derive(Debug, Default)]
pub(super) struct WholePaths(RefCell<HashMap<OsString, PathBuf>>);

impl WholePaths {
    /// A folder's path without links, `.` and `..`; as it is where it cannot be had.
    pub fn of_folder(&self, folder: &Path) -> PathBuf {
        if let Some(known) = self.0.borrow().get(folder.as_os_str()) {
            return known.clone();
        }
        // A bare name's folder is empty.
        let here = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        let whole = here.canonicalize().unwrap_or_else(|_| folder.to_path_buf());
        self.0.borrow_mut().insert(folder.as_os_str().to_owned(), whole.clone());
        whole
    }

    /// A file in its folder's whole path. The file itself may be a link.
    pub fn of_file(&self, file: &Path) -> PathBuf {
        self.of_folder(file.parent().unwrap_or(Path::new(""))).join(file.file_name().unwrap_or_default())
    }
}

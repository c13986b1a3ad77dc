//! Files on disk: reading those of a data set, telling whether one has changed, and replacing one of our own as a whole.
//! Knows nothing of images or labels.

pub mod atomic;
pub mod identity;
pub mod mapped;
pub mod path_normalization;
pub mod read;

pub use self::atomic::{
    sync_folder, write_atomically, write_atomically_shared, write_atomically_with, write_durably,
};
pub use self::identity::{FileStamp, HeadAndTail, checksum, digest};
pub use self::mapped::MappedFile;
pub use self::read::{is_gone, open, read_label_file, read_once, read_with_retries};

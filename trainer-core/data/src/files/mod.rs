//! Files on disk: reading those of a data set, telling whether one has changed. Knows nothing of images or labels.

pub mod identity;
pub mod last_use;
pub mod mapped;
pub mod path_normalization;
pub mod read;

pub use self::identity::{FileStamp, HeadAndTail, checksum, digest};
pub use self::last_use::mark_as_used;
pub use self::mapped::MappedFile;
pub use self::read::{is_gone, open, read_label_file, read_once, read_with_retries};

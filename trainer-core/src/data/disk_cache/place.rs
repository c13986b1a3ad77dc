//! Where a disk cache is, and how large it may grow.

use std::path::PathBuf;

/// How much disk the cache may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of all data sets together in one directory; `None` for half of the file system.
    pub quota_bytes: Option<u64>,
    /// Bytes of the file system that stay free; `None` for a twentieth of it, at most 10 GiB.
    pub floor_bytes: Option<u64>,
}

impl Limits {
    /// Both as a share of the file system.
    pub const DEFAULT: Self = Self { quota_bytes: None, floor_bytes: None };

    /// From whole GiB, as configured.
    pub fn from_gib(quota: Option<u32>, floor: Option<u32>) -> Self {
        let bytes = |gib: u32| u64::from(gib) << 30;
        Self { quota_bytes: quota.map(bytes), floor_bytes: floor.map(bytes) }
    }
}

/// A directory for cache files, which is never the data set's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// May be shared by trainers; created when needed.
    pub directory: PathBuf,
    /// Of all that lies there.
    pub limits: Limits,
}

impl From<PathBuf> for Place {
    fn from(directory: PathBuf) -> Self {
        Self { directory, limits: Limits::DEFAULT }
    }
}

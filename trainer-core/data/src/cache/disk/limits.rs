//! The directory of a disk cache, and how large it may grow.

use std::path::{Path, PathBuf};

/// How much disk the cache may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of all data sets together in one directory; `None` for half of the file system.
    pub quota_bytes: Option<u64>,
    /// Bytes of the file system that stay free; `None` for a twentieth of it, at most 10 GiB.
    pub floor_bytes: Option<u64>,
}

impl Limits {
    /// Both limits as a share of the file system.
    pub const DEFAULT: Self = Self { quota_bytes: None, floor_bytes: None };

    /// Limits in whole GiB, as they are configured.
    pub fn from_gib(quota: Option<u32>, floor: Option<u32>) -> Self {
        let bytes = |gib: u32| u64::from(gib) << 30;
        Self { quota_bytes: quota.map(bytes), floor_bytes: floor.map(bytes) }
    }
}

/// A directory for cache files, which is never the data set's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheDir {
    /// The directory; trainers may share it, and it is created when needed.
    pub directory: PathBuf,
    /// The limits of all files in it.
    pub limits: Limits,
}

impl From<PathBuf> for CacheDir {
    fn from(directory: PathBuf) -> Self {
        Self { directory, limits: Limits::DEFAULT }
    }
}

/// Whether `directory`, which need not exist yet, lies in `folder`, with links resolved.
pub fn is_inside(directory: &Path, folder: &Path) -> bool {
    let Ok(folder) = folder.canonicalize() else { return false };
    let directory = std::path::absolute(directory).unwrap_or_else(|_| directory.to_owned());
    // What does not exist has no links either.
    let there = directory.ancestors().find_map(|part| part.canonicalize().ok());
    there.is_some_and(|there| there.starts_with(folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_inside_by_its_real_place_even_before_it_exists() {
        let outer = tempfile::tempdir().unwrap();
        let at = |name: &str| outer.path().join(name);
        std::fs::create_dir_all(at("set/images")).unwrap();
        std::os::unix::fs::symlink(at("set"), at("link")).unwrap();
        for inside in ["set", "set/images", "set/cache/deep", "link/cache"] {
            assert!(is_inside(&at(inside), &at("set")) && is_inside(&at(inside), &at("link")), "{inside}");
        }
        for outside in ["", "settled", "other/set"] {
            assert!(!is_inside(&at(outside), &at("set")), "{outside}");
        }
        assert!(!is_inside(&at("set"), &at("gone")));
    }
}

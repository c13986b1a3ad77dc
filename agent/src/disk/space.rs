//! The room on the disk of jobs' directories: which of them are removed when it becomes full, and when no new jobs come.
//!
//! What an attempt needs, and what the scheduler does not have yet, is never removed: the driver has the last word.

use std::fs;
use std::io;
use std::path::Path;
use std::time::SystemTime;

use nix::sys::statvfs::statvfs;
use trainyard_types::JobId;

/// What jobs' directories may take, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// What all directories together may take.
    pub quota: u64,
    /// What stays free on their disk.
    pub floor: u64,
}

/// A job's directory, with its size and its age.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobDirUse {
    /// The job whose directory it is.
    pub job: JobId,
    /// Bytes that it takes on disk.
    pub bytes: u64,
    /// When something in it changed last.
    pub used: SystemTime,
}

/// The jobs whose directories are removed, those used longest ago first, until quota and floor hold. `free` is what the
/// disk has now, in bytes.
pub fn surplus(mut dirs: Vec<JobDirUse>, free: u64, limits: Limits) -> Vec<JobId> {
    dirs.sort_by_key(|dir| (dir.used, dir.job));
    let taken: u64 = dirs.iter().map(|dir| dir.bytes).sum();
    let mut excess = taken.saturating_sub(limits.quota).max(limits.floor.saturating_sub(free));
    let goes = dirs.into_iter().take_while(|dir| {
        let goes = excess > 0;
        excess = excess.saturating_sub(dir.bytes);
        goes
    });
    goes.map(|dir| dir.job).collect()
}

/// Why no new jobs come with so many bytes `free`, a sentence; empty when they may come. While they are refused, they need
/// a quarter more than the floor, so that the answer does not change with every file.
pub fn refusal(folder: &Path, free: u64, floor: u64, refuses: bool) -> String {
    let needed = if refuses { floor + floor / 4 } else { floor };
    if free >= needed {
        return String::new();
    }
    let (free, floor) = (free >> 20, floor >> 20);
    let folder = folder.display();
    format!(
        "the disk of {folder} has {free} MiB free, under `disk_floor_mib` = {floor}; make room there, or lower the \
         key"
    )
}

/// Why the disk of `folder` takes no job now, a sentence; `None` when it does.
pub fn shortage(folder: &Path, floor: u64) -> Option<String> {
    let free = free_bytes(folder).ok()?;
    Some(refusal(folder, free, floor, false)).filter(|why| !why.is_empty())
}

/// Bytes that are free to us on the disk of `folder`.
///
/// # Errors
/// The disk's error.
pub fn free_bytes(folder: &Path) -> io::Result<u64> {
    let disk = statvfs(folder)?;
    Ok(disk.blocks_available().saturating_mul(disk.fragment_size()))
}

/// Whether an error says that a disk has no room.
pub fn is_full(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::StorageFull
}

/// The size and age of every job's directory under `data_dir`. What cannot be read is left out.
pub fn job_dirs(data_dir: &Path) -> Vec<JobDirUse> {
    let mut found = Vec::new();
    for entry in fs::read_dir(data_dir.join("jobs")).into_iter().flatten().flatten() {
        let Some(job) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let mut dir = JobDirUse { job, bytes: 0, used: SystemTime::UNIX_EPOCH };
        add(&entry.path(), &mut dir);
        found.push(dir);
    }
    found
}

fn add(path: &Path, dir: &mut JobDirUse) {
    // Links are not followed: what they point to is not the job's.
    let Ok(known) = fs::symlink_metadata(path) else { return };
    dir.used = dir.used.max(known.modified().unwrap_or(SystemTime::UNIX_EPOCH));
    if known.is_dir() {
        fs::read_dir(path).into_iter().flatten().flatten().for_each(|entry| add(&entry.path(), dir));
    } else if known.is_file() {
        dir.bytes += known.len();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use uuid::Uuid;

    use super::*;

    fn job(number: u128) -> JobId {
        JobId(Uuid::from_u128(number))
    }

    fn dir(number: u128, bytes: u64, used: u64) -> JobDirUse {
        JobDirUse { job: job(number), bytes, used: SystemTime::UNIX_EPOCH + Duration::from_secs(used) }
    }

    #[test]
    fn the_oldest_go_until_quota_and_floor_hold_and_not_one_more() {
        let dirs = vec![dir(1, 10, 30), dir(2, 10, 10), dir(3, 10, 20)];
        let limits = |quota, floor| Limits { quota, floor };
        let gone = |free, limits| surplus(dirs.clone(), free, limits);
        assert_eq!(gone(100, limits(30, 100)), []);
        assert_eq!(gone(100, limits(29, 100)), [job(2)]);
        assert_eq!(gone(100, limits(20, 100)), [job(2)]);
        assert_eq!(gone(89, limits(30, 100)), [job(2), job(3)]);
        assert_eq!(gone(0, limits(30, 100)), [job(2), job(3), job(1)]);
    }

    #[test]
    fn new_jobs_stay_away_below_the_floor_and_come_back_with_some_room() {
        let folder = Path::new("/d");
        assert_eq!(refusal(folder, 100 << 20, 100 << 20, false), "");
        let why = refusal(folder, 99 << 20, 100 << 20, false);
        assert!(why.contains("/d has 99 MiB free") && why.contains("`disk_floor_mib` = 100"), "{why}");
        assert_ne!(refusal(folder, 124 << 20, 100 << 20, true), "");
        assert_eq!(refusal(folder, 125 << 20, 100 << 20, true), "");
    }

    #[test]
    fn directories_are_measured_with_what_is_in_them_and_others_are_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().join("jobs").join(job(7).to_string());
        fs::create_dir_all(own.join("run/weights")).unwrap();
        fs::create_dir_all(folder.path().join("jobs/not-a-job")).unwrap();
        fs::write(own.join("trainer.log"), "12345").unwrap();
        fs::write(own.join("run/weights/best"), "123").unwrap();
        std::os::unix::fs::symlink("/proc", own.join("elsewhere")).unwrap();
        let found = job_dirs(folder.path());
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].job, found[0].bytes), (job(7), 8));
        assert!(found[0].used > SystemTime::UNIX_EPOCH);
        assert!(free_bytes(folder.path()).unwrap() > 0);
    }
}

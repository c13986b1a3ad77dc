//! The disk that jobs' directories lie on: which of them go when it becomes full, and when new jobs stay away.
//!
//! What an attempt needs, and what the scheduler does not have yet, never goes: the driver has the last word.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::time::SystemTime;

use nix::sys::statvfs::statvfs;
use trainyard_types::JobId;

/// What jobs' directories may take, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// All of them together.
    pub quota: u64,
    /// Stays free on their disk.
    pub floor: u64,
}

/// A job's directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// The job whose directory it is.
    pub job: JobId,
    /// On disk.
    pub bytes: u64,
    /// When something in it changed last.
    pub used: SystemTime,
}

/// The jobs whose directories go, used longest ago first, so that quota and floor hold with `free` bytes left on
/// the disk now.
pub fn surplus(mut kept: Vec<Kept>, free: u64, limits: Limits) -> Vec<JobId> {
    kept.sort_by_key(|dir| (dir.used, dir.job));
    let taken: u64 = kept.iter().map(|dir| dir.bytes).sum();
    let mut excess = taken.saturating_sub(limits.quota).max(limits.floor.saturating_sub(free));
    let goes = kept.into_iter().take_while(|dir| {
        let goes = excess > 0;
        excess = excess.saturating_sub(dir.bytes);
        goes
    });
    goes.map(|dir| dir.job).collect()
}

/// Why new jobs stay away with so many bytes `free`, a sentence; empty when they need not. Those that have come
/// back need a quarter more than the floor, so that they do not come and go with every file.
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

/// Bytes that are free to us on the disk of `folder`.
///
/// # Errors
/// The disk's.
pub fn free_bytes(folder: &Path) -> io::Result<u64> {
    let disk = statvfs(folder)?;
    Ok(disk.blocks_available().saturating_mul(disk.fragment_size()))
}

/// Whether an error says that a disk has no room.
pub fn is_full(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::StorageFull
}

/// Writes a small file anew, so that whoever reads it, after a crash too, finds the old one or the new one and never
/// a part. What is half-written ends with `.new`.
///
/// # Errors
/// The disk's; the old one stays.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let temporary = path.with_file_name(name);
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)
}

/// Every job's directory under `data_dir`. One that cannot be read counts as far as it can.
pub fn kept(data_dir: &Path) -> Vec<Kept> {
    let mut found = Vec::new();
    for entry in fs::read_dir(data_dir.join("jobs")).into_iter().flatten().flatten() {
        let Some(job) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let mut dir = Kept { job, bytes: 0, used: SystemTime::UNIX_EPOCH };
        add(&entry.path(), &mut dir);
        found.push(dir);
    }
    found
}

fn add(path: &Path, dir: &mut Kept) {
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

    fn dir(number: u128, bytes: u64, used: u64) -> Kept {
        Kept { job: job(number), bytes, used: SystemTime::UNIX_EPOCH + Duration::from_secs(used) }
    }

    #[test]
    fn the_oldest_go_until_quota_and_floor_hold_and_not_one_more() {
        let kept = vec![dir(1, 10, 30), dir(2, 10, 10), dir(3, 10, 20)];
        let limits = |quota, floor| Limits { quota, floor };
        let gone = |free, limits| surplus(kept.clone(), free, limits);
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
    fn a_file_is_replaced_whole_or_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        replace(&path, b"first").unwrap();
        replace(&path, b"next").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"next");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no draft is left");
        fs::create_dir(folder.path().join("a.json.new")).unwrap();
        assert!(replace(&path, b"last").is_err());
        assert_eq!(fs::read(&path).unwrap(), b"next");
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
        let found = kept(folder.path());
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].job, found[0].bytes), (job(7), 8));
        assert!(found[0].used > SystemTime::UNIX_EPOCH);
        assert!(free_bytes(folder.path()).unwrap() > 0);
    }
}

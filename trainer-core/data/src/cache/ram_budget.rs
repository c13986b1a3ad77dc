//! How much memory decoded images may take.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of memory that are left for pixels; clones share them.
#[derive(Debug, Clone)]
pub struct RamBudget(Arc<AtomicU64>);

impl RamBudget {
    /// A budget of `bytes`, for all stores that have a clone.
    pub fn new(bytes: u64) -> Self {
        Self(Arc::new(AtomicU64::new(bytes)))
    }

    /// Whether `bytes` are left.
    pub(super) fn has(&self, bytes: u64) -> bool {
        self.0.load(Ordering::Relaxed) >= bytes
    }

    /// Takes `bytes` out of the budget; `false` if so many are not left.
    pub(super) fn take(&self, bytes: u64) -> bool {
        let take = |free: u64| free.checked_sub(bytes);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    /// Puts `bytes` back that were taken.
    pub(super) fn give_back(&self, bytes: u64) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Bytes of memory that are assumed to be available where the system does not tell.
const ASSUMED_AVAILABLE: u64 = 2 << 30;

/// The default budget in bytes: a quarter of the memory that is available, or of what the process's control groups allow
/// if that is less.
pub fn default_bytes() -> u64 {
    let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
    let free = available(&read("/proc/meminfo")).unwrap_or(ASSUMED_AVAILABLE);
    let allowed = allowed(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup"));
    allowed.map_or(free, |allowed| allowed.min(free)) / 4
}

/// `MemAvailable` of /proc/meminfo, bytes.
fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// The lowest memory limit, bytes, of the process's control group (version 2) and those above it; `None` without one.
fn allowed(mountinfo: &str, cgroup: &str) -> Option<u64> {
    let own = cgroup.lines().find_map(|line| line.strip_prefix("0::"))?;
    let (root, point) = mountinfo.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut words = before.split(' ').skip(3);
        let (root, point) = (words.next()?, words.next()?);
        (after.split(' ').next() == Some("cgroup2")).then_some((root, Path::new(point)))
    })?;
    // A container's mount begins at its own group.
    let own = own.strip_prefix(root.trim_end_matches('/')).unwrap_or(own).trim_matches('/');
    let inner = if own.starts_with("..") { point.to_owned() } else { point.join(own) };
    let groups = inner.ancestors().take_while(|folder| folder.starts_with(point));
    // The word `max` is no limit.
    groups.filter_map(|group| fs::read_to_string(group.join("memory.max")).ok()?.trim().parse().ok()).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_limit_of_all_control_groups_counts() {
        let folder = tempfile::tempdir().unwrap();
        let point = folder.path().join("cgroup");
        fs::create_dir_all(point.join("pod/job")).unwrap();
        let mountinfo = format!(
            "24 1 0:22 / /proc rw - proc proc rw\n30 23 0:26 / {} rw,nosuid - cgroup2 cgroup2 rw\n",
            point.display()
        );
        let found = |group: &str| allowed(&mountinfo, &format!("1:name=old:/\n0::{group}\n"));
        assert_eq!(found("/pod/job"), None);
        let limit = |group: &str, text: &str| fs::write(point.join(group).join("memory.max"), text).unwrap();
        limit("pod/job", "max\n");
        assert_eq!(found("/pod/job"), None);
        limit("pod", "8000\n");
        assert_eq!((found("/pod/job"), found("/")), (Some(8000), None));
        limit("pod/job", "5000\n");
        assert_eq!((found("/pod/job"), found("/pod")), (Some(5000), Some(8000)));
        assert_eq!(allowed("", "0::/pod"), None);
        assert_eq!(allowed(&mountinfo, ""), None);
    }

    #[test]
    fn what_is_free_is_read_in_bytes() {
        let text = "MemTotal:       8000 kB\nMemAvailable:   1000 kB\n";
        assert_eq!((available(text), available("MemTotal: 1 kB")), (Some(1_024_000), None));
    }
}

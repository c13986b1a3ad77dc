//! The machine's main memory, and whether the kernel killed for want of it.

use std::fs;

const MIB: u64 = 1 << 20;

/// Main memory in MiB; a container's limit counts where it is lower.
pub fn memory_total_mib() -> u64 {
    let total = meminfo("MemTotal:").unwrap_or(0);
    cgroup("memory.max").map_or(total, |limit| total.min(limit / MIB))
}

/// Memory that a new process may take, in MiB.
pub fn memory_available_mib() -> u64 {
    let available = meminfo("MemAvailable:").unwrap_or(0);
    let room = || Some(cgroup("memory.max")?.saturating_sub(cgroup("memory.current")?) / MIB);
    room().map_or(available, |room| available.min(room))
}

/// How many processes the kernel has killed for want of memory since it started.
pub fn out_of_memory_kills() -> u64 {
    let count = |path: &str| {
        let text = fs::read_to_string(path).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "))?;
        line.trim().parse::<u64>().ok()
    };
    let own = own_cgroup().and_then(|folder| count(&format!("{folder}/memory.events")));
    // A container may hide the one or the other.
    count("/proc/vmstat").unwrap_or(0) + own.unwrap_or(0)
}

fn meminfo(key: &str) -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? / 1024)
}

/// The folder of this process's control group, version 2.
fn own_cgroup() -> Option<String> {
    let text = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    Some(format!("/sys/fs/cgroup{}", path.trim_end_matches('/')))
}

/// A number of bytes; `max`, which is no limit, is `None`.
fn cgroup(file: &str) -> Option<u64> {
    fs::read_to_string(format!("{}/{file}", own_cgroup()?)).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_memory_and_not_more_free_than_in_all() {
        let (total, available) = (memory_total_mib(), memory_available_mib());
        assert!(total > 0 && available <= total, "{available} of {total}");
    }
}

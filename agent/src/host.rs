//! The machine's main memory and processors as this process may use them, and whether the kernel killed for
//! want of memory.

use std::fs;
use std::path::Path;

use crate::message::HostReading;
use cgroup::Cgroup;

pub mod cgroup;
pub mod loader_workers;
pub mod monitor;
pub mod pressure;

const MIB: u64 = 1 << 20;

/// The control groups that bound trainers, the innermost first; none where there is no version 2.
#[derive(Debug, Clone, Default)]
pub struct Host(Vec<Cgroup>);

impl Host {
    /// The machine as trainers see it whose control groups are made in `groups`, or in this process's own group.
    /// Where groups are delegated, this process sits in one beside its trainers', which says nothing of them.
    pub fn new(groups: Option<&Path>) -> Self {
        Self(groups.map_or_else(cgroup::own_and_above, cgroup::at_and_above))
    }

    /// Main memory in MiB; the lowest limit of the control groups counts where it is lower.
    pub fn memory_total_mib(&self) -> u64 {
        let total = meminfo("MemTotal:").unwrap_or(0);
        self.0.iter().filter_map(Cgroup::memory_max).map(|limit| limit / MIB).fold(total, u64::min)
    }

    /// Memory that a new process may take, in MiB. What a control group's page cache holds counts as free: the
    /// kernel takes it back.
    pub fn memory_available_mib(&self) -> u64 {
        let available = meminfo("MemAvailable:").unwrap_or(0);
        self.0.iter().filter_map(Cgroup::memory_room).map(|room| room / MIB).fold(available, u64::min)
    }

    /// How many processes the kernel has killed for want of memory since it started.
    pub fn out_of_memory_kills(&self) -> u64 {
        let kernel = fs::read_to_string("/proc/vmstat").ok();
        let kernel = kernel.and_then(|text| cgroup::value(&text, "oom_kill")).unwrap_or(0);
        // A container may hide the one or the other.
        kernel + self.0.first().map_or(0, Cgroup::out_of_memory_kills)
    }

    /// Share of the last ten seconds in which something waited for memory: of the innermost control group that
    /// tells, else of the machine; 0 where neither does.
    fn stalled_ratio(&self) -> f64 {
        let group = self.0.iter().find_map(Cgroup::memory_pressure);
        let text = group.or_else(|| fs::read_to_string("/proc/pressure/memory").ok());
        text.and_then(|text| pressure::some_avg10(&text)).unwrap_or(0.0)
    }
}

/// Takes readings of main memory and processors, one after the other.
#[derive(Debug)]
pub struct HostSampler {
    host: Host,
    /// Busy and all processor time at the last reading, in the kernel's ticks.
    busy_and_all: Option<(u64, u64)>,
}

impl HostSampler {
    /// A sampler that has read nothing yet.
    pub const fn new(host: Host) -> Self {
        Self { host, busy_and_all: None }
    }

    /// What main memory and processors do now.
    pub fn read(&mut self) -> HostReading {
        let now = fs::read_to_string("/proc/stat").ok().and_then(|text| processor_time(&text));
        let idle_ratio = match (self.busy_and_all, now) {
            (Some((busy, all)), Some((busy_now, all_now))) if all_now > all => {
                1.0 - ratio(busy_now.saturating_sub(busy), all_now - all)
            }
            _ => 0.0,
        };
        self.busy_and_all = now;
        HostReading {
            total_mib: self.host.memory_total_mib(),
            available_mib: self.host.memory_available_mib(),
            stalled_ratio: self.host.stalled_ratio(),
            idle_ratio,
        }
    }
}

/// Processors that this process may use.
pub fn cores() -> u32 {
    std::thread::available_parallelism().map_or(1, |count| u32::try_from(count.get()).unwrap_or(u32::MAX))
}

/// Busy and all processor time in the kernel's ticks.
fn processor_time(stat: &str) -> Option<(u64, u64)> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let times: Vec<u64> = line.split_whitespace().map_while(|word| word.parse().ok()).take(8).collect();
    let all: u64 = times.iter().sum();
    // The fourth and fifth are idle, and idle while a disk works.
    let idle: u64 = times.iter().skip(3).take(2).sum();
    Some((all - idle, all))
}

fn ratio(part: u64, all: u64) -> f64 {
    let ratio = part as f64 / all as f64;
    ratio.clamp(0.0, 1.0)
}

fn meminfo(key: &str) -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_memory_and_not_more_free_than_in_all() {
        let reading = HostSampler::new(Host::new(None)).read();
        assert!(reading.total_mib > 0 && reading.available_mib <= reading.total_mib, "{reading:?}");
    }

    #[test]
    fn where_groups_are_delegated_the_whole_of_them_is_read_and_not_the_agents_own() {
        let folder = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| fs::write(folder.path().join(file), text).unwrap();
        fs::create_dir(folder.path().join("agent")).unwrap();
        write("agent/memory.pressure", "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n");
        write("agent/memory.max", "max\n");
        write("memory.pressure", "some avg10=42.00 avg60=0.00 avg300=0.00 total=9\n");
        write("memory.max", &format!("{}\n", 64 * MIB));
        write("memory.current", &format!("{}\n", 60 * MIB));
        write("memory.events", "oom_kill 1000000\n");
        let host = Host::new(Some(folder.path()));
        let reading = HostSampler::new(host.clone()).read();
        assert_eq!((reading.total_mib, reading.available_mib, reading.stalled_ratio), (64, 4, 0.42));
        assert!(host.out_of_memory_kills() >= 1_000_000);
    }

    #[test]
    fn processor_time_is_idle_also_while_a_disk_works() {
        let stat = "cpu  10 20 30 100 40 1 2 3 0 0\ncpu0 1 2 3\n";
        assert_eq!(processor_time(stat), Some((66, 206)));
        assert_eq!(processor_time("intr 5\n"), None);
    }
}

//! Control groups, version 2: the path of this process's own, and what each of them says.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A control group, by its folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup(PathBuf);

/// This process's group and those above it, the innermost first; none where there is no version 2.
pub fn own_and_above() -> Vec<Cgroup> {
    let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
    hierarchy(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup"))
}

/// The group at `folder` and those above it, the innermost first.
pub fn at_and_above(folder: &Path) -> Vec<Cgroup> {
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    match mount(&mountinfo) {
        Some((_, point)) if folder.starts_with(point) => ancestors(folder, Path::new(point)),
        _ => vec![Cgroup(folder.into())],
    }
}

/// Where version 2 is mounted: which group, and at which folder.
fn mount(mountinfo: &str) -> Option<(&str, &str)> {
    mountinfo.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut words = before.split(' ').skip(3);
        let (root, point) = (words.next()?, words.next()?);
        (after.split(' ').next() == Some("cgroup2")).then_some((root, point))
    })
}

fn ancestors(inner: &Path, point: &Path) -> Vec<Cgroup> {
    inner.ancestors().take_while(|folder| folder.starts_with(point)).map(|path| Cgroup(path.into())).collect()
}

/// This process's path from what the kernel says of mounts and of a process's groups.
fn hierarchy(mountinfo: &str, cgroup: &str) -> Vec<Cgroup> {
    let Some(own) = cgroup.lines().find_map(|line| line.strip_prefix("0::")) else { return Vec::new() };
    let Some((root, point)) = mount(mountinfo) else { return Vec::new() };
    // A container's mount begins at its own group.
    let own = own.strip_prefix(root.trim_end_matches('/')).unwrap_or(own).trim_matches('/');
    let point = Path::new(point);
    let inner = if own.is_empty() || own.starts_with("..") { point.to_owned() } else { point.join(own) };
    ancestors(&inner, point)
}

/// The number after `key`, in a file whose lines are a key, a space and a number.
pub fn value(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

impl Cgroup {
    /// The group at `folder`.
    pub fn at(folder: impl Into<PathBuf>) -> Self {
        Self(folder.into())
    }

    /// The group's folder.
    pub fn folder(&self) -> &Path {
        &self.0
    }

    fn read(&self, file: &str) -> Option<String> {
        fs::read_to_string(self.0.join(file)).ok()
    }

    fn write(&self, file: &str, text: &str) -> io::Result<()> {
        fs::write(self.0.join(file), text)
    }

    /// Bytes that its processes may take; `None` without a limit.
    pub fn memory_max(&self) -> Option<u64> {
        self.read("memory.max")?.trim().parse().ok()
    }

    /// Bytes that its processes may take beside what they have; `None` without a limit.
    pub fn memory_room(&self) -> Option<u64> {
        let current = self.read("memory.current")?.trim().parse::<u64>().ok()?;
        let stat = self.read("memory.stat").unwrap_or_default();
        let files = ["inactive_file", "active_file"].iter().filter_map(|key| value(&stat, key)).sum();
        Some(self.memory_max()?.saturating_sub(current.saturating_sub(files)))
    }

    /// The kernel's text about waits for memory in the group.
    pub fn memory_pressure(&self) -> Option<String> {
        self.read("memory.pressure")
    }

    /// How many of its processes the kernel has killed for want of memory.
    pub fn out_of_memory_kills(&self) -> u64 {
        self.counted_kills().unwrap_or(0)
    }

    /// The ids of its processes.
    pub fn processes(&self) -> Vec<i32> {
        let text = self.read("cgroup.procs").unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// Makes a group inside of this one, unless it is there.
    ///
    /// # Errors
    /// It is not delegated to this process.
    pub fn create(&self, name: &str) -> io::Result<Self> {
        let inner = Self(self.0.join(name));
        match fs::create_dir(&inner.0) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(inner),
        }
    }

    /// The groups inside of this one.
    pub fn children(&self) -> Vec<Self> {
        let entries = fs::read_dir(&self.0).into_iter().flatten().flatten();
        entries.filter(|entry| entry.path().is_dir()).map(|entry| Self(entry.path())).collect()
    }

    /// Lets inner groups count memory, where the kernel lets this one.
    ///
    /// # Errors
    /// The controller is not there, or the group has processes of its own.
    pub fn share_memory_controller(&self) -> io::Result<()> {
        self.write("cgroup.subtree_control", "+memory")
    }

    /// The file through which a process enters the group.
    ///
    /// # Errors
    /// The group is gone or not this user's.
    pub fn open_procs(&self) -> io::Result<fs::File> {
        fs::OpenOptions::new().write(true).open(self.0.join("cgroup.procs"))
    }

    /// How many of its processes the kernel has killed for want of memory; `None` where it does not count.
    pub fn counted_kills(&self) -> Option<u64> {
        value(&self.read("memory.events")?, "oom_kill")
    }

    /// Moves a process into the group.
    ///
    /// # Errors
    /// The kernel's.
    pub fn add_process(&self, pid: i32) -> io::Result<()> {
        self.write("cgroup.procs", &pid.to_string())
    }

    /// Kills every process in it, however it has placed itself.
    ///
    /// # Errors
    /// The kernel is older than 5.14.
    pub fn kill(&self) -> io::Result<()> {
        self.write("cgroup.kill", "1")
    }

    /// Removes the group.
    ///
    /// # Errors
    /// There are processes in it.
    pub fn remove(&self) -> io::Result<()> {
        fs::remove_dir(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folders(mountinfo: &str, cgroup: &str) -> Vec<String> {
        hierarchy(mountinfo, cgroup).iter().map(|group| group.0.display().to_string()).collect()
    }

    #[test]
    fn the_path_leads_from_the_own_group_to_the_mount() {
        let mounts = "25 1 0:22 / /sys rw - sysfs sysfs rw\n30 25 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw\n";
        assert_eq!(
            folders(mounts, "0::/system.slice/agent.service\n"),
            ["/sys/fs/cgroup/system.slice/agent.service", "/sys/fs/cgroup/system.slice", "/sys/fs/cgroup"]
        );
        assert_eq!(folders(mounts, "0::/\n"), ["/sys/fs/cgroup"]);
    }

    #[test]
    fn a_containers_mount_begins_at_its_group_and_a_hybrid_one_lies_elsewhere() {
        let container = "30 25 0:26 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup ro\n";
        assert_eq!(folders(container, "0::/docker/abc/inner\n")[0], "/sys/fs/cgroup/inner");
        let hybrid = "31 25 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        assert_eq!(folders(hybrid, "4:memory:/x\n0::/a\n")[0], "/sys/fs/cgroup/unified/a");
        assert_eq!(folders("", "0::/a\n"), Vec::<String>::new());
        assert_eq!(folders(hybrid, "4:memory:/x\n"), Vec::<String>::new());
    }

    #[test]
    fn a_groups_room_counts_its_page_cache_as_free() {
        let folder = tempfile::tempdir().unwrap();
        let group = Cgroup::at(folder.path());
        let write = |file: &str, text: &str| fs::write(folder.path().join(file), text).unwrap();
        write("memory.max", "max\n");
        write("memory.current", "900\n");
        assert_eq!((group.memory_max(), group.memory_room()), (None, None));
        write("memory.max", "1000\n");
        write("memory.stat", "anon 400\ninactive_file 300\nactive_file 100\n");
        assert_eq!((group.memory_max(), group.memory_room()), (Some(1000), Some(500)));
        write("memory.events", "low 0\noom 3\noom_kill 2\n");
        assert_eq!(group.out_of_memory_kills(), 2);
    }
}

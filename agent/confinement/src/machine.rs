//! What any trainer needs of a machine, whatever it trains on: libraries, what the kernel says of processors and memory,
//! devices.

use std::fs;
use std::path::{Path, PathBuf};

/// Libraries of the system and of the driver, and what libc and they look up.
const LIBRARIES: &[&str] = &[
    "/usr",
    "/lib",
    "/lib32",
    "/lib64",
    "/nix/store",
    "/run/opengl-driver",
    "/etc/alternatives",
    "/etc/ld.so.cache",
    "/etc/ld.so.preload",
    "/etc/localtime",
    "/etc/timezone",
    "/etc/nvidia",
    "/etc/OpenCL",
];

/// What the kernel says. A process' own folder in `/proc` is allowed by itself.
const KERNEL: &[&str] = &[
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/loadavg",
    "/proc/uptime",
    "/proc/version",
    "/proc/devices",
    "/proc/modules",
    "/proc/filesystems",
    "/proc/pressure",
    "/proc/driver",
    "/proc/sys/vm/overcommit_memory",
    "/proc/sys/vm/max_map_count",
    "/proc/sys/vm/mmap_min_addr",
    "/proc/sys/kernel/osrelease",
    "/proc/sys/kernel/version",
    "/proc/sys/kernel/pid_max",
    "/proc/sys/kernel/threads-max",
    "/proc/sys/kernel/numa_balancing",
    "/sys/fs/cgroup",
    "/sys/devices/system",
    "/sys/kernel/mm",
];

/// Of GPUs, and of the buses that they are on.
const KERNEL_OF_GPUS: &[&str] =
    &["/sys/bus", "/sys/class", "/sys/dev", "/sys/devices", "/sys/module", "/sys/hypervisor"];

const DEVICES: &[&str] = &["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"];

/// How the names of GPUs' devices begin: of NVIDIA's driver, of that of its boards, and of WSL's.
const GPU_DEVICES: &[&str] = &["nvidia", "nvhost", "nvmap", "nvgpu", "nvsciipc", "dxg"];

/// Where the driver's libraries share memory between processes.
const SHARED_MEMORY: &str = "/dev/shm";

/// What may be read.
pub fn reads(with_gpus: bool) -> Vec<PathBuf> {
    let of_gpus = if with_gpus { KERNEL_OF_GPUS } else { &[] };
    LIBRARIES.iter().chain(KERNEL).chain(of_gpus).map(PathBuf::from).collect()
}

/// What may be written beside the caller's own: only with GPUs.
pub fn writes(with_gpus: bool) -> Vec<PathBuf> {
    if with_gpus { vec![SHARED_MEMORY.into()] } else { Vec::new() }
}

/// Devices, of GPUs those that there are now.
pub fn devices(with_gpus: bool) -> Vec<PathBuf> {
    let is_gpu = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        with_gpus && GPU_DEVICES.iter().any(|start| name.starts_with(start))
    };
    let there = fs::read_dir("/dev").into_iter().flatten().flatten().map(|entry| entry.path());
    DEVICES.iter().map(|name| Path::new(name).to_owned()).chain(there.filter(is_gpu)).collect()
}

//! What trainings on simulated GPUs take: each of their processes says so in a file of its own; see `simulated-gpu`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::Path;

use crate::state::{Process, State};

/// Names their folder.
pub const VARIABLE: &str = "SIMULATED_GPU_USE";

const MIB: u64 = 1 << 20;

/// Adds what the processes that live take of the GPUs of `state`.
pub fn add(state: &mut State, folder: &OsString) {
    let mut by_gpu: BTreeMap<String, Vec<Process>> = BTreeMap::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        // A file that is being written is named otherwise.
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        if !Path::new(&format!("/proc/{pid}")).exists() {
            continue;
        }
        for line in fs::read_to_string(entry.path()).unwrap_or_default().lines() {
            let Some((uuid, bytes)) = line.split_once(' ') else { continue };
            let memory_mib = bytes.parse::<u64>().unwrap_or(0) / MIB;
            by_gpu.entry(uuid.to_owned()).or_default().push(Process { pid, memory_mib });
        }
    }
    for gpu in &mut state.gpus {
        let processes = by_gpu.remove(&gpu.uuid).unwrap_or_default();
        gpu.memory_used_mib += processes.iter().map(|process| process.memory_mib).sum::<u64>();
        gpu.processes.extend(processes);
    }
}

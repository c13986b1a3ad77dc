//! What a machine has of what jobs need, and what it lacked for one.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::gpu::Unavailable;
use crate::report::Fetching;
use crate::time::Time;

/// Why an attempt could not run on a machine, although its job may run on another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unfit {
    /// The kind of thing that the machine lacks.
    pub kind: UnfitKind,
    /// The path that the machine lacks, as the job names it; empty unless [`UnfitKind::is_of_path`].
    #[serde(default)]
    pub path: String,
    /// A sentence for a person, without the machine's name and without its full stop: what was seen, and what to do.
    pub message: String,
}

impl Unfit {
    /// A lack of this kind; `path` is kept only by kinds that are of one.
    pub fn at(kind: UnfitKind, path: &Path, message: impl Into<String>) -> Self {
        let path = if kind.is_of_path() { path.display().to_string() } else { String::new() };
        Self { kind, path, message: message.into() }
    }

    /// A lack that concerns every job on the machine.
    pub fn of_machine(kind: UnfitKind, message: impl Into<String>) -> Self {
        Self { kind, path: String::new(), message: message.into() }
    }
}

/// What a machine can lack for an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnfitKind {
    /// A path of the job lies outside the agent's `data_roots`.
    OutsideDataRoots,
    /// A path of the job is not there.
    PathMissing,
    /// A path of the job is there and cannot be read.
    PathUnreadable,
    /// The trainer's program is not there or cannot be started.
    TrainerMissing,
    /// The trainer runs and libtorch does not: it cannot be loaded, or is another version.
    LibtorchUnusable,
    /// The driver is too old for libtorch's CUDA, or does not answer.
    DriverUnusable,
    /// libtorch has no code for the GPU.
    GpuUnsupported,
    /// The cache or the job's folder cannot be written.
    FolderUnwritable,
    /// The machine is out of file descriptors, threads, processes or address space.
    OutOfResources,
    /// Something else of the machine, found by its self-test.
    SelfTest,
}

impl UnfitKind {
    /// Every kind there is.
    pub const ALL: [Self; 10] = [
        Self::OutsideDataRoots,
        Self::PathMissing,
        Self::PathUnreadable,
        Self::TrainerMissing,
        Self::LibtorchUnusable,
        Self::DriverUnusable,
        Self::GpuUnsupported,
        Self::FolderUnwritable,
        Self::OutOfResources,
        Self::SelfTest,
    ];

    /// Whether only jobs that name the same path are concerned; otherwise every job on the machine is.
    pub const fn is_of_path(self) -> bool {
        matches!(self, Self::OutsideDataRoots | Self::PathMissing | Self::PathUnreadable)
    }
}

/// A directory that jobs may read data sets from, as the machine sees it now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataRoot {
    /// The absolute path of the directory.
    pub path: String,
    /// Why nothing can be read there now, a sentence without its full stop; empty when something can.
    pub problem: String,
}

impl DataRoot {
    /// Whether `path` lies inside, by its words alone: links are the machine's to follow.
    pub fn covers(&self, path: &Path) -> bool {
        path.starts_with(&self.path)
    }
}

/// What an agent says of what its machine has.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Fitness {
    /// Where jobs may read; `None` while it is not known, as of agents that are too old to say.
    pub data_roots: Option<Vec<DataRoot>>,
    /// Paths that jobs have asked for and that cannot be read there now, as the jobs named them.
    pub missing_paths: Vec<String>,
    /// Of `trainyard-trainer`; empty while it is not known.
    pub trainer_version: String,
    /// Empty while it is not known.
    pub libtorch_version: String,
    /// Why its CPU slots take no job; `None` when they do.
    pub cpu_unavailable: Option<Unavailable>,
    /// What its clock showed as it said this.
    pub clock: Option<Time>,
    /// Ids of versions of data sets and weights that it holds whole; `None` of agents that cannot fetch any.
    pub held_versions: Option<Vec<String>>,
    /// What a person should know of the machine, a sentence each without its full stop.
    #[serde(default)]
    pub notices: Vec<String>,
    /// Whether it looks at data sets that submissions name.
    #[serde(default)]
    pub checks_data: bool,
    /// What it prefetches; `None` of agents that cannot.
    #[serde(default)]
    pub prefetching: Option<Prefetching>,
}

/// What comes to a machine before its job does.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Prefetching {
    /// How far that is; `None` while nothing is prefetched.
    pub now: Option<Fetching>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_covers_what_lies_below_it_and_not_what_only_begins_alike() {
        let root = DataRoot { path: "/data".into(), problem: String::new() };
        assert!(root.covers(Path::new("/data/cells/data.yaml")) && root.covers(Path::new("/data")));
        assert!(!root.covers(Path::new("/data2/data.yaml")) && !root.covers(Path::new("data/data.yaml")));
    }

    #[test]
    fn kinds_have_their_names_in_json() {
        let names: Vec<String> =
            UnfitKind::ALL.iter().map(|kind| serde_json::to_string(kind).unwrap()).collect();
        assert_eq!(names[0], "\"outside_data_roots\"");
        assert_eq!(names.len(), 10);
    }
}

//! What other processes do on a GPU: those that are neither this agent nor one of its trainers.
//!
//! The driver's list of processes has the host's process ids. In a container with ids of its own neither the agent's
//! trainers nor other processes are found by them. Then what was there before the trainer came counts as of others.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use trainyard_types::Time;

use super::reading::{GpuProcess, GpuReading};

/// How long after a trainer's end its memory may still be counted on the GPU.
const TRAINER_LINGERS: Duration = Duration::from_secs(10);

/// The processes of the machine.
pub trait ProcessTable {
    /// The process of an id, if there is one.
    fn process(&self, pid: u32) -> Option<Process>;
}

/// A process, as far as it is needed to tell whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// The id of its parent.
    pub parent: u32,
    /// The id of its process group.
    pub group: u32,
    /// Its program's name, at most 15 bytes.
    pub name: String,
}

/// The processes of `/proc`.
#[derive(Debug, Clone, Copy)]
pub struct ProcFs;

impl ProcessTable for ProcFs {
    fn process(&self, pid: u32) -> Option<Process> {
        parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }
}

/// `PID (NAME) STATE PARENT GROUP …`, where the name may hold anything.
fn parse_stat(text: &str) -> Option<Process> {
    let (start, rest) = text.rsplit_once(')')?;
    let (_, name) = start.split_once('(')?;
    let mut fields = rest.split_whitespace().skip(1);
    Some(Process {
        parent: fields.next()?.parse().ok()?,
        group: fields.next()?.parse().ok()?,
        name: name.to_owned(),
    })
}

/// What other processes do on a GPU.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct OtherProcesses {
    /// Memory that they hold.
    pub memory_mib: u64,
    /// Their use of the multiprocessors, 0 to 1; `None` where it cannot be told from that of the agent's trainers.
    pub utilization_ratio: Option<f64>,
    /// The process with the most memory, for people: `blender (pid 4242)`.
    pub who: Option<String>,
}

/// Follows the readings of one GPU, and remembers what other processes held before the agent's trainer came.
#[derive(Debug, Clone, Default)]
pub struct OtherProcessTracker {
    /// What other processes did when no trainer of this agent was there.
    before: OtherProcesses,
    /// When a trainer of this agent was there last.
    ours_last: Option<Time>,
}

impl OtherProcessTracker {
    /// What other processes do, by a reading. `trainer` is the process id of this agent's trainer on this GPU, `agent` the
    /// agent's own.
    pub fn observe(
        &mut self,
        now: Time,
        reading: &GpuReading,
        trainer: Option<u32>,
        agent: u32,
        processes: &dyn ProcessTable,
    ) -> OtherProcesses {
        if trainer.is_some() {
            self.ours_last = Some(now);
        }
        let ours_may_show = self.ours_last.is_some_and(|last| now.since(last) < TRAINER_LINGERS);
        let listed = reading.processes.as_deref().unwrap_or_default();
        let mut names = BTreeMap::new();
        let (mut ours, mut invisible) = (0, 0);
        let mut not_ours = Vec::new();
        for process in listed {
            let found = processes.process(process.pid);
            if is_ours(process.pid, found.as_ref(), trainer, agent, processes) {
                ours += 1;
                continue;
            }
            invisible += usize::from(found.is_none());
            names.insert(process.pid, found.map(|found| found.name));
            not_ours.push(*process);
        }
        // A process that is not found may be the agent's trainer under the host's id, or one that has just ended.
        let ambiguous = ours == 0 && (invisible > 0 || listed.is_empty());
        if ours_may_show && ambiguous {
            return OtherProcesses { utilization_ratio: None, ..self.before.clone() };
        }
        let mut others = sum(&not_ours, &names);
        if !ours_may_show {
            // No trainer of this agent: others hold whatever is held, listed or not, and do the work.
            others.memory_mib = others.memory_mib.max(reading.memory_used_mib.unwrap_or(0));
            others.utilization_ratio = others.utilization_ratio.or(reading.utilization_ratio);
            self.before = others.clone();
        }
        others
    }
}

fn sum(others: &[GpuProcess], names: &BTreeMap<u32, Option<String>>) -> OtherProcesses {
    let largest = others.iter().max_by_key(|process| (process.memory_mib, process.pid));
    let told = others.iter().all(|process| process.utilization_percent.is_some()) && !others.is_empty();
    let percent: u32 = others.iter().filter_map(|process| process.utilization_percent).sum();
    OtherProcesses {
        memory_mib: others.iter().filter_map(|process| process.memory_mib).sum(),
        utilization_ratio: told.then(|| f64::from(percent.min(100)) / 100.0),
        who: largest.map(|process| match names.get(&process.pid) {
            Some(Some(name)) => format!("{name} (pid {})", process.pid),
            _ => format!("pid {}", process.pid),
        }),
    }
}

/// Whether a process is the agent's trainer, is of its process group, or descends from the agent.
fn is_ours(
    pid: u32,
    found: Option<&Process>,
    trainer: Option<u32>,
    agent: u32,
    processes: &dyn ProcessTable,
) -> bool {
    if pid == agent || Some(pid) == trainer {
        return true;
    }
    let mut found = found.cloned();
    // No machine nests deeper; a loop cannot be, but would never end.
    for _ in 0..64 {
        match found {
            Some(process) if Some(process.group) == trainer || process.parent == agent => return true,
            Some(process) if process.parent > 1 => found = processes.process(process.parent),
            Some(_) | None => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGENT: u32 = 100;
    const TRAINER: u32 = 200;

    /// `(pid, parent, group, name)`.
    struct Table(&'static [(u32, u32, u32, &'static str)]);

    impl ProcessTable for Table {
        fn process(&self, pid: u32) -> Option<Process> {
            let row = self.0.iter().find(|row| row.0 == pid)?;
            Some(Process { parent: row.1, group: row.2, name: row.3.into() })
        }
    }

    const HOST: Table = Table(&[
        (100, 1, 100, "trainyard-agent"),
        (200, 100, 200, "trainyard-train"),
        (201, 200, 200, "loader"),
        (202, 1, 200, "orphan"),
        (300, 1, 300, "blender"),
        (301, 1, 301, "Xorg"),
    ]);

    fn reading(used: u64, processes: &[(u32, u64, u32)]) -> GpuReading {
        let process = |(pid, memory, percent): &(u32, u64, u32)| GpuProcess {
            pid: *pid,
            memory_mib: Some(*memory),
            utilization_percent: Some(*percent),
        };
        GpuReading {
            memory_used_mib: Some(used),
            utilization_ratio: Some(0.9),
            processes: Some(processes.iter().map(process).collect()),
            ..GpuReading::default()
        }
    }

    #[test]
    fn our_trainer_its_children_and_its_group_are_no_other_processes() {
        let now =
            reading(9000, &[(200, 5000, 80), (201, 100, 0), (202, 50, 0), (300, 3000, 15), (301, 200, 5)]);
        let others = OtherProcessTracker::default().observe(Time(0), &now, Some(TRAINER), AGENT, &HOST);
        assert_eq!((others.memory_mib, others.utilization_ratio), (3200, Some(0.2)));
        assert_eq!(others.who.as_deref(), Some("blender (pid 300)"));
    }

    #[test]
    fn without_a_trainer_all_memory_in_use_is_of_others_listed_or_not() {
        let hidden = GpuReading { processes: None, ..reading(6000, &[]) };
        let others = OtherProcessTracker::default().observe(Time(0), &hidden, None, AGENT, &HOST);
        assert_eq!((others.memory_mib, others.utilization_ratio, others.who), (6000, Some(0.9), None));
    }

    #[test]
    fn with_ids_of_another_namespace_what_was_there_before_the_trainer_is_of_others() {
        let mut tracker = OtherProcessTracker::default();
        tracker.observe(Time(0), &reading(700, &[(9001, 700, 3)]), None, AGENT, &HOST);
        let during = reading(6700, &[(9001, 700, 3), (9002, 6000, 90)]);
        let others = tracker.observe(Time(1000), &during, Some(TRAINER), AGENT, &HOST);
        assert_eq!((others.memory_mib, others.utilization_ratio), (700, None));
        // For a while after its end, too: the driver's list lags behind.
        let after = tracker.observe(Time(5000), &during, None, AGENT, &HOST);
        assert_eq!(after.memory_mib, 700);
        let later = tracker.observe(Time(12_000), &during, None, AGENT, &HOST);
        assert_eq!(later.memory_mib, 6700);
    }

    #[test]
    fn a_name_with_parentheses_and_spaces_is_read_whole() {
        let process = parse_stat("42 (tmux: (1) x) S 7 9 9 0 -1\n").unwrap();
        assert_eq!(process, Process { parent: 7, group: 9, name: "tmux: (1) x".into() });
        assert!(ProcFs.process(std::process::id()).is_some());
    }
}

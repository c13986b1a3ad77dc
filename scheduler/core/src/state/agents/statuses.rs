//! What agents say they hold and need, over all of them: data sets that are decoded already, and memory.
//!
//! As of the newest word of each; nothing of it is stored.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use trainyard_types::{AgentId, FitRecord, ModelScale, Reference, TrainSpec};

use crate::event::AgentStatus;

/// Kinds of runs that are remembered: five models, image sizes and GPUs make some hundreds.
const RUNS: usize = 16_384;

/// A data set at an image size.
type Decoded = (PathBuf, u32);

/// What decides how much memory one image takes at least, and on which GPU.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Run {
    model: ModelScale,
    imgsz: u32,
    multi_scale: bool,
    is_half: bool,
    device: String,
}

/// The index over what agents say.
#[derive(Debug, Default)]
pub(crate) struct AgentStatuses {
    holders: BTreeMap<Decoded, BTreeSet<AgentId>>,
    /// Agents by the versions of data sets that they hold whole.
    versions: BTreeMap<String, BTreeSet<AgentId>>,
    /// MiB that a batch of one image takes.
    needs: BTreeMap<Run, u64>,
}

impl AgentStatuses {
    /// An agent has spoken; `before` is what it had said until then.
    pub(crate) fn note(&mut self, agent: AgentId, before: &AgentStatus, now: &AgentStatus) {
        for record in &now.fit_records {
            let run = Run::of(record);
            if self.needs.len() < RUNS || self.needs.contains_key(&run) {
                self.needs.insert(run, least_mib(record));
            }
        }
        if before.fitness.held_versions != now.fitness.held_versions {
            self.note_versions(agent, before, now);
        }
        if before.cached_data == now.cached_data {
            return;
        }
        for gone in decoded(before) {
            if let Some(holders) = self.holders.get_mut(&gone) {
                holders.remove(&agent);
                if holders.is_empty() {
                    self.holders.remove(&gone);
                }
            }
        }
        for held in decoded(now) {
            self.holders.entry(held).or_default().insert(agent);
        }
    }

    fn note_versions(&mut self, agent: AgentId, before: &AgentStatus, now: &AgentStatus) {
        for gone in before.fitness.held_versions.iter().flatten() {
            if let Some(agents) = self.versions.get_mut(gone) {
                agents.remove(&agent);
                if agents.is_empty() {
                    self.versions.remove(gone);
                }
            }
        }
        for held in now.fitness.held_versions.iter().flatten() {
            self.versions.entry(held.clone()).or_default().insert(agent);
        }
    }

    /// Agents that need not fetch a data set of the cluster's store.
    pub(crate) fn fetched(&self, data: &Path) -> impl Iterator<Item = AgentId> + Clone {
        // Most clusters have none, and most jobs name a path.
        let reference = if self.versions.is_empty() { None } else { Reference::of_path(data) };
        let of = reference.and_then(|reference| self.versions.get(reference.version()));
        of.into_iter().flatten().copied()
    }

    /// Whether an agent holds a version whole.
    pub(crate) fn holds(&self, agent: AgentId, version: &str) -> bool {
        self.versions.get(version).is_some_and(|agents| agents.contains(&agent))
    }

    /// Agents that need not decode a data set again.
    pub(crate) fn holders(&self, data: &Path, imgsz: u32) -> impl Iterator<Item = AgentId> + Clone {
        // A map of pairs is not to be asked for a pair of references.
        let of = if self.holders.is_empty() { None } else { self.holders.get(&(data.to_owned(), imgsz)) };
        of.into_iter().flatten().copied()
    }

    /// What a batch of one image of such a run was seen to take on such a GPU, in MiB.
    pub(crate) fn least_mib(&self, train: &TrainSpec, device: &str) -> Option<u64> {
        if self.needs.is_empty() {
            return None;
        }
        let &TrainSpec { model, imgsz, multi_scale, amp, .. } = train;
        self.needs.get(&Run { model, imgsz, multi_scale, is_half: amp, device: device.to_owned() }).copied()
    }
}

impl Run {
    fn of(record: &FitRecord) -> Self {
        let key = &record.key;
        Self {
            model: key.model,
            imgsz: key.imgsz,
            multi_scale: key.multi_scale,
            is_half: key.precision != "fp32",
            device: key.device.clone(),
        }
    }
}

fn decoded(status: &AgentStatus) -> impl Iterator<Item = Decoded> {
    status.cached_data.iter().map(|(data, imgsz)| (PathBuf::from(data), *imgsz))
}

fn least_mib(record: &FitRecord) -> u64 {
    if record.failed_batch_size.is_some_and(|failed| failed <= 1) { u64::MAX } else { record.peak_mib(1) }
}

#[cfg(test)]
mod tests {
    use trainyard_types::Fitness;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn what_an_agent_holds_is_what_it_said_last() {
        let mut statuses = AgentStatuses::default();
        let (first, second) = (AgentId(Uuid::from_u128(1)), AgentId(Uuid::from_u128(2)));
        let holds = |data: &[&str]| AgentStatus {
            cached_data: data.iter().map(|&data| (data.to_owned(), 640)).collect(),
            ..AgentStatus::default()
        };
        let of = |statuses: &AgentStatuses, data: &str, imgsz| -> Vec<AgentId> {
            statuses.holders(Path::new(data), imgsz).collect()
        };
        let (both, cells, cars) = (
            holds(&["/data/cells.yaml", "/data/cars.yaml"]),
            holds(&["/data/cells.yaml"]),
            holds(&["/data/cars.yaml"]),
        );
        let nothing = AgentStatus::default();
        statuses.note(first, &nothing, &both);
        statuses.note(second, &nothing, &cells);
        assert_eq!(of(&statuses, "/data/cells.yaml", 640), [first, second]);
        assert_eq!(of(&statuses, "/data/cells.yaml", 320), []);
        statuses.note(first, &both, &cars);
        assert_eq!(of(&statuses, "/data/cells.yaml", 640), [second]);
        statuses.note(second, &cells, &nothing);
        assert_eq!(of(&statuses, "/data/cells.yaml", 640), []);
        let id = "3f9a".repeat(16);
        let fitness = Fitness { held_versions: Some(vec![id.clone()]), ..Fitness::default() };
        let fetched = AgentStatus { fitness, ..AgentStatus::default() };
        statuses.note(second, &nothing, &fetched);
        let cells = format!("cells@{id}");
        assert_eq!(statuses.fetched(Path::new(&cells)).collect::<Vec<_>>(), [second]);
        statuses.note(second, &fetched, &nothing);
        assert_eq!(statuses.fetched(Path::new(&cells)).count(), 0);
    }
}

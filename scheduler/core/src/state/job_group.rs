//! Job groups: many jobs submitted in one call. A group is stored once, whole; a job of it gets a record of its own
//! when something first happens to it.
//!
//! A sweep is a group of which only one spec and a grid of parameters are stored. What the grid says of
//! one job is worked out when somebody asks.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use trainyard_types::{JobGroupId, JobId, JobSpec, Time, TrainPatch, TrainSpec};

use crate::record::JobRecord;

/// The label that every job of a sweep has; its value is the sweep's id.
pub const SWEEP_LABEL: &str = "sweep";

/// Jobs that were submitted at once.
#[derive(Debug, Clone, PartialEq)]
pub struct JobGroupRecord {
    pub id: JobGroupId,
    pub user: Arc<str>,
    /// The client's request id, if it gave one.
    pub request_id: Option<String>,
    pub content: Content,
    pub created: Time,
}

/// What a group's jobs are to do.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "there is one for many jobs")]
pub enum Content {
    /// Each its own, in order; 1 to [`JobGroupId::MAX_JOBS`].
    Specs(Vec<Arc<JobSpec>>),
    /// All combinations of parameters on one spec.
    Sweep(Sweep),
}

/// One spec plus a grid of parameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sweep {
    /// What the combinations have in common.
    pub spec: JobSpec,
    /// The last one varies fastest. None is empty, and all combinations are at most [`JobGroupId::MAX_JOBS`].
    pub axes: Vec<Axis>,
}

/// One parameter of a sweep.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Axis {
    /// A field of the training spec; each job has a label of this name.
    pub parameter: String,
    /// As they were written, and what they set.
    pub values: Vec<(String, TrainPatch)>,
}

/// Which job of which group.
#[derive(Debug, Clone)]
pub struct JobGroupMember {
    pub group: Arc<JobGroupRecord>,
    /// Counts from 0.
    pub index: u32,
}

/// One job of one group has one place; comparing all jobs of both would take long.
impl PartialEq for JobGroupMember {
    fn eq(&self, other: &Self) -> bool {
        (self.group.id, self.index) == (other.group.id, other.index)
    }
}

impl Sweep {
    /// How many combinations there are; `None` for more than [`JobGroupId::MAX_JOBS`].
    pub fn jobs(&self) -> Option<u32> {
        let product = |product: u32, axis: &Axis| product.checked_mul(u32::try_from(axis.values.len()).ok()?);
        self.axes.iter().try_fold(1, product).filter(|&jobs| jobs <= JobGroupId::MAX_JOBS)
    }

    /// The value of each axis for combination `index`.
    fn combination(&self, index: u32) -> Vec<(&Axis, &(String, TrainPatch))> {
        let mut rest = usize::try_from(index).unwrap_or(usize::MAX);
        let mut combination = Vec::with_capacity(self.axes.len());
        for axis in self.axes.iter().rev() {
            let count = axis.values.len().max(1);
            combination.extend(axis.values.get(rest % count).map(|value| (axis, value)));
            rest /= count;
        }
        combination.reverse();
        combination
    }
}

impl JobGroupRecord {
    /// How many jobs it has.
    pub fn len(&self) -> u32 {
        match &self.content {
            Content::Specs(specs) => u32::try_from(specs.len()).unwrap_or(u32::MAX),
            Content::Sweep(sweep) => sweep.jobs().unwrap_or(0),
        }
    }

    /// Whether it has no job, which none that is accepted has.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether users know it as a sweep.
    pub fn is_sweep(&self) -> bool {
        matches!(self.content, Content::Sweep(_))
    }

    /// All ids, in order.
    pub fn ids(&self) -> impl Iterator<Item = JobId> {
        (0..self.len()).map(|index| self.id.job(index))
    }

    /// The job of that id, if it is one of these.
    pub fn index(&self, job: JobId) -> Option<u32> {
        self.id.index(job).filter(|&index| index < self.len())
    }

    /// What job `index` is to do. For a sweep this makes a spec; it is not kept.
    pub fn spec(&self, index: u32) -> Arc<JobSpec> {
        match &self.content {
            Content::Specs(specs) => Arc::clone(&specs[index as usize]),
            Content::Sweep(sweep) => {
                let mut spec = sweep.spec.clone();
                for (axis, (text, patch)) in sweep.combination(index) {
                    patch.apply(&mut spec.train);
                    spec.labels.insert(axis.parameter.clone(), text.clone());
                }
                spec.labels.insert(SWEEP_LABEL.to_owned(), self.id.to_string());
                Arc::new(spec)
            }
        }
    }

    /// The value of a label of job `index`, without making its spec.
    pub fn label(&self, index: u32, key: &str) -> Option<String> {
        match &self.content {
            Content::Specs(specs) => specs.get(index as usize)?.labels.get(key).cloned(),
            Content::Sweep(_) if key == SWEEP_LABEL => Some(self.id.to_string()),
            Content::Sweep(sweep) => {
                let of_grid = sweep.combination(index).into_iter().find(|(axis, _)| axis.parameter == key);
                of_grid.map(|(_, (text, _))| text).or_else(|| sweep.spec.labels.get(key)).cloned()
            }
        }
    }

    /// All jobs as they were submitted. They share one copy of whatever they have in common.
    pub fn jobs(self: &Arc<Self>) -> impl Iterator<Item = JobRecord> {
        let common = match &self.content {
            Content::Specs(_) => None,
            Content::Sweep(sweep) => Some(Arc::new(sweep.spec.clone())),
        };
        (0..self.len()).map(move |index| {
            let spec = common.clone().unwrap_or_else(|| self.spec(index));
            let queued = JobRecord::queued(self.id.job(index), Arc::clone(&self.user), spec, self.created);
            JobRecord { group: Some(JobGroupMember { group: Arc::clone(self), index }), ..queued }
        })
    }
}

/// How a group is stored: specs as what tells them from the first one, which is given whole, so that
/// no default of a later version changes what an earlier one took in.
#[derive(Debug, Serialize, Deserialize)]
pub struct StoredJobGroup {
    id: JobGroupId,
    user: String,
    request_id: Option<String>,
    created: Time,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sweep: Option<Sweep>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    first: Option<JobSpec>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    rest: Vec<SpecPatch>,
}

/// What tells one spec from another.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
struct SpecPatch {
    #[serde(default, skip_serializing_if = "is_default")]
    train: TrainPatch,
    /// Everything but the training, if any of it differs.
    #[serde(rename = "around", default, skip_serializing_if = "Option::is_none")]
    rest: Option<Box<RestOfSpec>>,
}

/// Everything of a spec but the training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct RestOfSpec {
    name: String,
    resources: trainyard_types::Resources,
    priority: i32,
    max_retries: u32,
    time_limit: Option<std::time::Duration>,
    labels: BTreeMap<String, String>,
}

fn is_default(patch: &TrainPatch) -> bool {
    *patch == TrainPatch::default()
}

impl RestOfSpec {
    fn of(spec: &JobSpec) -> Self {
        let JobSpec { name, train: _, resources, priority, max_retries, time_limit, labels } = spec.clone();
        Self { name, resources, priority, max_retries, time_limit, labels }
    }

    fn with(self, train: TrainSpec) -> JobSpec {
        let Self { name, resources, priority, max_retries, time_limit, labels } = self;
        JobSpec { name, train, resources, priority, max_retries, time_limit, labels }
    }
}

impl SpecPatch {
    fn between(first: &JobSpec, spec: &JobSpec) -> Self {
        let is_same = first.name == spec.name
            && first.resources == spec.resources
            && first.priority == spec.priority
            && first.max_retries == spec.max_retries
            && first.time_limit == spec.time_limit
            && first.labels == spec.labels;
        Self {
            train: TrainPatch::between(&first.train, &spec.train),
            rest: (!is_same).then(|| Box::new(RestOfSpec::of(spec))),
        }
    }

    fn spec(self, first: &JobSpec) -> JobSpec {
        let mut train = first.train.clone();
        self.train.apply(&mut train);
        self.rest.map_or_else(|| RestOfSpec::of(first), |rest| *rest).with(train)
    }
}

impl From<&JobGroupRecord> for StoredJobGroup {
    fn from(group: &JobGroupRecord) -> Self {
        let (sweep, specs) = match &group.content {
            Content::Specs(specs) => (None, specs.as_slice()),
            Content::Sweep(sweep) => (Some(sweep.clone()), &[][..]),
        };
        let first = specs.first();
        let between = |first: &Arc<JobSpec>| {
            specs.iter().skip(1).map(|spec| SpecPatch::between(first, spec)).collect::<Vec<_>>()
        };
        Self {
            id: group.id,
            user: group.user.to_string(),
            request_id: group.request_id.clone(),
            created: group.created,
            sweep,
            first: first.map(|first| JobSpec::clone(first)),
            rest: first.map(between).unwrap_or_default(),
        }
    }
}

impl From<StoredJobGroup> for JobGroupRecord {
    fn from(stored: StoredJobGroup) -> Self {
        let StoredJobGroup { id, user, request_id, created, sweep, first, rest } = stored;
        let content = match (sweep, first) {
            (Some(sweep), _) => Content::Sweep(sweep),
            (None, Some(first)) => {
                let others: Vec<_> = rest.into_iter().map(|patch| Arc::new(patch.spec(&first))).collect();
                Content::Specs([Arc::new(first)].into_iter().chain(others).collect())
            }
            (None, None) => Content::Specs(Vec::new()),
        };
        Self { id, user: user.into(), request_id, content, created }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use trainyard_types::{ModelScale, Resources};
    use uuid::Uuid;

    use super::*;

    fn sweep() -> JobGroupRecord {
        let spec = JobSpec::new(TrainSpec::new(ModelScale::N, "/data/d.yaml"));
        let patch = |json: &str| serde_json::from_str(json).unwrap();
        let lr0 = vec![("0.01".into(), patch(r#"{"lr0":0.01}"#)), ("2e-2".into(), patch(r#"{"lr0":0.02}"#))];
        let seed = (0..3).map(|seed| (seed.to_string(), patch(&format!(r#"{{"seed":{seed}}}"#)))).collect();
        let axes = vec![
            Axis { parameter: "lr0".into(), values: lr0 },
            Axis { parameter: "seed".into(), values: seed },
        ];
        JobGroupRecord {
            id: JobGroupId(Uuid::from_u128(0x0198_0000_0000_7000_8000_0000_0000_0001)),
            user: "ada".into(),
            request_id: Some("r".into()),
            content: Content::Sweep(Sweep { spec, axes }),
            created: Time(7),
        }
    }

    #[test]
    fn a_sweep_has_every_combination_once() {
        let group = sweep();
        let found: Vec<(f64, u64)> = (0..group.len())
            .map(|index| group.spec(index))
            .map(|spec| (spec.train.lr0, spec.train.seed))
            .collect();
        assert_eq!(found, [(0.01, 0), (0.01, 1), (0.01, 2), (0.02, 0), (0.02, 1), (0.02, 2)]);
        for index in 0..6 {
            for (key, value) in &group.spec(index).labels {
                assert_eq!(group.label(index, key).as_ref(), Some(value));
            }
        }
        assert_eq!(group.label(4, "lr0").unwrap(), "2e-2");
    }

    #[test]
    fn a_group_is_stored_as_differences_and_reads_back() {
        let first = JobSpec::new(TrainSpec::new(ModelScale::N, "/data/d.yaml"));
        let mut others = vec![first.clone(); 3];
        others[0].train.lr0 = 0.5;
        others[1].resources = Resources { min_vram_mib: 8192, ..Resources::default() };
        others[1].time_limit = Some(Duration::from_secs(60));
        let specs: Vec<_> = [first].into_iter().chain(others).map(Arc::new).collect();
        for content in [Content::Specs(specs), sweep().content] {
            let group = JobGroupRecord { content, ..sweep() };
            let json = serde_json::to_string(&StoredJobGroup::from(&group)).unwrap();
            assert_eq!(
                JobGroupRecord::from(serde_json::from_str::<StoredJobGroup>(&json).unwrap()),
                group,
                "{json}"
            );
        }
    }
}

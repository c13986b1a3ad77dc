//! The jobs that wait, in order, and by what they ask for.
//!
//! Must not know agents. Jobs with the same request are interchangeable for placement but for their
//! order, so that a decision looks at one job per request and not at the whole queue.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use trainyard_types::{DeviceKind, JobId, Resources, Time};

use crate::record::JobRecord;

/// A job's place in the queue: higher priority first, then the earlier submission.
pub type Place = (Reverse<i32>, JobId);

/// What a job asks for, in one spelling, so that equal wishes are equal values.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Request {
    /// GPU or CPU.
    pub device: DeviceKind,
    /// Models that will do, lower case, sorted; empty means any.
    pub models: Vec<String>,
    /// Least nominal memory in units of half a GiB; 0 means any.
    pub half_gib: u64,
}

impl From<&Resources> for Request {
    fn from(resources: &Resources) -> Self {
        let words = |model: &String| model.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase();
        let mut models: Vec<String> = resources.gpu_models.iter().map(words).collect();
        models.sort();
        models.dedup();
        Self { device: resources.device, models, half_gib: resources.min_vram_mib.div_ceil(512) }
    }
}

/// All queued jobs. Those that wait for a retry's time are in order, too, but not ready.
#[derive(Debug, Default)]
pub struct Queue {
    order: BTreeSet<Place>,
    ready: BTreeMap<Request, BTreeSet<Place>>,
    delayed: BTreeSet<(Time, JobId)>,
}

fn place(job: &JobRecord) -> Place {
    (Reverse(job.spec.priority), job.id)
}

impl Queue {
    /// Puts a queued job into its place.
    pub(crate) fn insert(&mut self, now: Time, job: &JobRecord) {
        self.order.insert(place(job));
        match job.not_before {
            Some(time) if time > now => {
                self.delayed.insert((time, job.id));
            }
            Some(_) | None => self.make_ready(job),
        }
    }

    /// Takes a job out, wherever it waits.
    pub(crate) fn remove(&mut self, job: &JobRecord) {
        self.order.remove(&place(job));
        if let Some(time) = job.not_before {
            self.delayed.remove(&(time, job.id));
        }
        let request = Request::from(&job.spec.resources);
        if let Some(class) = self.ready.get_mut(&request) {
            class.remove(&place(job));
            if class.is_empty() {
                self.ready.remove(&request);
            }
        }
    }

    /// Takes the next job whose time has come off the delayed ones; [`Queue::make_ready`] is next.
    pub(crate) fn pop_due(&mut self, now: Time) -> Option<JobId> {
        let &(time, job) = self.delayed.first()?;
        (time <= now).then(|| {
            self.delayed.pop_first();
            job
        })
    }

    /// Lets a job be placed that is in order already.
    pub(crate) fn make_ready(&mut self, job: &JobRecord) {
        self.ready.entry(Request::from(&job.spec.resources)).or_default().insert(place(job));
    }

    /// When the next delayed job becomes ready.
    pub fn next_due(&self) -> Option<Time> {
        self.delayed.first().map(|&(time, _)| time)
    }

    /// The jobs that may be placed, by request, each set in order.
    pub fn ready(&self) -> &BTreeMap<Request, BTreeSet<Place>> {
        &self.ready
    }

    /// All queued jobs in order.
    pub fn order(&self) -> impl DoubleEndedIterator<Item = &Place> {
        self.order.iter()
    }

    /// How many jobs are queued.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether no job is queued.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// How many jobs stand before this one. Costs as many steps as the answer is large.
    pub fn ahead(&self, job: &JobRecord) -> usize {
        self.order.range(..place(job)).count()
    }

    /// Whether the job is in the queue; whether it is ready; whether it waits for a retry's time.
    pub(crate) fn holds(&self, job: &JobRecord) -> (bool, bool, bool) {
        let ready = self.ready.get(&Request::from(&job.spec.resources));
        let delayed = job.not_before.is_some_and(|time| self.delayed.contains(&(time, job.id)));
        (self.order.contains(&place(job)), ready.is_some_and(|class| class.contains(&place(job))), delayed)
    }

    /// Ready and delayed jobs together; equals [`Queue::len`] as long as the indexes agree.
    pub(crate) fn indexed(&self) -> usize {
        self.ready.values().map(BTreeSet::len).sum::<usize>() + self.delayed.len()
    }
}

//! The jobs that wait: by priority and user, and by what they ask for.
//!
//! Must not know agents, but for who cannot read the paths that jobs name. Jobs of one user with the same request
//! and priority are interchangeable for placement but for their order, so that a decision looks at one of them and
//! not at the whole queue.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use trainyard_types::{AgentId, DeviceKind, JobId, Resources, Time};

use crate::record::JobRecord;
use crate::state::order_statistic::OrderedSet;
use crate::state::path_visibility::{JobPaths, PathVisibility};

/// What a job asks for, in one spelling, so that equal wishes are equal values.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Request {
    pub device: DeviceKind,
    /// Models that will do, lower case, sorted; empty means any.
    pub models: Vec<String>,
    /// Least nominal memory in units of half a GiB; 0 means any.
    pub half_gib: u64,
    /// GPUs, all of one agent and of one kind.
    pub gpus: u32,
    /// The paths that it names, while some agent cannot see them; which ones is the queue's to say.
    pub paths: Option<Arc<JobPaths>>,
    /// Agents that come last, since it ended badly there; in order.
    pub avoids: Vec<AgentId>,
}

impl From<&Resources> for Request {
    fn from(resources: &Resources) -> Self {
        let words = |model: &String| model.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase();
        let mut models: Vec<String> = resources.gpu_models.iter().map(words).collect();
        models.sort();
        models.dedup();
        Self {
            device: resources.device,
            models,
            half_gib: resources.min_vram_mib.div_ceil(512),
            gpus: resources.gpus.max(1),
            paths: None,
            avoids: Vec::new(),
        }
    }
}

/// No agents: what requests without paths lack.
static NOBODY: BTreeSet<AgentId> = BTreeSet::new();

/// Jobs of one request that may be placed: by priority, the higher first, then by user, each in order of
/// submission.
pub type Class = BTreeMap<Reverse<i32>, BTreeMap<Arc<str>, BTreeSet<JobId>>>;
/// All queued jobs of one priority, by user.
pub type Level = BTreeMap<Arc<str>, OrderedSet<JobId>>;

/// Paths that queued jobs name.
#[derive(Debug, Default)]
struct Named {
    jobs: usize,
    /// The agents that cannot see them.
    excluded: BTreeSet<AgentId>,
}

/// All queued jobs. Those that wait for a retry's time have their place, too, but are not ready.
#[derive(Debug, Default)]
pub struct Queue {
    levels: BTreeMap<Reverse<i32>, (usize, Level)>,
    ready: BTreeMap<Request, Class>,
    delayed: BTreeSet<(Time, JobId)>,
    users: BTreeMap<Arc<str>, usize>,
    /// What the queued jobs name, and who cannot see it.
    paths: BTreeMap<Arc<JobPaths>, Named>,
    len: usize,
    /// Requests with paths that jobs became ready with since [`Queue::take_fresh`].
    fresh: BTreeSet<Request>,
    /// Jobs that became ready, and that are no more, since [`Queue::take_changes`].
    came: BTreeSet<JobId>,
    went: BTreeSet<JobId>,
}

impl Queue {
    /// Puts a queued job into its place.
    pub(crate) fn insert(&mut self, now: Time, job: &JobRecord, visibility: &PathVisibility) {
        let paths = JobPaths::of(job);
        let (len, level) = self.levels.entry(Reverse(job.priority())).or_default();
        let jobs = match level.get_mut(&job.user) {
            Some(jobs) => jobs,
            None => level.entry(Arc::clone(&job.user)).or_default(),
        };
        if jobs.insert(job.id) {
            *len += 1;
            self.len += 1;
            match self.paths.get_mut(&paths) {
                Some(named) => named.jobs += 1,
                None => {
                    let named = Named { jobs: 1, excluded: visibility.excluded(&paths) };
                    self.paths.insert(Arc::new(paths.clone()), named);
                }
            }
            match self.users.get_mut(&job.user) {
                Some(count) => *count += 1,
                None => drop(self.users.insert(Arc::clone(&job.user), 1)),
            }
        }
        match job.not_before {
            Some(time) if time > now => {
                self.delayed.insert((time, job.id));
            }
            Some(_) | None => self.make_ready_as(job, self.request_as(job, &paths)),
        }
    }

    /// Takes a job out, wherever it waits.
    pub(crate) fn remove(&mut self, job: &JobRecord) {
        let paths = JobPaths::of(job);
        // First of all, since what it is filed under is told by what it names.
        self.unready(job, &self.request_as(job, &paths));
        let priority = Reverse(job.priority());
        if let Some((len, level)) = self.levels.get_mut(&priority)
            && let Some(jobs) = level.get_mut(&job.user)
            && jobs.remove(&job.id)
        {
            *len -= 1;
            self.len -= 1;
            if jobs.is_empty() {
                level.remove(&job.user);
            }
            if level.is_empty() {
                self.levels.remove(&priority);
            }
            if let Some(count) = self.users.get_mut(&job.user) {
                *count -= 1;
                if *count == 0 {
                    self.users.remove(&job.user);
                }
            }
            if let Some(named) = self.paths.get_mut(&paths) {
                named.jobs -= 1;
                if named.jobs == 0 {
                    self.paths.remove(&paths);
                }
            }
        }
        if let Some(time) = job.not_before {
            self.delayed.remove(&(time, job.id));
        }
    }

    /// Takes a job out of those that may be placed, where it is filed under what it asks for.
    fn unready(&mut self, job: &JobRecord, request: &Request) {
        if !self.came.remove(&job.id) {
            self.went.insert(job.id);
        }
        let priority = Reverse(job.priority());
        if let Some(class) = self.ready.get_mut(request)
            && let Some(users) = class.get_mut(&priority)
            && let Some(jobs) = users.get_mut(&job.user)
        {
            jobs.remove(&job.id);
            if jobs.is_empty() {
                users.remove(&job.user);
            }
            if users.is_empty() {
                class.remove(&priority);
            }
            if class.is_empty() {
                self.ready.remove(request);
            }
        }
    }

    /// What a queued job asks for.
    pub(crate) fn request(&self, job: &JobRecord) -> Request {
        self.request_as(job, &JobPaths::of(job))
    }

    /// As [`Queue::request`], by the paths that the job names.
    fn request_as(&self, job: &JobRecord, paths: &JobPaths) -> Request {
        let known = self.paths.get_key_value(paths);
        let paths = known.filter(|(_, named)| !named.excluded.is_empty()).map(|(paths, _)| Arc::clone(paths));
        Request { paths, avoids: job.failures.avoids(), ..Request::from(&job.spec.resources) }
    }

    /// The agents that cannot see what queued jobs with this request name.
    pub(crate) fn excluded(&self, request: &Request) -> &BTreeSet<AgentId> {
        request.paths.as_ref().map_or(&NOBODY, |paths| self.excluded_for(paths))
    }

    /// The agents that cannot see these paths, if queued jobs name them.
    pub(crate) fn excluded_for(&self, paths: &JobPaths) -> &BTreeSet<AgentId> {
        self.paths.get(paths).map_or(&NOBODY, |named| &named.excluded)
    }

    /// Whether some queued job names these paths.
    pub(crate) fn knows(&self, paths: &JobPaths) -> bool {
        self.paths.contains_key(paths)
    }

    /// Agents see other things than before: jobs whose paths all agents see now, or not all any more, are filed
    /// anew. Costs steps in the number of paths that are named, and of jobs only when that happened.
    pub(crate) fn refile(&mut self, visibility: &PathVisibility, jobs: &BTreeMap<JobId, JobRecord>) {
        let seen: Vec<(Arc<JobPaths>, BTreeSet<AgentId>)> =
            self.paths.keys().map(|paths| (Arc::clone(paths), visibility.excluded(paths))).collect();
        let moves = |(paths, excluded): &&(Arc<JobPaths>, BTreeSet<AgentId>)| {
            self.paths.get(paths).is_some_and(|named| named.excluded.is_empty() != excluded.is_empty())
        };
        let moving: BTreeSet<Arc<JobPaths>> =
            seen.iter().filter(moves).map(|(paths, _)| Arc::clone(paths)).collect();
        let mut moved: Vec<&JobRecord> = Vec::new();
        if !moving.is_empty() {
            let ready = self.ready.values().flat_map(BTreeMap::values).flat_map(BTreeMap::values).flatten();
            let records = ready.filter_map(|job| jobs.get(job));
            moved.extend(records.filter(|job| moving.contains(&JobPaths::of(job))));
        }
        for job in &moved {
            self.unready(job, &self.request(job));
        }
        for (paths, excluded) in seen {
            if let Some(named) = self.paths.get_mut(&paths) {
                named.excluded = excluded;
            }
        }
        for job in moved {
            self.make_ready(job);
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

    /// Lets a job be placed that has its place already.
    pub(crate) fn make_ready(&mut self, job: &JobRecord) {
        self.make_ready_as(job, self.request(job));
    }

    /// As [`Queue::make_ready`], filed under what the job asks for.
    fn make_ready_as(&mut self, job: &JobRecord, request: Request) {
        self.came.insert(job.id);
        if request.paths.is_some() {
            self.fresh.insert(request.clone());
        }
        let class = self.ready.entry(request).or_default();
        let users = class.entry(Reverse(job.priority())).or_default();
        match users.get_mut(&job.user) {
            Some(jobs) => drop(jobs.insert(job.id)),
            None => drop(users.insert(Arc::clone(&job.user), [job.id].into())),
        }
    }

    /// Which jobs became ready, and which are no more, since this was asked last.
    pub(crate) fn take_changes(&mut self) -> (BTreeSet<JobId>, BTreeSet<JobId>) {
        (std::mem::take(&mut self.came), std::mem::take(&mut self.went))
    }

    /// Requests with paths that jobs became ready with since this was asked last.
    pub(crate) fn take_fresh(&mut self) -> BTreeSet<Request> {
        std::mem::take(&mut self.fresh)
    }

    /// When the next delayed job becomes ready.
    pub fn next_due(&self) -> Option<Time> {
        self.delayed.first().map(|&(time, _)| time)
    }

    /// The jobs that may be placed, by request.
    pub fn ready(&self) -> &BTreeMap<Request, Class> {
        &self.ready
    }

    /// How many jobs have a higher priority, and those of this one.
    pub fn above(&self, priority: i32) -> (usize, Option<&Level>) {
        let above = self.levels.range(..Reverse(priority)).map(|(_, (len, _))| len).sum();
        (above, self.levels.get(&Reverse(priority)).map(|(_, level)| level))
    }

    /// How many jobs are queued.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The users who have jobs queued.
    pub fn users(&self) -> impl Iterator<Item = &str> {
        self.users.keys().map(|user| &**user)
    }

    /// How many jobs a user has queued.
    pub fn len_of(&self, user: &str) -> usize {
        self.users.get(user).copied().unwrap_or(0)
    }

    /// Whether the job is in the queue; whether it is ready; whether it waits for a retry's time.
    pub(crate) fn holds(&self, job: &JobRecord) -> (bool, bool, bool) {
        let (_, level) = self.above(job.priority());
        let queued = level.and_then(|level| level.get(&job.user)).is_some_and(|jobs| jobs.contains(&job.id));
        let class = self.ready.get(&self.request(job));
        let users = class.and_then(|class| class.get(&Reverse(job.priority())));
        let ready = users.and_then(|users| users.get(&job.user)).is_some_and(|jobs| jobs.contains(&job.id));
        let delayed = job.not_before.is_some_and(|time| self.delayed.contains(&(time, job.id)));
        (queued, ready, delayed)
    }

    /// Whether every path is known to be seen as the agents say.
    pub(crate) fn agrees_with(&self, visibility: &PathVisibility) -> bool {
        self.paths.iter().all(|(paths, named)| named.excluded == visibility.excluded(paths))
    }

    /// Ready and delayed jobs together, those in order, those counted by user, and by what they name: all equal
    /// [`Queue::len`] as long as the indexes agree.
    pub(crate) fn counts(&self) -> [usize; 4] {
        let users = self.ready.values().flat_map(BTreeMap::values);
        let ready: usize = users.flat_map(BTreeMap::values).map(BTreeSet::len).sum();
        let ordered = self.levels.values().flat_map(|(_, level)| level.values()).map(OrderedSet::len).sum();
        let named = self.paths.values().map(|named| named.jobs).sum();
        [ready + self.delayed.len(), ordered, self.users.values().sum(), named]
    }
}

//! What others may ask of the core between two events.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use trainyard_types::{AgentId, JobGroupId, JobId, JobSpec, JobState, Time};

use crate::config::UserLimits;
use crate::engine::Core;
use crate::record::JobRecord;
use crate::state::agents::agent::{Agent, AgentState, AgentView};
use crate::state::counters::Counters;
use crate::state::fair_share::User;
use crate::state::job_group::JobGroupRecord;
use crate::state::path_visibility::JobPaths;
use crate::state::queue::Request;
use crate::state::slots::Kind;
use crate::throughput::{Rate, Workload};

/// Who may look at a data set before its job queues.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DataCheckers {
    /// Those that can be asked, the best first.
    pub asked: Vec<AgentId>,
    /// Those that may see it as well, and cannot be asked.
    pub absent: Vec<Absent>,
}

/// An agent that may see a data set, and cannot be asked for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Absent {
    /// The name that people call it by.
    pub name: String,
    /// Whether it is connected, and only too old to look at data sets.
    pub is_connected: bool,
    /// When it was last heard of.
    pub last_seen: Time,
}

/// A user's share of the cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct UserShare {
    pub name: String,
    /// GPU-time of late: what is older counts less.
    pub gpu_time: Duration,
    /// How much more than others it may have.
    pub weight: u32,
    /// By what factor its jobs count as longer; 1 by policies that do not weigh so.
    pub penalty: f64,
    pub queued_jobs: usize,
    /// GPUs and CPU slots that its jobs hold.
    pub gpus: u32,
    pub cpu_slots: u32,
}

impl Core {
    /// One job as it stands.
    pub fn job(&self, job: JobId) -> Option<&JobRecord> {
        self.jobs.get(job)
    }

    /// All jobs in the order of their submission.
    pub fn jobs(&self) -> impl DoubleEndedIterator<Item = &JobRecord> {
        self.jobs.iter()
    }

    /// The jobs whose id starts with `prefix`, as people shorten ids; hyphens and case do not count.
    pub fn jobs_with_prefix(&self, prefix: &str) -> impl DoubleEndedIterator<Item = &JobRecord> {
        ids_with_prefix(prefix).map(|ids| self.jobs.range(ids)).into_iter().flatten()
    }

    /// Jobs that are not over and name one of these as their data set or weights. Looks at every job.
    pub fn open_jobs_that_name(&self, paths: &[String]) -> impl Iterator<Item = &JobRecord> {
        let is_named = |path: &str| paths.iter().any(|wanted| wanted == path);
        let open = self.jobs_with_prefix("").filter(|job| !job.state.is_final());
        open.filter(move |job| JobPaths::of(job).each().any(is_named))
    }

    /// Whether an attempt goes on at an agent whose job names this as its data set or weights, or whether the agent was
    /// told to prefetch it.
    pub fn agent_needs(&self, agent: AgentId, path: &str) -> bool {
        let live = self.agents.get(agent).into_iter().flat_map(Agent::live);
        live.filter_map(|attempt| self.jobs.get(attempt.job))
            .any(|job| JobPaths::of(job).each().any(|named| named == path))
            || self.prefetches(agent, path)
    }

    /// The agents that look at data sets, see the one that a job names, and could run the job; the one first that knows it
    /// best. And those of which nothing else is known that keeps the job from them, and that cannot be asked. Looks at every
    /// agent.
    pub fn data_checkers(&self, spec: &JobSpec) -> DataCheckers {
        let paths =
            JobPaths { data: spec.train.data.to_string_lossy().into_owned(), pretrained: String::new() };
        let (request, by_words) = (Request::from(&spec.resources), self.jobs.visibility().is_inside(&paths));
        let fits =
            |agent: &Agent| agent.could_run(&request) && agent.why_unreadable(&paths, by_words).is_none();
        let can_be_asked =
            |agent: &Agent| agent.state() == AgentState::Connected && agent.fitness().checks_data;
        let fitting = self.agents.iter().filter(|(_, agent)| fits(agent));
        let (asked, absent): (Vec<_>, Vec<_>) = fitting.partition(|(_, agent)| can_be_asked(agent));
        let order = |(id, agent): (AgentId, &Agent)| {
            (!self.jobs.readers().contains(&paths.data, id), agent.running().len(), id)
        };
        let mut asked: Vec<(bool, usize, AgentId)> = asked.into_iter().map(order).collect();
        asked.sort();
        let absent = absent.into_iter().map(|(_, agent)| Absent {
            name: agent.name().to_owned(),
            is_connected: agent.state() == AgentState::Connected,
            last_seen: agent.view().last_seen,
        });
        DataCheckers {
            asked: asked.into_iter().map(|(_, _, agent)| agent).collect(),
            absent: absent.collect(),
        }
    }

    /// The job, or the first of the jobs, that an earlier request of this name has made.
    pub fn job_of_request(&self, request_id: &str) -> Option<JobId> {
        self.jobs.first_of_request(request_id)
    }

    /// Every agent ever seen, by id.
    pub fn agents(&self) -> impl Iterator<Item = AgentView<'_>> {
        self.agents.iter().map(|(_, agent)| agent.view())
    }

    pub fn agent(&self, agent: AgentId) -> Option<AgentView<'_>> {
        self.agents.get(agent).map(Agent::view)
    }

    /// The agents whose id starts with `prefix`, as people shorten ids.
    pub fn agents_with_prefix(&self, prefix: &str) -> impl Iterator<Item = AgentView<'_>> {
        let ids = ids_with_prefix(prefix).map(|ids| AgentId(ids.start().0)..=AgentId(ids.end().0));
        ids.map(|ids| self.agents.range(ids).map(Agent::view)).into_iter().flatten()
    }

    /// The agents with a name.
    pub fn agents_named(&self, name: &str) -> impl Iterator<Item = AgentView<'_>> {
        self.agents.named(name).map(Agent::view)
    }

    /// How many jobs are in a state.
    pub fn count(&self, state: JobState) -> usize {
        self.jobs.by_state().in_state(state).map_or(0, BTreeSet::len)
    }

    /// What has happened since it was loaded.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// How many jobs are queued.
    pub fn queue_len(&self) -> usize {
        self.jobs.queue().len()
    }

    /// A job group that has jobs left.
    pub fn group(&self, id: JobGroupId) -> Option<&Arc<JobGroupRecord>> {
        self.jobs.group(id)
    }

    /// All job groups that have jobs left, by id.
    pub fn groups(&self) -> impl DoubleEndedIterator<Item = &Arc<JobGroupRecord>> {
        self.jobs.groups()
    }

    /// The job groups whose id starts with `prefix`.
    pub fn groups_with_prefix(&self, prefix: &str) -> impl Iterator<Item = &Arc<JobGroupRecord>> {
        let ids = ids_with_prefix(prefix).map(|ids| JobGroupId(ids.start().0)..=JobGroupId(ids.end().0));
        ids.map(|ids| self.jobs.groups_in(ids)).into_iter().flatten()
    }

    /// How many of a group's jobs are in each state; those that were forgotten are not counted.
    pub fn group_states(&self, group: &JobGroupRecord) -> BTreeMap<JobState, u32> {
        let mut states = BTreeMap::new();
        for job in group.ids().filter_map(|id| self.jobs.get(id)) {
            *states.entry(job.state).or_default() += 1;
        }
        states
    }

    /// What a user may do.
    pub fn limits(&self, user: &str) -> &UserLimits {
        self.config.limits(user)
    }

    /// The share of each user that has jobs waiting or running, lower goes first; and its GPU-milliseconds.
    pub fn shares(&self, now: Time) -> BTreeMap<Arc<str>, (u64, u64)> {
        let share = |user: &User| {
            let name = user.record().name.as_str();
            let limits = self.limits(name);
            (name.into(), (user.share(&self.config, now, limits), user.used(&self.config, now)))
        };
        self.users.iter().map(share).collect()
    }

    /// What each user has had of late and has now, of all that have run or queued anything; by name.
    pub fn user_shares(&self, now: Time) -> Vec<UserShare> {
        let waiting = self.jobs.queue().users();
        let names: BTreeSet<&str> =
            self.users.iter().map(|user| user.record().name.as_str()).chain(waiting).collect();
        let names: Vec<&str> = names.into_iter().collect();
        let penalties = self.policy.share_penalties(now, &self.view(), &names);
        let share = |(name, penalty): (&str, f64)| {
            let known = self.users.get(name);
            let (gpus, cpu_slots) = known.map_or((0, 0), User::running);
            UserShare {
                name: name.to_owned(),
                gpu_time: Duration::from_millis(known.map_or(0, |user| user.used(&self.config, now))),
                weight: self.limits(name).weight,
                penalty,
                queued_jobs: self.jobs.queue().len_of(name),
                gpus,
                cpu_slots,
            }
        };
        names.iter().copied().zip(penalties).map(share).collect()
    }

    pub(crate) fn share(&self, now: Time, user: &str) -> u64 {
        self.users.share(&self.config, now, user)
    }

    /// How many more GPUs a user may use now.
    pub(crate) fn gpus_left(&self, user: &str) -> u32 {
        self.users.gpus_left(&self.config, user)
    }

    /// How fast each kind of GPU that was seen or is there trains each workload that was seen.
    pub fn rates(&self) -> impl Iterator<Item = (Workload, &str, Rate)> {
        let here = self.agents.slots().kinds().keys().map(Kind::device);
        self.throughput.rates.table(here)
    }
}

/// The ids that a prefix stands for; `None` when it is no start of a UUID.
pub(crate) fn ids_with_prefix(prefix: &str) -> Option<RangeInclusive<JobId>> {
    let digits: String = prefix.chars().filter(|&c| c != '-').collect();
    if digits.len() > 32 || !digits.chars().all(|c| c.is_ascii_hexdigit()) {
        return None;
    }
    let padded = |fill: &str| format!("{digits}{}", fill.repeat(32 - digits.len())).parse().ok();
    Some(padded("0")?..=padded("f")?)
}

//! Gangs: jobs that need several GPUs of one agent. Which GPUs are reserved for them, and which jobs are preempted.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use trainyard_types::{AgentId, JobId, Time};

use super::FinishTime;
use super::facts::Facts;
use super::reservations::{GangClass, GangReservation};
use crate::duration::{from_millis, to_millis};
use crate::policy::ClusterView;
use crate::state::queue::Request;

/// Gang reservations for one kind of GPU at a time.
const RESERVATIONS_OF_KIND: usize = 2;
/// Jobs are preempted for a gang only when that saves at least so much more than it costs.
const PREEMPTION_GAIN: Duration = Duration::from_secs(600);

/// How long a job takes to its first checkpoint.
const USUAL_CHECKPOINT_GAP: Duration = Duration::from_secs(300);

/// The GPUs of one kind on one agent.
struct AgentGpus {
    agent: AgentId,
    /// GPUs without a job.
    free: u32,
    /// Jobs that run on the others.
    runners: Vec<JobId>,
}

impl AgentGpus {
    fn none_of(agent: AgentId) -> Self {
        Self { agent, free: 0, runners: Vec::new() }
    }
}

/// A job whose GPUs become free when it ends, or when it is preempted.
struct RunnerOption {
    job: JobId,
    gpus: u32,
    /// How long the job is delayed, in milliseconds.
    loss: f64,
    /// When its GPUs are free, in milliseconds from now.
    ready: f64,
    is_victim: bool,
}

impl RunnerOption {
    /// What orders the options: the loss for each GPU, and the wait.
    fn weight(&self) -> f64 {
        self.loss / f64::from(self.gpus) + self.ready
    }
}

/// One way to free enough GPUs of an agent.
struct GangOption {
    agent: AgentId,
    /// When the GPUs are free, in milliseconds from now.
    ready: f64,
    /// How long others are delayed, in milliseconds added up.
    cost: f64,
    /// Jobs to preempt.
    victims: BTreeSet<JobId>,
}

impl FinishTime {
    /// The GPUs of one kind by agent, without agents that cannot see the paths of the job.
    fn gpus_by_agent(
        &self,
        view: &ClusterView<'_>,
        at: usize,
        excluded: &BTreeSet<AgentId>,
    ) -> BTreeMap<AgentId, AgentGpus> {
        let mut agents: BTreeMap<AgentId, AgentGpus> = BTreeMap::new();
        let free = view.slots().kinds().get(self.queues.kind(at)).map(|pool| pool.free());
        for location in free.into_iter().flatten() {
            let agent = location.agent;
            agents.entry(agent).or_insert_with(|| AgentGpus::none_of(agent)).free += 1;
        }
        for (job, runner) in self.queues.at(at).runners() {
            let agent = runner.agent;
            agents.entry(agent).or_insert_with(|| AgentGpus::none_of(agent)).runners.push(job);
        }
        agents.retain(|id, _| !excluded.contains(id) && view.agents.session(*id).is_some());
        agents
    }

    /// How long a gang waits until enough GPUs of one agent are free, in milliseconds. The delay of preempted jobs
    /// counts as waiting.
    pub(super) fn gang_wait(
        &mut self,
        now: Time,
        view: &ClusterView<'_>,
        at: usize,
        request: &Request,
        runtime: f64,
    ) -> f64 {
        let gpus = request.gpus;
        if request.paths.is_some() {
            return self.compute_gang_wait(now, view, at, request, runtime);
        }
        // Jobs of about the same runtime wait about as long: one round computes it once for all of them.
        let class = GangClass::new(at, gpus, runtime);
        if let Some(known) = self.reservations.wait(class) {
            return known;
        }
        let wait = self.compute_gang_wait(now, view, at, request, runtime);
        self.reservations.keep_wait(class, wait);
        wait
    }

    fn compute_gang_wait(
        &self,
        now: Time,
        view: &ClusterView<'_>,
        at: usize,
        request: &Request,
        runtime: f64,
    ) -> f64 {
        let gpus = request.gpus;
        let agents = self.gpus_by_agent(view, at, &view.excluded(request));
        let options = agents.values().flat_map(|agent_gpus| {
            let natural = self.wait_for_ends(now, at, agent_gpus, gpus);
            [natural, self.by_preemption(now, view, at, agent_gpus, gpus, runtime)]
        });
        options.flatten().map(|option| option.ready + option.cost).fold(1e15, f64::min)
    }

    /// The GPUs become free as jobs end.
    fn wait_for_ends(&self, now: Time, at: usize, agent_gpus: &AgentGpus, gpus: u32) -> Option<GangOption> {
        let queue = self.queues.at(at);
        let mut ends: Vec<(Time, u32)> = agent_gpus
            .runners
            .iter()
            .filter_map(|&job| queue.runner(job))
            .map(|runner| (runner.end, runner.gpus))
            .collect();
        ends.sort();
        let mut free = agent_gpus.free;
        let mut ready = now;
        for (end, gpus_of) in ends {
            if free >= gpus {
                break;
            }
            free += gpus_of;
            ready = ready.max(end);
        }
        let ready = to_millis(ready.since(now));
        let agent = agent_gpus.agent;
        (free >= gpus).then(|| GangOption { agent, ready, cost: 0.0, victims: BTreeSet::new() })
    }

    /// Jobs are preempted at their next checkpoints, those first that lose least.
    fn by_preemption(
        &self,
        now: Time,
        view: &ClusterView<'_>,
        at: usize,
        agent_gpus: &AgentGpus,
        gpus: u32,
        runtime: f64,
    ) -> Option<GangOption> {
        let agent = agent_gpus.agent;
        let mut free_elsewhere = self.free_elsewhere(view, at, agent);
        let mut options: Vec<RunnerOption> = Vec::new();
        for &job in &agent_gpus.runners {
            let Some(runner) = self.queues.at(at).runner(job) else { continue };
            let gpus = runner.gpus;
            let left = to_millis(runner.end.since(now));
            let soon = self.to_checkpoint(now, job).min(left);
            if soon >= left || self.is_protected(now, view, job) {
                options.push(RunnerOption { job, gpus, loss: 0.0, ready: left, is_victim: false });
                continue;
            }
            let restart = to_millis(view.config.restart_cost);
            let elsewhere = free_elsewhere
                .iter()
                .filter(|(_, free)| **free >= runner.gpus)
                .filter_map(|(&queue, _)| Some(((self.moved(now, view, job, queue)? - left).max(0.0), queue)))
                .min_by(|a, b| a.0.total_cmp(&b.0));
            let loss = match elsewhere {
                Some((loss, queue)) if loss < runtime + restart => {
                    free_elsewhere.entry(queue).and_modify(|free| *free -= runner.gpus);
                    loss
                }
                Some(_) | None => runtime + restart,
            };
            options.push(RunnerOption { job, gpus, loss, ready: soon, is_victim: true });
        }
        options.sort_by(|one, other| one.weight().total_cmp(&other.weight()));
        let mut option = GangOption { agent, ready: 0.0, cost: 0.0, victims: BTreeSet::new() };
        let mut free = agent_gpus.free;
        for runner in options {
            if free >= gpus {
                break;
            }
            free += runner.gpus;
            option.ready = option.ready.max(runner.ready);
            option.cost += runner.loss;
            if runner.is_victim {
                option.victims.insert(runner.job);
            }
        }
        (free >= gpus).then_some(option)
    }

    /// Free GPUs by queue, without those of this agent and those that are reserved.
    fn free_elsewhere(&self, view: &ClusterView<'_>, at: usize, agent: AgentId) -> BTreeMap<usize, u32> {
        let mut free_elsewhere = BTreeMap::new();
        for (kind, pool) in view.slots().kinds() {
            let Some(queue) = self.queues.find(kind) else { continue };
            let is_reserved = |other: AgentId| {
                (queue, other) == (at, agent) || self.reservations.of_agent(queue, other).is_some()
            };
            let free = pool.free().iter().filter(|location| !is_reserved(location.agent)).count();
            free_elsewhere.insert(queue, u32::try_from(free).unwrap_or(u32::MAX));
        }
        free_elsewhere
    }

    /// How long a running job would still take on another kind of GPU, in milliseconds.
    pub(super) fn moved(&self, now: Time, view: &ClusterView<'_>, job: JobId, queue: usize) -> Option<f64> {
        let kind = self.queues.kind(queue);
        let mut facts = Facts::of(now, view, view.job(job)?);
        facts.resumes = true;
        facts.fits(view, kind).then(|| facts.runtime(view, kind))
    }

    /// When a job is expected to store its next checkpoint, in milliseconds from now.
    fn to_checkpoint(&self, now: Time, job: JobId) -> f64 {
        let (last, gap) = self.preemptions.last_checkpoint(job).unwrap_or((now, USUAL_CHECKPOINT_GAP));
        to_millis((last + gap).since(now))
    }

    /// Reserves the GPUs of one agent for a gang that does not fit on what is free.
    pub(super) fn reserve_gang(&mut self, now: Time, view: &ClusterView<'_>, job: JobId, at: usize) {
        let of_queue = self.reservations.of_queue(at);
        if of_queue.clone().any(|reservation| reservation.job == job)
            || of_queue.count() >= RESERVATIONS_OF_KIND
        {
            return;
        }
        let Some(queued) = self.queues.queued(job) else { return };
        let gpus = queued.facts.request.gpus;
        let runtime = queued.facts.runtime(view, self.queues.kind(at));
        let agents = self.gpus_by_agent(view, at, &view.excluded(&queued.facts.request));
        let open = || agents.values().filter(|gpus| self.reservations.of_agent(at, gpus.agent).is_none());
        let best = |options: Vec<GangOption>| {
            options.into_iter().min_by(|a, b| (a.ready + a.cost).total_cmp(&(b.ready + b.cost)))
        };
        let natural =
            best(open().filter_map(|agent_gpus| self.wait_for_ends(now, at, agent_gpus, gpus)).collect());
        let quick = best(
            open()
                .filter_map(|agent_gpus| self.by_preemption(now, view, at, agent_gpus, gpus, runtime))
                .collect(),
        );
        let worth = to_millis(PREEMPTION_GAIN);
        let option = match (natural, quick) {
            (Some(natural), Some(quick)) if quick.ready + quick.cost + worth < natural.ready => quick,
            (None, Some(quick)) => quick,
            (Some(natural), _) => natural,
            (None, None) => return,
        };
        let GangOption { agent, victims, ready, .. } = option;
        let ready_at = now + from_millis(ready);
        self.reservations.add(GangReservation { queue: at, agent, job, ready_at, victims });
    }
}

//! Gangs: jobs that need several GPUs of one agent. Which GPUs are reserved for them, and which jobs are preempted.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use trainyard_types::{AgentId, JobId, Time};

use super::FinishTime;
use super::facts::Facts;
use super::queues::GangReservation;
use crate::duration::whole_millis;
use crate::policy::ClusterView;
use crate::state::queue::Request;
use crate::state::slots::Kind;

/// Gang reservations for one kind of GPU at a time.
const RESERVATIONS_OF_KIND: usize = 2;
/// Jobs are preempted for a gang only when that saves at least so much more than it costs.
const PREEMPTION_GAIN: Duration = Duration::from_secs(600);

/// How long a job takes to its first checkpoint.
const USUAL_CHECKPOINT_GAP: Duration = Duration::from_secs(300);

/// The GPUs of one kind on one agent.
#[derive(Default)]
struct AgentGpus {
    /// GPUs without a job.
    free: u32,
    /// Jobs that run on the others.
    runners: Vec<JobId>,
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
        let free = view.slots().kinds().get(&self.queues.kinds[at]).map(|pool| pool.free());
        for location in free.into_iter().flatten() {
            agents.entry(location.agent).or_default().free += 1;
        }
        for (&job, runner) in &self.queues.of_kind[at].running {
            agents.entry(runner.agent).or_default().runners.push(job);
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
        let key = (at, gpus, whole_millis(runtime.max(1.0).log2() * 2.0));
        if let Some(&known) = self.queues.gang_waits.get(&key) {
            return known;
        }
        let wait = self.compute_gang_wait(now, view, at, request, runtime);
        self.queues.gang_waits.insert(key, wait);
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
        let options = agents.iter().flat_map(|(&agent, agent_gpus)| {
            let natural = self.wait_for_ends(now, at, agent, agent_gpus, gpus);
            [natural, self.by_preemption(now, view, at, (agent, agent_gpus), gpus, runtime)]
        });
        options.flatten().map(|option| option.ready + option.cost).fold(1e15, f64::min)
    }

    /// The GPUs become free as jobs end.
    fn wait_for_ends(
        &self,
        now: Time,
        at: usize,
        agent: AgentId,
        agent_gpus: &AgentGpus,
        gpus: u32,
    ) -> Option<GangOption> {
        let running = &self.queues.of_kind[at].running;
        let mut ends: Vec<(Time, u32)> = agent_gpus
            .runners
            .iter()
            .filter_map(|job| Some((running.get(job)?.end, running.get(job)?.gpus)))
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
        let ready = ready.since(now).as_secs_f64() * 1000.0;
        (free >= gpus).then(|| GangOption { agent, ready, cost: 0.0, victims: BTreeSet::new() })
    }

    /// Jobs are preempted at their next checkpoints, those first that lose least.
    fn by_preemption(
        &self,
        now: Time,
        view: &ClusterView<'_>,
        at: usize,
        (agent, agent_gpus): (AgentId, &AgentGpus),
        gpus: u32,
        runtime: f64,
    ) -> Option<GangOption> {
        let mut free_elsewhere = self.free_elsewhere(view, at, agent);
        let mut options: Vec<(f64, f64, JobId, u32, bool)> = Vec::new();
        for &job in &agent_gpus.runners {
            let Some(runner) = self.queues.of_kind[at].running.get(&job) else { continue };
            let left = runner.end.since(now).as_secs_f64() * 1000.0;
            let soon = self.to_checkpoint(now, job).min(left);
            if soon >= left || self.is_protected(now, view, job) {
                options.push((0.0, left, job, runner.gpus, false));
                continue;
            }
            let restart = view.config.restart_cost.as_secs_f64() * 1000.0;
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
            options.push((loss, soon, job, runner.gpus, true));
        }
        let weight = |option: &(f64, f64, JobId, u32, bool)| option.0 / f64::from(option.3) + option.1;
        options.sort_by(|a, b| weight(a).total_cmp(&weight(b)));
        let mut option = GangOption { agent, ready: 0.0, cost: 0.0, victims: BTreeSet::new() };
        let mut free = agent_gpus.free;
        for (loss, soon, job, gpus_of, is_victim) in options {
            if free >= gpus {
                break;
            }
            free += gpus_of;
            option.ready = option.ready.max(soon);
            option.cost += loss;
            if is_victim {
                option.victims.insert(job);
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
                (queue, other) == (at, agent) || self.queues.reservation_of(queue, other).is_some()
            };
            let free = pool.free().iter().filter(|location| !is_reserved(location.agent)).count();
            free_elsewhere.insert(queue, u32::try_from(free).unwrap_or(u32::MAX));
        }
        free_elsewhere
    }

    /// How long a running job would still take on another kind of GPU, in milliseconds.
    pub(super) fn moved(&self, now: Time, view: &ClusterView<'_>, job: JobId, queue: usize) -> Option<f64> {
        let kind: &Kind = &self.queues.kinds[queue];
        let mut facts = Facts::of(now, view, view.job(job)?);
        facts.resumes = true;
        facts.fits(view, kind).then(|| facts.runtime(view, kind))
    }

    /// When a job is expected to store its next checkpoint, in milliseconds from now.
    fn to_checkpoint(&self, now: Time, job: JobId) -> f64 {
        let (last, gap) = self.queues.checkpoints.get(&job).copied().unwrap_or((now, USUAL_CHECKPOINT_GAP));
        (last + gap).since(now).as_secs_f64() * 1000.0
    }

    /// Reserves the GPUs of one agent for a gang that does not fit on what is free.
    pub(super) fn reserve_gang(&mut self, now: Time, view: &ClusterView<'_>, job: JobId, at: usize) {
        let of_queue = self.queues.reservations.iter().filter(|reservation| reservation.queue == at);
        if of_queue.clone().any(|reservation| reservation.job == job)
            || of_queue.count() >= RESERVATIONS_OF_KIND
        {
            return;
        }
        let Some(queued) = self.queues.queued.get(&job) else { return };
        let gpus = queued.facts.request.gpus;
        let runtime = queued.facts.runtime(view, &self.queues.kinds[at]);
        let agents = self.gpus_by_agent(view, at, &view.excluded(&queued.facts.request));
        let open = || agents.iter().filter(|(agent, _)| self.queues.reservation_of(at, **agent).is_none());
        let best = |options: Vec<GangOption>| {
            options.into_iter().min_by(|a, b| (a.ready + a.cost).total_cmp(&(b.ready + b.cost)))
        };
        let natural = best(
            open()
                .filter_map(|(&agent, agent_gpus)| self.wait_for_ends(now, at, agent, agent_gpus, gpus))
                .collect(),
        );
        let quick = best(
            open()
                .filter_map(|(&agent, agent_gpus)| {
                    self.by_preemption(now, view, at, (agent, agent_gpus), gpus, runtime)
                })
                .collect(),
        );
        let worth = PREEMPTION_GAIN.as_secs_f64() * 1000.0;
        let option = match (natural, quick) {
            (Some(natural), Some(quick)) if quick.ready + quick.cost + worth < natural.ready => quick,
            (None, Some(quick)) => quick,
            (Some(natural), _) => natural,
            (None, None) => return,
        };
        let at_time = now + Duration::from_millis(whole_millis(option.ready));
        let GangOption { agent, victims, .. } = option;
        self.queues.reservations.push(GangReservation { queue: at, agent, job, at: at_time, victims });
    }
}

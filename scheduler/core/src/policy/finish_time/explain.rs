//! Why a job waits, and why it got the GPU that it has, in words for its user.

use std::cmp::Reverse;
use std::time::Duration;

use trainyard_types::{AgentId, JobId, Time};

use super::FinishTime;
use super::facts::Facts;
use super::share_penalty::Shares;
use crate::duration::{about, from_millis, whole_millis};
use crate::gpu_name::with_article;
use crate::policy::{ClusterView, Expected, PlanOption, Wait};
use crate::record::{Choice, ChoiceOption, JobRecord};
use crate::state::queue::Request;
use crate::state::slots::Kind;

impl FinishTime {
    /// What a waiting job waits for; `None` while it is in no queue. Costs steps in the number of users who wait.
    pub(super) fn wait_of(&self, now: Time, view: &ClusterView<'_>, job: JobId) -> Option<Wait> {
        let queued = self.queues.queued(job)?;
        let at = queued.queue?;
        let queue = self.queues.at(at);
        let shares = Shares::active(now, view);
        let mine = queued.sort_key as f64 * shares.penalty_of(now, view, &queued.facts.user);
        let ahead: usize = queue
            .by_owner()
            .iter()
            .map(|((user, _), jobs)| {
                let theirs = whole_millis((mine / shares.penalty_of(now, view, user)).ceil());
                jobs.rank(&(Reverse(queued.facts.priority), theirs, job))
            })
            .sum();
        let kind = self.queues.kind(at);
        let runtime = queued.facts.runtime(view, kind);
        let mut reason =
            format!("waits for {}, where it takes about {}", with_article(kind.device()), about(runtime));
        match ahead {
            0 => {}
            1 => reason.push_str("; 1 job is ahead"),
            _ => reason.push_str(&format!("; {ahead} jobs are ahead")),
        }
        if let Some((other, longer)) = self.idle_instead(view, &queued.facts, kind) {
            let (other, longer) = (with_article(other.device()), about(longer));
            reason.push_str(&format!("; {other} is free, but would take {longer}"));
        }
        reason.push_str(&view.left_out(&queued.facts.request));
        if self.preemptions.has_victim(job) {
            reason.push_str("; a job is being preempted for it");
        }
        let start = self.expected_start(now, view, at, ahead, queued.facts.priority, queued.sort_key);
        Some(Wait { ahead, reason, start, end: start + from_millis(runtime) })
    }

    /// When the GPU becomes free that comes after those that the jobs ahead take.
    fn expected_start(
        &self,
        now: Time,
        view: &ClusterView<'_>,
        at: usize,
        ahead: usize,
        priority: i32,
        sort_key: u64,
    ) -> Time {
        let queue = self.queues.at(at);
        let free = view.slots().kinds().get(self.queues.kind(at)).map_or(0, |pool| pool.free().len());
        let Some(behind) = ahead.checked_sub(free) else { return now };
        if queue.ends().is_empty() {
            return now;
        }
        let rounds = u32::try_from(behind / queue.ends().len()).unwrap_or(u32::MAX);
        let end = queue.ends().iter().nth(behind % queue.ends().len()).map_or(now, |&(end, _)| end.max(now));
        // Once all that run have ended, the jobs ahead count with their mean GPU-time.
        let ahead = queue.ahead_of(priority, sort_key);
        let mean = if ahead.shorter > 0.0 { ahead.shorter_gpu_time / ahead.shorter } else { 0.0 };
        end + from_millis(mean).saturating_mul(rounds)
    }

    /// A free GPU of another kind on which the job could run, and its runtime there.
    fn idle_instead<'a>(
        &self,
        view: &ClusterView<'a>,
        facts: &Facts,
        chosen: &Kind,
    ) -> Option<(&'a Kind, f64)> {
        let excluded = view.excluded(&facts.request);
        let kinds = view.slots().kinds().iter().filter(|(kind, pool)| {
            *kind != chosen && facts.fits(view, kind) && pool.has_free_without(&excluded)
        });
        kinds.map(|(kind, _)| (kind, facts.runtime(view, kind))).min_by(|a, b| a.1.total_cmp(&b.1))
    }

    /// What is expected of a job that starts on such a GPU of an agent, and why it does.
    pub(super) fn expected_of(
        &self,
        now: Time,
        view: &ClusterView<'_>,
        job: JobId,
        chosen: &Kind,
        agent: AgentId,
    ) -> Option<Expected> {
        let queued = self.queues.queued(job)?;
        let facts = &queued.facts;
        let others = view.slots().kinds().keys().filter(|kind| *kind != chosen && facts.fits(view, kind));
        let options: Vec<ChoiceOption> = std::iter::once(chosen)
            .chain(others)
            .filter_map(|kind| self.option(now, view, facts, kind))
            .collect();
        let runtime = options.first().map_or(Duration::ZERO, |chosen| chosen.runtime);
        let preempted_for = self.preemptions.preempted_for(job);
        let choice = Choice { preempted_for, starving: now >= queued.starving_at, options };
        let is_choice = choice.options.len() > 1 || choice.preempted_for.is_some() || choice.starving;
        Some(Expected {
            choice: is_choice.then_some(choice),
            warm: facts.holders(view).any(|holder| holder == agent),
            end: Some(now + runtime),
            estimate: queued.estimate,
        })
    }

    /// What would become of a job that is not queued, where it costs itself and others least first.
    pub(super) fn plan_of(
        &self,
        now: Time,
        view: &ClusterView<'_>,
        job: &JobRecord,
        request: &Request,
    ) -> Vec<PlanOption> {
        let facts = Facts { request: request.clone(), ..Facts::of(now, view, job) };
        let kinds = view.slots().kinds().keys().filter(|kind| facts.fits(view, kind));
        let mut options: Vec<ChoiceOption> =
            kinds.filter_map(|kind| self.option(now, view, &facts, kind)).collect();
        options.retain(|option| option.total > 0);
        options.sort_by_key(|option| option.runtime + option.waits + option.delays_others);
        let plan = |option: ChoiceOption| PlanOption {
            device: option.device,
            free: option.free,
            total: option.total,
            waits: Some(option.waits),
            takes: Some(option.runtime),
            measured: option.measured,
        };
        options.into_iter().map(plan).collect()
    }

    /// What a kind of GPU on offer would mean for a job.
    fn option(&self, now: Time, view: &ClusterView<'_>, facts: &Facts, kind: &Kind) -> Option<ChoiceOption> {
        let pool = view.slots().kinds().get(kind)?;
        let (total, free) = pool.without(&view.excluded(&facts.request));
        // A kind has no queue before a round has seen it; then nobody waits for it.
        let at = self.queues.find(kind);
        let gpus = f64::from(facts.request.gpus);
        let runtime = facts.runtime(view, kind);
        let sort_key = whole_millis(runtime * gpus.sqrt());
        let count = |gpus: usize| u32::try_from(gpus).unwrap_or(u32::MAX);
        // Where a GPU is free it waits for nothing, whatever runs beside it.
        let is_free = free >= facts.request.gpus as usize;
        let waits = match at {
            Some(at) if !is_free => self.expected_wait(now, view, at, pool.total(), facts.priority, sort_key),
            _ => 0.0,
        };
        let delays = at
            .map_or(0.0, |at| self.delay_caused(at, pool.total(), facts.priority, sort_key, runtime * gpus));
        Some(ChoiceOption {
            device: kind.device().to_owned(),
            free: count(free),
            total: count(total),
            runtime: from_millis(runtime),
            waits: from_millis(waits),
            delays_others: from_millis(delays),
            measured: view.throughput.rates.estimate(&facts.workload, kind.device()).seen > 0.0,
        })
    }
}

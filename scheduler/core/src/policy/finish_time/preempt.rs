//! Preemption: when a running job is stopped in favour of another or of a faster GPU, and when it is protected.

use std::cmp::Ordering;
use std::time::Duration;

use trainyard_types::{EndReason, JobId, Time};

use super::facts::Facts;
use super::share_penalty::Shares;
use super::{FinishTime, PATIENCE_FACTOR, PROTECTED_FOR, SMALL_SCORE_BUDGET};
use crate::duration::{about, from_millis, to_millis};
use crate::gpu_name::with_article;
use crate::policy::{ClusterView, Preemption};
use crate::record::AttemptRecord;
use crate::state::queue::Request;
use crate::state::slots::Kind;

/// A job is preempted for one whose runtime is less than what is left of it divided by this …
const MUCH_SHORTER: f64 = 2.0;
/// … less this, and less the cost of a restart.
const MARGIN: Duration = Duration::from_secs(570);
/// Starving jobs that are tried as the one to preempt for.
const LOOKED_AT: usize = 64;
/// A job moves to a GPU where its runtime times this …
const MUCH_FASTER: f64 = 1.2;
/// … plus this is less than what is left of it.
const MOVE_MARGIN: Duration = Duration::from_secs(300);
/// A GPU on which the runtime is longer by this factor does not do in place of another.
const MUCH_SLOWER: f64 = 1.5;

/// Why a job is preempted.
enum Cause {
    /// For a job that waits.
    For(JobId),
    /// To move to a faster GPU, which has that queue.
    Faster { kind: Kind, queue: usize },
}

impl FinishTime {
    /// A checkpoint is stored, so that nothing is lost by stopping now: is there something better to do?
    pub(super) fn consider_preemption(
        &mut self,
        now: Time,
        view: &ClusterView<'_>,
        id: JobId,
    ) -> Option<Preemption> {
        if self.preemptions.is_preempting(id) {
            return None;
        }
        let started = view.job(id).and_then(|job| job.live_attempt()?.started).unwrap_or(now);
        self.preemptions.note_checkpoint(now, id, started);
        self.score(now, view, SMALL_SCORE_BUDGET);
        let cause = self.best_cause(now, view, id)?;
        self.note_preemption(view, id, &cause)
    }

    /// Whether the job keeps its GPUs whatever comes.
    pub(super) fn is_protected(&self, now: Time, view: &ClusterView<'_>, id: JobId) -> bool {
        let Some(job) = view.job(id) else { return true };
        let Some(live) = job.live_attempt() else { return true };
        if self.preemptions.is_last_victim(id) || self.preemptions.is_preempting(id) {
            return true;
        }
        let was_preempted = |attempt: &&AttemptRecord| {
            attempt.ended.as_ref().is_some_and(|end| end.reason == EndReason::Preempted)
        };
        let times = job.attempts.iter().filter(was_preempted).count();
        if times > 0 {
            let doublings = u32::try_from(times - 1).unwrap_or(31).min(20);
            let until = live.started.unwrap_or(now) + PROTECTED_FOR.saturating_mul(1 << doublings);
            if live.started.is_none() || now < until {
                return true;
            }
        }
        let facts = Facts::of(now, view, job);
        let own = from_millis(view.kind_of(live).map_or(0.0, |(kind, _)| facts.runtime(view, &kind)));
        facts.waited > view.config.patience.saturating_add(own.saturating_mul(PATIENCE_FACTOR))
    }

    fn best_cause(&self, now: Time, view: &ClusterView<'_>, id: JobId) -> Option<Cause> {
        let job = view.job(id)?;
        let attempt = job.live_attempt()?;
        if job.cancel_requested || job.out_of_time || self.is_protected(now, view, id) {
            return None;
        }
        let (kind, _) = view.kind_of(attempt)?;
        let at = self.queues.find(&kind)?;
        let left = to_millis(self.queues.at(at).runner(id)?.end.since(now));
        if let Some(cause) = self.faster_gpu(now, view, id, at, left) {
            return Some(cause);
        }
        if let Some(reservation) = self.reservations.of_agent(at, attempt.agent) {
            return reservation.victims.contains(&id).then_some(Cause::For(reservation.job));
        }
        self.shorter_job(now, view, id, at, &kind, left)
    }

    /// A free GPU on which the job would be done much earlier.
    fn faster_gpu(
        &self,
        now: Time,
        view: &ClusterView<'_>,
        id: JobId,
        at: usize,
        left: f64,
    ) -> Option<Cause> {
        let facts = Facts { resumes: true, ..Facts::of(now, view, view.job(id)?) };
        let others = self.queues.kinds().filter(|(queue, _)| *queue != at);
        let (runtime, queue, kind) = others
            .filter(|(queue, kind)| self.has_free(view, id, &facts, *queue) && facts.fits(view, kind))
            .map(|(queue, kind)| (facts.runtime(view, kind), queue, kind))
            .min_by(|(one, ..), (other, ..)| one.total_cmp(other))?;
        (runtime * MUCH_FASTER + to_millis(MOVE_MARGIN) < left)
            .then(|| Cause::Faster { kind: kind.clone(), queue })
    }

    /// A job that waits for such a GPU, is much shorter, and has no alternative.
    fn shorter_job(
        &self,
        now: Time,
        view: &ClusterView<'_>,
        id: JobId,
        at: usize,
        kind: &Kind,
        left: f64,
    ) -> Option<Cause> {
        let job = view.job(id)?;
        let attempt = job.live_attempt()?;
        let gpus = job.spec.resources.gpus.max(1);
        let beside =
            view.slots().kinds().get(kind).map_or(0, |pool| {
                pool.free().iter().filter(|location| location.agent == attempt.agent).count()
            });
        let room = u32::try_from(beside).unwrap_or(u32::MAX).saturating_add(gpus);
        let shares = Shares::active(now, view);
        let mine = left * f64::from(gpus).sqrt() * shares.penalty_of(now, view, &job.user);
        let margin = to_millis(MARGIN) + to_millis(view.config.restart_cost);
        let is_wanted = |request: &Request| kind.satisfies(request) && request.gpus <= room;
        let starving = self.queues.starving().in_order(is_wanted).take(LOOKED_AT).map(|other| (other, true));
        let in_queue = self.in_order_of(now, view, at, shares).map(|other| (other, false));
        for (other, is_starving) in starving.chain(in_queue) {
            let Some(queued) = self.queues.queued(other) else { continue };
            let fits = queued.facts.fits(view, kind)
                && queued.facts.request.gpus <= room
                && !view.excluded(&queued.facts.request).contains(&attempt.agent);
            if !fits
                || self.preemptions.has_victim(other)
                || self.has_alternative(view, other, &queued.facts, kind)
            {
                continue;
            }
            if view.gpus_left(&queued.facts.user) < queued.facts.request.gpus {
                continue;
            }
            let theirs = queued.sort_key as f64 * shares.penalty_of(now, view, &queued.facts.user);
            let is_shorter = mine > theirs * MUCH_SHORTER + margin;
            let wins = match queued.facts.priority.cmp(&job.priority()) {
                Ordering::Greater => left > margin,
                Ordering::Equal => is_shorter || (is_starving && mine > margin),
                Ordering::Less => false,
            };
            // Whoever is behind it is longer.
            return wins.then_some(Cause::For(other));
        }
        None
    }

    /// Whether a free GPU of any kind would do: the job would not take much longer there.
    fn has_alternative(&self, view: &ClusterView<'_>, id: JobId, facts: &Facts, wanted: &Kind) -> bool {
        let here = facts.runtime(view, wanted);
        self.queues.kinds().any(|(queue, kind)| {
            facts.fits(view, kind)
                && facts.runtime(view, kind) <= here * MUCH_SLOWER
                && self.has_free(view, id, facts, queue)
        })
    }

    /// Whether enough GPUs of a queue are free that are neither reserved for a gang nor claimed by another job.
    fn has_free(&self, view: &ClusterView<'_>, id: JobId, facts: &Facts, queue: usize) -> bool {
        let is_open = |agent| self.reservations.of_agent(queue, agent).is_none();
        let (kind, claimed) = (self.queues.kind(queue), self.preemptions.claimed(queue, id));
        self.free_gpus(view, kind, facts, claimed, is_open).is_some()
    }

    /// Notes that a job is preempted, if its agent can be told.
    fn note_preemption(&mut self, view: &ClusterView<'_>, id: JobId, cause: &Cause) -> Option<Preemption> {
        let job = view.job(id)?;
        view.agents.session(job.live_attempt()?.agent)?;
        let reason = match cause {
            Cause::For(other) => {
                self.preemptions.begin(id, *other);
                let runtime = self.queues.queued(*other).map_or(0.0, |queued| queued.sort_key as f64);
                format!("is preempted for job {other}, which takes about {} here", about(runtime))
            }
            Cause::Faster { kind, queue } => {
                self.preemptions.begin_move(id, *queue, job.spec.resources.gpus.max(1));
                format!("moves to {}, which is free and faster", with_article(kind.device()))
            }
        };
        Some(Preemption { job: id, reason })
    }
}

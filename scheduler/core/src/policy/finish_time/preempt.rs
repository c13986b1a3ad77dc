//! Preemption: when a running job makes way, for whom, and when it is left alone.

use trainyard_types::{EndReason, JobId, Time};

use super::facts::Facts;
use super::share::Shares;
use super::{AFTERTHOUGHTS, FinishTime, LEFT_ALONE, PATIENCE_FACTOR};
use crate::policy::{ClusterView, Preemption};
use crate::record::AttemptRecord;
use crate::spans::about;
use crate::spans::whole_millis;
use crate::state::queue::Request;
use crate::state::slots::Kind;

/// A job makes way for one that takes less than its rest divided by this …
const MUCH_SHORTER: f64 = 2.0;
/// … and, in milliseconds, by this beyond what being stopped and resumed costs it.
const MARGIN: f64 = 570_000.0;
/// Candidates that are looked at for whom a job might make way.
const LOOKED_AT: usize = 64;
/// A job moves to a card that is faster by this …
const MUCH_FASTER: f64 = 1.2;
/// … and, in milliseconds, by this beyond that.
const MOVE_MARGIN: f64 = 300_000.0;

/// A card that takes longer by this does not do in place of another.
const MUCH_SLOWER: f64 = 1.5;

/// Why a job makes way.
enum Cause {
    For(JobId),
    Faster(Kind),
}

impl FinishTime {
    /// A checkpoint is stored, so that nothing is lost by stopping now: is there something better to do?
    pub(super) fn reconsider(&mut self, now: Time, view: &ClusterView<'_>, id: JobId) -> Option<Preemption> {
        if self.plan.making_way.contains_key(&id) {
            return None;
        }
        let started = view.jobs.get(&id).and_then(|job| job.live_attempt()?.started).unwrap_or(now);
        let before = self.plan.checkpoints.get(&id).map_or(started, |&(last, _)| last);
        self.plan.checkpoints.insert(id, (now, now.since(before)));
        self.think(now, view, AFTERTHOUGHTS);
        let cause = self.better(now, view, id)?;
        self.make_way(view, id, &cause)
    }

    /// Whether the job keeps its card whatever comes.
    pub(super) fn is_left_alone(&self, now: Time, view: &ClusterView<'_>, id: JobId) -> bool {
        let Some(job) = view.jobs.get(&id) else { return true };
        let Some(live) = job.live_attempt() else { return true };
        if self.plan.last_victim == Some(id) || self.plan.making_way.contains_key(&id) {
            return true;
        }
        let was_preempted = |attempt: &&AttemptRecord| {
            attempt.ended.as_ref().is_some_and(|end| end.reason == EndReason::Preempted)
        };
        let times = job.attempts.iter().filter(was_preempted).count();
        if times > 0 {
            let doublings = u32::try_from(times - 1).unwrap_or(31).min(20);
            let until = live.started.unwrap_or(now) + LEFT_ALONE.saturating_mul(1 << doublings);
            if live.started.is_none() || now < until {
                return true;
            }
        }
        let facts = Facts::of(now, view, job);
        let own = std::time::Duration::from_millis(
            view.kind_of(live).map_or(0, |(kind, _)| whole_millis(facts.takes(view, &kind))),
        );
        facts.waited > view.config.patience.saturating_add(own.saturating_mul(PATIENCE_FACTOR))
    }

    fn better(&self, now: Time, view: &ClusterView<'_>, id: JobId) -> Option<Cause> {
        let job = view.jobs.get(&id)?;
        let attempt = job.live_attempt()?;
        if job.cancel_requested || job.out_of_time || self.is_left_alone(now, view, id) {
            return None;
        }
        let (kind, _) = view.kind_of(attempt)?;
        let at = self.plan.find(&kind)?;
        let runner = self.plan.lanes[at].running.get(&id)?;
        let left = runner.end.since(now).as_secs_f64() * 1000.0;
        if let Some(cause) = self.faster(now, view, id, at, left) {
            return Some(cause);
        }
        if let Some(kept) = self.plan.kept(at, attempt.agent) {
            return kept.victims.contains(&id).then_some(Cause::For(kept.job));
        }
        self.shorter(now, view, id, at, &kind, left)
    }

    /// A free card on which the job would be done much earlier.
    fn faster(&self, now: Time, view: &ClusterView<'_>, id: JobId, at: usize, left: f64) -> Option<Cause> {
        let facts = Facts { resumes: true, ..Facts::of(now, view, view.jobs.get(&id)?) };
        let others = self.plan.kinds.iter().enumerate().filter(|(lane, _)| *lane != at);
        let (takes, kind) = others
            .filter(|(lane, kind)| self.has_free(view, id, &facts, *lane) && facts.fits(view, kind))
            .map(|(_, kind)| (facts.takes(view, kind), kind))
            .min_by(|(one, _), (other, _)| one.total_cmp(other))?;
        (takes * MUCH_FASTER + MOVE_MARGIN < left).then(|| Cause::Faster(kind.clone()))
    }

    /// A job that waits for such a card, is much shorter, and has no other.
    fn shorter(
        &self,
        now: Time,
        view: &ClusterView<'_>,
        id: JobId,
        at: usize,
        kind: &Kind,
        left: f64,
    ) -> Option<Cause> {
        let job = view.jobs.get(&id)?;
        let attempt = job.live_attempt()?;
        let gpus = job.spec.resources.gpus.max(1);
        let beside =
            view.slots.kinds().get(kind).map_or(0, |offer| {
                offer.free.iter().filter(|location| location.agent == attempt.agent).count()
            });
        let room = u32::try_from(beside).unwrap_or(u32::MAX).saturating_add(gpus);
        let shares = Shares::active(now, view);
        let mine = left * f64::from(gpus).sqrt() * shares.stretch_of(now, view, &job.user);
        let margin = MARGIN + view.config.restart_cost.as_secs_f64() * 1000.0;
        let is_wanted = |request: &Request| kind.satisfies(request) && request.gpus <= room;
        let overdue = self.plan.overdue.in_order(is_wanted).take(LOOKED_AT).map(|other| (other, true));
        let in_line = self.in_turn(now, view, at, shares).map(|other| (other, false));
        for (other, is_overdue) in overdue.chain(in_line) {
            let Some(seat) = self.plan.seats.get(&other) else { continue };
            let fits = seat.facts.fits(view, kind)
                && seat.facts.request.gpus <= room
                && !view.lacking(&seat.facts.request).contains(&attempt.agent);
            if !fits || self.plan.is_promised(other) || self.has_another(view, other, &seat.facts, kind) {
                continue;
            }
            if view.gpus_left(&seat.facts.user) < seat.facts.request.gpus {
                continue;
            }
            #[expect(clippy::cast_precision_loss, reason = "milliseconds of centuries fit into 53 bits")]
            let theirs = seat.rank as f64 * shares.stretch_of(now, view, &seat.facts.user);
            let is_shorter = mine > theirs * MUCH_SHORTER + margin;
            let wins = match seat.facts.priority.cmp(&job.spec.priority) {
                std::cmp::Ordering::Greater => left > margin,
                std::cmp::Ordering::Equal => is_shorter || (is_overdue && mine > margin),
                std::cmp::Ordering::Less => false,
            };
            // Whoever comes behind is longer.
            return wins.then_some(Cause::For(other));
        }
        None
    }

    /// Whether a free card would do: the job would not take much longer there.
    fn has_another(&self, view: &ClusterView<'_>, id: JobId, facts: &Facts, wanted: &Kind) -> bool {
        let here = facts.takes(view, wanted);
        self.plan.kinds.iter().enumerate().any(|(lane, kind)| {
            facts.fits(view, kind)
                && facts.takes(view, kind) <= here * MUCH_SLOWER
                && self.has_free(view, id, facts, lane)
        })
    }

    /// Whether enough cards of a lane are free that are neither kept for a job nor claimed by another one.
    fn has_free(&self, view: &ClusterView<'_>, id: JobId, facts: &Facts, lane: usize) -> bool {
        let is_open = |agent| self.plan.kept(lane, agent).is_none();
        let (kind, claimed) = (&self.plan.kinds[lane], self.plan.claimed(lane, id));
        self.free_cards(view, kind, facts, claimed, is_open).is_some()
    }

    /// Notes that a job is preempted, if its agent can be told.
    fn make_way(&mut self, view: &ClusterView<'_>, id: JobId, cause: &Cause) -> Option<Preemption> {
        let job = view.jobs.get(&id)?;
        view.agents.get(&job.live_attempt()?.agent)?.session?;
        let (beneficiary, reason) = match cause {
            Cause::For(other) => {
                #[expect(clippy::cast_precision_loss, reason = "milliseconds of centuries fit into 53 bits")]
                let takes = about(self.plan.seats.get(other).map_or(0.0, |seat| seat.rank as f64));
                (Some(*other), format!("makes way for job {other}, which takes about {takes} here"))
            }
            Cause::Faster(kind) => (None, format!("moves to a {}, which is free and faster", kind.device())),
        };
        if let Cause::Faster(kind) = cause
            && let Some(lane) = self.plan.find(kind)
        {
            self.plan.moving.insert(id, (lane, job.spec.resources.gpus.max(1)));
        }
        self.plan.making_way.insert(id, beneficiary);
        self.plan.last_victim = Some(id);
        Some(Preemption { job: id, reason })
    }
}

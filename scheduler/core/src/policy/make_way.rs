//! Preemption: when a running job makes way, for whom, and when it is left alone.

use trainyard_types::trainer::LogLevel;
use trainyard_types::{EndReason, JobId, Time};

use super::explain::about;
use super::lanes::{Facts, as_rank};
use super::{AFTERTHOUGHTS, LEFT_ALONE, PATIENCE_FACTOR, Policy};
use crate::changes::Changes;
use crate::core::Core;
use crate::output::Command;
use crate::queue::Request;
use crate::record::{AttemptRecord, EventBody};
use crate::slots::{self, Kind};

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

impl Core {
    /// A checkpoint is stored, so that nothing is lost by stopping now: is there something better to do?
    pub(crate) fn reconsider(&mut self, now: Time, id: JobId, out: &mut Changes) {
        if self.config.policy != Policy::FinishTime || self.plan.making_way.contains_key(&id) {
            return;
        }
        let started = self.jobs.get(&id).and_then(|job| job.live_attempt()?.started).unwrap_or(now);
        let before = self.plan.checkpoints.get(&id).map_or(started, |&(last, _)| last);
        self.plan.checkpoints.insert(id, (now, now.since(before)));
        self.think(now, AFTERTHOUGHTS);
        if let Some(cause) = self.better(now, id) {
            self.make_way(now, id, &cause, out);
        }
    }

    /// Whether the job keeps its card whatever comes.
    pub(super) fn is_left_alone(&self, now: Time, id: JobId) -> bool {
        let Some(job) = self.jobs.get(&id) else { return true };
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
        let facts = self.facts(now, job);
        let own = std::time::Duration::from_millis(
            self.kind_of(live).map_or(0, |(kind, _)| as_rank(self.takes(&facts, &kind))),
        );
        facts.waited > self.config.patience.saturating_add(own.saturating_mul(PATIENCE_FACTOR))
    }

    /// The kind and place of a live attempt's card, if it is on offer.
    pub(crate) fn kind_of(&self, attempt: &AttemptRecord) -> Option<(Kind, u32)> {
        let agent = self.agents.get(&attempt.agent)?;
        slots::of_inventory(&agent.record.inventory).remove(&attempt.slot)
    }

    fn better(&self, now: Time, id: JobId) -> Option<Cause> {
        let job = self.jobs.get(&id)?;
        let attempt = job.live_attempt()?;
        if job.cancel_requested || job.out_of_time || self.is_left_alone(now, id) {
            return None;
        }
        let (kind, _) = self.kind_of(attempt)?;
        let at = self.plan.find(&kind)?;
        let runner = self.plan.lanes[at].running.get(&id)?;
        let left = runner.end.since(now).as_secs_f64() * 1000.0;
        if let Some(cause) = self.faster(now, id, at, left) {
            return Some(cause);
        }
        if let Some(kept) = self.plan.kept(at, attempt.agent) {
            return kept.victims.contains(&id).then_some(Cause::For(kept.job));
        }
        self.shorter(now, id, at, &kind, left)
    }

    /// A free card on which the job would be done much earlier.
    fn faster(&self, now: Time, id: JobId, at: usize, left: f64) -> Option<Cause> {
        let facts = Facts { resumes: true, ..self.facts(now, self.jobs.get(&id)?) };
        let others = self.plan.kinds.iter().enumerate().filter(|(lane, _)| *lane != at);
        let (takes, kind) = others
            .filter(|(lane, kind)| self.has_free(id, &facts, *lane) && self.fits(&facts, kind))
            .map(|(_, kind)| (self.takes(&facts, kind), kind))
            .min_by(|(one, _), (other, _)| one.total_cmp(other))?;
        (takes * MUCH_FASTER + MOVE_MARGIN < left).then(|| Cause::Faster(kind.clone()))
    }

    /// A job that waits for such a card, is much shorter, and has no other.
    fn shorter(&self, now: Time, id: JobId, at: usize, kind: &Kind, left: f64) -> Option<Cause> {
        let job = self.jobs.get(&id)?;
        let attempt = job.live_attempt()?;
        let gpus = job.spec.resources.gpus.max(1);
        let beside =
            self.slots.kinds().get(kind).map_or(0, |offer| {
                offer.free.iter().filter(|location| location.agent == attempt.agent).count()
            });
        let room = u32::try_from(beside).unwrap_or(u32::MAX).saturating_add(gpus);
        let shares = self.active_shares(now);
        let mine = left * f64::from(gpus).sqrt() * self.stretch(now, &job.user, shares);
        let margin = MARGIN + self.config.restart_cost.as_secs_f64() * 1000.0;
        let is_wanted = |request: &Request| kind.satisfies(request) && request.gpus <= room;
        let overdue = self.plan.overdue.in_order(is_wanted).take(LOOKED_AT).map(|other| (other, true));
        let in_line = self.in_turn(now, at, shares).map(|other| (other, false));
        for (other, is_overdue) in overdue.chain(in_line) {
            let Some(seat) = self.plan.seats.get(&other) else { continue };
            let fits = self.fits(&seat.facts, kind)
                && seat.facts.request.gpus <= room
                && !self.lacking(&seat.facts.request).contains(&attempt.agent);
            if !fits || self.plan.is_promised(other) || self.has_another(other, &seat.facts, kind) {
                continue;
            }
            if self.gpus_left(&seat.facts.user) < seat.facts.request.gpus {
                continue;
            }
            #[expect(clippy::cast_precision_loss, reason = "milliseconds of centuries fit into 53 bits")]
            let theirs = seat.rank as f64 * self.stretch(now, &seat.facts.user, shares);
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
    fn has_another(&self, id: JobId, facts: &Facts, wanted: &Kind) -> bool {
        let here = self.takes(facts, wanted);
        self.plan.kinds.iter().enumerate().any(|(lane, kind)| {
            self.fits(facts, kind)
                && self.takes(facts, kind) <= here * MUCH_SLOWER
                && self.has_free(id, facts, lane)
        })
    }

    /// Whether enough cards of a lane are free that are neither kept for a job nor claimed by another one.
    fn has_free(&self, id: JobId, facts: &Facts, lane: usize) -> bool {
        let is_open = |agent| self.plan.kept(lane, agent).is_none();
        let (kind, claimed) = (&self.plan.kinds[lane], self.plan.claimed(lane, id));
        self.free_cards(kind, facts, claimed, is_open).is_some()
    }

    fn make_way(&mut self, now: Time, id: JobId, cause: &Cause, out: &mut Changes) {
        let (beneficiary, why) = match cause {
            Cause::For(other) => {
                #[expect(clippy::cast_precision_loss, reason = "milliseconds of centuries fit into 53 bits")]
                let takes = about(self.plan.seats.get(other).map_or(0.0, |seat| seat.rank as f64));
                (Some(*other), format!("makes way for job {other}, which takes about {takes} here"))
            }
            Cause::Faster(kind) => (None, format!("moves to a {}, which is free and faster", kind.device())),
        };
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let Some(attempt) = job.live_attempt() else { return };
        let (attempt, agent, gpus) = (attempt.id, attempt.agent, job.spec.resources.gpus.max(1));
        let Some(session) = self.agents.get(&agent).and_then(|agent| agent.session) else { return };
        job.state_reason.clone_from(&why);
        out.event(job, now, attempt.number, EventBody::Log { level: LogLevel::Info, message: why });
        out.touch(id);
        out.command(Command::Stop {
            agent,
            session,
            attempt,
            reason: EndReason::Preempted,
            grace: std::time::Duration::ZERO,
        });
        if let Cause::Faster(kind) = cause
            && let Some(lane) = self.plan.find(kind)
        {
            self.plan.moving.insert(id, (lane, gpus));
        }
        self.plan.making_way.insert(id, beneficiary);
        self.plan.last_victim = Some(id);
    }
}

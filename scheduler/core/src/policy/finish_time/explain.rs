//! Why a job waits, and why it got the card that it has, in words for its user.

use std::cmp::Reverse;
use std::time::Duration;

use trainyard_types::{AgentId, JobId, Time};

use super::FinishTime;
use super::facts::Facts;
use super::share::Shares;
use crate::policy::{ClusterView, Expected, Wait};
use crate::record::{Choice, ChoiceOption};
use crate::spans::about;
use crate::spans::whole_millis;
use crate::state::slots::Kind;

impl FinishTime {
    /// What a waiting job waits for; `None` while it has no line. Costs steps in the number of users who wait.
    pub(super) fn wait_of(&self, now: Time, view: &ClusterView<'_>, job: JobId) -> Option<Wait> {
        let seat = self.plan.seats.get(&job)?;
        let at = seat.lane?;
        let lane = &self.plan.lanes[at];
        let shares = Shares::active(now, view);
        let mine = seat.rank as f64 * shares.stretch_of(now, view, &seat.facts.user);
        let ahead: usize = lane
            .line
            .iter()
            .map(|((user, _), line)| {
                let theirs = whole_millis((mine / shares.stretch_of(now, view, user)).ceil());
                line.rank(&(Reverse(seat.facts.priority), theirs, job))
            })
            .sum();
        let kind = &self.plan.kinds[at];
        let takes = seat.facts.takes(view, kind);
        let mut reason = format!("waits for a {}, where it takes about {}", kind.device(), about(takes));
        match ahead {
            0 => {}
            1 => reason.push_str("; 1 job is ahead"),
            _ => reason.push_str(&format!("; {ahead} jobs are ahead")),
        }
        if let Some((other, longer)) = self.idle_instead(view, &seat.facts, kind) {
            let (other, longer) = (other.device(), about(longer));
            reason.push_str(&format!("; a {other} is free, but would take {longer}"));
        }
        reason.push_str(&view.left_out(&seat.facts.request));
        if self.plan.is_promised(job) {
            reason.push_str("; a job makes way for it");
        }
        let start = self.expected_start(now, view, at, ahead, seat.facts.priority, seat.rank);
        Some(Wait { ahead, reason, start, end: start + Duration::from_millis(whole_millis(takes)) })
    }

    /// When the card is free that comes after those that the jobs ahead take.
    fn expected_start(
        &self,
        now: Time,
        view: &ClusterView<'_>,
        at: usize,
        ahead: usize,
        priority: i32,
        rank: u64,
    ) -> Time {
        let lane = &self.plan.lanes[at];
        let free = view.slots.kinds().get(&self.plan.kinds[at]).map_or(0, |offer| offer.free.len());
        let Some(behind) = ahead.checked_sub(free) else { return now };
        if lane.ends.is_empty() {
            return now;
        }
        let rounds = u32::try_from(behind / lane.ends.len()).unwrap_or(u32::MAX);
        let end = lane.ends.iter().nth(behind % lane.ends.len()).map_or(now, |&(end, _)| end.max(now));
        // Behind one round of those that run, those ahead take as long as they do on average.
        let around = lane.around(priority, rank);
        let mean = if around.shorter > 0.0 { around.shorter_area / around.shorter } else { 0.0 };
        end + Duration::from_millis(whole_millis(mean)).saturating_mul(rounds)
    }

    /// A free card of another kind on which the job could run.
    fn idle_instead<'a>(
        &self,
        view: &ClusterView<'a>,
        facts: &Facts,
        chosen: &Kind,
    ) -> Option<(&'a Kind, f64)> {
        let lacking = view.lacking(&facts.request);
        let kinds = view.slots.kinds().iter().filter(|(kind, offer)| {
            *kind != chosen && facts.fits(view, kind) && offer.has_free_beside(&lacking)
        });
        kinds.map(|(kind, _)| (kind, facts.takes(view, kind))).min_by(|a, b| a.1.total_cmp(&b.1))
    }

    /// What is expected of a job that begins on such a card of an agent, and why it does.
    pub(super) fn expected_of(
        &self,
        now: Time,
        view: &ClusterView<'_>,
        job: JobId,
        chosen: &Kind,
        agent: AgentId,
    ) -> Option<Expected> {
        let seat = self.plan.seats.get(&job)?;
        let facts = &seat.facts;
        let others = view.slots.kinds().keys().filter(|kind| *kind != chosen && facts.fits(view, kind));
        let options: Vec<ChoiceOption> = std::iter::once(chosen)
            .chain(others)
            .filter_map(|kind| self.option(now, view, facts, kind))
            .collect();
        let takes = options.first().map_or(Duration::ZERO, |chosen| chosen.takes);
        let made_way = self.plan.made_way.get(&job).copied();
        let choice = Choice { made_way, overdue: now >= seat.overdue_at, options };
        let is_choice = choice.options.len() > 1 || choice.made_way.is_some() || choice.overdue;
        Some(Expected {
            choice: is_choice.then_some(choice),
            warm: facts.holders(view).any(|holder| holder == agent),
            end: Some(now + takes),
            estimate: seat.estimate,
        })
    }

    /// What a kind of card on offer would mean for a job.
    fn option(&self, now: Time, view: &ClusterView<'_>, facts: &Facts, kind: &Kind) -> Option<ChoiceOption> {
        let offer = view.slots.kinds().get(kind)?;
        let (total, free) = offer.without(&view.lacking(&facts.request));
        let at = self.plan.find(kind)?;
        let cards = f64::from(facts.request.gpus);
        let takes = facts.takes(view, kind);
        let rank = whole_millis(takes * cards.sqrt());
        let millis = |span: f64| Duration::from_millis(whole_millis(span));
        let count = |cards: usize| u32::try_from(cards).unwrap_or(u32::MAX);
        // Where a card is free it waits for nothing, whatever runs beside it.
        let is_free = free >= facts.request.gpus as usize;
        let waits =
            if is_free { 0.0 } else { self.expected_wait(now, view, at, offer.total, facts.priority, rank) };
        Some(ChoiceOption {
            device: kind.device().to_owned(),
            free: count(free),
            total: count(total),
            takes: millis(takes),
            waits: millis(waits),
            delays_others: millis(self.delays(at, offer.total, facts.priority, rank, takes * cards)),
            measured: view.throughput.rates.estimate(&facts.workload, kind.device()).seen > 0.0,
        })
    }
}

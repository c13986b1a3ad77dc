//! Why a job waits, and why it got the card that it has, in words for its user.

use std::cmp::Reverse;
use std::time::Duration;

use trainyard_types::{AgentId, JobId, Time};

use super::lanes::{Facts, as_rank};
use crate::core::Core;
use crate::limits::in_words;
use crate::record::{AttemptRecord, Choice, ChoiceOption, Estimate};
use crate::slots::Kind;

/// Kinds of cards that a sentence names beside the chosen one.
const NAMED: usize = 4;

/// What is known of a placement as it is made.
#[derive(Default)]
pub(crate) struct Expected {
    pub(crate) choice: Option<Choice>,
    pub(crate) warm: bool,
    pub(crate) end: Option<Time>,
    /// What was expected when the job was first thought of.
    pub(crate) estimate: Option<Estimate>,
}

/// What a waiting job is told.
pub(crate) struct Wait {
    /// Jobs that go before it in its line.
    pub(crate) ahead: usize,
    /// What it waits for.
    pub(crate) reason: String,
    /// When it is expected to start, and to end.
    pub(crate) start: Time,
    pub(crate) end: Time,
}

impl Core {
    /// What a waiting job waits for; `None` while it has no line. Costs steps in the number of users who wait.
    pub(crate) fn explain_wait(&self, now: Time, job: JobId) -> Option<Wait> {
        let seat = self.plan.seats.get(&job)?;
        let at = seat.lane?;
        let lane = &self.plan.lanes[at];
        let shares = self.active_shares(now);
        let mine = seat.rank as f64 * self.stretch(now, &seat.facts.user, shares);
        let ahead: usize = lane
            .line
            .iter()
            .map(|((user, _), line)| {
                let theirs = as_rank((mine / self.stretch(now, user, shares)).ceil());
                line.rank(&(Reverse(seat.facts.priority), theirs, job))
            })
            .sum();
        let kind = &self.plan.kinds[at];
        let takes = self.takes(&seat.facts, kind);
        let mut reason = format!("waits for a {}, where it takes about {}", kind.device(), about(takes));
        match ahead {
            0 => {}
            1 => reason.push_str("; 1 job is ahead"),
            _ => reason.push_str(&format!("; {ahead} jobs are ahead")),
        }
        if let Some((other, longer)) = self.idle_instead(&seat.facts, kind) {
            let (other, longer) = (other.device(), about(longer));
            reason.push_str(&format!("; a {other} is free, but would take {longer}"));
        }
        reason.push_str(&self.left_out(&seat.facts.request));
        if self.plan.is_promised(job) {
            reason.push_str("; a job makes way for it");
        }
        let start = self.expected_start(now, at, ahead, seat.facts.priority, seat.rank);
        Some(Wait { ahead, reason, start, end: start + Duration::from_millis(as_rank(takes)) })
    }

    /// When the card is free that comes after those that the jobs ahead take.
    fn expected_start(&self, now: Time, at: usize, ahead: usize, priority: i32, rank: u64) -> Time {
        let lane = &self.plan.lanes[at];
        let free = self.slots.kinds().get(&self.plan.kinds[at]).map_or(0, |offer| offer.free.len());
        let Some(behind) = ahead.checked_sub(free) else { return now };
        if lane.ends.is_empty() {
            return now;
        }
        let rounds = u32::try_from(behind / lane.ends.len()).unwrap_or(u32::MAX);
        let end = lane.ends.iter().nth(behind % lane.ends.len()).map_or(now, |&(end, _)| end.max(now));
        // Behind one round of those that run, those ahead take as long as they do on average.
        let around = lane.around(priority, rank);
        let mean = if around.shorter > 0.0 { around.shorter_area / around.shorter } else { 0.0 };
        end + Duration::from_millis(as_rank(mean)).saturating_mul(rounds)
    }

    /// A free card of another kind on which the job could run.
    fn idle_instead(&self, facts: &Facts, chosen: &Kind) -> Option<(&Kind, f64)> {
        let lacking = self.lacking(&facts.request);
        let kinds = self.slots.kinds().iter().filter(|(kind, offer)| {
            *kind != chosen && self.fits(facts, kind) && offer.has_free_beside(&lacking)
        });
        kinds.map(|(kind, _)| (kind, self.takes(facts, kind))).min_by(|a, b| a.1.total_cmp(&b.1))
    }

    /// What is expected of a job that begins on such a card of an agent, and why it does.
    pub(crate) fn expect(&self, now: Time, job: JobId, chosen: &Kind, agent: AgentId) -> Option<Expected> {
        let seat = self.plan.seats.get(&job)?;
        let facts = &seat.facts;
        let others = self.slots.kinds().keys().filter(|kind| *kind != chosen && self.fits(facts, kind));
        let options: Vec<ChoiceOption> =
            std::iter::once(chosen).chain(others).filter_map(|kind| self.option(now, facts, kind)).collect();
        let takes = options.first().map_or(Duration::ZERO, |chosen| chosen.takes);
        let made_way = self.plan.made_way.get(&job).copied();
        let choice = Choice { made_way, overdue: now >= seat.overdue_at, options };
        let is_choice = choice.options.len() > 1 || choice.made_way.is_some() || choice.overdue;
        Some(Expected {
            choice: is_choice.then_some(choice),
            warm: self.holders(facts).any(|holder| holder == agent),
            end: Some(now + takes),
            estimate: seat.estimate,
        })
    }

    /// What a kind of card on offer would mean for a job.
    fn option(&self, now: Time, facts: &Facts, kind: &Kind) -> Option<ChoiceOption> {
        let offer = self.slots.kinds().get(kind)?;
        let (total, free) = offer.without(&self.lacking(&facts.request));
        let at = self.plan.find(kind)?;
        let cards = f64::from(facts.request.gpus);
        let takes = self.takes(facts, kind);
        let rank = as_rank(takes * cards.sqrt());
        let millis = |span: f64| Duration::from_millis(as_rank(span));
        let count = |cards: usize| u32::try_from(cards).unwrap_or(u32::MAX);
        // Where a card is free it waits for nothing, whatever runs beside it.
        let is_free = free >= facts.request.gpus as usize;
        let waits =
            if is_free { 0.0 } else { self.expected_wait(now, at, offer.total, facts.priority, rank) };
        Some(ChoiceOption {
            device: kind.device().to_owned(),
            free: count(free),
            total: count(total),
            takes: millis(takes),
            waits: millis(waits),
            delays_others: millis(self.delays(at, offer.total, facts.priority, rank, takes * cards)),
            measured: self.learned.rates.estimate(&facts.workload, kind.device()).seen > 0.0,
        })
    }
}

/// A placement in one line; `None` where there was nothing to choose.
pub(crate) fn why_here(attempt: &AttemptRecord) -> Option<String> {
    let choice = attempt.choice.as_ref()?;
    let (chosen, others) = choice.options.split_first()?;
    let takes = |option: &ChoiceOption| about(option.takes.as_secs_f64() * 1000.0);
    let mut words = format!("why here: about {} on a {}", takes(chosen), chosen.device);
    for other in others.iter().take(NAMED) {
        let is_free = if other.free == 0 { "busy" } else { "free" };
        words.push_str(&format!("; {} on a {} ({is_free})", takes(other), other.device));
    }
    if attempt.warm {
        words.push_str("; its data set is decoded there");
    }
    if choice.overdue {
        words.push_str("; it had waited for as long as it must");
    }
    if let Some(victim) = choice.made_way {
        words.push_str(&format!("; job {victim} made way"));
    }
    Some(words)
}

/// To the minute, if it is longer than that.
pub(super) fn about(millis: f64) -> String {
    let seconds = Duration::from_millis(as_rank(millis)).as_secs_f64().round().max(1.0);
    let whole = if seconds > 60.0 { (seconds / 60.0).round() * 60.0 } else { seconds };
    in_words(Duration::from_secs_f64(whole))
}

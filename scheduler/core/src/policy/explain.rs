//! Why a job waits, and why it got the card that it has, in words for its user.

use std::time::Duration;

use trainyard_types::{JobId, Time};

use super::lanes::{Facts, as_rank};
use crate::core::Core;
use crate::limits::in_words;
use crate::slots::Kind;

/// Jobs of one user that are counted one by one; who is behind so many waits for long.
const COUNTED: usize = 1000;
/// Kinds of cards that an explanation names beside the chosen one.
const NAMED: usize = 4;

impl Core {
    /// How many jobs go before a waiting one in its line, and what it waits for; `None` while it has no line.
    pub(crate) fn explain_wait(&self, now: Time, job: JobId) -> Option<(usize, String, Option<Time>)> {
        let seat = self.plan.seats.get(&job)?;
        let at = seat.lane?;
        let lane = &self.plan.lanes[at];
        let mean = self.mean_share(now);
        let mine = seat.rank as f64 * self.stretch(now, &seat.facts.user, mean);
        let ahead: usize = lane
            .line
            .iter()
            .map(|(user, line)| {
                let stretch = self.stretch(now, user, mean);
                let goes_before = |place: &&super::lanes::Place| {
                    (place.0, place.1 as f64 * stretch) < (std::cmp::Reverse(seat.facts.priority), mine)
                };
                line.iter().take_while(goes_before).take(COUNTED).count()
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
        if self.plan.is_promised(job) {
            reason.push_str("; a job makes way for it");
        }
        Some((ahead, reason, self.estimated_start(now, at, ahead)))
    }

    /// When the card is free that comes after those that the jobs ahead take.
    fn estimated_start(&self, now: Time, at: usize, ahead: usize) -> Option<Time> {
        let lane = &self.plan.lanes[at];
        let mut ends: Vec<Time> = lane.running.values().map(|runner| runner.end.max(now)).collect();
        ends.sort();
        if ends.is_empty() {
            return Some(now);
        }
        let rounds = u32::try_from(ahead / ends.len()).unwrap_or(u32::MAX);
        // Behind one round of those that run, those ahead take as long as they do on average.
        let mean = lane.load_mean().unwrap_or_default();
        Some(ends[ahead % ends.len()] + mean.saturating_mul(rounds))
    }

    /// A free card of another kind on which the job could run.
    fn idle_instead(&self, facts: &Facts, chosen: &Kind) -> Option<(&Kind, f64)> {
        let kinds = self.slots.kinds().iter().filter(|(kind, offer)| {
            *kind != chosen && kind.satisfies(&facts.request) && !offer.free.is_empty()
        });
        kinds.map(|(kind, _)| (kind, self.takes(facts, kind))).min_by(|a, b| a.1.total_cmp(&b.1))
    }

    /// Why a job begins on this kind of card, and what else was considered.
    pub(crate) fn explain_choice(&self, job: JobId, chosen: &Kind) -> Option<String> {
        let facts = &self.plan.seats.get(&job)?.facts;
        let mut words =
            format!("why here: about {} on a {}", about(self.takes(facts, chosen)), chosen.device());
        let alone = words.len();
        let others = self.slots.kinds().iter().filter(|(kind, _)| *kind != chosen);
        for (kind, offer) in others.filter(|(kind, _)| kind.satisfies(&facts.request)).take(NAMED) {
            let is_free = if offer.free.is_empty() { "busy" } else { "free" };
            let takes = about(self.takes(facts, kind));
            words.push_str(&format!("; {takes} on a {} ({is_free})", kind.device()));
        }
        if let Some(victim) = self.plan.made_way.get(&job) {
            words.push_str(&format!("; job {victim} made way"));
        }
        // Where there was nothing to choose, there is nothing to say.
        (words.len() > alone).then_some(words)
    }
}

/// To the minute, if it is longer than that.
pub(super) fn about(millis: f64) -> String {
    let seconds = Duration::from_millis(as_rank(millis)).as_secs_f64().round().max(1.0);
    let whole = if seconds > 60.0 { (seconds / 60.0).round() * 60.0 } else { seconds };
    in_words(Duration::from_secs_f64(whole))
}

//! Where each waiting job stands: the kind of GPU on which it costs least, its own time and that of others together.

use std::time::Duration;

use trainyard_types::{JobId, Time};

use super::facts::Facts;
use super::queues::Seat;
use super::{AVOIDED_COST, CROWDING_MEMORY, CROWDING_WORTH, FRESH, FinishTime, PATIENCE_FACTOR};
use crate::policy::ClusterView;
use crate::record::Estimate;
use crate::spans::whole_millis;

impl FinishTime {
    /// Finds the line of jobs that have none, and thinks again of those that were not thought of for
    /// longest: `thoughts` jobs in all.
    pub(super) fn think(&mut self, now: Time, view: &ClusterView<'_>, thoughts: usize) {
        self.plan.together.clear();
        let mut lanes = Vec::new();
        for (kind, offer) in view.slots.kinds() {
            let at = self.plan.lane(kind);
            self.plan.lanes[at].settle(now, offer.total, CROWDING_MEMORY);
            self.plan.lanes[at].age(now);
            lanes.push((at, offer.total));
        }
        if self.plan.standing.is_empty() && self.plan.seats.is_empty() {
            return;
        }
        self.plan.grow_impatient(now);
        let mut left = thoughts;
        while left > 0
            && let Some((_, id)) = self.plan.standing.pop_first()
        {
            left -= 1;
            let Some(job) = view.jobs.get(&id) else { continue };
            let facts = Facts::of(now, view, job);
            self.plan.gangs += usize::from(facts.request.gpus > 1);
            let overdue_at = self.overdue_at(view, &facts);
            self.plan.patience.insert((overdue_at, id));
            let seat = Seat {
                facts,
                lane: None,
                rank: 0,
                area: 0.0,
                stamp: 0,
                thought: now,
                overdue_at,
                estimate: None,
            };
            self.seat(now, view, id, seat, &lanes);
        }
        let newest = self.plan.stamp;
        while left > 0
            && let Some(&(stamp, id)) = self.plan.by_age.first()
            && stamp <= newest
            && self.plan.seats.get(&id).is_none_or(|seat| now.since(seat.thought) >= FRESH)
        {
            left -= 1;
            if let Some(seat) = self.plan.stand_up(id) {
                self.seat(now, view, id, seat, &lanes);
            }
        }
        self.plan.grow_impatient(now);
    }

    /// When a job has waited for as long as it must.
    fn overdue_at(&self, view: &ClusterView<'_>, facts: &Facts) -> Time {
        let kinds = view.slots.kinds().keys().filter(|kind| facts.fits(view, kind));
        let shortest = kinds.map(|kind| whole_millis(facts.takes(view, kind))).min().unwrap_or(0);
        let own = Duration::from_millis(shortest).saturating_mul(PATIENCE_FACTOR);
        let patience = view.config.patience.saturating_add(own);
        facts.since + patience.saturating_sub(facts.waited)
    }

    /// Gives a job the seat where it costs least: its own time to the end, and what it takes from others.
    fn seat(
        &mut self,
        now: Time,
        view: &ClusterView<'_>,
        id: JobId,
        mut seat: Seat,
        lanes: &[(usize, usize)],
    ) {
        seat.thought = now;
        let cards = f64::from(seat.facts.request.gpus);
        let mut best: Option<(f64, usize, u64, f64)> = None;
        let mut expected = None;
        for &(at, total) in lanes {
            let kind = &self.plan.kinds[at];
            if !seat.facts.fits(view, kind) {
                continue;
            }
            let takes = seat.facts.takes(view, kind);
            let (rank, area) = (whole_millis(takes * cards.sqrt()), takes * cards);
            let wait = self.expected_wait(now, view, at, total, seat.facts.priority, rank);
            let mut cost = takes + wait + self.delays(at, total, seat.facts.priority, rank, area);
            let moves_here = self.plan.moving.get(&id).is_some_and(|&(to, _)| to == at)
                && view.slots.kinds().get(kind).is_some_and(|offer| !offer.free.is_empty());
            if seat.facts.is_avoided(view, kind) {
                cost += takes + AVOIDED_COST.as_secs_f64() * 1000.0;
            }
            if seat.facts.request.gpus > 1 {
                cost += self.together_in(now, view, at, &seat.facts.request, takes);
            }
            if moves_here {
                cost = 0.0;
            }
            if best.is_none_or(|(least, ..)| cost < least) {
                best = Some((cost, at, rank, area));
                expected = Some((wait, takes));
            }
        }
        if seat.estimate.is_none() {
            seat.estimate = expected.map(|(wait, takes)| {
                let start = now + Duration::from_millis(whole_millis(wait));
                Estimate { made: now, start, end: start + Duration::from_millis(whole_millis(takes)) }
            });
        }
        seat.lane = best.map(|(_, at, ..)| at);
        (seat.rank, seat.area) = best.map_or((0, 0.0), |(_, _, rank, area)| (rank, area));
        self.plan.sit_down(id, seat);
    }

    /// How long a job of this priority and length is expected to wait in a line, in milliseconds.
    pub(super) fn expected_wait(
        &self,
        now: Time,
        view: &ClusterView<'_>,
        at: usize,
        total: usize,
        priority: i32,
        rank: u64,
    ) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a count of cards")]
        let cards = total.max(1) as f64;
        let lane = &self.plan.lanes[at];
        let (waiting, running) = (lane.around(priority, rank), lane.running_load.around(rank));
        let shorter = waiting.shorter + running.shorter;
        let spread = (cards - 1.0) / (2.0 * shorter.max(1.0));
        let flow = (waiting.shorter_area + running.shorter_area) / cards * (1.0 - spread).max(0.0);
        let flow = if shorter < cards { 0.0 } else { flow };
        // However short it is, it waits until cards become free.
        let free = view.slots.kinds().get(&self.plan.kinds[at]).map_or(0, |offer| offer.free.len());
        let ahead = usize::try_from(whole_millis(waiting.shorter)).unwrap_or(usize::MAX);
        let next = ahead.checked_sub(free).and_then(|behind| lane.nth_end(behind));
        flow.max(next.map_or(0.0, |end| end.since(now).as_secs_f64() * 1000.0))
    }

    /// What a job in a line costs others, in milliseconds of waiting: those in it, and those that are yet to come.
    pub(super) fn delays(&self, at: usize, total: usize, priority: i32, rank: u64, area: f64) -> f64 {
        let lane = &self.plan.lanes[at];
        #[expect(clippy::cast_precision_loss, reason = "a count of cards")]
        let cards = total.max(1) as f64;
        let (waiting, running) = (lane.around(priority, rank), lane.running_load.around(rank));
        let shorter = waiting.shorter + running.shorter;
        let longer = waiting.longer + running.longer;
        let delayed = longer.min(shorter + longer + 1.0 - cards).max(0.0);
        area * (delayed / cards + CROWDING_WORTH * lane.crowding)
    }
}

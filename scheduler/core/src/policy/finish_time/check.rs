//! What always holds of the lines, for [`crate::invariants`].

use std::cmp::Reverse;
use std::collections::BTreeSet;

use trainyard_types::JobId;

use super::FinishTime;
use super::queues::Load;
use crate::policy::ClusterView;

impl FinishTime {
    /// Whether the lines are what the queue and the jobs say: every ready job stands or sits once, and what is added
    /// up of a line is the sum over those in it.
    pub(super) fn plan_is_sound(&self, view: &ClusterView<'_>) -> bool {
        let ready: BTreeSet<JobId> = view
            .queue
            .ready()
            .values()
            .flat_map(|class| class.values())
            .flat_map(|users| users.values())
            .flatten()
            .copied()
            .collect();
        let known: BTreeSet<JobId> =
            self.plan.seats.keys().copied().chain(self.plan.standing.iter().map(|&(_, job)| job)).collect();
        let is_once = known.len() == self.plan.seats.len() + self.plan.standing.len();
        is_once && known == ready && self.lines_are_sound() && self.promises_are_sound(view)
    }

    fn lines_are_sound(&self) -> bool {
        let seats = &self.plan.seats;
        let gangs = seats.values().filter(|seat| seat.facts.request.gpus > 1).count();
        let by_age: BTreeSet<(u64, JobId)> = seats.iter().map(|(&job, seat)| (seat.stamp, job)).collect();
        let lines = self.plan.lanes.iter().enumerate().all(|(at, lane)| {
            let of_lane = || seats.iter().filter(|(_, seat)| seat.lane == Some(at));
            let mut waiting = Load::default();
            of_lane().for_each(|(_, seat)| waiting.add(seat.rank, seat.area));
            let in_line = of_lane().all(|(&job, seat)| {
                let place = (Reverse(seat.facts.priority), seat.rank, job);
                lane.line.get(&seat.facts.line()).is_some_and(|line| line.contains(&place))
            });
            let in_lines: usize = lane.line.values().map(crate::state::ranked::Ranked::len).sum();
            let ends: BTreeSet<_> = lane.running.iter().map(|(&job, runner)| (runner.end, job)).collect();
            let counted = lane.around(i32::MIN, u64::MAX).shorter;
            in_line
                && in_lines == of_lane().count()
                && lane.waiting == in_lines
                && (counted - waiting.total().0).abs() < 1e-6
                && ends == lane.ends
                && (lane.running_load.total().0 - lane.running.len() as f64).abs() < 1e-6
        });
        gangs == self.plan.gangs && by_age == self.plan.by_age && lines
    }

    /// What was promised ends with those whom it is about.
    fn promises_are_sound(&self, view: &ClusterView<'_>) -> bool {
        let is_live = |job: &JobId| view.jobs.get(job).is_some_and(|job| job.live_attempt().is_some());
        let holds = |job: &JobId| {
            view.jobs.get(job).and_then(|job| job.live_attempt()).is_some_and(|attempt| attempt.holds_slots())
        };
        let is_over = |job: &JobId| view.jobs.get(job).is_none_or(|job| job.state.is_final());
        let runs = |job: &JobId| self.plan.lanes.iter().any(|lane| lane.running.contains_key(job));
        self.plan.making_way.keys().all(is_live)
            && !self.plan.moving.keys().any(is_over)
            && self.plan.made_way.keys().all(|job| self.plan.seats.contains_key(job))
            && self.plan.lanes.iter().flat_map(|lane| lane.running.keys()).all(holds)
            && view
                .jobs
                .keys()
                .filter(|job| holds(job))
                .all(|job| runs(job) || runs_on_nothing_known(view, *job))
    }
}

/// A live job whose card its agent does not list any more is in no line.
fn runs_on_nothing_known(view: &ClusterView<'_>, job: JobId) -> bool {
    let attempt = view.jobs.get(&job).and_then(|job| job.live_attempt());
    attempt.is_some_and(|attempt| view.kind_of(attempt).is_none())
}

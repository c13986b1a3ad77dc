//! The policy `finish-time`: every job finishes as early as this mix of cards allows.
//!
//! 1. **Where.** Each waiting job stands in the line of one kind of card: where its own time to the end
//!    (waiting included) plus the delay that it causes others is least (`think`). A card is worth
//!    more the longer its line has been over the last hours, so that small jobs keep off cards which only
//!    large ones can use. A job may therefore wait although another card is idle; the reason is that it will
//!    be done earlier where it waits.
//! 2. **Who.** When a card is free, the job of its line goes first that takes the shortest time, of the
//!    highest priority (`choose`). How long is what jobs of late tell ([`crate::throughput`]), never
//!    what the user says. Jobs of a user who has had more than [`SHARE_SLACK`] times what the others that are
//!    active have had on average count as longer by as much (`share`), without a limit: whoever goes on
//!    taking more yields to everybody in the end.
//! 3. **Nobody starves.** A job that has waited for longer than `patience` plus [`PATIENCE_FACTOR`] times its
//!    own length is overdue: it goes before every job that came later, on every card that would do, and is
//!    not preempted. So what comes more than that time after a job never delays it.
//! 4. **Preemption** (`reconsider`) happens right after a checkpoint of the job that makes way, for
//!    a job that is much shorter, or when a much faster card is free, and never when any free card would do
//!    for the waiting job. A job that was preempted is left alone for [`LEFT_ALONE`], twice as long after the
//!    second time, and so on, and no job is preempted twice in a row. It is charged to nobody's retries.
//! 5. **Several cards** of one agent are kept together for a job that needs them; others may use them as long
//!    as they will be done by then, and jobs whose displacement costs less than the wait make way.
//!
//! A decision thinks of at most [`THOUGHTS`] jobs, those first that were not thought of for longest: with a
//! short queue all of them each time. Nothing is done when nothing has changed.

mod check;
mod explain;
mod facts;
mod gang;
mod preempt;
mod queues;
mod running;
mod score;
mod select;
mod share;
mod starvation;
#[cfg(test)]
mod tests;

use std::time::Duration;

use trainyard_types::{AgentId, DeviceKind, JobId, Time};

use self::queues::Plan;
use super::{Change, ClusterView, Expected, Fault, Placement, PlacementPolicy, Preemption, Wait};
use crate::record::JobRecord;
use crate::state::queue::Request;
use crate::state::slots::Kind;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct FinishTime {
    plan: Plan,
}

impl PlacementPolicy for FinishTime {
    fn observe(&mut self, now: Time, view: &ClusterView<'_>, change: &Change<'_>) {
        let priority = |id| view.jobs.get(&id).map_or(0, |job: &JobRecord| job.spec.priority);
        match *change {
            Change::Ready { came, went } => {
                for &job in went {
                    self.plan.leave(job, priority(job));
                }
                for &job in came {
                    self.plan.arrive(job, priority(job));
                }
            }
            Change::Placed(job) => {
                self.plan.leave(job, priority(job));
                self.follow_runner(now, view, job);
            }
            Change::Progress(job) => self.follow_runner(now, view, job),
            Change::Released(job) => self.unfollow_runner(view, job),
        }
    }

    fn begin_round(&mut self, now: Time, view: &ClusterView<'_>) {
        self.prepare(now, view);
    }

    fn next(&mut self, now: Time, view: &ClusterView<'_>) -> Option<Placement> {
        let placement = self.choose(now, view);
        if placement.is_none() {
            self.plan_second_thought(now, view);
        }
        placement
    }

    fn on_checkpoint(&mut self, now: Time, view: &ClusterView<'_>, job: JobId) -> Option<Preemption> {
        self.reconsider(now, view, job)
    }

    fn wake_at(&self) -> Option<Time> {
        self.plan.rethink
    }

    fn is_preempting(&self, job: JobId) -> bool {
        self.plan.makes_way(job)
    }

    fn expected_end(&self, job: JobId) -> Option<Time> {
        self.plan.expected_end(job)
    }

    fn expect(&self, now: Time, view: &ClusterView<'_>, job: JobId, kind: &Kind, agent: AgentId) -> Expected {
        self.expected_of(now, view, job, kind, agent).unwrap_or_default()
    }

    fn explain_wait(&self, now: Time, view: &ClusterView<'_>, job: JobId) -> Option<Wait> {
        self.wait_of(now, view, job)
    }

    fn check(&self, view: &ClusterView<'_>) -> Result<(), Fault> {
        // A job may wait although a slot is free, with a reason.
        if self.plan_is_sound(view) { Ok(()) } else { Err(Fault::State) }
    }
}

/// Jobs that one decision thinks of anew.
pub const THOUGHTS: usize = 384;
/// Jobs that are thought of when a checkpoint is stored or a job arrives while nothing is free.
const AFTERTHOUGHTS: usize = 8;
/// When more jobs have come than one decision thinks of, the next ones are thought of after this.
const NEXT_THOUGHT: Duration = Duration::from_millis(5);
/// A job counts as overdue after `patience` and so many times its own length.
pub const PATIENCE_FACTOR: u32 = 4;
/// A user's jobs are put back when it has had more than so many times the others' mean share.
pub const SHARE_SLACK: f64 = 2.0;
/// What the others are taken to have had at least, in GPU-time for each of their weight: small differences
/// are nobody's debt.
pub const SHARE_FLOOR: Duration = Duration::from_secs(3600);
/// How long a job is left alone after it was preempted the first time.
pub const LEFT_ALONE: Duration = Duration::from_secs(3 * 3600);
/// What each waiting job of a line adds to the worth of one of its cards' time.
const CROWDING_WORTH: f64 = 16.0;
/// Over which time that is averaged.
const CROWDING_MEMORY: Duration = Duration::from_secs(6 * 3600);
/// Machines with a data set that are asked for their cards.
const HOLDERS_ASKED: usize = 64;
/// What was thought of a job, or worked out of a line, holds for so long: events that come faster are not worth
/// thinking everything over.
const FRESH: Duration = Duration::from_secs(1);
/// What it counts, beside the job's own length, that a kind of card is only where the job ended badly.
const AVOIDED_COST: Duration = Duration::from_secs(600);
/// When a job waits although a free card would do, that is thought over again after this.
const SECOND_THOUGHT: Duration = Duration::from_secs(60);

/// Whether it counts against a user's limit of GPUs.
fn is_gpu(request: &Request) -> bool {
    request.device == DeviceKind::Gpu
}

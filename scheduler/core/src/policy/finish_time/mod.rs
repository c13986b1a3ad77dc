//! The policy `finish-time`: every job finishes as early as this mix of GPUs allows.
//!
//! 1. **Where** (`score`). Each waiting job is in the queue of one kind of GPU: where its own time to the end,
//!    waiting included, plus the delay that it causes others is least. The time of a GPU costs more the longer its
//!    queue has been over the last hours, so that small jobs keep off GPUs which only large ones can use. A job may
//!    therefore wait although another GPU is idle: it will be done earlier where it waits.
//! 2. **Who** (`select`). When a GPU is free, the job of its queue goes first that has the shortest runtime, of the
//!    highest priority. Runtimes follow from what jobs of late told ([`crate::throughput`]), never from what the
//!    user says. Jobs of a user who has had more than [`SHARE_SLACK`] times what the other active users have had on
//!    average count as longer by as much (`share`), without a limit: whoever goes on taking more yields to everybody
//!    in the end.
//! 3. **Nobody starves** (`starvation`). A job that has waited for longer than `patience` plus [`PATIENCE_FACTOR`]
//!    times its own runtime goes before every job that came later, on every GPU that would do, and is not preempted.
//!    So what comes more than that time after a job never delays it.
//! 4. **Preemption** (`preempt`) happens right after a checkpoint of the job that is stopped: for a job that is much
//!    shorter, or when a much faster GPU is free. It never happens when any free GPU would do for the waiting job. A
//!    job that was preempted is protected for [`PROTECTED_FOR`], twice as long after the second time, and so on, and
//!    no job is preempted twice in a row. A preemption is charged to nobody's retries.
//! 5. **Gangs** (`gang`) need several GPUs of one agent, which are reserved for them. Others may use these as long as
//!    they will be done by then. Jobs are preempted for a gang if that costs less than the wait.
//!
//! A round scores at most [`SCORE_BUDGET`] jobs, those with the oldest scores first: with a short queue all of them
//! each time. Nothing is done when nothing has changed.

mod check;
mod explain;
mod facts;
mod gang;
mod gpu_queue;
mod load;
mod preempt;
mod queues;
mod reservations;
mod running;
mod running_preemptions;
mod score;
mod select;
mod share_penalty;
mod starvation;
#[cfg(test)]
mod tests;
mod upcoming;

use std::time::Duration;

use trainyard_types::{AgentId, DeviceKind, JobId, Time};

use self::queues::Queues;
use self::reservations::Reservations;
use self::running_preemptions::Preemptions;
use self::share_penalty::Shares;
use super::{
    Change, ClusterView, Expected, Fault, Placement, PlacementPolicy, PlanOption, Preemption, Upcoming, Wait,
};
use crate::record::JobRecord;
use crate::state::queue::Request;
use crate::state::slots::Kind;

/// The policy: see the module.
#[derive(Debug, Default)]
pub(super) struct FinishTime {
    queues: Queues,
    preemptions: Preemptions,
    /// GPUs that are reserved for gangs.
    reservations: Reservations,
    /// When a round is due although nothing has changed.
    replan_at: Option<Time>,
}

impl FinishTime {
    /// A job waits no more.
    fn leave(&mut self, job: JobId) {
        self.queues.leave(job);
        self.preemptions.leave(job);
    }
}

fn priority_of(view: &ClusterView<'_>, job: JobId) -> i32 {
    view.job(job).map_or(0, JobRecord::priority)
}

impl PlacementPolicy for FinishTime {
    fn observe(&mut self, now: Time, view: &ClusterView<'_>, change: &Change<'_>) {
        match *change {
            Change::Ready { came, went } => {
                for &job in went {
                    self.leave(job);
                }
                for &job in came {
                    self.queues.arrive(job, priority_of(view, job));
                }
            }
            Change::Placed(job) => {
                self.leave(job);
                self.track_runner(now, view, job);
            }
            Change::Progress(job) => self.track_runner(now, view, job),
            Change::Released(job) => self.untrack_runner(view, job),
        }
    }

    fn begin_round(&mut self, now: Time, view: &ClusterView<'_>) {
        self.prepare(now, view);
    }

    fn next(&mut self, now: Time, view: &ClusterView<'_>) -> Option<Placement> {
        let placement = self.choose(now, view);
        if placement.is_none() {
            self.schedule_replan(now, view);
        }
        placement
    }

    fn on_checkpoint(&mut self, now: Time, view: &ClusterView<'_>, job: JobId) -> Option<Preemption> {
        self.consider_preemption(now, view, job)
    }

    fn wake_at(&self) -> Option<Time> {
        self.replan_at
    }

    fn is_being_preempted(&self, job: JobId) -> bool {
        self.preemptions.is_preempting(job)
    }

    fn expected_end(&self, job: JobId) -> Option<Time> {
        self.queues.expected_end(job)
    }

    fn expect(&self, now: Time, view: &ClusterView<'_>, job: JobId, kind: &Kind, agent: AgentId) -> Expected {
        self.expected_of(now, view, job, kind, agent).unwrap_or_default()
    }

    fn explain_wait(&self, now: Time, view: &ClusterView<'_>, job: JobId) -> Option<Wait> {
        self.wait_of(now, view, job)
    }

    fn plan(
        &self,
        now: Time,
        view: &ClusterView<'_>,
        job: &JobRecord,
        request: &Request,
    ) -> Option<Vec<PlanOption>> {
        Some(self.plan_of(now, view, job, request))
    }

    fn share_penalties(&self, now: Time, view: &ClusterView<'_>, users: &[&str]) -> Vec<f64> {
        let shares = Shares::active(now, view);
        users.iter().map(|user| shares.penalty_of(now, view, user)).collect()
    }

    fn upcoming(&self, now: Time, view: &ClusterView<'_>) -> Vec<Upcoming> {
        self.upcoming_jobs(now, view)
    }

    fn check(&self, view: &ClusterView<'_>) -> Result<(), Fault> {
        // A job may wait although a slot is free, with a reason.
        if self.is_sound(view) { Ok(()) } else { Err(Fault::State) }
    }
}

/// Jobs that one round scores.
pub const SCORE_BUDGET: usize = 384;
/// Jobs that are scored when a checkpoint is stored, or when a job arrives while nothing is free.
const SMALL_SCORE_BUDGET: usize = 8;
/// When more jobs have come than one round scores, the next round is due after this.
const NEXT_SCORE_AFTER: Duration = Duration::from_millis(5);
/// A job starves after `patience` and so many times its own runtime.
pub const PATIENCE_FACTOR: u32 = 4;
/// A user's jobs get a share penalty when the user has had more than so many times the others' mean share.
pub const SHARE_SLACK: f64 = 2.0;
/// What the others are taken to have had at least, in GPU-time for each of their weight: small differences
/// are nobody's debt.
pub const SHARE_FLOOR: Duration = Duration::from_secs(3600);
/// How long a job is protected after it was preempted the first time.
pub const PROTECTED_FOR: Duration = Duration::from_secs(3 * 3600);
/// What each waiting job for each GPU of a queue adds to the cost of the time of such a GPU.
const QUEUE_PRESSURE_COST: f64 = 16.0;
/// Over which time the queue pressure is averaged.
const QUEUE_PRESSURE_MEMORY: Duration = Duration::from_secs(6 * 3600);
/// Agents with a decoded data set whose GPUs are looked at.
const HOLDERS_ASKED: usize = 64;
/// A score, and what is left of running jobs, holds for so long: events that come faster are not worth computing
/// everything anew.
const FRESH: Duration = Duration::from_secs(1);
/// What it costs, beside the job's own runtime, that a kind of GPU is only where the job ended badly.
const AVOIDED_COST: Duration = Duration::from_secs(600);
/// When a job waits although a free GPU would do, the next round is due after this.
const REPLAN_AFTER: Duration = Duration::from_secs(60);

/// Whether it counts against a user's limit of GPUs.
fn is_gpu(request: &Request) -> bool {
    request.device == DeviceKind::Gpu
}

//! What must hold over time, seen from outside: one small check per promise.

use std::collections::{BTreeMap, BTreeSet};

use trainyard_scheduler_core::invariants::Broken;
use trainyard_scheduler_core::{Command, Core, CoreConfig, EventBody, JobRecord};
use trainyard_types::{AgentId, Assignment, AttemptId, EndReason, JobId, JobState};

use crate::fairness::gpus_of;
use crate::store::Store;

/// A promise that was not kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// The core contradicts itself.
    #[error("the core is inconsistent: {0}")]
    Core(#[from] Broken),
    /// A write that does not follow the stored one.
    #[error("job {job} is written at revision {revision}, which does not follow what is stored")]
    Revision {
        job: JobId,
        /// The revision that was written.
        revision: u64,
    },
    /// An event is missing or doubled.
    #[error("event {cursor} of job {job} does not follow the stored ones")]
    EventGap {
        job: JobId,
        /// The cursor of the event.
        cursor: u64,
    },
    /// A job knows more events than are stored, or fewer.
    #[error("job {0} does not know its newest event")]
    EventCount(JobId),
    /// A final state was left other than by a retry, or results changed.
    #[error("job {0} had ended and was changed")]
    FinalStateLeft(JobId),
    /// History was changed.
    #[error("an ended attempt of job {0} was changed")]
    AttemptRewritten(JobId),
    /// An attempt was given out twice.
    #[error("attempt {0} was assigned twice")]
    AttemptReused(AttemptId),
    /// An agent was given an attempt for a slot on which another one still runs.
    #[error("attempt {new} was assigned to a slot on which {old} runs")]
    SlotBusy {
        /// The attempt that runs.
        old: AttemptId,
        /// The attempt that was assigned.
        new: AttemptId,
    },
    /// Promise 1.
    #[error("job {0} was acknowledged and is not there")]
    Lost(JobId),
    /// Promise 1.
    #[error("request {0} made more than one job")]
    Doubled(String),
    /// Promise 2.
    #[error("job {0} has results of more than one attempt, or of the wrong one")]
    Results(JobId),
    /// Promise 3.
    #[error("the epochs of job {0} did not arrive complete, in order, once")]
    Metrics(JobId),
    /// Promise 3.
    #[error("attempt {0} went on over a break of its agent's connection, and was taken from it")]
    Disturbed(AttemptId),
    /// An acknowledged cancellation was forgotten.
    #[error("job {0} was cancelled and ended otherwise")]
    NotCancelled(JobId),
    /// A job was forgotten that had not ended, or whose whole history was not archived.
    #[error("job {0} expired before its history was archived")]
    ForgottenTooEarly(JobId),
    /// A user has more GPUs than it may.
    #[error("{user} uses {gpus} GPUs and may use {limit}")]
    Quota {
        user: String,
        /// GPUs in use.
        gpus: u32,
        /// GPUs that the user may use.
        limit: u32,
    },
    /// A user was passed over whose turn it was.
    #[error("job {instead} began although it was the turn of {passed_over}")]
    Unfair {
        /// Whose turn it was.
        passed_over: JobId,
        /// What began.
        instead: JobId,
    },
    /// A slot was used that nobody may use now.
    #[error("attempt {0} was placed on a slot that is drained, reserved or not available")]
    ClosedSlot(AttemptId),
    /// What is wrong with a machine was charged to a job.
    #[error("job {0} was charged for what was wrong with a machine")]
    Charged(JobId),
    /// What is wrong with a machine ended a job.
    #[error("job {0} failed because of what was wrong with a machine")]
    FailedByMachine(JobId),
    /// A job was given to an agent that had said that it lacks a path of it.
    #[error("attempt {0} was placed on an agent that lacks its data set")]
    Unseen(AttemptId),
    /// A slot is kept although its trainer has ended.
    #[error("attempt {0} holds its slot although its trainer has ended")]
    SlotHeld(AttemptId),
    /// An agent was told to prefetch that cannot.
    #[error("agent {0} was told to prefetch, and cannot")]
    CannotPrefetch(AgentId),
    /// Something is prefetched that no waiting job names.
    #[error("agent {0} was told to prefetch what no waiting job names")]
    PrefetchedForNobody(AgentId),
    /// An agent was told something else than was submitted.
    #[error("attempt {0} was given another spec than its job's")]
    WrongSpec(AttemptId),
    /// A job failed for its time limit before that was over.
    #[error("job {0} was stopped before its time limit was over")]
    StoppedTooEarly(JobId),
    /// The faults are over, and still it does not end.
    #[error("job {job} never ended; it is {state}: {reason}")]
    Stuck {
        job: JobId,
        state: JobState,
        /// The reason of that state.
        reason: String,
    },
}

/// How the reason begins of a job that every agent which could run it has said no to.
pub const NOBODY_HAS_IT: &str = "no agent that could run it can read";

/// Remembers what clients and agents were told.
#[derive(Debug, Default)]
pub struct Oracle {
    /// Whether stored times are those of one clock, so that spans between them mean something.
    one_clock: bool,
    acknowledged: BTreeMap<JobId, String>,
    cancelled: BTreeSet<JobId>,
    /// With the epochs that were done before.
    assigned: BTreeMap<AttemptId, u32>,
    /// Attempts that were preempted for something else than their job's time limit.
    preempted: BTreeSet<AttemptId>,
    /// Attempts that met a faulty machine.
    met_machine_fault: BTreeSet<AttemptId>,
}

impl Oracle {
    /// Nobody was told anything yet.
    pub fn new(one_clock: bool) -> Self {
        Self { one_clock, ..Self::default() }
    }

    /// A client was told that its job is queued.
    pub fn acknowledged(&mut self, job: JobId, request_id: &str) {
        self.acknowledged.insert(job, request_id.to_owned());
    }

    /// A client was told that its job will end.
    pub fn cancelled(&mut self, job: JobId) {
        self.cancelled.insert(job);
    }

    /// A user wants a job that had ended; that it was cancelled before counts no more.
    pub fn queued_again(&mut self, job: JobId) {
        self.cancelled.remove(&job);
    }

    /// An attempt is preempted while its job's time limit is not over. That may be heard of when it is, by which time
    /// nobody can tell the two apart.
    pub fn preempted(&mut self, attempt: AttemptId) {
        self.preempted.insert(attempt);
    }

    /// An attempt comes to a faulty machine, and will end by that.
    pub fn meets_machine_fault(&mut self, attempt: AttemptId) {
        self.met_machine_fault.insert(attempt);
    }

    /// Whatever the job is charged for, or failed of, was not a machine's.
    fn check_charges(&self, job: &JobRecord) -> Result<(), Violation> {
        let is_crash = |reason| matches!(reason, EndReason::TrainerCrash | EndReason::HostOom);
        let mut ended =
            job.attempts.iter().filter_map(|attempt| Some((attempt.id, attempt.ended.as_ref()?.reason)));
        let own = ended
            .clone()
            .filter(|(id, reason)| is_crash(*reason) && !self.met_machine_fault.contains(id))
            .count();
        if usize::try_from(job.crashes).is_ok_and(|charged| charged > own) {
            return Err(Violation::Charged(job.id));
        }
        // One that stalls again and again, and not on one machine alone, is given up.
        let gives_up =
            |reason| matches!(reason, EndReason::Stalled | EndReason::TimeLimit | EndReason::AgentLost);
        // Nobody that is known has it, which is checked as it is written.
        if job.state_reason.starts_with(NOBODY_HAS_IT) {
            return Ok(());
        }
        let by_machine = ended
            .next_back()
            .is_some_and(|(id, reason)| self.met_machine_fault.contains(&id) && !gives_up(reason));
        if job.state == JobState::Failed && by_machine {
            return Err(Violation::FailedByMachine(job.id));
        }
        Ok(())
    }

    /// A report that the trainer has ended was taken in: its slot is another's.
    pub fn check_release(
        core: &Core,
        agent: AgentId,
        attempt: AttemptId,
        sequence: u64,
    ) -> Result<(), Violation> {
        let live = core.job(attempt.job).and_then(JobRecord::live_attempt);
        let is_taken_in = live.is_some_and(|live| live.id == attempt && live.last_sequence >= sequence);
        let holds = core.agent(agent).is_some_and(|view| view.running.values().any(|one| *one == attempt));
        if is_taken_in && holds { Err(Violation::SlotHeld(attempt)) } else { Ok(()) }
    }

    /// An agent is told to start an attempt.
    pub fn assigned(&mut self, assignment: &Assignment) -> Result<(), Violation> {
        let attempt = assignment.attempt;
        let done = assignment.resume.as_ref().map_or(0, |checkpoint| checkpoint.epoch);
        let before = self.assigned.insert(attempt, done);
        if before.is_none() { Ok(()) } else { Err(Violation::AttemptReused(attempt)) }
    }

    /// An agent is back with attempts that were its own until then: they go on.
    pub fn check_reconnection(
        &self,
        undisturbed: &[AttemptId],
        core: &Core,
        commands: &[Command],
    ) -> Result<(), Violation> {
        for &attempt in undisturbed {
            let live = core.job(attempt.job).and_then(JobRecord::live_attempt);
            let is_revoked = commands
                .iter()
                .any(|command| matches!(command, Command::Revoke { attempt: one, .. } if *one == attempt));
            if is_revoked || live.is_none_or(|live| live.id != attempt) {
                return Err(Violation::Disturbed(attempt));
            }
        }
        Ok(())
    }

    /// What is sent is what is stored, and nobody has more than it may.
    pub fn check_commands(
        &self,
        config: &CoreConfig,
        commands: &[Command],
        store: &Store,
    ) -> Result<(), Violation> {
        for command in commands {
            if let Command::Prefetch { agent, reference, .. } = command {
                let named = reference.to_string();
                let waits = |job: &JobRecord| {
                    job.state == JobState::Queued && job.full_spec().train.data.as_os_str() == &*named
                };
                if !store.jobs.values().any(waits) {
                    return Err(Violation::PrefetchedForNobody(*agent));
                }
            }
            let Command::Assign { assignment, .. } = command else { continue };
            let id = assignment.attempt;
            let job = store.jobs.get(&id.job).filter(|job| {
                let spec = job.full_spec();
                spec.train == assignment.spec.train && spec.labels == assignment.spec.labels
            });
            let Some(job) = job else { return Err(Violation::WrongSpec(id)) };
            let limits = config.users.get(&*job.user).unwrap_or(&config.user_limits);
            let gpus = gpus_of(&job.user, &store.jobs);
            if let Some(limit) = limits.running_gpus.filter(|&limit| gpus > limit) {
                return Err(Violation::Quota { user: job.user.to_string(), gpus, limit });
            }
        }
        Ok(())
    }

    /// Safety: checked whenever the scheduler has been down, and at the end.
    pub fn check(&self, store: &Store) -> Result<(), Violation> {
        let is_lost = |job: &&JobId| !store.jobs.contains_key(job) && !store.forgotten.contains(job);
        if let Some(&lost) = self.acknowledged.keys().find(is_lost) {
            return Err(Violation::Lost(lost));
        }
        let (mut requests, mut batches) = (BTreeSet::new(), BTreeMap::new());
        for job in store.jobs.values() {
            if let Some(member) = &job.group
                && let Some(request_id) = &member.group.request_id
                && *batches.entry(request_id).or_insert(member.group.id) != member.group.id
            {
                return Err(Violation::Doubled(request_id.clone()));
            }
            if let Some(request_id) = &job.request_id
                && !requests.insert(request_id)
            {
                return Err(Violation::Doubled(request_id.clone()));
            }
            self.check_job(job, store)?;
            self.check_charges(job)?;
            if self.one_clock {
                self.check_time_limit(job)?;
            }
        }
        Ok(())
    }

    fn check_job(&self, job: &JobRecord, store: &Store) -> Result<(), Violation> {
        let events = store.events.get(&job.id).map(Vec::as_slice).unwrap_or_default();
        // The first event follows from the record.
        if events.len() as u64 + 1 != job.last_cursor {
            return Err(Violation::EventCount(job.id));
        }
        let completed: Vec<AttemptId> = job
            .attempts
            .iter()
            .filter(|attempt| attempt.ended.as_ref().is_some_and(|end| end.reason == EndReason::Completed))
            .map(|attempt| attempt.id)
            .collect();
        // The modelled agents put the attempt into the artifact's name.
        let owners: Vec<String> = job.artifacts.iter().map(|artifact| artifact.name.clone()).collect();
        let expected: Vec<String> = completed.iter().map(ToString::to_string).collect();
        if owners != expected || (job.state == JobState::Succeeded) != (completed.len() == 1) {
            return Err(Violation::Results(job.id));
        }
        for attempt in completed {
            let epochs: Vec<(u32, u32)> = events
                .iter()
                .filter(|event| event.attempt == attempt.number)
                .filter_map(|event| match &event.body {
                    EventBody::Metrics { epoch, epochs, epoch_end: true, .. } => Some((*epoch, *epochs)),
                    EventBody::Metrics { .. } | EventBody::State { .. } | EventBody::Log { .. } => None,
                })
                .collect();
            // All from where it resumed, none missing at either end.
            let (total, done) = (job.spec.train.epochs, self.assigned.get(&attempt).copied().unwrap_or(0));
            if !epochs.into_iter().eq((done + 1..=total).map(|epoch| (epoch, total))) {
                return Err(Violation::Metrics(job.id));
            }
        }
        Ok(())
    }

    /// Liveness: checked when the faults have been over for long.
    pub fn check_end(&self, store: &Store) -> Result<(), Violation> {
        self.check(store)?;
        for job in store.jobs.values() {
            if !job.state.is_final() {
                let reason = job.state_reason.clone();
                return Err(Violation::Stuck { job: job.id, state: job.state, reason });
            }
            if self.cancelled.contains(&job.id) && job.state == JobState::Failed {
                return Err(Violation::NotCancelled(job.id));
            }
        }
        Ok(())
    }

    /// What a job ran since its user last queued it is at most what all its attempts ran.
    fn check_time_limit(&self, job: &JobRecord) -> Result<(), Violation> {
        let preempted = job.attempts.last().is_some_and(|attempt| self.preempted.contains(&attempt.id));
        let last = job.attempts.last().and_then(|attempt| attempt.ended.as_ref());
        let Some(limit) = job.spec.time_limit else { return Ok(()) };
        if preempted || last.is_none_or(|end| end.reason != EndReason::TimeLimit) {
            return Ok(());
        }
        let ran = job
            .attempts
            .iter()
            .filter_map(|attempt| Some(attempt.ended.as_ref()?.time.since(attempt.started?)));
        if ran.sum::<std::time::Duration>() < limit {
            Err(Violation::StoppedTooEarly(job.id))
        } else {
            Ok(())
        }
    }
}

//! Jobs: what users do to them, and how one moves through its states.
//!
//! ```text
//!               place              Started, Step, Epoch
//!   Queued ──────────────► Starting ─────────► Running
//!    │ ▲ ▲                    │                   │
//!    │ │ └─ crash, lost agent ┴───────────────────┤ the attempt ends
//!    │ │                                          ▼
//!    │ └──── Retry ──── Failed │ Cancelled │ Succeeded
//!    └─── Cancel ────────────────► Cancelled
//! ```
//! A final state is left by `Retry` only, and `Succeeded` never.

use std::sync::Arc;
use std::time::Duration;

use trainyard_types::{AttemptId, EndReason, Ended, JobId, JobSpec, JobState, Slot, Time};

use crate::changes::Changes;
use crate::config::CoreConfig;
use crate::core::Core;
use crate::limits::in_words;
use crate::output::{Accepted, Command, Refusal};
use crate::record::{AttemptEnd, AttemptRecord, EventBody, JobRecord};
use crate::retry::{self, Verdict};
use crate::setbacks::{Scene, Setback, Setbacks};
use trainyard_types::trainer::LogLevel;

impl JobRecord {
    /// The attempt that goes on, if one does.
    pub fn live_attempt(&self) -> Option<&AttemptRecord> {
        self.attempts.last().filter(|attempt| attempt.ended.is_none())
    }

    /// As [`JobRecord::live_attempt`].
    pub(crate) fn live_attempt_mut(&mut self) -> Option<&mut AttemptRecord> {
        self.attempts.last_mut().filter(|attempt| attempt.ended.is_none())
    }
}

impl Core {
    /// A user submits a job, or repeats an earlier request.
    pub(crate) fn on_submit(
        &mut self,
        now: Time,
        request_id: Option<String>,
        id: JobId,
        user: &str,
        spec: JobSpec,
        out: &mut Changes,
    ) {
        let earlier = request_id.as_ref().and_then(|request_id| self.requests.get(request_id));
        if let Some((request_id, earlier)) =
            request_id.as_ref().zip(earlier.and_then(|job| self.jobs.get(job)))
        {
            return out.reply(if earlier.batch.is_none() && *earlier.spec == spec {
                Ok(Accepted::job(earlier.id, true))
            } else {
                Err(Refusal::RequestIdReused { request_id: request_id.clone(), job: earlier.id })
            });
        }
        if let Err(refusal) = self.may_queue(user, 1) {
            return out.reply(Err(refusal));
        }
        assert!(!self.jobs.contains_key(&id), "the driver drew the id of a job that exists: {id}");
        if let Some(request_id) = &request_id {
            self.requests.insert(request_id.clone(), id);
        }
        let queued = JobRecord::queued(id, self.users.name(user), Arc::new(spec), now);
        let job = JobRecord { request_id, ..queued };
        out.touch(id);
        self.index.insert(&job);
        self.queue.insert(now, &job);
        self.jobs.insert(id, job);
        out.replan = true;
        out.reply(Ok(Accepted::job(id, false)));
    }

    /// A user ends a job: at once while it waits, otherwise when its agent has stopped it.
    pub(crate) fn on_cancel(&mut self, now: Time, id: JobId, out: &mut Changes) {
        let reply = match self.cancel(now, id, out) {
            Some(changed) => Ok(Accepted::job(id, !changed)),
            None => Err(Refusal::UnknownJob(id)),
        };
        out.reply(reply);
    }

    /// A user ends many jobs.
    pub(crate) fn on_cancel_many(&mut self, now: Time, jobs: &[JobId], out: &mut Changes) {
        let done: Vec<(JobId, bool)> =
            jobs.iter().filter_map(|&id| Some((id, self.cancel(now, id, out)?))).collect();
        let reply = match (done.first(), jobs.first()) {
            (Some(&(job, _)), _) => Ok(Accepted::job(job, done.iter().all(|(_, changed)| !changed))),
            (None, Some(&job)) => Err(Refusal::UnknownJob(job)),
            (None, None) => return,
        };
        out.reply(reply);
    }

    /// Whether this changed anything; `None` when there is no such job.
    fn cancel(&mut self, now: Time, id: JobId, out: &mut Changes) -> Option<bool> {
        let job = self.jobs.get_mut(&id)?;
        match job.state {
            JobState::Queued => {
                self.queue.remove(job);
                job.not_before = None;
                let reason = "its user cancelled it while it waited".to_owned();
                out.state(job, now, 0, JobState::Cancelled, reason);
                Some(true)
            }
            JobState::Starting | JobState::Running if job.cancel_requested => Some(false),
            JobState::Starting | JobState::Running => {
                job.cancel_requested = true;
                let attempt = job.live_attempt()?;
                let (attempt, agent, name) = (attempt.id, attempt.agent, attempt.agent_name.clone());
                job.state_reason = format!("its user cancelled it; waits for agent `{name}` to stop it");
                let message = job.state_reason.clone();
                out.event(job, now, attempt.number, EventBody::Log { level: LogLevel::Info, message });
                out.touch(id);
                if let Some(session) = self.agents.get(&agent).and_then(|agent| agent.session) {
                    out.command(Command::Stop {
                        agent,
                        session,
                        attempt,
                        reason: EndReason::Cancelled,
                        grace: Duration::ZERO,
                    });
                }
                Some(true)
            }
            JobState::Succeeded | JobState::Failed | JobState::Cancelled => Some(false),
        }
    }

    /// A user queues a failed or cancelled job again; its crashes are forgiven.
    pub(crate) fn on_retry(&mut self, now: Time, id: JobId, out: &mut Changes) {
        let Some(job) = self.jobs.get(&id) else { return out.reply(Err(Refusal::UnknownJob(id))) };
        let state = job.state;
        if !matches!(state, JobState::Failed | JobState::Cancelled) {
            return out.reply(Err(Refusal::NotRetryable { job: id, state }));
        }
        let user = Arc::clone(&job.user);
        if let Err(refusal) = self.may_queue(&user, 1) {
            return out.reply(Err(refusal));
        }
        let Some(job) = self.jobs.get_mut(&id) else { return };
        (job.crashes, job.cancel_requested) = (0, false);
        job.setbacks = Setbacks::default();
        (job.ran, job.out_of_time) = (Duration::ZERO, false);
        let reason = "its user queued it again; waits for a slot".to_owned();
        out.state(job, now, 0, JobState::Queued, reason);
        self.queue.insert(now, job);
        out.replan = true;
        out.reply(Ok(Accepted::job(id, false)));
    }

    /// Ends a live attempt, frees its slot, and decides what becomes of its job.
    pub(crate) fn end_attempt(
        &mut self,
        now: Time,
        time: Time,
        id: AttemptId,
        ended: Ended,
        out: &mut Changes,
    ) {
        let Some(job) = self.jobs.get_mut(&id.job) else { return };
        let (cancelled, limit_before) = (job.cancel_requested, job.out_of_time_at());
        let ran_before = job.ran;
        let told_to_stop = job.spec.time_limit.filter(|_| job.out_of_time);
        let Some(attempt) = job.live_attempt_mut() else { return };
        let ran = attempt.started.map_or(Duration::ZERO, |started| time.since(started));
        let Ended { reason: cause_of_end, message, artifacts, unfit: _ } = ended;
        // An attempt may have ended by itself before it heard that its time was over.
        let limit = told_to_stop
            .filter(|&limit| cause_of_end == EndReason::Preempted || ran_before.saturating_add(ran) >= limit)
            .filter(|_| cause_of_end != EndReason::Completed && !cancelled);
        // It was told to make way; agents know of no time limits.
        let reason = if limit.is_some() { EndReason::TimeLimit } else { cause_of_end };
        let (agent, slot) = (attempt.agent, attempt.slot.clone());
        let slots: Vec<Slot> = attempt.slots().cloned().collect();
        let place = format!("{} of agent `{}`", attempt.device, attempt.agent_name);
        attempt.ended = Some(AttemptEnd { time, reason, message: message.clone() });
        job.ran = ran_before.saturating_add(ran);
        job.out_of_time = limit.is_some();
        let (user, resources) = (Arc::clone(&job.user), job.spec.resources.clone());
        let verdict = retry::verdict(reason, cancelled, limit.is_some());
        let (state, sentence) = match verdict {
            Verdict::Succeed => {
                job.artifacts = artifacts;
                (JobState::Succeeded, format!("trained to the end on {place}"))
            }
            Verdict::Cancel if cancelled => (JobState::Cancelled, "its user cancelled it".to_owned()),
            Verdict::Cancel => (JobState::Cancelled, detailed("its agent cancelled it", &message)),
            Verdict::Fail => (JobState::Failed, limit.map_or_else(|| failure(reason, message), over_limit)),
            Verdict::Retry | Verdict::Requeue => {
                let is_at_fault = self.agents.get(&agent).is_some_and(|agent| agent.is_at_fault(&slot));
                let healthy = match &slot {
                    Slot::Gpu(gpu) if !is_at_fault => Some(Scene { gpu: gpu.clone(), place: place.clone() }),
                    Slot::Gpu(_) | Slot::Cpu(_) => None,
                };
                let epochs_done = job.progress.as_ref().map_or(0, |progress| progress.epochs_done);
                let setback = Setback { reason, epochs_done, healthy };
                again(job, &self.config, now, verdict, setback, &place, &message)
            }
        };
        out.state(job, time, id.number, state, sentence);
        if state == JobState::Queued {
            self.queue.insert(now, job);
            out.replan = true;
        }
        let completed =
            (reason == EndReason::Completed).then(|| u64::try_from(ran.as_millis()).unwrap_or(u64::MAX));
        if reason == EndReason::Completed {
            self.learn_end(id.job, out);
        }
        let held = (resources.device, resources.gpus.max(1));
        self.users.end(&self.config, &user, now, held, completed);
        out.touch_user(&user);
        // Even if its slot is not free, its user may have been at a limit.
        out.replan = true;
        if limit.is_none() {
            self.tally.attempt_ended(cause_of_end, self.agents.get(&agent), &slot);
        }
        self.ends.end(id);
        self.move_time_limit(id.job, limit_before);
        self.unfollow_runner(id.job);
        for slot in &slots {
            self.release_slot(now, agent, slot, cause_of_end, out);
        }
    }
}

/// Whether a job that was cut off is tried again, and what is said of it.
fn again(
    job: &mut JobRecord,
    config: &CoreConfig,
    now: Time,
    verdict: Verdict,
    setback: Setback,
    place: &str,
    message: &str,
) -> (JobState, String) {
    let cause = cause(setback.reason);
    let given_up = job.setbacks.add(setback);
    let counts = verdict == Verdict::Retry;
    job.crashes = job.crashes.saturating_add(counts.into());
    let (crashes, forgiven) = (job.crashes, job.spec.max_retries);
    if counts && crashes > forgiven {
        let what = format!("crashed {} (`max_retries` is {forgiven})", times(crashes));
        return (JobState::Failed, detailed(&what, message));
    }
    if let Some(what) = given_up {
        return (JobState::Failed, detailed(&what, message));
    }
    let what = if counts {
        let delay = retry::delay(config, crashes);
        job.not_before = Some(now + delay);
        format!("retry {crashes} of {forgiven} is due in {} s after {cause}", delay.as_secs_f64())
    } else {
        format!("waits for a slot again after {cause} on {place}")
    };
    (JobState::Queued, detailed(&what, message))
}

fn over_limit(limit: Duration) -> String {
    format!("its time limit of {} is over; its newest checkpoint is kept", in_words(limit))
}

/// `what: message`, or only `what`.
fn detailed(what: &str, message: &str) -> String {
    if message.is_empty() { what.to_owned() } else { format!("{what}: {message}") }
}

fn times(count: u32) -> String {
    match count {
        1 => "once".to_owned(),
        2 => "twice".to_owned(),
        _ => format!("{count} times"),
    }
}

/// What ended an attempt, as a noun.
fn cause(reason: EndReason) -> &'static str {
    match reason {
        EndReason::Completed => "completion",
        EndReason::BadSpec => "a bad spec",
        EndReason::GpuOom => "running out of GPU memory",
        EndReason::HostOom => "running out of main memory",
        EndReason::TrainerCrash => "a crash of the trainer",
        EndReason::GpuFault => "a fault of the GPU",
        EndReason::AgentLost => "the loss of the agent",
        EndReason::Preempted => "making way for another job",
        EndReason::Drained => "a drain of the agent",
        EndReason::Cancelled => "a cancellation",
        EndReason::TimeLimit => "the end of its time limit",
        EndReason::AgentUnfit => "a lack of the machine",
        EndReason::Stalled => "a stall",
    }
}

/// Why trying again cannot help: the trainer's own words, as long as it has some.
fn failure(reason: EndReason, message: String) -> String {
    if message.is_empty() { format!("failed after {}", cause(reason)) } else { message }
}

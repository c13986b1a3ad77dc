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

use trainyard_types::{AttemptId, EndReason, Ended, JobId, JobSpec, JobState, Time};

use crate::changes::Changes;
use crate::core::Core;
use crate::output::{Accepted, Command, Refusal};
use crate::record::{AttemptEnd, AttemptRecord, EventBody, JobRecord};
use crate::retry::{self, Verdict};
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
        user: String,
        spec: JobSpec,
        out: &mut Changes,
    ) {
        let earlier = request_id.as_ref().and_then(|request_id| self.requests.get(request_id));
        if let Some((request_id, earlier)) =
            request_id.as_ref().zip(earlier.and_then(|job| self.jobs.get(job)))
        {
            return out.reply(if earlier.spec == spec {
                Ok(Accepted { job: earlier.id, repeated: true })
            } else {
                Err(Refusal::RequestIdReused { request_id: request_id.clone(), job: earlier.id })
            });
        }
        assert!(!self.jobs.contains_key(&id), "the driver drew the id of a job that exists: {id}");
        if let Some(request_id) = &request_id {
            self.requests.insert(request_id.clone(), id);
        }
        let mut job = JobRecord {
            id,
            revision: 0,
            user,
            request_id,
            spec,
            state: JobState::Queued,
            state_reason: String::new(),
            attempts: Vec::new(),
            crashes: 0,
            not_before: None,
            cancel_requested: false,
            progress: None,
            checkpoint: None,
            artifacts: Vec::new(),
            last_cursor: 0,
            created: now,
            started: None,
            ended: None,
        };
        out.state(&mut job, now, 0, JobState::Queued, "waits for a slot".to_owned());
        self.queue.insert(now, &job);
        self.jobs.insert(id, job);
        out.replan = true;
        out.reply(Ok(Accepted { job: id, repeated: false }));
    }

    /// A user ends a job: at once while it waits, otherwise when its agent has stopped it.
    pub(crate) fn on_cancel(&mut self, now: Time, id: JobId, out: &mut Changes) {
        let Some(job) = self.jobs.get_mut(&id) else { return out.reply(Err(Refusal::UnknownJob(id))) };
        let repeated = match job.state {
            JobState::Queued => {
                self.queue.remove(job);
                job.not_before = None;
                out.state(
                    job,
                    now,
                    0,
                    JobState::Cancelled,
                    "its user cancelled it while it waited".to_owned(),
                );
                false
            }
            JobState::Starting | JobState::Running if job.cancel_requested => true,
            JobState::Starting | JobState::Running => {
                job.cancel_requested = true;
                let Some(attempt) = job.live_attempt() else { return };
                let (attempt, agent, name) = (attempt.id, attempt.agent, attempt.agent_name.clone());
                job.state_reason = format!("its user cancelled it; waits for agent `{name}` to stop it");
                let message = job.state_reason.clone();
                out.event(job, now, attempt.number, EventBody::Log { level: LogLevel::Info, message });
                if let Some(session) = self.agents.get(&agent).and_then(|agent| agent.session) {
                    out.command(Command::Stop { agent, session, attempt, reason: EndReason::Cancelled });
                }
                false
            }
            JobState::Succeeded | JobState::Failed | JobState::Cancelled => true,
        };
        out.reply(Ok(Accepted { job: id, repeated }));
    }

    /// A user queues a failed or cancelled job again; its crashes are forgiven.
    pub(crate) fn on_retry(&mut self, now: Time, id: JobId, out: &mut Changes) {
        let Some(job) = self.jobs.get_mut(&id) else { return out.reply(Err(Refusal::UnknownJob(id))) };
        match job.state {
            JobState::Failed | JobState::Cancelled => {
                job.crashes = 0;
                job.cancel_requested = false;
                out.state(
                    job,
                    now,
                    0,
                    JobState::Queued,
                    "its user queued it again; waits for a slot".to_owned(),
                );
                self.queue.insert(now, job);
                out.replan = true;
                out.reply(Ok(Accepted { job: id, repeated: false }));
            }
            state @ (JobState::Queued | JobState::Starting | JobState::Running | JobState::Succeeded) => {
                out.reply(Err(Refusal::NotRetryable { job: id, state }));
            }
        }
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
        let Some(attempt) = job.live_attempt_mut() else { return };
        let Ended { reason, message, artifacts } = ended;
        let (agent, slot) = (attempt.agent, attempt.slot.clone());
        let place = format!("{} of agent `{}`", attempt.device, attempt.agent_name);
        attempt.ended = Some(AttemptEnd { time, reason, message: message.clone() });
        let verdict = retry::verdict(reason, job.cancel_requested);
        let (state, sentence) = match verdict {
            Verdict::Succeed => {
                job.artifacts = artifacts;
                (JobState::Succeeded, format!("trained to the end on {place}"))
            }
            Verdict::Cancel if job.cancel_requested => {
                (JobState::Cancelled, "its user cancelled it".to_owned())
            }
            Verdict::Cancel => (JobState::Cancelled, detailed("its agent cancelled it", &message)),
            Verdict::Fail => (JobState::Failed, failure(reason, message)),
            Verdict::Retry => {
                job.crashes = job.crashes.saturating_add(1);
                let (crashes, forgiven) = (job.crashes, job.spec.max_retries);
                if crashes > forgiven {
                    let what = format!("crashed {} (`max_retries` is {forgiven})", times(crashes));
                    (JobState::Failed, detailed(&what, &message))
                } else {
                    let delay = retry::delay(&self.config, crashes);
                    job.not_before = Some(now + delay);
                    let seconds = delay.as_secs_f64();
                    let what = format!(
                        "retry {crashes} of {forgiven} is due in {seconds} s after {}",
                        cause(reason)
                    );
                    (JobState::Queued, detailed(&what, &message))
                }
            }
            Verdict::Requeue => {
                let what = format!("waits for a slot again after {} on {place}", cause(reason));
                (JobState::Queued, detailed(&what, &message))
            }
        };
        out.state(job, time, id.number, state, sentence);
        if state == JobState::Queued {
            self.queue.insert(now, job);
            out.replan = true;
        }
        self.release_slot(now, agent, &slot, reason, out);
    }
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
    }
}

/// Why trying again cannot help: the trainer's own words, as long as it has some.
fn failure(reason: EndReason, message: String) -> String {
    if message.is_empty() { format!("failed after {}", cause(reason)) } else { message }
}

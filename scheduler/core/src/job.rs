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

use trainyard_types::{EndReason, JobId, JobSpec, JobState, Time};

use crate::changes::Changes;
use crate::core::Core;
use crate::output::{Accepted, Command, Refusal};
use crate::record::{AttemptRecord, EventBody, JobRecord};
use crate::setbacks::Setbacks;
use trainyard_types::trainer::LogLevel;

impl JobRecord {
    /// The attempt that goes on, if one does.
    pub fn live_attempt(&self) -> Option<&AttemptRecord> {
        self.attempts.last().filter(|attempt| attempt.ended.is_none())
    }

    /// Whether the live attempt has made a step.
    pub(crate) fn has_stepped(&self) -> bool {
        self.live_attempt().is_some_and(|attempt| attempt.started.is_some())
            && self.progress.as_ref().is_some_and(|progress| progress.has_stepped())
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
        self.queue.insert(now, &job, &self.sight);
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
        self.queue.insert(now, job, &self.sight);
        out.replan = true;
        out.reply(Ok(Accepted::job(id, false)));
    }
}

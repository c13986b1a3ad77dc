//! What users do to jobs: submit, cancel, retry.

use std::sync::Arc;
use std::time::Duration;

use trainyard_types::trainer::LogLevel;
use trainyard_types::{EndReason, JobId, JobSpec, JobState, Time};

use crate::changes::Changes;
use crate::engine::Core;
use crate::output::{Accepted, Command, Refusal};
use crate::record::{EventBody, JobRecord};
use crate::state::failures::FailureHistory;
use crate::state::job_group::{JobGroup, JobGroupRecord};

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
        job.failures = FailureHistory::default();
        (job.ran, job.out_of_time) = (Duration::ZERO, false);
        let reason = "its user queued it again; waits for a slot".to_owned();
        out.state(job, now, 0, JobState::Queued, reason);
        self.queue.insert(now, job, &self.sight);
        out.replan = true;
        out.reply(Ok(Accepted::job(id, false)));
    }

    /// A user submits many jobs: all of them, or none. It may be a repetition.
    pub(crate) fn on_submit_group(&mut self, now: Time, batch: Arc<JobGroupRecord>, out: &mut Changes) {
        if let Some(request_id) = &batch.request_id
            && let Some(&first) = self.requests.get(request_id)
        {
            let earlier = self.jobs.get(&first).and_then(|job| job.batch.as_ref());
            let same = earlier.is_some_and(|place| place.batch.content == batch.content);
            return out.reply(if same {
                Ok(Accepted::job(first, true))
            } else {
                Err(Refusal::RequestIdReused { request_id: request_id.clone(), job: first })
            });
        }
        if let Err(refusal) = self.may_queue(&batch.user, batch.len()) {
            return out.reply(Err(refusal));
        }
        let user = self.users.name(&batch.user);
        let batch = Arc::new(JobGroupRecord { user, created: now, ..Arc::unwrap_or_clone(batch) });
        let first = batch.id.job(0);
        assert!(!self.groups.contains_key(&batch.id), "the driver drew the id of a batch that exists");
        if let Some(request_id) = &batch.request_id {
            self.requests.insert(request_id.clone(), first);
        }
        for job in batch.jobs() {
            self.queue.insert(now, &job, &self.sight);
            self.index.insert(&job);
            self.jobs.insert(job.id, job);
        }
        out.group(Arc::clone(&batch));
        self.groups.insert(batch.id, JobGroup { left: batch.len(), record: batch });
        out.replan = true;
        out.reply(Ok(Accepted::job(first, false)));
    }

    /// Whether a user may queue `more` jobs.
    pub(crate) fn may_queue(&self, user: &str, more: u32) -> Result<(), Refusal> {
        let queued = u32::try_from(self.queue.len_of(user)).unwrap_or(u32::MAX);
        match self.limits(user).queued_jobs {
            Some(limit) if queued.saturating_add(more) > limit => {
                Err(Refusal::QueueFull { user: user.to_owned(), queued, more, limit })
            }
            Some(_) | None => Ok(()),
        }
    }
}

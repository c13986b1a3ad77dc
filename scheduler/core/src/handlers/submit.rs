//! What users do to jobs: submit, cancel, retry.

use std::sync::Arc;
use std::time::Duration;

use trainyard_types::trainer::LogLevel;
use trainyard_types::{EndReason, JobId, JobSpec, JobState, Time};

use crate::changes::Changes;
use crate::engine::Core;
use crate::output::{Accepted, Refusal};
use crate::record::{EventBody, JobRecord};
use crate::state::failures::FailureHistory;
use crate::state::job_group::JobGroupRecord;

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
        if let Some(request_id) = &request_id
            && let Some(earlier) = self.jobs.of_request(request_id)
        {
            let same = earlier.group.is_none() && *earlier.spec == spec && *earlier.user == *user;
            return out.reply(if same {
                Ok(Accepted::job(earlier.id, true))
            } else {
                Err(request_id_refused(request_id, earlier, user))
            });
        }
        if let Err(refusal) = self.may_queue(user, 1) {
            return out.reply(Err(refusal));
        }
        assert!(self.jobs.get(id).is_none(), "the driver drew the id of a job that exists: {id}");
        let queued = JobRecord::queued(id, self.users.name(user), Arc::new(spec), now);
        self.jobs.insert(now, JobRecord { request_id, ..queued }, None);
        out.touch(id);
        out.request_round();
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
        let mut job = self.jobs.edit(now, id)?;
        match job.state {
            JobState::Queued => {
                job.not_before = None;
                let reason = "its user cancelled it while it waited".to_owned();
                out.state(&mut job, now, 0, JobState::Cancelled, reason);
                Some(true)
            }
            JobState::Starting | JobState::Running if job.cancel_requested => Some(false),
            JobState::Starting | JobState::Running => {
                job.cancel_requested = true;
                let attempt = job.live_attempt()?;
                let (attempt, agent, name) = (attempt.id, attempt.agent, attempt.agent_name.clone());
                let message = format!("its user cancelled it; waits for agent `{name}` to stop it");
                job.state_reason.clone_from(&message);
                out.event(&mut job, now, attempt.number, EventBody::Log { level: LogLevel::Info, message });
                out.touch(id);
                out.stop(&self.agents, agent, attempt, EndReason::Cancelled);
                Some(true)
            }
            JobState::Succeeded | JobState::Failed | JobState::Cancelled => Some(false),
        }
    }

    /// A user queues a failed or cancelled job again; its crashes are forgiven.
    pub(crate) fn on_retry(&mut self, now: Time, id: JobId, out: &mut Changes) {
        let Some(job) = self.jobs.get(id) else { return out.reply(Err(Refusal::UnknownJob(id))) };
        let state = job.state;
        if !matches!(state, JobState::Failed | JobState::Cancelled) {
            return out.reply(Err(Refusal::NotRetryable { job: id, state }));
        }
        let user = Arc::clone(&job.user);
        if let Err(refusal) = self.may_queue(&user, 1) {
            return out.reply(Err(refusal));
        }
        let Some(mut job) = self.jobs.edit(now, id) else { return };
        (job.crashes, job.cancel_requested) = (0, false);
        job.failures = FailureHistory::default();
        (job.ran, job.out_of_time) = (Duration::ZERO, false);
        let reason = "its user queued it again; waits for a slot".to_owned();
        out.state(&mut job, now, 0, JobState::Queued, reason);
        out.request_round();
        out.reply(Ok(Accepted::job(id, false)));
    }

    /// A user gives a job that waits another priority.
    pub(crate) fn on_set_priority(&mut self, now: Time, id: JobId, priority: i32, out: &mut Changes) {
        let Some(job) = self.jobs.get(id) else { return out.reply(Err(Refusal::UnknownJob(id))) };
        let (state, before) = (job.state, job.priority());
        if state != JobState::Queued {
            return out.reply(Err(Refusal::NotQueued { job: id, state }));
        }
        if before == priority {
            return out.reply(Ok(Accepted::job(id, true)));
        }
        let Some(mut job) = self.jobs.edit(now, id) else { return };
        job.set_priority = Some(priority).filter(|priority| *priority != job.spec.priority);
        let message = format!("its priority was changed from {before} to {priority}");
        out.event(&mut job, now, 0, EventBody::Log { level: LogLevel::Info, message });
        drop(job);
        out.touch(id);
        out.request_round();
        out.reply(Ok(Accepted::job(id, false)));
    }

    /// A user submits many jobs: all of them, or none. It may be a repetition.
    pub(crate) fn on_submit_group(&mut self, now: Time, group: Arc<JobGroupRecord>, out: &mut Changes) {
        if let Some(request_id) = &group.request_id
            && let Some(first) = self.jobs.first_of_request(request_id)
        {
            let earlier = self.jobs.get(first);
            let same = earlier.and_then(|job| job.group.as_ref()).is_some_and(|member| {
                member.group.content == group.content && member.group.user == group.user
            });
            return out.reply(match earlier {
                Some(earlier) if !same => Err(request_id_refused(request_id, earlier, &group.user)),
                _ => Ok(Accepted::job(first, true)),
            });
        }
        if let Err(refusal) = self.may_queue(&group.user, group.len()) {
            return out.reply(Err(refusal));
        }
        let user = self.users.name(&group.user);
        let group = Arc::new(JobGroupRecord { user, created: now, ..Arc::unwrap_or_clone(group) });
        let first = group.id.job(0);
        assert!(self.jobs.group(group.id).is_none(), "the driver drew the id of a job group that exists");
        out.group(Arc::clone(&group));
        self.jobs.insert_group(now, group);
        out.request_round();
        out.reply(Ok(Accepted::job(first, false)));
    }

    /// Whether a user may queue `more` jobs.
    pub(crate) fn may_queue(&self, user: &str, more: u32) -> Result<(), Refusal> {
        let queued = u32::try_from(self.jobs.queue().len_of(user)).unwrap_or(u32::MAX);
        match self.limits(user).queued_jobs {
            Some(limit) if queued.saturating_add(more) > limit => {
                Err(Refusal::QueueFull { user: user.to_owned(), queued, more, limit })
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// A request id came again with something else. Another user is not told whose job it has made.
fn request_id_refused(request_id: &str, earlier: &JobRecord, user: &str) -> Refusal {
    let request_id = request_id.to_owned();
    if *earlier.user == *user {
        Refusal::RequestIdReused { request_id, job: earlier.id }
    } else {
        Refusal::RequestIdTaken { request_id }
    }
}

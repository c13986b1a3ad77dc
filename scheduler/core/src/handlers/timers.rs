//! What happens when a time has come. A job whose trainers have run for as long as they may is stopped with a
//! checkpoint.

use std::time::Duration;

use trainyard_types::trainer::LogLevel;
use trainyard_types::{EndReason, JobId, Time};

use crate::changes::Changes;
use crate::engine::Core;
use crate::output::Command;
use crate::record::{EventBody, JobRecord};
use crate::spans::in_words;

impl Core {
    pub(crate) fn on_tick(&mut self, now: Time, out: &mut Changes) {
        while let Some(agent) = self.deadlines.leases.due(now) {
            self.on_lease_over(now, agent, out);
        }
        while self.forget_agent(now, out) {}
        while self.end_due_cooldown(now, out) {}
        while self.end_reservation(now, out) {}
        while self.open_due(now, out) {}
        while let Some(job) = self.queue.pop_due(now) {
            if let Some(job) = self.jobs.get(&job) {
                self.queue.make_ready(job);
                out.replan = true;
            }
        }
        out.replan |= self.policy.wake_at().is_some_and(|time| time <= now);
        while self.stop_out_of_time(now, out) {}
        self.archive_due(now, out);
    }

    /// Moves a job's deadline from where it was to where it is.
    pub(crate) fn move_time_limit(&mut self, id: JobId, before: Option<Time>) {
        let after = self.jobs.get(&id).and_then(JobRecord::out_of_time_at);
        if before != after {
            if let Some(before) = before {
                self.deadlines.time_limits.remove(before, id);
            }
            if let Some(after) = after {
                self.deadlines.time_limits.add(after, id);
            }
        }
    }

    /// Stops the next job whose time is over; `false` when there is none.
    pub(crate) fn stop_out_of_time(&mut self, now: Time, out: &mut Changes) -> bool {
        let Some(id) = self.deadlines.time_limits.due(now) else { return false };
        self.deadlines.time_limits.pop();
        let Some(job) = self.jobs.get_mut(&id) else { return true };
        job.out_of_time = true;
        let limit = job.spec.time_limit.unwrap_or_default();
        let Some(attempt) = job.live_attempt() else { return true };
        let (attempt, agent, name) = (attempt.id, attempt.agent, attempt.agent_name.clone());
        if !job.cancel_requested {
            job.state_reason =
                format!("its time limit of {} is over; waits for agent `{name}` to stop it", in_words(limit));
            let message = job.state_reason.clone();
            out.event(job, now, attempt.number, EventBody::Log { level: LogLevel::Warning, message });
        }
        out.touch(id);
        if let Some(session) = self.agents.get(&agent).and_then(|agent| agent.session) {
            // An agent that is told of a preemption writes and uploads a checkpoint.
            out.command(Command::Stop {
                agent,
                session,
                attempt,
                reason: EndReason::Preempted,
                grace: Duration::ZERO,
            });
        }
        true
    }
}

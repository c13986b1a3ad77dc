//! What happens when a time has come. A job whose trainers have run for as long as they may is stopped with a
//! checkpoint.

use trainyard_types::trainer::LogLevel;
use trainyard_types::{EndReason, JobId, Time};

use crate::changes::Changes;
use crate::duration::in_words;
use crate::engine::Core;
use crate::record::EventBody;

impl Core {
    /// The time that [`Core::next_deadline`] named has come.
    pub(crate) fn on_tick(&mut self, now: Time, out: &mut Changes) {
        while let Some(lease_over) = self.agents.end_next_lease(now) {
            self.on_lease_over(now, lease_over, out);
        }
        while self.forget_agent(now, out) {}
        while self.agents.end_due_cooldown(now) {}
        while let Some(agent) = self.agents.end_due_reservation(now) {
            out.touch_agent(agent);
        }
        while let Some(agent) = self.agents.reopen_due(now) {
            out.touch_agent(agent);
        }
        if self.jobs.ready_due(now) || self.policy.wake_at().is_some_and(|time| time <= now) {
            out.request_round();
        }
        while let Some(job) = self.jobs.next_over_time(now) {
            self.stop_over_time(now, job, out);
        }
        self.archive_due(now, out);
    }

    /// Stops a job whose time is over.
    fn stop_over_time(&mut self, now: Time, id: JobId, out: &mut Changes) {
        let Some(mut job) = self.jobs.edit(now, id) else { return };
        job.out_of_time = true;
        let limit = job.spec.time_limit.unwrap_or_default();
        let Some(attempt) = job.live_attempt() else { return };
        let (attempt, agent, name) = (attempt.id, attempt.agent, attempt.agent_name.clone());
        if !job.cancel_requested {
            let message =
                format!("its time limit of {} is over; waits for agent `{name}` to stop it", in_words(limit));
            job.state_reason.clone_from(&message);
            let level = LogLevel::Warning;
            out.event(&mut job, now, attempt.number, EventBody::Log { level, message });
        }
        out.touch(id);
        // An agent that is told of a preemption writes and uploads a checkpoint.
        out.stop(&self.agents, agent, attempt, EndReason::Preempted);
    }
}

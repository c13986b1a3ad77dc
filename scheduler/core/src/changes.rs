//! Collects what one event changes, so that a job is written at most once per event.

use std::collections::{BTreeMap, BTreeSet};

use trainyard_types::{AgentId, JobId, JobState, Time};

use crate::output::{Accepted, Command, Output, Refusal, Write};
use crate::record::{AgentRecord, EventBody, EventRecord, JobRecord};

/// An [`Output`] in the making.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    jobs: BTreeMap<JobId, Vec<EventRecord>>,
    agents: BTreeSet<AgentId>,
    commands: Vec<Command>,
    reply: Option<Result<Accepted, Refusal>>,
    /// A job became ready or a slot became free, so that something may be placed.
    pub(crate) replan: bool,
}

impl Changes {
    /// Has the job written at the end, with all that is done to it until then.
    pub(crate) fn touch(&mut self, job: JobId) {
        self.jobs.entry(job).or_default();
    }

    /// Has the agent's record written at the end.
    pub(crate) fn touch_agent(&mut self, agent: AgentId) {
        self.agents.insert(agent);
    }

    /// Tells those who watch the job; `attempt` is 0 when it belongs to none.
    pub(crate) fn event(&mut self, job: &mut JobRecord, time: Time, attempt: u32, body: EventBody) {
        job.last_cursor += 1;
        let event = EventRecord { cursor: job.last_cursor, time, attempt, body };
        self.jobs.entry(job.id).or_default().push(event);
    }

    /// Moves the job to `state` and tells those who watch it.
    pub(crate) fn state(
        &mut self,
        job: &mut JobRecord,
        time: Time,
        attempt: u32,
        state: JobState,
        reason: String,
    ) {
        job.state = state;
        job.state_reason.clone_from(&reason);
        job.ended = state.is_final().then_some(time);
        self.event(job, time, attempt, EventBody::State { state, reason });
    }

    /// To be sent once the writes are durable.
    pub(crate) fn command(&mut self, command: Command) {
        self.commands.push(command);
    }

    /// Answers the user.
    pub(crate) fn reply(&mut self, reply: Result<Accepted, Refusal>) {
        self.reply = Some(reply);
    }

    /// Gives every touched job its next revision, and writes it. `agent` finds an agent's record.
    pub(crate) fn finish<'a>(
        self,
        jobs: &mut BTreeMap<JobId, JobRecord>,
        agent: impl Fn(AgentId) -> Option<&'a AgentRecord>,
    ) -> Output {
        let mut writes: Vec<Write> =
            self.agents.into_iter().filter_map(agent).cloned().map(Write::Agent).collect();
        for (id, events) in self.jobs {
            let Some(job) = jobs.get_mut(&id) else { continue };
            job.revision += 1;
            writes.push(Write::Job(Box::new(job.clone())));
            if !events.is_empty() {
                writes.push(Write::JobEvents { job: id, events });
            }
        }
        Output { writes, commands: self.commands, reply: self.reply }
    }
}

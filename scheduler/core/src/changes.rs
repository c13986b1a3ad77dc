//! Collects what one event changes, so that a job is written at most once per event.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use trainyard_types::{AgentId, AttemptId, EndReason, JobId, JobState, Time};

use crate::output::{Accepted, Command, Output, Refusal, Write};
use crate::record::{EventBody, EventRecord, JobRecord};
use crate::state::agents::Agents;
use crate::state::fair_share::Users;
use crate::state::job_group::JobGroupRecord;
use crate::state::jobs::Jobs;

/// An [`Output`] in the making.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    jobs: BTreeMap<JobId, Touched>,
    agents: BTreeSet<AgentId>,
    users: BTreeSet<Arc<str>>,
    /// Written before everything else, in order.
    groups: Vec<Arc<JobGroupRecord>>,
    /// Written after everything else, in order.
    writes: Vec<Write>,
    archive: Vec<JobId>,
    commands: Vec<Command>,
    reply: Option<Result<Accepted, Refusal>>,
    wants_round: bool,
    checkpoint: Option<JobId>,
}

/// What is to be written of a job.
#[derive(Debug, Default)]
struct Touched {
    /// Whether more changed than its progress.
    whole: bool,
    events: Vec<EventRecord>,
}

impl Changes {
    /// A job became ready or a user may run more, so that something may be placed.
    pub(crate) fn request_round(&mut self) {
        self.wants_round = true;
    }

    pub(crate) fn wants_round(&self) -> bool {
        self.wants_round
    }

    /// A job's newest checkpoint was just stored.
    pub(crate) fn note_checkpoint(&mut self, job: JobId) {
        self.checkpoint = Some(job);
    }

    /// The job whose newest checkpoint was just stored.
    pub(crate) fn take_checkpoint(&mut self) -> Option<JobId> {
        self.checkpoint.take()
    }

    /// Has the job written at the end, with all that is done to it until then.
    pub(crate) fn touch(&mut self, job: JobId) {
        self.jobs.entry(job).or_default().whole = true;
    }

    /// Has what reports change of the job written at the end.
    pub(crate) fn touch_progress(&mut self, job: JobId) {
        self.jobs.entry(job).or_default();
    }

    /// Has the user's record written at the end.
    pub(crate) fn touch_user(&mut self, name: &Arc<str>) {
        self.users.insert(Arc::clone(name));
    }

    /// Has a new job group written, before its jobs.
    pub(crate) fn group(&mut self, group: Arc<JobGroupRecord>) {
        self.groups.push(group);
    }

    /// Has something forgotten, after all else is written.
    pub(crate) fn write(&mut self, write: Write) {
        self.writes.push(write);
    }

    /// Has several things forgotten, after all else is written.
    pub(crate) fn write_all(&mut self, writes: impl IntoIterator<Item = Write>) {
        self.writes.extend(writes);
    }

    /// Asks for archives of jobs that have ended.
    pub(crate) fn archive(&mut self, jobs: Vec<JobId>) {
        self.archive.extend(jobs);
    }

    /// Has the agent's record written at the end.
    pub(crate) fn touch_agent(&mut self, agent: AgentId) {
        self.agents.insert(agent);
    }

    /// Tells those who watch the job; `attempt` is 0 when it belongs to none.
    pub(crate) fn event(&mut self, job: &mut JobRecord, time: Time, attempt: u32, body: EventBody) {
        job.last_cursor += 1;
        let event = EventRecord { cursor: job.last_cursor, time, attempt, body };
        self.jobs.entry(job.id).or_default().events.push(event);
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
        self.touch(job.id);
        job.state = state;
        job.state_reason.clone_from(&reason);
        job.ended = state.is_final().then_some(time);
        self.event(job, time, attempt, EventBody::State { state, reason });
    }

    /// To be sent once the writes are durable.
    pub(crate) fn command(&mut self, command: Command) {
        self.commands.push(command);
    }

    /// Has the agent end an attempt, if it is connected; the agent chooses how long the trainer may take.
    pub(crate) fn stop(&mut self, agents: &Agents, agent: AgentId, attempt: AttemptId, reason: EndReason) {
        if let Some(session) = agents.session(agent) {
            self.command(Command::Stop { agent, session, attempt, reason, grace: Duration::ZERO });
        }
    }

    /// Answers the user.
    pub(crate) fn reply(&mut self, reply: Result<Accepted, Refusal>) {
        self.reply = Some(reply);
    }

    /// Gives every job that is written whole its next revision.
    pub(crate) fn finish(self, jobs: &mut Jobs, agents: &Agents, users: &Users) -> Output {
        let mut writes: Vec<Write> = self.groups.into_iter().map(Write::JobGroup).collect();
        let agents = self.agents.into_iter().filter_map(|id| agents.get(id));
        writes.extend(agents.map(|agent| Write::Agent(agent.record().clone())));
        let users = self.users.iter().filter_map(|name| users.get(name));
        writes.extend(users.map(|user| Write::User(user.record().clone())));
        for (id, Touched { whole, events }) in self.jobs {
            if whole {
                let Some(job) = jobs.revise(id) else { continue };
                writes.push(Write::Job(Box::new(job.clone())));
            } else {
                let Some(job) = jobs.get(id) else { continue };
                writes.extend(job.progress_record().map(Write::Progress));
            }
            if !events.is_empty() {
                writes.push(Write::JobEvents { job: id, events });
            }
        }
        writes.extend(self.writes);
        Output { writes, commands: self.commands, reply: self.reply, archive: self.archive }
    }
}

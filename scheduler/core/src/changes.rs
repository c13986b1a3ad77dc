//! Collects what one event changes, so that a job is written at most once per event.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use trainyard_types::{AgentId, JobId, JobState, Time};

use crate::output::{Accepted, Command, Output, Refusal, Write};
use crate::record::{AgentRecord, EventBody, EventRecord, JobRecord};
use crate::state::job_group::JobGroupRecord;
use crate::state::user::UserRecord;

/// An [`Output`] in the making.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    jobs: BTreeMap<JobId, Touched>,
    agents: BTreeSet<AgentId>,
    users: BTreeSet<Arc<str>>,
    /// Written before and after everything else, in order.
    groups: Vec<Arc<JobGroupRecord>>,
    writes: Vec<Write>,
    archive: Vec<JobId>,
    commands: Vec<Command>,
    reply: Option<Result<Accepted, Refusal>>,
    /// A job became ready or a slot became free, so that something may be placed.
    pub(crate) replan: bool,
    /// A job whose newest checkpoint was just stored.
    pub(crate) checkpoint: Option<JobId>,
    /// Jobs that changed state, for the core's index.
    pub(crate) moves: Vec<Move>,
}

/// What is to be written of a job.
#[derive(Debug, Default)]
struct Touched {
    /// Whether more changed than its progress.
    whole: bool,
    events: Vec<EventRecord>,
}

/// A job left a state.
#[derive(Debug)]
pub(crate) struct Move {
    pub(crate) job: JobId,
    pub(crate) from: JobState,
    /// When it had ended, if that state was final.
    pub(crate) ended: Option<Time>,
    to: JobState,
}

impl Move {
    /// Whether the job has come to its end.
    pub(crate) fn ends(&self) -> bool {
        self.to.is_final()
    }
}

impl Changes {
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

    /// As [`Changes::write`].
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
        self.moves.push(Move { job: job.id, from: job.state, ended: job.ended, to: state });
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

    /// Answers the user.
    pub(crate) fn reply(&mut self, reply: Result<Accepted, Refusal>) {
        self.reply = Some(reply);
    }

    /// Gives every job that is written whole its next revision. `agent` and `user` find records.
    pub(crate) fn finish<'a>(
        self,
        jobs: &mut BTreeMap<JobId, JobRecord>,
        agent: impl Fn(AgentId) -> Option<&'a AgentRecord>,
        user: impl Fn(&str) -> Option<&'a UserRecord>,
    ) -> Output {
        let mut writes: Vec<Write> = self.groups.into_iter().map(Write::JobGroup).collect();
        writes.extend(self.agents.into_iter().filter_map(agent).cloned().map(Write::Agent));
        writes.extend(self.users.iter().filter_map(|name| user(name)).cloned().map(Write::User));
        for (id, Touched { whole, events }) in self.jobs {
            let Some(job) = jobs.get_mut(&id) else { continue };
            if whole {
                job.revision += 1;
                writes.push(Write::Job(Box::new(job.clone())));
            } else {
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

//! What the driver is sent, and how it answers: through one-shot channels.

use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use trainyard_scheduler_core::{Accepted, Command, Event, Hello, Refusal};
use trainyard_types::{LeaderEpoch, Session};

use super::state_view::{JobView, StateView};

/// An agent's open session.
#[derive(Debug)]
pub struct Opened {
    pub session: Session,
    /// The leader epoch under which it was opened.
    pub leader: LeaderEpoch,
    /// What to tell the agent; ends when the session does.
    pub commands: mpsc::Receiver<Command>,
}

/// Where an agent that greets is answered.
pub(super) type OpenReply = oneshot::Sender<Result<Opened, Refusal>>;
/// A question about the state.
pub(super) type Question = Box<dyn FnOnce(&mut StateView<'_>) + Send>;
/// Where a user's request is answered.
pub(super) enum Reply {
    /// A reply about a job, with the job as it is then.
    Job(oneshot::Sender<Result<JobView, Refusal>>),
    /// A reply about an agent.
    Agent(oneshot::Sender<Result<(), Refusal>>),
}

/// Who may answer a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Audience {
    /// A standby, too, from what is stored.
    Anyone,
    /// Who knows the agents' sessions.
    Leader,
}

/// What the driver is sent. Dropping a message tells its sender [`super::Unavailable`].
pub(super) enum Message {
    /// A user's request.
    Request(Event, Reply),
    /// Something that nobody waits for. The permit is the sender's place among the messages that wait.
    Tell(Event, Option<OwnedSemaphorePermit>),
    /// An agent has connected.
    Open(Hello, OpenReply),
    Ask(Question, Audience),
}

/// What a request came to, to be answered once it is durable.
pub(super) struct PendingReply {
    pub(super) reply: Reply,
    pub(super) result: Result<Accepted, Refusal>,
}

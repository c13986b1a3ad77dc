//! How others reach the driver: messages in a bounded inbox, answers through one-shot channels.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use trainyard_scheduler_core::{
    Accepted, AgentState, AgentView, Command, Content, Core, Counters, Event, Hello, JobGroupRecord,
    JobRecord, Refusal, Subject, Waiting,
};
use trainyard_types::{AgentId, JobGroupId, JobId, JobSpec, JobState, LeaderEpoch, Session, Slot, Time};

use super::meters::{HeartbeatAges, Meters};
use super::role::Role;

/// The driver is not there, does not lead, or could not make the change durable. Whether an event took effect
/// is not known; asking again is safe.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the scheduler's store is not available; try again")]
pub struct Unavailable {
    /// Where to ask, if another scheduler leads.
    pub leader: Option<Arc<str>>,
}

/// Why a user's request was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// By the core; nothing changed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// See [`Unavailable`].
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// A job with why it waits.
#[derive(Debug, Clone, PartialEq)]
pub struct JobView {
    /// As stored.
    pub record: JobRecord,
    /// While it is queued.
    pub waiting: Option<Waiting>,
    /// As far as that can be told.
    pub estimated_end: Option<Time>,
}

/// An agent's open session.
#[derive(Debug)]
pub struct Opened {
    /// Of this connection.
    pub session: Session,
    /// Under which it was opened.
    pub leader: LeaderEpoch,
    /// What to tell the agent; ends when the session does.
    pub commands: mpsc::Receiver<Command>,
}

/// How far a job's stored events reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Of its newest event.
    pub last_cursor: u64,
    /// Whether no more will come.
    pub is_final: bool,
}

impl Mark {
    pub(super) fn of(record: &JobRecord) -> Self {
        Self { last_cursor: record.last_cursor, is_final: record.state.is_final() }
    }
}

/// The state as of the newest commit, for the time of one question.
pub struct Live<'a> {
    /// All jobs and agents.
    pub core: &'a Core,
    /// The scheduler's time.
    pub now: Time,
    /// Where the leader is, if this is a standby's view.
    pub elsewhere: Option<&'a str>,
    pub(super) watchers: &'a mut BTreeMap<JobId, watch::Sender<Mark>>,
    /// Of the leader.
    pub(super) meters: &'a Meters,
}

impl Live<'_> {
    /// One job with why it waits.
    pub fn job(&self, job: JobId) -> Option<JobView> {
        let record = self.core.job(job)?.clone();
        let mut waiting = self.core.waiting(self.now, job);
        if let (Some(waiting), Some(leader)) = (&mut waiting, self.elsewhere) {
            waiting.reason = format!("only the leader at {leader} knows; this scheduler stands by");
            (waiting.estimated_start, waiting.estimated_end) = (None, None);
        }
        let running = || self.core.estimated_end(job).filter(|_| self.elsewhere.is_none());
        let estimated_end = waiting.as_ref().map_or_else(running, |waiting| waiting.estimated_end);
        Some(JobView { record, waiting, estimated_end })
    }

    /// The job that a request was about.
    pub(super) fn accepted_job(&self, accepted: Accepted) -> Result<JobView, Refusal> {
        match accepted.subject {
            Subject::Job(job) => self.job(job).ok_or(Refusal::UnknownJob(job)),
            Subject::Agent(agent) => Err(Refusal::UnknownAgent(agent)),
        }
    }

    /// Follows a job: changes whenever events have been stored, ends when the driver loses its state.
    pub fn watch(&mut self, job: JobId) -> Option<watch::Receiver<Mark>> {
        let mark = Mark::of(self.core.job(job)?);
        if mark.is_final {
            // Nothing will wake it: what is there is all there is.
            return Some(watch::channel(mark).1);
        }
        let sender = self.watchers.entry(job).or_insert_with(|| watch::Sender::new(mark));
        Some(sender.subscribe())
    }
}

/// Where an agent that greets is answered.
pub(super) type OpenReply = oneshot::Sender<Result<Opened, Refusal>>;
/// A question about the state.
pub(super) type Question = Box<dyn FnOnce(&mut Live<'_>) + Send>;
/// Where a user's request is answered.
pub(super) enum Reply {
    /// One about jobs, with the job as it is then.
    Job(oneshot::Sender<Result<JobView, Refusal>>),
    /// One about agents.
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

/// What the driver is sent. Dropping a message tells its sender [`Unavailable`].
pub(super) enum Message {
    /// A user's request.
    Request(Event, Reply),
    /// Something that nobody waits for. The permit is the sender's place in the inbox.
    Tell(Event, Option<OwnedSemaphorePermit>),
    /// An agent has connected.
    Open(Hello, OpenReply),
    /// A question.
    Ask(Question, Audience),
}

/// The way to the driver.
#[derive(Clone)]
pub struct Handle {
    inbox: mpsc::Sender<Message>,
    role: watch::Receiver<Role>,
}

impl Handle {
    /// The way, and its end. At most `capacity` messages wait; then senders do.
    pub(super) fn new(capacity: usize, role: watch::Receiver<Role>) -> (Self, mpsc::Receiver<Message>) {
        let (inbox, messages) = mpsc::channel(capacity);
        (Self { inbox, role }, messages)
    }

    /// Why the driver did not answer, as far as its role tells.
    fn unavailable(&self) -> Unavailable {
        match &*self.role.borrow() {
            Role::Standby(leader) => Unavailable { leader: Some(Arc::clone(leader)) },
            Role::Leading | Role::Away(_) => Unavailable { leader: None },
        }
    }

    /// Queues a job; `spec` is valid.
    ///
    /// # Errors
    /// The request id came with another spec before; or [`Unavailable`].
    pub async fn submit(
        &self,
        request_id: Option<String>,
        user: String,
        spec: JobSpec,
    ) -> Result<JobView, RequestError> {
        let job = JobId(uuid::Uuid::now_v7());
        self.request(Event::Submit { request_id, job, user, spec }).await
    }

    /// Queues many jobs, all or none; what is in `content` is valid. The answer is the first job.
    ///
    /// # Errors
    /// The request id came with something else before, the user may not have so many; or [`Unavailable`].
    pub async fn submit_group(
        &self,
        request_id: Option<String>,
        user: String,
        content: Content,
    ) -> Result<JobView, RequestError> {
        let id = JobGroupId(uuid::Uuid::now_v7());
        let group = JobGroupRecord { id, user: user.into(), request_id, content, created: Time(0) };
        self.request(Event::SubmitGroup { group: Arc::new(group) }).await
    }

    /// Ends many jobs.
    ///
    /// # Errors
    /// There is none of them; or [`Unavailable`].
    pub async fn cancel_many(&self, jobs: Vec<JobId>) -> Result<JobView, RequestError> {
        self.request(Event::CancelMany { jobs }).await
    }

    /// Ends a job.
    ///
    /// # Errors
    /// There is no such job; or [`Unavailable`].
    pub async fn cancel(&self, job: JobId) -> Result<JobView, RequestError> {
        self.request(Event::Cancel { job }).await
    }

    /// Queues a job again.
    ///
    /// # Errors
    /// There is no such job, or it has neither failed nor been cancelled; or [`Unavailable`].
    pub async fn retry(&self, job: JobId) -> Result<JobView, RequestError> {
        self.request(Event::Retry { job }).await
    }

    async fn request(&self, event: Event) -> Result<JobView, RequestError> {
        let (reply, answer) = oneshot::channel();
        self.send(Message::Request(event, Reply::Job(reply))).await?;
        Ok(answer.await.map_err(|_| self.unavailable())??)
    }

    /// Passes on what a person orders of an agent.
    ///
    /// # Errors
    /// The core declined; or [`Unavailable`].
    pub async fn order(&self, event: Event) -> Result<(), RequestError> {
        let (reply, answer) = oneshot::channel();
        self.send(Message::Request(event, Reply::Agent(reply))).await?;
        Ok(answer.await.map_err(|_| self.unavailable())??)
    }

    /// Opens an agent's session.
    ///
    /// # Errors
    /// Another process that lives has that agent's id; or [`Unavailable`].
    pub async fn open(&self, hello: Hello) -> Result<Opened, RequestError> {
        let (reply, answer) = oneshot::channel();
        self.send(Message::Open(hello, reply)).await?;
        Ok(answer.await.map_err(|_| self.unavailable())??)
    }

    /// Passes on what an agent says by its connection; what it says waits while `places` has none left, so
    /// that an agent that says much does not hold up the others.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub async fn say(&self, event: Event, places: &Arc<Semaphore>) -> Result<(), Unavailable> {
        // Nobody closes it.
        let place = Arc::clone(places).acquire_owned().await.ok();
        self.send(Message::Tell(event, place)).await
    }

    /// Says that an agent's connection is gone.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub async fn disconnected(&self, agent: AgentId, session: Session) -> Result<(), Unavailable> {
        self.send(Message::Tell(Event::AgentDisconnected { agent, session }, None)).await
    }

    /// Asks about what is stored. The leader's answer holds every change that was answered before, and none
    /// that is not durable; a standby's is a moment old.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Live<'_>) -> T + Send + 'static,
    ) -> Result<T, Unavailable> {
        self.ask_whom(Audience::Anyone, question).await
    }

    /// Asks what only the leader knows: sessions, telemetry, what runs where.
    ///
    /// # Errors
    /// [`Unavailable`], on a standby with the leader's address.
    pub async fn ask_leader<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Live<'_>) -> T + Send + 'static,
    ) -> Result<T, Unavailable> {
        self.ask_whom(Audience::Leader, question).await
    }

    async fn ask_whom<T: Send + 'static>(
        &self,
        audience: Audience,
        question: impl FnOnce(&mut Live<'_>) -> T + Send + 'static,
    ) -> Result<T, Unavailable> {
        let (reply, answer) = oneshot::channel();
        // Nobody may wait for the answer any more.
        let ask = move |live: &mut Live<'_>| drop(reply.send(question(live)));
        self.send(Message::Ask(Box::new(ask), audience)).await?;
        answer.await.map_err(|_| self.unavailable())
    }

    async fn send(&self, message: Message) -> Result<(), Unavailable> {
        self.inbox.send(message).await.map_err(|_| self.unavailable())
    }
}

/// What a request came to, to be answered once it is durable.
pub(super) struct Owed {
    pub(super) reply: Reply,
    pub(super) result: Result<Accepted, Refusal>,
}

/// Counts of jobs by state and of agents by state, for metrics.
#[derive(Debug, Clone, PartialEq)]
pub struct Census {
    /// In the order of [`JobState::ALL`].
    pub jobs: BTreeMap<JobState, usize>,
    /// Connected, disconnected, lost.
    pub agents: [usize; 3],
    /// Free, busy, taking no job, away with their agents.
    pub gpus: [usize; 4],
    /// Jobs whose trainer has ended and whose results are handed in, and those of them that wait for something.
    pub handing_in: (usize, usize),
    /// Slots that are closed because jobs ended there too soon.
    pub shut_slots: usize,
    /// Since this scheduler leads.
    pub counters: Counters,
    /// Since this scheduler leads.
    pub meters: Meters,
    /// How long ago agents were last heard of.
    pub heartbeat_ages: HeartbeatAges,
}

impl Live<'_> {
    /// Counts everything.
    pub fn census(&self) -> Census {
        let jobs = JobState::ALL.map(|state| (state, self.core.count(state))).into();
        let mut agents = [0; 3];
        for agent in self.core.agents() {
            agents[agent.state as usize] += 1;
        }
        let age = |agent: AgentView<'_>| {
            let name = (agent.record.name.clone(), agent.record.id.to_string());
            (name, self.now.since(agent.last_seen))
        };
        Census {
            jobs,
            agents,
            gpus: self.gpus(),
            handing_in: self.core.handing_in(),
            shut_slots: self.core.shut_slots(),
            counters: self.core.counters().clone(),
            meters: self.meters.clone(),
            heartbeat_ages: self.core.agents().map(age).collect(),
        }
    }

    fn gpus(&self) -> [usize; 4] {
        let mut gpus = [0; 4];
        for agent in self.core.agents() {
            for gpu in &agent.record.inventory.gpus {
                let slot = Slot::Gpu(gpu.uuid.clone());
                let state = match (agent.state, agent.closed(&slot)) {
                    (AgentState::Disconnected | AgentState::Lost, _) => 3,
                    (AgentState::Connected, _) if agent.running.contains_key(&slot) => 1,
                    (AgentState::Connected, Some(_)) => 2,
                    (AgentState::Connected, None) => 0,
                };
                gpus[state] += 1;
            }
        }
        gpus
    }
}

//! The way to the driver: its bounded queue of messages, and what a caller is told when it does not answer.

use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use trainyard_scheduler_core::{Content, Event, Hello, JobGroupRecord, Refusal};
use trainyard_types::{AgentId, JobGroupId, JobId, JobSpec, Session, Time};

use super::message::{Audience, Message, Opened, Reply};
use super::role::Role;
use super::state_view::{JobView, StateView};

/// The driver is not there, does not lead, or could not make the change durable. Whether an event took effect
/// is not known; asking again is safe.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the scheduler's store is not available; try again")]
pub struct Unavailable {
    /// Where to ask, if another scheduler leads.
    pub leader: Option<Arc<str>>,
    /// Whether that is so since the disk under the store is full.
    pub disk_full: bool,
}

/// Why a user's request was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The core refused it; nothing changed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The driver did not answer.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// The way to the driver.
#[derive(Clone)]
pub struct Handle {
    messages: mpsc::Sender<Message>,
    role: watch::Receiver<Role>,
}

impl Handle {
    /// The way, and its end. At most `capacity` messages wait; then senders do.
    pub(super) fn new(capacity: usize, role: watch::Receiver<Role>) -> (Self, mpsc::Receiver<Message>) {
        let (sender, messages) = mpsc::channel(capacity);
        (Self { messages: sender, role }, messages)
    }

    /// Why the driver did not answer, as far as its role tells.
    fn unavailable(&self) -> Unavailable {
        match &*self.role.borrow() {
            Role::Standby(leader) => Unavailable { leader: Some(Arc::clone(leader)), disk_full: false },
            Role::DiskFull(_) => Unavailable { leader: None, disk_full: true },
            Role::Leading | Role::Unavailable(_) => Unavailable { leader: None, disk_full: false },
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

    /// Gives a job that waits another priority; it is valid.
    ///
    /// # Errors
    /// There is no such job, or it does not wait; or [`Unavailable`].
    pub async fn set_priority(&self, job: JobId, priority: i32) -> Result<JobView, RequestError> {
        self.request(Event::SetPriority { job, priority }).await
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
    /// [`Unavailable`], where the driver has ended.
    pub async fn say(&self, event: Event, places: &Arc<Semaphore>) -> Result<(), Unavailable> {
        // Nobody closes it.
        let place = Arc::clone(places).acquire_owned().await.ok();
        self.send(Message::Tell(event, place)).await
    }

    /// Says that an agent's connection is gone.
    ///
    /// # Errors
    /// [`Unavailable`], where the driver has ended.
    pub async fn disconnected(&self, agent: AgentId, session: Session) -> Result<(), Unavailable> {
        self.send(Message::Tell(Event::AgentDisconnected { agent, session }, None)).await
    }

    /// Asks about what is stored. The leader's answer holds every change that was answered before, and none
    /// that is not durable; a standby's is a moment old.
    ///
    /// # Errors
    /// [`Unavailable`], where the driver has ended.
    pub async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut StateView<'_>) -> T + Send + 'static,
    ) -> Result<T, Unavailable> {
        self.ask_whom(Audience::Anyone, question).await
    }

    /// Asks what only the leader knows: sessions, telemetry, what runs where.
    ///
    /// # Errors
    /// [`Unavailable`], on a standby with the leader's address.
    pub async fn ask_leader<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut StateView<'_>) -> T + Send + 'static,
    ) -> Result<T, Unavailable> {
        self.ask_whom(Audience::Leader, question).await
    }

    async fn ask_whom<T: Send + 'static>(
        &self,
        audience: Audience,
        question: impl FnOnce(&mut StateView<'_>) -> T + Send + 'static,
    ) -> Result<T, Unavailable> {
        let (reply, answer) = oneshot::channel();
        // Nobody may wait for the answer any more.
        let ask = move |state: &mut StateView<'_>| drop(reply.send(question(state)));
        self.send(Message::Ask(Box::new(ask), audience)).await?;
        answer.await.map_err(|_| self.unavailable())
    }

    async fn send(&self, message: Message) -> Result<(), Unavailable> {
        self.messages.send(message).await.map_err(|_| self.unavailable())
    }
}

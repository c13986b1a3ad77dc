//! The connection to the scheduler: dials, says Hello, sends heartbeats and reports, and connects again when it breaks.
//! Training does not notice.

mod duplicate_identity;
mod refused;

use std::mem;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{StreamExt, once};
use tokio_util::sync::CancellationToken;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};
use tracing::{debug, error, info, warn};
use trainyard_access::ConnectionProblem;
use trainyard_content::Kind;
use trainyard_proto::convert::agent::{self, Hello, InvalidMessage};
use trainyard_proto::pb;
use trainyard_proto::pb::agent_message::Message as ToScheduler;
use trainyard_proto::pb::agent_service_client::AgentServiceClient;
use trainyard_proto::pb::scheduler_message::Message as FromScheduler;
use trainyard_proto::route::{Next, Route};
use trainyard_types::{Assignment, AttemptId, GpuUuid, Inventory, LeaderEpoch, Reference, Session};

use crate::agent_status::AgentStatus;
use crate::backoff::Backoff;
use crate::enrolment::{Credentials, how_to_join};
use crate::identity::Identity;
use crate::message::{
    DataCheckRequest, DataCheckRequests, Event, GpuMonitorLink, Input, Prefetch, Readings, Reloaded,
    SchedulerLink, agent_message,
};
use duplicate_identity::DuplicateIdentity;

/// How long a scheduler may take for each step of the greeting.
const GREETING_STEP_WITHIN: Duration = Duration::from_secs(10);

/// How often an idle connection is probed, and how long an answer may take. A leader that is paused is left
/// well before the agent's lease is over.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// Reports that may wait in the connection; more wait in the spools.
const OUTGOING: usize = 16;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error("`{0}` is no URL of a scheduler: {1}")]
    Url(String, tonic::transport::Error),
    #[error("cannot connect to {0}: {1}")]
    Connect(String, String, Option<ConnectionProblem>),
    #[error("this agent has another identity than its certificate is for")]
    OtherIdentity,
    #[error("the certificate was renewed")]
    NewCertificate,
    #[error("the machine has other owners now")]
    NewOwners,
    #[error("the scheduler does not answer within {} s", GREETING_STEP_WITHIN.as_secs())]
    NoAnswer,
    #[error("the scheduler ended the connection: {} ({:?})", .0.message(), .0.code())]
    Status(Box<tonic::Status>),
    #[error("the scheduler ended the connection")]
    Closed,
    #[error("the scheduler did not say Welcome first")]
    NoWelcome,
    #[error(
        "the scheduler has leader epoch {0}, but a newer one with {1} was seen; it is refused until this agent is restarted"
    )]
    Deposed(LeaderEpoch, LeaderEpoch),
    #[error("this machine offers other GPUs than it said")]
    OtherGpus,
    #[error("the agent is stopping")]
    Stopping,
}

impl LinkError {
    /// The scheduler's answer, if there was one.
    fn answer(&self) -> Option<&tonic::Status> {
        match self {
            Self::Status(status) => Some(status),
            _ => None,
        }
    }

    /// What was wrong with encryption, if that was it.
    fn problem(&self) -> Option<ConnectionProblem> {
        match self {
            Self::Connect(_, _, problem) => problem.clone(),
            Self::Status(status) => ConnectionProblem::of(&**status),
            _ => None,
        }
    }

    /// What a person can do about it, if waiting is not enough.
    fn way_out(&self, scheduler: &str) -> Option<String> {
        if let Self::OtherIdentity = self {
            return Some(format!(
                "{}, or start this agent again if it has a `join_token_file`",
                how_to_join(scheduler)
            ));
        }
        refused::way_out(self.answer(), self.problem().as_ref(), scheduler)
    }
}

impl From<tonic::Status> for LinkError {
    fn from(status: tonic::Status) -> Self {
        Self::Status(Box::new(status))
    }
}

/// What the task works with.
pub struct Connection {
    /// The schedulers, and which of them is tried next.
    pub route: Route,
    /// The agent's identity.
    pub identity: Identity,
    /// The agent's name for people.
    pub name: String,
    /// Users who may reserve and drain it, and what else can change.
    pub reload: watch::Receiver<Reloaded>,
    /// What connections are made with; changes when the certificate is renewed.
    pub credentials: watch::Receiver<Credentials>,
    /// The attempts to name in a Hello.
    pub held: watch::Receiver<Vec<AttemptId>>,
    /// What Hello and heartbeats tell of the GPUs.
    pub readings: watch::Receiver<Readings>,
    /// What Hello and heartbeats tell beside that.
    pub status: watch::Receiver<AgentStatus>,
    /// The channels with the GPU monitor.
    pub gpu_monitor: GpuMonitorLink,
    /// Looks at data sets for the scheduler.
    pub data_checks: DataCheckRequests,
    /// Where it is told what is to be prefetched.
    pub prefetch: watch::Sender<Option<Prefetch>>,
    /// The driver's inbox.
    pub inbox: mpsc::Sender<Input>,
    /// Where transfers find the scheduler.
    pub link: watch::Sender<Option<SchedulerLink>>,
    /// Counts the heartbeats that were sent.
    pub heartbeats_sent: watch::Sender<u64>,
    /// Why there is no scheduler, a sentence; empty while there is one.
    pub problem: watch::Sender<String>,
}

/// One connection after its greeting.
struct OpenConnection {
    incoming: Streaming<pb::SchedulerMessage>,
    heartbeats: mpsc::Sender<pb::AgentMessage>,
    samples: mpsc::Sender<pb::AgentMessage>,
    reports: mpsc::Sender<pb::AgentMessage>,
    /// The way of answers to checks of data sets.
    answers: mpsc::Sender<pb::AgentMessage>,
    welcome: pb::Welcome,
    channel: Channel,
    /// The agent status that the Hello had.
    told: AgentStatus,
    /// The inventory that the Hello had.
    offered: Inventory,
    /// The owners that the Hello had.
    owners: Vec<String>,
}

impl Connection {
    /// Keeps a connection until `stop` is cancelled.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut backoff = Backoff::default();
        let mut newest = LeaderEpoch(0);
        let mut duplicate = DuplicateIdentity::default();
        // The first failure counts as one of a connection.
        let mut was_connected = true;
        let mut told = None;
        loop {
            let Some(result) = stop.run_until_cancelled(self.greet(newest)).await else { return };
            let error = match result {
                Ok(open) => {
                    backoff.reset();
                    told = None;
                    self.route.worked();
                    self.problem.send_replace(String::new());
                    duplicate = DuplicateIdentity::default();
                    newest = LeaderEpoch(open.welcome.leader_epoch);
                    let Some(ended) = stop.run_until_cancelled(self.communicate(open)).await else { return };
                    was_connected = true;
                    self.link.send_replace(None);
                    if self.inbox.send(Input::Disconnected).await.is_err() {
                        return;
                    }
                    ended
                }
                Err(error) => error,
            };
            if matches!(error, LinkError::OtherGpus | LinkError::NewCertificate | LinkError::NewOwners) {
                info!("{error}: the scheduler is greeted again");
                continue;
            }
            if duplicate.is_reported(error.answer()) {
                was_connected = false;
                duplicate.resolve(&self.identity, self.held.borrow().is_empty());
            }
            let way_out = error.way_out(self.route.target());
            let hint = self.never_joined(&error);
            self.problem.send_replace(match way_out.as_ref().or(hint.as_ref()) {
                Some(way_out) => format!("{error}: {way_out}"),
                None => error.to_string(),
            });
            let is_news = way_out.is_some() && way_out != told;
            let first = mem::take(&mut was_connected);
            if is_news {
                // Once: nothing changes before somebody does something.
                error!(%error, "{}; training goes on meanwhile", way_out.as_deref().unwrap_or_default());
                told = way_out;
            } else if first {
                warn!(%error, hint, "no scheduler, will try again; training goes on");
            } else {
                debug!(%error, scheduler = self.route.target(), "still no scheduler");
            }
            let wait = match self.route.failed(error.answer()) {
                Next::Now => continue,
                // A standby that answers knows how soon there is a leader again.
                Next::After(Some(asked)) => Backoff::jittered(asked),
                Next::After(None) => backoff.next_wait(),
            };
            let wait = async {
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    Ok(()) = self.credentials.changed() => {}
                }
            };
            if stop.run_until_cancelled(wait).await.is_none() {
                return;
            }
        }
    }

    /// What may be wrong where an agent that has no certificate finds no scheduler.
    fn never_joined(&self, error: &LinkError) -> Option<String> {
        if self.credentials.borrow().agent.is_some() || !matches!(error, LinkError::Connect(..)) {
            return None;
        }
        // One of this machine itself is most likely not the one that is meant.
        let target = self.route.target();
        let is_here = ["127.0.0.1", "localhost", "[::1]"].iter().any(|here| target.contains(here));
        let join = how_to_join(if is_here { "ADDRESS" } else { target });
        Some(format!(
            "this machine has joined no cluster; if its scheduler is elsewhere, or encrypted, {join}"
        ))
    }

    /// Dials, says Hello and receives Welcome.
    async fn greet(&mut self, newest: LeaderEpoch) -> Result<OpenConnection, LinkError> {
        let Credentials { connector, agent, schedulers } = self.credentials.borrow_and_update().clone();
        if !schedulers.is_empty() && self.route.known() != schedulers {
            self.route = Route::new(schedulers);
        }
        let scheduler = self.route.target().to_owned();
        if scheduler.starts_with("https://") && agent.is_some_and(|agent| agent != self.identity.agent()) {
            return Err(LinkError::OtherIdentity);
        }
        let endpoint = Endpoint::from_shared(scheduler.clone())
            .map_err(|error| LinkError::Url(scheduler.clone(), error))?
            .connect_timeout(GREETING_STEP_WITHIN)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .keep_alive_while_idle(true);
        let channel = endpoint.connect_with_connector(connector).await.map_err(|error| {
            let problem = ConnectionProblem::of(&error);
            let text = problem.as_ref().map_or_else(|| causes(&error), ToString::to_string);
            LinkError::Connect(scheduler.clone(), text, problem)
        })?;
        let (heartbeats, heartbeats_out) = mpsc::channel(1);
        let (samples, samples_out) = mpsc::channel(1);
        let (reports, reports_out) = mpsc::channel(OUTGOING);
        let (answers, answers_out) = mpsc::channel(1);
        // A queue of reports does not hold a heartbeat up.
        let other = ReceiverStream::new(reports_out).merge(ReceiverStream::new(samples_out));
        let other = other.merge(ReceiverStream::new(answers_out));
        let later = ReceiverStream::new(heartbeats_out).merge(other);
        let (told, hello) = self.hello();
        let (offered, owners) = (hello.inventory.clone(), hello.owners.clone());
        let said = once(agent_message(ToScheduler::Hello((&hello).into()))).chain(later);
        let mut client = AgentServiceClient::new(channel.clone());
        let answer =
            timeout(GREETING_STEP_WITHIN, client.connect(said)).await.map_err(|_| LinkError::NoAnswer)?;
        let mut incoming = answer?.into_inner();
        let first =
            timeout(GREETING_STEP_WITHIN, incoming.message()).await.map_err(|_| LinkError::NoAnswer)??;
        let Some(FromScheduler::Welcome(welcome)) = first.ok_or(LinkError::Closed)?.message else {
            return Err(LinkError::NoWelcome);
        };
        let epoch = LeaderEpoch(welcome.leader_epoch);
        if epoch < newest {
            return Err(LinkError::Deposed(epoch, newest));
        }
        let (session, version) = (welcome.session, &welcome.version);
        info!(scheduler, version, leader_epoch = epoch.0, session, "connected");
        Ok(OpenConnection {
            incoming,
            heartbeats,
            samples,
            reports,
            answers,
            welcome,
            channel,
            told,
            offered,
            owners,
        })
    }

    fn hello(&self) -> (AgentStatus, Hello) {
        let readings = self.readings.borrow().clone();
        let status = self.status.borrow().clone();
        let hello = Hello {
            agent: self.identity.agent(),
            name: self.name.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            inventory: readings.inventory,
            telemetry: readings.telemetry,
            attempts: self.held.borrow().clone(),
            fit_records: status.fit_records.clone(),
            unavailable: status.unavailable(),
            cached_data: status.cached_data.clone(),
            fitness: status.fitness_now(),
            instance: self.identity.instance().to_owned(),
            owners: self.reload.borrow().owners.clone(),
        };
        (status, hello)
    }

    /// Hands over what the scheduler says, and sends heartbeats, until the connection ends.
    async fn communicate(&mut self, mut open: OpenConnection) -> LinkError {
        let session = Session(open.welcome.session);
        let takes_pictures = open.welcome.takes_pictures;
        self.link.send_replace(Some(SchedulerLink { channel: open.channel, session, takes_pictures }));
        if self.inbox.send(Input::Connected(open.reports)).await.is_err() {
            return LinkError::Stopping;
        }
        let every = Duration::from_millis(open.welcome.heartbeat_ms.clamp(50, 60_000).into());
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = mem::take(&mut open.told);
        let owners = mem::take(&mut open.owners);
        // What Hello said may be older than what is known now.
        let mut heartbeat_is_due = true;
        loop {
            tokio::select! {
                heard = open.incoming.message() => {
                    let input = match heard {
                        Ok(Some(heard)) => self.input(heard, &open.answers),
                        Ok(None) => return LinkError::Closed,
                        Err(status) => return status.into(),
                    };
                    if let Some(input) = input && self.inbox.send(input).await.is_err() {
                        return LinkError::Stopping;
                    }
                }
                _ = ticks.tick() => heartbeat_is_due = true,
                Ok(()) = self.readings.changed() => {
                    let readings = self.readings.borrow_and_update();
                    // Only a Hello says what there is.
                    if readings.inventory != open.offered {
                        return LinkError::OtherGpus;
                    }
                    heartbeat_is_due |= readings.revision > *self.gpu_monitor.told.borrow();
                }
                Ok(()) = self.credentials.changed() => return LinkError::NewCertificate,
                Ok(()) = self.reload.changed() => if self.reload.borrow_and_update().owners != owners {
                    return LinkError::NewOwners;
                },
                Ok(()) = self.status.changed() => heartbeat_is_due |= self.status.borrow_and_update().is_urgent(&told),
                Ok(permit) = open.heartbeats.reserve(), if heartbeat_is_due => {
                    heartbeat_is_due = false;
                    let readings = self.readings.borrow().clone();
                    let gpus = agent::gpus(&readings.inventory.gpus, &readings.telemetry);
                    let status = self.status.borrow().clone();
                    permit.send(agent_message(ToScheduler::Heartbeat(status.heartbeat(gpus, &told.fit_records))));
                    told = status;
                    self.gpu_monitor.told.send_replace(readings.revision);
                    self.heartbeats_sent.send_modify(|sent| *sent += 1);
                }
                Some(telemetry) = self.gpu_monitor.samples.recv() => {
                    // Full: the network is slow, and this is no report.
                    let _dropped = open.samples.try_send(agent_message(ToScheduler::Telemetry(telemetry)));
                }
            }
        }
    }

    /// What a message of the scheduler means for the driver. What is for others is sent there.
    fn input(&self, heard: pb::SchedulerMessage, answers: &mpsc::Sender<pb::AgentMessage>) -> Option<Input> {
        match heard.message {
            Some(FromScheduler::ClearGpu(clear)) => {
                // Full: somebody is clearing very fast, and can do so again.
                let _dropped = self.gpu_monitor.clears.try_send(GpuUuid(clear.gpu));
                None
            }
            Some(FromScheduler::CheckData(check)) => {
                self.check_data(check, answers.clone());
                None
            }
            Some(FromScheduler::Prefetch(prefetch)) => {
                match parse_prefetch(&prefetch) {
                    Some(prefetch) => {
                        self.prefetch.send_replace(Some(prefetch));
                    }
                    None => {
                        warn!(reference = prefetch.reference, "what is to be prefetched is not understood");
                    }
                }
                None
            }
            _ => parse_input(heard),
        }
    }

    /// Has a data set looked at. A request that is not understood has no answer, and the scheduler goes on without.
    fn check_data(&self, check: pb::CheckData, answers: mpsc::Sender<pb::AgentMessage>) {
        let id = check.check_id;
        match agent::parse_check_data(check) {
            Ok((data, time_limit)) => {
                let came = tokio::time::Instant::now();
                self.data_checks.send(DataCheckRequest { id, data, time_limit, came, answers });
            }
            Err(error) => warn!(%error, "a data set to look at is not understood"),
        }
    }
}

/// What a message of the scheduler means. One that is not understood is logged and left out.
fn parse_input(heard: pb::SchedulerMessage) -> Option<Input> {
    let parsed = match heard.message {
        Some(FromScheduler::Assign(assign)) => Ok(assigned(assign)),
        Some(FromScheduler::Stop(stop)) => stop_event(&stop).map(Some),
        Some(FromScheduler::Revoke(revoke)) => {
            agent::parse_attempt(&revoke.attempt).map(|id| Some(Input::Core(Event::Revoked(id))))
        }
        Some(FromScheduler::Ack(ack)) => {
            agent::parse_attempt(&ack.attempt).map(|id| Some(Input::Acked(id, ack.sequence)))
        }
        // Welcome is only the first message, and others' were sent there.
        Some(
            FromScheduler::Welcome(_)
            | FromScheduler::ClearGpu(_)
            | FromScheduler::CheckData(_)
            | FromScheduler::Prefetch(_),
        )
        | None => Ok(None),
    };
    parsed.unwrap_or_else(|error| {
        warn!(%error, "a message of the scheduler is not understood");
        None
    })
}

fn parse_prefetch(prefetch: &pb::Prefetch) -> Option<Prefetch> {
    let kind = match prefetch.kind() {
        pb::DatasetKind::Weights => Kind::Weights,
        pb::DatasetKind::Dataset | pb::DatasetKind::Unspecified => Kind::DataSet,
    };
    let reference = prefetch.reference.parse().ok().filter(Reference::is_exact)?;
    Some(Prefetch { kind, reference })
}

fn stop_event(stop: &pb::Stop) -> Result<Input, InvalidMessage> {
    let attempt = agent::parse_attempt(&stop.attempt)?;
    let grace = (stop.grace_ms > 0).then(|| Duration::from_millis(stop.grace_ms.into()));
    Ok(Input::Core(Event::Stop { attempt, reason: agent::parse_end_reason(stop.reason)?, grace }))
}

/// Parses an assignment. One that does not parse still gets an answer, if it names its attempt.
fn assigned(assign: pb::Assign) -> Option<Input> {
    let id = agent::parse_attempt(&assign.attempt);
    match (Assignment::try_from(assign), id) {
        (Ok(assignment), _) => Some(Input::Core(Event::Assigned(Box::new(assignment)))),
        (Err(error), Ok(id)) => {
            let text = format!("this agent does not understand the job: {error}");
            Some(Input::Core(Event::AssignmentUnsupported(id, text)))
        }
        (Err(error), Err(_)) => {
            warn!(%error, "an assignment is not understood");
            None
        }
    }
}

/// An error with its causes, which tonic hides behind "transport error".
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

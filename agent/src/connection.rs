//! The agent's connection: dials the scheduler, says Hello, sends heartbeats and reports, and comes back
//! when it breaks. Training does not notice.

use std::mem;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{StreamExt, once};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Streaming};
use tracing::{debug, info, warn};
use trainyard_proto::convert::agent::{self, Hello, InvalidMessage};
use trainyard_proto::pb;
use trainyard_proto::pb::agent_message::Message as Said;
use trainyard_proto::pb::agent_service_client::AgentServiceClient;
use trainyard_proto::pb::scheduler_message::Message as Heard;
use trainyard_proto::route::{Next, Route};
use trainyard_types::{Assignment, AttemptId, GpuTelemetry, GpuUuid, Inventory, LeaderEpoch, Session};

use crate::advert::Advert;
use crate::backoff::Backoff;
use crate::core::Event;
use crate::driver::Input;
use crate::identity::Identity;
use crate::transfer::Link;

/// How long a scheduler may take for each step of a greeting.
const GREETING: Duration = Duration::from_secs(10);

/// How often a silent connection is probed, and how long an answer may take. A leader that is paused is left
/// well before the agent's lease is over.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// How long the scheduler must say that another agent has this one's identity before it takes a new one: longer than
/// the scheduler may hold a former process of the same agent to be there.
const REDRAW_AFTER: Duration = Duration::from_secs(15);

/// How often people are told that another agent has this identity.
const REMIND_AFTER: Duration = Duration::from_secs(60);

/// Reports on their way into the connection; more wait in the spools.
const OUTGOING: usize = 16;

/// What the machine is and does, read anew every few seconds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Readings {
    /// What it offers.
    pub inventory: Inventory,
    /// What its GPUs do.
    pub telemetry: Vec<GpuTelemetry>,
    /// Counts how often it has changed which GPUs take jobs; that is told at once.
    pub revision: u64,
    /// Counts how often the GPUs were looked at.
    pub looks: u64,
}

impl Readings {
    /// What a GPU does.
    pub fn card(&self, uuid: &GpuUuid) -> Option<&GpuTelemetry> {
        self.telemetry.iter().find(|card| card.uuid == *uuid)
    }
}

/// The connection's ends of the GPUs' keeper.
#[derive(Debug)]
pub struct CardEnds {
    /// The newest [`Readings::revision`] that a heartbeat carried.
    pub told: watch::Sender<u64>,
    /// GPUs that somebody calls sound.
    pub clears: mpsc::Sender<GpuUuid>,
    /// What the GPUs did.
    pub samples: mpsc::Receiver<pb::Telemetry>,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error("`{0}` is no URL of a scheduler: {1}")]
    Url(String, tonic::transport::Error),
    #[error("cannot connect to {0}: {1}")]
    Connect(String, String),
    #[error("the scheduler does not answer within {} s", GREETING.as_secs())]
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
    OtherCards,
    #[error("the agent is stopping")]
    Stopping,
}

impl LinkError {
    /// What a scheduler said.
    fn answer(&self) -> Option<&tonic::Status> {
        match self {
            Self::Status(status) => Some(status),
            _ => None,
        }
    }
}

impl From<tonic::Status> for LinkError {
    fn from(status: tonic::Status) -> Self {
        Self::Status(Box::new(status))
    }
}

/// The agent's end of the link.
pub struct Connection {
    /// Which schedulers there are.
    pub route: Route,
    /// Who we are.
    pub identity: Identity,
    /// What people call us.
    pub name: String,
    /// What to name in a Hello.
    pub held: watch::Receiver<Vec<AttemptId>>,
    /// What to tell in Hello and heartbeats.
    pub readings: watch::Receiver<Readings>,
    /// What else to tell in Hello and heartbeats.
    pub advert: watch::Receiver<Advert>,
    /// The GPUs' keeper.
    pub cards: CardEnds,
    /// The driver's inbox.
    pub inbox: mpsc::Sender<Input>,
    /// Where transfers find the scheduler.
    pub link: watch::Sender<Option<Link>>,
    /// Counts heartbeats.
    pub beats: watch::Sender<u64>,
}

/// Another machine that runs under this agent's identity.
#[derive(Debug, Default)]
struct Double {
    /// Since when the scheduler says that another one is connected.
    since: Option<Instant>,
    /// When people were told last.
    told: Option<Instant>,
}

impl Double {
    /// Whether the scheduler's answer names such a double.
    fn is_met(&mut self, error: &LinkError) -> bool {
        let met = error.answer().is_some_and(|status| status.code() == Code::AlreadyExists);
        self.since = self.since.filter(|_| met).or_else(|| met.then(Instant::now));
        met
    }

    /// Becomes somebody else, if there is nothing that is told under this name. A former process of this very agent
    /// is forgotten by the scheduler before that.
    fn resolve(&mut self, identity: &Identity, is_idle: bool) {
        let Some(since) = self.since else { return };
        if is_idle && since.elapsed() >= REDRAW_AFTER {
            match identity.redraw() {
                Ok(()) => *self = Self::default(),
                Err(error) => {
                    warn!("another agent has this one's identity, and no new one can be kept: {error:#}");
                }
            }
            return;
        }
        if self.told.is_none_or(|told| told.elapsed() >= REMIND_AFTER) {
            self.told = Some(Instant::now());
            let agent = identity.agent();
            if is_idle {
                let seconds = REDRAW_AFTER.as_secs();
                warn!(%agent, "another agent with this identity is connected; in {seconds} s this one takes a new one");
            } else {
                warn!(
                    %agent,
                    "another agent with this identity is connected, and this one holds jobs that it cannot hand in: if \
                     its data directory is a copy, stop it, remove `jobs` and `identity.json` there and start it again; \
                     if it is the original, stop the other one"
                );
            }
        }
    }
}

/// The ends of one connection.
struct Talk {
    heard: Streaming<pb::SchedulerMessage>,
    heartbeats: mpsc::Sender<pb::AgentMessage>,
    samples: mpsc::Sender<pb::AgentMessage>,
    reports: mpsc::Sender<pb::AgentMessage>,
    welcome: pb::Welcome,
    channel: Channel,
    /// What the Hello said.
    told: Advert,
    offered: Inventory,
}

impl Connection {
    /// Connects again and again until `stop` is cancelled.
    pub async fn keep(mut self, stop: CancellationToken) {
        let mut backoff = Backoff::default();
        let mut newest = LeaderEpoch(0);
        let mut double = Double::default();
        // The first failure counts as one of a connection.
        let mut was_connected = true;
        loop {
            let Some(result) = stop.run_until_cancelled(self.greet(newest)).await else { return };
            let error = match result {
                Ok(talk) => {
                    backoff.reset();
                    self.route.worked();
                    double = Double::default();
                    newest = LeaderEpoch(talk.welcome.leader_epoch);
                    let Some(ended) = stop.run_until_cancelled(self.talk(talk)).await else { return };
                    was_connected = true;
                    self.link.send_replace(None);
                    if self.inbox.send(Input::Down).await.is_err() {
                        return;
                    }
                    ended
                }
                Err(error) => error,
            };
            if matches!(error, LinkError::OtherCards) {
                info!("{error}: the scheduler is greeted again");
                continue;
            }
            if double.is_met(&error) {
                was_connected = false;
                double.resolve(&self.identity, self.held.borrow().is_empty());
            }
            if mem::take(&mut was_connected) {
                warn!(%error, "no scheduler, will try again; training goes on");
            } else {
                debug!(%error, scheduler = self.route.target(), "still no scheduler");
            }
            let wait = match self.route.failed(error.answer()) {
                Next::Now => continue,
                // A standby that answers knows how soon there is a leader again.
                Next::After(Some(asked)) => Backoff::jittered(asked),
                Next::After(None) => backoff.next_wait(),
            };
            if stop.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
                return;
            }
        }
    }

    /// Dials, says Hello and hears Welcome.
    async fn greet(&mut self, newest: LeaderEpoch) -> Result<Talk, LinkError> {
        let scheduler = self.route.target().to_owned();
        let endpoint = Endpoint::from_shared(scheduler.clone())
            .map_err(|error| LinkError::Url(scheduler.clone(), error))?
            .connect_timeout(GREETING)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .keep_alive_while_idle(true)
            .tcp_nodelay(true);
        let channel = endpoint
            .connect()
            .await
            .map_err(|error| LinkError::Connect(scheduler.clone(), causes(&error)))?;
        let (heartbeats, beating) = mpsc::channel(1);
        let (samples, sampling) = mpsc::channel(1);
        let (reports, reporting) = mpsc::channel(OUTGOING);
        // A queue of reports does not hold a heartbeat up.
        let mass = ReceiverStream::new(reporting).merge(ReceiverStream::new(sampling));
        let later = ReceiverStream::new(beating).merge(mass);
        let (told, hello) = self.hello();
        let offered = hello.inventory.clone();
        let said = once(message(Said::Hello((&hello).into()))).chain(later);
        let mut client = AgentServiceClient::new(channel.clone());
        let answer = timeout(GREETING, client.connect(said)).await.map_err(|_| LinkError::NoAnswer)?;
        let mut heard = answer?.into_inner();
        let first = timeout(GREETING, heard.message()).await.map_err(|_| LinkError::NoAnswer)??;
        let Some(Heard::Welcome(welcome)) = first.ok_or(LinkError::Closed)?.message else {
            return Err(LinkError::NoWelcome);
        };
        let epoch = LeaderEpoch(welcome.leader_epoch);
        if epoch < newest {
            return Err(LinkError::Deposed(epoch, newest));
        }
        let (session, version) = (welcome.session, &welcome.version);
        info!(scheduler, version, leader_epoch = epoch.0, session, "connected");
        Ok(Talk { heard, heartbeats, samples, reports, welcome, channel, told, offered })
    }

    fn hello(&self) -> (Advert, Hello) {
        let readings = self.readings.borrow().clone();
        let advert = self.advert.borrow().clone();
        let hello = Hello {
            agent: self.identity.agent(),
            name: self.name.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            inventory: readings.inventory,
            telemetry: readings.telemetry,
            attempts: self.held.borrow().clone(),
            fit_records: advert.fit_records.clone(),
            unavailable: advert.unavailable(),
            cached_data: advert.cached_data.clone(),
            fitness: advert.fitness_now(),
            instance: self.identity.instance().to_owned(),
        };
        (advert, hello)
    }

    /// Hands over what the scheduler says and beats, until the connection ends.
    async fn talk(&mut self, mut talk: Talk) -> LinkError {
        let session = Session(talk.welcome.session);
        self.link.send_replace(Some(Link { channel: talk.channel, session }));
        if self.inbox.send(Input::Up(talk.reports)).await.is_err() {
            return LinkError::Stopping;
        }
        let every = Duration::from_millis(talk.welcome.heartbeat_ms.clamp(50, 60_000).into());
        let mut beats = interval(every);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = mem::take(&mut talk.told);
        // What Hello said may be older than what is known now.
        let mut owed = true;
        loop {
            tokio::select! {
                heard = talk.heard.message() => {
                    let input = match heard {
                        Ok(Some(heard)) => self.input(heard),
                        Ok(None) => return LinkError::Closed,
                        Err(status) => return status.into(),
                    };
                    if let Some(input) = input && self.inbox.send(input).await.is_err() {
                        return LinkError::Stopping;
                    }
                }
                _ = beats.tick() => owed = true,
                Ok(()) = self.readings.changed() => {
                    let readings = self.readings.borrow_and_update();
                    // Only a Hello says what there is.
                    if readings.inventory != talk.offered {
                        return LinkError::OtherCards;
                    }
                    owed |= readings.revision > *self.cards.told.borrow();
                }
                Ok(()) = self.advert.changed() => owed |= self.advert.borrow_and_update().is_urgent(&told),
                Ok(permit) = talk.heartbeats.reserve(), if owed => {
                    owed = false;
                    let readings = self.readings.borrow().clone();
                    let gpus = agent::gpus(&readings.inventory.gpus, &readings.telemetry);
                    let advert = self.advert.borrow().clone();
                    permit.send(message(Said::Heartbeat(advert.heartbeat(gpus, &told.fit_records))));
                    told = advert;
                    self.cards.told.send_replace(readings.revision);
                    self.beats.send_modify(|beats| *beats += 1);
                }
                Some(telemetry) = self.cards.samples.recv() => {
                    // Full: the network is slow, and this is no report.
                    let _dropped = talk.samples.try_send(message(Said::Telemetry(telemetry)));
                }
            }
        }
    }

    /// What a message of the scheduler means for the driver; what is for the keeper of GPUs goes there.
    fn input(&self, heard: pb::SchedulerMessage) -> Option<Input> {
        if let Some(Heard::ClearGpu(clear)) = heard.message {
            // Full: somebody is clearing very fast, and can do so again.
            let _dropped = self.cards.clears.try_send(GpuUuid(clear.gpu));
            return None;
        }
        input(heard)
    }
}

/// A message of ours.
pub const fn message(said: Said) -> pb::AgentMessage {
    pb::AgentMessage { message: Some(said) }
}

/// What a message of the scheduler means; one that means nothing is logged and left out.
fn input(heard: pb::SchedulerMessage) -> Option<Input> {
    let parsed = match heard.message {
        Some(Heard::Assign(assign)) => Ok(assigned(assign)),
        Some(Heard::Stop(stop)) => stop_event(&stop).map(Some),
        Some(Heard::Revoke(revoke)) => {
            agent::parse_attempt(&revoke.attempt).map(|id| Some(Input::Core(Event::Revoked(id))))
        }
        Some(Heard::Ack(ack)) => {
            agent::parse_attempt(&ack.attempt).map(|id| Some(Input::Ack(id, ack.sequence)))
        }
        // Only the first message is one.
        Some(Heard::Welcome(_) | Heard::ClearGpu(_)) | None => Ok(None),
    };
    parsed.unwrap_or_else(|error| {
        warn!(%error, "a message of the scheduler is not understood");
        None
    })
}

fn stop_event(stop: &pb::Stop) -> Result<Input, InvalidMessage> {
    let attempt = agent::parse_attempt(&stop.attempt)?;
    let grace = (stop.grace_ms > 0).then(|| Duration::from_millis(stop.grace_ms.into()));
    Ok(Input::Core(Event::Stop { attempt, reason: agent::parse_end_reason(stop.reason)?, grace }))
}

/// An assignment that does not parse still gets an answer, if it is known which attempt it is.
fn assigned(assign: pb::Assign) -> Option<Input> {
    let id = agent::parse_attempt(&assign.attempt);
    match (Assignment::try_from(assign), id) {
        (Ok(assignment), _) => Some(Input::Core(Event::Assigned(Box::new(assignment)))),
        (Err(error), Ok(id)) => {
            let text = format!("this agent does not understand the job: {error}");
            Some(Input::Core(Event::Unintelligible(id, text)))
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

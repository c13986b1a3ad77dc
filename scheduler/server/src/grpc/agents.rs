//! `AgentService`: the agents' sessions.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::{info, warn};
use trainyard_proto::convert::agent::{
    Hello, InvalidMessage, check_data, parse_cached_data, parse_data_checked, parse_fit_records,
    parse_fitness, parse_gpus, parse_unavailable,
};
use trainyard_proto::pb::agent_message::Message;
use trainyard_proto::pb::{self, agent_service_server::AgentService};
use trainyard_scheduler_core::{AgentStatus, Command, Event};
use trainyard_types::{AgentId, Session};

use super::status::ApiError;
use super::{Context, telemetry, translate};
use crate::access::Caller;
use crate::data_checks::Order;
use crate::tls::Peer;

/// How long a new connection may take to say who it is.
const HELLO_PATIENCE: Duration = Duration::from_secs(10);
/// How long an agent may leave a command unread.
const SEND_PATIENCE: Duration = Duration::from_secs(30);
/// Commands on their way into the connection; more wait at the driver.
const BACKLOG: usize = 16;
/// Messages of one agent that may wait at the driver; then its connection is not read.
const PLACES: usize = 32;

/// The service of agents' sessions.
pub struct Agents(pub Context);

const SESSION_OVER: ApiError = ApiError::Unavailable("the scheduler has closed this session; connect again");

/// One open session.
struct Connection {
    context: Context,
    agent: AgentId,
    session: Session,
    commands: mpsc::Receiver<Command>,
    /// Data sets to look at; closed where the agent looks at none.
    orders: mpsc::Receiver<Order>,
    outbound: mpsc::Sender<Result<pb::SchedulerMessage, Status>>,
}

impl Connection {
    /// Passes messages on in both directions until either ends.
    async fn run(mut self, mut inbound: Streaming<pb::AgentMessage>) {
        let (agent, session) = (self.agent, self.session);
        let outbound = self.outbound.clone();
        let end = tokio::select! {
            end = listen(&self.context, agent, session, &mut inbound) => end,
            end = tell(&mut self.commands, &mut self.orders, &self.outbound) => end,
            () = self.context.closing.cancelled() => Err(ApiError::SHUTTING_DOWN),
        };
        match &end {
            Ok(()) => info!(%agent, %session, "agent disconnected"),
            Err(error) => warn!(%agent, %session, ?error, "session ended"),
        }
        self.context.data_checks.closed(agent, session);
        // Fails only when the driver has ended, and the agent's session with it.
        let _ = self.context.driver.disconnected(agent, session).await;
        if let Err(error) = end {
            // The agent may be gone by now.
            let _ = timeout(SEND_PATIENCE, outbound.send(Err(error.into()))).await;
        }
    }
}

/// Passes on what an agent says, until it hangs up.
async fn listen(
    context: &Context,
    agent: AgentId,
    session: Session,
    inbound: &mut Streaming<pb::AgentMessage>,
) -> Result<(), ApiError> {
    let places = Arc::new(Semaphore::new(PLACES));
    // An error of the stream is an agent that is gone, as its end is.
    while let Ok(Some(message)) = inbound.message().await {
        match message.message {
            Some(Message::Heartbeat(heartbeat)) => {
                let status = parse_status(heartbeat)?;
                context.driver.say(Event::Heartbeat { agent, session, status }, &places).await?;
            }
            Some(Message::Report(report)) => {
                let report = report.try_into()?;
                context.driver.say(Event::Report { agent, session, report }, &places).await?;
            }
            Some(Message::Telemetry(told)) => context.telemetry.take(agent, telemetry::parse(told)?),
            Some(Message::DataChecked(checked)) => {
                let (id, answer) = parse_data_checked(checked)?;
                context.data_checks.answered(agent, session, id, answer);
            }
            Some(Message::Hello(_)) => {
                return Err(ApiError::field("hello", "came twice; open another connection"));
            }
            // Of a newer agent. It will not be acknowledged.
            None => warn!(%agent, "agent sent a message of an unknown kind, leaving it out"),
        }
    }
    Ok(())
}

/// Passes on the driver's commands, and data sets to look at, until the driver closes the session.
async fn tell(
    commands: &mut mpsc::Receiver<Command>,
    orders: &mut mpsc::Receiver<Order>,
    outbound: &mpsc::Sender<Result<pb::SchedulerMessage, Status>>,
) -> Result<(), ApiError> {
    loop {
        let message = tokio::select! {
            command = commands.recv() => match command {
                Some(command) => translate::command(command),
                None => return Err(SESSION_OVER),
            },
            Some(Order { id, data, time_limit }) = orders.recv() => {
                let check = pb::scheduler_message::Message::CheckData(check_data(id, &data, time_limit));
                pb::SchedulerMessage { message: Some(check) }
            }
        };
        match timeout(SEND_PATIENCE, outbound.send(Ok(message))).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Ok(()),
            Err(_) => return Err(SESSION_OVER),
        }
    }
}

fn parse_status(heartbeat: pb::Heartbeat) -> Result<AgentStatus, InvalidMessage> {
    let pb::Heartbeat { gpus, fit_records, unavailable, cached_data, fitness } = heartbeat;
    let (_, telemetry) = parse_gpus(gpus)?;
    let fit_records = parse_fit_records(fit_records)?;
    let (unavailable, cached_data) = (parse_unavailable(unavailable)?, parse_cached_data(cached_data)?);
    let fitness = parse_fitness(fitness)?;
    Ok(AgentStatus { telemetry, unavailable, fit_records, cached_data, fitness })
}

async fn read_hello(inbound: &mut Streaming<pb::AgentMessage>) -> Result<Hello, Status> {
    let first = timeout(HELLO_PATIENCE, inbound.message()).await;
    let message = first.ok().transpose()?.flatten().and_then(|message| message.message);
    match message {
        Some(Message::Hello(hello)) => Ok(Hello::try_from(hello).map_err(ApiError::from)?),
        _ => {
            let text = format!("the first message must be one, within {} s", HELLO_PATIENCE.as_secs());
            Err(ApiError::field("hello", text).into())
        }
    }
}

#[tonic::async_trait]
impl AgentService for Agents {
    type ConnectStream = ReceiverStream<Result<pb::SchedulerMessage, Status>>;

    async fn connect(
        &self,
        request: Request<Streaming<pb::AgentMessage>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let caller = Caller::of(&request);
        let mut inbound = request.into_inner();
        let Hello {
            agent,
            name,
            version,
            inventory,
            telemetry,
            attempts,
            fit_records,
            unavailable,
            cached_data,
            fitness,
            instance,
            owners,
        } = read_hello(&mut inbound).await?;
        if let Caller::Agent(certified) = caller
            && certified != agent
        {
            let text = format!(
                "is {agent}, and the certificate is of agent {certified}; join again on this machine"
            );
            return Err(ApiError::field("hello.agent_id", text).into());
        }
        info!(%agent, name, version, attempts = attempts.len(), "agent connects");
        let own = env!("CARGO_PKG_VERSION");
        if version != own {
            warn!(%agent, name, version, scheduler = own, "this agent is of another version: upgrade the older of the two");
        }
        let checks_data = fitness.checks_data;
        let status = AgentStatus { telemetry, unavailable, fit_records, cached_data, fitness };
        let hello = trainyard_scheduler_core::Hello {
            agent,
            name,
            version,
            inventory,
            attempts,
            status,
            instance,
            owners,
        };
        let opened = self.0.driver.open(hello).await.map_err(ApiError::from)?;
        let (outbound, stream) = mpsc::channel(BACKLOG);
        let millis = |span: Duration| u32::try_from(span.as_millis()).unwrap_or(u32::MAX);
        let welcome = pb::Welcome {
            leader_epoch: opened.leader.0,
            session: opened.session.0,
            heartbeat_ms: millis(self.0.heartbeat),
            lease_ms: millis(self.0.lease),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            takes_pictures: true,
        };
        let welcome = pb::scheduler_message::Message::Welcome(welcome);
        // The channel is new and has room.
        let _ = outbound.try_send(Ok(pb::SchedulerMessage { message: Some(welcome) }));
        let (context, session, commands) = (self.0.clone(), opened.session, opened.commands);
        let orders =
            if checks_data { context.data_checks.opened(agent, session) } else { mpsc::channel(1).1 };
        let connection = Connection { context, agent, session, commands, orders, outbound };
        self.0.tasks.spawn(connection.run(inbound));
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// Agents that speak plaintext where connections are to be encrypted: an older version, or one that has not joined.
pub struct PlaintextRefused;

#[tonic::async_trait]
impl AgentService for PlaintextRefused {
    type ConnectStream = ReceiverStream<Result<pb::SchedulerMessage, Status>>;

    async fn connect(
        &self,
        request: Request<Streaming<pb::AgentMessage>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let address = request.extensions().get::<Peer>().map(|peer| peer.address.ip().to_string());
        let Hello { agent, name, version, .. } = read_hello(&mut request.into_inner()).await?;
        warn!(%agent, name, version, address, "an agent speaks plaintext and is refused: its machine has to join");
        Err(ApiError::TlsRequired { who: format!("agent `{name}`") }.into())
    }
}

//! How long a thousand agents take to come back after their scheduler has restarted, with encryption and certificates
//! and without. Prints `name value unit` lines.
//!
//! Agents and scheduler share this process and its processors, so that both ends of each handshake are counted.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Streaming};
use trainyard_access::{Identity, KeyRequest, Pin, Token, Trust};
use trainyard_proto::pb;
use trainyard_proto::pb::access_service_client::AccessServiceClient;
use trainyard_proto::pb::agent_service_client::AgentServiceClient;
use trainyard_scheduler::config::{Config, SecurityMode};
use trainyard_scheduler::server::{Issue, Server, issue_token};

const AGENTS: u32 = 1000;
const RETRY: Duration = Duration::from_millis(50);

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// An agent's session, kept open.
struct Session {
    _say: mpsc::Sender<pb::AgentMessage>,
    hear: Streaming<pb::SchedulerMessage>,
}

/// What an agent shows, where the scheduler asks.
#[derive(Clone)]
struct Certificate {
    pin: Pin,
    chain: String,
    key: String,
}

async fn dial(address: SocketAddr, certificate: Option<&Certificate>) -> Result<Channel, Failure> {
    let Some(Certificate { pin, chain, key }) = certificate else {
        return Ok(Endpoint::from_shared(format!("http://{address}"))?.connect().await?);
    };
    let trust = Trust::none().pin(*pin).identity(Identity::parse(chain, key)?);
    Ok(Endpoint::from_shared(format!("https://{address}"))?
        .connect_with_connector(trust.connector()?)
        .await?)
}

async fn connect(
    address: SocketAddr,
    id: u32,
    certificate: Option<&Certificate>,
) -> Result<Session, Failure> {
    let channel = dial(address, certificate).await?;
    let hello = pb::Hello {
        agent_id: uuid::Uuid::from_u128(id.into()).to_string(),
        name: format!("agent-{id}"),
        cpu_slots: 1,
        memory_total_mib: 1024,
        ..Default::default()
    };
    let (say, stream) = mpsc::channel(4);
    say.send(pb::AgentMessage { message: Some(pb::agent_message::Message::Hello(hello)) }).await?;
    let mut hear = AgentServiceClient::new(channel).connect(ReceiverStream::new(stream)).await?.into_inner();
    hear.message().await?.ok_or("the session ended")?;
    Ok(Session { _say: say, hear })
}

/// Every agent's certificate.
async fn join(config: &Config, address: SocketAddr) -> Result<Vec<Certificate>, Failure> {
    let wanted = Issue::Join { uses: AGENTS, lifetime: Duration::from_secs(3600) };
    let (token, _): (Token, _) = loop {
        if let Ok(issued) = issue_token(config, wanted).await {
            break issued;
        }
        tokio::time::sleep(RETRY).await;
    };
    let connector = Trust::none().pin(token.pin).connector()?;
    let endpoint = Endpoint::from_shared(format!("https://{address}"))?;
    let mut access = AccessServiceClient::new(endpoint.connect_with_connector(connector).await?);
    let bearer: MetadataValue<Ascii> = format!("Bearer {}", token.reveal()).parse()?;
    let mut certificates = Vec::new();
    while certificates.len() < AGENTS as usize {
        let id = u128::try_from(certificates.len())? + 1;
        let KeyRequest { key_pem: key, request_pem } = KeyRequest::make()?;
        let mut request = Request::new(pb::EnrolAgentRequest {
            agent_id: uuid::Uuid::from_u128(id).to_string(),
            name: format!("agent-{id}"),
            certificate_request: request_pem,
        });
        request.metadata_mut().insert("authorization", bearer.clone());
        // The scheduler hears of the token within a second.
        match access.enrol_agent(request).await {
            Ok(answer) => {
                let chain = answer.into_inner().certificate_chain;
                certificates.push(Certificate { pin: token.pin, chain, key });
            }
            Err(_) if certificates.is_empty() => tokio::time::sleep(RETRY).await,
            Err(refused) => return Err(refused.into()),
        }
    }
    Ok(certificates)
}

/// From the moment that a scheduler starts to the last agent's welcome.
async fn come_back(config: Config, certificates: &[Certificate]) -> Result<Duration, Failure> {
    let start = Instant::now();
    let server = Server::start(config).await?;
    let address = server.address();
    let mut agents = JoinSet::new();
    for id in 1..=AGENTS {
        let certificate = certificates.get(id as usize - 1).cloned();
        agents.spawn(async move {
            loop {
                match connect(address, id, certificate.as_ref()).await {
                    Ok(session) => return session,
                    Err(_) => tokio::time::sleep(RETRY).await,
                }
            }
        });
    }
    let mut sessions = Vec::new();
    while let Some(session) = agents.join_next().await {
        sessions.push(session?);
    }
    let took = start.elapsed();
    server.closing().cancel();
    server.wait().await?;
    drop(sessions.into_iter().map(|session| session.hear).collect::<Vec<_>>());
    Ok(took)
}

async fn measure(name: &str, dir: &Path, security: SecurityMode) -> Result<(), Failure> {
    let config =
        Config { listen: "127.0.0.1:0".into(), data_dir: dir.to_owned(), security, ..Config::default() };
    let mut certificates = Vec::new();
    if security == SecurityMode::On {
        let server = Server::start(config.clone()).await?;
        certificates = join(&config, server.address()).await?;
        server.closing().cancel();
        server.wait().await?;
    }
    // The first time they are new, the second time they come back.
    come_back(config.clone(), &certificates).await?;
    let took = come_back(config, &certificates).await?;
    println!("{name} {:.2} s", took.as_secs_f64());
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let dirs = [tempfile::tempdir()?, tempfile::tempdir()?];
    measure("scheduler_reconnect_1000_agents", dirs[0].path(), SecurityMode::Off).await?;
    measure("scheduler_reconnect_1000_agents_secure", dirs[1].path(), SecurityMode::On).await
}

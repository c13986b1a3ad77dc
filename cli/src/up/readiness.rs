//! Waiting until the parts of a cluster serve.

use std::time::Duration;

use tonic::Code;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use trainyard_proto::pb;
use trainyard_proto::pb::cluster_service_client::ClusterServiceClient;
use trainyard_types::size::counted;

use super::child_process::ChildProcess;
use crate::failure::Failure;

/// How long a program may take to come up. Redis may have a long file to read.
const STARTUP_TIMEOUT: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Waits until the scheduler at `url` says that it serves.
///
/// # Errors
/// The program ends, or takes too long.
pub async fn scheduler(url: &str, child: &mut ChildProcess) -> Result<(), Failure> {
    let channel = channel(url)?;
    let serving = async || {
        let request = HealthCheckRequest { service: String::new() };
        let answer = HealthClient::new(channel.clone()).check(request).await.ok()?;
        (answer.into_inner().status() == ServingStatus::Serving).then_some(())
    };
    poll(serving, child, "the scheduler does not serve yet").await
}

/// Waits until an agent is connected to the scheduler at `url`; says what it offers.
///
/// # Errors
/// The program ends, or takes too long.
pub async fn agent(url: &str, child: &mut ChildProcess) -> Result<String, Failure> {
    let channel = channel(url)?;
    let connected = async || {
        let request = pb::ListAgentsRequest::default();
        let answer = match ClusterServiceClient::new(channel.clone()).list_agents(request).await {
            Ok(answer) => answer.into_inner(),
            // A token may be asked for that only the user's commands have; the agent then runs unseen.
            Err(status) if status.code() == Code::Unauthenticated => return Some("agent started".to_owned()),
            Err(_) => return None,
        };
        let mut agents = answer.agents.iter();
        let agent = agents.find(|agent| agent.state() == pb::AgentState::Connected)?;
        Some(format!(
            "agent {}, {} and {}",
            crate::terminal::clean(&agent.name),
            counted(agent.gpus.len(), "GPU"),
            counted(agent.cpu_slots.len(), "CPU slot")
        ))
    };
    poll(connected, child, "the agent has not connected yet").await
}

fn channel(url: &str) -> Result<Channel, Failure> {
    let endpoint =
        Endpoint::from_shared(url.to_owned()).map_err(|error| Failure::local(error.to_string()))?;
    Ok(endpoint.connect_timeout(Duration::from_secs(2)).timeout(Duration::from_secs(2)).connect_lazy())
}

/// Asks until there is an answer; gives up when the child ends or the time is over.
async fn poll<T>(
    mut ask: impl AsyncFnMut() -> Option<T>,
    child: &mut ChildProcess,
    what: &str,
) -> Result<T, Failure> {
    let answered = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    };
    tokio::select! {
        answer = answered => Ok(answer),
        failure = child.ended() => Err(failure),
        () = tokio::time::sleep(STARTUP_TIMEOUT) => {
            Err(Failure::local(format!("{what}, after {} s", STARTUP_TIMEOUT.as_secs())).hint("its log may say why"))
        }
    }
}

//! `ClusterService`: what the cluster consists of.

use tonic::{Request, Response, Status};
use trainyard_proto::pb::{self, cluster_service_server::ClusterService};
use trainyard_scheduler_core::AgentView;

use super::page::Page;
use super::status::ApiError;
use super::{Context, translate};
use crate::driver::Live;

/// See the module.
pub struct Cluster(pub Context);

/// Sorts agents by name, and those of one name by id.
fn key(view: &AgentView<'_>) -> Vec<u8> {
    // No name contains a zero byte, so that a name sorts before every longer one.
    [view.record.name.as_bytes(), &[0], view.record.id.0.as_bytes()].concat()
}

fn list(live: &Live<'_>, page: &Page) -> pb::ListAgentsResponse {
    let mut agents: Vec<(Vec<u8>, AgentView<'_>)> =
        live.core.agents().map(|view| (key(&view), view)).collect();
    agents.sort_by(|(one, _), (other, _)| one.cmp(other));
    agents.retain(|(key, _)| page.after.as_ref().is_none_or(|after| key > after));
    let next_page_token = match agents.get(page.size.saturating_sub(1)) {
        Some((last, _)) if agents.len() > page.size => page.token(last),
        _ => String::new(),
    };
    let agents = agents.iter().take(page.size).map(|(_, view)| translate::agent(view)).collect();
    pb::ListAgentsResponse { agents, next_page_token }
}

/// By id, or by a name that only one agent has.
fn find(live: &Live<'_>, wanted: &str) -> Result<pb::Agent, ApiError> {
    if wanted.is_empty() {
        return Err(ApiError::field("agent", "is empty; give an agent's id or name"));
    }
    if let Some(view) = wanted.parse().ok().and_then(|id| live.core.agent(id)) {
        return Ok(translate::agent(&view));
    }
    let mut named = live.core.agents().filter(|view| view.record.name == wanted);
    match (named.next(), named.next()) {
        (Some(view), None) => Ok(translate::agent(&view)),
        (None, _) => {
            let hint = "`yard agents` lists what there is";
            Err(ApiError::NotFound { kind: "agent", name: wanted.to_owned(), hint })
        }
        (Some(_), Some(_)) => {
            let text = format!("is `{wanted}`, a name that several agents have; give an id");
            Err(ApiError::field("agent", text))
        }
    }
}

#[tonic::async_trait]
impl ClusterService for Cluster {
    async fn list_agents(
        &self,
        request: Request<pb::ListAgentsRequest>,
    ) -> Result<Response<pb::ListAgentsResponse>, Status> {
        let request = request.into_inner();
        let page =
            Page::parse(request.page_size, &request.page_token, "agents").map_err(ApiError::Invalid)?;
        let agents = self.0.driver.ask_leader(move |live| list(live, &page)).await.map_err(ApiError::from)?;
        Ok(Response::new(agents))
    }

    async fn get_agent(&self, request: Request<pb::GetAgentRequest>) -> Result<Response<pb::Agent>, Status> {
        let wanted = request.into_inner().agent;
        let agent =
            self.0.driver.ask_leader(move |live| find(live, &wanted)).await.map_err(ApiError::from)??;
        Ok(Response::new(agent))
    }

    async fn drain_agent(
        &self,
        _request: Request<pb::DrainAgentRequest>,
    ) -> Result<Response<pb::Agent>, Status> {
        Err(Status::unimplemented("not there yet"))
    }

    async fn resume_agent(
        &self,
        _request: Request<pb::ResumeAgentRequest>,
    ) -> Result<Response<pb::Agent>, Status> {
        Err(Status::unimplemented("not there yet"))
    }

    async fn reserve_gpus(
        &self,
        _request: Request<pb::ReserveGpusRequest>,
    ) -> Result<Response<pb::Agent>, Status> {
        Err(Status::unimplemented("not there yet"))
    }

    async fn release_gpus(
        &self,
        _request: Request<pb::ReleaseGpusRequest>,
    ) -> Result<Response<pb::Agent>, Status> {
        Err(Status::unimplemented("not there yet"))
    }

    async fn clear_gpu(&self, _request: Request<pb::ClearGpuRequest>) -> Result<Response<pb::Agent>, Status> {
        Err(Status::unimplemented("not there yet"))
    }

    async fn get_telemetry(
        &self,
        _request: Request<pb::GetTelemetryRequest>,
    ) -> Result<Response<pb::GetTelemetryResponse>, Status> {
        Err(Status::unimplemented("not there yet"))
    }
}

//! `ClusterService`: what the cluster consists of.

use std::time::Duration;

use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use trainyard_proto::pb::{self, cluster_service_server::ClusterService};
use trainyard_scheduler_core::{AgentState, AgentView, Event};
use trainyard_types::GpuUuid;

use super::hidden_jobs::ShownAgent;
use super::page::Page;
use super::status::{ApiError, not_there};
use super::{Context, about, telemetry, translate, watch_cluster};
use crate::access::Caller;
use crate::driver::StateView;

/// How long a GPU is reserved unless the caller says so, and the limits of what it may say.
const RESERVATION: Duration = Duration::from_secs(2 * 3600);
const RESERVATION_MIN: Duration = Duration::from_secs(60);
const RESERVATION_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// The version of this scheduler.
const OWN_VERSION: &str = env!("CARGO_PKG_VERSION");

/// The service of agents, GPUs and speeds.
pub struct Cluster(pub Context);

/// Sorts agents by name, and those of one name by id.
fn key(view: &AgentView<'_>) -> Vec<u8> {
    // No name contains a zero byte, so that a name sorts before every longer one.
    [view.record.name.as_bytes(), &[0], view.record.id.0.as_bytes()].concat()
}

fn list(state: &StateView<'_>, page: &Page, caller: &Caller) -> pb::ListAgentsResponse {
    let mut agents: Vec<(Vec<u8>, AgentView<'_>)> =
        state.core.agents().map(|view| (key(&view), view)).collect();
    agents.sort_by(|(one, _), (other, _)| one.cmp(other));
    agents.retain(|(key, _)| page.after.as_ref().is_none_or(|after| key > after));
    let next_page_token = match agents.get(page.size.saturating_sub(1)) {
        Some((last, _)) if agents.len() > page.size => page.token(last),
        _ => String::new(),
    };
    let agents = agents.iter().take(page.size).map(|(_, view)| shown(state, view).seen_by(caller)).collect();
    pb::ListAgentsResponse { agents, next_page_token }
}

/// An agent, for whoever may see what of it.
pub(super) fn shown(state: &StateView<'_>, view: &AgentView<'_>) -> ShownAgent {
    let version = &view.record.version;
    let is_other = view.state == AgentState::Connected && !version.is_empty() && version != OWN_VERSION;
    let notice = is_other.then(|| {
        format!("is of version {version}, and the scheduler of {OWN_VERSION}: upgrade the older of the two")
    });
    let notices = state.core.notices(state.now, view.record.id);
    ShownAgent::new(state, translate::agent(view, notice.into_iter().chain(notices).collect()))
}

/// Rates in the order of what they are of.
fn rates(state: &StateView<'_>, page: &Page) -> pb::ListRatesResponse {
    let key = |rate: &pb::Rate| {
        let pb::Rate { model, imgsz, amp, gpus, device, .. } = rate;
        format!("{model} {imgsz:08} {amp} {gpus:08} {device}").into_bytes()
    };
    let mut rates: Vec<(Vec<u8>, pb::Rate)> =
        state.core.rates().map(translate::rate).map(|rate| (key(&rate), rate)).collect();
    rates.sort_by(|(one, _), (other, _)| one.cmp(other));
    rates.retain(|(key, _)| page.after.as_ref().is_none_or(|after| key > after));
    let next_page_token = match rates.get(page.size.saturating_sub(1)) {
        Some((last, _)) if rates.len() > page.size => page.token(last),
        _ => String::new(),
    };
    pb::ListRatesResponse {
        rates: rates.into_iter().take(page.size).map(|(_, rate)| rate).collect(),
        next_page_token,
    }
}

/// By id, by a name that only one agent has, or by the start of an id.
pub(super) fn find<'a>(state: &'a StateView<'_>, wanted: &str) -> Result<AgentView<'a>, ApiError> {
    if wanted.is_empty() {
        return Err(ApiError::field("agent", "is empty; give an agent's id or name"));
    }
    if let Some(view) = wanted.parse().ok().and_then(|id| state.core.agent(id)) {
        return Ok(view);
    }
    let mut named = state.core.agents_named(wanted);
    let mut started = state.core.agents_with_prefix(wanted);
    match (named.next(), named.next()) {
        (Some(view), None) => Ok(view),
        (Some(_), Some(_)) => {
            let ids = short_ids(state, state.core.agents_named(wanted));
            let text = format!("is `{wanted}`, a name that several agents have; give the id of one: {ids}");
            Err(ApiError::field("agent", text))
        }
        (None, _) => match (started.next(), started.next()) {
            (Some(view), None) => Ok(view),
            (Some(_), Some(_)) => {
                let ids = short_ids(state, state.core.agents_with_prefix(wanted));
                let text = format!("is `{wanted}`, with which several ids start: {ids}; write more of it");
                Err(ApiError::field("agent", text))
            }
            (None, _) => Err(not_there(state, "agent", wanted, "`yard agents` lists what there is")),
        },
    }
}

/// Ids that a sentence names.
const NAMED: usize = 8;
/// The least of an id that is written.
const SHORT: usize = 8;

/// The ids of some agents, each as short as it can be given, and how each agent is.
fn short_ids<'a>(state: &StateView<'_>, agents: impl Iterator<Item = AgentView<'a>>) -> String {
    let short = |view: AgentView<'_>| {
        let id = view.record.id.to_string();
        let is_unique = |end: &usize| state.core.agents_with_prefix(&id[..*end]).nth(1).is_none();
        let end = (SHORT..id.len()).find(is_unique).unwrap_or(id.len());
        let is = match view.state {
            AgentState::Connected => "connected",
            AgentState::Disconnected => "disconnected",
            AgentState::Lost => "lost",
        };
        format!("{} ({is})", id[..end].trim_end_matches('-'))
    };
    let mut named: Vec<String> = agents.take(NAMED + 1).map(short).collect();
    if named.len() > NAMED {
        named[NAMED] = "and more".to_owned();
    }
    named.join(", ")
}

/// One of an agent's GPUs, by UUID or index, which stands in `field`.
pub(super) fn find_gpu(view: &AgentView<'_>, wanted: &str, field: &str) -> Result<GpuUuid, ApiError> {
    let gpus = &view.record.inventory.gpus;
    let found = gpus.iter().find(|gpu| gpu.uuid.0 == wanted || gpu.index.to_string() == wanted);
    found.map(|gpu| gpu.uuid.clone()).ok_or_else(|| {
        let known: Vec<String> = gpus.iter().map(|gpu| format!("{} ({})", gpu.index, gpu.uuid)).collect();
        let has = if known.is_empty() { "no GPU".to_owned() } else { known.join(", ") };
        let name = &view.record.name;
        ApiError::field(field, format!("is `{wanted}`; agent `{name}` has {has}: give an index or a UUID"))
    })
}

/// All of an agent's GPUs where none is named.
fn find_gpus(view: &AgentView<'_>, wanted: &[String]) -> Result<Vec<GpuUuid>, ApiError> {
    let gpus = &view.record.inventory.gpus;
    if gpus.is_empty() {
        let text = format!("is `{}`, which has no GPU; `yard drain` takes all of an agent", view.record.name);
        return Err(ApiError::field("agent", text));
    }
    if wanted.is_empty() {
        return Ok(gpus.iter().map(|gpu| gpu.uuid.clone()).collect());
    }
    let each = wanted.iter().enumerate();
    each.map(|(at, wanted)| find_gpu(view, wanted, &format!("gpus[{at}]"))).collect()
}

fn parse_span(span: Option<prost_types::Duration>) -> Result<Duration, ApiError> {
    let span = span.map_or(Ok(RESERVATION), Duration::try_from);
    span.ok()
        .filter(|span| (RESERVATION_MIN..=RESERVATION_MAX).contains(span))
        .ok_or_else(|| ApiError::field("span", "must be from 1 minute to 30 days; leave it out for 2 hours"))
}

impl Cluster {
    /// Makes an event of what the leader knows, has it done, and answers with the agent as it is then. The agent's
    /// owners and admins may give orders.
    async fn order(
        &self,
        caller: Caller,
        agent: String,
        event: impl FnOnce(&AgentView<'_>) -> Result<Event, ApiError> + Send + 'static,
    ) -> Result<Response<pb::Agent>, Status> {
        let orders = caller.clone();
        let ask = move |state: &mut StateView<'_>| {
            let view = find(state, &agent)?;
            orders.may_change(view.record.owners.iter().map(String::as_str))?;
            Ok::<_, ApiError>((view.record.id, event(&view)?))
        };
        let (id, event) = self.0.driver.ask_leader(ask).await.map_err(ApiError::from)??;
        self.0.driver.order(event).await.map_err(ApiError::from)?;
        let view = move |state: &mut StateView<'_>| {
            state.core.agent(id).map(|view| shown(state, &view).seen_by(&caller))
        };
        let agent = self.0.driver.ask_leader(view).await.map_err(ApiError::from)?;
        let agent = agent.ok_or(ApiError::Internal)?;
        let target = format!("agent {id} ({})", agent.name);
        Ok(about(agent, target))
    }
}

#[tonic::async_trait]
impl ClusterService for Cluster {
    async fn list_agents(
        &self,
        request: Request<pb::ListAgentsRequest>,
    ) -> Result<Response<pb::ListAgentsResponse>, Status> {
        let caller = Caller::of(&request);
        let request = request.into_inner();
        let page =
            Page::parse(request.page_size, &request.page_token, "agents").map_err(ApiError::Invalid)?;
        let agents = self.0.driver.ask_leader(move |state| list(state, &page, &caller)).await;
        Ok(Response::new(agents.map_err(ApiError::from)?))
    }

    async fn list_rates(
        &self,
        request: Request<pb::ListRatesRequest>,
    ) -> Result<Response<pb::ListRatesResponse>, Status> {
        let request = request.into_inner();
        let page = Page::parse(request.page_size, &request.page_token, "rates").map_err(ApiError::Invalid)?;
        let rates =
            self.0.driver.ask_leader(move |state| rates(state, &page)).await.map_err(ApiError::from)?;
        Ok(Response::new(rates))
    }

    async fn get_agent(&self, request: Request<pb::GetAgentRequest>) -> Result<Response<pb::Agent>, Status> {
        let caller = Caller::of(&request);
        let wanted = request.into_inner().agent;
        let view = move |state: &mut StateView<'_>| {
            find(state, &wanted).map(|view| shown(state, &view).seen_by(&caller))
        };
        let agent = self.0.driver.ask_leader(view).await.map_err(ApiError::from)??;
        Ok(Response::new(agent))
    }

    async fn drain_agent(
        &self,
        request: Request<pb::DrainAgentRequest>,
    ) -> Result<Response<pb::Agent>, Status> {
        let caller = Caller::of(&request);
        let pb::DrainAgentRequest { agent, keep_running } = request.into_inner();
        self.order(caller, agent, move |view| Ok(Event::Drain { agent: view.record.id, keep_running })).await
    }

    async fn resume_agent(
        &self,
        request: Request<pb::ResumeAgentRequest>,
    ) -> Result<Response<pb::Agent>, Status> {
        let caller = Caller::of(&request);
        let agent = request.into_inner().agent;
        self.order(caller, agent, |view| Ok(Event::Resume { agent: view.record.id })).await
    }

    async fn reserve_gpus(
        &self,
        request: Request<pb::ReserveGpusRequest>,
    ) -> Result<Response<pb::Agent>, Status> {
        let caller = Caller::of(&request);
        let pb::ReserveGpusRequest { agent, gpus, span } = request.into_inner();
        let span = parse_span(span)?;
        let event = move |view: &AgentView<'_>| {
            Ok(Event::Reserve { agent: view.record.id, gpus: find_gpus(view, &gpus)?, span })
        };
        self.order(caller, agent, event).await
    }

    async fn release_gpus(
        &self,
        request: Request<pb::ReleaseGpusRequest>,
    ) -> Result<Response<pb::Agent>, Status> {
        let caller = Caller::of(&request);
        let pb::ReleaseGpusRequest { agent, gpus } = request.into_inner();
        let event = move |view: &AgentView<'_>| {
            // A GPU that is gone by now may still be reserved.
            let gpus = if gpus.is_empty() {
                view.record.reserved.keys().cloned().collect()
            } else {
                find_gpus(view, &gpus)?
            };
            Ok(Event::Release { agent: view.record.id, gpus })
        };
        self.order(caller, agent, event).await
    }

    async fn clear_gpu(&self, request: Request<pb::ClearGpuRequest>) -> Result<Response<pb::Agent>, Status> {
        let caller = Caller::of(&request);
        let pb::ClearGpuRequest { agent, gpu } = request.into_inner();
        let event = move |view: &AgentView<'_>| {
            let gpu = if gpu.is_empty() { None } else { Some(find_gpu(view, &gpu, "gpu")?) };
            Ok(Event::ClearGpu { agent: view.record.id, gpu })
        };
        self.order(caller, agent, event).await
    }

    async fn get_telemetry(
        &self,
        request: Request<pb::GetTelemetryRequest>,
    ) -> Result<Response<pb::GetTelemetryResponse>, Status> {
        Ok(Response::new(telemetry::get(&self.0, request.into_inner()).await?))
    }

    type WatchClusterStream = ReceiverStream<Result<pb::ClusterEvent, Status>>;

    async fn watch_cluster(
        &self,
        request: Request<pb::WatchClusterRequest>,
    ) -> Result<Response<Self::WatchClusterStream>, Status> {
        let caller = Caller::of(&request);
        Ok(Response::new(watch_cluster::watch(&self.0, caller, request.into_inner()).await?))
    }
}

//! The gRPC edge: parse, ask the driver, translate. No decision is taken here.

mod access;
mod agents;
mod artifacts;
mod cluster;
mod cluster_feed;
mod data_check;
mod datasets;
pub mod deadlines;
mod diagnose;
mod hidden_jobs;
mod job_content;
mod job_groups;
mod jobs;
mod notifications;
mod page;
mod queue;
mod slot_status;
mod status;
mod telemetry;
mod translate;
mod watch_cluster;
mod weights_model;
mod words;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Response;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use trainyard_proto::pb::DESCRIPTORS;
use trainyard_proto::pb::access_service_server::AccessServiceServer;
use trainyard_proto::pb::agent_service_server::AgentServiceServer;
use trainyard_proto::pb::artifact_service_server::ArtifactServiceServer;
use trainyard_proto::pb::cluster_service_server::ClusterServiceServer;
use trainyard_proto::pb::dataset_service_server::DatasetServiceServer;
use trainyard_proto::pb::job_service_server::JobServiceServer;
use trainyard_proto::pb::notification_service_server::NotificationServiceServer;

use crate::access::Target;
use crate::blobs::Blobs;
use crate::content::Content;
use crate::data_checks::DataChecks;
use crate::driver::{Handle, Role};
use crate::notify::Notifier;
use crate::store::{AccessStore, Store};
use crate::telemetry::Recorder;

pub use access::Parts as AccessParts;
pub use cluster_feed::ClusterFeed;
pub use datasets::jobs_that_need;
pub use status::ApiError;

/// What all services share.
#[derive(Clone)]
pub struct Context {
    /// The way to the core.
    pub driver: Handle,
    /// For histories, which the core does not keep.
    pub store: Arc<dyn Store>,
    /// For tokens and the audit.
    pub access: Arc<dyn AccessStore>,
    /// For what GPUs do, beside the core.
    pub telemetry: Recorder,
    /// The files of checkpoints and artifacts.
    pub blobs: Blobs,
    /// Data sets and weights.
    pub content: Content,
    /// Tells people of their jobs.
    pub notifier: Notifier,
    /// Looks at data sets that are paths of machines.
    pub data_checks: DataChecks,
    /// Cancelled when the scheduler shuts down: streams end.
    pub closing: CancellationToken,
    pub tasks: TaskTracker,
    /// What changes in the cluster, for those who watch it.
    pub feed: ClusterFeed,
    pub heartbeat: Duration,
    pub lease: Duration,
    /// Largest message taken in, in bytes.
    pub max_message_bytes: usize,
}

/// All services, with health and both versions of reflection.
///
/// # Errors
/// The descriptors that were compiled in cannot be read.
pub fn routes(
    context: &Context,
    access: Option<AccessParts>,
    health: HealthReporter,
) -> Result<Routes, tonic_reflection::server::Error> {
    let health = tonic_health::server::HealthService::from_health_reporter(health);
    let max = context.max_message_bytes;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
    };
    let access = AccessServiceServer::new(access::Access(context.clone(), access));
    let jobs = JobServiceServer::new(jobs::Jobs(context.clone()));
    let cluster = ClusterServiceServer::new(cluster::Cluster(context.clone()));
    let agents = AgentServiceServer::new(agents::Agents(context.clone()));
    let artifacts = ArtifactServiceServer::new(artifacts::Artifacts(context.clone()));
    let datasets = DatasetServiceServer::new(datasets::Datasets(context.clone()));
    let notifications =
        NotificationServiceServer::new(notifications::Notifications(context.notifier.clone()));
    Ok(Routes::new(tonic_health::pb::health_server::HealthServer::new(health))
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .add_service(access.max_decoding_message_size(max))
        .add_service(jobs.max_decoding_message_size(max))
        .add_service(cluster.max_decoding_message_size(max))
        .add_service(agents.max_decoding_message_size(max))
        .add_service(artifacts.max_decoding_message_size(max))
        .add_service(datasets.max_decoding_message_size(max))
        .add_service(notifications.max_decoding_message_size(max)))
}

/// For connections in plaintext where they are to be encrypted: agents are told so, and named in the log.
pub fn refuse_plaintext() -> axum::Router {
    Routes::new(AgentServiceServer::new(agents::PlaintextRefused)).prepare().into_axum_router()
}

/// An answer that the audit knows the target of.
fn about<T>(answer: T, target: impl Into<String>) -> Response<T> {
    let mut response = Response::new(answer);
    response.extensions_mut().insert(Target(target.into()));
    response
}

/// Everything that a health check may name, and whether only the leader serves it.
const SERVICES: [(&str, bool); 9] = [
    ("", false),
    ("grpc.health.v1.Health", false),
    (AccessServiceServer::<access::Access>::NAME, false),
    (JobServiceServer::<jobs::Jobs>::NAME, false),
    (ClusterServiceServer::<cluster::Cluster>::NAME, true),
    (AgentServiceServer::<agents::Agents>::NAME, true),
    (ArtifactServiceServer::<artifacts::Artifacts>::NAME, false),
    (DatasetServiceServer::<datasets::Datasets>::NAME, false),
    (NotificationServiceServer::<notifications::Notifications>::NAME, false),
];

/// Tells health checks what the scheduler serves: on a standby, jobs and artifacts can be read.
pub async fn set_health(health: &HealthReporter, role: &Role) {
    for (service, leader_only) in SERVICES {
        let serves = if leader_only { role.leads() } else { role.reads() };
        let status = if serves { ServingStatus::Serving } else { ServingStatus::NotServing };
        health.set_service_status(service, status).await;
    }
}

/// Keeps health checks informed until the scheduler shuts down, when it does not serve any more.
pub async fn report_health(
    mut health: HealthReporter,
    mut role: watch::Receiver<Role>,
    closing: CancellationToken,
) {
    let follow = async {
        let mut told = None;
        loop {
            let now = role.borrow_and_update().clone();
            // Those who watch are told of changes only.
            let serves = Some((now.leads(), now.reads()));
            if told != serves {
                set_health(&health, &now).await;
                told = serves;
            }
            if role.changed().await.is_err() {
                return;
            }
        }
    };
    closing.run_until_cancelled(follow).await;
    set_health(&health, &Role::Unavailable("it is shutting down".into())).await;
    // Those who watch are told, and then let go: a drain waits for them otherwise.
    for (service, _) in SERVICES {
        health.clear_service_status(service).await;
    }
}

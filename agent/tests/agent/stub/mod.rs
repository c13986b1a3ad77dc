//! A scheduler that does what a test tells it, and an agent process that talks to it.

pub mod access;
pub mod datasets;
mod world;

use std::collections::BTreeMap;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};
use trainyard_proto::convert::agent::Hello;
use trainyard_proto::pb;
use trainyard_proto::pb::access_service_server::AccessServiceServer;
use trainyard_proto::pb::agent_message::Message as ToScheduler;
use trainyard_proto::pb::agent_service_server::{AgentService, AgentServiceServer};
use trainyard_proto::pb::artifact_service_server::{ArtifactService, ArtifactServiceServer};
use trainyard_proto::pb::dataset_service_server::DatasetServiceServer;
use trainyard_proto::pb::scheduler_message::Message as FromScheduler;
use trainyard_proto::pb::upload_artifact_request::Part;
use trainyard_types::trainer::TrainerEvent;
use trainyard_types::{
    Artifact, Assignment, AttemptId, Checkpoint, EndReason, Ended, JobId, JobSpec, ModelScale, Report,
    ReportBody, Slot, TrainSpec,
};
use uuid::Uuid;

pub use world::{Agent, World};

/// What a whole test may take. Longer than any healthy run needs; only a failure waits for it.
const PATIENCE: Duration = Duration::from_secs(90);

/// What the agent said.
#[derive(Debug)]
pub enum Seen {
    Hello(Box<Hello>, mpsc::Sender<Result<pb::SchedulerMessage, Status>>),
    Heartbeat(Box<pb::Heartbeat>),
    Report(Box<Report>),
    Telemetry(pb::Telemetry),
    Gone,
}

struct Shared {
    seen: mpsc::UnboundedSender<Seen>,
    /// Acknowledge reports as they come.
    acks: AtomicBool,
    leader_epoch: AtomicU64,
    sessions: AtomicU64,
    /// How many uploads to refuse as a scheduler that is going away does.
    unavailable_uploads: AtomicU32,
    /// Whether there is no room for uploads.
    disk_is_full: AtomicBool,
    /// Whether somebody else has the agent's identity.
    identity_in_use: Mutex<Option<trainyard_types::AgentId>>,
    blobs: Mutex<BTreeMap<String, Vec<u8>>>,
    access: access::Joining,
    datasets: datasets::Datasets,
}

/// The scheduler.
pub struct Stub {
    shared: Arc<Shared>,
    seen: mpsc::UnboundedReceiver<Seen>,
    to_agent: Option<mpsc::Sender<Result<pb::SchedulerMessage, Status>>>,
    pub url: String,
    /// What heartbeats told of fit records so far.
    pub fit_records: Vec<pb::FitRecord>,
    /// Every report so far, whatever a test was waiting for.
    pub reports: Vec<Report>,
    /// Every heartbeat so far.
    pub heartbeats: Vec<pb::Heartbeat>,
    deadline: tokio::time::Instant,
}

/// The scheduler's services.
struct Service(Arc<Shared>);

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl AgentService for Service {
    type ConnectStream = Answers<pb::SchedulerMessage>;

    async fn connect(
        &self,
        request: Request<Streaming<pb::AgentMessage>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        self.0.access.check_session()?;
        let mut said = request.into_inner();
        let (sender, answers) = mpsc::channel(64);
        let shared = Arc::clone(&self.0);
        tokio::spawn(async move {
            while let Ok(Some(message)) = said.message().await {
                match message.message.unwrap() {
                    ToScheduler::Hello(hello) => {
                        let taken = shared.identity_in_use.lock().unwrap().map(|agent| agent.to_string());
                        if taken.is_some_and(|taken| taken == hello.agent_id) {
                            let _gone = sender.send(Err(Status::already_exists("AGENT_ID_IN_USE"))).await;
                            return;
                        }
                        let welcome = pb::Welcome {
                            leader_epoch: shared.leader_epoch.load(Ordering::SeqCst),
                            session: shared.sessions.fetch_add(1, Ordering::SeqCst) + 1,
                            heartbeat_ms: 50,
                            lease_ms: 10_000,
                            version: "test".into(),
                            takes_pictures: true,
                        };
                        sender.send(Ok(told(FromScheduler::Welcome(welcome)))).await.unwrap();
                        let hello = Box::new(hello.try_into().unwrap());
                        // A weak end would keep a dropped connection open.
                        shared.seen.send(Seen::Hello(hello, sender.clone())).unwrap();
                    }
                    ToScheduler::Heartbeat(heartbeat) => {
                        let _over = shared.seen.send(Seen::Heartbeat(Box::new(heartbeat)));
                    }
                    // Nobody asks.
                    ToScheduler::DataChecked(_) => {}
                    ToScheduler::Telemetry(telemetry) => {
                        let _over = shared.seen.send(Seen::Telemetry(telemetry));
                    }
                    ToScheduler::Report(report) => {
                        let ack = pb::Ack { attempt: report.attempt.clone(), sequence: report.sequence };
                        if shared.acks.load(Ordering::SeqCst) {
                            let _over = sender.send(Ok(told(FromScheduler::Ack(ack)))).await;
                        }
                        let _over = shared.seen.send(Seen::Report(Box::new(report.try_into().unwrap())));
                    }
                }
            }
            let _over = shared.seen.send(Seen::Gone);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(answers).map_while(|answer| match answer {
            // How a test hangs up.
            Err(status) if status.code() == tonic::Code::Ok => None,
            other => Some(other),
        }))))
    }
}

#[tonic::async_trait]
impl ArtifactService for Service {
    type DownloadArtifactStream = Answers<pb::DownloadArtifactResponse>;

    async fn list_artifacts(
        &self,
        _request: Request<pb::ListArtifactsRequest>,
    ) -> Result<Response<pb::ListArtifactsResponse>, Status> {
        Err(Status::unimplemented("not of the agents"))
    }

    async fn download_artifact(
        &self,
        request: Request<pb::DownloadArtifactRequest>,
    ) -> Result<Response<Self::DownloadArtifactStream>, Status> {
        let sha256 = request.into_inner().sha256;
        let blob = self.0.blobs.lock().unwrap().get(&sha256).cloned();
        let blob = blob.ok_or_else(|| Status::not_found("no such blob"))?;
        let size_bytes = blob.len() as u64;
        let parts: Vec<_> = blob.chunks(3).map(<[u8]>::to_vec).collect();
        let mut offset = 0;
        let parts = parts.into_iter().map(move |data| {
            let part = pb::DownloadArtifactResponse { offset, size_bytes, data };
            offset += part.data.len() as u64;
            Ok(part)
        });
        Ok(Response::new(Box::pin(tokio_stream::iter(parts))))
    }

    async fn upload_artifact(
        &self,
        request: Request<Streaming<pb::UploadArtifactRequest>>,
    ) -> Result<Response<pb::UploadArtifactResponse>, Status> {
        let take = |left: u32| left.checked_sub(1);
        if self.0.unavailable_uploads.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok() {
            return Err(Status::unavailable("restarting"));
        }
        if self.0.disk_is_full.load(Ordering::SeqCst) {
            return Err(Status::resource_exhausted("the scheduler's disk is full"));
        }
        let mut parts = request.into_inner();
        let Some(Part::Header(header)) = parts.message().await?.and_then(|part| part.part) else {
            return Err(Status::invalid_argument("no header"));
        };
        let artifact = header.artifact.unwrap();
        if self.0.blobs.lock().unwrap().contains_key(&artifact.sha256) {
            return Ok(Response::new(pb::UploadArtifactResponse { existed: true }));
        }
        let mut blob = Vec::new();
        while let Some(part) = parts.message().await? {
            let Some(Part::Data(data)) = part.part else { return Err(Status::invalid_argument("no data")) };
            assert!(data.len() <= 256 * 1024);
            blob.extend(data);
        }
        if sha256(&blob) != artifact.sha256 || blob.len() as u64 != artifact.size_bytes {
            return Err(Status::data_loss("hash or size differ"));
        }
        self.0.blobs.lock().unwrap().insert(artifact.sha256, blob);
        Ok(Response::new(pb::UploadArtifactResponse { existed: false }))
    }
}

pub fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn told(message: FromScheduler) -> pb::SchedulerMessage {
    pb::SchedulerMessage { message: Some(message) }
}

impl Stub {
    pub async fn start() -> Self {
        let (sender, seen) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            seen: sender,
            acks: AtomicBool::new(true),
            leader_epoch: AtomicU64::new(1),
            sessions: AtomicU64::new(0),
            unavailable_uploads: AtomicU32::new(0),
            disk_is_full: AtomicBool::new(false),
            identity_in_use: Mutex::default(),
            blobs: Mutex::default(),
            access: access::Joining::default(),
            datasets: datasets::Datasets::default(),
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = tonic::transport::Server::builder()
            .add_service(AgentServiceServer::new(Service(Arc::clone(&shared))))
            .add_service(AccessServiceServer::new(Service(Arc::clone(&shared))))
            .add_service(ArtifactServiceServer::new(Service(Arc::clone(&shared))))
            .add_service(DatasetServiceServer::new(Service(Arc::clone(&shared))))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(server);
        let deadline = tokio::time::Instant::now() + PATIENCE;
        Self {
            shared,
            seen,
            to_agent: None,
            url,
            fit_records: Vec::new(),
            reports: Vec::new(),
            heartbeats: Vec::new(),
            deadline,
        }
    }

    pub fn acknowledge(&self, yes: bool) {
        self.shared.acks.store(yes, Ordering::SeqCst);
    }

    pub fn set_leader_epoch(&self, epoch: u64) {
        self.shared.leader_epoch.store(epoch, Ordering::SeqCst);
    }

    pub fn refuse_uploads(&self, count: u32) {
        self.shared.unavailable_uploads.store(count, Ordering::SeqCst);
    }

    pub fn fill_disk(&self, full: bool) {
        self.shared.disk_is_full.store(full, Ordering::SeqCst);
    }

    /// From now on somebody else is connected under this identity.
    pub fn give_identity_away(&self, agent: trainyard_types::AgentId) {
        *self.shared.identity_in_use.lock().unwrap() = Some(agent);
    }

    pub fn blob(&self, sha256: &str) -> Option<Vec<u8>> {
        self.shared.blobs.lock().unwrap().get(sha256).cloned()
    }

    /// Stores a file and says what it is.
    pub fn store(&self, name: &str, bytes: &[u8]) -> Artifact {
        let sha256 = sha256(bytes);
        self.shared.blobs.lock().unwrap().insert(sha256.clone(), bytes.to_vec());
        Artifact { name: name.into(), size_bytes: bytes.len() as u64, sha256 }
    }

    async fn next(&mut self) -> Seen {
        let seen = tokio::time::timeout_at(self.deadline, self.seen.recv()).await;
        let seen = seen.expect("the agent does not say what the test waits for").unwrap();
        match &seen {
            Seen::Heartbeat(heartbeat) => {
                self.fit_records.extend(heartbeat.fit_records.iter().cloned());
                self.heartbeats.push((**heartbeat).clone());
            }
            Seen::Report(report) => self.reports.push((**report).clone()),
            Seen::Hello(..) | Seen::Telemetry(_) | Seen::Gone => {}
        }
        seen
    }

    pub async fn hello(&mut self) -> Hello {
        loop {
            if let Seen::Hello(hello, sender) = self.next().await {
                self.to_agent = Some(sender);
                return *hello;
            }
        }
    }

    pub async fn heartbeat(&mut self) -> pb::Heartbeat {
        loop {
            if let Seen::Heartbeat(heartbeat) = self.next().await {
                return *heartbeat;
            }
        }
    }

    /// The next heartbeat that is as `wanted`.
    pub async fn heartbeat_with(&mut self, wanted: impl Fn(&pb::Heartbeat) -> bool) -> pb::Heartbeat {
        loop {
            let heartbeat = self.heartbeat().await;
            if wanted(&heartbeat) {
                return heartbeat;
            }
        }
    }

    pub async fn telemetry(&mut self) -> pb::Telemetry {
        loop {
            if let Seen::Telemetry(telemetry) = self.next().await {
                return telemetry;
            }
        }
    }

    pub async fn report(&mut self) -> Report {
        loop {
            match self.next().await {
                Seen::Report(report) => return *report,
                Seen::Hello(..) => panic!("the agent connected again"),
                Seen::Heartbeat(_) | Seen::Telemetry(_) | Seen::Gone => {}
            }
        }
    }

    /// Waits until the agent's log has `text`, while the agent beats.
    pub async fn until_logged(&mut self, world: &World, text: &str) {
        while !world.log().contains(text) {
            self.heartbeat().await;
        }
    }

    /// The end, whatever comes before it.
    pub async fn end(&mut self) -> Ended {
        loop {
            if let ReportBody::Ended(ended) = self.report().await.body {
                return ended;
            }
        }
    }

    /// Reports up to the end, whose numbers must be gapless from `first`.
    pub async fn reports_to_the_end(&mut self, first: u64) -> (Vec<Report>, Ended) {
        let mut reports: Vec<Report> = Vec::new();
        loop {
            let report = self.report().await;
            assert_eq!(report.sequence, first + reports.len() as u64, "{report:?} after {reports:?}");
            if let ReportBody::Ended(ended) = report.body {
                return (reports, ended);
            }
            reports.push(report);
        }
    }

    /// The next log line that starts with `start`; without it.
    pub async fn log_line(&mut self, start: &str) -> String {
        loop {
            if let ReportBody::Trainer(TrainerEvent::Log(log)) = self.report().await.body
                && let Some(rest) = log.message.strip_prefix(start)
            {
                return rest.to_owned();
            }
        }
    }

    pub async fn tell(&self, message: FromScheduler) {
        self.to_agent.as_ref().unwrap().send(Ok(told(message))).await.unwrap();
    }

    pub async fn assign(&self, attempt: AttemptId, data: &Path, slot: Slot, resume: Option<Checkpoint>) {
        self.assign_spec(attempt, TrainSpec::new(ModelScale::N, data), slot, resume).await;
    }

    pub async fn assign_spec(
        &self,
        attempt: AttemptId,
        train: TrainSpec,
        slot: Slot,
        resume: Option<Checkpoint>,
    ) {
        let spec = JobSpec { name: "cells".into(), ..JobSpec::new(train) };
        let assignment = Assignment { attempt, spec, slot, resume };
        self.tell(FromScheduler::Assign((&assignment).into())).await;
    }

    pub async fn stop(&self, attempt: AttemptId, reason: EndReason) {
        self.stop_within(attempt, reason, 0).await;
    }

    /// The same with a grace; 0 is the agent's own.
    pub async fn stop_within(&self, attempt: AttemptId, reason: EndReason, grace_ms: u32) {
        let reason = trainyard_proto::convert::agent::end_reason(reason);
        self.tell(FromScheduler::Stop(pb::Stop { attempt: attempt.to_string(), reason, grace_ms })).await;
    }

    pub async fn hang_up(&mut self) {
        let sender = self.to_agent.take().unwrap();
        sender.send(Err(Status::ok("hang up"))).await.unwrap();
    }
}

pub fn attempt(number: u32) -> AttemptId {
    AttemptId { job: JobId(Uuid::from_u128(7)), number }
}

//! A scheduler that says what a test wants it to, and `yard` as a process against it.

pub mod access;
pub mod datasets;
pub mod notifications;

use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt as _};
use trainyard_proto::pb;
use trainyard_proto::pb::access_service_server::AccessServiceServer;
use trainyard_proto::pb::artifact_service_server::{ArtifactService, ArtifactServiceServer};
use trainyard_proto::pb::cluster_service_server::{ClusterService, ClusterServiceServer};
use trainyard_proto::pb::dataset_service_server::DatasetServiceServer;
use trainyard_proto::pb::job_event::Event;
use trainyard_proto::pb::job_service_server::{JobService, JobServiceServer};
use trainyard_proto::pb::notification_service_server::NotificationServiceServer;

pub const ID: &str = "019ab3c4-1f2e-7000-8000-000000000001";

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;
type Step = Result<pb::JobEvent, Status>;

/// What the fake answers, and what it was asked.
#[derive(Default)]
pub struct Script {
    pub jobs: Vec<pb::Job>,
    /// One entry a connection: what it sends before it ends.
    pub watches: Vec<Vec<Step>>,
    /// The connection does not end by itself after what it sends.
    pub hang: bool,
    pub agents: Vec<pb::Agent>,
    /// What was ordered of agents.
    pub orders: Vec<String>,
    /// Why any job is slow.
    pub diagnosis: pb::Diagnosis,
    pub artifacts: Vec<(pb::Artifact, Vec<u8>)>,
    /// Bytes that a download sends before it breaks off.
    pub break_after: Option<usize>,
    /// Refuses submissions whose name begins so.
    pub refuse: Option<(String, Status)>,
    /// Submissions that fail before one is taken.
    pub unavailable: u32,
    pub submitted: Vec<pb::SubmitJobRequest>,
    pub cursors: Vec<u64>,
    pub offsets: Vec<u64>,
    pub listed: Vec<pb::ListJobsRequest>,
    /// Request ids of calls for many jobs, one a part.
    pub job_groups: Vec<String>,
    /// Those of them that were only to be checked.
    pub validated: usize,
    pub sweeps: Vec<pb::SubmitSweepRequest>,
    pub metadata: Vec<(Option<String>, Option<String>)>,
    /// Who the caller is.
    pub caller: pb::Caller,
    /// The leader that this server names, which stands by.
    pub leader: Option<String>,
    /// What callers of the service of access have shown.
    pub shown: Vec<access::Shown>,
    pub store: datasets::Store,
}

#[derive(Clone)]
struct Fake(Arc<Mutex<Script>>);

/// A running fake. Dropped, it is gone as after `kill -9`.
pub struct Server {
    runtime: Option<Runtime>,
    pub address: SocketAddr,
    pub script: Arc<Mutex<Script>>,
}

impl Server {
    pub fn start(script: Script) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), Arc::new(Mutex::new(script)))
    }

    pub fn start_at(address: SocketAddr, script: Arc<Mutex<Script>>) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        // A process that another test starts holds the sockets of this one until it runs its own program.
        let bind = || runtime.block_on(TcpListener::bind(address)).inspect_err(|_| std::thread::yield_now());
        let listener = (0..100_000).find_map(|_| bind().ok()).expect("the address is free in a moment");
        let address = listener.local_addr().unwrap();
        let fake = Fake(script.clone());
        runtime.spawn(
            tonic::transport::Server::builder()
                .add_service(JobServiceServer::new(fake.clone()))
                .add_service(ClusterServiceServer::new(fake.clone()))
                .add_service(AccessServiceServer::new(fake.clone()))
                .add_service(DatasetServiceServer::new(fake.clone()))
                .add_service(NotificationServiceServer::new(fake.clone()))
                .add_service(ArtifactServiceServer::new(fake))
                .serve_with_incoming(TcpListenerStream::new(listener)),
        );
        Self { runtime: Some(runtime), address, script }
    }

    /// Ends every connection without a word.
    pub fn kill(mut self) -> (SocketAddr, Arc<Mutex<Script>>) {
        self.runtime.take().unwrap().shutdown_timeout(std::time::Duration::from_secs(10));
        (self.address, self.script.clone())
    }

    pub fn yard(&self, arguments: &[&str]) -> Output {
        command(self.address, arguments).output().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// `yard` without anything of this machine's user.
pub fn command(server: SocketAddr, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_yard"));
    command.args(arguments).env("YARD_SERVER", format!("http://{server}")).env_remove("YARD_TOKEN");
    command.env("XDG_CONFIG_HOME", "/nonexistent").stdin(Stdio::null());
    // No folder, whoever runs the tests.
    command.env("XDG_CACHE_HOME", "/dev/null");
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

pub fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or_else(|| panic!("{output:?}"))
}

pub fn job(id: &str, state: pb::JobState) -> pb::Job {
    pb::Job { id: id.into(), state: state.into(), user: "ada".into(), ..Default::default() }
}

/// An answer as this server gives it: a standby names the leader beside it.
pub fn answer<T>(script: &Script, message: T) -> Response<T> {
    let mut response = Response::new(message);
    if let Some(leader) = &script.leader {
        response.metadata_mut().insert("trainyard-leader", leader.parse().unwrap());
    }
    response
}

fn sweep(id: &str, state: pb::JobState) -> pb::Sweep {
    let axes = vec![pb::SweepAxis { parameter: "lr0".into(), values: vec!["0.1".into(), "0.2".into()] }];
    let counts = vec![pb::JobCount { state: state.into(), jobs: 2 }];
    pb::Sweep { id: id.into(), axes, counts, ..Default::default() }
}

fn event(cursor: u64, event: Event) -> pb::JobEvent {
    let time = Some(prost_types::Timestamp { seconds: 1_700_000_000 + cursor as i64, nanos: 0 });
    pb::JobEvent { cursor, time, attempt: 1, event: Some(event) }
}

pub fn state(cursor: u64, state: pb::JobState) -> pb::JobEvent {
    event(
        cursor,
        Event::StateChange(pb::StateChange { state: state.into(), reason: format!("reason {cursor}") }),
    )
}

pub fn log(cursor: u64, level: pb::log_line::Level, message: &str) -> pb::JobEvent {
    event(cursor, Event::LogLine(pb::LogLine { level: level.into(), message: message.into() }))
}

pub fn epoch(cursor: u64, epoch: u32, map: f64) -> pb::JobEvent {
    let values = [("train/box_loss", 1.5), ("metrics/mAP50(B)", map), ("metrics/mAP50-95(B)", map / 2.0)];
    let metrics = pb::Metrics {
        epoch,
        epochs: 3,
        epoch_end: true,
        images_per_second: 40.0,
        values: values.map(|(name, value)| (name.to_owned(), value)).into(),
        ..Default::default()
    };
    event(cursor, Event::Metrics(metrics))
}

pub fn step(cursor: u64, batch: u32) -> pb::JobEvent {
    let values = [("train/box_loss".to_owned(), 1.5), ("train/cls_loss".to_owned(), 2.5)].into();
    let metrics = pb::Metrics {
        epoch: 1,
        epochs: 3,
        batch,
        batches: 40,
        images_per_second: 57.5,
        values,
        ..Default::default()
    };
    event(cursor, Event::Metrics(metrics))
}

pub fn write(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// What is said of a data set that nobody has looked at.
pub const UNCHECKED: &str = "data set not checked: /d: no agent is connected that looks at data sets";

/// Warnings about specs of which one names a path of machines.
fn unchecked(specs: &[pb::JobSpec]) -> Vec<String> {
    let is_path = |spec: &pb::JobSpec| spec.train.as_ref().is_some_and(|train| train.data.starts_with('/'));
    if specs.iter().any(is_path) { vec![UNCHECKED.into()] } else { Vec::new() }
}

/// What is wrong with a spec, as it is said of one among many.
fn of_many(status: &Status, at: usize) -> Status {
    let mut details = ErrorDetails::new();
    for violation in status.get_details_bad_request().unwrap().field_violations {
        let field = violation.field.replacen("spec.", &format!("specs[{at}]."), 1);
        details.add_bad_request_violation(field, violation.description);
    }
    Status::with_error_details(status.code(), "several fields are wrong", details)
}

#[tonic::async_trait]
impl JobService for Fake {
    async fn submit_job(
        &self,
        request: Request<pb::SubmitJobRequest>,
    ) -> Result<Response<pb::SubmitJobResponse>, Status> {
        let text = |key: &str| Some(request.metadata().get(key)?.to_str().unwrap().to_owned());
        let metadata = (text("trainyard-user"), text("authorization"));
        let request = request.into_inner();
        let mut script = self.0.lock().unwrap();
        script.metadata.push(metadata);
        script.submitted.push(request.clone());
        if script.unavailable > 0 {
            script.unavailable -= 1;
            return Err(Status::unavailable("the store is away"));
        }
        let name = request.spec.unwrap_or_default().name;
        match &script.refuse {
            Some((start, status)) if name.starts_with(start.as_str()) => Err(status.clone()),
            _ if request.validate_only => Ok(Response::new(pb::SubmitJobResponse {
                warnings: vec!["train: 1 label rows that repeat \u{1b}another".into()],
                plan: Some(pb::Plan {
                    options: vec![pb::PlanOption {
                        device: "NVIDIA GeForce RTX 4090".into(),
                        free: 1,
                        total: 2,
                        batch_size: 32,
                        ..Default::default()
                    }],
                    ..Default::default()
                }),
                ..Default::default()
            })),
            _ => Ok(Response::new(pb::SubmitJobResponse {
                job_id: ID.into(),
                job: Some(job(ID, pb::JobState::Queued)),
                ..Default::default()
            })),
        }
    }

    async fn submit_jobs(
        &self,
        request: Request<tonic::Streaming<pb::SubmitJobsRequest>>,
    ) -> Result<Response<pb::SubmitJobsResponse>, Status> {
        let mut parts = request.into_inner();
        let mut specs = Vec::new();
        while let Some(part) = parts.message().await? {
            specs.extend(part.specs);
            let mut script = self.0.lock().unwrap();
            script.job_groups.push(part.request_id);
            script.validated += usize::from(part.validate_only);
        }
        let script = self.0.lock().unwrap();
        if let Some((start, status)) = &script.refuse
            && let Some(at) = specs.iter().position(|spec| spec.name.starts_with(start.as_str()))
        {
            return Err(of_many(status, at));
        }
        let job_ids = (0..specs.len()).map(|at| format!("{}{at}", &ID[..35])).collect();
        Ok(Response::new(pb::SubmitJobsResponse { job_ids, warnings: unchecked(&specs) }))
    }

    async fn submit_sweep(
        &self,
        request: Request<pb::SubmitSweepRequest>,
    ) -> Result<Response<pb::SubmitSweepResponse>, Status> {
        let request = request.into_inner();
        let jobs = request.axes.iter().map(|axis| axis.values.len() as u32).product();
        let warnings = unchecked(request.spec.as_slice());
        self.0.lock().unwrap().sweeps.push(request);
        Ok(Response::new(pb::SubmitSweepResponse { sweep_id: ID.into(), jobs, warnings }))
    }

    async fn get_sweep(&self, request: Request<pb::GetSweepRequest>) -> Result<Response<pb::Sweep>, Status> {
        Ok(Response::new(sweep(&request.into_inner().sweep_id, pb::JobState::Running)))
    }

    async fn cancel_sweep(
        &self,
        request: Request<pb::CancelSweepRequest>,
    ) -> Result<Response<pb::Sweep>, Status> {
        Ok(Response::new(sweep(&request.into_inner().sweep_id, pb::JobState::Cancelled)))
    }

    async fn get_job(&self, request: Request<pb::GetJobRequest>) -> Result<Response<pb::Job>, Status> {
        let id = request.into_inner().job_id;
        let script = self.0.lock().unwrap();
        let job = script.jobs.iter().find(|job| job.id.starts_with(&id)).cloned();
        job.map(|job| answer(&script, job))
            .ok_or_else(|| Status::not_found(format!("there is no job `{id}`")))
    }

    async fn list_jobs(
        &self,
        request: Request<pb::ListJobsRequest>,
    ) -> Result<Response<pb::ListJobsResponse>, Status> {
        let request = request.into_inner();
        let mut script = self.0.lock().unwrap();
        let from: usize = request.page_token.parse().unwrap_or(0);
        // Small pages, whatever was asked for, so that tests page.
        let jobs: Vec<pb::Job> = script.jobs.iter().skip(from).take(2).cloned().collect();
        let next = from + jobs.len();
        let next_page_token = if next < script.jobs.len() { next.to_string() } else { String::new() };
        script.listed.push(request);
        Ok(answer(&script, pb::ListJobsResponse { jobs, next_page_token }))
    }

    async fn cancel_job(&self, request: Request<pb::CancelJobRequest>) -> Result<Response<pb::Job>, Status> {
        let id = request.into_inner().job_id;
        let mut script = self.0.lock().unwrap();
        let Some(job) = script.jobs.iter_mut().find(|job| job.id == id) else {
            return Err(Status::not_found(format!("there is no job `{id}`")));
        };
        job.state = pb::JobState::Cancelled.into();
        Ok(Response::new(job.clone()))
    }

    async fn retry_job(&self, _request: Request<pb::RetryJobRequest>) -> Result<Response<pb::Job>, Status> {
        Err(Status::failed_precondition("the job runs; only one that failed can be retried"))
    }

    async fn set_job_priority(
        &self,
        request: Request<pb::SetJobPriorityRequest>,
    ) -> Result<Response<pb::Job>, Status> {
        let pb::SetJobPriorityRequest { job_id, priority } = request.into_inner();
        let mut script = self.0.lock().unwrap();
        let found = script.jobs.iter_mut().find(|job| job.id == job_id);
        let job = found.ok_or_else(|| Status::not_found("there is no such job"))?;
        job.spec.get_or_insert_default().priority = priority;
        job.queue_position = Some(1);
        Ok(Response::new(job.clone()))
    }

    async fn list_user_shares(
        &self,
        _request: Request<pb::ListUserSharesRequest>,
    ) -> Result<Response<pb::ListUserSharesResponse>, Status> {
        let user = |user: &str, share| pb::UserShare {
            user: user.into(),
            share,
            penalty: 1.0,
            ..Default::default()
        };
        Ok(Response::new(pb::ListUserSharesResponse { users: vec![user("ada", 0.75), user("bob", 0.25)] }))
    }

    async fn diagnose_job(
        &self,
        _request: Request<pb::DiagnoseJobRequest>,
    ) -> Result<Response<pb::Diagnosis>, Status> {
        Ok(Response::new(self.0.lock().unwrap().diagnosis.clone()))
    }

    type WatchJobStream = Answers<pb::JobEvent>;

    async fn watch_job(
        &self,
        request: Request<pb::WatchJobRequest>,
    ) -> Result<Response<Self::WatchJobStream>, Status> {
        let mut script = self.0.lock().unwrap();
        script.cursors.push(request.into_inner().cursor);
        if script.watches.is_empty() {
            return Err(Status::not_found("there is no such job"));
        }
        let steps = tokio_stream::iter(script.watches.remove(0));
        if script.hang {
            return Ok(Response::new(Box::pin(steps.chain(tokio_stream::pending()))));
        }
        Ok(Response::new(Box::pin(steps)))
    }
}

impl Fake {
    /// Notes what was ordered; the first agent is the one.
    fn order(&self, request: &impl std::fmt::Debug) -> Result<Response<pb::Agent>, Status> {
        let mut script = self.0.lock().unwrap();
        script.orders.push(format!("{request:?}"));
        let agent = script.agents.first().cloned();
        agent.map(Response::new).ok_or_else(|| Status::not_found("there is no agent `lab1`"))
    }
}

#[tonic::async_trait]
impl ClusterService for Fake {
    async fn list_agents(
        &self,
        _request: Request<pb::ListAgentsRequest>,
    ) -> Result<Response<pb::ListAgentsResponse>, Status> {
        let agents = self.0.lock().unwrap().agents.clone();
        Ok(Response::new(pb::ListAgentsResponse { agents, ..Default::default() }))
    }

    async fn get_agent(&self, _request: Request<pb::GetAgentRequest>) -> Result<Response<pb::Agent>, Status> {
        Err(Status::unimplemented("not asked for"))
    }

    async fn drain_agent(
        &self,
        request: Request<pb::DrainAgentRequest>,
    ) -> Result<Response<pb::Agent>, Status> {
        self.order(&request.into_inner())
    }

    async fn resume_agent(
        &self,
        request: Request<pb::ResumeAgentRequest>,
    ) -> Result<Response<pb::Agent>, Status> {
        self.order(&request.into_inner())
    }

    async fn reserve_gpus(
        &self,
        request: Request<pb::ReserveGpusRequest>,
    ) -> Result<Response<pb::Agent>, Status> {
        self.order(&request.into_inner())
    }

    async fn release_gpus(
        &self,
        request: Request<pb::ReleaseGpusRequest>,
    ) -> Result<Response<pb::Agent>, Status> {
        self.order(&request.into_inner())
    }

    async fn clear_gpu(&self, request: Request<pb::ClearGpuRequest>) -> Result<Response<pb::Agent>, Status> {
        self.order(&request.into_inner())
    }

    async fn list_rates(
        &self,
        request: Request<pb::ListRatesRequest>,
    ) -> Result<Response<pb::ListRatesResponse>, Status> {
        let rate = |device: &str, images_per_second, spread, measured| pb::Rate {
            model: "yolov8s".into(),
            imgsz: 640,
            amp: true,
            gpus: 1,
            device: device.into(),
            images_per_second,
            spread,
            measured,
        };
        // A page each.
        let (rate, next) = match request.into_inner().page_token.as_str() {
            "" => (rate("NVIDIA GeForce RTX 4090", 212.34, 1.05, true), "second"),
            _ => (rate("NVIDIA GeForce RTX 5070", 98.0, 1.8, false), ""),
        };
        Ok(Response::new(pb::ListRatesResponse { rates: vec![rate], next_page_token: next.into() }))
    }

    async fn get_telemetry(
        &self,
        _request: Request<pb::GetTelemetryRequest>,
    ) -> Result<Response<pb::GetTelemetryResponse>, Status> {
        Err(Status::unimplemented("not asked for"))
    }

    type WatchClusterStream = Answers<pb::ClusterEvent>;

    async fn watch_cluster(
        &self,
        _request: Request<pb::WatchClusterRequest>,
    ) -> Result<Response<Self::WatchClusterStream>, Status> {
        Err(Status::unimplemented("not asked for"))
    }
}

#[tonic::async_trait]
impl ArtifactService for Fake {
    async fn list_artifacts(
        &self,
        _request: Request<pb::ListArtifactsRequest>,
    ) -> Result<Response<pb::ListArtifactsResponse>, Status> {
        let script = self.0.lock().unwrap();
        let artifacts = script.artifacts.iter().map(|(artifact, _)| artifact.clone()).collect();
        Ok(Response::new(pb::ListArtifactsResponse { artifacts, ..Default::default() }))
    }

    type DownloadArtifactStream = Answers<pb::DownloadArtifactResponse>;

    async fn download_artifact(
        &self,
        request: Request<pb::DownloadArtifactRequest>,
    ) -> Result<Response<Self::DownloadArtifactStream>, Status> {
        let request = request.into_inner();
        let mut script = self.0.lock().unwrap();
        script.offsets.push(request.offset);
        let bytes =
            script.artifacts.iter().find(|(artifact, _)| artifact.name == request.name).unwrap().1.clone();
        let start = usize::try_from(request.offset).unwrap();
        let end = script.break_after.take().map_or(bytes.len(), |count| start + count);
        let size_bytes = bytes.len() as u64;
        let chunk = |at: usize| {
            let data = bytes[at..end.min(at + 3)].to_vec();
            Ok(pb::DownloadArtifactResponse { offset: at as u64, data, size_bytes })
        };
        let mut steps: Vec<_> = (start..end).step_by(3).map(chunk).collect();
        if end < bytes.len() {
            steps.push(Err(Status::unavailable("going down")));
        }
        Ok(Response::new(Box::pin(tokio_stream::iter(steps))))
    }

    async fn upload_artifact(
        &self,
        _request: Request<tonic::Streaming<pb::UploadArtifactRequest>>,
    ) -> Result<Response<pb::UploadArtifactResponse>, Status> {
        Err(Status::unimplemented("agents only"))
    }
}

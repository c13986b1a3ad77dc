//! A scheduler in this process, over a real Redis, and clients for it.

pub mod receiver;
pub mod s3;
pub mod secure;
pub mod web;

use std::path::Path;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};
use trainyard_proto::pb;
use trainyard_proto::pb::agent_message::Message as FromAgent;
use trainyard_proto::pb::agent_service_client::AgentServiceClient;
use trainyard_proto::pb::artifact_service_client::ArtifactServiceClient;
use trainyard_proto::pb::cluster_service_client::ClusterServiceClient;
use trainyard_proto::pb::dataset_service_client::DatasetServiceClient;
use trainyard_proto::pb::job_service_client::JobServiceClient;
use trainyard_proto::pb::scheduler_message::Message as ToAgent;
use trainyard_scheduler::config::Config;
use trainyard_scheduler::server::{Server, StartError};
use trainyard_scheduler_core::Policy;
use trainyard_types::Time;
use trainyard_types::trainer::{Log, LogLevel, Started, TrainerEvent, TrainerLine, VERSION};

pub fn config(dir: &Path) -> Config {
    // Tests say which job is first; the default policy weighs its length.
    let policy = Policy::Fair;
    Config { listen: "127.0.0.1:0".into(), data_dir: dir.into(), policy, ..Config::default() }
}

/// One scheduler with its own directory.
pub struct Scheduler {
    pub server: Server,
    pub dir: TempDir,
    channel: Channel,
}

impl Scheduler {
    pub async fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap()).await
    }

    pub async fn start_in(dir: TempDir) -> Self {
        let config = config(dir.path());
        Self::start_with(dir, config).await
    }

    /// Returns once it serves.
    pub async fn start_with(dir: TempDir, config: Config) -> Self {
        let scheduler = Self::open(dir, config).await;
        scheduler.serving().await;
        scheduler
    }

    /// Returns once its port is open.
    pub async fn open(dir: TempDir, config: Config) -> Self {
        let deadline = Instant::now() + Duration::from_secs(30);
        let server = loop {
            match Server::start(config.clone()).await {
                // A program that another test is just starting has all files of this process open for a moment, and so
                // the lock of a scheduler that has ended.
                Err(StartError::Locked(_)) if Instant::now() < deadline => tokio::task::yield_now().await,
                started => break started.unwrap(),
            }
        };
        let channel = Endpoint::from_shared(format!("http://{}", server.address())).unwrap().connect_lazy();
        Self { server, dir, channel }
    }

    /// `ready: leads`, or what else it is.
    pub async fn page(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.server.address()).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer.split_once("\r\n\r\n").unwrap().1.to_owned()
    }

    /// Returns once `/readyz` says so.
    pub async fn is(&self, role: &str) {
        while !self.page("/readyz").await.contains(role) {}
    }

    pub async fn serving(&self) {
        while self.jobs().list_jobs(pb::ListJobsRequest::default()).await.is_err() {}
    }

    /// Ends it gently.
    pub async fn stop(self) -> TempDir {
        self.server.closing().cancel();
        self.server.wait().await.unwrap();
        self.dir
    }

    pub fn jobs(&self) -> JobServiceClient<Channel> {
        JobServiceClient::new(self.channel.clone())
    }

    pub fn cluster(&self) -> ClusterServiceClient<Channel> {
        ClusterServiceClient::new(self.channel.clone())
    }

    pub fn artifacts(&self) -> ArtifactServiceClient<Channel> {
        ArtifactServiceClient::new(self.channel.clone())
    }

    pub fn datasets(&self) -> DatasetServiceClient<Channel> {
        DatasetServiceClient::new(self.channel.clone())
    }

    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    pub async fn submit(&self, request: pb::SubmitJobRequest) -> Result<pb::Job, Status> {
        Ok(self.jobs().submit_job(request).await?.into_inner().job.unwrap())
    }

    pub async fn get(&self, job_id: &str) -> pb::Job {
        let request = pb::GetJobRequest { job_id: job_id.into() };
        self.jobs().get_job(request).await.unwrap().into_inner()
    }

    pub async fn list(&self, request: pb::ListJobsRequest) -> Result<pb::ListJobsResponse, Status> {
        Ok(self.jobs().list_jobs(request).await?.into_inner())
    }

    pub async fn watch(&self, job_id: &str, cursor: u64) -> Streaming<pb::JobEvent> {
        let request = pb::WatchJobRequest { job_id: job_id.into(), cursor, history_only: false };
        self.jobs().watch_job(request).await.unwrap().into_inner()
    }

    /// An agent with two CPU slots, welcomed.
    pub async fn agent(&self, id: u128, attempts: &[String]) -> Agent {
        Agent::connect(self.channel.clone(), id, attempts).await.unwrap()
    }
}

/// A job for a CPU slot.
pub fn submission(request_id: &str) -> pb::SubmitJobRequest {
    let train =
        pb::TrainSpec { model: "yolov8n".into(), data: "/data/bccd/data.yaml".into(), ..Default::default() };
    let resources = pb::Resources { device: Some("cpu".into()), ..Default::default() };
    let spec = pb::JobSpec { train: Some(train), resources: Some(resources), ..Default::default() };
    pb::SubmitJobRequest { request_id: request_id.into(), spec: Some(spec), validate_only: false }
}

/// An agent that does what a test says.
pub struct Agent {
    messages: mpsc::Sender<pb::AgentMessage>,
    commands: Streaming<pb::SchedulerMessage>,
    pub welcome: pb::Welcome,
}

impl Agent {
    pub async fn connect(channel: Channel, id: u128, attempts: &[String]) -> Result<Self, Status> {
        let hello = pb::Hello {
            agent_id: uuid::Uuid::from_u128(id).to_string(),
            name: format!("agent-{id}"),
            version: "test".into(),
            cpu_slots: 2,
            memory_total_mib: 1024,
            attempts: attempts.to_vec(),
            ..Default::default()
        };
        Self::connect_as(channel, hello).await
    }

    /// With such a first message.
    pub async fn connect_as(channel: Channel, hello: pb::Hello) -> Result<Self, Status> {
        let (messages, stream) = mpsc::channel(16);
        messages.send(pb::AgentMessage { message: Some(FromAgent::Hello(hello)) }).await.unwrap();
        let answer = AgentServiceClient::new(channel).connect(ReceiverStream::new(stream)).await?;
        let mut commands = answer.into_inner();
        match commands.message().await?.and_then(|message| message.message) {
            Some(ToAgent::Welcome(welcome)) => Ok(Self { messages, commands, welcome }),
            other => panic!("{other:?}"),
        }
    }

    pub async fn say(&self, message: FromAgent) {
        self.try_say(message).await.unwrap();
    }

    /// Fails when the session is over.
    pub async fn try_say(&self, message: FromAgent) -> Result<(), mpsc::error::SendError<pb::AgentMessage>> {
        self.messages.send(pb::AgentMessage { message: Some(message) }).await
    }

    /// What the scheduler says next.
    pub async fn command(&mut self) -> Result<ToAgent, Status> {
        let message = self.commands.message().await?;
        Ok(message.expect("the stream ends with an error").message.unwrap())
    }

    /// What it is to run next, past what acknowledges its reports.
    pub async fn assigned(&mut self) -> pb::Assign {
        loop {
            match self.command().await.unwrap() {
                ToAgent::Assign(assign) => return assign,
                ToAgent::Ack(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    pub async fn report(&self, attempt: &str, sequence: u64, body: pb::report::Report) {
        self.try_report(attempt, sequence, body).await.unwrap();
    }

    /// Fails when the session is over.
    pub async fn try_report(
        &self,
        attempt: &str,
        sequence: u64,
        body: pb::report::Report,
    ) -> Result<(), mpsc::error::SendError<pb::AgentMessage>> {
        let report = pb::Report {
            attempt: attempt.into(),
            sequence,
            time: Some(prost_types::Timestamp { seconds: 1, nanos: 0 }),
            report: Some(body),
        };
        self.try_say(FromAgent::Report(report)).await
    }

    /// Reports, and waits until the report is durable.
    pub async fn report_acked(&mut self, attempt: &str, sequence: u64, body: pb::report::Report) {
        self.report(attempt, sequence, body).await;
        loop {
            match self.command().await.unwrap() {
                ToAgent::Ack(ack) if (ack.attempt.as_str(), ack.sequence) == (attempt, sequence) => return,
                ToAgent::Ack(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

fn line(event: TrainerEvent) -> pb::report::Report {
    let line = TrainerLine { v: VERSION, time: Time(1000), event };
    pb::report::Report::TrainerEvent(serde_json::to_string(&line).unwrap())
}

pub fn started() -> pb::report::Report {
    line(TrainerEvent::Started(Started {
        parameters: 3,
        train_images: 4,
        val_images: 2,
        classes: vec!["cell".into()],
        epochs: 1,
        batch_size: 4,
        first_epoch: 1,
        device: "cpu".into(),
        ..Started::default()
    }))
}

pub fn log(message: impl Into<String>) -> pb::report::Report {
    line(TrainerEvent::Log(Log { level: LogLevel::Info, message: message.into() }))
}

pub fn ended(reason: pb::attempt::EndReason, artifacts: Vec<pb::Artifact>) -> pb::report::Report {
    let ended = pb::Ended { reason: reason.into(), message: "over".into(), artifacts, unfit: None };
    pb::report::Report::Ended(ended)
}

pub fn checkpoint(step: u64, files: Vec<pb::Artifact>) -> pb::report::Report {
    let checkpoint = Some(pb::Checkpoint { step, epoch: 1, files });
    pb::report::Report::CheckpointStored(pb::CheckpointStored { checkpoint })
}

/// The code of a call that must fail.
#[track_caller]
pub fn code<T: std::fmt::Debug>(result: Result<T, Status>) -> Code {
    result.unwrap_err().code()
}

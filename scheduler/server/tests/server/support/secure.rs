//! A scheduler in this process that asks people who they are, and clients with tokens and certificates.

use std::net::SocketAddr;

use http_body::Body as _;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::client::GrpcService;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tonic_prost::ProstCodec;
use tonic_types::StatusExt as _;
use trainyard_access::{Identity, KeyRequest, Pin, Token, Trust};
use trainyard_proto::pb;
use trainyard_proto::pb::access_service_client::AccessServiceClient;
use trainyard_proto::pb::cluster_service_client::ClusterServiceClient;
use trainyard_proto::pb::dataset_service_client::DatasetServiceClient;
use trainyard_proto::pb::job_service_client::JobServiceClient;
use trainyard_proto::pb::notification_service_client::NotificationServiceClient;
use trainyard_scheduler::config::{Config, SecurityMode};
use trainyard_scheduler::server::Server;

use super::{config, submission};

/// Sends a token with every call.
#[derive(Clone)]
pub struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

type Sending = InterceptedService<Channel, Bearer>;

pub struct SecureScheduler {
    pub server: Server,
    dir: TempDir,
    admin: Token,
    channel: Channel,
}

/// What an agent with this id says first.
pub fn hello(id: u128) -> pb::Hello {
    let agent_id = uuid::Uuid::from_u128(id).to_string();
    pb::Hello {
        agent_id,
        name: format!("agent-{id}"),
        cpu_slots: 2,
        memory_total_mib: 1024,
        ..Default::default()
    }
}

/// The reason in a refusal's `ErrorInfo`.
pub fn reason(status: &Status) -> String {
    status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
}

/// Calls a method with an empty message; `None` where it succeeds, or answers nothing yet.
pub async fn raw_on<S>(service: S, path: &str) -> Option<Status>
where
    S: GrpcService<tonic::body::Body, Error: std::fmt::Debug>,
    S::ResponseBody: http_body::Body<Data = tonic::codegen::Bytes> + Send + 'static,
    <S::ResponseBody as http_body::Body>::Error: Into<tonic::codegen::StdError> + Send,
{
    let mut client = tonic::client::Grpc::new(service);
    client.ready().await.unwrap();
    let messages = tokio_stream::once(());
    let codec: ProstCodec<(), ()> = ProstCodec::default();
    let call = client.streaming(Request::new(messages), PathAndQuery::try_from(path).unwrap(), codec);
    match call.await {
        Err(status) => Some(status),
        Ok(mut answer) => answer.get_mut().message().await.err(),
    }
}

/// An error with all its causes.
pub fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

pub fn identity(chain: &str, key: &str) -> Identity {
    let dir = tempfile::tempdir().unwrap();
    let (chain_file, key_file) = (dir.path().join("c.pem"), dir.path().join("k.pem"));
    std::fs::write(&chain_file, chain).unwrap();
    std::fs::write(&key_file, key).unwrap();
    Identity::read(&chain_file, &key_file).unwrap()
}

/// An HTTP page in plaintext, by a name of the machine.
pub async fn plain_request(address: SocketAddr, path: &str, host: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

impl SecureScheduler {
    /// Returns once it serves; on loopback, since that is where tests are.
    pub async fn start(change: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config { security: SecurityMode::On, ..config(dir.path()) };
        change(&mut config);
        let server = Server::start(config).await.unwrap();
        let file = dir.path().join("first-login.txt");
        let token = loop {
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            let line = text.lines().find(|line| line.contains("yard login"));
            let token = line.and_then(|line| line.rsplit(' ').next()?.parse::<Token>().ok());
            // Whole once its last line is there.
            if let Some(token) = token.filter(|_| text.contains("remove this file")) {
                break token;
            }
            tokio::task::yield_now().await;
        };
        let channel = Self::endpoint(&server)
            .connect_with_connector_lazy(Trust::none().pin(token.pin).connector().unwrap());
        let scheduler = Self { server, dir, admin: token, channel };
        let admin = scheduler.admin.reveal();
        while scheduler.jobs(&admin).list_jobs(pb::ListJobsRequest::default()).await.is_err() {}
        scheduler
    }

    /// Another scheduler, of the same Redis and authority by `change`.
    pub async fn replica(&self, change: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config { security: SecurityMode::On, ..config(dir.path()) };
        change(&mut config);
        let server = Server::start(config).await.unwrap();
        let admin = self.admin.clone();
        let trust = Trust::none().pin(admin.pin).connector().unwrap();
        let channel = Self::endpoint(&server).connect_with_connector_lazy(trust);
        Self { server, dir, admin, channel }
    }

    fn endpoint(server: &Server) -> Endpoint {
        Endpoint::from_shared(format!("https://{}", server.address())).unwrap()
    }

    pub fn admin(&self) -> Token {
        self.admin.clone()
    }

    pub async fn dial(
        &self,
        pin: Option<Pin>,
        identity: Option<Identity>,
    ) -> Result<Channel, tonic::transport::Error> {
        let trust = Trust::none().pin(pin.unwrap_or(self.admin.pin));
        let trust = match identity {
            Some(identity) => trust.identity(identity),
            None => trust,
        };
        Self::endpoint(&self.server).connect_with_connector(trust.connector().unwrap()).await
    }

    fn with(&self, token: &str) -> Bearer {
        let _same_for_all = self;
        Bearer(Some(format!("Bearer {token}").parse().unwrap()))
    }

    pub fn nobody(&self) -> JobServiceClient<Channel> {
        JobServiceClient::new(self.channel.clone())
    }

    pub fn jobs(&self, token: &str) -> JobServiceClient<Sending> {
        JobServiceClient::with_interceptor(self.channel.clone(), self.with(token))
    }

    /// On a connection of its own.
    pub fn jobs_on(&self, channel: Channel, token: &str) -> JobServiceClient<Sending> {
        JobServiceClient::with_interceptor(channel, self.with(token))
    }

    pub fn access(&self, token: &str) -> AccessServiceClient<Sending> {
        AccessServiceClient::with_interceptor(self.channel.clone(), self.with(token))
    }

    pub fn notifications(&self, token: &str) -> NotificationServiceClient<Sending> {
        NotificationServiceClient::with_interceptor(self.channel.clone(), self.with(token))
    }

    pub fn cluster(&self, token: &str) -> ClusterServiceClient<Sending> {
        ClusterServiceClient::with_interceptor(self.channel.clone(), self.with(token))
    }

    pub fn datasets(&self, token: &str) -> DatasetServiceClient<Sending> {
        DatasetServiceClient::with_interceptor(self.channel.clone(), self.with(token))
    }

    /// A new token of this user and role, made by the admin.
    pub async fn token(&self, user: &str, role: pb::AccessRole) -> String {
        let wish = pb::CreateTokenRequest { user: user.into(), role: role.into(), ..Default::default() };
        self.access(&self.admin.reveal()).create_token(wish).await.unwrap().into_inner().token
    }

    /// Calls a method with an empty message; `None` where it succeeds, or answers nothing yet.
    pub async fn raw(&self, path: &str, token: Option<&str>) -> Option<Status> {
        let bearer = token.map_or(Bearer(None), |token| self.with(token));
        raw_on(InterceptedService::new(self.channel.clone(), bearer), path).await
    }

    /// Joins as the agent with this id.
    pub async fn enrol(&self, token: &str, id: u128) -> Result<Identity, Status> {
        let key = KeyRequest::make().unwrap();
        let wish = pb::EnrolAgentRequest {
            agent_id: uuid::Uuid::from_u128(id).to_string(),
            name: format!("agent-{id}"),
            certificate_request: key.request_pem.clone(),
        };
        let answer = self.access(token).enrol_agent(wish).await?.into_inner();
        Ok(identity(&answer.certificate_chain, &key.key_pem))
    }

    /// The audit's events of a method, once there are so many.
    pub async fn audit_of(&self, action: &str, count: usize) -> Vec<pb::AuditEvent> {
        let mut access = self.access(&self.admin.reveal());
        loop {
            let wish = pb::ListAuditEventsRequest { after: "0".into(), page_size: 1000 };
            let events = access.list_audit_events(wish).await.unwrap().into_inner().events;
            let found: Vec<_> = events.into_iter().filter(|event| event.action == action).collect();
            if found.len() >= count {
                return found;
            }
        }
    }

    /// What the audit's file has by now.
    pub fn audit_file(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("audit.jsonl")).unwrap_or_default()
    }

    /// As another scheduler of the same store revokes one.
    pub async fn remove_token_in_store(&self, id: &str) {
        let socket = self.server.redis().unwrap().socket().to_owned();
        let client = redis::Client::open(redis::ConnectionAddr::Unix(socket)).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let mut pipe = redis::pipe();
        pipe.atomic().cmd("HDEL").arg("{trainyard}:tokens").arg(id).ignore();
        pipe.cmd("INCR").arg("{trainyard}:access_revision").ignore();
        let () = pipe.query_async(&mut connection).await.unwrap();
    }

    /// A connection that is not encrypted.
    pub fn plaintext(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.server.address())).unwrap().connect_lazy()
    }

    /// An HTTP page over the encrypted connection: its status and text.
    pub async fn page(&self, path: &str) -> (u16, String) {
        let url = format!("https://{}{path}", self.server.address());
        let request = tonic::codegen::http::Request::get(url).body(tonic::body::Body::empty()).unwrap();
        let mut channel = self.channel.clone();
        std::future::poll_fn(|context| GrpcService::<tonic::body::Body>::poll_ready(&mut channel, context))
            .await
            .unwrap();
        let (head, mut body) = GrpcService::call(&mut channel, request).await.unwrap().into_parts();
        let mut text = Vec::new();
        while let Some(frame) =
            std::future::poll_fn(|context| std::pin::Pin::new(&mut body).poll_frame(context)).await
        {
            text.extend(frame.unwrap().into_data().unwrap());
        }
        (head.status.as_u16(), String::from_utf8(text).unwrap())
    }

    pub async fn plain_page(&self, path: &str) -> String {
        let _kept = &self.dir;
        plain_request(self.server.address(), path, "localhost").await
    }

    /// A job that no agent of these tests takes.
    pub fn submission_on_no_agent() -> pb::SubmitJobRequest {
        let mut request = submission("");
        if let Some(spec) = &mut request.spec {
            spec.resources = Some(pb::Resources { device: Some("gpu".into()), ..Default::default() });
        }
        request
    }
}

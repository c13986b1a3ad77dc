//! How fast submissions are made durable, over real gRPC and Redis, open and with encryption and tokens; and what a
//! token's check takes. Prints `name value unit` lines.

use std::path::Path;
use std::time::{Duration, Instant};

use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use trainyard_access::{Token, Trust};
use trainyard_proto::pb;
use trainyard_proto::pb::job_service_client::JobServiceClient;
use trainyard_scheduler::config::{Config, SecurityMode};
use trainyard_scheduler::server::Server;

const CALLERS: usize = 64;
/// Submissions of each caller when many submit, and of the one when one does.
const EACH: usize = 100;
const ALONE: usize = 500;
const ROUNDS: usize = 3;

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn submission() -> pb::SubmitJobRequest {
    let train =
        pb::TrainSpec { model: "yolov8n".into(), data: "/data/bccd/data.yaml".into(), ..Default::default() };
    let spec = pb::JobSpec { name: "bench".into(), train: Some(train), ..Default::default() };
    pb::SubmitJobRequest { request_id: String::new(), spec: Some(spec), validate_only: false }
}

/// Sends a token with every call, if there is one.
#[derive(Clone)]
struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

type Caller = InterceptedService<Channel, Bearer>;

/// How long each of `count` submissions took.
async fn submit(caller: Caller, count: usize) -> Result<Vec<Duration>, Failure> {
    let mut jobs = JobServiceClient::new(caller);
    let mut took = Vec::with_capacity(count);
    for _ in 0..count {
        let start = Instant::now();
        jobs.submit_job(submission()).await?;
        took.push(start.elapsed());
    }
    took.sort();
    Ok(took)
}

/// A scheduler of its own directory, and a caller that may submit there.
struct Scheduler {
    server: Server,
    caller: Caller,
    token: Option<Token>,
    _dir: tempfile::TempDir,
}

impl Scheduler {
    async fn start(security: SecurityMode) -> Result<Self, Failure> {
        let dir = tempfile::tempdir()?;
        let (listen, data_dir) = ("127.0.0.1:0".to_owned(), dir.path().to_owned());
        let server = Server::start(Config { listen, data_dir, security, ..Config::default() }).await?;
        let address = server.address();
        let (channel, token) = if security == SecurityMode::On {
            let token = first_token(dir.path()).await?;
            let connector = Trust::none().pin(token.pin).connector()?;
            let endpoint = Endpoint::from_shared(format!("https://{address}"))?;
            (endpoint.connect_with_connector(connector).await?, Some(token))
        } else {
            (Endpoint::from_shared(format!("http://{address}"))?.connect().await?, None)
        };
        let bearer = token.as_ref().map(|token| format!("Bearer {}", token.reveal()).parse()).transpose()?;
        let caller = InterceptedService::new(channel, Bearer(bearer));
        // Until the store has been read; and everything is warm then.
        while submit(caller.clone(), 20).await.is_err() {}
        Ok(Self { server, caller, token, _dir: dir })
    }

    /// Submissions a second of many callers.
    async fn rate(&self) -> Result<f64, Failure> {
        let start = Instant::now();
        let callers: Vec<_> = (0..CALLERS).map(|_| tokio::spawn(submit(self.caller.clone(), EACH))).collect();
        for caller in callers {
            caller.await??;
        }
        Ok((CALLERS * EACH) as f64 / start.elapsed().as_secs_f64())
    }

    async fn end(self) -> Result<(), Failure> {
        self.server.closing().cancel();
        Ok(self.server.wait().await?)
    }
}

/// The admin's token, once there is one.
async fn first_token(dir: &Path) -> Result<Token, Failure> {
    loop {
        if let Ok(text) = std::fs::read_to_string(dir.join("first-login.txt")) {
            let line = text.lines().find(|line| line.contains("yard login"));
            return Ok(line.and_then(|line| line.rsplit(' ').next()).ok_or("no login")?.parse()?);
        }
        tokio::task::yield_now().await;
    }
}

/// What it takes to know a caller by a token, among others.
fn token_check(token: &Token) -> f64 {
    const CHECKS: u32 = 20_000;
    let (text, digest) = (token.reveal(), token.secret.digest());
    let start = Instant::now();
    for _ in 0..CHECKS {
        let sent: Option<Token> = std::hint::black_box(&text).parse().ok();
        assert!(sent.is_some_and(|sent| digest.is_of(&sent.secret)));
    }
    start.elapsed().as_secs_f64() * 1e6 / f64::from(CHECKS)
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let open = Scheduler::start(SecurityMode::Off).await?;
    let alone = submit(open.caller.clone(), ALONE).await?;
    let quantile = |share: usize| alone[(alone.len() - 1) * share / 100].as_secs_f64() * 1000.0;
    println!("scheduler_submit_one_caller_p50 {:.3} ms", quantile(50));
    println!("scheduler_submit_one_caller_p99 {:.3} ms", quantile(99));

    // In turns, so that whatever else the machine does is in both.
    let secure = Scheduler::start(SecurityMode::On).await?;
    let (mut of_open, mut of_secure) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        of_open.push(open.rate().await?);
        of_secure.push(secure.rate().await?);
    }
    let median = |mut rates: Vec<f64>| {
        rates.sort_by(f64::total_cmp);
        rates[rates.len() / 2]
    };
    let (of_open, of_secure) = (median(of_open), median(of_secure));
    println!("scheduler_submit_64_callers {of_open:.0} jobs/s");
    println!("scheduler_submit_64_callers_secure {of_secure:.0} jobs/s");
    println!("scheduler_submit_secure_over_open {:.2} ratio", of_secure / of_open);
    if let Some(token) = &secure.token {
        println!("scheduler_token_check {:.2} us", token_check(token));
    }
    open.end().await?;
    secure.end().await
}

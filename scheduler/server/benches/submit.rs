//! How fast submissions are made durable, over real gRPC and Redis. Prints `name value unit` lines.

use std::time::{Duration, Instant};

use tonic::transport::{Channel, Endpoint};
use trainyard_proto::pb;
use trainyard_proto::pb::job_service_client::JobServiceClient;
use trainyard_scheduler::config::Config;
use trainyard_scheduler::server::Server;

const CALLERS: usize = 64;
/// Submissions of each caller when many submit, and of the one when one does.
const EACH: usize = 100;
const ALONE: usize = 500;

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn submission() -> pb::SubmitJobRequest {
    let train =
        pb::TrainSpec { model: "yolov8n".into(), data: "/data/bccd/data.yaml".into(), ..Default::default() };
    let spec = pb::JobSpec { name: "bench".into(), train: Some(train), ..Default::default() };
    pb::SubmitJobRequest { request_id: String::new(), spec: Some(spec), validate_only: false }
}

/// How long each of `count` submissions took.
async fn submit(channel: Channel, count: usize) -> Result<Vec<Duration>, Failure> {
    let mut jobs = JobServiceClient::new(channel);
    let mut took = Vec::with_capacity(count);
    for _ in 0..count {
        let start = Instant::now();
        jobs.submit_job(submission()).await?;
        took.push(start.elapsed());
    }
    took.sort();
    Ok(took)
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let dir = tempfile::tempdir()?;
    let listen = "127.0.0.1:0".to_owned();
    let config = Config { listen, data_dir: dir.path().into(), ..Config::default() };
    let server = Server::start(config).await?;
    let channel = Endpoint::from_shared(format!("http://{}", server.address()))?.connect().await?;
    // Until the store has been read; and everything is warm then.
    while submit(channel.clone(), 20).await.is_err() {}

    let alone = submit(channel.clone(), ALONE).await?;
    let quantile = |share: usize| alone[(alone.len() - 1) * share / 100].as_secs_f64() * 1000.0;
    println!("scheduler_submit_one_caller_p50 {:.3} ms", quantile(50));
    println!("scheduler_submit_one_caller_p99 {:.3} ms", quantile(99));

    let start = Instant::now();
    let callers: Vec<_> = (0..CALLERS).map(|_| tokio::spawn(submit(channel.clone(), EACH))).collect();
    for caller in callers {
        caller.await??;
    }
    let seconds = start.elapsed().as_secs_f64();
    let rate = (CALLERS * EACH) as f64 / seconds;
    println!("scheduler_submit_64_callers {rate:.0} jobs/s");

    server.closing().cancel();
    server.wait().await?;
    Ok(())
}

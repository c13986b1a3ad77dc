//! The scheduler under load: a process of its own, over real gRPC and Redis. Prints `name value unit` lines.
//!
//! Clients and agents run in this process, so that what is measured of the scheduler's processor time and
//! memory is its own. Both share the machine with it, as does Redis.

#![allow(clippy::unwrap_used, reason = "a benchmark ends where its ground does")]

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use trainyard_proto::pb;
use trainyard_proto::pb::agent_message::Message as FromAgent;
use trainyard_proto::pb::agent_service_client::AgentServiceClient;
use trainyard_proto::pb::cluster_service_client::ClusterServiceClient;
use trainyard_proto::pb::job_service_client::JobServiceClient;
use trainyard_proto::pb::scheduler_message::Message as ToAgent;
use trainyard_types::Time;
use trainyard_types::trainer::{Started, Step, TrainerEvent, TrainerLine, VERSION};

const QUEUED: usize = 100_000;
const AGENTS: u128 = 1000;
const NOOP_AGENTS: u128 = 100;
const NOOPS: usize = 20_000;
/// Metric events, in all and by how many jobs.
const EVENTS: u64 = 50_000;
const REPORTERS: u128 = 50;
/// Events under way of one job.
const WINDOW: u64 = 64;

struct Scheduler {
    child: Child,
    url: String,
}

impl Scheduler {
    fn start(dir: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_trainyard-scheduler"))
            .env("TRAINYARD_SCHEDULER__LISTEN", "127.0.0.1:0")
            .env("TRAINYARD_SCHEDULER__DATA_DIR", dir)
            .env("TRAINYARD_SCHEDULER__LOG", "warn,trainyard_scheduler::server=info")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        let said = lines.by_ref().find_map(|line| Some(line.split_once("listening address=")?.1.to_owned()));
        std::thread::spawn(move || lines.for_each(drop));
        let url = format!("http://{}", said.unwrap().split(' ').next().unwrap());
        Self { child, url }
    }

    async fn channel(&self) -> Channel {
        let channel = Endpoint::from_shared(self.url.clone()).unwrap().connect().await.unwrap();
        while jobs(&channel).list_jobs(pb::ListJobsRequest::default()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        channel
    }

    /// Resident memory in MiB.
    fn memory(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
    }

    /// Processor time used so far, in seconds.
    fn processor(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
        ticks / 100.0
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn jobs(channel: &Channel) -> JobServiceClient<Channel> {
    JobServiceClient::new(channel.clone()).max_decoding_message_size(64 << 20)
}

fn spec(number: usize, device: &str) -> pb::JobSpec {
    let train = pb::TrainSpec {
        model: "yolov8n".into(),
        data: "/data/bccd/data.yaml".into(),
        seed: Some(number as u64),
        ..Default::default()
    };
    let resources = pb::Resources { device: Some(device.into()), ..Default::default() };
    let (train, resources) = (Some(train), Some(resources));
    pb::JobSpec { name: format!("bench-{number}"), train, resources, ..Default::default() }
}

async fn submit_many(channel: &Channel, count: usize, device: &str) -> (Vec<String>, Duration) {
    let numbers: Vec<usize> = (0..count).collect();
    let part = |numbers: &[usize]| pb::SubmitJobsRequest {
        specs: numbers.iter().map(|&number| spec(number, device)).collect(),
        ..Default::default()
    };
    let parts: Vec<_> = numbers.chunks(1000).map(part).collect();
    let start = Instant::now();
    let answer = jobs(channel).submit_jobs(tokio_stream::iter(parts)).await.unwrap().into_inner();
    (answer.job_ids, start.elapsed())
}

/// An agent's connection.
struct Agent {
    say: mpsc::Sender<pb::AgentMessage>,
    hear: tonic::Streaming<pb::SchedulerMessage>,
}

impl Agent {
    async fn connect(url: &str, id: u128, cpu_slots: u32) -> Self {
        Self::connect_with(url, id, cpu_slots, vec![]).await
    }

    async fn connect_with(url: &str, id: u128, cpu_slots: u32, gpus: Vec<pb::Gpu>) -> Self {
        let channel = Endpoint::from_shared(url.to_owned()).unwrap().connect().await.unwrap();
        let hello = pb::Hello {
            agent_id: uuid::Uuid::from_u128(id).to_string(),
            name: format!("agent-{id}"),
            version: "bench".into(),
            cpu_slots,
            gpus,
            memory_total_mib: 1024,
            ..Default::default()
        };
        let (say, stream) = mpsc::channel(256);
        say.send(pb::AgentMessage { message: Some(FromAgent::Hello(hello)) }).await.unwrap();
        let answer = AgentServiceClient::new(channel).connect(ReceiverStream::new(stream)).await.unwrap();
        let mut agent = Self { say, hear: answer.into_inner() };
        assert!(matches!(agent.next().await, Some(ToAgent::Welcome(_))));
        agent
    }

    async fn next(&mut self) -> Option<ToAgent> {
        self.hear.message().await.ok()??.message
    }

    async fn report(&self, attempt: &str, sequence: u64, body: pb::report::Report) {
        let time = Some(prost_types::Timestamp { seconds: 1, nanos: 0 });
        let report = pb::Report { attempt: attempt.into(), sequence, time, report: Some(body) };
        self.say.send(pb::AgentMessage { message: Some(FromAgent::Report(report)) }).await.unwrap();
    }

    /// Says that it lives, for as long as it is there.
    fn beat(&self) {
        let say = self.say.clone();
        tokio::spawn(async move {
            let heartbeat =
                || pb::AgentMessage { message: Some(FromAgent::Heartbeat(pb::Heartbeat::default())) };
            while say.send(heartbeat()).await.is_ok() {
                tokio::time::sleep(Duration::from_secs(5)).await;
            }
        });
    }

    /// Tells what its one GPU does once a second, five seconds at a time, starting within the first five.
    fn tell_of_gpu(&self, id: u128) {
        let say = self.say.clone();
        tokio::spawn(async move {
            let share = u32::try_from(id % 100).unwrap_or(0);
            tokio::time::sleep(Duration::from_secs(5) * share / 100).await;
            loop {
                let now = std::time::SystemTime::now();
                let sample = |ago: u64| pb::TelemetrySample {
                    time: Some((now - Duration::from_secs(ago)).into()),
                    gpu: format!("GPU-{id:036}"),
                    utilization_ratio: Some(0.97),
                    memory_used_mib: Some(20_480),
                    power_watts: Some(402.5),
                    energy_joules: Some(1_234_567.0),
                    temperature_celsius: Some(67),
                    clock_mhz: Some(2520),
                    throttle_reasons: vec![],
                };
                let telemetry = pb::Telemetry { samples: (0..5).rev().map(sample).collect() };
                let message = pb::AgentMessage { message: Some(FromAgent::Telemetry(telemetry)) };
                if say.send(message).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_secs(5)).await;
            }
        });
    }

    /// Trains what it is given for some twenty to sixty seconds each, and tells of it.
    async fn work(mut self, id: u128) {
        let lasts = Duration::from_secs(20 + u64::try_from(id % 40).unwrap_or(0));
        let mut ticks = tokio::time::interval(Duration::from_secs(2));
        let mut running: Option<(String, u64, Instant)> = None;
        let ended = |reason: pb::attempt::EndReason| {
            pb::report::Report::Ended(pb::Ended { reason: reason.into(), ..Default::default() })
        };
        loop {
            tokio::select! {
                message = self.next() => match message {
                    Some(ToAgent::Assign(assign)) => {
                        self.report(&assign.attempt, 1, line(TrainerEvent::Started(started(100)))).await;
                        running = Some((assign.attempt, 1, Instant::now() + lasts));
                    }
                    Some(ToAgent::Stop(_)) => {
                        if let Some((attempt, sequence, _)) = running.take() {
                            self.report(&attempt, sequence + 1, ended(pb::attempt::EndReason::Cancelled)).await;
                        }
                    }
                    Some(_) => {}
                    None => return,
                },
                _ = ticks.tick() => {
                    if let Some((attempt, sequence, until)) = &mut running {
                        *sequence += 1;
                        if Instant::now() < *until {
                            let batch = u32::try_from(*sequence).unwrap_or(u32::MAX);
                            self.report(attempt, *sequence, step(batch)).await;
                        } else {
                            self.report(attempt, *sequence, ended(pb::attempt::EndReason::Completed)).await;
                            running = None;
                        }
                    }
                }
            }
        }
    }

    /// Ends each attempt as soon as it is assigned.
    async fn complete_all(mut self, done: Arc<AtomicU64>) {
        while let Some(message) = self.next().await {
            if let ToAgent::Assign(assign) = message {
                let reason = pb::attempt::EndReason::Completed.into();
                let ended = pb::Ended { reason, ..Default::default() };
                self.report(&assign.attempt, 1, pb::report::Report::Ended(ended)).await;
                done.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

fn line(event: TrainerEvent) -> pb::report::Report {
    let line = TrainerLine { v: VERSION, time: Time(1000), event };
    pb::report::Report::TrainerEvent(serde_json::to_string(&line).unwrap())
}

fn started(epochs: u32) -> Started {
    Started {
        parameters: 1,
        train_images: 1000,
        val_images: 100,
        classes: vec![],
        epochs,
        batch_size: 1,
        first_epoch: 1,
        device: "cpu".into(),
        ..Started::default()
    }
}

fn step(batch: u32) -> pb::report::Report {
    let metrics = [("train/box_loss", 1.25), ("train/cls_loss", 2.5), ("train/dfl_loss", 1.1)];
    line(TrainerEvent::Step(Step {
        epoch: 1,
        batch,
        batches: 100_000,
        images_per_second: 57.5,
        loader_wait_ratio: 0.01,
        metrics: metrics.map(|(name, value)| (name.to_owned(), value)).into(),
        phases: None,
    }))
}

fn print_quantiles(name: &str, mut spans: Vec<Duration>) {
    spans.sort();
    for percent in [50, 99] {
        let at = (spans.len() - 1) * percent / 100;
        println!("{name}_p{percent} {:.3} ms", spans[at].as_secs_f64() * 1000.0);
    }
}

/// From a submission's answer to the agent that is told of it; negative spans, when the agent hears first,
/// count as nothing.
async fn idle_latency(dir: &Path) {
    let scheduler = Scheduler::start(dir);
    let channel = scheduler.channel().await;
    let mut agent = Agent::connect(&scheduler.url, 1, 1).await;
    let mut spans = Vec::new();
    for number in 0..500 {
        let request = pb::SubmitJobRequest { spec: Some(spec(number, "cpu")), ..Default::default() };
        let mut client = jobs(&channel);
        let submit = async {
            client.submit_job(request).await.unwrap();
            Instant::now()
        };
        let hear = async {
            loop {
                if let ToAgent::Assign(assign) = agent.next().await.expect("the session holds") {
                    return (assign.attempt, Instant::now());
                }
            }
        };
        let (acknowledged, (attempt, heard)) = tokio::join!(submit, hear);
        spans.push(heard.saturating_duration_since(acknowledged));
        let ended = pb::Ended { reason: pb::attempt::EndReason::Completed.into(), ..Default::default() };
        agent.report(&attempt, 1, pb::report::Report::Ended(ended)).await;
    }
    print_quantiles("scheduler_ack_to_agent", spans);
}

async fn noop_jobs(dir: &Path) {
    let scheduler = Scheduler::start(dir);
    let channel = scheduler.channel().await;
    let done = Arc::new(AtomicU64::new(0));
    for id in 1..=NOOP_AGENTS {
        let agent = Agent::connect(&scheduler.url, id, 1).await;
        tokio::spawn(agent.complete_all(Arc::clone(&done)));
    }
    let start = Instant::now();
    submit_many(&channel, NOOPS, "cpu").await;
    let states =
        vec![pb::JobState::Queued.into(), pb::JobState::Starting.into(), pb::JobState::Running.into()];
    loop {
        tokio::time::sleep(Duration::from_millis(5)).await;
        if done.load(Ordering::Relaxed) >= NOOPS as u64 {
            let request = pb::ListJobsRequest { states: states.clone(), page_size: 1, ..Default::default() };
            if jobs(&channel).list_jobs(request).await.unwrap().into_inner().jobs.is_empty() {
                break;
            }
        }
    }
    println!("scheduler_noop_jobs {:.0} jobs/s", NOOPS as f64 / start.elapsed().as_secs_f64());
}

/// Reports as fast as they are acknowledged.
async fn metric_events(dir: &Path) {
    let scheduler = Scheduler::start(dir);
    let channel = scheduler.channel().await;
    let mut agents = Vec::new();
    for id in 1..=REPORTERS {
        agents.push(Agent::connect(&scheduler.url, id, 1).await);
    }
    submit_many(&channel, REPORTERS as usize, "cpu").await;
    let (processor, start) = (scheduler.processor(), Instant::now());
    let each = EVENTS / REPORTERS as u64;
    let tasks = agents.into_iter().map(|mut agent| {
        tokio::spawn(async move {
            let Some(ToAgent::Assign(assign)) = agent.next().await else { return };
            agent.report(&assign.attempt, 1, line(TrainerEvent::Started(started(1)))).await;
            let (mut sent, mut acked) = (1, 0);
            while acked < each {
                while sent < each && sent < acked + WINDOW {
                    sent += 1;
                    agent.report(&assign.attempt, sent, step(u32::try_from(sent).unwrap())).await;
                }
                if let ToAgent::Ack(ack) = agent.next().await.expect("the session holds") {
                    acked = ack.sequence;
                }
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    let (used, span) = (scheduler.processor() - processor, start.elapsed().as_secs_f64());
    println!("scheduler_metric_events {:.0} 1/s", EVENTS as f64 / span);
    // Processor time for ten thousand: the share of a core that so many a second take.
    println!("scheduler_cores_at_10000_metric_events_per_second {:.3} cores", used / EVENTS as f64 * 1e4);
}

/// What a thousand GPUs' samples cost, a second each, over what the agents' heartbeats do.
async fn telemetry(dir: &Path) {
    const SPAN: Duration = Duration::from_secs(30);
    let scheduler = Scheduler::start(dir);
    let channel = scheduler.channel().await;
    let mut agents = Vec::new();
    for id in 1..=AGENTS {
        let agent = Agent::connect(&scheduler.url, id, 1).await;
        agent.beat();
        agents.push(agent);
    }
    let mut shares = Vec::new();
    for tells in [false, true] {
        if tells {
            (1..).zip(&agents).for_each(|(id, agent)| agent.tell_of_gpu(id));
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
        let (processor, start) = (scheduler.processor(), Instant::now());
        tokio::time::sleep(SPAN).await;
        shares.push((scheduler.processor() - processor) / start.elapsed().as_secs_f64());
    }
    println!("scheduler_cores_at_1000_agents {:.3} cores", shares[0]);
    println!("scheduler_cores_at_1000_gpus_of_telemetry {:.3} cores", shares[1] - shares[0]);
    let request = pb::GetTelemetryRequest { agent: "agent-1".into(), ..Default::default() };
    let start = Instant::now();
    let mut client = ClusterServiceClient::new(channel);
    let samples = client.get_telemetry(request).await.unwrap().into_inner().samples.len();
    println!("scheduler_get_telemetry {:.3} ms", start.elapsed().as_secs_f64() * 1000.0);
    println!("scheduler_telemetry_samples_of_one_gpu {samples} samples");
}

fn gpu(id: u128) -> pb::Gpu {
    let (model, memory_total_mib) = if id.is_multiple_of(2) {
        ("NVIDIA GeForce RTX 4090", 24_564)
    } else {
        ("NVIDIA GeForce RTX 5070", 12_227)
    };
    pb::Gpu { uuid: format!("GPU-{id:036}"), model: model.into(), memory_total_mib, ..Default::default() }
}

/// Every GPU trains, jobs end and begin all the while, and a hundred thousand more wait.
async fn full_queue(dir: &Path) {
    let mut scheduler = Scheduler::start(dir);
    let channel = scheduler.channel().await;
    let (ids, took) = submit_many(&channel, QUEUED, "gpu").await;
    println!("scheduler_submit_jobs {:.0} jobs/s", QUEUED as f64 / took.as_secs_f64());
    let mut agents = JoinSet::new();
    let begun = Instant::now();
    for id in 1..=AGENTS {
        let agent = Agent::connect_with(&scheduler.url, id, 0, vec![gpu(id)]).await;
        agent.beat();
        agents.spawn(agent.work(id));
    }
    println!("scheduler_connect_1000_agents {:.2} s", begun.elapsed().as_secs_f64());
    // All GPUs are busy before anything is measured.
    let busy = vec![pb::JobState::Starting.into(), pb::JobState::Running.into()];
    let busy = pb::ListJobsRequest { states: busy, page_size: 1000, ..Default::default() };
    while jobs(&channel).list_jobs(busy.clone()).await.unwrap().into_inner().jobs.len() < AGENTS as usize {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!("scheduler_all_busy {:.2} s", begun.elapsed().as_secs_f64());
    let (processor, measured) = (scheduler.processor(), Instant::now());
    let mut spans: [Vec<Duration>; 4] = Default::default();
    for number in 0..400 {
        let mut client = jobs(&channel);
        let id = ids[number * 200 + 100].clone();
        let start = Instant::now();
        let request = pb::SubmitJobRequest { spec: Some(spec(number, "gpu")), ..Default::default() };
        client.submit_job(request).await.unwrap();
        spans[0].push(start.elapsed());
        let start = Instant::now();
        client.get_job(pb::GetJobRequest { job_id: id.clone() }).await.unwrap();
        spans[1].push(start.elapsed());
        let start = Instant::now();
        let states = vec![pb::JobState::Queued.into()];
        client.list_jobs(pb::ListJobsRequest { states, ..Default::default() }).await.unwrap();
        spans[2].push(start.elapsed());
        let start = Instant::now();
        client.cancel_job(pb::CancelJobRequest { job_id: id }).await.unwrap();
        spans[3].push(start.elapsed());
    }
    for (name, spans) in ["submit", "get", "list", "cancel"].into_iter().zip(spans) {
        print_quantiles(&format!("scheduler_{name}_at_100000_queued"), spans);
    }
    let cores = (scheduler.processor() - processor) / measured.elapsed().as_secs_f64();
    println!("scheduler_cores_at_100000_queued {cores:.3} cores");
    println!("scheduler_memory_at_100000_queued {:.0} MiB", scheduler.memory());
    drop(agents);
    scheduler.kill();
    let start = Instant::now();
    let scheduler = Scheduler::start(dir);
    scheduler.channel().await;
    println!("scheduler_restart_with_100000_queued {:.2} s", start.elapsed().as_secs_f64());
    println!("scheduler_memory_after_restart {:.0} MiB", scheduler.memory());
}

#[tokio::main]
async fn main() {
    for (number, part) in ["idle", "noop", "metrics", "telemetry", "queue"].into_iter().enumerate() {
        let wanted = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
        if wanted.is_some_and(|wanted| wanted != part) {
            continue;
        }
        let dir = tempfile::tempdir().unwrap();
        match number {
            0 => idle_latency(dir.path()).await,
            1 => noop_jobs(dir.path()).await,
            2 => metric_events(dir.path()).await,
            3 => telemetry(dir.path()).await,
            _ => full_queue(dir.path()).await,
        }
    }
}

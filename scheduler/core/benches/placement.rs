//! How fast the core alone is. Prints a line `name value unit` per figure.

#![expect(clippy::disallowed_methods, reason = "a bench is a driver: it measures")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use trainyard_scheduler_core::{
    Content, Core, CoreConfig, Event, Hello, JobGroupRecord, Output, Policy, Stored,
};
use trainyard_types::{
    AgentId, AttemptId, Checkpoint, EndReason, Ended, Gpu, GpuUuid, Inventory, JobGroupId, JobId, JobSpec,
    ModelScale, Report, ReportBody, Resources, Session, Time, TrainSpec,
};
use uuid::Uuid;

const NOW: Time = Time(1_000_000);
const GPUS_IN_ALL: u64 = 1000;
/// Between two events, so that all is thought over: what was thought within a second holds.
const PAUSE: Duration = Duration::from_secs(2);
/// Agents are never silent for so long.
const FOREVER: Duration = Duration::from_secs(1_000_000);

const GPUS: [(&str, u64); 4] = [("4090", 24564), ("5070", 12227), ("3090", 24576), ("4060", 8188)];
const MODELS: [ModelScale; 5] = [ModelScale::N, ModelScale::S, ModelScale::M, ModelScale::L, ModelScale::X];

/// What agents are like and what users ask for.
#[derive(Clone, Copy)]
struct Shape {
    name: &'static str,
    gpus_of_an_agent: u64,
    /// One job in so many needs all GPUs of an agent.
    together: Option<u64>,
}

const SINGLE: Shape = Shape { name: "", gpus_of_an_agent: 1, together: None };
const TOGETHER: Shape = Shape { name: "together_", gpus_of_an_agent: 4, together: Some(20) };

/// Twenty users' jobs of five models and all lengths. Every tenth wish is for a large GPU, every tenth for one that
/// nobody has.
fn spec(number: u64, shape: Shape) -> JobSpec {
    let gpus = match shape.together {
        Some(each) if number.is_multiple_of(each) => u32::try_from(shape.gpus_of_an_agent).unwrap_or(1),
        Some(_) | None => 1,
    };
    let resources = match number % 10 {
        3 => Resources { min_vram_mib: 20480, gpus, ..Resources::default() },
        1 => Resources { gpu_models: vec!["H100".into()], gpus, ..Resources::default() },
        _ => Resources { gpus, ..Resources::default() },
    };
    let priority = i32::from(number % 50 == 7);
    let mut train = TrainSpec::new(MODELS[(number % 5) as usize], format!("/data/{}.yaml", number % 37));
    train.epochs = 3 + u32::try_from(number * 7919 % 300).unwrap_or(0);
    JobSpec { name: "cells".into(), resources, priority, ..JobSpec::new(train) }
}

fn submit_to(core: &mut Core, number: u64, shape: Shape) -> Output {
    let job = JobId(Uuid::from_u128(number.into()));
    let request_id = Some(format!("request-{number}"));
    let user = format!("user-{}", number % 20);
    core.handle(NOW, Event::Submit { request_id, job, user, spec: spec(number, shape) })
}

fn submit(core: &mut Core, number: u64) -> Output {
    submit_to(core, number, SINGLE)
}

fn connect(core: &mut Core, number: u64, shape: Shape) -> Output {
    let (model, memory_total_mib) = GPUS[(number % 4) as usize];
    let gpu = |index: u64| Gpu {
        uuid: GpuUuid(format!("GPU-{number}-{index}")),
        index: u32::try_from(index).unwrap_or(0),
        model: format!("NVIDIA GeForce RTX {model}"),
        memory_total_mib,
        compute_capability: None,
    };
    let gpus = (0..shape.gpus_of_an_agent).map(gpu).collect();
    let inventory = Inventory { gpus, memory_total_mib: 65536, ..Inventory::default() };
    let id = AgentId(Uuid::from_u128(number.into()));
    let hello = Hello::new(id, format!("lab-{number:04}"), "bench".into(), inventory);
    core.handle(NOW, Event::AgentConnected { session: Session(number + 1), hello })
}

/// Reports of a live attempt on an agent.
fn report(core: &mut Core, now: Time, number: u64, sequence: u64, body: ReportBody) -> Option<Output> {
    let id = AgentId(Uuid::from_u128(number.into()));
    let attempt: AttemptId = *core.agent(id).and_then(|agent| agent.running.values().next())?;
    let report = Report { attempt, sequence, time: now, body };
    Some(core.handle(now, Event::Report { agent: id, session: Session(number + 1), report }))
}

fn per_second(count: u64, span: Duration) -> f64 {
    count as f64 / span.as_secs_f64()
}

fn print(name: &str, mut spans: Vec<Duration>) {
    spans.sort();
    for (part_name, part) in [("p50", 50), ("p99", 99)] {
        let micros = spans[spans.len() * part / 100].as_secs_f64() * 1e6;
        println!("{name}_{part_name} {micros:.1} us");
    }
}

/// `queued` jobs wait, every GPU is busy; then jobs store checkpoints, and one after the other ends.
fn decisions(policy: Policy, queued: u64, shape: Shape) {
    let agents = GPUS_IN_ALL / shape.gpus_of_an_agent;
    let mut core = Core::new(CoreConfig { policy, lease: FOREVER, ..CoreConfig::default() });
    for agent in 0..agents {
        connect(&mut core, agent, shape);
    }
    // Jobs for GPUs that exist are placed first; what is left over waits.
    for number in 0..queued + 2 * GPUS_IN_ALL {
        submit_to(&mut core, number, shape);
    }
    // Ticks come until every job has its line.
    let mut now = NOW;
    while let Some(due) = core.next_deadline().filter(|&due| due < NOW + Duration::from_secs(20)) {
        now = now.max(due);
        core.handle(now, Event::Tick);
    }
    let of = if policy == Policy::FinishTime { "finish_time_" } else { "" };
    let name = |what: &str| format!("core_{of}{}{what}_{queued}_queued_{GPUS_IN_ALL}_gpus", shape.name);
    // Each event so long after the one before.
    let mut timed =
        |core: &mut Core, after: Duration, sequence, body: &dyn Fn() -> ReportBody| -> Vec<Duration> {
            (0..agents)
                .filter_map(|agent| {
                    let body = body();
                    now = now + after;
                    let start = Instant::now();
                    black_box(report(core, now, agent, sequence, body)?);
                    Some(start.elapsed())
                })
                .collect()
        };
    let checkpoint = || ReportBody::CheckpointStored(Checkpoint { step: 1, epoch: 1, files: Vec::new() });
    print(&name("checkpoint"), timed(&mut core, PAUSE, 1, &checkpoint));
    let ended = || {
        let (message, artifacts) = (String::new(), Vec::new());
        ReportBody::Ended(Ended { reason: EndReason::Completed, message, artifacts, unfit: None })
    };
    print(&name("decision"), timed(&mut core, PAUSE, 2, &ended));
    print(&name("decision_at_once"), timed(&mut core, Duration::ZERO, 1, &ended));
    let spans = (0..1000).map(|_| {
        let start = Instant::now();
        black_box(core.handle(now, Event::Tick));
        start.elapsed()
    });
    print(&name("idle_tick"), spans.collect());
}

/// A hundred thousand jobs in one call; the time until all of them have their lines counts apart.
fn batch(policy: Policy) {
    const COUNT: u64 = 100_000;
    let mut core = Core::new(CoreConfig { policy, lease: FOREVER, ..CoreConfig::default() });
    let specs: Vec<Arc<JobSpec>> = (0..COUNT).map(|number| Arc::new(spec(number, SINGLE))).collect();
    let batch = JobGroupRecord {
        id: JobGroupId(Uuid::from_u128(1 << 96)),
        user: "ada".into(),
        request_id: None,
        content: Content::Specs(specs),
        created: NOW,
    };
    let start = Instant::now();
    black_box(core.handle(NOW, Event::SubmitGroup { group: Arc::new(batch) }));
    let of = if policy == Policy::FinishTime { "finish_time_" } else { "" };
    println!("core_{of}batch_submissions {:.0} 1/s", per_second(COUNT, start.elapsed()));
}

fn main() {
    const COUNT: u64 = 100_000;
    let mut core = Core::new(CoreConfig::default());
    let start = Instant::now();
    for number in 0..COUNT {
        black_box(submit(&mut core, number));
    }
    println!("core_submissions {:.0} 1/s", per_second(COUNT, start.elapsed()));
    let records: Vec<_> = core.jobs().cloned().collect();
    let start = Instant::now();
    black_box(Core::load(CoreConfig::default(), NOW, Stored { jobs: records, ..Stored::default() }));
    println!("core_load_{COUNT}_jobs {:.3} s", start.elapsed().as_secs_f64());
    for policy in [Policy::Fair, Policy::FinishTime] {
        batch(policy);
        for queued in [1000, 10_000, 100_000] {
            decisions(policy, queued, SINGLE);
        }
    }
    decisions(Policy::FinishTime, 10_000, TOGETHER);
}

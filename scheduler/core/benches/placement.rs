//! How fast the core alone is. Prints a line `name value unit` per figure.

#![expect(clippy::disallowed_methods, reason = "a bench is a driver: it measures")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use trainyard_scheduler_core::{Condition, Core, CoreConfig, Event, Hello, Output, Policy, Stored};
use trainyard_types::{
    AgentId, AttemptId, EndReason, Ended, Gpu, GpuUuid, Inventory, JobId, JobSpec, ModelScale, Report,
    ReportBody, Resources, Session, Time, TrainSpec,
};
use uuid::Uuid;

const NOW: Time = Time(1_000_000);
const AGENTS: u64 = 1000;

/// Every tenth wish is for a large card, every tenth for one that nobody has.
fn spec(number: u64) -> JobSpec {
    let resources = match number % 10 {
        0 => Resources { min_vram_mib: 20480, ..Resources::default() },
        1 => Resources { gpu_models: vec!["H100".into()], ..Resources::default() },
        _ => Resources::default(),
    };
    let priority = i32::try_from(number % 3).expect("below 3");
    let train = TrainSpec::new(ModelScale::N, "/data/data.yaml");
    JobSpec { name: "cells".into(), resources, priority, ..JobSpec::new(train) }
}

fn submit(core: &mut Core, number: u64) -> Output {
    let job = JobId(Uuid::from_u128(number.into()));
    let request_id = Some(format!("request-{number}"));
    core.handle(NOW, Event::Submit { request_id, job, user: "ada".into(), spec: spec(number) })
}

fn connect(core: &mut Core, number: u64) -> Output {
    let large = number.is_multiple_of(4);
    let gpu = Gpu {
        uuid: GpuUuid(format!("GPU-{number}")),
        index: 0,
        model: if large { "NVIDIA GeForce RTX 4090" } else { "NVIDIA GeForce RTX 5070" }.into(),
        memory_total_mib: if large { 24564 } else { 12227 },
        compute_capability: None,
    };
    let hello = Hello {
        agent: AgentId(Uuid::from_u128(number.into())),
        name: format!("lab-{number:04}"),
        version: "bench".into(),
        inventory: Inventory {
            gpus: vec![gpu],
            cpu_slots: 0,
            memory_total_mib: 65536,
            driver_version: String::new(),
        },
        attempts: Vec::new(),
        condition: Condition::default(),
    };
    core.handle(NOW, Event::AgentConnected { session: Session(number + 1), hello })
}

/// Ends the attempt on an agent, so that its card is given to the next job.
fn finish(core: &mut Core, number: u64) -> Output {
    let id = AgentId(Uuid::from_u128(number.into()));
    let attempt: AttemptId =
        *core.agent(id).and_then(|agent| agent.running.values().next()).expect("every card is busy");
    let ended = Ended { reason: EndReason::Completed, message: String::new(), artifacts: Vec::new() };
    let report = Report { attempt, sequence: 1, time: NOW, body: ReportBody::Ended(ended) };
    core.handle(NOW, Event::Report { agent: id, session: Session(number + 1), report })
}

fn per_second(count: u64, span: Duration) -> f64 {
    count as f64 / span.as_secs_f64()
}

/// `queued` jobs wait, every card is busy, and one card after the other becomes free.
fn decisions(policy: Policy, queued: u64) {
    const COUNT: u64 = 1000;
    let mut core = Core::new(CoreConfig { policy, ..CoreConfig::default() });
    for agent in 0..AGENTS {
        connect(&mut core, agent);
    }
    // Jobs for cards that exist are placed first; what is left over waits.
    for number in 0..queued + 2 * AGENTS {
        submit(&mut core, number);
    }
    let mut spans: Vec<Duration> = Vec::new();
    for agent in 0..COUNT {
        let start = Instant::now();
        let output = black_box(finish(&mut core, agent));
        spans.push(start.elapsed());
        assert_eq!(output.commands.len(), 2, "an acknowledgement and an assignment");
    }
    spans.sort();
    for (name, part) in [("p50", 50), ("p99", 99)] {
        let micros = spans[spans.len() * part / 100].as_secs_f64() * 1e6;
        let of = if policy == Policy::FinishTime { "finish_time_" } else { "" };
        println!("core_{of}decision_{queued}_queued_{AGENTS}_agents_{name} {micros:.1} us");
    }
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
        for queued in [1000, 10_000, 100_000] {
            decisions(policy, queued);
        }
    }
}

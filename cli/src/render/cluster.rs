//! Agents, GPUs and artifacts for people.

use comfy_table::{Cell, Color};
use prost_types::Timestamp;
use trainyard_proto::pb;
use trainyard_types::size::bytes;

use super::{TextTable, cell, seconds_between, short, short_length, span, time};
use crate::commands::agents::AgentGpu;
use crate::output::Output;
use crate::terminal::clean;

/// The machines, as seen at `now`.
pub fn agents(output: Output, agents: &[pb::Agent], now: &Timestamp) -> String {
    let heads = ["NAME", "STATE", "GPUS", "CPU SLOTS", "MEMORY", "DRIVER", "VERSION", "LAST SEEN", "ID"];
    let mut table = TextTable::new(output, &heads, 2);
    let length = short_length(agents.iter().map(|agent| agent.id.as_str()));
    for agent in agents {
        let seen = agent.last_seen_time.as_ref().map(|seen| span(seconds_between(seen, now)) + " ago");
        let driver = if agent.driver_version.is_empty() { "-" } else { &agent.driver_version };
        table.row(vec![
            cell(&agent.name),
            agent_state(agent),
            cell(gpu_summary(&agent.gpus)),
            cell(slot_summary(&agent.cpu_slots)),
            cell(bytes(agent.memory_total_mib << 20)),
            cell(driver),
            cell(&agent.version),
            cell(seen.unwrap_or_else(|| "-".to_owned())),
            cell(short(&agent.id, length)),
        ]);
    }
    let notices: String = agents.iter().flat_map(notices).map(|line| format!("\n{}", clean(&line))).collect();
    if notices.is_empty() { table.text() } else { format!("{}\n{notices}", table.text()) }
}

/// What is not as it should be on a machine, a line each.
fn notices(agent: &pb::Agent) -> Vec<String> {
    agent.notices.iter().map(|line| format!("{}: {line}", agent.name)).collect()
}

fn agent_state(agent: &pb::Agent) -> Cell {
    let color = match agent.status.as_str() {
        "connected" => Color::Green,
        "lost" => Color::Red,
        "drained" | "closed" | "disconnected" => Color::Yellow,
        // Schedulers before this one tell no word.
        _ => return Cell::new(agent.state().as_str_name()),
    };
    Cell::new(agent.status.to_uppercase()).fg(color)
}

/// `2 × NVIDIA GeForce RTX 4090 (1 free)`, for each model.
fn gpu_summary(gpus: &[pb::Gpu]) -> String {
    let mut models: Vec<&str> = gpus.iter().map(|gpu| gpu.model.as_str()).collect();
    models.sort_unstable();
    models.dedup();
    let summary = |model: &&str| {
        let all = gpus.iter().filter(|gpu| gpu.model == **model);
        let free = all.clone().filter(|gpu| is_free(gpu)).count();
        format!("{} × {model} ({free} free)", all.count())
    };
    if models.is_empty() { "-".into() } else { models.iter().map(summary).collect::<Vec<_>>().join(", ") }
}

/// Whether a job may come at once.
fn is_free(gpu: &pb::Gpu) -> bool {
    gpu.status == "free"
}

fn slot_summary(slots: &[pb::CpuSlot]) -> String {
    let free = slots.iter().filter(|slot| slot.status == "free").count();
    if slots.is_empty() { "-".into() } else { format!("{} ({free} free)", slots.len()) }
}

/// Every GPU with the name of its agent, as seen at `now`.
pub fn gpus(output: Output, gpus: &[AgentGpu], now: &Timestamp) -> String {
    let heads = [
        "AGENT",
        "GPU",
        "MODEL",
        "STATE",
        "VRAM FREE",
        "FOREIGN",
        "VRAM TOTAL",
        "UTILISATION",
        "TEMPERATURE",
        "POWER",
        "CLOCK",
        "JOB",
        "WHY",
    ];
    let mut table = TextTable::new(output, &heads, 12).right(4..11);
    let busy = || gpus.iter().map(|entry| entry.gpu.job_id.as_str()).filter(|job| !job.is_empty());
    let length = short_length(busy());
    // A reading that the driver refuses is not zero.
    let or_dash = |text: Option<String>| cell(text.unwrap_or_else(|| "-".to_owned()));
    let mib = |mib: u64| format!("{mib} MiB");
    for entry in gpus {
        let gpu = &entry.gpu;
        let job = if gpu.job_id.is_empty() { "-".to_owned() } else { short(&gpu.job_id, length) };
        let (state, color, why) = gpu_state(gpu, now);
        table.row(vec![
            cell(&entry.agent),
            cell(gpu.index.to_string()),
            cell(&gpu.model),
            Cell::new(state).fg(color),
            or_dash(gpu.memory_free_mib.map(mib)),
            or_dash(gpu.memory_foreign_mib.map(mib)),
            cell(mib(gpu.memory_total_mib)),
            or_dash(gpu.utilization_ratio.map(|ratio| format!("{:.0} %", ratio * 100.0))),
            or_dash(gpu.temperature_celsius.map(|degrees| format!("{degrees} °C"))),
            or_dash(gpu.power_watts.map(|watts| format!("{watts:.0} W"))),
            or_dash(gpu.clock_mhz.map(|clock| format!("{clock} MHz"))),
            cell(job),
            cell(why),
        ]);
    }
    table.text()
}

/// What a GPU is, its colour, and more about it, as the scheduler says; and until when.
fn gpu_state(gpu: &pb::Gpu, now: &Timestamp) -> (String, Color, String) {
    let color = match gpu.status.as_str() {
        "free" => Color::Green,
        "busy" => Color::Cyan,
        "quarantined" | "unsupported" | "not proved" | "stuck" | "quick ends" => Color::Red,
        _ => Color::Yellow,
    };
    let mut why = gpu.status_reason.clone();
    if let Some(until) = &gpu.reserved_until {
        let separator = if why.is_empty() { "" } else { ", " };
        why += &format!("{separator}until {}, in {}", time(Some(until)), span(seconds_between(now, until)));
    }
    let word = if gpu.status.is_empty() { "-" } else { &gpu.status };
    (word.to_owned(), color, why)
}

/// What training was seen to need, with the agent that saw it.
pub fn fit(output: Output, records: &[(String, pb::FitRecord)]) -> String {
    let heads = [
        "AGENT",
        "DEVICE",
        "MODEL",
        "IMGSZ",
        "PRECISION",
        "FIXED",
        "PER IMAGE",
        "VALIDATION",
        "MEASURED AT",
        "FAILED AT",
    ];
    let mut table = TextTable::new(output, &heads, 1).right(5..10);
    for (agent, record) in records {
        let imgsz =
            if record.multi_scale { format!("{}, growing", record.imgsz) } else { record.imgsz.to_string() };
        let failed =
            record.failed_batch_size.map_or_else(|| "-".to_owned(), |batch| format!("batch {batch}"));
        table.row(vec![
            cell(agent),
            cell(&record.device),
            cell(&record.model),
            cell(imgsz),
            cell(&record.precision),
            cell(format!("{} MiB", record.fixed_mib)),
            cell(format!("{:.1} MiB", record.per_image_mib)),
            cell(format!("{} MiB", record.validation_mib)),
            cell(format!("batch {}", record.batch_size)),
            cell(failed),
        ]);
    }
    table.text()
}

/// What a job has left behind.
pub fn artifacts(output: Output, artifacts: &[pb::Artifact]) -> String {
    let mut table = TextTable::new(output, &["NAME", "SIZE", "SHA-256"], 0).right(1..2);
    for artifact in artifacts {
        table.row(vec![cell(&artifact.name), cell(bytes(artifact.size_bytes)), cell(&artifact.sha256)]);
    }
    table.text()
}

/// How fast each kind of GPU trains each kind of job.
pub fn rates(output: Output, rates: &[pb::Rate]) -> String {
    let heads = ["MODEL", "IMGSZ", "AMP", "GPUS", "DEVICE", "IMAGES/S", "MAY BE OFF BY", "KNOWN FROM"];
    let mut table = TextTable::new(output, &heads, 7).right(5..7);
    for rate in rates {
        table.row(vec![
            cell(&rate.model),
            cell(rate.imgsz.to_string()),
            cell(if rate.amp { "yes" } else { "no" }),
            cell(rate.gpus.to_string()),
            cell(&rate.device),
            cell(format!("{:.1}", rate.images_per_second)),
            cell(format!("{:.0} %", (rate.spread - 1.0) * 100.0)),
            cell(if rate.measured { "jobs on it" } else { "data sheets and other jobs" }),
        ]);
    }
    table.text()
}

//! Agents, GPUs and artifacts for people.

use comfy_table::{Cell, Color};
use prost_types::Timestamp;
use trainyard_proto::pb;

use super::{Grid, bytes, cell, seconds_between, short, short_length, span};
use crate::output::Output;

/// The machines, as seen at `now`.
pub fn agents(output: Output, agents: &[pb::Agent], now: &Timestamp) -> String {
    let heads = ["NAME", "STATE", "GPUS", "CPU SLOTS", "MEMORY", "DRIVER", "VERSION", "LAST SEEN", "ID"];
    let mut grid = Grid::new(output, &heads, 2);
    let length = short_length(agents.iter().map(|agent| agent.id.as_str()));
    for agent in agents {
        let seen = agent.last_seen_time.as_ref().map(|seen| span(seconds_between(seen, now)) + " ago");
        let driver = if agent.driver_version.is_empty() { "-" } else { &agent.driver_version };
        grid.row(vec![
            cell(&agent.name),
            agent_state(agent.state()),
            cell(gpu_summary(&agent.gpus)),
            cell(slot_summary(&agent.cpu_slots)),
            cell(bytes(agent.memory_total_mib << 20)),
            cell(driver),
            cell(&agent.version),
            cell(seen.unwrap_or_else(|| "-".to_owned())),
            cell(short(&agent.id, length)),
        ]);
    }
    grid.text()
}

fn agent_state(state: pb::AgentState) -> Cell {
    let color = match state {
        pb::AgentState::Connected => Color::Green,
        pb::AgentState::Disconnected => Color::Yellow,
        pb::AgentState::Lost => Color::Red,
        pb::AgentState::Unspecified => return Cell::new(state.as_str_name()),
    };
    Cell::new(state.as_str_name()).fg(color)
}

/// `2 × NVIDIA GeForce RTX 4090 (1 free)`, for each model.
fn gpu_summary(gpus: &[pb::Gpu]) -> String {
    let mut models: Vec<&str> = gpus.iter().map(|gpu| gpu.model.as_str()).collect();
    models.sort_unstable();
    models.dedup();
    let summary = |model: &&str| {
        let all = gpus.iter().filter(|gpu| gpu.model == **model);
        let free = all.clone().filter(|gpu| gpu.job_id.is_empty()).count();
        format!("{} × {model} ({free} free)", all.count())
    };
    if models.is_empty() { "-".into() } else { models.iter().map(summary).collect::<Vec<_>>().join(", ") }
}

fn slot_summary(slots: &[pb::CpuSlot]) -> String {
    let free = slots.iter().filter(|slot| slot.job_id.is_empty()).count();
    if slots.is_empty() { "-".into() } else { format!("{} ({free} free)", slots.len()) }
}

/// Every GPU with the name of its agent.
pub fn gpus(output: Output, gpus: &[(String, pb::Gpu)]) -> String {
    let heads =
        ["AGENT", "GPU", "MODEL", "VRAM FREE", "VRAM TOTAL", "UTILISATION", "TEMPERATURE", "POWER", "JOB"];
    let mut grid = Grid::new(output, &heads, 2).right(3..8);
    let busy = || gpus.iter().map(|(_, gpu)| gpu.job_id.as_str()).filter(|job| !job.is_empty());
    let length = short_length(busy());
    // A reading that the driver refuses is not zero.
    let or_dash = |text: Option<String>| cell(text.unwrap_or_else(|| "-".to_owned()));
    for (agent, gpu) in gpus {
        let job = if gpu.job_id.is_empty() { "-".to_owned() } else { short(&gpu.job_id, length) };
        grid.row(vec![
            cell(agent),
            cell(gpu.index.to_string()),
            cell(&gpu.model),
            or_dash(gpu.memory_free_mib.map(|mib| format!("{mib} MiB"))),
            cell(format!("{} MiB", gpu.memory_total_mib)),
            or_dash(gpu.utilization_ratio.map(|ratio| format!("{:.0} %", ratio * 100.0))),
            or_dash(gpu.temperature_celsius.map(|degrees| format!("{degrees} °C"))),
            or_dash(gpu.power_watts.map(|watts| format!("{watts:.0} W"))),
            cell(job),
        ]);
    }
    grid.text()
}

/// What a job has left behind.
pub fn artifacts(output: Output, artifacts: &[pb::Artifact]) -> String {
    let mut grid = Grid::new(output, &["NAME", "SIZE", "SHA-256"], 0).right(1..2);
    for artifact in artifacts {
        grid.row(vec![cell(&artifact.name), cell(bytes(artifact.size_bytes)), cell(&artifact.sha256)]);
    }
    grid.text()
}

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

/// Missing paths that a line names.
const PATHS: usize = 3;

/// What is not as it should be on a machine, a line each.
fn notices(agent: &pb::Agent) -> Vec<String> {
    let mut lines = Vec::new();
    if !agent.unavailable.is_empty() {
        lines.push(agent.unavailable.clone());
    }
    let stale = agent.data_roots.iter().filter(|root| !root.problem.is_empty());
    lines.extend(stale.map(|root| format!("{} cannot be read now: {}", root.path, root.problem)));
    if !agent.missing_paths.is_empty() {
        let named = agent.missing_paths.iter().take(PATHS).cloned().collect::<Vec<_>>().join(", ");
        let more = agent.missing_paths.len().saturating_sub(PATHS);
        let what = if more > 0 { format!("{named} and {more} more") } else { named };
        lines.push(format!("jobs asked for what cannot be read there: {what}"));
    }
    for slot in &agent.cpu_slots {
        if let Some(unavailable) = &slot.unavailable {
            lines.push(format!("CPU slot {} takes no job: {}", slot.index, unavailable.message));
        }
    }
    let has_nothing = agent.gpus.is_empty() && agent.cpu_slots.is_empty() && agent.unavailable.is_empty();
    if has_nothing && agent.state() == pb::AgentState::Connected {
        lines.push(
            "has no GPU that NVIDIA's driver tells of, and no CPU slot: no job comes there until the driver is there, or \
             `cpu_slots` is set"
                .to_owned(),
        );
    }
    lines.extend(agent.notices.iter().cloned());
    lines.into_iter().map(|line| format!("{}: {line}", agent.name)).collect()
}

fn agent_state(agent: &pb::Agent) -> Cell {
    let state = agent.state();
    if state == pb::AgentState::Connected && agent.drained {
        return Cell::new("DRAINED").fg(Color::Yellow);
    }
    if state == pb::AgentState::Connected && !agent.unavailable.is_empty() {
        return Cell::new("CLOSED").fg(Color::Yellow);
    }
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
        let free = all.clone().filter(|gpu| is_free(gpu)).count();
        format!("{} × {model} ({free} free)", all.count())
    };
    if models.is_empty() { "-".into() } else { models.iter().map(summary).collect::<Vec<_>>().join(", ") }
}

/// Whether a job may come at once.
fn is_free(gpu: &pb::Gpu) -> bool {
    gpu.job_id.is_empty() && gpu.unavailable.is_none() && gpu.reserved_until.is_none()
}

fn slot_summary(slots: &[pb::CpuSlot]) -> String {
    let free = slots.iter().filter(|slot| slot.job_id.is_empty() && slot.unavailable.is_none()).count();
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
        let (state, color, why) = gpu_state(entry, now);
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

/// What a GPU is, its colour, and more about it.
fn gpu_state(entry: &AgentGpu, now: &Timestamp) -> (&'static str, Color, String) {
    use pb::unavailable::Cause;
    let gpu = &entry.gpu;
    if !entry.connected {
        return ("away", Color::Yellow, "its agent is not connected".to_owned());
    }
    if entry.drained {
        return ("drained", Color::Yellow, format!("`yard resume {}` takes it back into use", entry.agent));
    }
    if !entry.unavailable.is_empty() {
        return ("closed", Color::Yellow, entry.unavailable.clone());
    }
    if let Some(until) = &gpu.reserved_until {
        let why = format!("until {}, in {}", time(Some(until)), span(seconds_between(now, until)));
        return ("reserved", Color::Yellow, why);
    }
    if let Some(unavailable) = &gpu.unavailable {
        let (state, color) = match unavailable.cause() {
            Cause::ForeignUse => ("in use", Color::Yellow),
            Cause::Owner => ("owner", Color::Yellow),
            Cause::Quarantined | Cause::Unspecified => ("quarantined", Color::Red),
            Cause::Unsupported => ("unsupported", Color::Red),
            Cause::SelfTest => ("not proved", Color::Red),
            Cause::Duplicate => ("duplicate", Color::Yellow),
            Cause::Stuck => ("stuck", Color::Red),
            Cause::QuickEnds => ("quick ends", Color::Red),
        };
        return (state, color, unavailable.message.clone());
    }
    let held = if gpu.throttle_reasons.is_empty() {
        String::new()
    } else {
        format!("clock held down: {}", gpu.throttle_reasons.join(", "))
    };
    if gpu.job_id.is_empty() { ("free", Color::Green, held) } else { ("busy", Color::Cyan, held) }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_is_connected_and_has_nothing_says_so() {
        let state = pb::AgentState::Connected.into();
        let bare = pb::Agent { name: "lab-1".into(), state, ..pb::Agent::default() };
        let lines = notices(&bare);
        assert!(lines.len() == 1 && lines[0].starts_with("lab-1: has no GPU"), "{lines:?}");
        let told = pb::Agent { unavailable: "its driver hangs".into(), ..bare.clone() };
        assert_eq!(notices(&told), ["lab-1: its driver hangs"]);
        let with = pb::Agent { cpu_slots: vec![pb::CpuSlot::default()], ..bare };
        assert_eq!(notices(&with), [""; 0]);
    }
}

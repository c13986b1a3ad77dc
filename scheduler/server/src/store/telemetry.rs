//! Telemetry in Redis: a stream per agent and resolution, each entry some samples in few bytes.

use std::ops::Range;

use redis::{Pipeline, Script};
use serde::{Deserialize, Serialize};
use tracing::warn;
use trainyard_types::{AgentId, GpuUuid, Time};

use super::link::Link;
use super::{StoreError, keys, stream_id};
use crate::sample::{AgentSamples, Resolution, Sample};

/// Entries are stored under the scheduler's time, samples tell the agent's.
const PAD_MS: u64 = 5 * 60_000;
/// Entries read at a time.
const ENTRIES: usize = 500;

/// Id, and its fields with their values.
type Entry = (String, Vec<(String, Vec<u8>)>);

/// An entry's content.
#[derive(Debug, Serialize, Deserialize)]
struct Packed {
    /// Time that offsets count from, in ms.
    t: u64,
    g: Vec<GpuUuid>,
    s: Vec<Row>,
}

/// Offset in ms, place of the GPU; utilization in thousandths, memory in MiB, power in tenths of a watt,
/// energy in joules, temperature, clock, reasons to throttle.
type Row =
    (u64, usize, Option<u16>, Option<u64>, Option<u32>, Option<u64>, Option<u32>, Option<u32>, Vec<String>);

fn pack(samples: &[Sample]) -> Packed {
    let t = samples.iter().map(|sample| sample.time.0).min().unwrap_or(0);
    let mut g: Vec<GpuUuid> = Vec::new();
    let mut s = Vec::with_capacity(samples.len());
    for sample in samples {
        let place = g.iter().position(|gpu| *gpu == sample.gpu).unwrap_or_else(|| {
            g.push(sample.gpu.clone());
            g.len() - 1
        });
        s.push((
            sample.time.0 - t,
            place,
            sample.utilization_ratio.map(|ratio| (ratio * 1000.0).round() as u16),
            sample.memory_used_mib,
            sample.power_watts.map(|watts| (watts * 10.0).round() as u32),
            sample.energy_joules.map(|joules| joules.round() as u64),
            sample.temperature_celsius,
            sample.clock_mhz,
            sample.throttle_reasons.clone(),
        ));
    }
    Packed { t, g, s }
}

fn unpack(packed: Packed) -> Vec<Sample> {
    let Packed { t, g, s } = packed;
    let sample = |(offset, place, utilization, memory, power, energy, temperature, clock, throttle): Row| {
        Some(Sample {
            time: Time(t.saturating_add(offset)),
            gpu: g.get(place)?.clone(),
            utilization_ratio: utilization.map(|ratio| f64::from(ratio) / 1000.0),
            memory_used_mib: memory,
            power_watts: power.map(|watts| f64::from(watts) / 10.0),
            energy_joules: energy.map(|joules| joules as f64),
            temperature_celsius: temperature,
            clock_mhz: clock,
            throttle_reasons: throttle,
        })
    };
    s.into_iter().filter_map(sample).collect()
}

/// Writes the samples of all agents in one go; each agent's are appended whole or not at all.
pub async fn record(
    link: &Link,
    script: &Script,
    now: Time,
    samples_of_agents: &[AgentSamples],
) -> Result<(), StoreError> {
    if samples_of_agents.is_empty() {
        return Ok(());
    }
    let mut pipe = Pipeline::new();
    pipe.load_script(script).ignore();
    for AgentSamples { agent, resolution, samples } in samples_of_agents {
        let kept = resolution.kept();
        let oldest = now.0.saturating_sub(u64::try_from(kept.as_millis()).unwrap_or(u64::MAX));
        let mut call = script.prepare_invoke();
        call.key(keys::telemetry(*agent, *resolution)).arg(now.0).arg(oldest).arg(kept.as_secs());
        call.arg(serde_json::to_vec(&pack(samples))?);
        pipe.invoke_script(&call).ignore();
    }
    let () = link.pipe(&pipe).await?;
    Ok(())
}

/// The first samples of an agent in a span of time, as [`super::Store::telemetry`] promises.
pub async fn read(
    link: &Link,
    agent: AgentId,
    resolution: Resolution,
    span: Range<Time>,
    limit: usize,
) -> Result<Vec<Sample>, StoreError> {
    let key = keys::telemetry(agent, resolution);
    let mut from = format!("{}-0", span.start.0.saturating_sub(PAD_MS));
    let to = span.end.0.saturating_add(PAD_MS);
    let mut samples: Vec<Sample> = Vec::new();
    loop {
        let mut command = redis::cmd("XRANGE");
        command.arg(&key).arg(&from).arg(to).arg("COUNT").arg(ENTRIES);
        let entries: Vec<Entry> = link.query(&command).await?;
        let Some((last, _)) = entries.last() else { break };
        from = stream_id::after(last);
        let is_last = entries.len() < ENTRIES;
        let seen: u64 = last.split('-').next().and_then(|ms| ms.parse().ok()).unwrap_or(0);
        for (id, fields) in entries {
            let bytes = fields.first().map_or(&[][..], |(_, bytes)| bytes);
            match serde_json::from_slice::<Packed>(bytes) {
                Ok(packed) => samples.extend(unpack(packed)),
                Err(cause) => warn!(key, id, %cause, "telemetry cannot be read, leaving it out"),
            }
        }
        samples.retain(|sample| span.contains(&sample.time));
        // What comes later is later, give or take what clocks differ by.
        let settled = samples.iter().filter(|sample| sample.time.0.saturating_add(PAD_MS) < seen).count();
        if is_last || settled > limit {
            break;
        }
    }
    samples.sort_by(|one, other| (one.time, &one.gpu).cmp(&(other.time, &other.gpu)));
    samples.truncate(limit);
    Ok(samples)
}

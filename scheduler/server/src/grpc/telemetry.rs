//! Telemetry on the wire: what agents send, and what is asked for.

use std::ops::Range;

use trainyard_proto::convert::agent::InvalidMessage;
use trainyard_proto::convert::job::{parse_timestamp, timestamp};
use trainyard_proto::pb;
use trainyard_types::{AgentId, GpuUuid, Time, Violation};

use super::Context;
use super::cluster::{find, find_gpu};
use super::status::ApiError;
use crate::driver::StateView;
use crate::sample::{Resolution, Sample};
use crate::store::Store;
use crate::telemetry::BATCH_MAX;

/// Samples of one answer.
const PAGE: usize = 10_000;
/// What is answered when no start is given.
const RECENT_MS: u64 = 10 * 60_000;
/// Longest name of a GPU or of a reason that is taken in.
const NAME_MAX: usize = 128;

/// The samples that an agent sent.
///
/// # Errors
/// Too many samples at once, one without time, or names that are none.
pub fn parse(told: pb::Telemetry) -> Result<Vec<Sample>, InvalidMessage> {
    let wrong = |field: String, text: String| InvalidMessage(vec![Violation::new(field, text)]);
    if told.samples.len() > BATCH_MAX {
        let text = format!("has {}; send at most {BATCH_MAX} at once", told.samples.len());
        return Err(wrong("samples".to_owned(), text));
    }
    let parse = |(at, sample): (usize, pb::TelemetrySample)| {
        let field = |name: &str| format!("samples[{at}].{name}");
        let time = sample.time.ok_or_else(|| wrong(field("time"), "is missing".to_owned()))?;
        if sample.gpu.is_empty() || sample.gpu.len() > NAME_MAX {
            return Err(wrong(field("gpu"), format!("has 0 or more than {NAME_MAX} bytes")));
        }
        let mut throttle_reasons = sample.throttle_reasons;
        throttle_reasons.truncate(8);
        throttle_reasons.retain(|reason| reason.len() <= NAME_MAX);
        Ok(Sample {
            time: parse_timestamp(time),
            gpu: GpuUuid(sample.gpu),
            utilization_ratio: sample.utilization_ratio.filter(|ratio| (0.0..=1.0).contains(ratio)),
            memory_used_mib: sample.memory_used_mib,
            power_watts: sample.power_watts.filter(|watts| *watts >= 0.0),
            energy_joules: sample.energy_joules.filter(|joules| *joules >= 0.0),
            temperature_celsius: sample.temperature_celsius,
            clock_mhz: sample.clock_mhz,
            throttle_reasons,
        })
    };
    told.samples.into_iter().enumerate().map(parse).collect()
}

fn sample_message(sample: Sample) -> pb::TelemetrySample {
    pb::TelemetrySample {
        time: Some(timestamp(sample.time)),
        gpu: sample.gpu.to_string(),
        utilization_ratio: sample.utilization_ratio,
        memory_used_mib: sample.memory_used_mib,
        power_watts: sample.power_watts,
        energy_joules: sample.energy_joules,
        temperature_celsius: sample.temperature_celsius,
        clock_mhz: sample.clock_mhz,
        throttle_reasons: sample.throttle_reasons,
    }
}

/// What an agent's GPUs did; a standby answers, too.
///
/// # Errors
/// There is no such agent or GPU, or the store is away.
pub async fn get(
    context: &Context,
    request: pb::GetTelemetryRequest,
) -> Result<pb::GetTelemetryResponse, ApiError> {
    let (wanted, gpu) = (request.agent, request.gpu);
    let ask = move |state: &mut StateView<'_>| {
        let view = find(state, &wanted)?;
        let gpu = (!gpu.is_empty()).then(|| find_gpu(&view, &gpu, "gpu")).transpose()?;
        Ok::<_, ApiError>((view.record.id, gpu, state.now))
    };
    let (agent, gpu, now) = context.driver.ask(ask).await??;
    let end = request.end_time.map_or(Time(now.0.saturating_add(1)), parse_timestamp);
    let start = request.start_time.map_or(Time(end.0.saturating_sub(RECENT_MS)), parse_timestamp);
    let mut samples = if request.by_minute {
        context.store.telemetry(agent, Resolution::Minutes, start..end, PAGE + 1).await?
    } else {
        read(&*context.store, agent, now, start..end).await?
    };
    let next = samples.get(PAGE).map(|first_left_out| first_left_out.time);
    if let Some(next) = next {
        samples.retain(|sample| sample.time < next);
    }
    samples.retain(|sample| gpu.as_ref().is_none_or(|gpu| sample.gpu == *gpu));
    Ok(pb::GetTelemetryResponse {
        samples: samples.into_iter().map(sample_message).collect(),
        next_start_time: next.map(timestamp),
    })
}

/// The samples of an agent in a span of time: one page and one sample more, of minutes and then of seconds.
pub async fn read(
    store: &dyn Store,
    agent: AgentId,
    now: Time,
    span: Range<Time>,
) -> Result<Vec<Sample>, ApiError> {
    // Where the hour begins, on the minute.
    let kept = Resolution::Seconds.kept();
    let fine = now.0.saturating_sub(u64::try_from(kept.as_millis()).unwrap_or(u64::MAX));
    let fine = Time(fine.div_ceil(60_000) * 60_000);
    let mut samples = Vec::new();
    if span.start < fine {
        let minutes = span.start..span.end.min(fine);
        samples = store.telemetry(agent, Resolution::Minutes, minutes, PAGE + 1).await?;
    }
    let left = PAGE + 1 - samples.len();
    if left > 0 && span.end > fine {
        let seconds = span.start.max(fine)..span.end;
        samples.extend(store.telemetry(agent, Resolution::Seconds, seconds, left).await?);
    }
    Ok(samples)
}

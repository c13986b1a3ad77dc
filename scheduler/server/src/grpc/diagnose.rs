//! `DiagnoseJob`: gathers what is known of a job and its GPU.

use std::ops::Range;

use trainyard_proto::pb;
use trainyard_scheduler_core::{AttemptRecord, JobRecord};
use trainyard_types::{AgentId, Batch, DeviceKind, GpuUuid, Slot, Time};

use super::jobs::find_job;
use super::status::ApiError;
use super::{Context, telemetry, translate};
use crate::access::Caller;
use crate::diagnosis::{Bound, Diagnosis, Evidence, diagnose};
use crate::driver::StateView;

/// How much of the end of an attempt is looked at.
const WINDOW_MS: u64 = 10 * 60_000;

/// Where to look for what the GPU did.
struct GpuSpan {
    agent: AgentId,
    gpu: GpuUuid,
    span: Range<Time>,
    now: Time,
}

/// What bounds a job's speed. The newest attempt that trained counts.
///
/// # Errors
/// There is no such job, or the store is away.
pub async fn diagnose_job(
    context: &Context,
    job_id: String,
    caller: Caller,
) -> Result<pb::Diagnosis, ApiError> {
    let ask = move |state: &mut StateView<'_>| {
        let job = find_job(state, &job_id, &caller)?;
        let record = state.core.job(job).ok_or_else(|| ApiError::no_job(&job))?;
        Ok::<_, ApiError>(gather(state, record))
    };
    let (mut evidence, samples_of) = context.driver.ask(ask).await??;
    if let Some(GpuSpan { agent, gpu, span, now }) = samples_of {
        let samples = telemetry::read(&*context.store, agent, now, span).await?;
        evidence.samples = samples.into_iter().filter(|sample| sample.gpu == gpu).collect();
    }
    Ok(message(diagnose(&evidence)))
}

fn gather(state: &StateView<'_>, record: &JobRecord) -> (Evidence, Option<GpuSpan>) {
    let Some(attempt) = record.attempts.iter().rev().find(|attempt| attempt.started.is_some()) else {
        return (Evidence { is_over: record.state.is_final(), ..Evidence::default() }, None);
    };
    let train = &record.full_spec().train;
    let progress = record.progress.as_deref().cloned().unwrap_or_default();
    let setup = attempt.setup.clone().unwrap_or_default();
    let evidence = Evidence {
        is_over: record.state.is_final(),
        on_gpu: record.spec.resources.device == DeviceKind::Gpu,
        images_per_second: progress.images_per_second,
        loader_wait_ratio: progress.loader_wait_ratio,
        phases: progress.phases,
        epoch: progress.epoch,
        epoch_seconds: progress.epoch_seconds,
        train_images: setup.train_images,
        batch_size: progress.batch_size,
        batch_is_asked_for: matches!(train.batch, Batch::Size(_)),
        workers: if setup.workers > 0 { setup.workers } else { train.workers },
        cache: Some(train.cache),
        mfu: translate::mfu(record),
        ..Evidence::default()
    };
    match &attempt.slot {
        Slot::Gpu(gpu) => on_gpu(state, evidence, attempt, gpu),
        Slot::Cpu(_) => (evidence, None),
    }
}

fn on_gpu(
    state: &StateView<'_>,
    mut evidence: Evidence,
    attempt: &AttemptRecord,
    gpu: &GpuUuid,
) -> (Evidence, Option<GpuSpan>) {
    if let Some(view) = state.core.agent(attempt.agent) {
        let known = view.record.inventory.gpus.iter().find(|known| known.uuid == *gpu);
        evidence.memory_total_mib = known.map_or(0, |known| known.memory_total_mib);
        evidence.pcie_lanes = view
            .reading(gpu)
            .and_then(|reading| Some((reading.pcie_link_width?, reading.pcie_link_width_max?)));
    }
    let started = attempt.started.unwrap_or(attempt.placed);
    let end = attempt.ended.as_ref().map_or(state.now, |end| end.time);
    let from = started.max(Time(end.0.saturating_sub(WINDOW_MS)));
    let (agent, span) = (attempt.agent, from..Time(end.0.saturating_add(1)));
    (evidence, Some(GpuSpan { agent, gpu: gpu.clone(), span, now: state.now }))
}

fn message(diagnosis: Diagnosis) -> pb::Diagnosis {
    let bound = match diagnosis.bound {
        Bound::Unknown | Bound::EndedTooSoon => pb::diagnosis::Bound::Unknown,
        Bound::Gpu => pb::diagnosis::Bound::Card,
        Bound::Loader => pb::diagnosis::Bound::Loader,
        Bound::Disk => pb::diagnosis::Bound::Disk,
        Bound::BatchTooSmall => pb::diagnosis::Bound::BatchTooSmall,
        Bound::DataTooSmall => pb::diagnosis::Bound::DataTooSmall,
        Bound::Throttled => pb::diagnosis::Bound::Throttled,
    };
    pb::Diagnosis {
        headline: diagnosis.bound.headline().to_owned(),
        bound: bound.into(),
        findings: diagnosis.findings,
        advice: diagnosis.advice,
        figures: diagnosis.figures.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
    }
}

//! The core's records as wire messages.

use trainyard_proto::convert::agent::{end_reason, gpu_message};
use trainyard_proto::convert::job::{duration, timestamp};
use trainyard_proto::pb;
use trainyard_scheduler_core::{
    AgentState, AgentView, AttemptRecord, Choice, ChoiceOption, Closed, Command, EventBody, EventRecord,
    JobRecord, PrefetchKind, Progress, Rate, Workload,
};
use trainyard_types::trainer::Phases;
use trainyard_types::{JobId, Slot};

use super::hidden_jobs::{in_event, in_job};
use super::{slot_status, words};
use crate::access::Caller;
use crate::driver::JobView;
use crate::mfu::mfu_of;

/// A job for a caller who sees it.
pub fn job(view: JobView, caller: &Caller) -> pb::Job {
    let JobView { record, waiting, estimated_end } = view;
    let sweep = record.group.as_ref().filter(|member| member.group.is_sweep());
    let estimate = waiting.as_ref().and_then(|waiting| waiting.estimated_start);
    let waiting_sentence =
        waiting.as_ref().map(|waiting| words::waiting(&waiting.reason)).unwrap_or_default();
    let (start_late, end_late) = words::deviations(&record);
    let job = pb::Job {
        id: record.id.to_string(),
        spec: Some((&*record.full_spec()).into()),
        state: pb::JobState::from(record.state).into(),
        attempts: record.attempts.iter().map(attempt).collect(),
        progress: record.progress.as_deref().map(|made| progress(&record, made)),
        create_time: Some(timestamp(record.created)),
        start_time: record.started.map(timestamp),
        end_time: record.ended.map(timestamp),
        queue_position: waiting.as_ref().map(|waiting| waiting.position),
        waiting_for: waiting.map(|waiting| waiting.reason).unwrap_or_default(),
        estimated_start_time: estimate.map(timestamp),
        estimated_end_time: estimated_end.map(timestamp),
        first_estimate: record.estimate.map(|estimate| pb::Estimate {
            make_time: Some(timestamp(estimate.made)),
            start_time: Some(timestamp(estimate.start)),
            end_time: Some(timestamp(estimate.end)),
            start_deviation: start_late.map(signed),
            end_deviation: end_late.map(signed),
        }),
        waiting_sentence,
        sweep_id: sweep.map(|member| member.group.id.to_string()).unwrap_or_default(),
        user: record.user.to_string(),
        state_reason: record.state_reason,
        warnings: Vec::new(),
    };
    in_job(job, caller)
}

fn attempt(record: &AttemptRecord) -> pb::Attempt {
    pb::Attempt {
        number: record.id.number,
        agent_id: record.agent.to_string(),
        agent_name: record.agent_name.clone(),
        gpu_uuid: match &record.slot {
            Slot::Gpu(uuid) => uuid.to_string(),
            Slot::Cpu(_) => String::new(),
        },
        device: record.device.clone(),
        placed_time: Some(timestamp(record.placed)),
        start_time: record.started.map(timestamp),
        end_time: record.ended.as_ref().map(|end| timestamp(end.time)),
        end_reason: record.ended.as_ref().map_or(0, |end| end_reason(end.reason)),
        message: record.ended.as_ref().map(|end| end.message.clone()).unwrap_or_default(),
        batch_chosen: record.batch_chosen.as_ref().map(Into::into),
        choice: record.choice.as_ref().map(choice),
        expected_end_time: record.expected_end.map(timestamp),
        warm: record.warm,
        train_images: record.setup.as_ref().map_or(0, |setup| setup.train_images),
        unfit: record.ended.as_ref().and_then(|end| end.unfit.as_ref()).map(Into::into),
        slot_released_time: record.released.as_ref().map(|released| timestamp(released.time)),
        fetching: record.fetching.as_ref().map(Into::into),
        placement_reasons: words::placement(record),
    }
}

fn choice(record: &Choice) -> pb::PlacementChoice {
    let option = |option: &ChoiceOption| pb::PlacementOption {
        device: option.device.clone(),
        free: option.free,
        total: option.total,
        takes: Some(duration(option.runtime)),
        waits: Some(duration(option.waits)),
        delays_others: Some(duration(option.delays_others)),
        measured: option.measured,
    };
    pb::PlacementChoice {
        options: record.options.iter().map(option).collect(),
        made_way_job_id: record.preempted_for.map(|job| job.to_string()).unwrap_or_default(),
        overdue: record.starving,
    }
}

/// How fast a kind of GPU is.
pub fn rate((workload, device, rate): (Workload, &str, Rate)) -> pb::Rate {
    pb::Rate {
        model: workload.model.to_string(),
        imgsz: workload.imgsz,
        amp: workload.amp,
        gpus: workload.gpus,
        device: device.to_owned(),
        images_per_second: rate.images_per_second,
        spread: rate.spread,
        measured: rate.seen > 0.0,
    }
}

fn progress(record: &JobRecord, made: &Progress) -> pb::Progress {
    pb::Progress {
        epoch: made.epoch,
        epochs: made.epochs,
        batch: made.batch,
        batches: made.batches,
        batch_size: made.batch_size,
        images_per_second: made.images_per_second,
        // A job that has ended has nothing left to expect.
        eta: made.eta.filter(|_| !record.state.is_final()).map(duration),
        metrics: made.metrics.clone().into_iter().collect(),
        loader_wait_ratio: made.loader_wait_ratio,
        phases: made.phases.as_ref().map(phases),
        mfu: mfu(record),
    }
}

/// Share of its GPU's peak that a job gets; `None` where the peak is not known.
pub fn mfu(record: &JobRecord) -> Option<f64> {
    let attempt = record.attempts.iter().rev().find(|attempt| attempt.started.is_some())?;
    let (setup, progress) = (attempt.setup.as_ref()?, record.progress.as_ref()?);
    mfu_of(&attempt.device, &setup.precision, setup.gflops, progress.images_per_second)
}

fn phases(spent: &Phases) -> pb::Phases {
    let Phases { wait, copy, forward, loss, backward, optimizer } = *spent;
    pb::Phases { wait, copy, forward, loss, backward, optimizer }
}

/// An event of a job, for a caller who watches it.
pub fn event(record: EventRecord, job: JobId, caller: &Caller) -> pb::JobEvent {
    use pb::job_event::Event;
    let event = match record.body {
        EventBody::State { state, reason } => {
            Event::StateChange(pb::StateChange { state: pb::JobState::from(state).into(), reason })
        }
        EventBody::Metrics {
            epoch,
            epochs,
            epoch_end,
            batch,
            batches,
            images_per_second,
            loader_wait_ratio,
            values,
            phases: spent,
        } => Event::Metrics(pb::Metrics {
            epoch,
            epochs,
            epoch_end,
            batch,
            batches,
            images_per_second,
            loader_wait_ratio,
            values: values.into_iter().collect(),
            phases: spent.as_ref().map(phases),
        }),
        EventBody::Log { level, message } => {
            Event::LogLine(pb::LogLine { level: pb::log_line::Level::from(level).into(), message })
        }
    };
    let event = pb::JobEvent {
        cursor: record.cursor,
        time: Some(timestamp(record.time)),
        attempt: record.attempt,
        event: Some(event),
    };
    in_event(event, job, caller)
}

/// An agent with what its slots do, and what the scheduler has found that people should know. What the scheduler itself has against a slot stands where its agent's word does, unless that says more.
pub fn agent(view: &AgentView<'_>, known: Vec<String>) -> pb::Agent {
    let state = match view.state {
        AgentState::Connected => pb::AgentState::Connected,
        AgentState::Disconnected => pb::AgentState::Disconnected,
        AgentState::Lost => pb::AgentState::Lost,
    };
    let job_on = |slot: Slot| view.job_on(&slot).map(|job: JobId| job.to_string()).unwrap_or_default();
    let inventory = &view.record.inventory;
    let gpus = inventory.gpus.iter().map(|gpu| {
        let reserved_until = view.record.reserved.get(&gpu.uuid).copied().map(timestamp);
        let job_id = job_on(Slot::Gpu(gpu.uuid.clone()));
        let told = gpu_message(gpu, view.reading(&gpu.uuid));
        let slot = Slot::Gpu(gpu.uuid.clone());
        let unavailable = told.unavailable.clone().or_else(|| closed(view, &slot));
        let (status, status_reason) = slot_status::of(view, &slot, unavailable.as_ref());
        let status_reason = slot_status::or_throttle(status_reason, &told.throttle_reasons);
        pb::Gpu { job_id, reserved_until, unavailable, status: status.to_owned(), status_reason, ..told }
    });
    let fitness = &view.status.fitness;
    let cpu_slots = (0..inventory.cpu_slots).map(|index| {
        let slot = Slot::Cpu(index);
        let told = fitness.cpu_unavailable.as_ref().map(Into::into);
        let unavailable = told.or_else(|| closed(view, &slot));
        let (status, status_reason) = slot_status::of(view, &slot, unavailable.as_ref());
        pb::CpuSlot { index, job_id: job_on(slot), unavailable, status: status.to_owned(), status_reason }
    });
    let cpu_slots: Vec<pb::CpuSlot> = cpu_slots.collect();
    let notices = words::notices(view, &cpu_slots, known);
    pb::Agent {
        id: view.record.id.to_string(),
        name: view.record.name.clone(),
        state: state.into(),
        gpus: gpus.collect(),
        cpu_slots,
        memory_total_mib: inventory.memory_total_mib,
        driver_version: inventory.driver_version.clone(),
        version: view.record.version.clone(),
        last_seen_time: Some(timestamp(view.last_seen)),
        drained: view.record.drain.is_some(),
        unavailable: view.status.unavailable.clone(),
        fit_records: view.fit_records().iter().map(Into::into).collect(),
        data_roots: fitness.data_roots.iter().flatten().map(Into::into).collect(),
        missing_paths: fitness.missing_paths.clone(),
        trainer_version: fitness.trainer_version.clone(),
        libtorch_version: fitness.libtorch_version.clone(),
        clock_offset: view.clock_offset_ms().map(signed),
        notices,
        status: slot_status::of_agent(view).to_owned(),
    }
}

/// What the scheduler itself has against a slot.
fn closed(view: &AgentView<'_>, slot: &Slot) -> Option<pb::Unavailable> {
    use pb::unavailable::Cause;
    let shown = |cause: Cause, message: String| pb::Unavailable { cause: cause.into(), message };
    match view.closed(slot)? {
        Closed::QuickEnds(shut) => Some(shown(Cause::QuickEnds, shut.why.clone())),
        Closed::Duplicate(name) => {
            let message =
                format!("agent `{name}` offers it, too, and came first: stop one of the two agents");
            Some(shown(Cause::Duplicate, message))
        }
        Closed::Drained
        | Closed::Agent(_)
        | Closed::HandingIn(_)
        | Closed::Reserved(_)
        | Closed::Gpu(_)
        | Closed::Cooldown(_) => None,
    }
}

/// A span that may be negative.
fn signed(millis: i64) -> prost_types::Duration {
    let nanos = i32::try_from(millis % 1000 * 1_000_000).unwrap_or(0);
    prost_types::Duration { seconds: millis / 1000, nanos }
}

/// A command for its agent.
pub fn command(command: Command) -> pb::SchedulerMessage {
    use pb::scheduler_message::Message;
    let message = match command {
        Command::Assign { assignment, .. } => Message::Assign((&*assignment).into()),
        Command::Stop { attempt, reason, grace, .. } => Message::Stop(pb::Stop {
            attempt: attempt.to_string(),
            reason: end_reason(reason),
            grace_ms: u32::try_from(grace.as_millis()).unwrap_or(u32::MAX),
        }),
        Command::ClearGpu { gpu, .. } => {
            Message::ClearGpu(pb::ClearGpu { gpu: gpu.map(|gpu| gpu.to_string()).unwrap_or_default() })
        }
        Command::Prefetch { kind, reference, .. } => {
            let kind = match kind {
                PrefetchKind::DataSet => pb::DatasetKind::Dataset,
                PrefetchKind::Weights => pb::DatasetKind::Weights,
            };
            Message::Prefetch(pb::Prefetch { kind: kind.into(), reference: reference.to_string() })
        }
        Command::Revoke { attempt, .. } => Message::Revoke(pb::Revoke { attempt: attempt.to_string() }),
        Command::Ack { attempt, sequence, .. } => {
            Message::Ack(pb::Ack { attempt: attempt.to_string(), sequence })
        }
    };
    pb::SchedulerMessage { message: Some(message) }
}

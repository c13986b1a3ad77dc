//! Messages of the agents' stream: who an agent is, what it is told and what it reports.
//!
//! What comes off the wire becomes plain data or an [`InvalidMessage`] that names every field at fault.

use std::fmt;

use trainyard_types::trainer::{TrainerLine, VERSION};
use trainyard_types::{
    AgentId, Artifact, Assignment, AttemptId, BatchChosen, BatchLayer, Checkpoint, EndReason, Ended, FitKey,
    FitRecord, Gpu, GpuTelemetry, GpuUuid, Inventory, Report, ReportBody, Slot, Unavailable,
    UnavailableCause, Violation,
};

use super::job::{parse_job_spec, parse_timestamp, timestamp};
use crate::pb;

#[cfg(test)]
mod tests;

/// A message of the agents' stream that does not say what it should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidMessage(pub Vec<Violation>);

impl InvalidMessage {
    fn new(field: &str, description: impl Into<String>) -> Self {
        Self(vec![Violation::new(field, description)])
    }

    fn under(self, prefix: &str) -> Self {
        Self(self.0.into_iter().map(|violation| violation.under(prefix)).collect())
    }
}

impl fmt::Display for InvalidMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, violation) in self.0.iter().enumerate() {
            write!(f, "{}{violation}", if at == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

impl std::error::Error for InvalidMessage {}

/// An attempt id in the field `attempt`.
///
/// # Errors
/// The text is not `JOB/NUMBER`.
pub fn parse_attempt(text: &str) -> Result<AttemptId, InvalidMessage> {
    text.parse().map_err(|error| InvalidMessage::new("attempt", format!("{error}")))
}

/// What an agent says first.
#[derive(Debug, Clone, PartialEq)]
pub struct Hello {
    /// Drawn once, kept in the agent's data directory.
    pub agent: AgentId,
    /// For people; the host's name unless configured.
    pub name: String,
    /// Of trainyard-agent.
    pub version: String,
    /// What the agent offers.
    pub inventory: Inventory,
    /// One entry a GPU, in the inventory's order.
    pub telemetry: Vec<GpuTelemetry>,
    /// Attempts that run, or that have reports which were not acknowledged yet.
    pub attempts: Vec<AttemptId>,
    /// What its cards were seen to need.
    pub fit_records: Vec<FitRecord>,
    /// Why it takes no job at all; empty when it does.
    pub unavailable: String,
    /// Data sets whose images it has decoded, with the image size.
    pub cached_data: Vec<(String, u32)>,
}

impl From<&Hello> for pb::Hello {
    fn from(hello: &Hello) -> Self {
        Self {
            agent_id: hello.agent.to_string(),
            name: hello.name.clone(),
            version: hello.version.clone(),
            gpus: gpus(&hello.inventory.gpus, &hello.telemetry),
            cpu_slots: hello.inventory.cpu_slots,
            memory_total_mib: hello.inventory.memory_total_mib,
            driver_version: hello.inventory.driver_version.clone(),
            attempts: hello.attempts.iter().map(ToString::to_string).collect(),
            fit_records: hello.fit_records.iter().map(Into::into).collect(),
            unavailable: hello.unavailable.clone(),
            cached_data: cached_data(&hello.cached_data),
        }
    }
}

impl TryFrom<pb::Hello> for Hello {
    type Error = InvalidMessage;

    fn try_from(hello: pb::Hello) -> Result<Self, InvalidMessage> {
        let under = |error: InvalidMessage| error.under("hello");
        let agent = hello
            .agent_id
            .parse()
            .map_err(|error| under(InvalidMessage::new("agent_id", format!("{error}"))))?;
        if hello.name.is_empty() || hello.name.len() > 255 {
            return Err(under(InvalidMessage::new("name", "has 0 or more than 255 bytes")));
        }
        let (gpus, telemetry) = parse_gpus(hello.gpus).map_err(under)?;
        let attempts = hello.attempts.iter().map(|text| parse_attempt(text).map_err(under));
        Ok(Self {
            agent,
            name: hello.name,
            version: hello.version,
            attempts: attempts.collect::<Result<_, _>>()?,
            inventory: Inventory {
                gpus,
                cpu_slots: hello.cpu_slots,
                memory_total_mib: hello.memory_total_mib,
                driver_version: hello.driver_version,
            },
            telemetry,
            fit_records: parse_fit_records(hello.fit_records).map_err(under)?,
            unavailable: hello.unavailable,
            cached_data: hello.cached_data.into_iter().map(|data| (data.data, data.imgsz)).collect(),
        })
    }
}

/// Data sets whose images an agent has decoded, for a Hello or a Heartbeat.
pub fn cached_data(held: &[(String, u32)]) -> Vec<pb::CachedData> {
    held.iter().map(|(data, imgsz)| pb::CachedData { data: data.clone(), imgsz: *imgsz }).collect()
}

impl From<&FitRecord> for pb::FitRecord {
    fn from(record: &FitRecord) -> Self {
        Self {
            model: record.key.model.to_string(),
            imgsz: record.key.imgsz,
            multi_scale: record.key.multi_scale,
            precision: record.key.precision.clone(),
            device: record.key.device.clone(),
            libtorch: record.key.libtorch.clone(),
            fixed_mib: record.fixed_mib,
            per_image_mib: record.per_image_mib,
            validation_mib: record.validation_mib,
            batch_size: record.batch_size,
            failed_batch_size: record.failed_batch_size,
        }
    }
}

/// Fit records in the field `fit_records`.
///
/// # Errors
/// A model that is not known, or a size that is none.
pub fn parse_fit_records(records: Vec<pb::FitRecord>) -> Result<Vec<FitRecord>, InvalidMessage> {
    let parse = |(at, record): (usize, pb::FitRecord)| {
        let field = |name: &str| format!("fit_records[{at}].{name}");
        let model = record
            .model
            .parse()
            .map_err(|_| InvalidMessage::new(&field("model"), format!("is `{}`", record.model)))?;
        if !record.per_image_mib.is_finite() || record.per_image_mib < 0.0 {
            let text = format!("is {}; use a size in MiB", record.per_image_mib);
            return Err(InvalidMessage::new(&field("per_image_mib"), text));
        }
        let key = FitKey {
            model,
            imgsz: record.imgsz,
            multi_scale: record.multi_scale,
            precision: record.precision,
            device: record.device,
            libtorch: record.libtorch,
        };
        Ok(FitRecord {
            key,
            fixed_mib: record.fixed_mib,
            per_image_mib: record.per_image_mib,
            validation_mib: record.validation_mib,
            batch_size: record.batch_size,
            failed_batch_size: record.failed_batch_size,
        })
    };
    records.into_iter().enumerate().map(parse).collect()
}

/// GPUs with what they do now, for a Hello or a Heartbeat; telemetry is matched by UUID.
pub fn gpus(gpus: &[Gpu], telemetry: &[GpuTelemetry]) -> Vec<pb::Gpu> {
    let find = |gpu: &Gpu| telemetry.iter().find(|reading| reading.uuid == gpu.uuid);
    gpus.iter().map(|gpu| gpu_message(gpu, find(gpu))).collect()
}

/// One GPU with what it does now. `job_id` is the scheduler's to fill in.
pub fn gpu_message(gpu: &Gpu, telemetry: Option<&GpuTelemetry>) -> pb::Gpu {
    let capability = gpu.compute_capability.map(|(major, minor)| format!("{major}.{minor}"));
    pb::Gpu {
        uuid: gpu.uuid.to_string(),
        index: gpu.index,
        model: gpu.model.clone(),
        memory_total_mib: gpu.memory_total_mib,
        compute_capability: capability.unwrap_or_default(),
        memory_free_mib: telemetry.and_then(|reading| reading.memory_free_mib),
        utilization_ratio: telemetry.and_then(|reading| reading.utilization_ratio),
        temperature_celsius: telemetry.and_then(|reading| reading.temperature_celsius),
        power_watts: telemetry.and_then(|reading| reading.power_watts),
        job_id: String::new(),
        memory_reserved_mib: telemetry.and_then(|reading| reading.memory_reserved_mib),
        memory_foreign_mib: telemetry.and_then(|reading| reading.memory_foreign_mib),
        energy_joules: telemetry.and_then(|reading| reading.energy_joules),
        clock_mhz: telemetry.and_then(|reading| reading.clock_mhz),
        throttle_reasons: telemetry.map(|reading| reading.throttle_reasons.clone()).unwrap_or_default(),
        pcie_link_width: telemetry.and_then(|reading| reading.pcie_link_width),
        pcie_link_width_max: telemetry.and_then(|reading| reading.pcie_link_width_max),
        unavailable: telemetry.and_then(|reading| reading.unavailable.as_ref()).map(Into::into),
        reserved_until: None,
    }
}

impl From<&Unavailable> for pb::Unavailable {
    fn from(unavailable: &Unavailable) -> Self {
        let cause = match unavailable.cause {
            UnavailableCause::ForeignUse => pb::unavailable::Cause::ForeignUse,
            UnavailableCause::Owner => pb::unavailable::Cause::Owner,
            UnavailableCause::Quarantined => pb::unavailable::Cause::Quarantined,
            UnavailableCause::Unsupported => pb::unavailable::Cause::Unsupported,
        };
        Self { cause: cause.into(), message: unavailable.message.clone() }
    }
}

impl From<pb::Unavailable> for Unavailable {
    /// A cause that a newer agent names keeps the card out of use all the same.
    fn from(unavailable: pb::Unavailable) -> Self {
        let cause = match unavailable.cause() {
            pb::unavailable::Cause::ForeignUse => UnavailableCause::ForeignUse,
            pb::unavailable::Cause::Owner => UnavailableCause::Owner,
            pb::unavailable::Cause::Unsupported => UnavailableCause::Unsupported,
            pb::unavailable::Cause::Quarantined | pb::unavailable::Cause::Unspecified => {
                UnavailableCause::Quarantined
            }
        };
        Self { cause, message: unavailable.message }
    }
}

/// Splits messages into what stays and what changes, in their order.
///
/// # Errors
/// A GPU without a UUID, or a UUID twice.
pub fn parse_gpus(gpus: Vec<pb::Gpu>) -> Result<(Vec<Gpu>, Vec<GpuTelemetry>), InvalidMessage> {
    let mut known: Vec<Gpu> = Vec::new();
    let mut telemetry = Vec::new();
    for (at, gpu) in gpus.into_iter().enumerate() {
        let field = format!("gpus[{at}].uuid");
        if gpu.uuid.is_empty() {
            return Err(InvalidMessage::new(&field, "is empty"));
        }
        if known.iter().any(|other| other.uuid.0 == gpu.uuid) {
            return Err(InvalidMessage::new(&field, format!("`{}` is there twice", gpu.uuid)));
        }
        let (gpu, reading) = parse_gpu(gpu);
        known.push(gpu);
        telemetry.push(reading);
    }
    Ok((known, telemetry))
}

fn parse_gpu(gpu: pb::Gpu) -> (Gpu, GpuTelemetry) {
    let uuid = GpuUuid(gpu.uuid);
    let telemetry = GpuTelemetry {
        uuid: uuid.clone(),
        memory_free_mib: gpu.memory_free_mib,
        utilization_ratio: gpu.utilization_ratio,
        temperature_celsius: gpu.temperature_celsius,
        power_watts: gpu.power_watts,
        unavailable: gpu.unavailable.map(Into::into),
        memory_reserved_mib: gpu.memory_reserved_mib,
        memory_foreign_mib: gpu.memory_foreign_mib,
        energy_joules: gpu.energy_joules,
        clock_mhz: gpu.clock_mhz,
        throttle_reasons: gpu.throttle_reasons,
        pcie_link_width: gpu.pcie_link_width,
        pcie_link_width_max: gpu.pcie_link_width_max,
    };
    let capability = gpu.compute_capability.split_once('.');
    let gpu = Gpu {
        uuid,
        index: gpu.index,
        model: gpu.model,
        memory_total_mib: gpu.memory_total_mib,
        compute_capability: capability
            .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?))),
    };
    (gpu, telemetry)
}

impl From<&Artifact> for pb::Artifact {
    fn from(artifact: &Artifact) -> Self {
        Self { name: artifact.name.clone(), size_bytes: artifact.size_bytes, sha256: artifact.sha256.clone() }
    }
}

impl TryFrom<pb::Artifact> for Artifact {
    type Error = InvalidMessage;

    /// The name must stay inside whatever directory it is put into, and the hash must be one.
    fn try_from(artifact: pb::Artifact) -> Result<Self, InvalidMessage> {
        let inside = |part: &str| !matches!(part, "" | "." | "..");
        if !artifact.name.split('/').all(inside) || artifact.name.contains(['\\', '\0']) {
            let text = format!("is {:?}; use a relative path without `..`", artifact.name);
            return Err(InvalidMessage::new("name", text));
        }
        let hexadecimal = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if artifact.sha256.len() != 64 || !artifact.sha256.bytes().all(hexadecimal) {
            let text = format!("is {:?}; use 64 lower-case hexadecimal digits", artifact.sha256);
            return Err(InvalidMessage::new("sha256", text));
        }
        Ok(Self { name: artifact.name, size_bytes: artifact.size_bytes, sha256: artifact.sha256 })
    }
}

fn parse_artifacts(field: &str, artifacts: Vec<pb::Artifact>) -> Result<Vec<Artifact>, InvalidMessage> {
    let parse = |(at, artifact): (usize, pb::Artifact)| {
        Artifact::try_from(artifact).map_err(|error: InvalidMessage| error.under(&format!("{field}[{at}]")))
    };
    artifacts.into_iter().enumerate().map(parse).collect()
}

impl From<&Checkpoint> for pb::Checkpoint {
    fn from(checkpoint: &Checkpoint) -> Self {
        Self {
            step: checkpoint.step,
            epoch: checkpoint.epoch,
            files: checkpoint.files.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<pb::Checkpoint> for Checkpoint {
    type Error = InvalidMessage;

    fn try_from(checkpoint: pb::Checkpoint) -> Result<Self, InvalidMessage> {
        if checkpoint.files.is_empty() {
            return Err(InvalidMessage::new("files", "is empty; a checkpoint has at least one file"));
        }
        let files = parse_artifacts("files", checkpoint.files)?;
        Ok(Self { step: checkpoint.step, epoch: checkpoint.epoch, files })
    }
}

/// An end reason's number for the wire.
pub fn end_reason(reason: EndReason) -> i32 {
    pb::attempt::EndReason::from(reason) as i32
}

/// An end reason off the wire, in the field `reason`.
///
/// # Errors
/// The number is 0 or unknown.
pub fn parse_end_reason(number: i32) -> Result<EndReason, InvalidMessage> {
    let known = pb::attempt::EndReason::try_from(number).ok();
    known
        .and_then(|reason| reason.try_into().ok())
        .ok_or_else(|| InvalidMessage::new("reason", format!("is {number}, which is no end reason")))
}

impl From<&Ended> for pb::Ended {
    fn from(ended: &Ended) -> Self {
        Self {
            reason: end_reason(ended.reason),
            message: ended.message.clone(),
            artifacts: ended.artifacts.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<pb::Ended> for Ended {
    type Error = InvalidMessage;

    fn try_from(ended: pb::Ended) -> Result<Self, InvalidMessage> {
        let artifacts = parse_artifacts("artifacts", ended.artifacts)?;
        Ok(Self { reason: parse_end_reason(ended.reason)?, message: ended.message, artifacts })
    }
}

impl From<&BatchChosen> for pb::BatchChosen {
    fn from(chosen: &BatchChosen) -> Self {
        let layer = |layer: &BatchLayer| pb::BatchLayer {
            name: layer.name.clone(),
            batch_size: layer.batch_size,
            reason: layer.reason.clone(),
        };
        Self { batch_size: chosen.batch_size, layers: chosen.layers.iter().map(layer).collect() }
    }
}

impl From<pb::BatchChosen> for BatchChosen {
    fn from(chosen: pb::BatchChosen) -> Self {
        let layer = |layer: pb::BatchLayer| BatchLayer {
            name: layer.name,
            batch_size: layer.batch_size,
            reason: layer.reason,
        };
        Self { batch_size: chosen.batch_size, layers: chosen.layers.into_iter().map(layer).collect() }
    }
}

impl From<&Report> for pb::Report {
    fn from(report: &Report) -> Self {
        let body = match &report.body {
            ReportBody::Trainer(event) => {
                let line = TrainerLine { v: VERSION, time: report.time, event: event.clone() };
                // Only a map with keys that are no strings fails, and no event has one.
                pb::report::Report::TrainerEvent(serde_json::to_string(&line).unwrap_or_default())
            }
            ReportBody::Ended(ended) => pb::report::Report::Ended(ended.into()),
            ReportBody::CheckpointStored(checkpoint) => {
                pb::report::Report::CheckpointStored(pb::CheckpointStored {
                    checkpoint: Some(checkpoint.into()),
                })
            }
            ReportBody::BatchChosen(chosen) => pb::report::Report::BatchChosen(chosen.into()),
        };
        Self {
            attempt: report.attempt.to_string(),
            sequence: report.sequence,
            time: Some(timestamp(report.time)),
            report: Some(body),
        }
    }
}

impl TryFrom<pb::Report> for Report {
    type Error = InvalidMessage;

    fn try_from(report: pb::Report) -> Result<Self, InvalidMessage> {
        use pb::report::Report as Body;
        let under = |error: InvalidMessage| error.under("report");
        let attempt = parse_attempt(&report.attempt).map_err(under)?;
        if report.sequence == 0 {
            return Err(under(InvalidMessage::new("sequence", "is 0; reports count from 1")));
        }
        let time = report.time.map(parse_timestamp).ok_or(InvalidMessage::new("time", "is missing"));
        let body = match report.report {
            Some(Body::TrainerEvent(line)) => ReportBody::Trainer(parse_line(&line).map_err(under)?),
            Some(Body::Ended(ended)) => ReportBody::Ended(
                ended.try_into().map_err(|error: InvalidMessage| under(error.under("ended")))?,
            ),
            Some(Body::CheckpointStored(stored)) => {
                let checkpoint = stored.checkpoint.ok_or(InvalidMessage::new("checkpoint", "is missing"));
                let checkpoint = checkpoint.and_then(Checkpoint::try_from);
                ReportBody::CheckpointStored(
                    checkpoint.map_err(|error| under(error.under("checkpoint_stored")))?,
                )
            }
            Some(Body::BatchChosen(chosen)) => ReportBody::BatchChosen(chosen.into()),
            None => return Err(InvalidMessage::new("report", "says nothing that is known")),
        };
        Ok(Self { attempt, sequence: report.sequence, time: time.map_err(under)?, body })
    }
}

fn parse_line(line: &str) -> Result<trainyard_types::trainer::TrainerEvent, InvalidMessage> {
    let line: TrainerLine = serde_json::from_str(line)
        .map_err(|error| InvalidMessage::new("trainer_event", error.to_string()))?;
    if line.v != VERSION {
        let text = format!("has version {}; this build reads {VERSION}", line.v);
        return Err(InvalidMessage::new("trainer_event", text));
    }
    Ok(line.event)
}

impl From<&Assignment> for pb::Assign {
    fn from(assignment: &Assignment) -> Self {
        let slot = match &assignment.slot {
            Slot::Gpu(uuid) => pb::assign::Slot::Gpu(uuid.to_string()),
            Slot::Cpu(index) => pb::assign::Slot::CpuSlot(*index),
        };
        Self {
            attempt: assignment.attempt.to_string(),
            spec: Some((&assignment.spec).into()),
            slot: Some(slot),
            resume: assignment.resume.as_ref().map(Into::into),
        }
    }
}

impl TryFrom<pb::Assign> for Assignment {
    type Error = InvalidMessage;

    fn try_from(assign: pb::Assign) -> Result<Self, InvalidMessage> {
        let attempt = parse_attempt(&assign.attempt)?;
        let spec = assign.spec.ok_or(InvalidMessage::new("spec", "is missing"))?;
        let spec = parse_job_spec(spec).map_err(|found| InvalidMessage(found).under("spec"))?;
        let slot = match assign.slot {
            Some(pb::assign::Slot::Gpu(uuid)) => Slot::Gpu(GpuUuid(uuid)),
            Some(pb::assign::Slot::CpuSlot(index)) => Slot::Cpu(index),
            None => return Err(InvalidMessage::new("slot", "is missing")),
        };
        let resume = assign.resume.map(Checkpoint::try_from).transpose();
        Ok(Self { attempt, spec, slot, resume: resume.map_err(|error| error.under("resume"))? })
    }
}

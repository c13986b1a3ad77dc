//! Messages of the agents' stream: who an agent is, what it is told and what it reports.
//!
//! What comes off the wire becomes plain data or an [`InvalidMessage`] that names every field at fault.

use std::collections::BTreeSet;
use std::fmt;

use trainyard_types::{
    AgentId, Artifact, Assignment, AttemptId, Checkpoint, EndReason, FitKey, FitRecord, Fitness, Gpu,
    GpuTelemetry, GpuUuid, Inventory, Slot, Unavailable, UnavailableCause, Violation,
};

use super::job::parse_job_spec;
use crate::pb;

mod data_check;
mod fitness;
mod report;
#[cfg(test)]
mod tests;

pub use data_check::{DataChecked, check_data, data_checked, parse_check_data, parse_data_checked};
pub use fitness::parse_fitness;

/// What an agent may have or say at most: a machine has far less, and what comes off the wire is kept.
pub mod limits {
    /// GPUs of an agent.
    pub const GPUS: usize = 256;
    /// CPU slots of an agent.
    pub const CPU_SLOTS: u32 = 4096;
    /// Attempts that an agent holds.
    pub const ATTEMPTS: usize = 8192;
    /// Users who may reserve and drain an agent.
    pub const OWNERS: usize = 256;
    /// Fit records in one message.
    pub const FIT_RECORDS: usize = 4096;
    /// Data sets whose images are decoded.
    pub const CACHED_DATA: usize = 4096;
    /// Directories that jobs may read.
    pub const DATA_ROOTS: usize = 256;
    /// Sentences about a machine.
    pub const NOTICES: usize = 64;
    /// Paths that jobs asked for in vain.
    pub const MISSING_PATHS: usize = 1024;
    /// Versions of data sets and weights that an agent holds.
    pub const HELD_VERSIONS: usize = 1024;
    /// Bytes of a name, a version or a model.
    pub const NAME_BYTES: usize = 255;
    /// Bytes of a path or a sentence.
    pub const TEXT_BYTES: usize = 4096;
    /// Reasons why a GPU's clock is held down.
    pub const THROTTLE_REASONS: usize = 16;
}

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

fn at_most(field: &str, count: usize, most: usize) -> Result<(), InvalidMessage> {
    if count <= most {
        Ok(())
    } else {
        Err(InvalidMessage::new(field, format!("has {count} entries; at most {most} are taken")))
    }
}

fn no_longer(field: &str, text: &str, most: usize) -> Result<(), InvalidMessage> {
    if text.len() <= most {
        Ok(())
    } else {
        Err(InvalidMessage::new(field, format!("has {} bytes; use at most {most}", text.len())))
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
    /// The version of trainyard-agent.
    pub version: String,
    /// What the agent offers.
    pub inventory: Inventory,
    /// One entry a GPU, in the inventory's order.
    pub telemetry: Vec<GpuTelemetry>,
    /// Attempts that run, or that have reports which were not acknowledged yet.
    pub attempts: Vec<AttemptId>,
    /// What its GPUs were seen to need.
    pub fit_records: Vec<FitRecord>,
    /// Why it takes no job at all; empty when it does.
    pub unavailable: String,
    /// Data sets whose images it has decoded, with the image size.
    pub cached_data: Vec<(String, u32)>,
    /// What the machine has of what jobs need.
    pub fitness: Fitness,
    /// Drawn at each start of the process; empty of agents that are too old to say.
    pub instance: String,
    /// Users who may reserve and drain it.
    pub owners: Vec<String>,
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
            fitness: Some((&hello.fitness).into()),
            instance: hello.instance.clone(),
            owners: hello.owners.clone(),
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
        no_longer("version", &hello.version, limits::NAME_BYTES).map_err(under)?;
        no_longer("instance", &hello.instance, limits::NAME_BYTES).map_err(under)?;
        no_longer("driver_version", &hello.driver_version, limits::NAME_BYTES).map_err(under)?;
        if hello.cpu_slots > limits::CPU_SLOTS {
            let text = format!("is {}; use at most {}", hello.cpu_slots, limits::CPU_SLOTS);
            return Err(under(InvalidMessage::new("cpu_slots", text)));
        }
        at_most("attempts", hello.attempts.len(), limits::ATTEMPTS).map_err(under)?;
        at_most("owners", hello.owners.len(), limits::OWNERS).map_err(under)?;
        for (at, owner) in hello.owners.iter().enumerate() {
            no_longer(&format!("owners[{at}]"), owner, limits::NAME_BYTES).map_err(under)?;
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
            unavailable: parse_unavailable(hello.unavailable).map_err(under)?,
            cached_data: parse_cached_data(hello.cached_data).map_err(under)?,
            fitness: parse_fitness(hello.fitness).map_err(under)?,
            instance: hello.instance,
            owners: hello.owners,
        })
    }
}

/// Data sets whose images an agent has decoded, for a Hello or a Heartbeat.
pub fn cached_data(held: &[(String, u32)]) -> Vec<pb::CachedData> {
    held.iter().map(|(data, imgsz)| pb::CachedData { data: data.clone(), imgsz: *imgsz }).collect()
}

/// The reverse, in the field `cached_data`.
///
/// # Errors
/// Too many, or too long a path.
pub fn parse_cached_data(held: Vec<pb::CachedData>) -> Result<Vec<(String, u32)>, InvalidMessage> {
    at_most("cached_data", held.len(), limits::CACHED_DATA)?;
    let parse = |(at, held): (usize, pb::CachedData)| {
        no_longer(&format!("cached_data[{at}].data"), &held.data, limits::TEXT_BYTES)?;
        Ok((held.data, held.imgsz))
    };
    held.into_iter().enumerate().map(parse).collect()
}

/// Why an agent takes no job, in the field `unavailable`.
///
/// # Errors
/// The sentence is too long.
pub fn parse_unavailable(text: String) -> Result<String, InvalidMessage> {
    no_longer("unavailable", &text, limits::TEXT_BYTES)?;
    Ok(text)
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

/// Fit records in the field `fit_records`. Those of a model that a newer agent knows and this build does not
/// are left out.
///
/// # Errors
/// Too many, too long a name, or a size that is none.
pub fn parse_fit_records(records: Vec<pb::FitRecord>) -> Result<Vec<FitRecord>, InvalidMessage> {
    at_most("fit_records", records.len(), limits::FIT_RECORDS)?;
    let mut parsed = Vec::with_capacity(records.len());
    for (at, record) in records.into_iter().enumerate() {
        let field = |name: &str| format!("fit_records[{at}].{name}");
        let Ok(model) = record.model.parse() else { continue };
        if !record.per_image_mib.is_finite() || record.per_image_mib < 0.0 {
            let text = format!("is {}; use a size in MiB", record.per_image_mib);
            return Err(InvalidMessage::new(&field("per_image_mib"), text));
        }
        let names =
            [("precision", &record.precision), ("device", &record.device), ("libtorch", &record.libtorch)];
        for (name, text) in names {
            no_longer(&field(name), text, limits::NAME_BYTES)?;
        }
        let key = FitKey {
            model,
            imgsz: record.imgsz,
            multi_scale: record.multi_scale,
            precision: record.precision,
            device: record.device,
            libtorch: record.libtorch,
        };
        parsed.push(FitRecord {
            key,
            fixed_mib: record.fixed_mib,
            per_image_mib: record.per_image_mib,
            validation_mib: record.validation_mib,
            batch_size: record.batch_size,
            failed_batch_size: record.failed_batch_size,
        });
    }
    Ok(parsed)
}

/// GPUs with what they do now, for a Hello or a Heartbeat; telemetry is matched by UUID.
pub fn gpus(gpus: &[Gpu], telemetry: &[GpuTelemetry]) -> Vec<pb::Gpu> {
    let find = |gpu: &Gpu| telemetry.iter().find(|reading| reading.uuid == gpu.uuid);
    gpus.iter().map(|gpu| gpu_message(gpu, find(gpu))).collect()
}

/// One GPU with what it does now. `job_id`, `status` and its reason are the scheduler's to fill in.
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
        status: String::new(),
        status_reason: String::new(),
    }
}

impl From<&Unavailable> for pb::Unavailable {
    fn from(unavailable: &Unavailable) -> Self {
        let cause = match unavailable.cause {
            UnavailableCause::ForeignUse => pb::unavailable::Cause::ForeignUse,
            UnavailableCause::Owner => pb::unavailable::Cause::Owner,
            UnavailableCause::Quarantined => pb::unavailable::Cause::Quarantined,
            UnavailableCause::Unsupported => pb::unavailable::Cause::Unsupported,
            UnavailableCause::SelfTest => pb::unavailable::Cause::SelfTest,
            UnavailableCause::Duplicate => pb::unavailable::Cause::Duplicate,
            UnavailableCause::Stuck => pb::unavailable::Cause::Stuck,
        };
        Self { cause: cause.into(), message: unavailable.message.clone() }
    }
}

impl From<pb::Unavailable> for Unavailable {
    /// A cause that a newer agent names keeps the GPU out of use all the same.
    fn from(unavailable: pb::Unavailable) -> Self {
        let cause = match unavailable.cause() {
            pb::unavailable::Cause::ForeignUse => UnavailableCause::ForeignUse,
            pb::unavailable::Cause::Owner => UnavailableCause::Owner,
            pb::unavailable::Cause::Unsupported => UnavailableCause::Unsupported,
            pb::unavailable::Cause::SelfTest => UnavailableCause::SelfTest,
            pb::unavailable::Cause::Duplicate => UnavailableCause::Duplicate,
            pb::unavailable::Cause::Stuck => UnavailableCause::Stuck,
            pb::unavailable::Cause::Quarantined
            | pb::unavailable::Cause::QuickEnds
            | pb::unavailable::Cause::Unspecified => UnavailableCause::Quarantined,
        };
        Self { cause, message: unavailable.message }
    }
}

/// Splits messages into what stays and what changes, in their order.
///
/// # Errors
/// Too many, a GPU without a UUID or with too long a name, or a UUID twice.
pub fn parse_gpus(gpus: Vec<pb::Gpu>) -> Result<(Vec<Gpu>, Vec<GpuTelemetry>), InvalidMessage> {
    at_most("gpus", gpus.len(), limits::GPUS)?;
    let mut known = BTreeSet::new();
    let mut parsed = (Vec::new(), Vec::new());
    for (at, gpu) in gpus.into_iter().enumerate() {
        let field = |name: &str| format!("gpus[{at}].{name}");
        if gpu.uuid.is_empty() {
            return Err(InvalidMessage::new(&field("uuid"), "is empty"));
        }
        no_longer(&field("uuid"), &gpu.uuid, limits::NAME_BYTES)?;
        no_longer(&field("model"), &gpu.model, limits::NAME_BYTES)?;
        at_most(&field("throttle_reasons"), gpu.throttle_reasons.len(), limits::THROTTLE_REASONS)?;
        for reason in &gpu.throttle_reasons {
            no_longer(&field("throttle_reasons"), reason, limits::NAME_BYTES)?;
        }
        if let Some(unavailable) = &gpu.unavailable {
            no_longer(&field("unavailable.message"), &unavailable.message, limits::TEXT_BYTES)?;
        }
        if !known.insert(gpu.uuid.clone()) {
            return Err(InvalidMessage::new(&field("uuid"), format!("`{}` is there twice", gpu.uuid)));
        }
        let (gpu, reading) = parse_gpu(gpu);
        parsed.0.push(gpu);
        parsed.1.push(reading);
    }
    Ok(parsed)
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
        let Artifact { name, size_bytes, sha256 } = artifact.clone();
        Self { name, size_bytes, sha256, live: false }
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

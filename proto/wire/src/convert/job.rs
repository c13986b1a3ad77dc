//! Job specs, states and times between the wire and the plain data.
//!
//! [`parse_job_spec`] names every bad field at once, under its path in the message. What it returns is
//! valid: nobody behind it checks a range again.

use std::path::PathBuf;
use std::time::Duration;

use trainyard_types::trainer::LogLevel;
use trainyard_types::{
    Batch, Cache, DeviceKind, EndReason, JobSpec, JobState, ModelScale, Optimizer, Resources, Time,
    TrainSpec, Violation,
};

use crate::pb;

#[cfg(test)]
mod tests;

/// Reads a spec off the wire; what is left out takes its default.
///
/// # Errors
/// Every field that is missing, unknown or out of range, with paths relative to the spec
/// (`train.epochs`).
pub fn parse_job_spec(spec: pb::JobSpec) -> Result<JobSpec, Vec<Violation>> {
    // A value that cannot be read is replaced by a valid one, so that the ranges of the others are still
    // checked; the violation that was found keeps the result from being used.
    let mut found = Vec::new();
    if spec.train.is_none() {
        found.push(Violation::new("train", "is missing; give at least `model` and `data`"));
    }
    let train = spec.train.as_ref().map(|train| parse_train(train, &mut found));
    let parsed = JobSpec {
        name: spec.name,
        train: train.unwrap_or_else(|| TrainSpec::new(ModelScale::N, "/")),
        resources: spec.resources.map(|wanted| parse_resources(wanted, &mut found)).unwrap_or_default(),
        priority: spec.priority,
        max_retries: spec.max_retries.unwrap_or(trainyard_types::job::DEFAULT_MAX_RETRIES),
        time_limit: spec.time_limit.map(parse_duration),
        labels: spec.labels.into_iter().collect(),
    };
    found.extend(parsed.violations());
    if found.is_empty() { Ok(parsed) } else { Err(found) }
}

fn parse_resources(wanted: pb::Resources, found: &mut Vec<Violation>) -> Resources {
    let default = Resources::default();
    let device = match wanted.device.as_deref() {
        None => default.device,
        Some("gpu") => DeviceKind::Gpu,
        Some("cpu") => DeviceKind::Cpu,
        Some(other) => {
            let text = format!("is `{other}`; use `gpu` or `cpu`");
            found.push(Violation::new("resources.device", text));
            default.device
        }
    };
    Resources {
        gpus: wanted.gpus.unwrap_or(default.gpus),
        gpu_models: wanted.gpu_models,
        min_vram_mib: wanted.min_vram_mib,
        device,
    }
}

/// The fields that are the same on both sides but for being optional on the wire.
macro_rules! same_fields {
    ($with:ident) => {
        $with!(
            epochs,
            imgsz,
            workers,
            amp,
            cos_lr,
            multi_scale,
            lr0,
            lrf,
            momentum,
            weight_decay,
            warmup_epochs,
            warmup_momentum,
            warmup_bias_lr,
            nbs,
            time,
            bn_group,
            deterministic,
            checkpoint_minutes,
            close_mosaic,
            patience,
            seed,
            fraction,
            single_cls,
            freeze,
            cls,
            dfl,
            hsv_h,
            hsv_s,
            hsv_v,
            degrees,
            translate,
            scale,
            shear,
            perspective,
            flipud,
            fliplr,
            mosaic,
            mixup
        )
    };
}

fn parse_train(train: &pb::TrainSpec, found: &mut Vec<Violation>) -> TrainSpec {
    let model = parse_model(&train.model, found);
    let default = TrainSpec::new(model, PathBuf::from(&train.data));
    let batch = train.batch.map_or(Ok(default.batch), Batch::try_from).unwrap_or_else(|wrong| {
        found.push(Violation::new("train.batch", wrong.to_string()));
        default.batch
    });
    let cache = parse_cache(train.cache.as_deref(), default.cache, found);
    let optimizer = parse_optimizer(train.optimizer.as_deref(), default.optimizer, found);
    let box_gain = train.r#box.unwrap_or(default.box_gain);
    let pretrained = train.pretrained.as_ref().map_or_else(PathBuf::new, PathBuf::from);
    macro_rules! build {
        ($($field:ident),*) => {
            TrainSpec {
                model, batch, cache, optimizer, box_gain, pretrained,
                $($field: train.$field.unwrap_or(default.$field),)*
                data: default.data,
            }
        };
    }
    same_fields!(build)
}

fn parse_model(name: &str, found: &mut Vec<Violation>) -> ModelScale {
    name.parse().unwrap_or_else(|_| {
        let known = ModelScale::ALL.map(ModelScale::name).join(", ");
        let text = if name.is_empty() {
            format!("is empty; use one of {known}")
        } else {
            format!("is `{name}`; use one of {known}")
        };
        found.push(Violation::new("train.model", text));
        ModelScale::N
    })
}

fn parse_cache(name: Option<&str>, default: Cache, found: &mut Vec<Violation>) -> Cache {
    let Some(name) = name else { return default };
    [Cache::Disk, Cache::Ram, Cache::None].into_iter().find(|cache| cache.name() == name).unwrap_or_else(
        || {
            let text = format!("is `{name}`; use `disk`, `ram` or `none`");
            found.push(Violation::new("train.cache", text));
            default
        },
    )
}

fn parse_optimizer(name: Option<&str>, default: Optimizer, found: &mut Vec<Violation>) -> Optimizer {
    let Some(name) = name else { return default };
    let known = Optimizer::ALL.into_iter().find(|optimizer| optimizer.name() == name);
    known.unwrap_or_else(|| {
        let text = format!("is `{name}`; use SGD, AdamW or auto");
        found.push(Violation::new("train.optimizer", text));
        default
    })
}

impl From<&JobSpec> for pb::JobSpec {
    /// Every field is set, so that a reader with other defaults still reads the same spec.
    fn from(spec: &JobSpec) -> Self {
        Self {
            name: spec.name.clone(),
            train: Some((&spec.train).into()),
            resources: Some((&spec.resources).into()),
            priority: spec.priority,
            max_retries: Some(spec.max_retries),
            time_limit: spec.time_limit.map(duration),
            labels: spec.labels.clone().into_iter().collect(),
        }
    }
}

impl From<&Resources> for pb::Resources {
    fn from(wanted: &Resources) -> Self {
        let device = match wanted.device {
            DeviceKind::Gpu => "gpu",
            DeviceKind::Cpu => "cpu",
        };
        Self {
            gpus: Some(wanted.gpus),
            gpu_models: wanted.gpu_models.clone(),
            min_vram_mib: wanted.min_vram_mib,
            device: Some(device.to_owned()),
        }
    }
}

impl From<&TrainSpec> for pb::TrainSpec {
    fn from(train: &TrainSpec) -> Self {
        macro_rules! build {
            ($($field:ident),*) => {
                Self {
                    model: train.model.name().to_owned(),
                    data: train.data.to_string_lossy().into_owned(),
                    batch: Some(train.batch.into()),
                    cache: Some(train.cache.name().to_owned()),
                    optimizer: Some(train.optimizer.name().to_owned()),
                    r#box: Some(train.box_gain),
                    pretrained: Some(train.pretrained.to_string_lossy().into_owned()),
                    $($field: Some(train.$field),)*
                }
            };
        }
        same_fields!(build)
    }
}

/// A wire enum that says nothing: unset, or of a newer version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unspecified;

/// An enum that has the same values on both sides, and `$unset` on the wire only.
macro_rules! same_enum {
    ($plain:ty, $wire:ty, $unset:ident, [$($value:ident),*]) => {
        impl From<$plain> for $wire {
            fn from(plain: $plain) -> Self {
                match plain { $(<$plain>::$value => Self::$value,)* }
            }
        }

        impl TryFrom<$wire> for $plain {
            type Error = Unspecified;

            fn try_from(wire: $wire) -> Result<Self, Unspecified> {
                match wire {
                    <$wire>::$unset => Err(Unspecified),
                    $(<$wire>::$value => Ok(Self::$value),)*
                }
            }
        }
    };
}

same_enum!(JobState, pb::JobState, Unspecified, [Queued, Starting, Running, Succeeded, Failed, Cancelled]);
same_enum!(
    EndReason,
    pb::attempt::EndReason,
    Unspecified,
    [
        Completed,
        BadSpec,
        GpuOom,
        HostOom,
        TrainerCrash,
        GpuFault,
        AgentLost,
        Preempted,
        Drained,
        Cancelled,
        TimeLimit,
        AgentUnfit,
        Stalled
    ]
);
same_enum!(LogLevel, pb::log_line::Level, Unspecified, [Info, Warning, Error]);

/// A time for the wire.
pub fn timestamp(time: Time) -> prost_types::Timestamp {
    #[expect(clippy::cast_possible_wrap, reason = "u64::MAX milliseconds are 2^54 seconds")]
    let seconds = (time.0 / 1000) as i64;
    #[expect(clippy::cast_possible_truncation, reason = "below 10^9")]
    let nanos = (time.0 % 1000 * 1_000_000) as i32;
    prost_types::Timestamp { seconds, nanos }
}

/// A time off the wire, in whole milliseconds; what lies before 1970 counts as 1970.
pub fn parse_timestamp(timestamp: prost_types::Timestamp) -> Time {
    let seconds = u64::try_from(timestamp.seconds).unwrap_or(0);
    let millis = u64::try_from(timestamp.nanos.clamp(0, 999_999_999) / 1_000_000).unwrap_or(0);
    Time(seconds.saturating_mul(1000).saturating_add(millis))
}

/// A span off the wire; what is negative or no span counts as nothing.
pub fn parse_duration(span: prost_types::Duration) -> Duration {
    let (seconds, nanos) = (u64::try_from(span.seconds), u32::try_from(span.nanos));
    match (seconds, nanos) {
        (Ok(seconds), Ok(nanos @ 0..=999_999_999)) => Duration::new(seconds, nanos),
        _ => Duration::ZERO,
    }
}

/// A span for the wire.
pub fn duration(span: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(span.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(span.subsec_nanos()).unwrap_or(0),
    }
}

//! The lines that the agent logs when an attempt starts. Their wording is a contract.

use jiff::Timestamp;
use trainyard_types::gpu::nominal_gib;
use trainyard_types::{Batch, BatchChosen, Cache, Time, TrainSpec};

use crate::memory::batch_size;

/// The device that an attempt got, as people know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttemptDevice {
    /// A GPU, by its model.
    Gpu {
        /// Its model, such as `NVIDIA GeForce RTX 5070`.
        model: String,
        /// All of its memory, as NVML tells.
        memory_total_mib: u64,
    },
    /// A CPU slot, by its number.
    Cpu {
        /// The slot's number, from 0.
        slot: u32,
        /// Main memory that is free.
        available_mib: u64,
    },
}

/// The lines for an attempt that trains `train` on `device` with `batch_size`, without timestamps.
pub fn lines(device: &AttemptDevice, train: &TrainSpec, batch_size: u32) -> Vec<String> {
    let (mut lines, basis) = match device {
        AttemptDevice::Gpu { model, memory_total_mib } => {
            let size = nominal_gib(*memory_total_mib);
            let lines = vec![format!("GPU: {model}"), format!("GPU Memory: {size:.1} GB")];
            (lines, format!("{size:.1}GB VRAM"))
        }
        AttemptDevice::Cpu { slot, available_mib } => {
            let size = nominal_gib(*available_mib);
            let lines = vec![format!("GPU: none (CPU slot {slot})"), format!("Free Memory: {size:.1} GB")];
            (lines, format!("CPU, {size:.1}GB RAM free"))
        }
    };
    lines.push(match train.batch {
        Batch::Auto => format!("Auto batch size: {batch_size} (based on {basis})"),
        Batch::Share(share) => format!("Auto batch size: {batch_size} (based on {share} of {basis})"),
        Batch::Size(_) => format!("Batch size: {batch_size} (as given)"),
    });
    let cache = match train.cache {
        Cache::Disk => "disk (disk-based, memory-safe)",
        Cache::Ram => "ram (in main memory)",
        Cache::None => "none",
    };
    lines.push("Training settings (high-performance mode):".into());
    lines.push(format!("  - Batch size: {batch_size}"));
    lines.push(format!("  - Workers: {}", train.workers));
    lines.push(format!("  - AMP (Mixed Precision): {}", python_bool(train.amp)));
    lines.push(format!("  - Cache: {cache}"));
    lines.push(format!("  - Cosine LR: {}", python_bool(train.cos_lr)));
    lines
}

/// How a batch size was chosen, a line for each layer.
pub fn layers(chosen: &BatchChosen) -> Vec<String> {
    let line = |layer: &trainyard_types::BatchLayer| {
        // What was given is no layer that computes anything.
        let by = if layer.name == batch_size::GIVEN { "" } else { "by " };
        format!("Batch size {by}{}: {} ({})", layer.name, layer.batch_size, layer.reason)
    };
    chosen.layers.iter().map(line).collect()
}

/// A line with its time, in UTC: `[2026-01-16T10:00:00] GPU: …`.
pub fn stamped(time: Time, line: &str) -> String {
    let millis = i64::try_from(time.0).unwrap_or(i64::MAX);
    let timestamp = Timestamp::from_millisecond(millis).unwrap_or(Timestamp::MAX);
    format!("[{}] {line}", timestamp.strftime("%Y-%m-%dT%H:%M:%S"))
}

const fn python_bool(value: bool) -> &'static str {
    if value { "True" } else { "False" }
}

#[cfg(test)]
mod tests {
    use trainyard_types::ModelScale;

    use super::*;

    #[test]
    fn a_start_on_a_5070_reads_exactly_as_promised() {
        let device = AttemptDevice::Gpu { model: "NVIDIA GeForce RTX 5070".into(), memory_total_mib: 12227 };
        let train = TrainSpec::new(ModelScale::N, "/d.yaml");
        let time = Time(1_768_557_600_999);
        let lines: Vec<String> = lines(&device, &train, 24).iter().map(|line| stamped(time, line)).collect();
        let wanted = "\
[2026-01-16T10:00:00] GPU: NVIDIA GeForce RTX 5070
[2026-01-16T10:00:00] GPU Memory: 12.0 GB
[2026-01-16T10:00:00] Auto batch size: 24 (based on 12.0GB VRAM)
[2026-01-16T10:00:00] Training settings (high-performance mode):
[2026-01-16T10:00:00]   - Batch size: 24
[2026-01-16T10:00:00]   - Workers: 8
[2026-01-16T10:00:00]   - AMP (Mixed Precision): True
[2026-01-16T10:00:00]   - Cache: disk (disk-based, memory-safe)
[2026-01-16T10:00:00]   - Cosine LR: True";
        assert_eq!(lines.join("\n"), wanted);
    }

    #[test]
    fn each_layer_says_what_the_batch_size_comes_from() {
        let layer = |name: &str| trainyard_types::BatchLayer {
            name: name.into(),
            batch_size: 16,
            reason: "why".into(),
        };
        let chosen = BatchChosen { layers: vec![layer(batch_size::GIVEN), layer("table")], batch_size: 16 };
        assert_eq!(layers(&chosen), ["Batch size asked for: 16 (why)", "Batch size by table: 16 (why)"]);
    }

    #[test]
    fn a_batch_size_that_was_given_is_not_called_auto() {
        let device = AttemptDevice::Cpu { slot: 0, available_mib: 8192 };
        let train = TrainSpec { batch: Batch::Size(4), ..TrainSpec::new(ModelScale::N, "/d.yaml") };
        assert_eq!(
            lines(&device, &train, 4)[..3],
            ["GPU: none (CPU slot 0)", "Free Memory: 8.0 GB", "Batch size: 4 (as given)"]
        );
    }
}

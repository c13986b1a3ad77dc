//! How a trainer ended, with what tells why: its last words, whom the kernel killed, who else uses its GPU, how full the
//! disk is.

use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::sys::signal::Signal;
use tokio::sync::watch;
use trainyard_types::trainer::exit_code;
use trainyard_types::{Slot, oom_words};

use super::child::TrainerExit;
use super::watch::{WatchedTrainer, watch};
use crate::config::Config;
use crate::gpu::oom_cause::{OtherUse, read_again};
use crate::host::Host;
use crate::message::{Exit, ExitKind, Readings};

/// The report on one trainer, begun just before the trainer starts.
pub struct FailureReport {
    config: Arc<Config>,
    host: Host,
    readings: watch::Receiver<Readings>,
    slot: Slot,
    log: PathBuf,
    /// Bytes of the log that former trainers have written.
    log_from: u64,
    /// What [`Host::out_of_memory_kills`] was before the trainer started.
    kills_before: u64,
}

impl FailureReport {
    /// Begins the report on a trainer that is about to start on `slot` and writes into `log`.
    pub fn begin(
        config: Arc<Config>,
        host: Host,
        readings: watch::Receiver<Readings>,
        slot: Slot,
        log: PathBuf,
    ) -> Self {
        let log_from = std::fs::metadata(&log).map_or(0, |metadata| metadata.len());
        let kills_before = host.out_of_memory_kills();
        Self { config, host, readings, slot, log, log_from, kills_before }
    }

    /// Follows the trainer to its end, then tells how it ended.
    pub async fn finish(self, trainer: WatchedTrainer) -> Exit {
        let (TrainerExit { kind, out_of_memory_kill }, bad_lines) = watch(trainer).await;
        // Without a control group of its own, a kill anywhere on the machine is evidence enough.
        let out_of_memory_kill =
            out_of_memory_kill.unwrap_or_else(|| self.host.out_of_memory_kills() > self.kills_before);
        let stderr_tail = tail(&self.log, self.log_from);
        // Read at most a second before the end, when the trainer still held what it had.
        let gpu_was_full = is_nearly_full(&self.readings.borrow(), &self.slot);
        let others = if may_lack_gpu_memory(kind) {
            read_again(self.readings, &self.slot).await
        } else {
            OtherUse::default()
        };
        let disk_is_short = self.config.disk_shortage().is_some();
        let gpu_taken = others.taken;
        Exit { kind, out_of_memory_kill, stderr_tail, bad_lines, gpu_was_full, gpu_taken, disk_is_short }
    }
}

/// Whether a GPU whose memory is full may be why a trainer ended like this.
const fn may_lack_gpu_memory(kind: ExitKind) -> bool {
    match kind {
        ExitKind::Code(code) => !matches!(code, exit_code::DONE | exit_code::BAD_SPEC | exit_code::STOPPED),
        ExitKind::Signal(signal) => signal == Signal::SIGABRT as i32,
    }
}

/// Whether next to nothing of the GPU's memory was free when it was read last; not where nobody tells.
fn is_nearly_full(readings: &Readings, slot: &Slot) -> bool {
    let Slot::Gpu(uuid) = slot else { return false };
    let free = readings.gpu(uuid).and_then(|gpu| gpu.memory_free_mib);
    let total = readings.inventory.gpus.iter().find(|gpu| gpu.uuid == *uuid).map(|gpu| gpu.memory_total_mib);
    free.zip(total).is_some_and(|(free, total)| oom_words::is_nearly_full(free, total))
}

/// The last lines that a trainer wrote into `log` after `from`, on one line.
fn tail(log: &Path, from: u64) -> String {
    const BYTES: u64 = 4096;
    const LINES: usize = 5;
    let read = |path: &PathBuf| {
        let mut file = std::fs::File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(from.max(length.saturating_sub(BYTES))))?;
        let mut bytes = Vec::new();
        file.take(BYTES).read_to_end(&mut bytes)?;
        std::io::Result::Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read(&log.to_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(LINES)..].join(" | ")
}

#[cfg(test)]
mod tests {
    use trainyard_types::{Gpu, GpuTelemetry, GpuUuid, Inventory};

    use super::*;

    #[test]
    fn a_gpu_is_full_by_what_was_read_last_and_not_where_nobody_tells() {
        let uuid = GpuUuid("GPU-1".into());
        let readings = |free| {
            let gpu = Gpu {
                uuid: uuid.clone(),
                index: 0,
                model: "NVIDIA GeForce RTX 4090".into(),
                memory_total_mib: 24_564,
                compute_capability: None,
            };
            let told = GpuTelemetry { uuid: uuid.clone(), memory_free_mib: free, ..GpuTelemetry::default() };
            let inventory = Inventory { gpus: vec![gpu], ..Inventory::default() };
            Readings { inventory, telemetry: vec![told], ..Readings::default() }
        };
        let full = |free| is_nearly_full(&readings(free), &Slot::Gpu(uuid.clone()));
        assert_eq!([full(Some(60)), full(Some(9_000)), full(None)], [true, false, false]);
        assert!(!is_nearly_full(&readings(Some(60)), &Slot::Cpu(0)));
        assert!(!is_nearly_full(&readings(Some(60)), &Slot::Gpu(GpuUuid("GPU-2".into()))));
    }
}

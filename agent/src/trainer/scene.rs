//! What a trainer leaves behind that tells how it ended: its last words, whom the kernel killed, who else is on its
//! GPU, how full the disk is.

use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use trainyard_types::Slot;

use super::child::Gone;
use super::watch::{Watch, watch};
use crate::core::Exit;
use crate::others::{self, Others};
use crate::prepare::Workshop;

/// Where a trainer runs, from just before its start.
pub struct Scene {
    workshop: Workshop,
    slot: Slot,
    log: PathBuf,
    /// Bytes of the log that others have written.
    log_from: u64,
    kills_before: u64,
}

impl Scene {
    /// Of a trainer that is about to start on `slot` and writes into `log`.
    pub fn new(workshop: &Workshop, slot: Slot, log: PathBuf) -> Self {
        let log_from = std::fs::metadata(&log).map_or(0, |metadata| metadata.len());
        let kills_before = workshop.host.out_of_memory_kills();
        Self { workshop: workshop.clone(), slot, log, log_from, kills_before }
    }

    /// Follows the trainer, then tells how it ended.
    pub async fn exit(self, started: Watch) -> Exit {
        let (Gone { kind, out_of_memory_kill }, bad_lines) = watch(started).await;
        // Without a control group of its own, a kill anywhere on the machine is evidence enough.
        let out_of_memory_kill = out_of_memory_kill
            .unwrap_or_else(|| self.workshop.host.out_of_memory_kills() > self.kills_before);
        let stderr_tail = tail(&self.log, self.log_from);
        let others = if kind.may_lack_memory() {
            others::look(self.workshop.cards.clone(), &self.slot).await
        } else {
            Others::default()
        };
        let disk_is_short = self.workshop.disk_shortage().is_some();
        let card_taken = others.taken;
        Exit { kind, out_of_memory_kill, stderr_tail, bad_lines, card_taken, disk_is_short }
    }
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

//! Changes the number of loader workers of running trainers.

use trainyard_types::trainer::{LogLevel, TrainerControl};
use trainyard_types::{AttemptId, Time};

use super::attempt::State;
use super::{Command, Core, log};
use crate::host::loader_workers::WorkerChange;
use crate::message::HostReading;

impl Core {
    /// Takes a reading of the machine. Where memory runs out, trainers give up workers before the kernel kills one.
    pub(super) fn on_host(&mut self, now: Time, reading: HostReading, out: &mut Vec<Command>) {
        self.host = reading;
        if !self.pressure.observe(now, &reading) {
            return;
        }
        for (id, attempt) in &mut self.attempts {
            if matches!(attempt.state, State::Running) {
                change_workers(now, *id, attempt.worker_tuner.on_pressure(), LogLevel::Warning, out);
            }
        }
    }
}

/// Asks a trainer for another number of workers, and tells its user why.
pub(super) fn change_workers(
    now: Time,
    id: AttemptId,
    change: Option<WorkerChange>,
    level: LogLevel,
    out: &mut Vec<Command>,
) {
    if let Some(WorkerChange { workers, reason }) = change {
        out.push(log(id, now, level, reason));
        out.push(Command::Control(id, TrainerControl::Workers { workers }));
    }
}

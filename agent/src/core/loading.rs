//! What trainers are asked for while they load images.

use trainyard_types::trainer::{LogLevel, TrainerControl};
use trainyard_types::{AttemptId, Time};

use super::attempt::State;
use super::{Command, Core, log};
use crate::host::Reading;
use crate::host::loading::Change;

impl Core {
    /// Loading gives up memory before the kernel takes it.
    pub(super) fn on_host(&mut self, now: Time, reading: Reading, out: &mut Vec<Command>) {
        self.host = reading;
        if !self.pressure.observe(now, &reading) {
            return;
        }
        for (id, attempt) in &mut self.attempts {
            if matches!(attempt.state, State::Running) {
                change_workers(now, *id, attempt.loading.on_pressure(), LogLevel::Warning, out);
            }
        }
    }
}

/// Asks a trainer for another number of workers, and tells its user why.
pub(super) fn change_workers(
    now: Time,
    id: AttemptId,
    change: Option<Change>,
    level: LogLevel,
    out: &mut Vec<Command>,
) {
    if let Some(Change { workers, reason }) = change {
        out.push(log(id, now, level, reason));
        out.push(Command::Control(id, TrainerControl::Workers { workers }));
    }
}

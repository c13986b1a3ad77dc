//! Machines that are up and connected, and have a fault, which must never be charged to a job.

use trainyard_types::{EndReason, Unfit, UnfitKind};

use crate::machine::PlannedEnd;
use crate::network::AgentMessage;
use crate::oracle::Violation;
use crate::world::{SimEvent, World};

/// Data sets that jobs name.
pub const DATA: [&str; 2] = ["/data/data.yaml", "/share/data.yaml"];

/// Data sets of the cluster's store that jobs name.
pub const STORED: [&str; 3] = [
    "cells@1111111111111111111111111111111111111111111111111111111111111111",
    "cells@2222222222222222222222222222222222222222222222222222222222222222",
    "cars@3333333333333333333333333333333333333333333333333333333333333333",
];

/// What is wrong with a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MachineFault {
    /// Its share is not mounted: it lacks that path.
    Lacks(String),
    /// Nothing starts there.
    NoTrainer,
    /// Trainers hang at their start, and are ended after a while.
    Hangs,
    /// Heartbeats pass, uploads do not.
    CannotUpload,
}

impl MachineFault {
    /// What becomes of an attempt with that data set instead of what would become of it elsewhere.
    pub fn planned_end(&self, data: &str) -> Option<PlannedEnd> {
        match self {
            Self::Lacks(path) if path == data => {
                let message = format!("{path} is not there");
                Some(PlannedEnd::Unfit(Unfit { kind: UnfitKind::PathMissing, path: path.clone(), message }))
            }
            Self::NoTrainer => {
                let message = "the trainer is not there".to_owned();
                Some(PlannedEnd::Unfit(Unfit {
                    kind: UnfitKind::TrainerMissing,
                    path: String::new(),
                    message,
                }))
            }
            Self::Hangs => Some(PlannedEnd::Hang(12)),
            Self::Lacks(_) | Self::CannotUpload => None,
        }
    }
}

/// Whether a machine alone is to blame for such an end.
pub fn is_machine_fault(reason: EndReason) -> bool {
    matches!(reason, EndReason::AgentUnfit | EndReason::Stalled)
}

impl World {
    /// A machine has a fault for a while. The first one stays healthy: it can run every job.
    pub(crate) fn start_machine_fault(&mut self, number: usize) {
        if number == 0 || !self.machines[number].up || self.machines[number].fault.is_some() {
            return;
        }
        let fault = match self.rng.below(5) {
            0 | 1 => MachineFault::Lacks(DATA[1].to_owned()),
            2 => MachineFault::NoTrainer,
            3 => MachineFault::Hangs,
            _ => MachineFault::CannotUpload,
        };
        self.summary.machine_faults += 1;
        self.machines[number].fault = Some(fault);
        self.event_queue.after(self.rng.millis(20_000, 200_000), SimEvent::Recovers(number));
    }

    /// The fault is over: the machine says so, and hands in what it could not.
    pub(crate) fn on_recovers(&mut self, number: usize) -> Result<(), Violation> {
        if self.machines[number].paused {
            self.retry_later(SimEvent::Recovers(number));
            return Ok(());
        }
        self.machines[number].fault = None;
        self.machines[number].missing.clear();
        let now = self.event_queue.now();
        let told = self.machines[number].hand_in(now);
        self.send_status(number);
        self.tell(number, told);
        Ok(())
    }

    /// The agent sends its status at once.
    pub(crate) fn send_status(&mut self, number: usize) {
        if let Some(id) = self.machines[number].connection {
            let status = self.machines[number].status();
            self.send_from_agent(id, AgentMessage::Heartbeat(status));
        }
    }
}

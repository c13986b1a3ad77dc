//! Machines that are up, connected, and not well: what is wrong with them must never be charged to a job.

use trainyard_types::{EndReason, Unfit, UnfitKind};

use crate::machine::Fate;
use crate::network::Said;
use crate::oracle::Violation;
use crate::world::{Happening, World};

/// Data sets that jobs name.
pub const DATA: [&str; 2] = ["/data/data.yaml", "/share/data.yaml"];

/// What is wrong with a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sickness {
    /// Its share is not mounted: it lacks that path.
    Lacks(String),
    /// Nothing starts there.
    NoTrainer,
    /// Trainers hang at their start, and are ended after a while.
    Hangs,
    /// Heartbeats pass, uploads do not.
    CannotUpload,
}

impl Sickness {
    /// What becomes of an attempt with that data set instead of what would become of it elsewhere.
    pub fn fate(&self, data: &str) -> Option<Fate> {
        match self {
            Self::Lacks(path) if path == data => {
                let message = format!("{path} is not there");
                Some(Fate::Unfit(Unfit { kind: UnfitKind::PathMissing, path: path.clone(), message }))
            }
            Self::NoTrainer => {
                let message = "the trainer is not there".to_owned();
                Some(Fate::Unfit(Unfit { kind: UnfitKind::TrainerMissing, path: String::new(), message }))
            }
            Self::Hangs => Some(Fate::Hang(12)),
            Self::Lacks(_) | Self::CannotUpload => None,
        }
    }
}

/// Whether a machine alone is to blame for such an end.
pub fn is_machines(reason: EndReason) -> bool {
    matches!(reason, EndReason::AgentUnfit | EndReason::Stalled)
}

impl World {
    /// A machine is not well for a while. The first one stays well: it can run every job.
    pub(crate) fn sicken(&mut self, number: usize) {
        if number == 0 || !self.machines[number].up || self.machines[number].sickness.is_some() {
            return;
        }
        let sickness = match self.rng.below(5) {
            0 | 1 => Sickness::Lacks(DATA[1].to_owned()),
            2 => Sickness::NoTrainer,
            3 => Sickness::Hangs,
            _ => Sickness::CannotUpload,
        };
        self.summary.sicknesses += 1;
        self.machines[number].sickness = Some(sickness);
        self.agenda.after(self.rng.millis(20_000, 200_000), Happening::Recovers(number));
    }

    /// It is well again, says so, and hands in what it could not.
    pub(crate) fn on_recovers(&mut self, number: usize) -> Result<(), Violation> {
        if self.machines[number].paused {
            self.again(Happening::Recovers(number));
            return Ok(());
        }
        self.machines[number].sickness = None;
        self.machines[number].missing.clear();
        let now = self.agenda.now();
        let told = self.machines[number].hand_in(now);
        self.say_status(number);
        self.tell(number, told);
        Ok(())
    }

    /// It says at once how it is.
    pub(crate) fn say_status(&mut self, number: usize) {
        if let Some(id) = self.machines[number].connection {
            let status = self.machines[number].status();
            self.say(id, Said::Heartbeat(status));
        }
    }
}

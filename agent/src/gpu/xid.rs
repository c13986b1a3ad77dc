//! What the driver's errors (XIDs) mean for the GPU and for the attempt on it, after NVIDIA's catalogue.

use super::reading::RecoveryAction;

/// One row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// In words.
    pub meaning: &'static str,
    /// What follows.
    pub effect: Effect,
}

/// See [`Policy`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Counted and logged, no more.
    Note,
    /// What the process did was wrong: the attempt is tried again, and that counts against its job.
    JobsFault,
    /// The process was hit by what it could not help: the attempt is tried again for free.
    RetryForFree,
    /// The GPU takes no job until it has passed a test.
    Quarantine(Comeback),
    /// The driver says what is to be done.
    AskDriver,
}

/// How a GPU leaves quarantine, other than by `yard agents … clear`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Comeback {
    /// By passing a test after a while.
    SelfTest,
    /// The same; its owner is asked to reset it before.
    Reset,
    /// By a restart of the machine.
    Reboot,
}

/// The row of `xid`.
pub const fn policy(xid: u64) -> Policy {
    let (meaning, effect) = match xid {
        13 => ("graphics engine exception", Effect::JobsFault),
        31 => ("memory page fault", Effect::JobsFault),
        43 => ("the GPU stopped processing", Effect::JobsFault),
        48 => ("double-bit memory error", Effect::Quarantine(Comeback::SelfTest)),
        79 => ("the GPU has fallen off the bus", Effect::Quarantine(Comeback::Reboot)),
        94 => ("contained memory error", Effect::RetryForFree),
        119 => ("timeout of the GPU's system processor", Effect::Quarantine(Comeback::Reset)),
        154 => ("the driver wants another recovery action", Effect::AskDriver),
        _ => ("an error that says nothing of the job", Effect::Note),
    };
    Policy { meaning, effect }
}

/// What follows from the action that the driver names.
pub const fn effect_of(action: Option<RecoveryAction>) -> Effect {
    match action {
        Some(RecoveryAction::Reset) => Effect::Quarantine(Comeback::Reset),
        Some(RecoveryAction::Reboot) => Effect::Quarantine(Comeback::Reboot),
        Some(RecoveryAction::None) | None => Effect::Note,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_the_documented_one() {
        let effects = [13, 31, 43, 48, 79, 94, 119, 154, 45].map(|xid| policy(xid).effect);
        let quarantine = Effect::Quarantine;
        assert_eq!(
            effects,
            [
                Effect::JobsFault,
                Effect::JobsFault,
                Effect::JobsFault,
                quarantine(Comeback::SelfTest),
                quarantine(Comeback::Reboot),
                Effect::RetryForFree,
                quarantine(Comeback::Reset),
                Effect::AskDriver,
                Effect::Note,
            ]
        );
    }

    #[test]
    fn the_action_that_the_driver_names_is_followed() {
        assert_eq!(effect_of(Some(RecoveryAction::Reset)), Effect::Quarantine(Comeback::Reset));
        assert_eq!(effect_of(Some(RecoveryAction::Reboot)), Effect::Quarantine(Comeback::Reboot));
        assert_eq!([effect_of(Some(RecoveryAction::None)), effect_of(None)], [Effect::Note; 2]);
    }
}

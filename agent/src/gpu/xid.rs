//! What the driver's errors (XIDs) mean for the GPU and for the attempt on it, after NVIDIA's catalogue.

use super::reading::RecoveryAction;

/// What one error means, and what follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct XidPolicy {
    /// What the error is, in words.
    pub meaning: &'static str,
    /// What follows from it.
    pub effect: XidEffect,
}

/// What follows from an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XidEffect {
    /// It is counted and logged, no more.
    Note,
    /// What the process did was wrong: the attempt is tried again, and that counts against its job.
    JobsFault,
    /// The process was hit by what it could not help: the attempt is tried again for free.
    RetryForFree,
    /// The GPU takes no job until it has passed a test.
    Quarantine(ReleaseCondition),
    /// The driver says what is to be done.
    AskDriver,
}

/// What ends the quarantine of a GPU, other than `yard agents … clear`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReleaseCondition {
    /// It passes a test after a while.
    SelfTest,
    /// It passes a test after a while; a person is asked to reset it before.
    Reset,
    /// The machine is restarted.
    Reboot,
}

/// What error number `xid` means.
pub const fn policy(xid: u64) -> XidPolicy {
    let (meaning, effect) = match xid {
        13 => ("graphics engine exception", XidEffect::JobsFault),
        31 => ("memory page fault", XidEffect::JobsFault),
        43 => ("the GPU stopped processing", XidEffect::JobsFault),
        48 => ("double-bit memory error", XidEffect::Quarantine(ReleaseCondition::SelfTest)),
        79 => ("the GPU has fallen off the bus", XidEffect::Quarantine(ReleaseCondition::Reboot)),
        94 => ("contained memory error", XidEffect::RetryForFree),
        119 => ("timeout of the GPU's system processor", XidEffect::Quarantine(ReleaseCondition::Reset)),
        154 => ("the driver wants another recovery action", XidEffect::AskDriver),
        _ => ("an error that says nothing of the job", XidEffect::Note),
    };
    XidPolicy { meaning, effect }
}

/// What follows from the action that the driver names.
pub const fn effect_of(action: Option<RecoveryAction>) -> XidEffect {
    match action {
        Some(RecoveryAction::Reset) => XidEffect::Quarantine(ReleaseCondition::Reset),
        Some(RecoveryAction::Reboot) => XidEffect::Quarantine(ReleaseCondition::Reboot),
        Some(RecoveryAction::None) | None => XidEffect::Note,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_the_documented_one() {
        let effects = [13, 31, 43, 48, 79, 94, 119, 154, 45].map(|xid| policy(xid).effect);
        let quarantine = XidEffect::Quarantine;
        assert_eq!(
            effects,
            [
                XidEffect::JobsFault,
                XidEffect::JobsFault,
                XidEffect::JobsFault,
                quarantine(ReleaseCondition::SelfTest),
                quarantine(ReleaseCondition::Reboot),
                XidEffect::RetryForFree,
                quarantine(ReleaseCondition::Reset),
                XidEffect::AskDriver,
                XidEffect::Note,
            ]
        );
    }

    #[test]
    fn the_action_that_the_driver_names_is_followed() {
        assert_eq!(effect_of(Some(RecoveryAction::Reset)), XidEffect::Quarantine(ReleaseCondition::Reset));
        assert_eq!(effect_of(Some(RecoveryAction::Reboot)), XidEffect::Quarantine(ReleaseCondition::Reboot));
        assert_eq!([effect_of(Some(RecoveryAction::None)), effect_of(None)], [XidEffect::Note; 2]);
    }
}

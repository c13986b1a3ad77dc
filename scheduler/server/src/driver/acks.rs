//! Acknowledgements on their way to agents.

use std::collections::BTreeMap;

use trainyard_scheduler_core::Command;
use trainyard_types::{AttemptId, Session};

/// One acknowledgement says all that earlier ones of the same attempt did.
pub(super) fn without_old_acks(commands: Vec<Command>) -> Vec<Command> {
    let mut newest: BTreeMap<(Session, AttemptId), u64> = BTreeMap::new();
    for command in &commands {
        if let Command::Ack { session, attempt, sequence, .. } = command {
            let known = newest.entry((*session, *attempt)).or_default();
            *known = (*known).max(*sequence);
        }
    }
    let mut commands = commands;
    commands.retain(|command| match command {
        Command::Ack { session, attempt, sequence, .. } => {
            // A repeat is not said twice either.
            let is_newest = newest.get(&(*session, *attempt)) == Some(sequence);
            is_newest && newest.remove(&(*session, *attempt)).is_some()
        }
        _ => true,
    });
    commands
}

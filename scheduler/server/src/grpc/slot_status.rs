//! How machines, GPUs and CPU slots are, in words: the ones that every client shows.

use trainyard_proto::pb;
use trainyard_scheduler_core::{AgentState, AgentView, Closed};
use trainyard_types::Slot;

/// A machine, in a word.
pub fn of_agent(view: &AgentView<'_>) -> &'static str {
    match view.state {
        AgentState::Connected if view.record.drain.is_some() => "drained",
        AgentState::Connected if !view.status.unavailable.is_empty() => "closed",
        AgentState::Connected => "connected",
        AgentState::Disconnected => "disconnected",
        AgentState::Lost => "lost",
    }
}

/// A slot, in a word or two, and why, where it takes no job. `unavailable`: what its agent or the scheduler has against it.
pub fn of(
    view: &AgentView<'_>,
    slot: &Slot,
    unavailable: Option<&pb::Unavailable>,
) -> (&'static str, String) {
    if view.state != AgentState::Connected {
        return ("away", "its agent is not connected".to_owned());
    }
    let own = match view.closed(slot) {
        Some(Closed::Drained) => {
            ("drained", "its machine was drained, and takes jobs again once it is resumed".to_owned())
        }
        Some(Closed::Agent(why)) => ("closed", why.to_owned()),
        Some(Closed::Reserved(_)) => ("reserved", "it is reserved for its owner".to_owned()),
        Some(Closed::HandingIn(1)) => {
            ("handing in", "the results of an attempt wait on its machine".to_owned())
        }
        Some(Closed::HandingIn(count)) => {
            ("handing in", format!("the results of {count} attempts wait on its machine"))
        }
        Some(Closed::Cooldown(_)) => {
            ("cooling down", "an attempt on it failed a moment ago; it is tried again soon".to_owned())
        }
        Some(Closed::Gpu(_) | Closed::Duplicate(_) | Closed::QuickEnds(_)) | None => match unavailable {
            Some(unavailable) => (word(unavailable.cause()), unavailable.message.clone()),
            None => ("free", String::new()),
        },
    };
    // What runs there still runs, whatever comes next.
    let is_open = own.0 == "free" || own.0 == "cooling down";
    if is_open && view.job_on(slot).is_some() { ("busy", String::new()) } else { own }
}

/// A reason, or else what slows a GPU down.
pub fn or_throttle(reason: String, throttle_reasons: &[String]) -> String {
    if reason.is_empty() && !throttle_reasons.is_empty() {
        return format!("its clock is held down: {}", throttle_reasons.join(", "));
    }
    reason
}

const fn word(cause: pb::unavailable::Cause) -> &'static str {
    use pb::unavailable::Cause;
    match cause {
        Cause::ForeignUse => "in use",
        Cause::Owner => "owner",
        Cause::Quarantined | Cause::Unspecified => "quarantined",
        Cause::Unsupported => "unsupported",
        Cause::SelfTest => "not proved",
        Cause::Duplicate => "duplicate",
        Cause::Stuck => "stuck",
        Cause::QuickEnds => "quick ends",
    }
}

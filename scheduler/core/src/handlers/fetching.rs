//! Data sets and weights on their way to an attempt's machine.

use trainyard_types::trainer::LogLevel;
use trainyard_types::{AttemptId, Fetching, JobState, Time};

use crate::changes::Changes;
use crate::record::{EventBody, JobRecord};

/// More of what an attempt needs has come. The first and the last word of each are events, those between are seen
/// in the job's state.
pub(super) fn on_fetching(job: &mut JobRecord, time: Time, id: AttemptId, told: Fetching, out: &mut Changes) {
    let cancelled = job.cancel_requested;
    let Some(attempt) = job.live_attempt_mut() else { return };
    let message = format!("agent `{}` fetches {}", attempt.agent_name, told.in_words());
    let is_first = attempt.fetching.as_ref().is_none_or(|before| before.what != told.what);
    let is_whole = told.is_whole();
    attempt.fetching = Some(told);
    if is_first || is_whole {
        let body = EventBody::Log { level: LogLevel::Info, message: message.clone() };
        out.event(job, time, id.number, body);
    }
    if job.state == JobState::Starting {
        job.state_reason = if cancelled { format!("its user cancelled it; {message}") } else { message };
    }
    out.touch(id.job);
}

//! Stored records as text, and what makes one readable.

use serde::de::DeserializeOwned;
use trainyard_scheduler_core::{AgentRecord, JobRecord};
use trainyard_types::JobState;

fn parse_json<T: DeserializeOwned>(json: &str) -> Result<T, String> {
    serde_json::from_str(json).map_err(|error| error.to_string())
}

/// `REVISION JSON`: a job's record must be stored under its own id and revision, and make sense.
pub fn parse_job(field: &str, value: &str) -> Result<JobRecord, String> {
    let (revision, json) = value.split_once(' ').ok_or("has no revision")?;
    let record: JobRecord = parse_json(json)?;
    if record.id.to_string() != field || record.revision.to_string() != revision {
        return Err(format!("is job {} at revision {}", record.id, record.revision));
    }
    check(&record)?;
    Ok(record)
}

/// What the core takes for granted of a record, and a hand that edits it may break.
fn check(record: &JobRecord) -> Result<(), String> {
    for (at, attempt) in record.attempts.iter().enumerate() {
        if attempt.id.job != record.id || usize::try_from(attempt.id.number) != Ok(at + 1) {
            return Err(format!("has attempt {} at place {}", attempt.id, at + 1));
        }
    }
    let live = record.attempts.iter().filter(|attempt| attempt.ended.is_none()).count();
    let newest_lives = record.live_attempt().is_some();
    let expected = matches!(record.state, JobState::Starting | JobState::Running);
    if (live, newest_lives) == (usize::from(expected), expected) {
        Ok(())
    } else {
        Err(format!("is {} with {live} live attempts", record.state))
    }
}

/// An agent's record must be stored under its own id.
pub fn parse_agent(field: &str, value: &str) -> Result<AgentRecord, String> {
    let record: AgentRecord = parse_json(value)?;
    if record.id.to_string() == field { Ok(record) } else { Err(format!("is agent {}", record.id)) }
}

//! Stored records as text, what makes one readable, and how jobs are put together from their parts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::de::DeserializeOwned;
use trainyard_scheduler_core::{
    AgentRecord, JobGroupRecord, JobRecord, JobStatusRecord, ProgressRecord, StoredJobGroup, Submission,
    ThroughputRecord, UserRecord,
};
use trainyard_types::{JobId, JobState};

use super::keys;

/// The highest number that is believed: beyond it JSON's numbers are not exact any more, and the core, which
/// counts on from what it reads, comes to the end of its own.
const MOST: u64 = 1 << 53;

fn believable(name: &str, number: u64) -> Result<(), String> {
    if number <= MOST { Ok(()) } else { Err(format!("has {name} {number}, more than {MOST}")) }
}

fn parse_json<T: DeserializeOwned>(json: &str) -> Result<T, String> {
    serde_json::from_str(json).map_err(|error| error.to_string())
}

/// `REVISION JSON`: where a job stands, stored under its own id and revision.
pub fn parse_status(field: &str, value: &str) -> Result<JobStatusRecord<'static>, String> {
    let (revision, json) = value.split_once(' ').ok_or("has no revision")?;
    let status: JobStatusRecord<'static> = parse_json(json)?;
    if status.id.to_string() != field || status.revision.to_string() != revision {
        return Err(format!("is job {} at revision {}", status.id, status.revision));
    }
    Ok(status)
}

/// What was submitted.
pub fn parse_submission(field: &str, value: &str) -> Result<JobRecord, String> {
    let id = field.parse().map_err(|_| "is under no job id")?;
    Ok(JobRecord::submitted(id, parse_json::<Submission<'static>>(value)?))
}

/// How far a job has come.
pub fn parse_progress(field: &str, value: &str) -> Result<ProgressRecord, String> {
    let progress: ProgressRecord = parse_json(value)?;
    believable("last_sequence", progress.last_sequence)?;
    believable("last_cursor", progress.last_cursor)?;
    if progress.job.to_string() == field { Ok(progress) } else { Err(format!("is of job {}", progress.job)) }
}

/// A user's record must be stored under its name.
pub fn parse_user(field: &str, value: &str) -> Result<UserRecord, String> {
    let user: UserRecord = parse_json(value)?;
    believable("typical_run", user.typical_run.unwrap_or(0))?;
    if user.name == field { Ok(user) } else { Err(format!("is user {}", user.name)) }
}

/// What was learned must be stored under its own key.
pub fn parse_throughput(field: &str, value: &str) -> Result<ThroughputRecord, String> {
    let record: ThroughputRecord = parse_json(value)?;
    if let ThroughputRecord::Data(data) = &record {
        believable("seen", data.seen)?;
        believable("images", data.images)?;
    }
    if record.key() == field { Ok(record) } else { Err(format!("is `{}`", record.key())) }
}

/// A job group must be stored under its own id, and have jobs.
pub fn parse_group(field: &str, value: &str) -> Result<Arc<JobGroupRecord>, String> {
    let group = JobGroupRecord::from(parse_json::<StoredJobGroup>(value)?);
    if group.id.to_string() != field {
        return Err(format!("is job group {}", group.id));
    }
    if group.is_empty() { Err("has no jobs".to_owned()) } else { Ok(Arc::new(group)) }
}

/// A job that has expired.
pub fn parse_forgotten(field: &str, _value: &str) -> Result<JobId, String> {
    field.parse().map_err(|_| "is no job id".to_owned())
}

/// An agent's record must be stored under its own id.
pub fn parse_agent(field: &str, value: &str) -> Result<AgentRecord, String> {
    let record: AgentRecord = parse_json(value)?;
    if record.id.to_string() == field { Ok(record) } else { Err(format!("is agent {}", record.id)) }
}

/// The parts of all jobs.
#[derive(Debug, Default)]
pub struct Parts {
    pub submitted: Vec<JobRecord>,
    pub groups: Vec<Arc<JobGroupRecord>>,
    pub forgotten: BTreeSet<JobId>,
    pub statuses: Vec<JobStatusRecord<'static>>,
    pub progress: Vec<ProgressRecord>,
}

/// A field that is readable, but not together with the others: its hash, its name, and why.
pub type Unfit = (&'static str, String, String);

impl Parts {
    /// The jobs, by id, and what does not fit.
    pub fn put_together(self) -> (Vec<JobRecord>, Vec<Unfit>) {
        let mut begun: BTreeMap<JobId, JobRecord> =
            self.submitted.into_iter().map(|job| (job.id, job)).collect();
        let of_groups = self.groups.iter().flat_map(JobGroupRecord::jobs);
        begun.extend(of_groups.filter(|job| !self.forgotten.contains(&job.id)).map(|job| (job.id, job)));
        let mut unfit = Vec::new();
        let mut jobs = BTreeMap::new();
        for status in self.statuses {
            let id = status.id;
            let job = begun.remove(&id).ok_or_else(|| "nothing is stored of its submission".to_owned());
            match job.map(|job| job.at(status)).and_then(|job| check(&job).map(|()| job)) {
                Ok(job) => drop(jobs.insert(id, job)),
                Err(cause) => unfit.push((keys::JOBS, id.to_string(), cause)),
            }
        }
        for progress in self.progress {
            if let Some(job) = jobs.get_mut(&progress.job) {
                job.apply_progress(progress);
            }
        }
        // Nothing has happened yet to these. A job that came alone always has a status, unless somebody
        // has removed that.
        jobs.extend(begun.into_iter().filter(|(_, job)| job.group.is_some()));
        (jobs.into_values().collect(), unfit)
    }
}

/// What the core takes for granted of a record, and a hand that edits it may break.
fn check(record: &JobRecord) -> Result<(), String> {
    believable("revision", record.revision)?;
    believable("last_cursor", record.last_cursor)?;
    for attempt in &record.attempts {
        believable("last_sequence", attempt.last_sequence)?;
    }
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

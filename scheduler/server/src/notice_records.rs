//! What is stored of webhooks, and of what they are called for.

use serde::{Deserialize, Serialize};
use trainyard_scheduler_core::{EventBody, EventRecord, JobRecord};
use trainyard_types::{JobId, JobState, Time};
use uuid::Uuid;

/// The metric that says how good a model is.
const MAP: &str = "metrics/mAP50-95(B)";
/// Longest text that is kept of a job's reason, in characters: a message is no log.
const REASON_CHARS: usize = 500;

/// The form in which a webhook takes messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WebhookKind {
    Slack,
    Mattermost,
    Discord,
    Ntfy,
    Json,
}

/// What a webhook is called for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Occasion {
    /// A job is over, whatever the way.
    Ended,
    /// A job failed.
    Failed,
    /// A job waits for longer than was expected.
    Waiting,
}

/// A webhook, as its user made it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WebhookRecord {
    pub id: Uuid,
    /// Whose jobs it is called for.
    pub user: String,
    pub url: String,
    pub kind: WebhookKind,
    pub on: Vec<Occasion>,
    /// What each call is signed with.
    pub secret: String,
    pub created: Time,
}

/// How the calls of a webhook go.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct WebhookState {
    /// The last notice that is done with; those after it are to be sent.
    pub cursor: String,
    /// Calls in a row that failed.
    #[serde(default)]
    pub failures: u32,
    /// When the first of them failed.
    #[serde(default)]
    pub failing_since: Option<Time>,
    /// Why the last of them failed.
    #[serde(default)]
    pub problem: String,
    /// When it last took a message.
    #[serde(default)]
    pub delivered: Option<Time>,
    /// When it had failed for too long.
    #[serde(default)]
    pub given_up: Option<Time>,
}

/// Something that a user may be told of. It says all that a message needs: the job may be forgotten by the time that a
/// webhook answers again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NoticeRecord {
    pub occasion: NoticeKind,
    pub user: String,
    pub job: JobId,
    pub name: String,
    pub state: JobState,
    /// Why the job is in this state, a sentence.
    pub reason: String,
    /// Names the event among those of the job.
    pub cursor: u64,
    pub time: Time,
    /// The newest accuracy, mAP50-95; of a job that succeeded that of its best weights.
    #[serde(default)]
    pub accuracy: Option<f64>,
    /// How long it ran, or has waited, in seconds.
    #[serde(default)]
    pub seconds: Option<f64>,
}

/// The event of a job that is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoticeKind {
    Ended,
    Waiting,
    Test,
}

impl WebhookRecord {
    /// Whether it is to be called for this.
    pub fn wants(&self, notice: &NoticeRecord) -> bool {
        let occasions = match notice.occasion {
            NoticeKind::Ended if notice.state == JobState::Failed => [Occasion::Ended, Occasion::Failed],
            NoticeKind::Ended => [Occasion::Ended; 2],
            NoticeKind::Waiting => [Occasion::Waiting; 2],
            NoticeKind::Test => return true,
        };
        self.user == notice.user && occasions.iter().any(|occasion| self.on.contains(occasion))
    }
}

impl NoticeRecord {
    /// What an event of a job, in the state after it, is worth telling its user.
    pub fn of(job: &JobRecord, event: &EventRecord) -> Option<Self> {
        let EventBody::State { state, reason } = &event.body else { return None };
        if !state.is_final() {
            return None;
        }
        let ran = job.started.map(|started| event.time.since(started).as_secs_f64());
        Some(Self {
            occasion: NoticeKind::Ended,
            user: job.user.to_string(),
            job: job.id,
            name: job.full_spec().name.clone(),
            state: *state,
            reason: reason.chars().take(REASON_CHARS).collect(),
            cursor: event.cursor,
            time: event.time,
            accuracy: job.progress.as_ref().and_then(|progress| progress.metrics.get(MAP)).copied(),
            seconds: ran,
        })
    }

    /// That a job still waits at `now`.
    pub fn waiting(job: &JobRecord, reason: &str, now: Time) -> Self {
        Self {
            occasion: NoticeKind::Waiting,
            user: job.user.to_string(),
            job: job.id,
            name: job.full_spec().name.clone(),
            state: job.state,
            reason: reason.chars().take(REASON_CHARS).collect(),
            cursor: job.last_cursor,
            time: now,
            accuracy: None,
            seconds: Some(now.since(job.created).as_secs_f64()),
        }
    }

    /// A message for trying a webhook.
    pub fn test(user: &str, now: Time) -> Self {
        Self {
            occasion: NoticeKind::Test,
            user: user.to_owned(),
            job: JobId(Uuid::nil()),
            name: String::new(),
            state: JobState::Queued,
            reason: String::new(),
            cursor: now.0,
            time: now,
            accuracy: None,
            seconds: None,
        }
    }

    /// What has happened, as it is written on the wire.
    pub const fn event(&self) -> &'static str {
        match (self.occasion, self.state) {
            (NoticeKind::Test, _) => "test",
            (NoticeKind::Waiting, _) => "waiting",
            (NoticeKind::Ended, JobState::Failed) => "failed",
            (NoticeKind::Ended, _) => "ended",
        }
    }

    /// The same for each try, so that a receiver knows what it has had.
    pub fn id(&self) -> String {
        format!("{}-{}-{}", self.job, self.cursor, self.event())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use trainyard_types::{JobSpec, ModelScale, TrainSpec};

    fn job() -> JobRecord {
        let spec =
            JobSpec { name: "cells".into(), ..JobSpec::new(TrainSpec::new(ModelScale::N, "/data/d.yaml")) };
        let queued = JobRecord::queued(JobId(Uuid::from_u128(1)), "ada".into(), spec.into(), Time(5));
        JobRecord { started: Some(Time(1_000)), ..queued }
    }

    fn state(state: JobState) -> EventRecord {
        let body = EventBody::State { state, reason: "because".into() };
        EventRecord { cursor: 7, time: Time(61_000), attempt: 1, body }
    }

    fn webhook(on: &[Occasion]) -> WebhookRecord {
        WebhookRecord {
            id: Uuid::from_u128(2),
            user: "ada".into(),
            url: "http://x/".into(),
            kind: WebhookKind::Json,
            on: on.to_vec(),
            secret: "s".into(),
            created: Time(1),
        }
    }

    #[test]
    fn final_states_are_told_with_how_long_the_job_ran_and_others_are_not() {
        assert_eq!(NoticeRecord::of(&job(), &state(JobState::Running)), None);
        let told = NoticeRecord::of(&job(), &state(JobState::Failed)).unwrap();
        assert_eq!((told.seconds, told.event(), told.cursor), (Some(60.0), "failed", 7));
        assert_eq!(told.id(), "00000000-0000-0000-0000-000000000001-7-failed");
        let text = serde_json::to_string(&told).unwrap();
        assert_eq!(serde_json::from_str::<NoticeRecord>(&text).unwrap(), told);
    }

    #[test]
    fn a_webhook_is_called_for_what_its_user_wants_and_for_nobody_elses_jobs() {
        let failed = NoticeRecord::of(&job(), &state(JobState::Failed)).unwrap();
        let cancelled = NoticeRecord::of(&job(), &state(JobState::Cancelled)).unwrap();
        let waits = NoticeRecord::waiting(&job(), "busy", Time(9));
        let table = [
            (Occasion::Ended, [true, true, false]),
            (Occasion::Failed, [true, false, false]),
            (Occasion::Waiting, [false, false, true]),
        ];
        for (on, expected) in table {
            let webhook = webhook(&[on]);
            assert_eq!([&failed, &cancelled, &waits].map(|notice| webhook.wants(notice)), expected, "{on:?}");
        }
        let others = NoticeRecord { user: "bob".into(), ..failed };
        assert!(!webhook(&[Occasion::Ended]).wants(&others));
    }
}

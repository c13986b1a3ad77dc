//! Whose turn it is, worked out anew from what was written: an oracle for the core's fair share.
//!
//! Must not know the core's own accounts. It follows which attempts begin and end, and integrates.

use std::collections::BTreeMap;
use std::time::Duration;

use trainyard_scheduler_core::{CoreConfig, JobRecord, STAKE};
use trainyard_types::{AgentId, AttemptId, DeviceKind, JobId, JobState, Time};

use crate::oracle::Violation;

/// A retry's time that has come is noticed with the next tick; an event may come just before that.
const NOTICED: Duration = Duration::from_millis(100);
/// Milliseconds by which two ways to round may differ, for one second of weight.
const TOLERANCE: f64 = 1000.0;

#[derive(Debug, Clone, Default)]
struct Account {
    used: f64,
    as_of: Option<Time>,
    gpus: f64,
}

impl Account {
    fn advance(&mut self, now: Time, half_life: f64) {
        let span = self.as_of.map_or(0.0, |as_of| now.since(as_of).as_secs_f64() * 1000.0);
        let kept = 0.5_f64.powf(span / half_life);
        self.used = self.used * kept + self.gpus * half_life / std::f64::consts::LN_2 * (1.0 - kept);
        self.as_of = Some(self.as_of.map_or(now, |as_of| as_of.max(now)));
    }
}

/// The accounts of all users.
#[derive(Debug, Default)]
pub struct Fairness {
    accounts: BTreeMap<String, Account>,
    running: BTreeMap<AttemptId, (String, f64)>,
}

/// A job that an event has placed.
struct BegunJob<'a> {
    job: &'a JobRecord,
    /// What its user had had before that event.
    share: f64,
}

fn weight_of(job: &JobRecord) -> f64 {
    if job.spec.resources.device == DeviceKind::Gpu { 1.0 } else { 0.1 }
}

impl Fairness {
    /// Takes in what one event wrote. `jobs` is what is stored after it.
    pub fn written(
        &mut self,
        config: &CoreConfig,
        now: Time,
        written: &[JobRecord],
        jobs: &BTreeMap<JobId, JobRecord>,
        lacks: impl Fn(AgentId, &JobRecord) -> bool,
    ) -> Result<(), Violation> {
        let half_life = config.share_half_life.as_secs_f64() * 1000.0;
        for job in written {
            for attempt in job.attempts.iter().filter(|attempt| !attempt.holds_slots()) {
                if let Some((user, weight)) = self.running.remove(&attempt.id) {
                    let account = self.accounts.entry(user).or_default();
                    account.advance(now, half_life);
                    account.gpus -= weight;
                }
            }
        }
        // The order within one event is not written down. So a user's share is taken from before the event,
        // and that of those who were passed over from after it.
        let is_new = |job: &&JobRecord| {
            job.live_attempt()
                .is_some_and(|attempt| attempt.holds_slots() && !self.running.contains_key(&attempt.id))
        };
        let begun: Vec<BegunJob<'_>> = written
            .iter()
            .filter(is_new)
            .map(|job| BegunJob { job, share: self.share(config, now, half_life, &job.user) })
            .collect();
        for BegunJob { job, .. } in &begun {
            let Some(attempt) = job.live_attempt() else { continue };
            let (user, weight) = (job.user.to_string(), weight_of(job));
            let account = self.accounts.entry(user.clone()).or_default();
            account.advance(now, half_life);
            account.gpus += weight;
            self.running.insert(attempt.id, (user, weight));
        }
        for begun in begun {
            self.check(config, now, half_life, begun, jobs, &lacks)?;
        }
        Ok(())
    }

    fn share(&self, config: &CoreConfig, now: Time, half_life: f64, user: &str) -> f64 {
        let mut account = self.accounts.get(user).cloned().unwrap_or_default();
        account.advance(now, half_life);
        let weight = config.users.get(user).unwrap_or(&config.user_limits).weight;
        let stake = STAKE as f64;
        (account.used + account.gpus * stake) / f64::from(weight)
    }

    /// Nobody who could have begun instead, with the same request and priority, has had less.
    fn check(
        &self,
        config: &CoreConfig,
        now: Time,
        half_life: f64,
        BegunJob { job, share }: BegunJob<'_>,
        jobs: &BTreeMap<JobId, JobRecord>,
        lacks: &impl Fn(AgentId, &JobRecord) -> bool,
    ) -> Result<(), Violation> {
        let agent = job.live_attempt().map(|attempt| attempt.agent);
        let passed_over = jobs.values().find(|other| {
            other.state == JobState::Queued
                && other.user != job.user
                && other.priority() == job.priority()
                && other.spec.resources == job.spec.resources
                && other.not_before.is_none_or(|time| time + NOTICED <= now)
                && !self.is_at_limit(config, other, jobs)
                && agent.is_none_or(|agent| !lacks(agent, other))
                && self.share(config, now, half_life, &other.user) + TOLERANCE < share
        });
        match passed_over {
            Some(other) => Err(Violation::Unfair { passed_over: other.id, instead: job.id }),
            None => Ok(()),
        }
    }

    fn is_at_limit(&self, config: &CoreConfig, job: &JobRecord, jobs: &BTreeMap<JobId, JobRecord>) -> bool {
        let limits = config.users.get(&*job.user).unwrap_or(&config.user_limits);
        job.spec.resources.device == DeviceKind::Gpu
            && limits.running_gpus.is_some_and(|most| gpus_of(&job.user, jobs) >= most)
    }

    /// A user was forgotten, and what it had had.
    pub fn forget_user(&mut self, user: &str) {
        self.accounts.remove(user);
    }
}

/// GPUs that a user's attempts hold.
pub fn gpus_of(user: &str, jobs: &BTreeMap<JobId, JobRecord>) -> u32 {
    let holds = |job: &&JobRecord| {
        *job.user == *user
            && job.spec.resources.device == DeviceKind::Gpu
            && job.live_attempt().is_some_and(|attempt| attempt.holds_slots())
    };
    u32::try_from(jobs.values().filter(holds).count()).unwrap_or(u32::MAX)
}

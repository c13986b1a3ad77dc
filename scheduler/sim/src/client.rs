//! Users: they submit until they are answered, and some change their minds.

use std::sync::Arc;
use std::time::Duration;

use trainyard_scheduler_core::{Axis, Content, Event, JobGroupRecord, Refusal, Subject, Sweep};
use trainyard_types::{
    DeviceKind, JobGroupId, JobId, JobSpec, ModelScale, Resources, Time, TrainPatch, TrainSpec,
};
use uuid::Uuid;

use crate::machine_fault::{DATA, STORED};
use crate::oracle::Violation;
use crate::rng::Rng;
use crate::world::{SimEvent, World};

#[derive(Debug)]
pub(crate) struct Client {
    request_id: String,
    user: &'static str,
    submission: Submission,
    /// What it was told that it has.
    pub(crate) jobs: Vec<JobId>,
}

#[derive(Debug)]
enum Submission {
    One(JobSpec),
    Many(Content),
}

impl World {
    pub(crate) fn on_submit(&mut self, number: usize) -> Result<(), Violation> {
        let client = &self.clients[number];
        if !client.jobs.is_empty() {
            return Ok(());
        }
        // The driver draws an id for each request; a repeat's is not used.
        let drawn = Uuid::from_u128(self.next_job << 96);
        self.next_job += 1;
        let (request_id, user) = (Some(client.request_id.clone()), client.user);
        let event = match &client.submission {
            Submission::One(spec) => {
                Event::Submit { request_id, job: JobId(drawn), user: user.into(), spec: spec.clone() }
            }
            Submission::Many(content) => {
                let (id, content, created) = (JobGroupId(drawn), content.clone(), Time(0));
                let batch = JobGroupRecord { id, user: user.into(), request_id, content, created };
                Event::SubmitGroup { group: Arc::new(batch) }
            }
        };
        // Some still ask a leader that was deposed.
        let asked = self.deposed.as_ref().filter(|_| self.rng.once_in(3));
        let epoch = asked.map_or(self.leader_epoch, |deposed| deposed.leader_epoch);
        let reply = self.handle_by(epoch, event)?;
        match reply.and_then(Result::ok) {
            // Answers get lost, too; then the client asks again.
            Some(_) if self.faults && self.rng.once_in(5) => self.retry_later(SimEvent::Submit(number)),
            Some(accepted) => {
                let Subject::Job(first) = accepted.subject else { return Ok(()) };
                self.answered(number, first);
                let later = self.rng.millis(0, 200_000);
                match self.rng.below(6) {
                    0 => self.event_queue.after(later, SimEvent::Cancel(number)),
                    1 | 2 => self.event_queue.after(later, SimEvent::Retry(number)),
                    _ => {}
                }
            }
            None => self.retry_later(SimEvent::Submit(number)),
        }
        Ok(())
    }

    fn answered(&mut self, number: usize, first: JobId) {
        let cores = [self.core.as_ref(), self.deposed.as_ref().map(|deposed| &deposed.core)];
        let record = cores.into_iter().flatten().find_map(|core| core.job(first));
        let batch = record.and_then(|job| job.group.as_ref());
        let jobs = batch.map_or_else(|| vec![first], |member| member.group.ids().collect());
        let client = &mut self.clients[number];
        for &job in &jobs {
            self.oracle.acknowledged(job, &client.request_id);
        }
        client.jobs = jobs;
    }

    pub(crate) fn retry_later(&mut self, event: SimEvent) {
        let pause = self.rng.millis(1000, 10_000);
        self.event_queue.after(pause, event);
    }

    pub(crate) fn on_cancel(&mut self, number: usize) -> Result<(), Violation> {
        let jobs = self.clients[number].jobs.clone();
        let event = match jobs.as_slice() {
            [] => return Ok(()),
            &[job] => Event::Cancel { job },
            _ => Event::CancelMany { jobs: jobs.clone() },
        };
        match self.handle(event)? {
            Some(Ok(accepted)) if !accepted.repeated => {
                let Some(core) = &self.core else { return Ok(()) };
                let ends = |job: &&JobId| {
                    core.job(**job).is_some_and(|job| {
                        job.cancel_requested || job.state == trainyard_types::JobState::Cancelled
                    })
                };
                for job in jobs.iter().filter(ends) {
                    self.oracle.cancelled(*job);
                }
            }
            Some(Ok(_)) => {}
            Some(Err(_)) if jobs.iter().all(|job| self.store.forgotten.contains(job)) => {}
            Some(Err(_)) => return Err(Violation::Lost(jobs[0])),
            None => self.retry_later(SimEvent::Cancel(number)),
        }
        Ok(())
    }

    pub(crate) fn on_retry(&mut self, number: usize) -> Result<(), Violation> {
        let Some(&job) = self.clients[number].jobs.first() else { return Ok(()) };
        match self.handle(Event::Retry { job })? {
            // Only a job that has failed can be retried, and most have not.
            Some(Ok(_)) => {
                self.oracle.queued_again(job);
                Ok(())
            }
            Some(Err(Refusal::NotRetryable { .. })) => Ok(()),
            Some(Err(_)) if self.store.forgotten.contains(&job) => Ok(()),
            Some(Err(_)) => Err(Violation::Lost(job)),
            None => {
                self.retry_later(SimEvent::Retry(number));
                Ok(())
            }
        }
    }
}

/// One with a job of random wishes, or with many.
pub(crate) fn draw_client(rng: &mut Rng, number: u64) -> Client {
    let submission = match rng.below(10) {
        0 => Submission::Many(Content::Sweep(draw_sweep(rng))),
        1 => {
            let count = 1 + rng.below(4);
            Submission::Many(Content::Specs((0..count).map(|_| Arc::new(draw_spec(rng))).collect()))
        }
        _ => Submission::One(draw_spec(rng)),
    };
    let user = rng.pick(&["ada", "bob", "cleo"]).unwrap_or(&"ada");
    Client { request_id: format!("request-{number}"), user, submission, jobs: Vec::new() }
}

fn draw_sweep(rng: &mut Rng) -> Sweep {
    let lr0 =
        [0.01, 0.02].map(|lr0| (lr0.to_string(), TrainPatch { lr0: Some(lr0), ..TrainPatch::default() }));
    let seeds = (0..1 + rng.below(3))
        .map(|seed| (seed.to_string(), TrainPatch { seed: Some(seed), ..TrainPatch::default() }));
    let axes = vec![
        Axis { parameter: "lr0".into(), values: lr0.into() },
        Axis { parameter: "seed".into(), values: seeds.collect() },
    ];
    Sweep { spec: draw_spec(rng), axes }
}

fn draw_spec(rng: &mut Rng) -> JobSpec {
    let resources = match rng.below(4) {
        0 => Resources { device: DeviceKind::Cpu, ..Resources::default() },
        1 => Resources { min_vram_mib: 20480, ..Resources::default() },
        2 => Resources { gpu_models: vec!["4090".into()], ..Resources::default() },
        _ => Resources::default(),
    };
    let name = match rng.below(12) {
        0 => "bad spec",
        1 => "too large",
        _ => "good",
    };
    let data = if rng.once_in(3) {
        rng.pick(&STORED).unwrap_or(&STORED[0])
    } else {
        rng.pick(&DATA).unwrap_or(&DATA[0])
    };
    let mut train = TrainSpec::new(ModelScale::N, *data);
    train.epochs = u32::try_from(1 + rng.below(12)).unwrap_or(1);
    JobSpec {
        name: name.to_owned(),
        resources,
        priority: i32::try_from(rng.below(3)).unwrap_or(0),
        max_retries: u32::try_from(rng.below(4)).unwrap_or(0),
        time_limit: rng.once_in(5).then(|| Duration::from_secs(10 + rng.below(40))),
        ..JobSpec::new(train)
    }
}

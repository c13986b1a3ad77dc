//! Users: they submit until they are answered, and some change their minds.

use std::collections::BTreeMap;

use trainyard_scheduler_core::{Event, Refusal};
use trainyard_types::{DeviceKind, JobId, JobSpec, ModelScale, Resources, TrainSpec};
use uuid::Uuid;

use crate::oracle::Violation;
use crate::rng::Rng;
use crate::world::{Happening, World};

#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) request_id: String,
    pub(crate) spec: JobSpec,
    pub(crate) job: Option<JobId>,
}

impl World {
    pub(crate) fn on_submit(&mut self, number: usize) -> Result<(), Violation> {
        let client = &self.clients[number];
        if client.job.is_some() {
            return Ok(());
        }
        // The driver draws an id for each request; a repeat's is not used.
        let job = JobId(Uuid::from_u128(self.next_job));
        self.next_job += 1;
        let (request_id, spec) = (client.request_id.clone(), client.spec.clone());
        let event = Event::Submit { request_id: Some(request_id.clone()), job, user: "ada".into(), spec };
        let reply = self.handle(event)?;
        match reply.and_then(Result::ok) {
            // Answers get lost, too; then the client asks again.
            Some(_) if self.faults && self.rng.once_in(5) => self.again(Happening::Submit(number)),
            Some(accepted) => {
                self.clients[number].job = Some(accepted.job);
                self.oracle.acknowledged(accepted.job, &request_id);
                let later = self.rng.millis(0, 200_000);
                match self.rng.below(6) {
                    0 => self.agenda.after(later, Happening::Cancel(number)),
                    1 | 2 => self.agenda.after(later, Happening::Retry(number)),
                    _ => {}
                }
            }
            None => self.again(Happening::Submit(number)),
        }
        Ok(())
    }

    pub(crate) fn again(&mut self, happening: Happening) {
        let pause = self.rng.millis(1000, 10_000);
        self.agenda.after(pause, happening);
    }

    pub(crate) fn on_cancel(&mut self, number: usize) -> Result<(), Violation> {
        let Some(job) = self.clients[number].job else { return Ok(()) };
        match self.handle(Event::Cancel { job })? {
            Some(Ok(accepted)) if !accepted.repeated => self.oracle.cancelled(job),
            Some(Ok(_)) => {}
            Some(Err(_)) => return Err(Violation::Lost(job)),
            None => self.again(Happening::Cancel(number)),
        }
        Ok(())
    }

    pub(crate) fn on_retry(&mut self, number: usize) -> Result<(), Violation> {
        let Some(job) = self.clients[number].job else { return Ok(()) };
        match self.handle(Event::Retry { job })? {
            // Only a job that has failed can be retried, and most have not.
            Some(Ok(_) | Err(Refusal::NotRetryable { .. })) => Ok(()),
            Some(Err(_)) => Err(Violation::Lost(job)),
            None => {
                self.again(Happening::Retry(number));
                Ok(())
            }
        }
    }
}

/// One with a job of random wishes.
pub(crate) fn draw_client(rng: &mut Rng, number: u64) -> Client {
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
    let mut train = TrainSpec::new(ModelScale::N, "/data/data.yaml");
    train.epochs = u32::try_from(1 + rng.below(12)).unwrap_or(1);
    let spec = JobSpec {
        name: name.to_owned(),
        train,
        resources,
        priority: i32::try_from(rng.below(3)).unwrap_or(0),
        max_retries: u32::try_from(rng.below(4)).unwrap_or(0),
        labels: BTreeMap::new(),
    };
    Client { request_id: format!("request-{number}"), spec, job: None }
}

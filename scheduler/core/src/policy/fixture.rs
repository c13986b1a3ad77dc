//! A cluster without an engine: what policies are tested on.

use std::sync::Arc;

use trainyard_types::{
    AgentId, AttemptId, Gpu, GpuUuid, Inventory, JobId, JobSpec, JobState, ModelScale, Session, Time,
    TrainSpec,
};
use uuid::Uuid;

use super::{Change, ClusterView, Placement, PlacementPolicy};
use crate::config::CoreConfig;
use crate::event::Hello;
use crate::record::{AttemptRecord, JobRecord};
use crate::state::agents::Agents;
use crate::state::fair_share::Users;
use crate::state::jobs::Jobs;
use crate::throughput::Throughput;

/// The parts of a cluster that a view shows.
#[derive(Debug, Default)]
pub(super) struct Cluster {
    pub(super) config: CoreConfig,
    jobs: Jobs,
    agents: Agents,
    users: Users,
    throughput: Throughput,
}

/// The id of the job of that number.
pub(super) fn job(number: u128) -> JobId {
    JobId(Uuid::from_u128(number))
}

impl Cluster {
    pub(super) fn view(&self) -> ClusterView<'_> {
        ClusterView::new(&self.config, &self.jobs, &self.agents, &self.users, &self.throughput)
    }

    /// A connected agent with these GPUs: models, and GiB of memory.
    pub(super) fn connect(&mut self, number: u128, gpus: &[(&str, u64)]) {
        let gpu = |(index, &(model, gib)): (usize, &(&str, u64))| Gpu {
            uuid: GpuUuid(format!("GPU-{number}-{index}")),
            index: u32::try_from(index).unwrap(),
            model: model.to_owned(),
            memory_total_mib: gib * 1024,
            compute_capability: None,
        };
        let gpus = gpus.iter().enumerate().map(gpu).collect();
        let inventory = Inventory { gpus, memory_total_mib: 65_536, ..Inventory::default() };
        let id = AgentId(Uuid::from_u128(number));
        let hello = Hello::new(id, format!("a{number}"), String::new(), inventory);
        self.agents.connect(Time(0), Session(1), hello, Time(u64::MAX));
    }

    /// A job that a user submits.
    pub(super) fn submit(&mut self, now: Time, number: u128, user: &str, epochs: u32, gpus: u32) {
        self.submit_with(now, number, user, |spec| {
            (spec.train.epochs, spec.resources.gpus) = (epochs, gpus);
        });
    }

    /// A job that a user submits, with whatever `change` asks for.
    pub(super) fn submit_with(
        &mut self,
        now: Time,
        number: u128,
        user: &str,
        change: impl FnOnce(&mut JobSpec),
    ) {
        let mut spec = JobSpec::new(TrainSpec::new(ModelScale::N, "/data/cells.yaml"));
        change(&mut spec);
        let record = JobRecord::queued(job(number), self.users.name(user), Arc::new(spec), now);
        self.jobs.insert(now, record, None);
    }

    /// One round of decisions, each carried out before the next: the jobs that start, and on which device.
    pub(super) fn round(&mut self, now: Time, policy: &mut dyn PlacementPolicy) -> Vec<(JobId, String)> {
        let (came, went) = self.jobs.take_queue_changes();
        policy.observe(now, &self.view(), &Change::Ready { came: &came, went: &went });
        policy.begin_round(now, &self.view());
        let mut placed = Vec::new();
        while let Some(placement) = policy.next(now, &self.view()) {
            placed.push((placement.job, placement.kind.device().to_owned()));
            self.start(now, &placement);
            policy.observe(now, &self.view(), &Change::Placed(placement.job));
        }
        let _ = self.jobs.take_queue_changes();
        assert_eq!(policy.check(&self.view()), Ok(()));
        placed
    }

    fn start(&mut self, now: Time, placement: &Placement) {
        let Placement { job, kind, locations } = placement;
        let id = AttemptId { job: *job, number: 1 };
        self.agents.occupy(id, kind, locations);
        let mut record = self.jobs.edit(now, *job).unwrap();
        let gpus = u32::try_from(locations.len()).unwrap();
        self.users.begin(&self.config, &record.user, now, record.spec.resources.device, gpus);
        record.state = JobState::Starting;
        let attempt = AttemptRecord {
            id,
            agent: locations[0].agent,
            agent_name: locations[0].agent_name.clone(),
            slot: locations[0].slot.clone(),
            others: locations[1..].iter().map(|location| location.slot.clone()).collect(),
            device: kind.device().to_owned(),
            choice: None,
            warm: false,
            expected_end: None,
            batch_chosen: None,
            fetching: None,
            setup: None,
            last_sequence: 0,
            placed: now,
            started: Some(now),
            released: None,
            ended: None,
        };
        record.begin_attempt(attempt, kind.clone());
    }
}

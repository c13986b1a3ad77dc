//! A cluster without an engine: what policies are tested on.

use std::collections::BTreeMap;
use std::sync::Arc;

use trainyard_types::{
    AgentId, AttemptId, Gpu, GpuUuid, Inventory, JobId, JobSpec, JobState, ModelScale, Session, Time,
    TrainSpec,
};
use uuid::Uuid;

use super::{Change, ClusterView, Placement, PlacementPolicy, view_of};
use crate::config::CoreConfig;
use crate::record::{AgentRecord, AttemptRecord, JobRecord};
use crate::state::agent::Agent;
use crate::state::agent_status::AgentStatuses;
use crate::state::queue::Queue;
use crate::state::sight::{Seen, Sight};
use crate::state::slots::{self, Slots};
use crate::state::user::Users;
use crate::throughput::Throughput;

/// The parts of a cluster that a view shows.
#[derive(Debug, Default)]
pub(super) struct Cluster {
    pub(super) config: CoreConfig,
    jobs: BTreeMap<JobId, JobRecord>,
    agents: BTreeMap<AgentId, Agent>,
    users: Users,
    queue: Queue,
    slots: Slots,
    sight: Sight,
    seen: Seen,
    statuses: AgentStatuses,
    throughput: Throughput,
}

/// The id of the job of that number.
pub(super) fn job(number: u128) -> JobId {
    JobId(Uuid::from_u128(number))
}

impl Cluster {
    pub(super) fn view(&self) -> ClusterView<'_> {
        view_of!(self)
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
        let record = AgentRecord::new(id, format!("a{number}"), String::new(), inventory, Time(0));
        let mut agent = Agent::known(record, Time(u64::MAX));
        agent.session = Some(Session(1));
        for (slot, (kind, index)) in agent.offered() {
            self.slots.offer(kind, slots::location(&agent.record, slot, index), true);
        }
        self.agents.insert(id, agent);
    }

    /// A job that a user submits.
    pub(super) fn submit(&mut self, now: Time, number: u128, user: &str, epochs: u32, gpus: u32) {
        let mut spec = JobSpec::new(TrainSpec::new(ModelScale::N, "/data/cells.yaml"));
        (spec.train.epochs, spec.resources.gpus) = (epochs, gpus);
        let record = JobRecord::queued(job(number), self.users.name(user), Arc::new(spec), now);
        self.queue.insert(now, &record, &self.sight);
        self.jobs.insert(record.id, record);
    }

    /// One round of decisions, each carried out before the next: the jobs that start, and on which device.
    pub(super) fn round(&mut self, now: Time, policy: &mut dyn PlacementPolicy) -> Vec<(JobId, String)> {
        let (came, went) = self.queue.take_changes();
        policy.observe(now, &self.view(), &Change::Ready { came: &came, went: &went });
        policy.begin_round(now, &self.view());
        let mut placed = Vec::new();
        while let Some(placement) = policy.next(now, &self.view()) {
            placed.push((placement.job, placement.kind.device().to_owned()));
            self.start(now, &placement);
            policy.observe(now, &self.view(), &Change::Placed(placement.job));
        }
        let _ = self.queue.take_changes();
        assert_eq!(policy.check(&self.view()), Ok(()));
        placed
    }

    fn start(&mut self, now: Time, placement: &Placement) {
        let Placement { job, kind, locations } = placement;
        let record = self.jobs.get_mut(job).unwrap();
        self.queue.remove(record);
        for location in locations {
            self.slots.take(kind, location);
        }
        let gpus = u32::try_from(locations.len()).unwrap();
        self.users.begin(&self.config, &record.user, now, record.spec.resources.device, gpus);
        record.state = JobState::Starting;
        record.attempts.push(AttemptRecord {
            id: AttemptId { job: *job, number: 1 },
            agent: locations[0].agent,
            agent_name: locations[0].agent_name.clone(),
            slot: locations[0].slot.clone(),
            others: locations[1..].iter().map(|location| location.slot.clone()).collect(),
            device: kind.device().to_owned(),
            choice: None,
            warm: false,
            expected_end: None,
            batch_chosen: None,
            setup: None,
            last_sequence: 0,
            placed: now,
            started: Some(now),
            released: None,
            ended: None,
        });
    }
}

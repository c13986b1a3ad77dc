//! Agents: who they are, what they hold, and what lasts only as long as their session.

use std::collections::{BTreeMap, BTreeSet};

use trainyard_types::{
    AgentId, AttemptId, EndReason, FitRecord, GpuTelemetry, GpuUuid, JobId, Session, Slot, Time,
};

use crate::event::AgentStatus;
use crate::record::{AgentRecord, AttemptRecord};
use crate::retry;
use crate::state::agent_clock::Clock;
use crate::state::availability::Closed;
use crate::state::slots;

/// Fit records that are kept of an agent.
const FIT_RECORDS: usize = 4096;

/// An agent and what lasts only as long as its session.
#[derive(Debug, PartialEq)]
pub(crate) struct Agent {
    pub(crate) record: AgentRecord,
    /// The open connection.
    pub(crate) session: Option<Session>,
    /// The newest connection, open or not; what an older one says is refused.
    pub(crate) newest_session: Session,
    /// When its attempts are tried elsewhere; `None` once that has happened.
    pub(crate) lease_until: Option<Time>,
    pub(crate) last_seen: Time,
    /// As of its newest word; of an earlier session while it has none.
    pub(crate) condition: AgentStatus,
    /// The live attempts.
    pub(crate) running: BTreeMap<Slot, AttemptId>,
    /// Get no new attempts until then, or until the next session: their GPU failed, or the agent hands
    /// its jobs back.
    pub(crate) cooldowns: BTreeMap<Slot, Time>,
    /// Live attempts that hold no slot any more.
    pub(crate) handing_in: BTreeSet<AttemptId>,
    /// What it said of the paths that it lacks, as far as it was asked for them by an attempt.
    pub(crate) said_of: BTreeMap<String, String>,
    /// GPUs that another agent offered first, and which one.
    pub(crate) doubled: BTreeMap<GpuUuid, (AgentId, String)>,
    /// Of the process that is or was connected.
    pub(crate) instance: String,
    /// When another process was last refused that came with its id.
    pub(crate) refused: Option<Time>,
    /// By how much its clock differs from the scheduler's.
    pub(crate) clock: Clock,
    /// Attempts that this session was told to end because their agent or GPU is wanted otherwise.
    pub(crate) told: BTreeSet<AttemptId>,
}

/// Whether an agent can be given work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AgentState {
    /// Has a session and a lease.
    Connected,
    /// Has no session; its lease still runs, and so do its attempts.
    Disconnected,
    /// Was silent for longer than its lease.
    Lost,
}

/// An agent as others see it.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentView<'a> {
    /// Who it is and what it has.
    pub record: &'a AgentRecord,
    /// Whether it can be given work.
    pub state: AgentState,
    /// The open connection.
    pub session: Option<Session>,
    /// When it was last heard of; after a restart of the scheduler, when it last connected.
    pub last_seen: Time,
    /// How it is, by its own word; as of its newest heartbeat.
    pub condition: &'a AgentStatus,
    /// What runs where. Slots of the inventory that are not listed are free.
    pub running: &'a BTreeMap<Slot, AttemptId>,
    agent: &'a Agent,
}

impl<'a> AgentView<'a> {
    /// Why a slot takes no attempt; `None` when it does, as long as the agent is connected.
    pub fn closed(&self, slot: &Slot) -> Option<Closed<'a>> {
        self.agent.closed(slot)
    }

    /// What a GPU did when the agent last spoke.
    pub fn reading(&self, gpu: &trainyard_types::GpuUuid) -> Option<&'a GpuTelemetry> {
        self.agent.reading(gpu)
    }

    /// By how many milliseconds its clock is ahead of the scheduler's; `None` while that is not known.
    pub fn clock_offset_ms(&self) -> Option<i64> {
        self.agent.clock.offset_ms()
    }

    /// What its GPUs were seen to need.
    pub fn fit_records(&self) -> &'a [FitRecord] {
        &self.condition.fit_records
    }

    /// The job on a slot.
    pub fn job_on(&self, slot: &Slot) -> Option<JobId> {
        self.running.get(slot).map(|attempt| attempt.job)
    }
}

impl Agent {
    /// The slots that are not to be given out for a while after an attempt has ended like this.
    pub(crate) fn suspect_slots(
        &self,
        attempt: &AttemptRecord,
        reason: EndReason,
        was_told: bool,
    ) -> Vec<Slot> {
        let unfit = attempt.ended.as_ref().and_then(|end| end.unfit.as_ref());
        match reason {
            EndReason::GpuFault => attempt.slots().cloned().collect(),
            EndReason::AgentUnfit if retry::is_bad(reason, unfit) => attempt.slots().cloned().collect(),
            // It goes away soon. If it does not, the report was an old one, from before it came back.
            EndReason::Drained if !was_told => {
                slots::of_inventory(&self.record.inventory).into_keys().collect()
            }
            // A path that is not there says nothing of the slot.
            EndReason::AgentUnfit
            | EndReason::Completed
            | EndReason::BadSpec
            | EndReason::GpuOom
            | EndReason::HostOom
            | EndReason::TrainerCrash
            | EndReason::AgentLost
            | EndReason::Preempted
            | EndReason::Drained
            | EndReason::Cancelled
            | EndReason::TimeLimit
            | EndReason::Stalled => Vec::new(),
        }
    }

    /// One that was seen before, without a session.
    pub(crate) fn known(record: AgentRecord, lease_until: Time) -> Self {
        Self {
            last_seen: record.connected,
            record,
            session: None,
            newest_session: Session(0),
            lease_until: Some(lease_until),
            condition: AgentStatus::default(),
            running: BTreeMap::new(),
            handing_in: BTreeSet::new(),
            said_of: BTreeMap::new(),
            doubled: BTreeMap::new(),
            instance: String::new(),
            refused: None,
            clock: Clock::default(),
            cooldowns: BTreeMap::new(),
            told: BTreeSet::new(),
        }
    }

    pub(crate) fn view(&self) -> AgentView<'_> {
        AgentView {
            record: &self.record,
            state: self.state(),
            session: self.session,
            last_seen: self.last_seen,
            condition: &self.condition,
            running: &self.running,
            agent: self,
        }
    }

    /// When it was last heard of.
    pub(crate) fn last_seen(&self) -> Time {
        self.last_seen
    }

    pub(crate) fn state(&self) -> AgentState {
        match (self.lease_until, self.session) {
            (None, _) => AgentState::Lost,
            (Some(_), Some(_)) => AgentState::Connected,
            (Some(_), None) => AgentState::Disconnected,
        }
    }

    /// The slots that attempts may be placed on, free or not, as they stand in the core's index.
    pub(crate) fn offered(&self) -> BTreeMap<Slot, (slots::Kind, u32)> {
        if self.state() != AgentState::Connected {
            return BTreeMap::new();
        }
        let mut offered = slots::of_inventory(&self.record.inventory);
        offered.retain(|slot, _| self.closed(slot).is_none());
        offered
    }

    /// What the agent said of a GPU.
    pub(crate) fn reading(&self, gpu: &trainyard_types::GpuUuid) -> Option<&GpuTelemetry> {
        let telemetry = &self.condition.telemetry;
        telemetry.binary_search_by(|reading| reading.uuid.cmp(gpu)).ok().map(|at| &telemetry[at])
    }

    /// Its live attempts, those that hold no slot any more included.
    pub(crate) fn live(&self) -> impl Iterator<Item = AttemptId> {
        let running: BTreeSet<AttemptId> = self.running.values().copied().collect();
        running.into_iter().chain(self.handing_in.iter().copied())
    }

    /// Takes in what the agent says of itself now.
    pub(crate) fn note(&mut self, mut condition: AgentStatus) {
        condition.telemetry.sort_by(|one, other| one.uuid.cmp(&other.uuid));
        if !condition.fit_records.is_empty() {
            let known = std::mem::take(&mut self.condition.fit_records).into_iter();
            let new = condition.fit_records.drain(..);
            let by_key: BTreeMap<_, _> =
                known.chain(new).map(|record| (record.key.clone(), record)).collect();
            // A session is long; an agent that says new things for ever is not to be remembered for ever.
            condition.fit_records = by_key.into_values().take(FIT_RECORDS).collect();
        } else {
            condition.fit_records = std::mem::take(&mut self.condition.fit_records);
        }
        self.condition = condition;
    }

    /// Whether that would change what the agent offers.
    pub(crate) fn moves_slots(&self, condition: &AgentStatus) -> bool {
        fn closed(condition: &AgentStatus) -> BTreeSet<&trainyard_types::GpuUuid> {
            let readings = condition.telemetry.iter().filter(|reading| reading.unavailable.is_some());
            readings.map(|reading| &reading.uuid).collect()
        }
        let cpus = |condition: &AgentStatus| condition.fitness.cpu_unavailable.is_some();
        self.condition.unavailable.is_empty() != condition.unavailable.is_empty()
            || cpus(&self.condition) != cpus(condition)
            || closed(&self.condition) != closed(condition)
    }
}

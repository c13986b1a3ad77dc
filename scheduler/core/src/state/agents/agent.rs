//! One agent: who it is, what it holds, and what lasts only as long as its session.
//!
//! Its fields change by methods of [`super::Agents`] only, which keep the indexes over all agents.

use std::collections::{BTreeMap, BTreeSet};

use trainyard_types::{
    AgentId, AttemptId, EndReason, FitRecord, Fitness, GpuTelemetry, GpuUuid, JobId, Session, Slot, Time,
};

use super::availability::Closed;
use super::clock::Clock;
use crate::event::AgentStatus;
use crate::record::{AgentRecord, AttemptRecord};
use crate::retry;
use crate::state::slots::{self, Kind};

/// Fit records that are kept of an agent.
const FIT_RECORDS: usize = 4096;

/// An agent and what lasts only as long as its session.
#[derive(Debug, PartialEq)]
pub(crate) struct Agent {
    pub(super) record: AgentRecord,
    /// The open connection.
    pub(super) session: Option<Session>,
    /// Whether a person has forgotten it since it connected: it goes as soon as nothing of it is left.
    pub(super) is_forgotten: bool,
    /// The newest connection, open or not; what an older one says is refused.
    pub(super) newest_session: Session,
    /// When its attempts are tried elsewhere; `None` once that has happened.
    pub(super) lease_until: Option<Time>,
    pub(super) last_seen: Time,
    /// As of its newest word; of an earlier session while it has none.
    pub(super) status: AgentStatus,
    /// The live attempts that hold slots.
    pub(super) running: BTreeMap<Slot, AttemptId>,
    /// Slots that get no new attempts until then, or until the next session: their GPU failed, or the agent hands
    /// its jobs back.
    pub(super) cooldowns: BTreeMap<Slot, Time>,
    /// Live attempts that hold no slot any more.
    pub(super) handing_in: BTreeSet<AttemptId>,
    /// What it said of the paths that it lacks, as far as an attempt asked for them.
    pub(super) path_messages: BTreeMap<String, String>,
    /// GPUs that another agent offered first, and which one.
    pub(super) duplicates: BTreeMap<GpuUuid, (AgentId, String)>,
    /// Names the process that is or was connected.
    pub(super) instance: String,
    /// When another process was last refused that came with its id.
    pub(super) refused: Option<Time>,
    /// By how much its clock differs from the scheduler's.
    pub(super) clock: Clock,
    /// Attempts that this session was told to end because their agent or GPU is wanted otherwise.
    pub(super) told_to_leave: BTreeSet<AttemptId>,
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
    /// What it says of itself, as of its newest heartbeat.
    pub status: &'a AgentStatus,
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
    pub fn reading(&self, gpu: &GpuUuid) -> Option<&'a GpuTelemetry> {
        self.agent.reading(gpu)
    }

    /// By how many milliseconds its clock is ahead of the scheduler's; `None` while that is not known.
    pub fn clock_offset_ms(&self) -> Option<i64> {
        self.agent.clock.offset_ms()
    }

    /// What its GPUs were seen to need.
    pub fn fit_records(&self) -> &'a [FitRecord] {
        &self.status.fit_records
    }

    /// The job whose attempt holds a slot.
    pub fn job_on(&self, slot: &Slot) -> Option<JobId> {
        self.running.get(slot).map(|attempt| attempt.job)
    }
}

impl Agent {
    /// An agent that was seen before, without a session.
    pub(super) fn known(record: AgentRecord, lease_until: Time) -> Self {
        Self {
            last_seen: record.connected,
            record,
            session: None,
            is_forgotten: false,
            newest_session: Session(0),
            lease_until: Some(lease_until),
            status: AgentStatus::default(),
            running: BTreeMap::new(),
            handing_in: BTreeSet::new(),
            path_messages: BTreeMap::new(),
            duplicates: BTreeMap::new(),
            instance: String::new(),
            refused: None,
            clock: Clock::default(),
            cooldowns: BTreeMap::new(),
            told_to_leave: BTreeSet::new(),
        }
    }

    pub(crate) fn view(&self) -> AgentView<'_> {
        AgentView {
            record: &self.record,
            state: self.state(),
            session: self.session,
            last_seen: self.last_seen,
            status: &self.status,
            running: &self.running,
            agent: self,
        }
    }

    pub(crate) fn record(&self) -> &AgentRecord {
        &self.record
    }

    /// The name that people call it by.
    pub(crate) fn name(&self) -> &str {
        &self.record.name
    }

    /// The open connection.
    pub(crate) fn session(&self) -> Option<Session> {
        self.session
    }

    /// The newest connection, open or not.
    pub(crate) fn newest_session(&self) -> Session {
        self.newest_session
    }

    /// What the machine has of what jobs need, by the agent's word.
    pub(crate) fn fitness(&self) -> &Fitness {
        &self.status.fitness
    }

    /// The live attempts that hold slots.
    pub(crate) fn running(&self) -> &BTreeMap<Slot, AttemptId> {
        &self.running
    }

    /// Live attempts that hold no slot any more.
    pub(crate) fn handing_in(&self) -> &BTreeSet<AttemptId> {
        &self.handing_in
    }

    /// Slots in cooldown, and until when.
    pub(crate) fn cooldowns(&self) -> &BTreeMap<Slot, Time> {
        &self.cooldowns
    }

    /// GPUs that another agent offered first, and which one.
    pub(crate) fn duplicates(&self) -> &BTreeMap<GpuUuid, (AgentId, String)> {
        &self.duplicates
    }

    /// When another process was last refused that came with its id.
    pub(crate) fn refused(&self) -> Option<Time> {
        self.refused
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    pub(crate) fn state(&self) -> AgentState {
        match (self.lease_until, self.session) {
            (None, _) => AgentState::Lost,
            (Some(_), Some(_)) => AgentState::Connected,
            (Some(_), None) => AgentState::Disconnected,
        }
    }

    /// Whether it still has a GPU, connected or not.
    pub(super) fn owns(&self, gpu: &GpuUuid) -> bool {
        self.state() != AgentState::Lost && self.record.inventory.gpus.iter().any(|known| known.uuid == *gpu)
    }

    /// The slots that attempts may be placed on, free or not, with kind and GPU index.
    pub(crate) fn open_slots(&self) -> BTreeMap<Slot, (Kind, u32)> {
        if self.state() != AgentState::Connected {
            return BTreeMap::new();
        }
        let mut open = slots::of_inventory(&self.record.inventory);
        open.retain(|slot, _| self.closed(slot).is_none());
        open
    }

    /// The kind and index of a slot, if the agent lists it.
    pub(crate) fn kind_of(&self, slot: &Slot) -> Option<(Kind, u32)> {
        slots::of_inventory(&self.record.inventory).remove(slot)
    }

    /// What the agent said of a GPU.
    pub(crate) fn reading(&self, gpu: &GpuUuid) -> Option<&GpuTelemetry> {
        let telemetry = &self.status.telemetry;
        telemetry.binary_search_by(|reading| reading.uuid.cmp(gpu)).ok().map(|at| &telemetry[at])
    }

    /// Its live attempts, those that hold no slot any more included.
    pub(crate) fn live(&self) -> impl Iterator<Item = AttemptId> {
        let running: BTreeSet<AttemptId> = self.running.values().copied().collect();
        running.into_iter().chain(self.handing_in.iter().copied())
    }

    /// The slots that are not to be given out for a while after an attempt has ended like this. `was_told`: whether
    /// the agent was told to end it.
    pub(crate) fn suspect_slots(
        &self,
        attempt: &AttemptRecord,
        reason: EndReason,
        was_told: bool,
    ) -> Vec<Slot> {
        let unfit = attempt.ended.as_ref().and_then(|end| end.unfit.as_ref());
        match reason {
            EndReason::GpuFault => attempt.slots().cloned().collect(),
            // A path that is not there says nothing of the slot.
            EndReason::AgentUnfit if retry::is_bad(reason, unfit) => attempt.slots().cloned().collect(),
            // It goes away soon. If it does not, the report was an old one, from before it came back.
            EndReason::Drained if !was_told => {
                slots::of_inventory(&self.record.inventory).into_keys().collect()
            }
            _ => Vec::new(),
        }
    }

    /// Takes in what the agent says of itself now. Returns what its machine had until then.
    pub(super) fn set_status(&mut self, mut status: AgentStatus) -> Fitness {
        status.telemetry.sort_by(|one, other| one.uuid.cmp(&other.uuid));
        if !status.fit_records.is_empty() {
            let known = std::mem::take(&mut self.status.fit_records).into_iter();
            let new = status.fit_records.drain(..);
            let by_key: BTreeMap<_, _> =
                known.chain(new).map(|record| (record.key.clone(), record)).collect();
            // A session is long; an agent that says new things for ever is not to be remembered for ever.
            status.fit_records = by_key.into_values().take(FIT_RECORDS).collect();
        } else {
            status.fit_records = std::mem::take(&mut self.status.fit_records);
        }
        let before = std::mem::replace(&mut self.status, status).fitness;
        self.drop_old_path_messages(&before);
        before
    }

    /// What it said of a path is true as long as it says that it lacks the path.
    pub(super) fn drop_old_path_messages(&mut self, before: &Fitness) {
        let now = &self.status.fitness;
        if before.data_roots != now.data_roots || before.missing_paths != now.missing_paths {
            self.path_messages.retain(|path, _| now.missing_paths.contains(path));
        }
    }

    /// Whether that would change which of its slots are open.
    pub(super) fn would_change_slots(&self, status: &AgentStatus) -> bool {
        fn closed(status: &AgentStatus) -> BTreeSet<&GpuUuid> {
            let readings = status.telemetry.iter().filter(|reading| reading.unavailable.is_some());
            readings.map(|reading| &reading.uuid).collect()
        }
        let cpus = |status: &AgentStatus| status.fitness.cpu_unavailable.is_some();
        self.status.unavailable.is_empty() != status.unavailable.is_empty()
            || cpus(&self.status) != cpus(status)
            || closed(&self.status) != closed(status)
    }
}

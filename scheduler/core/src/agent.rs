//! Agents: registration, inventory, sessions, and the lease that keeps their attempts theirs.
//!
//! ```text
//!              AgentConnected                     lease over       keep_agents_for
//!  (unknown) ───────────────► Connected ──────────────────────────► Lost ───────► (unknown)
//!                              │     ▲  ◄── Heartbeat, same session ── │
//!           AgentDisconnected  ▼     │ AgentConnected                 │
//!                            Disconnected ──────── lease over ────────┘
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use trainyard_types::{
    AgentId, AttemptId, EndReason, Ended, FitRecord, GpuTelemetry, GpuUuid, JobId, Session, Slot, Time,
};

use crate::availability::Closed;
use crate::changes::Changes;
use crate::clocks::Clock;
use crate::core::Core;
use crate::event::{Condition, Hello};
use crate::output::{Command, Write};
use crate::record::{AgentRecord, AttemptRecord};
use crate::{retry, slots};

/// Fit records that are kept of an agent.
const FIT_RECORDS: usize = 4096;

/// An agent and what lasts only as long as its session.
#[derive(Debug, PartialEq)]
pub(crate) struct Agent {
    pub(crate) record: AgentRecord,
    /// The open connection.
    pub(crate) session: Option<Session>,
    /// The newest connection, open or not; what an older one says is refused.
    newest_session: Session,
    /// When its attempts are tried elsewhere; `None` once that has happened.
    pub(crate) lease_until: Option<Time>,
    last_seen: Time,
    /// As of its newest word; of an earlier session while it has none.
    pub(crate) condition: Condition,
    /// The live attempts.
    pub(crate) running: BTreeMap<Slot, AttemptId>,
    /// Get no new attempts until then, or until the next session: their card failed, or the agent hands
    /// its jobs back.
    pub(crate) set_aside: BTreeMap<Slot, Time>,
    /// Live attempts that hold no slot any more.
    pub(crate) handing_in: BTreeSet<AttemptId>,
    /// What it said of the paths that it lacks, as far as it was asked for them by an attempt.
    pub(crate) said_of: BTreeMap<String, String>,
    /// Cards that another agent offered first, and which one.
    pub(crate) doubled: BTreeMap<GpuUuid, (AgentId, String)>,
    /// Of the process that is or was connected.
    pub(crate) instance: String,
    /// When another process was last refused that came with its id.
    pub(crate) refused: Option<Time>,
    /// By how much its clock differs from the scheduler's.
    pub(crate) clock: Clock,
    /// Attempts that this session was told to end because their agent or card is wanted otherwise.
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
    pub condition: &'a Condition,
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

    /// What its cards were seen to need.
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
    fn tainted(&self, attempt: &AttemptRecord, reason: EndReason, was_told: bool) -> Vec<Slot> {
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
            condition: Condition::default(),
            running: BTreeMap::new(),
            handing_in: BTreeSet::new(),
            said_of: BTreeMap::new(),
            doubled: BTreeMap::new(),
            instance: String::new(),
            refused: None,
            clock: Clock::default(),
            set_aside: BTreeMap::new(),
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
    fn live(&self) -> impl Iterator<Item = AttemptId> {
        let running: BTreeSet<AttemptId> = self.running.values().copied().collect();
        running.into_iter().chain(self.handing_in.iter().copied())
    }

    /// Takes in what the agent says of itself now.
    fn note(&mut self, mut condition: Condition) {
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
    fn moves_slots(&self, condition: &Condition) -> bool {
        fn closed(condition: &Condition) -> BTreeSet<&trainyard_types::GpuUuid> {
            let readings = condition.telemetry.iter().filter(|reading| reading.unavailable.is_some());
            readings.map(|reading| &reading.uuid).collect()
        }
        let cpus = |condition: &Condition| condition.fitness.cpu_unavailable.is_some();
        self.condition.unavailable.is_empty() != condition.unavailable.is_empty()
            || cpus(&self.condition) != cpus(condition)
            || closed(&self.condition) != closed(condition)
    }
}

impl Core {
    /// An agent opened a session. It may be new, may be back, or may have crashed and forgotten.
    pub(crate) fn on_connected(&mut self, now: Time, session: Session, hello: Hello, out: &mut Changes) {
        let Hello { agent: id, name, version, inventory, attempts: held, condition, instance } = hello;
        if self.agents.get(&id).is_some_and(|agent| agent.newest_session >= session) {
            return; // A newer connection overtook this one.
        }
        if let Some(refusal) = self.is_taken(now, id, &instance) {
            return out.reply(Err(refusal));
        }
        self.withdraw_slots(id);
        let record = AgentRecord::new(id, name, version, inventory, now);
        let agent = self.agents.entry(id).or_insert_with(|| Agent::known(record.clone(), now));
        let (drain, lost) = (agent.record.drain, agent.record.lost);
        let reserved = std::mem::take(&mut agent.record.reserved);
        let shut = std::mem::take(&mut agent.record.shut);
        agent.record = AgentRecord { drain, reserved, lost, shut, ..record };
        agent.instance = instance;
        agent.clock = Clock::default();
        agent.clock.note(now, condition.fitness.clock);
        agent.session = Some(session);
        agent.newest_session = session;
        self.advertised.note(id, &agent.condition, &condition);
        let before = std::mem::take(&mut agent.condition.fitness);
        agent.condition = Condition::default();
        agent.note(condition);
        agent.told.clear();
        for (slot, until) in std::mem::take(&mut agent.set_aside) {
            self.set_aside.remove(&(until, id, slot));
        }
        let held_now: BTreeSet<AttemptId> = held.iter().copied().collect();
        let forgotten: Vec<AttemptId> = agent.live().filter(|attempt| !held_now.contains(attempt)).collect();
        out.touch_agent(id);
        self.claim_gpus(id);
        self.inherit(id, out);
        self.see(id, &before, out);
        // It may have other cards than before.
        self.ask_again = true;
        self.renew_lease(now, id);
        for attempt in forgotten {
            self.lose_attempt(now, attempt, "the agent no longer holds it".to_owned(), out);
        }
        for attempt in held {
            self.reconcile(id, session, attempt, out);
        }
        self.tell_to_leave(id, out);
        self.offer_slots(id, out);
    }

    /// Tells an agent what has become of an attempt that it holds. One that is its own just goes on.
    fn reconcile(&self, agent: AgentId, session: Session, attempt: AttemptId, out: &mut Changes) {
        let live = self.jobs.get(&attempt.job).and_then(|job| Some((job, job.live_attempt()?)));
        match live {
            Some((job, live)) if live.id == attempt && live.agent == agent => {
                // It may never have heard what it was told.
                let makes_way = self.policy.is_preempting(job.id);
                if job.cancel_requested || job.out_of_time || makes_way {
                    let reason =
                        if job.cancel_requested { EndReason::Cancelled } else { EndReason::Preempted };
                    let grace = Duration::ZERO;
                    out.command(Command::Stop { agent, session, attempt, reason, grace });
                }
            }
            Some(_) | None => out.command(Command::Revoke { agent, session, attempt }),
        }
    }

    /// A connection is gone. Its attempts go on for as long as the lease runs.
    pub(crate) fn on_disconnected(&mut self, agent: AgentId, session: Session) {
        if self.agents.get(&agent).is_some_and(|agent| agent.session == Some(session)) {
            self.withdraw_slots(agent);
            if let Some(agent) = self.agents.get_mut(&agent) {
                agent.session = None;
            }
        }
    }

    /// A sign of life with news of the agent. A card that takes no attempts any more keeps the one that it
    /// has, for as long as the agent lets it run.
    pub(crate) fn on_heartbeat(
        &mut self,
        now: Time,
        id: AgentId,
        session: Session,
        condition: Condition,
        out: &mut Changes,
    ) {
        if !self.hear(now, id, session, out) {
            return;
        }
        // Most heartbeats change no slot, and there are many.
        let moves_slots = self.agents.get(&id).is_some_and(|agent| agent.moves_slots(&condition));
        if moves_slots {
            self.withdraw_slots(id);
        }
        let mut mended = self.agents.get(&id).map(Agent::aside_and_closed).unwrap_or_default();
        if let Some(agent) = self.agents.get_mut(&id) {
            self.advertised.note(id, &agent.condition, &condition);
            agent.clock.note(now, condition.fitness.clock);
            let before = std::mem::take(&mut agent.condition.fitness);
            agent.note(condition);
            mended.retain(|slot| !agent.closes(slot));
            self.see(id, &before, out);
        }
        if moves_slots {
            self.offer_slots(id, out);
        }
        // Its agent has found it well since, which ends what was only meant for an agent that says nothing.
        self.end_set_aside(id, &mended, out);
    }

    /// Renews the lease of an agent that spoke, unless it spoke by an old connection.
    pub(crate) fn hear(&mut self, now: Time, id: AgentId, session: Session, out: &mut Changes) -> bool {
        let Some(agent) = self.agents.get(&id) else { return false };
        if agent.session != Some(session) {
            return false;
        }
        // It was silent for too long, on a connection that held: a paused machine. It was told then
        // what is no longer its own, so that only its slots are to be taken up again.
        let was_lost = agent.state() == AgentState::Lost;
        self.renew_lease(now, id);
        if was_lost {
            out.touch_agent(id);
            self.claim_gpus(id);
            self.offer_slots(id, out);
        }
        true
    }

    fn renew_lease(&mut self, now: Time, id: AgentId) {
        let until = now + self.config.lease;
        let Some(agent) = self.agents.get_mut(&id) else { return };
        agent.last_seen = now;
        if let Some(lost) = agent.record.lost.take() {
            self.lost.remove(&(lost, id));
        }
        if let Some(old) = agent.lease_until.replace(until) {
            self.leases.remove(&(old, id));
        }
        self.leases.insert((until, id));
    }

    /// The agent was silent for longer than its lease: what it ran is tried elsewhere.
    pub(crate) fn on_lease_over(&mut self, now: Time, id: AgentId, out: &mut Changes) {
        self.leases.pop_first();
        self.withdraw_slots(id);
        let Some(agent) = self.agents.get_mut(&id) else { return };
        agent.lease_until = None;
        // Of an agent that was lost before a restart of the scheduler, too.
        if agent.record.lost.is_none() {
            agent.record.lost = Some(now);
            out.touch_agent(id);
        }
        self.lost.extend(agent.record.lost.map(|lost| (lost, id)));
        let agent = self.give_gpus_up(id, out);
        let Some(agent) = agent else { return };
        let session = agent.session;
        let silent = now.since(agent.last_seen).as_secs();
        let attempts: Vec<AttemptId> = agent.live().collect();
        for attempt in attempts {
            let message = format!("nothing was heard of the agent for {silent} s");
            self.lose_attempt(now, attempt, message, out);
            // The connection may hold although nothing comes: then this waits for the agent there.
            if let Some(session) = session {
                out.command(Command::Revoke { agent: id, session, attempt });
            }
        }
    }

    /// When the next lost agent is forgotten.
    pub(crate) fn next_agent_forgotten(&self) -> Option<Time> {
        self.lost.first().map(|&(lost, _)| lost + self.config.keep_agents_for)
    }

    /// Forgets the agent that has been lost for longest, if that is long enough; `false` when there is none.
    /// Nothing runs there any more.
    pub(crate) fn forget_agent(&mut self, now: Time, out: &mut Changes) -> bool {
        if self.next_agent_forgotten().is_none_or(|time| time > now) {
            return false;
        }
        let Some((_, id)) = self.lost.pop_first() else { return false };
        if let Some(agent) = self.agents.remove(&id) {
            self.advertised.note(id, &agent.condition, &Condition::default());
            self.see(id, &agent.condition.fitness, out);
            self.ask_again = true;
            for (gpu, until) in agent.record.reserved {
                self.reservations.remove(&(until, id, gpu));
            }
            for (slot, until) in agent.set_aside {
                self.set_aside.remove(&(until, id, slot));
            }
            for (slot, shut) in agent.record.shut {
                if let Some(until) = shut.until {
                    self.shut.remove(&(until, id, slot));
                }
            }
            self.doubled.remove(&id);
            out.write(Write::ForgetAgent(id));
        }
        true
    }

    fn lose_attempt(&mut self, now: Time, attempt: AttemptId, message: String, out: &mut Changes) {
        let ended = Ended { reason: EndReason::AgentLost, message, artifacts: Vec::new(), unfit: None };
        self.end_attempt(now, now, attempt, ended, out);
    }

    /// Ends an attempt's hold on its slots.
    pub(crate) fn release_slots(&mut self, id: AgentId, slots: &[Slot], out: &mut Changes) {
        let Some(agent) = self.agents.get_mut(&id) else { return };
        let mut offered = agent.offered();
        for slot in slots {
            agent.running.remove(slot);
            if let Some((kind, index)) = offered.remove(slot) {
                self.slots.release(&kind, slots::location(&agent.record, slot.clone(), index));
                out.replan = true;
            }
        }
    }

    /// Sets aside for a while what should not be used again after the end of an attempt, by the agent's word for
    /// it. Its slots are free, and may be another's by now.
    pub(crate) fn keep_off(&mut self, now: Time, attempt: AttemptId, reason: EndReason, out: &mut Changes) {
        let newest = self.jobs.get(&attempt.job).and_then(|job| job.attempts.last());
        let Some(ended) = newest.filter(|newest| newest.id == attempt) else { return };
        let id = ended.agent;
        let Some(agent) = self.agents.get_mut(&id) else { return };
        let was_told = agent.told.remove(&attempt);
        let tainted = agent.tainted(ended, reason, was_told);
        if tainted.is_empty() {
            return;
        }
        self.withdraw_slots(id);
        let until = now + self.config.retry_delay_max;
        if let Some(agent) = self.agents.get_mut(&id) {
            for slot in tainted {
                if let Some(before) = agent.set_aside.insert(slot.clone(), until) {
                    self.set_aside.remove(&(before, id, slot.clone()));
                }
                self.set_aside.insert((until, id, slot));
            }
        }
        self.offer_slots(id, out);
    }

    /// Slots that were set aside are tried again.
    pub(crate) fn end_set_aside(&mut self, id: AgentId, slots: &[Slot], out: &mut Changes) {
        if slots.is_empty() {
            return;
        }
        self.withdraw_slots(id);
        if let Some(agent) = self.agents.get_mut(&id) {
            for slot in slots {
                if let Some(until) = agent.set_aside.remove(slot) {
                    self.set_aside.remove(&(until, id, slot.clone()));
                }
            }
        }
        self.offer_slots(id, out);
    }

    /// Tries the next slot again whose time aside is over; `false` when there is none.
    pub(crate) fn take_back(&mut self, now: Time, out: &mut Changes) -> bool {
        let Some((time, agent, slot)) = self.set_aside.first().cloned() else { return false };
        if time > now {
            return false;
        }
        self.end_set_aside(agent, &[slot], out);
        true
    }

    pub(crate) fn offer_slots(&mut self, id: AgentId, out: &mut Changes) {
        let Some(agent) = self.agents.get(&id) else { return };
        for (slot, (kind, index)) in agent.offered() {
            let free = !agent.running.contains_key(&slot);
            self.slots.offer(kind, slots::location(&agent.record, slot, index), free);
        }
        out.replan = true;
    }

    pub(crate) fn withdraw_slots(&mut self, id: AgentId) {
        let Some(agent) = self.agents.get(&id) else { return };
        for (slot, (kind, index)) in agent.offered() {
            self.slots.withdraw(&kind, &slots::location(&agent.record, slot, index));
        }
    }
}

//! All agents, and the indexes over them: slots, deadlines, owners of GPUs, and what agents hold decoded.
//!
//! An agent changes by methods of [`Agents`] only. Each brings the indexes up to date before it returns, so that no
//! handler can break one, or has to remember one.

pub(crate) mod agent;
pub(crate) mod availability;
pub(crate) mod check;
pub(crate) mod clock;
pub(crate) mod closures;
mod duplicates;
mod fitness;
mod orders;
pub(crate) mod statuses;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use trainyard_types::{AgentId, AttemptId, Fitness, GpuUuid, Session, Slot, Time};

use self::agent::{Agent, AgentState};
use self::availability::HANDING_IN_MAX;
use self::clock::Clock;
use self::statuses::AgentStatuses;
use crate::event::{AgentStatus, Hello};
use crate::record::{AgentRecord, AttemptRecord};
use crate::state::deadlines::AgentDeadlines;
use crate::state::slots::{Kind, Location, Slots};

/// Paths that an agent is remembered to lack by what it reported of attempts.
const MISSING_PATHS: usize = 1024;

/// All agents ever seen, by id, and the indexes over them.
#[derive(Debug, Default)]
pub(crate) struct Agents {
    by_id: BTreeMap<AgentId, Agent>,
    /// Index: who has which name.
    by_name: BTreeMap<String, BTreeSet<AgentId>>,
    /// Index: the open slots of connected agents.
    slots: Slots,
    /// Index: what is due when.
    deadlines: AgentDeadlines,
    /// Index: what agents say they hold and need.
    statuses: AgentStatuses,
    /// Index: who offered a GPU first.
    gpu_owners: BTreeMap<GpuUuid, AgentId>,
    /// Index: agents with GPUs that another one offered first.
    with_duplicates: BTreeSet<AgentId>,
    /// Slots were put on offer since [`Agents::take_has_offered`].
    has_offered: bool,
}

/// What a connection changed.
#[derive(Debug)]
pub(crate) struct Connected {
    /// What the machine had until then, by the agent's word.
    pub(crate) fitness_before: Fitness,
    /// Live attempts that the agent does not hold any more.
    pub(crate) forgotten: Vec<AttemptId>,
}

/// Whether an agent was heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    /// No: it spoke by an old connection.
    OldSession,
    /// Its lease is renewed.
    Renewed,
    /// Its lease is renewed, and it had been lost.
    Returned,
}

/// An agent whose lease is over.
#[derive(Debug)]
pub(crate) struct LeaseOver {
    pub(crate) id: AgentId,
    /// The connection, if it holds although nothing comes.
    pub(crate) session: Option<Session>,
    pub(crate) last_seen: Time,
    /// Whether its record says only now that it is lost.
    pub(crate) is_news: bool,
    /// The attempts that ran there.
    pub(crate) attempts: Vec<AttemptId>,
}

impl Agents {
    pub(crate) fn get(&self, id: AgentId) -> Option<&Agent> {
        self.by_id.get(&id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (AgentId, &Agent)> {
        self.by_id.iter().map(|(&id, agent)| (id, agent))
    }

    /// The agents with ids in a range.
    pub(crate) fn range(&self, ids: RangeInclusive<AgentId>) -> impl Iterator<Item = &Agent> {
        self.by_id.range(ids).map(|(_, agent)| agent)
    }

    /// The agents with a name.
    pub(crate) fn named(&self, name: &str) -> impl Iterator<Item = &Agent> {
        self.by_name.get(name).into_iter().flatten().filter_map(|id| self.by_id.get(id))
    }

    /// The open connection of an agent.
    pub(crate) fn session(&self, id: AgentId) -> Option<Session> {
        self.get(id)?.session
    }

    /// The open slots of connected agents.
    pub(crate) fn slots(&self) -> &Slots {
        &self.slots
    }

    /// What agents say they hold and need.
    pub(crate) fn statuses(&self) -> &AgentStatuses {
        &self.statuses
    }

    pub(crate) fn deadlines(&self) -> &AgentDeadlines {
        &self.deadlines
    }

    /// The kind and index of an attempt's first slot, if its agent lists it.
    pub(crate) fn kind_of(&self, attempt: &AttemptRecord) -> Option<(Kind, u32)> {
        self.get(attempt.agent)?.kind_of(&attempt.slot)
    }

    /// Whether slots were put on offer since this was asked last.
    pub(crate) fn take_has_offered(&mut self) -> bool {
        std::mem::take(&mut self.has_offered)
    }

    /// Puts the open slots of an agent on offer, instead of those that were.
    fn offer(&mut self, id: AgentId) {
        let Some(agent) = self.by_id.get(&id) else { return };
        self.slots.set_agent(&agent.record, agent.open_slots(), |slot| !agent.running.contains_key(slot));
        self.has_offered = true;
    }

    /// Changes an agent in a way that may open or close slots.
    fn change(&mut self, id: AgentId, change: impl FnOnce(&mut Agent, &mut AgentDeadlines)) {
        let Some(agent) = self.by_id.get_mut(&id) else { return };
        change(agent, &mut self.deadlines);
        self.offer(id);
    }
}

/// The changes of agents' sessions and leases.
impl Agents {
    /// An agent that is known from before a restart of the scheduler: its lease runs anew.
    pub(crate) fn load(&mut self, record: AgentRecord, lease_until: Time) {
        self.deadlines.leases.add(lease_until, record.id);
        for (gpu, &until) in &record.reserved {
            self.deadlines.reservations.add(until, (record.id, gpu.clone()));
        }
        for (slot, shut) in &record.shut {
            if let Some(until) = shut.until {
                self.deadlines.shut.add(until, (record.id, slot.clone()));
            }
        }
        let id = record.id;
        self.change_name(id, &record.name);
        self.by_id.insert(id, Agent::known(record, lease_until));
        self.claim_gpus(id);
    }

    /// An attempt that was live before a restart of the scheduler.
    pub(crate) fn load_attempt(&mut self, attempt: &AttemptRecord) {
        let Some(agent) = self.by_id.get_mut(&attempt.agent) else { return };
        if attempt.holds_slots() {
            agent.running.extend(attempt.slots().map(|slot| (slot.clone(), attempt.id)));
        } else {
            agent.handing_in.insert(attempt.id);
        }
    }

    /// An agent opened a session. What people ordered of it holds, and what is closed because of quick ends; what
    /// the former session said is over.
    pub(crate) fn connect(
        &mut self,
        now: Time,
        session: Session,
        hello: Hello,
        lease_until: Time,
    ) -> Connected {
        let Hello { agent: id, name, version, inventory, attempts, status, instance, owners } = hello;
        let record = AgentRecord::new(id, name, version, inventory, now);
        self.change_name(id, &record.name);
        let agent = self.by_id.entry(id).or_insert_with(|| Agent::known(record.clone(), now));
        let (drain, lost) = (agent.record.drain, agent.record.lost);
        let reserved = std::mem::take(&mut agent.record.reserved);
        let shut = std::mem::take(&mut agent.record.shut);
        agent.record = AgentRecord { drain, reserved, lost, shut, owners, ..record };
        agent.instance = instance;
        agent.clock = Clock::default();
        agent.clock.note(now, status.fitness.clock);
        agent.session = Some(session);
        agent.is_forgotten = false;
        agent.newest_session = session;
        self.statuses.note(id, &agent.status, &status);
        let fitness = std::mem::take(&mut agent.status.fitness);
        agent.status = AgentStatus { fitness, ..AgentStatus::default() };
        let fitness_before = agent.set_status(status);
        agent.told_to_leave.clear();
        for (slot, until) in std::mem::take(&mut agent.cooldowns) {
            self.deadlines.cooldowns.remove(until, (id, slot));
        }
        let held: BTreeSet<AttemptId> = attempts.into_iter().collect();
        let forgotten = agent.live().filter(|attempt| !held.contains(attempt)).collect();
        self.claim_gpus(id);
        self.inherit_gpus(id);
        self.renew_lease(now, id, lease_until);
        self.offer(id);
        Connected { fitness_before, forgotten }
    }

    /// A connection is gone. The lease still runs.
    pub(crate) fn disconnect(&mut self, id: AgentId, session: Session) {
        if let Some(agent) = self.by_id.get_mut(&id).filter(|agent| agent.session == Some(session)) {
            agent.session = None;
            self.slots.remove_agent(id);
        }
    }

    /// Renews the lease of an agent that spoke, unless it spoke by an old connection.
    pub(crate) fn hear(&mut self, now: Time, id: AgentId, session: Session, lease_until: Time) -> Heard {
        let Some(agent) = self.get(id).filter(|agent| agent.session == Some(session)) else {
            return Heard::OldSession;
        };
        let was_lost = agent.state() == AgentState::Lost;
        self.renew_lease(now, id, lease_until);
        if !was_lost {
            return Heard::Renewed;
        }
        self.claim_gpus(id);
        self.offer(id);
        Heard::Returned
    }

    fn renew_lease(&mut self, now: Time, id: AgentId, until: Time) {
        let Some(agent) = self.by_id.get_mut(&id) else { return };
        agent.last_seen = now;
        if let Some(lost) = agent.record.lost.take() {
            self.deadlines.lost.remove(lost, id);
        }
        if let Some(old) = agent.lease_until.replace(until) {
            self.deadlines.leases.remove(old, id);
        }
        self.deadlines.leases.add(until, id);
    }

    /// The next agent that was silent for longer than its lease: it is lost from now on, and its GPUs are those of
    /// whoever else offers them. `None` when there is none.
    pub(crate) fn end_next_lease(&mut self, now: Time) -> Option<LeaseOver> {
        let id = self.deadlines.leases.due(now)?;
        self.deadlines.leases.pop();
        self.slots.remove_agent(id);
        let agent = self.by_id.get_mut(&id)?;
        agent.lease_until = None;
        // An agent that was lost before a restart of the scheduler is lost since then.
        let is_news = agent.record.lost.is_none();
        let lost = *agent.record.lost.get_or_insert(now);
        self.deadlines.lost.add(lost, id);
        self.give_gpus_up(id);
        let agent = self.by_id.get(&id)?;
        let (session, last_seen, attempts) = (agent.session, agent.last_seen, agent.live().collect());
        Some(LeaseOver { id, session, last_seen, is_news, attempts })
    }

    /// Since when the agent is lost that has been so for longest.
    pub(crate) fn longest_lost(&self) -> Option<Time> {
        self.deadlines.lost.next()
    }

    /// Forgets the agent that has been lost for longest. Nothing runs there any more.
    pub(crate) fn forget_longest_lost(&mut self) -> Option<Agent> {
        let id = self.deadlines.lost.pop()?;
        self.remove(id)
    }

    /// A person forgets an agent.
    pub(crate) fn set_forgotten(&mut self, id: AgentId) {
        if let Some(agent) = self.by_id.get_mut(&id) {
            agent.is_forgotten = true;
        }
    }

    /// Takes out an agent that a person has forgotten, if it is not connected and nothing runs there any more.
    pub(crate) fn remove_forgotten(&mut self, id: AgentId) -> Option<Agent> {
        let agent = self.by_id.get(&id)?;
        if !agent.is_forgotten || agent.session.is_some() || agent.live().next().is_some() {
            return None;
        }
        self.remove(id)
    }

    fn remove(&mut self, id: AgentId) -> Option<Agent> {
        self.change_name(id, "");
        let agent = self.by_id.remove(&id)?;
        self.slots.remove_agent(id);
        self.statuses.note(id, &agent.status, &AgentStatus::default());
        if let Some(until) = agent.lease_until {
            self.deadlines.leases.remove(until, id);
        }
        if let Some(lost) = agent.record.lost {
            self.deadlines.lost.remove(lost, id);
        }
        self.deadlines.forget(id, &agent.record, &agent.cooldowns);
        self.with_duplicates.remove(&id);
        self.give_gpus_up(id);
        Some(agent)
    }

    /// An agent is called `name` from now on; an empty one is none.
    fn change_name(&mut self, id: AgentId, name: &str) {
        let before = self.by_id.get(&id).map(|agent| agent.record.name.as_str());
        if before == Some(name) {
            return;
        }
        if let Some(before) = before
            && let Some(ids) = self.by_name.get_mut(before)
        {
            ids.remove(&id);
            if ids.is_empty() {
                self.by_name.remove(before);
            }
        }
        if !name.is_empty() {
            self.by_name.entry(name.to_owned()).or_default().insert(id);
        }
    }

    /// Takes in what an agent says of itself now. Returns what its machine had until then, by the agent's word.
    pub(crate) fn set_status(&mut self, now: Time, id: AgentId, status: AgentStatus) -> Option<Fitness> {
        let agent = self.by_id.get_mut(&id)?;
        // Most heartbeats change no slot, and there are many.
        let changes_slots = agent.would_change_slots(&status);
        let mut healed = agent.cooling_and_closed();
        self.statuses.note(id, &agent.status, &status);
        agent.clock.note(now, status.fitness.clock);
        let before = agent.set_status(status);
        healed.retain(|slot| !agent.closes(slot));
        if changes_slots {
            self.offer(id);
        }
        // Its agent has found it well since, which ends what was only meant for an agent that says nothing.
        self.end_cooldown(id, &healed);
        Some(before)
    }

    /// An attempt ended since its agent cannot read a path. Returns what the machine had until then, if that is news.
    pub(crate) fn lacks_path(&mut self, id: AgentId, path: &str, message: &str) -> Option<Fitness> {
        let agent = self.by_id.get_mut(&id)?;
        if agent.path_messages.len() < MISSING_PATHS || agent.path_messages.contains_key(path) {
            agent.path_messages.insert(path.to_owned(), message.to_owned());
        }
        let missing = &agent.status.fitness.missing_paths;
        if missing.len() >= MISSING_PATHS || missing.iter().any(|known| known == path) {
            return None;
        }
        let before = agent.status.fitness.clone();
        agent.status.fitness.missing_paths.push(path.to_owned());
        agent.drop_old_path_messages(&before);
        Some(before)
    }
}

/// The changes of the attempts that agents hold.
impl Agents {
    /// An attempt begins on free slots of one agent.
    pub(crate) fn occupy(&mut self, attempt: AttemptId, kind: &Kind, locations: &[Location]) {
        for location in locations {
            self.slots.occupy(kind, location);
            if let Some(agent) = self.by_id.get_mut(&location.agent) {
                agent.running.insert(location.slot.clone(), attempt);
            }
        }
    }

    /// Ends an attempt's hold on its slots.
    pub(crate) fn release(&mut self, id: AgentId, slots: &[Slot]) {
        let Some(agent) = self.by_id.get_mut(&id) else { return };
        for slot in slots {
            agent.running.remove(slot);
            self.has_offered |= self.slots.release(id, slot);
        }
    }

    /// An attempt holds no slot any more, and its results are handed in.
    pub(crate) fn begin_hand_in(&mut self, id: AgentId, attempt: AttemptId) {
        self.change_handing_in(id, |handing_in| handing_in.insert(attempt));
    }

    /// An attempt that holds no slot is over.
    pub(crate) fn end_hand_in(&mut self, id: AgentId, attempt: AttemptId) {
        self.change_handing_in(id, |handing_in| handing_in.remove(&attempt));
    }

    fn change_handing_in(&mut self, id: AgentId, change: impl FnOnce(&mut BTreeSet<AttemptId>) -> bool) {
        let Some(agent) = self.by_id.get_mut(&id) else { return };
        // Only around the limit anything is closed or opened by it.
        let is_near = agent.handing_in.len() + 1 >= HANDING_IN_MAX;
        change(&mut agent.handing_in);
        if is_near {
            self.offer(id);
        }
    }

    /// Notes that the agent's session is told to end an attempt; `false` when it was told before.
    pub(crate) fn tell_to_leave(&mut self, id: AgentId, attempt: AttemptId) -> bool {
        self.by_id.get_mut(&id).is_some_and(|agent| agent.told_to_leave.insert(attempt))
    }

    /// Whether the agent's session was told to end an attempt, which is over now.
    pub(crate) fn take_told_to_leave(&mut self, id: AgentId, attempt: AttemptId) -> bool {
        self.by_id.get_mut(&id).is_some_and(|agent| agent.told_to_leave.remove(&attempt))
    }
}

/// For tests of the invariants, which break an index to see that it is found.
#[cfg(test)]
impl Agents {
    pub(crate) fn slots_mut(&mut self) -> &mut Slots {
        &mut self.slots
    }

    pub(crate) fn deadlines_mut(&mut self) -> &mut AgentDeadlines {
        &mut self.deadlines
    }
}

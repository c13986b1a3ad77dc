//! Machines that fail fast are always free, and draw every job: they are noticed by what happens on them.
//!
//! A **quick end** is an attempt that ended badly before its first step, or within a minute. When different jobs end
//! so on one agent or one slot, while jobs do well elsewhere, it takes no jobs for a while, which doubles each time.
//! A job that ends so on two agents is what the two have in common: its ends tell nothing of machines, and what was
//! closed because of them alone is opened again.
//!
//! What is counted follows from the jobs that are known. What is closed is stored with its agent, and outlives the
//! agent's sessions and the scheduler.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use trainyard_types::{AgentId, AttemptId, BatchId, DeviceKind, JobId, Slot, Time};

use crate::changes::Changes;
use crate::engine::Core;
use crate::record::{AttemptRecord, JobRecord, Shut};
use crate::state::quick_ends::{WINDOW, did_well, is_to_blame, quick};
use crate::state::slots;

/// How much a slot or an agent must have against it. A job counts one; one that did well elsewhere after it, two;
/// jobs of one batch that did not, one together.
const ENOUGH: u32 = 3;
/// How long a slot is closed the first time, and at most.
const FIRST: Duration = Duration::from_secs(600);
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// Jobs that ended last which are asked whether they did well.
const ASKED: usize = 256;

/// What speaks against a slot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Case {
    points: u32,
    jobs: BTreeSet<JobId>,
    well_elsewhere: usize,
}

impl Core {
    /// An attempt ended quickly, or one that shows that a machine is well: what follows for machines.
    pub(crate) fn judge_machine(&mut self, now: Time, id: AttemptId, out: &mut Changes) {
        let Some(job) = self.jobs.get(&id.job) else { return };
        let Some(attempt) = job.attempts.get(id.number as usize - 1) else { return };
        let is_quick = attempt.ended.as_ref().is_some_and(|end| end.quick);
        let (agent, is_well) = (attempt.agent, attempt.ended.is_some() && did_well(job, attempt));
        let slots: Vec<Slot> = attempt.slots().cloned().collect();
        let others: BTreeSet<AgentId> = quick(job).map(|(attempt, _)| attempt.agent).collect();
        if is_quick {
            self.quick_ends.note(job);
        }
        if is_well {
            self.is_well(agent, &slots, out);
        }
        if is_quick && others.len() > 1 {
            for agent in &others {
                self.open_wrongly_shut(*agent, out);
            }
        } else {
            for agent in others {
                self.close_suspects(now, agent, out);
            }
        }
    }

    /// A slot that was closed and opened again has proved itself.
    fn is_well(&mut self, id: AgentId, slots: &[Slot], out: &mut Changes) {
        let Some(agent) = self.agents.get_mut(&id) else { return };
        let before = agent.record.shut.len();
        agent.record.shut.retain(|slot, shut| shut.until.is_some() || !slots.contains(slot));
        if agent.record.shut.len() != before {
            out.touch_agent(id);
        }
    }

    /// What speaks against each slot of an agent, since it was last closed.
    fn cases(&self, now: Time, id: AgentId) -> BTreeMap<Slot, Case> {
        let Some(agent) = self.agents.get(&id) else { return BTreeMap::new() };
        let mut cases: BTreeMap<Slot, Case> = BTreeMap::new();
        let mut batches: BTreeSet<(Slot, BatchId)> = BTreeSet::new();
        for (time, attempt, slot) in self.quick_ends.on(id, now) {
            let Some(job) = self.jobs.get(&attempt.job).filter(|job| !is_to_blame(job)) else { continue };
            if agent.record.shut.get(slot).is_some_and(|shut| time <= shut.since) {
                continue;
            }
            let case = cases.entry(slot.clone()).or_default();
            if !case.jobs.insert(job.id) {
                continue;
            }
            let later = job.attempts.iter().filter(|later| later.id.number > attempt.number);
            let well = later.filter(|later| later.agent != id).any(|later| did_well(job, later));
            case.well_elsewhere += usize::from(well);
            let batch = job.batch.as_ref().map(|place| (slot.clone(), place.batch.id));
            let counts = well || batch.is_none_or(|batch| batches.insert(batch));
            case.points += if well { 2 } else { u32::from(counts) };
        }
        cases
    }

    /// Closes what has enough against it.
    fn close_suspects(&mut self, now: Time, id: AgentId, out: &mut Changes) {
        let cases = self.cases(now, id);
        let Some(agent) = self.agents.get(&id) else { return };
        let enough = |slot: &Slot| match agent.record.shut.get(slot) {
            Some(shut) if shut.times > 0 => 1,
            Some(_) | None => ENOUGH,
        };
        let is_open = |slot: &Slot| agent.record.shut.get(slot).is_none_or(|shut| shut.until.is_none());
        let points: u32 = cases.values().map(|case| case.points).sum();
        let here = |attempt: &AttemptRecord| attempt.agent == id;
        let elsewhere = || self.does_well(now, |attempt| !here(attempt));
        let wanted: Vec<Slot> = if points >= ENOUGH && !self.does_well(now, here) {
            // Where nothing else does well, it may be the jobs, their data or the network.
            if !elsewhere() {
                return;
            }
            let kinds: BTreeSet<DeviceKind> = cases.keys().map(kind_of).collect();
            let inventory = slots::of_inventory(&agent.record.inventory).into_keys();
            inventory.filter(|slot| kinds.contains(&kind_of(slot)) && is_open(slot)).collect()
        } else {
            let guilty = cases.iter().filter(|(slot, case)| is_open(slot) && case.points >= enough(slot));
            let guilty: Vec<Slot> = guilty.map(|(slot, _)| slot.clone()).collect();
            let beside = || self.does_well(now, |attempt| here(attempt) && !guilty.contains(&attempt.slot));
            if guilty.is_empty() || !(elsewhere() || beside()) {
                return;
            }
            guilty
        };
        let jobs: BTreeSet<JobId> = cases.values().flat_map(|case| &case.jobs).copied().collect();
        let well: usize = cases.values().map(|case| case.well_elsewhere).sum();
        self.shut(now, id, wanted, jobs.len(), well, out);
    }

    /// Whether an attempt there does well, of late.
    fn does_well(&self, now: Time, is_there: impl Fn(&AttemptRecord) -> bool) -> bool {
        self.of_late(now).any(|(job, attempt)| is_there(attempt) && did_well(job, attempt))
    }

    /// The newest attempts of jobs that run, and of those that ended last.
    fn of_late(&self, now: Time) -> impl Iterator<Item = (&JobRecord, &AttemptRecord)> {
        let running =
            self.agents.values().flat_map(|agent| agent.running.values()).map(|attempt| attempt.job);
        let ended = self.index.finished().iter().rev().take(ASKED);
        let ended = ended.take_while(move |(time, _)| now.since(*time) < WINDOW).map(|&(_, job)| job);
        let jobs = running.chain(ended).filter_map(|job| self.jobs.get(&job));
        jobs.filter_map(|job| Some((job, job.attempts.last()?)))
    }

    fn shut(
        &mut self,
        now: Time,
        id: AgentId,
        slots: Vec<Slot>,
        jobs: usize,
        well: usize,
        out: &mut Changes,
    ) {
        if slots.is_empty() {
            return;
        }
        self.withdraw_slots(id);
        let Some(agent) = self.agents.get_mut(&id) else { return };
        let name = &agent.record.name;
        let elsewhere = if well > 0 { format!(", {well} of which do well elsewhere") } else { String::new() };
        let ended = if jobs == 1 { "1 job ended".to_owned() } else { format!("{jobs} jobs ended") };
        let why = format!(
            "{ended} there before or soon after the first step{elsewhere}; look at the machine; it is tried again by \
             itself, and at once after `yard agents clear {name}`"
        );
        for slot in slots {
            let times = agent.record.shut.get(&slot).map_or(0, |shut| shut.times);
            let span = FIRST.saturating_mul(1 << times.min(16)).min(LONGEST);
            let until = now + span;
            let shut = Shut { until: Some(until), times: times + 1, since: now, why: why.clone() };
            if let Some(Shut { until: Some(before), .. }) = agent.record.shut.insert(slot.clone(), shut) {
                self.deadlines.shut.remove(before, (id, slot.clone()));
            }
            self.deadlines.shut.add(until, (id, slot));
            self.tally.shut += 1;
        }
        out.touch_agent(id);
        self.offer_slots(id, out);
    }

    /// All jobs that speak against an agent are to blame themselves: what was closed for them is opened.
    fn open_wrongly_shut(&mut self, id: AgentId, out: &mut Changes) {
        let Some(agent) = self.agents.get(&id) else { return };
        let is_blamed = |attempt: AttemptId| self.jobs.get(&attempt.job).is_none_or(is_to_blame);
        let wrong: Vec<Slot> = agent
            .record
            .shut
            .iter()
            .filter(|(_, shut)| shut.until.is_some())
            .filter(|(_, shut)| {
                let mut before = self.quick_ends.on(id, shut.since).peekable();
                before.peek().is_some() && before.all(|(_, attempt, _)| is_blamed(attempt))
            })
            .map(|(slot, _)| slot.clone())
            .collect();
        self.open(id, &wrong, None, out);
    }

    /// Opens closed slots. They stay on probation from that time on, if there is one.
    pub(crate) fn open(
        &mut self,
        id: AgentId,
        slots: &[Slot],
        probation: Option<(Time, bool)>,
        out: &mut Changes,
    ) {
        if slots.is_empty() {
            return;
        }
        self.withdraw_slots(id);
        if let Some(agent) = self.agents.get_mut(&id) {
            for slot in slots {
                let Some(mut shut) = agent.record.shut.remove(slot) else { continue };
                if let Some(until) = shut.until.take() {
                    self.deadlines.shut.remove(until, (id, slot.clone()));
                }
                if let Some((since, is_cleared)) = probation {
                    shut.since = since;
                    shut.times = if is_cleared { 0 } else { shut.times };
                    agent.record.shut.insert(slot.clone(), shut);
                }
            }
        }
        out.touch_agent(id);
        self.offer_slots(id, out);
    }

    /// Opens the next slot whose time is over; `false` when there is none.
    pub(crate) fn open_due(&mut self, now: Time, out: &mut Changes) -> bool {
        let Some((id, slot)) = self.deadlines.shut.due(now) else { return false };
        self.open(id, &[slot], Some((now, false)), out);
        true
    }

    /// Slots that are closed because of quick ends.
    pub fn shut_slots(&self) -> usize {
        self.deadlines.shut.len()
    }
}

fn kind_of(slot: &Slot) -> DeviceKind {
    match slot {
        Slot::Gpu(_) => DeviceKind::Gpu,
        Slot::Cpu(_) => DeviceKind::Cpu,
    }
}

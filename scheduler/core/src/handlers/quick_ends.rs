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

use trainyard_types::{AgentId, AttemptId, DeviceKind, EndReason, JobGroupId, JobId, Slot, Time};

use crate::changes::Changes;
use crate::engine::Core;
use crate::record::{AttemptRecord, JobRecord};
use crate::state::agents::closures::Reopening;
use crate::state::quick_ends::{WINDOW, did_well, is_to_blame, quick};
use crate::state::slots;

/// How much a slot or an agent must have against it. A job counts one; one that did well elsewhere after it, two;
/// jobs of one group that did not, one together.
const ENOUGH: u32 = 3;
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
    /// Starts the cooldown of slots that are not to be used for a while after the end of an attempt, by the agent's
    /// word for it. Its slots are free, and may be another's by now.
    pub(crate) fn start_cooldown(&mut self, now: Time, attempt: AttemptId, reason: EndReason) {
        let newest = self.jobs.get(attempt.job).and_then(|job| job.attempts.last());
        let Some(ended) = newest.filter(|newest| newest.id == attempt) else { return };
        let was_told = self.agents.take_told_to_leave(ended.agent, attempt);
        let Some(agent) = self.agents.get(ended.agent) else { return };
        let slots = agent.suspect_slots(ended, reason, was_told);
        if !slots.is_empty() {
            self.agents.start_cooldown(ended.agent, slots, now + self.config.retry_delay_max);
        }
    }

    /// An attempt ended quickly, or one that shows that a machine is well: what follows for machines.
    pub(crate) fn judge_machine(&mut self, now: Time, id: AttemptId, out: &mut Changes) {
        let Some(job) = self.jobs.get(id.job) else { return };
        let Some(attempt) = job.attempts.get(id.number as usize - 1) else { return };
        let is_quick = attempt.ended.as_ref().is_some_and(|end| end.quick);
        let (agent, is_well) = (attempt.agent, attempt.ended.is_some() && did_well(job, attempt));
        let slots: Vec<Slot> = attempt.slots().cloned().collect();
        let others: BTreeSet<AgentId> = quick(job).map(|(attempt, _)| attempt.agent).collect();
        // Slots that were closed and opened again have proved themselves.
        if is_well && self.agents.end_probation(agent, &slots) {
            out.touch_agent(agent);
        }
        if is_quick && others.len() > 1 {
            for agent in &others {
                self.acquit(*agent, out);
            }
        } else {
            for agent in others {
                self.close_suspects(now, agent, out);
            }
        }
    }

    /// What speaks against each slot of an agent, since it was last closed.
    fn cases(&self, now: Time, id: AgentId) -> BTreeMap<Slot, Case> {
        let Some(agent) = self.agents.get(id) else { return BTreeMap::new() };
        let mut cases: BTreeMap<Slot, Case> = BTreeMap::new();
        let mut groups: BTreeSet<(Slot, JobGroupId)> = BTreeSet::new();
        for (time, attempt, slot) in self.jobs.quick_ends().on(id, now) {
            let Some(job) = self.jobs.get(attempt.job).filter(|job| !is_to_blame(job)) else { continue };
            if agent.record().shut.get(slot).is_some_and(|shut| time <= shut.since) {
                continue;
            }
            let case = cases.entry(slot.clone()).or_default();
            if !case.jobs.insert(job.id) {
                continue;
            }
            let later = job.attempts.iter().filter(|later| later.id.number > attempt.number);
            let well = later.filter(|later| later.agent != id).any(|later| did_well(job, later));
            case.well_elsewhere += usize::from(well);
            let group = job.group.as_ref().map(|member| (slot.clone(), member.group.id));
            let counts = well || group.is_none_or(|group| groups.insert(group));
            case.points += if well { 2 } else { u32::from(counts) };
        }
        cases
    }

    /// Closes what has enough against it.
    fn close_suspects(&mut self, now: Time, id: AgentId, out: &mut Changes) {
        let cases = self.cases(now, id);
        let Some(agent) = self.agents.get(id) else { return };
        let enough = |slot: &Slot| match agent.record().shut.get(slot) {
            Some(shut) if shut.times > 0 => 1,
            Some(_) | None => ENOUGH,
        };
        let is_open = |slot: &Slot| agent.record().shut.get(slot).is_none_or(|shut| shut.until.is_none());
        let points: u32 = cases.values().map(|case| case.points).sum();
        let here = |attempt: &AttemptRecord| attempt.agent == id;
        let elsewhere = || self.does_well(now, |attempt| !here(attempt));
        let wanted: Vec<Slot> = if points >= ENOUGH && !self.does_well(now, here) {
            // Where nothing else does well, it may be the jobs, their data or the network.
            if !elsewhere() {
                return;
            }
            let kinds: BTreeSet<DeviceKind> = cases.keys().map(kind_of).collect();
            let inventory = slots::of_inventory(&agent.record().inventory).into_keys();
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
            self.agents.iter().flat_map(|(_, agent)| agent.running().values()).map(|attempt| attempt.job);
        let ended = self.jobs.by_state().finished().iter().rev().take(ASKED);
        let ended = ended.take_while(move |(time, _)| now.since(*time) < WINDOW).map(|&(_, job)| job);
        let jobs = running.chain(ended).filter_map(|job| self.jobs.get(job));
        jobs.filter_map(|job| Some((job, job.attempts.last()?)))
    }

    /// Closes slots of an agent, on which so many jobs ended; so many of them do well elsewhere.
    fn shut(
        &mut self,
        now: Time,
        id: AgentId,
        slots: Vec<Slot>,
        jobs: usize,
        well: usize,
        out: &mut Changes,
    ) {
        let Some(agent) = self.agents.get(id).filter(|_| !slots.is_empty()) else { return };
        let name = agent.name();
        let elsewhere = if well > 0 { format!(", {well} of which do well elsewhere") } else { String::new() };
        let ended = if jobs == 1 { "1 job ended".to_owned() } else { format!("{jobs} jobs ended") };
        let why = format!(
            "{ended} there before or soon after the first step{elsewhere}; look at the machine; it is tried again by \
             itself, and at once after `yard agents clear {name}`"
        );
        self.counters.slots_shut += slots.len() as u64;
        self.agents.shut(now, id, slots, &why);
        out.touch_agent(id);
    }

    /// All jobs that speak against an agent are to blame themselves: what was closed for them is opened.
    fn acquit(&mut self, id: AgentId, out: &mut Changes) {
        let Some(agent) = self.agents.get(id) else { return };
        let is_blamed = |attempt: AttemptId| self.jobs.get(attempt.job).is_none_or(is_to_blame);
        let shut = agent.record().shut.iter().filter(|(_, shut)| shut.until.is_some());
        let wrong = shut.filter(|(_, shut)| {
            let mut before = self.jobs.quick_ends().on(id, shut.since).peekable();
            before.peek().is_some() && before.all(|(_, attempt, _)| is_blamed(attempt))
        });
        let wrong: Vec<Slot> = wrong.map(|(slot, _)| slot.clone()).collect();
        self.reopen(id, &wrong, Reopening::Acquitted, out);
    }

    /// Opens closed slots.
    pub(crate) fn reopen(&mut self, id: AgentId, slots: &[Slot], reopening: Reopening, out: &mut Changes) {
        if !slots.is_empty() {
            self.agents.reopen(id, slots, reopening);
            out.touch_agent(id);
        }
    }

    /// Slots that are closed because of quick ends.
    pub fn shut_slots(&self) -> usize {
        self.agents.shut_slots()
    }
}

fn kind_of(slot: &Slot) -> DeviceKind {
    match slot {
        Slot::Gpu(_) => DeviceKind::Gpu,
        Slot::Cpu(_) => DeviceKind::Cpu,
    }
}

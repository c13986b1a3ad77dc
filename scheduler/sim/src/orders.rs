//! What people do to machines: owners come back to their GPUs, and somebody drains and reserves.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use trainyard_scheduler_core::{AgentStatus, Command, Event};
use trainyard_types::{AgentId, GpuUuid, Session, Slot, Time};

use crate::driver::lacks;
use crate::oracle::Violation;
use crate::world::{SimEvent, World};

/// An order, and whether its taking back is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    Drain { keep_running: bool },
    Resume,
    Reserve { gpu: usize, span: Duration },
    Release { gpu: usize },
}

/// What was said about slots: by people, and by agents to whoever leads.
#[derive(Debug, Default)]
pub struct ClosedSlots {
    /// A drain was acknowledged, and nobody wants it back.
    drained: BTreeSet<AgentId>,
    /// Until when, by the scheduler's clock.
    reserved: BTreeMap<(AgentId, GpuUuid), Time>,
    /// By leader epoch: the newest session, and what it said against GPUs, or all of them.
    closed: BTreeMap<(u64, AgentId), (Session, AgentStatus)>,
}

impl ClosedSlots {
    /// A leader is handed what an agent says by that session; `is_first` of a new one.
    pub(crate) fn on_status(
        &mut self,
        leader_epoch: u64,
        agent: AgentId,
        session: Session,
        status: &AgentStatus,
        is_first: bool,
    ) {
        let known = self.closed.entry((leader_epoch, agent)).or_insert((session, AgentStatus::default()));
        // Of an older session nobody takes note.
        if known.0 < session && is_first || known.0 == session {
            *known = (session, status.clone());
        }
    }

    /// An agent was forgotten, and what was ordered of it; with its sessions what it said by them.
    pub(crate) fn forget(&mut self, agent: AgentId) {
        self.drained.remove(&agent);
        self.reserved.retain(|(one, _), _| *one != agent);
        self.closed.retain(|(_, one), _| *one != agent);
    }

    /// Nothing new begins where somebody said that nothing may.
    pub(crate) fn check(
        &mut self,
        leader_epoch: u64,
        now: Time,
        commands: &[Command],
    ) -> Result<(), Violation> {
        // A leader whose clock is ahead ends reservations, and the next one does not bring them back.
        self.reserved.retain(|_, until| now < *until);
        for command in commands {
            let Command::Assign { agent, assignment, .. } = command else { continue };
            let (_, status) = self
                .closed
                .get(&(leader_epoch, *agent))
                .cloned()
                .unwrap_or((Session(0), AgentStatus::default()));
            let says_no = match &assignment.slot {
                Slot::Gpu(gpu) => {
                    let reserved = self.reserved.get(&(*agent, gpu.clone()));
                    reserved.is_some_and(|until| now < *until)
                        || status
                            .telemetry
                            .iter()
                            .any(|sample| sample.uuid == *gpu && sample.unavailable.is_some())
                }
                Slot::Cpu(_) => false,
            };
            if lacks(&status.fitness, &assignment.spec.train.data) {
                return Err(Violation::Unseen(assignment.attempt));
            }
            if self.drained.contains(agent) || !status.unavailable.is_empty() || says_no {
                return Err(Violation::ClosedSlot(assignment.attempt));
            }
        }
        Ok(())
    }
}

impl World {
    /// Somebody orders something of a machine, until the scheduler has it.
    pub(crate) fn on_order(&mut self, number: usize, order: Order) -> Result<(), Violation> {
        let begins = matches!(order, Order::Drain { .. } | Order::Reserve { .. });
        if begins && !self.faults {
            return Ok(()); // Too late: the faults are over.
        }
        let agent = self.machines[number].id();
        let Some(core) = &self.core else {
            self.retry_later(SimEvent::Order(number, order));
            return Ok(());
        };
        if core.agent(agent).is_none() {
            return Ok(()); // It has never been there.
        }
        let gpu = |gpu: usize| self.machines[number].gpu(gpu);
        // Whoever takes an order back does not count on it any more.
        let event = match order {
            Order::Drain { keep_running } => Event::Drain { agent, keep_running },
            Order::Resume => {
                self.closed_slots.drained.remove(&agent);
                Event::Resume { agent }
            }
            Order::Reserve { gpu: at, span } => {
                let gpus = gpu(at).into_iter().collect();
                Event::Reserve { agent, gpus, span }
            }
            Order::Release { gpu: at } => {
                let gpus: Vec<GpuUuid> = gpu(at).into_iter().collect();
                for gpu in &gpus {
                    self.closed_slots.reserved.remove(&(agent, gpu.clone()));
                }
                Event::Release { agent, gpus }
            }
        };
        let until = self.clock();
        let reply = self.handle(event)?;
        if !matches!(reply, Some(Ok(_))) {
            self.retry_later(SimEvent::Order(number, order));
            return Ok(());
        }
        match order {
            Order::Drain { .. } => drop(self.closed_slots.drained.insert(agent)),
            Order::Reserve { gpu, span } => {
                if let Some(gpu) = self.machines[number].gpu(gpu) {
                    self.closed_slots.reserved.insert((agent, gpu), until + span);
                }
            }
            Order::Resume | Order::Release { .. } => {}
        }
        Ok(())
    }

    /// Somebody drains a machine or reserves a GPU, and takes it back later.
    pub(crate) fn order_something(&mut self, number: usize) {
        let back = self.rng.millis(5000, 120_000);
        let gpu = usize::try_from(self.rng.below(3)).unwrap_or(0);
        let (order, end) = match self.rng.below(4) {
            0 | 1 => (Order::Drain { keep_running: self.rng.once_in(3) }, Order::Resume),
            _ => {
                let span = self.rng.millis(60_000, 200_000);
                (Order::Reserve { gpu, span }, Order::Release { gpu })
            }
        };
        self.summary.orders += 1;
        self.event_queue.after(Duration::ZERO, SimEvent::Order(number, order));
        self.event_queue.after(back, SimEvent::Order(number, end));
    }

    /// All orders are taken back.
    pub(crate) fn end_orders(&mut self) {
        for number in 0..self.machines.len() {
            self.event_queue.after(Duration::ZERO, SimEvent::Order(number, Order::Resume));
            for gpu in 0..3 {
                self.event_queue.after(Duration::ZERO, SimEvent::Order(number, Order::Release { gpu }));
            }
            self.machines[number].open_all();
        }
    }

    /// An owner comes or goes, a GPU fails or is well again: the agent says so at once, and then ends what
    /// is in the way.
    pub(crate) fn move_owner(&mut self, number: usize) {
        if !self.machines[number].up || self.machines[number].paused {
            return;
        }
        let gpu = usize::try_from(self.rng.below(4)).unwrap_or(0);
        let ended = self.machines[number].move_owner(self.event_queue.now(), gpu);
        for report in &ended {
            self.oracle.preempted(report.attempt);
        }
        self.summary.orders += 1;
        if let Some(id) = self.machines[number].connection {
            let status = self.machines[number].status();
            self.send_from_agent(id, crate::network::AgentMessage::Heartbeat(status));
        }
        self.tell(number, ended);
    }
}

//! What goes wrong, drawn from the seed, and how it ends.

use std::time::Duration;

use crate::driver::CrashPoint;
use crate::network::Connection;
use crate::oracle::Violation;
use crate::world::{SimEvent, World};

impl World {
    /// One fault, and the plan for the next.
    pub(crate) fn on_fault(&mut self) -> Result<(), Violation> {
        if !self.faults {
            return Ok(());
        }
        let number = usize::try_from(self.rng.below(self.machines.len() as u64)).unwrap_or(0);
        match self.rng.below(if self.has_machine_faults { 58 } else { 46 }) {
            0..=2 => self.crash_next = Some(CrashPoint::BeforeWriting),
            3..=5 => self.crash_next = Some(CrashPoint::AfterWriting),
            6..=8 => self.crash(),
            9..=14 => self.cut_machine(number, Duration::from_secs(2)),
            // A link that swallows everything: each end finds out late, the scheduler by the lease.
            15..=17 => self.cut_machine(number, Duration::from_secs(90)),
            18..=20 => self.kill_machine(number),
            // The first machine stays: it can run every job.
            21 if number > 0 => self.remove_machine(number),
            22..=24 => self.drain_machine(number),
            25..=27 => self.pause_machine(number),
            28..=30 => self.cut_machine_one_way(number),
            34..=37 => self.order_something(number),
            38..=45 => self.move_owner(number),
            46..=57 => self.start_machine_fault(number),
            _ => self.take_over()?,
        }
        self.event_queue.after(self.rng.millis(500, 40_000), SimEvent::Fault);
        Ok(())
    }

    /// No new faults. Sessions are opened anew, which ends what is in cooldown in them.
    pub(crate) fn on_heal(&mut self) {
        self.faults = false;
        self.crash_next = None;
        self.end_orders();
        for number in 0..self.machines.len() {
            self.event_queue.after(Duration::ZERO, SimEvent::Recovers(number));
            self.cut_machine(number, Duration::from_secs(2));
        }
    }

    fn cut_machine(&mut self, number: usize, notice: Duration) {
        if let Some(id) = self.machines[number].connection
            && self.connections.get(&id).is_some_and(Connection::is_open)
        {
            self.summary.cuts += 1;
            self.cut(id, notice);
        }
    }

    fn cut_machine_one_way(&mut self, number: usize) {
        if let Some(id) = self.machines[number].connection
            && self.connections.get(&id).is_some_and(Connection::is_open)
        {
            self.summary.cuts += 1;
            self.cut_one_way(id, Duration::from_secs(90));
        }
    }

    fn kill_machine(&mut self, number: usize) {
        if self.machines[number].up {
            self.summary.agent_faults += 1;
            let disk_lost = self.rng.once_in(3);
            self.kill(number, disk_lost, true);
        }
    }

    /// The machine never comes back.
    fn remove_machine(&mut self, number: usize) {
        if self.machines[number].up {
            self.summary.agent_faults += 1;
            self.kill(number, true, false);
        }
    }

    /// It hands its jobs back and exits a little later.
    fn drain_machine(&mut self, number: usize) {
        if self.machines[number].up && !self.machines[number].paused {
            self.summary.agent_faults += 1;
            let told = self.machines[number].drain(self.event_queue.now());
            self.tell(number, told);
            let life = self.machines[number].life;
            self.event_queue.after(self.rng.millis(0, 5000), SimEvent::AgentExits(number, life));
        }
    }

    /// It hears and says nothing for a while, and its connection holds.
    fn pause_machine(&mut self, number: usize) {
        if self.machines[number].up && !self.machines[number].paused {
            self.summary.agent_faults += 1;
            self.machines[number].paused = true;
            self.event_queue.after(self.rng.millis(1000, 90_000), SimEvent::AgentWakes(number));
        }
    }
}

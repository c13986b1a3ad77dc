//! What the agent decides: the life of each attempt on this machine.
//!
//! Must not know: processes, files, the network, the clock. [`Core::handle`] is given what happened and
//! returns what to do; the driver does it, in order.
//!
//! ```text
//!  assigned ──► Waiting ──► Preparing ──► Running ──► Stopping ──► Killed
//!                  │            │            └───────────┴───────────┘
//!                  │            │                        │ the trainer is gone, and the slot is free
//!                  │            │           ┌────────────┼─────────────┐
//!                  │            │           ▼            ▼             │
//!                  │            │       Publishing     Saving          │
//!                  │            │      (artifacts)  (checkpoint)       │
//!                  │            │           │            ▼             ▼
//!                  │            └───────────│─────► TestingDevice, where the machine is to blame
//!                  ▼                        ▼            ▼
//!               Ended ◄──────────────────────────────────┘  reported, until acknowledged
//!
//!  A revoked attempt is forgotten at once, or, while its trainer lives, is `Revoked` until it is gone. A trainer
//!  that does not even die of SIGKILL is given up on: its attempt ends, and its slot is closed until it is gone.
//! ```

mod attempt;
mod command;
mod gpu_orders;
mod hand_in;
mod loader_workers;
mod outcome;
mod pictures;
mod shutdown;
mod stall;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use trainyard_types::trainer::{Log, LogLevel, TrainerEvent};
use trainyard_types::{Assignment, AttemptId, EndReason, GpuUuid, ReportBody, Slot, Time};

use crate::host::pressure::MemoryPressure;
use crate::message::{Event, Exit, HostReading, Prepared, Refusal};
use attempt::{Attempt, State};
pub use command::Command;
use gpu_orders::ABANDON_AFTER;
use loader_workers::change_workers;
use outcome::{Outcome, outcome};

/// Spans of time that the configuration sets.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// From SIGTERM to SIGKILL of a trainer.
    pub stop_grace: Duration,
    /// From the begin of a shutdown until the agent ends, whatever still runs.
    pub shutdown_grace: Duration,
    /// At most so often a running job's checkpoint is uploaded.
    pub checkpoint_upload_every: Duration,
    /// At least so long a trainer may show no progress.
    pub stall_after: Duration,
}

/// Every attempt of this agent.
#[derive(Debug)]
pub struct Core {
    limits: Limits,
    attempts: BTreeMap<AttemptId, Attempt>,
    connected: bool,
    /// GPUs that take no attempt.
    closed: BTreeMap<GpuUuid, Refusal>,
    /// How an attempt ends that comes to a CPU slot.
    cpu_closed: Option<Refusal>,
    /// Why the disk takes no attempt.
    disk_short: Option<String>,
    /// Slots whose trainers do not even die of SIGKILL, each with a sentence.
    stuck: BTreeMap<AttemptId, (Slot, String)>,
    /// A clock of the core's own. It stands still while the machine sleeps, and nobody sets it.
    active_time: Duration,
    /// When the last event came.
    last_event: Option<Time>,
    /// When the last trainer on each GPU ended.
    last_exits: BTreeMap<GpuUuid, Time>,
    /// When a shutdown ends the process at the latest; `None` while nobody has asked for one.
    shutdown_deadline: Option<Time>,
    /// What main memory and processors did last.
    host: HostReading,
    pressure: MemoryPressure,
}

impl Core {
    /// The core of an agent without attempts.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            attempts: BTreeMap::new(),
            connected: false,
            closed: BTreeMap::new(),
            cpu_closed: None,
            disk_short: None,
            stuck: BTreeMap::new(),
            active_time: Duration::ZERO,
            last_event: None,
            last_exits: BTreeMap::new(),
            shutdown_deadline: None,
            host: HostReading::default(),
            pressure: MemoryPressure::default(),
        }
    }

    /// The attempts to name in a Hello.
    pub fn held(&self) -> Vec<AttemptId> {
        let held =
            self.attempts.iter().filter(|(_, attempt)| !matches!(attempt.state, State::Revoked { .. }));
        held.map(|(id, _)| *id).collect()
    }

    /// Whether an attempt reads its data set and weights, or will.
    pub fn reads_data(&self, id: AttemptId) -> bool {
        self.attempts.get(&id).is_some_and(Attempt::reads_data)
    }

    /// When the next [`Event::Tick`] is due.
    pub fn next_deadline(&self) -> Option<Time> {
        let kills = self.attempts.values().filter_map(|attempt| match attempt.state {
            State::Stopping { kill_at } => Some(kill_at),
            State::Killed { abandon_at } | State::Revoked { abandon_at } => Some(abandon_at),
            _ => None,
        });
        kills.chain(self.shutdown_deadline).min()
    }

    /// Takes what happened, returns what to do.
    pub fn handle(&mut self, now: Time, event: Event) -> Vec<Command> {
        let mut out = Vec::new();
        self.advance_clock(now);
        match event {
            Event::Recovered { attempt, ended, hand_in } => {
                self.on_recovered(now, attempt, ended, hand_in, &mut out);
            }
            Event::Connected => self.connected = true,
            Event::Disconnected => self.connected = false,
            Event::Assigned(assignment) => self.on_assigned(now, assignment, &mut out),
            Event::AssignmentUnsupported(attempt, message) => {
                let mut unknown = Attempt::recovered();
                unknown.end(now, attempt, Refusal::too_old(message), &mut out);
                self.attempts.entry(attempt).or_insert(unknown);
            }
            Event::Stop { attempt, reason, grace } => self.on_stop(now, attempt, reason, grace, &mut out),
            Event::GpusClosed(closed) => self.closed = closed,
            Event::CpuClosed(refusal) => self.cpu_closed = refusal,
            Event::DiskShort(why) => self.disk_short = why,
            Event::Gpu(order) => self.on_order(now, &order, &mut out),
            Event::Revoked(attempt) => self.on_revoked(now, attempt, &mut out),
            Event::EndLost(attempt) => self.on_end_lost(now, attempt, &mut out),
            Event::AllAcked(attempt) => self.on_all_acked(attempt, &mut out),
            Event::Fetching(attempt, fetching) => {
                if self.is_preparing(attempt) {
                    out.push(Command::Report(attempt, now, ReportBody::Fetching(fetching)));
                }
            }
            Event::PreparationNote(attempt, level, message) => {
                if self.is_preparing(attempt) {
                    out.push(log(attempt, now, level, message));
                }
            }
            Event::Prepared(attempt, result) => self.on_prepared(now, attempt, result, &mut out),
            Event::SpawnFailed(attempt, refusal) => self.on_spawn_failed(now, attempt, refusal, &mut out),
            Event::Line(attempt, time, event) => self.on_line(now, attempt, time, event, &mut out),
            Event::Exited(attempt, exit) => self.on_exited(now, attempt, &exit, &mut out),
            Event::CheckpointUploaded(attempt, result) => {
                self.on_checkpoint_uploaded(now, attempt, result, &mut out);
            }
            Event::PicturesUploaded(attempt, pictures) => {
                self.on_pictures_uploaded(now, attempt, pictures, &mut out);
            }
            Event::ArtifactsUploaded(attempt, result) => {
                self.on_artifacts_uploaded(now, attempt, result, &mut out);
            }
            Event::HandingIn(attempt, waits_for) => self.on_handing_in(now, attempt, waits_for, &mut out),
            Event::DeviceTested(attempt) => self.on_device_tested(now, attempt, &mut out),
            Event::StallDiagnosed(attempt, evidence) => {
                self.on_stall_diagnosed(now, attempt, &evidence, &mut out);
            }
            Event::Host(reading) => self.on_host(now, reading, &mut out),
            Event::Shutdown => self.on_shutdown(now, &mut out),
            Event::Tick => {}
        }
        self.start_waiting(now, &mut out);
        self.check_deadlines(now, &mut out);
        self.check_for_stalls(&mut out);
        out
    }

    fn on_assigned(&mut self, now: Time, assignment: Box<Assignment>, out: &mut Vec<Command>) {
        let id = assignment.attempt;
        if self.attempts.contains_key(&id) {
            return; // A repeat.
        }
        let mut attempt = Attempt::new(assignment);
        if self.shutdown_deadline.is_some() {
            attempt.end(now, id, Refusal::new(EndReason::Drained, "the agent is shutting down"), out);
        } else if let Some(refusal) = self.refusal(attempt.slot()) {
            attempt.end(now, id, refusal, out);
        }
        self.attempts.insert(id, attempt);
    }

    /// Prepares attempts whose slot and job directory no other attempt uses.
    fn start_waiting(&mut self, now: Time, out: &mut Vec<Command>) {
        let waiting: Vec<AttemptId> = self
            .attempts
            .iter()
            .filter(|(_, attempt)| matches!(attempt.state, State::Waiting))
            .map(|(id, _)| *id)
            .collect();
        for id in waiting {
            let slot = self.attempts[&id].slot().cloned();
            let stuck = self.held_by_a_stuck_trainer(slot.as_ref());
            if let (Some(refusal), Some(attempt)) = (stuck, self.attempts.get_mut(&id)) {
                attempt.end(now, id, refusal, out);
                continue;
            }
            if self.attempts.iter().any(|(other, attempt)| attempt.conflicts(*other, id, slot.as_ref())) {
                continue;
            }
            if let Some(attempt) = self.attempts.get_mut(&id)
                && let Some(assignment) = attempt.assignment.clone()
            {
                attempt.state = State::Preparing;
                out.push(Command::Prepare(assignment));
            }
        }
    }

    fn is_preparing(&self, id: AttemptId) -> bool {
        self.attempts.get(&id).is_some_and(|attempt| matches!(attempt.state, State::Preparing))
    }

    fn on_stop(
        &mut self,
        now: Time,
        id: AttemptId,
        reason: EndReason,
        grace: Option<Duration>,
        out: &mut Vec<Command>,
    ) {
        // A stop for an attempt that is not known crossed with its end.
        let Some(attempt) = self.attempts.get_mut(&id) else { return };
        match attempt.state {
            State::Waiting | State::Preparing => {
                out.push(Command::CancelTransfers(id));
                attempt.end(now, id, Refusal::new(reason, "stopped before the trainer started"), out);
            }
            State::Running => {
                attempt.stop = Some(reason);
                attempt.state = State::Stopping { kill_at: now + grace.unwrap_or(self.limits.stop_grace) };
                out.push(Command::Terminate(id));
            }
            // Its user's word counts more than a drain's.
            State::Stopping { .. } | State::Killed { .. } if reason == EndReason::Cancelled => {
                attempt.stop = Some(reason);
            }
            State::Publishing | State::Saving(_) | State::TestingDevice(_)
                if reason == EndReason::Cancelled =>
            {
                out.push(Command::CancelTransfers(id));
                attempt.end(now, id, Refusal::new(reason, "cancelled"), out);
            }
            // The trainer is gone; what is under way takes no slot and is worth finishing.
            State::Publishing | State::Saving(_) | State::TestingDevice(_) => {}
            State::Stopping { .. } | State::Killed { .. } | State::Ended { .. } | State::Revoked { .. } => {}
        }
    }

    fn on_revoked(&mut self, now: Time, id: AttemptId, out: &mut Vec<Command>) {
        let Some(attempt) = self.attempts.get_mut(&id) else { return };
        out.push(Command::CancelTransfers(id));
        out.push(Command::DropReports(id));
        match attempt.state {
            State::Running | State::Stopping { .. } => {
                attempt.state = State::Revoked { abandon_at: now + ABANDON_AFTER };
                out.push(Command::Kill(id));
            }
            State::Killed { abandon_at } | State::Revoked { abandon_at } => {
                attempt.state = State::Revoked { abandon_at };
            }
            State::Waiting
            | State::Preparing
            | State::Publishing
            | State::Saving(_)
            | State::TestingDevice(_)
            | State::Ended { .. } => {
                self.attempts.remove(&id);
            }
        }
    }

    fn on_all_acked(&mut self, id: AttemptId, out: &mut Vec<Command>) {
        let Some(State::Ended { completed }) = self.attempts.get(&id).map(|attempt| &attempt.state) else {
            return; // Caught up, but more will come.
        };
        if *completed {
            out.push(Command::DropCheckpoints(id));
        }
        out.push(Command::DropReports(id));
        self.attempts.remove(&id);
    }

    fn on_prepared(
        &mut self,
        now: Time,
        id: AttemptId,
        result: Result<Prepared, Refusal>,
        out: &mut Vec<Command>,
    ) {
        let Some(attempt) = self.attempts.get_mut(&id) else { return };
        let (State::Preparing, Some(assignment)) = (&attempt.state, attempt.assignment.clone()) else {
            return; // Stopped meanwhile.
        };
        match result {
            Ok(prepared) => {
                attempt.state = State::Running;
                attempt.begin(prepared.clone(), self.active_time);
                out.push(Command::Announce(prepared.lines.clone()));
                for line in &prepared.lines {
                    out.push(log(id, now, LogLevel::Info, line.clone()));
                }
                out.push(Command::Report(id, now, ReportBody::BatchChosen(prepared.chosen.clone())));
                out.push(Command::Spawn(assignment, prepared));
            }
            Err(refusal) => attempt.test_device_and_end(now, id, refusal, out),
        }
    }

    fn on_spawn_failed(&mut self, now: Time, id: AttemptId, refusal: Refusal, out: &mut Vec<Command>) {
        let Some(attempt) = self.attempts.get_mut(&id) else { return };
        match attempt.state {
            State::Revoked { .. } => {
                self.attempts.remove(&id);
            }
            _ => attempt.test_device_and_end(now, id, refusal, out),
        }
    }

    fn on_line(&mut self, now: Time, id: AttemptId, time: Time, event: TrainerEvent, out: &mut Vec<Command>) {
        let Some(attempt) = self.attempts.get_mut(&id) else { return };
        if !matches!(attempt.state, State::Running | State::Stopping { .. } | State::Killed { .. }) {
            return; // Revoked: nobody wants to know.
        }
        if let TrainerEvent::Beat(beat) = event {
            attempt.stall_watch.on_beat(self.active_time, beat); // For the agent alone.
            return;
        }
        attempt.stall_watch.on_line(self.active_time);
        out.push(Command::Report(id, time, ReportBody::Trainer(event.clone())));
        if updates_fit_records(&event) {
            out.push(Command::UpdateFitRecords(id, event.clone()));
        }
        match event {
            TrainerEvent::Checkpoint(saved) => {
                attempt.checkpoint = Some(saved);
                attempt.try_upload(now, id, self.limits.checkpoint_upload_every, out);
            }
            TrainerEvent::BatchSize(changed) => attempt.set_batch_size(changed.to),
            TrainerEvent::Finished(finished) => attempt.finished = Some(finished),
            TrainerEvent::Failed(failed) => attempt.failed = Some(failed),
            TrainerEvent::Step(step) => {
                attempt.has_trained = true;
                let change = attempt.worker_tuner.on_step(now, step.loader_wait_ratio, &self.host);
                change_workers(now, id, change, LogLevel::Info, out);
                attempt.pictures.on_step(step.epoch);
                attempt.try_pictures(id, out);
            }
            TrainerEvent::Workers(changed) => attempt.worker_tuner.on_workers(changed.to),
            TrainerEvent::Epoch(epoch) => {
                attempt.has_trained = true;
                attempt.oom_retries = 0;
                attempt.note_decoded_data(epoch.cached, out);
                attempt.pictures.on_epoch(epoch.epoch);
                attempt.try_pictures(id, out);
            }
            TrainerEvent::Started(_)
            | TrainerEvent::Memory(_)
            | TrainerEvent::Beat(_)
            | TrainerEvent::Log(_) => {}
        }
    }

    fn on_exited(&mut self, now: Time, id: AttemptId, exit: &Exit, out: &mut Vec<Command>) {
        self.no_longer_stuck(id, out);
        let Some(attempt) = self.attempts.get_mut(&id) else { return };
        if matches!(attempt.state, State::Revoked { .. }) {
            self.attempts.remove(&id);
            return;
        }
        if !attempt.has_process() {
            return; // It was given up on before, and its end was reported.
        }
        if let Some(Slot::Gpu(gpu)) = attempt.slot() {
            self.last_exits.insert(gpu.clone(), now);
        }
        attempt.pause_pictures(id, out);
        if exit.bad_lines > 0 {
            let text = match exit.bad_lines {
                1 => "1 line of the trainer was not understood and left out".to_owned(),
                lines => format!("{lines} lines of the trainer were not understood and left out"),
            };
            out.push(log(id, now, LogLevel::Warning, text));
        }
        match outcome(attempt, exit) {
            Outcome::Publish(finished) => attempt.publish(now, id, finished, out),
            Outcome::RestartSmaller { changed, guessed } => {
                attempt.oom_retries += u32::from(guessed);
                attempt.restart_smaller(now, id, changed, out);
                attempt.spawn(self.active_time, out);
            }
            Outcome::RestartSame => {
                attempt.oom_retries += 1;
                attempt.spawn(self.active_time, out);
            }
            Outcome::End(refusal) => {
                if refusal.reason == EndReason::HostOom {
                    out.push(Command::SaveHostOom(id, attempt.host_oom_record()));
                }
                let refusal = attempt.with_named_path(refusal, out);
                attempt.save_and_end(now, id, refusal, out);
            }
        }
    }
}

/// Whether an event tells how much memory such jobs need.
const fn updates_fit_records(event: &TrainerEvent) -> bool {
    matches!(
        event,
        TrainerEvent::Started(_)
            | TrainerEvent::Memory(_)
            | TrainerEvent::BatchSize(_)
            | TrainerEvent::Epoch(_)
    )
}

/// A line for the job's user.
fn log(id: AttemptId, time: Time, level: LogLevel, message: String) -> Command {
    Command::Report(id, time, ReportBody::Trainer(TrainerEvent::Log(Log { level, message })))
}

/// The slot of an assignment, or none for an attempt of a former process.
fn slot_of(assignment: Option<&Assignment>) -> Option<&Slot> {
    assignment.map(|assignment| &assignment.slot)
}

//! What the agent decides: the life of each attempt on this machine.
//!
//! Must not know: processes, files, the network, the clock. [`Core::handle`] is given what happened and
//! returns what to do; the driver does it, in order.
//!
//! ```text
//!  assigned ──► Waiting ──► Preparing ──► Running ──► Stopping ──► Killed
//!                  │            │            └───────────┴───────────┘
//!                  │            │                        │ the trainer is gone
//!                  │            │           ┌────────────┼─────────────┐
//!                  │            │           ▼            ▼             │
//!                  │            │       Publishing     Saving          │
//!                  │            │      (artifacts)  (checkpoint)       │
//!                  ▼            ▼           └────────────┴─────────────┤
//!               Ended ◄────────────────────────────────────────────────┘  reported, until acknowledged
//!
//!  A revoked attempt is forgotten at once, or, while its trainer lives, is `Revoked` until it is gone.
//! ```

mod attempt;
mod card;
mod leaving;
mod loading;
mod outcome;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use trainyard_types::trainer::{CheckpointSaved, Log, LogLevel, TrainerControl, TrainerEvent};
use trainyard_types::{
    Artifact, Assignment, AttemptId, BatchChosen, Checkpoint, EndReason, GpuUuid, ReportBody, Slot, Time,
};

use crate::gpu::cards::Order;

use attempt::{Attempt, State};
use loading::change_workers;
pub use outcome::{Exit, ExitKind};
use outcome::{Outcome, outcome};

use crate::host::Reading;
use crate::host::loading::Killed;
use crate::host::pressure::Pressure;

/// Spans that the configuration sets.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// From SIGTERM to SIGKILL of a trainer.
    pub stop_grace: Duration,
    /// From a shutdown's begin until the agent gives up.
    pub shutdown_grace: Duration,
    /// At most so often a running job's checkpoint is uploaded.
    pub checkpoint_upload_every: Duration,
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// At start: a former agent process held this attempt.
    Recovered {
        /// Which.
        attempt: AttemptId,
        /// Whether its end is in the spool already.
        ended: bool,
    },
    /// The scheduler answers.
    Connected,
    /// It does not any more.
    Disconnected,
    /// The scheduler wants an attempt.
    Assigned(Box<Assignment>),
    /// The scheduler wants an attempt that this build does not understand; with a sentence why.
    Unintelligible(AttemptId, String),
    /// The scheduler wants its end.
    Stop {
        /// Which.
        attempt: AttemptId,
        /// Why.
        reason: EndReason,
        /// From SIGTERM to SIGKILL; the configured time if nothing is said.
        grace: Option<Duration>,
    },
    /// The cards that take no attempt now, and how one that comes all the same ends.
    CardsClosed(BTreeMap<GpuUuid, Refusal>),
    /// Why the disk takes no attempt now, a sentence; `None` when it does.
    DiskShort(Option<String>),
    /// What the attempt on a card must do.
    Card(Order),
    /// The attempt is no longer this agent's.
    Revoked(AttemptId),
    /// The spool of an attempt that is over can be read, and the end is not in it.
    EndLost(AttemptId),
    /// Every report of an attempt is durable at the scheduler.
    AllAcked(AttemptId),
    /// Everything is ready for the trainer, or cannot be made so.
    Prepared(AttemptId, Result<Prepared, Refusal>),
    /// The trainer did not start.
    SpawnFailed(AttemptId, Refusal),
    /// The trainer told something.
    Line(AttemptId, Time, TrainerEvent),
    /// The trainer's process is gone, and every line of it was handled before.
    Exited(AttemptId, Exit),
    /// A checkpoint's upload ended; the error is a sentence.
    CheckpointUploaded(AttemptId, Result<Checkpoint, String>),
    /// The artifacts' upload ended; the error is a sentence.
    ArtifactsUploaded(AttemptId, Result<Vec<Artifact>, String>),
    /// What the machine does now.
    Host(Reading),
    /// Somebody asked the agent to stop; the second time, to stop at once.
    Shutdown,
    /// [`Core::next_deadline`] has come.
    Tick,
}

/// What a trainer starts with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// Images per forward pass, and how that came about.
    pub chosen: BatchChosen,
    /// What the user is told of the start.
    pub lines: Vec<String>,
    /// Whether the trainer measures what memory it needs.
    pub measure_memory: bool,
    /// Loader workers to begin with.
    pub workers: u32,
    /// Loader workers that it may come to have.
    pub most_workers: u32,
    /// What would fit if not even one image does.
    pub advice: String,
}

/// Why an attempt cannot start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// How it counts.
    pub reason: EndReason,
    /// A sentence for a person.
    pub message: String,
}

/// What the driver must do, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Check the data, fetch the checkpoint, choose the batch size.
    Prepare(Box<Assignment>),
    /// Print the start's lines.
    Announce(Vec<String>),
    /// Start the trainer.
    Spawn(Box<Assignment>, Prepared),
    /// SIGTERM to the trainer.
    Terminate(AttemptId),
    /// SIGKILL to the trainer's process group.
    Kill(AttemptId),
    /// Write a report to the spool, from which it is sent.
    Report(AttemptId, Time, ReportBody),
    /// Upload a checkpoint's files.
    UploadCheckpoint(AttemptId, CheckpointSaved),
    /// Upload what the user keeps.
    UploadArtifacts(AttemptId, Vec<PathBuf>),
    /// Abort preparation and uploads.
    CancelTransfers(AttemptId),
    /// Ask something of the running trainer.
    Control(AttemptId, TrainerControl),
    /// Note how the job's trainer was killed for want of main memory.
    NoteKill(AttemptId, Killed),
    /// Learn from what the trainer told.
    Learn(AttemptId, TrainerEvent),
    /// These files hold every image of the data set decoded at this size.
    NoteCached {
        /// As in the job's spec.
        data: String,
        /// Pixels along an image's side.
        imgsz: u32,
        /// Where.
        files: Vec<PathBuf>,
    },
    /// Delete the attempt's spool.
    DropReports(AttemptId),
    /// Delete the job's checkpoints: it has succeeded.
    DropCheckpoints(AttemptId),
    /// Leave.
    Exit,
}

/// Every attempt of this agent.
#[derive(Debug)]
pub struct Core {
    limits: Limits,
    attempts: BTreeMap<AttemptId, Attempt>,
    connected: bool,
    /// Cards that take no attempt.
    closed: BTreeMap<GpuUuid, Refusal>,
    /// Why the disk takes no attempt.
    disk_short: Option<String>,
    /// When the last trainer on a card ended.
    left: BTreeMap<GpuUuid, Time>,
    /// When a shutdown gives up; `None` while none is wanted.
    give_up_at: Option<Time>,
    /// What the machine does.
    host: Reading,
    pressure: Pressure,
}

impl Core {
    /// An agent without attempts.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            attempts: BTreeMap::new(),
            connected: false,
            closed: BTreeMap::new(),
            disk_short: None,
            left: BTreeMap::new(),
            give_up_at: None,
            host: Reading::default(),
            pressure: Pressure::default(),
        }
    }

    /// The attempts to name in a Hello.
    pub fn held(&self) -> Vec<AttemptId> {
        let held = self.attempts.iter().filter(|(_, attempt)| !matches!(attempt.state, State::Revoked));
        held.map(|(id, _)| *id).collect()
    }

    /// When [`Event::Tick`] is due.
    pub fn next_deadline(&self) -> Option<Time> {
        let kills = self.attempts.values().filter_map(|attempt| match attempt.state {
            State::Stopping { kill_at } => Some(kill_at),
            State::Killed => attempt.abandon_at,
            _ => None,
        });
        kills.chain(self.give_up_at).min()
    }

    /// Takes what happened, returns what to do.
    pub fn handle(&mut self, now: Time, event: Event) -> Vec<Command> {
        let mut out = Vec::new();
        match event {
            Event::Recovered { attempt, ended } => self.on_recovered(now, attempt, ended, &mut out),
            Event::Connected => self.connected = true,
            Event::Disconnected => self.connected = false,
            Event::Assigned(assignment) => self.on_assigned(now, assignment, &mut out),
            Event::Unintelligible(attempt, message) => {
                let mut unknown = Attempt::recovered();
                unknown.end(now, attempt, EndReason::BadSpec, message, &mut out);
                self.attempts.entry(attempt).or_insert(unknown);
            }
            Event::Stop { attempt, reason, grace } => self.on_stop(now, attempt, reason, grace, &mut out),
            Event::CardsClosed(closed) => self.closed = closed,
            Event::DiskShort(why) => self.disk_short = why,
            Event::Card(order) => self.on_order(now, &order, &mut out),
            Event::Revoked(attempt) => self.on_revoked(attempt, &mut out),
            Event::EndLost(attempt) => self.on_end_lost(now, attempt, &mut out),
            Event::AllAcked(attempt) => self.on_all_acked(attempt, &mut out),
            Event::Prepared(attempt, result) => self.on_prepared(now, attempt, result, &mut out),
            Event::SpawnFailed(attempt, refusal) => self.on_spawn_failed(now, attempt, refusal, &mut out),
            Event::Line(attempt, time, event) => self.on_line(now, attempt, time, event, &mut out),
            Event::Exited(attempt, exit) => self.on_exited(now, attempt, &exit, &mut out),
            Event::CheckpointUploaded(attempt, result) => {
                self.on_checkpoint_uploaded(now, attempt, result, &mut out);
            }
            Event::ArtifactsUploaded(attempt, result) => {
                self.on_artifacts_uploaded(now, attempt, result, &mut out);
            }
            Event::Host(reading) => self.on_host(now, reading, &mut out),
            Event::Shutdown => self.on_shutdown(now, &mut out),
            Event::Tick => {}
        }
        self.start_waiting(&mut out);
        self.check_deadlines(now, &mut out);
        out
    }

    fn on_assigned(&mut self, now: Time, assignment: Box<Assignment>, out: &mut Vec<Command>) {
        let id = assignment.attempt;
        if self.attempts.contains_key(&id) {
            return; // A repeat.
        }
        let mut attempt = Attempt::new(assignment);
        if self.give_up_at.is_some() {
            attempt.end(now, id, EndReason::Drained, "the agent is shutting down".into(), out);
        } else if let Some(refusal) = self.refusal(attempt.slot()) {
            attempt.end(now, id, refusal.reason, refusal.message, out);
        }
        self.attempts.insert(id, attempt);
    }

    /// Prepares attempts whose slot and job directory no other attempt uses.
    fn start_waiting(&mut self, out: &mut Vec<Command>) {
        let waiting: Vec<AttemptId> = self
            .attempts
            .iter()
            .filter(|(_, attempt)| matches!(attempt.state, State::Waiting))
            .map(|(id, _)| *id)
            .collect();
        for id in waiting {
            let slot = self.attempts[&id].slot().cloned();
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
                attempt.end(now, id, reason, "stopped before the trainer started".into(), out);
            }
            State::Running => {
                attempt.stop = Some(reason);
                attempt.state = State::Stopping { kill_at: now + grace.unwrap_or(self.limits.stop_grace) };
                out.push(Command::Terminate(id));
            }
            // Its user's word counts more than a drain's.
            State::Stopping { .. } | State::Killed if reason == EndReason::Cancelled => {
                attempt.stop = Some(reason);
            }
            State::Publishing | State::Saving { .. } if reason == EndReason::Cancelled => {
                out.push(Command::CancelTransfers(id));
                attempt.end(now, id, reason, "cancelled".into(), out);
            }
            // The trainer is gone; what is under way takes no slot and is worth finishing.
            State::Publishing | State::Saving { .. } => {}
            State::Stopping { .. } | State::Killed | State::Ended { .. } | State::Revoked => {}
        }
    }

    fn on_revoked(&mut self, id: AttemptId, out: &mut Vec<Command>) {
        let Some(attempt) = self.attempts.get_mut(&id) else { return };
        out.push(Command::CancelTransfers(id));
        out.push(Command::DropReports(id));
        match attempt.state {
            State::Running | State::Stopping { .. } => {
                attempt.state = State::Revoked;
                out.push(Command::Kill(id));
            }
            State::Killed | State::Revoked => attempt.state = State::Revoked,
            State::Waiting
            | State::Preparing
            | State::Publishing
            | State::Saving { .. }
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
                attempt.begin(prepared.clone());
                out.push(Command::Announce(prepared.lines.clone()));
                for line in &prepared.lines {
                    out.push(log(id, now, LogLevel::Info, line.clone()));
                }
                out.push(Command::Report(id, now, ReportBody::BatchChosen(prepared.chosen.clone())));
                out.push(Command::Spawn(assignment, prepared));
            }
            Err(refusal) => attempt.end(now, id, refusal.reason, refusal.message, out),
        }
    }

    fn on_spawn_failed(&mut self, now: Time, id: AttemptId, refusal: Refusal, out: &mut Vec<Command>) {
        let Some(attempt) = self.attempts.get_mut(&id) else { return };
        match attempt.state {
            State::Revoked => {
                self.attempts.remove(&id);
            }
            _ => attempt.end(now, id, refusal.reason, refusal.message, out),
        }
    }

    fn on_line(&mut self, now: Time, id: AttemptId, time: Time, event: TrainerEvent, out: &mut Vec<Command>) {
        let Some(attempt) = self.attempts.get_mut(&id) else { return };
        if !matches!(attempt.state, State::Running | State::Stopping { .. } | State::Killed) {
            return; // Revoked: nobody wants to know.
        }
        out.push(Command::Report(id, time, ReportBody::Trainer(event.clone())));
        if is_telling(&event) {
            out.push(Command::Learn(id, event.clone()));
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
                let change = attempt.loading.on_step(now, step.loader_wait_ratio, &self.host);
                change_workers(now, id, change, LogLevel::Info, out);
            }
            TrainerEvent::Workers(changed) => attempt.loading.on_workers(changed.to),
            TrainerEvent::Epoch(epoch) => {
                (attempt.has_trained, attempt.relapses) = (true, 0);
                attempt.note_cached(epoch.cached, out);
            }
            TrainerEvent::Started(_)
            | TrainerEvent::Memory(_)
            | TrainerEvent::Beat(_)
            | TrainerEvent::Log(_) => {}
        }
    }

    fn on_exited(&mut self, now: Time, id: AttemptId, exit: &Exit, out: &mut Vec<Command>) {
        let Some(attempt) = self.attempts.get_mut(&id) else { return };
        if matches!(attempt.state, State::Revoked) {
            self.attempts.remove(&id);
            return;
        }
        if !attempt.has_process() {
            return; // Given up on before: its end was told.
        }
        if let Some(Slot::Gpu(gpu)) = attempt.slot() {
            self.left.insert(gpu.clone(), now);
        }
        if exit.bad_lines > 0 {
            let text = format!("{} lines of the trainer were not understood and left out", exit.bad_lines);
            out.push(log(id, now, LogLevel::Warning, text));
        }
        match outcome(attempt, exit) {
            Outcome::Publish(artifacts) => {
                attempt.state = State::Publishing;
                if attempt.uploading.take().is_some() {
                    out.push(Command::CancelTransfers(id)); // Nobody resumes from it any more.
                }
                out.push(Command::UploadArtifacts(id, artifacts));
            }
            Outcome::Again { changed } => attempt.start_again(now, id, changed, out),
            Outcome::Anew => attempt.start_anew(out),
            Outcome::End(reason, message) => {
                if reason == EndReason::HostOom {
                    out.push(Command::NoteKill(id, attempt.killed()));
                }
                attempt.save_and_end(now, id, reason, message, out);
            }
        }
    }

    fn on_checkpoint_uploaded(
        &mut self,
        now: Time,
        id: AttemptId,
        result: Result<Checkpoint, String>,
        out: &mut Vec<Command>,
    ) {
        let Some(attempt) = self.attempts.get_mut(&id) else { return };
        let tried = attempt.uploading.take();
        match result {
            Ok(checkpoint) => {
                attempt.stored_step = attempt.stored_step.max(Some(checkpoint.step));
                out.push(Command::Report(id, now, ReportBody::CheckpointStored(checkpoint)));
            }
            Err(message) => {
                // The same checkpoint is not tried again; the next one is.
                attempt.stored_step = attempt.stored_step.max(tried);
                let text = format!("a checkpoint was not uploaded: {message}");
                out.push(log(id, now, LogLevel::Warning, text));
            }
        }
        if let State::Saving { reason, message } = &attempt.state {
            let (reason, message) = (*reason, message.clone());
            attempt.save_and_end(now, id, reason, message, out);
        }
    }

    fn on_artifacts_uploaded(
        &mut self,
        now: Time,
        id: AttemptId,
        result: Result<Vec<Artifact>, String>,
        out: &mut Vec<Command>,
    ) {
        let Some(attempt) = self.attempts.get_mut(&id) else { return };
        if !matches!(attempt.state, State::Publishing) {
            return;
        }
        match result {
            Ok(artifacts) => attempt.complete(now, id, artifacts, out),
            Err(message) => {
                let text = format!("the artifacts could not be uploaded: {message}");
                attempt.end(now, id, EndReason::TrainerCrash, text, out);
            }
        }
    }
}

/// Whether something is to be learned from an event: what runs need, or which data are decoded.
const fn is_telling(event: &TrainerEvent) -> bool {
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

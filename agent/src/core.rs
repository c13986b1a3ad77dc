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
//!                  │            └───────────│─────► Proving, where the machine is to blame
//!                  ▼                        ▼            ▼
//!               Ended ◄──────────────────────────────────┘  reported, until acknowledged
//!
//!  A revoked attempt is forgotten at once, or, while its trainer lives, is `Revoked` until it is gone. A trainer
//!  that does not even die of SIGKILL is given up on: its attempt ends, and its slot is closed until it is gone.
//! ```

mod attempt;
mod card;
mod handing_in;
mod leaving;
mod loading;
mod outcome;
mod refusal;
#[cfg(test)]
mod tests;
mod vigil;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use trainyard_types::trainer::{CheckpointSaved, Finished, Log, LogLevel, TrainerControl, TrainerEvent};
use trainyard_types::{
    Artifact, Assignment, AttemptId, BatchChosen, Checkpoint, EndReason, GpuUuid, ReportBody, Slot, Time,
    Unfit,
};

use crate::data_roots::What;
use crate::gpu::cards::Order;

use attempt::{Attempt, State};
use card::ABANDON_AFTER;
use loading::change_workers;
pub use outcome::{Exit, ExitKind};
use outcome::{Outcome, outcome};
pub use refusal::Refusal;
use vigil::Vigil;

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
    /// At least so long a trainer may show no progress.
    pub stall_after: Duration,
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// At start: a former agent process held this attempt.
    Recovered {
        /// The attempt.
        attempt: AttemptId,
        /// Whether its end is in the spool already.
        ended: bool,
        /// What it was handing in, if its trainer had trained to the end.
        hand_in: Option<Finished>,
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
        /// The attempt.
        attempt: AttemptId,
        /// The reason that its end is to have.
        reason: EndReason,
        /// From SIGTERM to SIGKILL; the configured time if nothing is said.
        grace: Option<Duration>,
    },
    /// The GPUs that take no attempt now, and how one that comes all the same ends.
    CardsClosed(BTreeMap<GpuUuid, Refusal>),
    /// How an attempt that comes to a CPU slot ends; `None` when it may start.
    CpuClosed(Option<Refusal>),
    /// Why the disk takes no attempt now, a sentence; `None` when it does.
    DiskShort(Option<String>),
    /// What the attempt on a GPU must do.
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
    ArtifactsUploaded(AttemptId, Result<Vec<Artifact>, Refusal>),
    /// What handing in waits for, for a person; empty while it goes on.
    HandingIn(AttemptId, String),
    /// The device that an attempt has failed on was tested, and is closed where that was in vain.
    Proved(AttemptId),
    /// What a trainer without progress looks like, for a person.
    Examined(AttemptId, String),
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
    /// Remember across a restart what is to be uploaded.
    KeepHandIn(AttemptId, Finished),
    /// See what a trainer without progress does.
    Examine(AttemptId),
    /// Test the device that an attempt has failed on, for want of this.
    Prove(AttemptId, Slot, Unfit),
    /// A path that a job names cannot be read here; with what of it exactly.
    NotePath {
        /// What it is to the job.
        what: What,
        /// As the job names it.
        named: PathBuf,
        /// What below it was not to be seen, where that is known.
        lacking: Option<PathBuf>,
    },
    /// These slots are held by trainers that do not end; each with a sentence.
    Stuck(Vec<(Slot, String)>),
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
        /// The files' paths.
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
    /// GPUs that take no attempt.
    closed: BTreeMap<GpuUuid, Refusal>,
    /// How an attempt ends that comes to a CPU slot.
    cpu_closed: Option<Refusal>,
    /// Why the disk takes no attempt.
    disk_short: Option<String>,
    /// Trainers that do not even die, with a sentence.
    stuck: BTreeMap<AttemptId, (Slot, String)>,
    /// Grows as time passes, but neither with a clock that is set nor while the machine sleeps.
    awake: Duration,
    /// When the last event was.
    before: Option<Time>,
    /// When the last trainer on a GPU ended.
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
            cpu_closed: None,
            disk_short: None,
            stuck: BTreeMap::new(),
            awake: Duration::ZERO,
            before: None,
            left: BTreeMap::new(),
            give_up_at: None,
            host: Reading::default(),
            pressure: Pressure::default(),
        }
    }

    /// The attempts to name in a Hello.
    pub fn held(&self) -> Vec<AttemptId> {
        let held =
            self.attempts.iter().filter(|(_, attempt)| !matches!(attempt.state, State::Revoked { .. }));
        held.map(|(id, _)| *id).collect()
    }

    /// When [`Event::Tick`] is due.
    pub fn next_deadline(&self) -> Option<Time> {
        let kills = self.attempts.values().filter_map(|attempt| match attempt.state {
            State::Stopping { kill_at } => Some(kill_at),
            State::Killed { abandon_at } | State::Revoked { abandon_at } => Some(abandon_at),
            _ => None,
        });
        kills.chain(self.give_up_at).min()
    }

    /// Takes what happened, returns what to do.
    pub fn handle(&mut self, now: Time, event: Event) -> Vec<Command> {
        let mut out = Vec::new();
        self.pass(now);
        match event {
            Event::Recovered { attempt, ended, hand_in } => {
                self.on_recovered(now, attempt, ended, hand_in, &mut out);
            }
            Event::Connected => self.connected = true,
            Event::Disconnected => self.connected = false,
            Event::Assigned(assignment) => self.on_assigned(now, assignment, &mut out),
            Event::Unintelligible(attempt, message) => {
                let mut unknown = Attempt::recovered();
                unknown.end(now, attempt, Refusal::too_old(message), &mut out);
                self.attempts.entry(attempt).or_insert(unknown);
            }
            Event::Stop { attempt, reason, grace } => self.on_stop(now, attempt, reason, grace, &mut out),
            Event::CardsClosed(closed) => self.closed = closed,
            Event::CpuClosed(refusal) => self.cpu_closed = refusal,
            Event::DiskShort(why) => self.disk_short = why,
            Event::Card(order) => self.on_order(now, &order, &mut out),
            Event::Revoked(attempt) => self.on_revoked(now, attempt, &mut out),
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
            Event::HandingIn(attempt, waits_for) => self.on_handing_in(now, attempt, waits_for, &mut out),
            Event::Proved(attempt) => self.on_proved(now, attempt, &mut out),
            Event::Examined(attempt, evidence) => self.on_examined(now, attempt, &evidence, &mut out),
            Event::Host(reading) => self.on_host(now, reading, &mut out),
            Event::Shutdown => self.on_shutdown(now, &mut out),
            Event::Tick => {}
        }
        self.start_waiting(now, &mut out);
        self.check_deadlines(now, &mut out);
        self.look_for_stalls(&mut out);
        out
    }

    fn on_assigned(&mut self, now: Time, assignment: Box<Assignment>, out: &mut Vec<Command>) {
        let id = assignment.attempt;
        if self.attempts.contains_key(&id) {
            return; // A repeat.
        }
        let mut attempt = Attempt::new(assignment);
        if self.give_up_at.is_some() {
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
            let stuck = self.held_by_a_stuck_one(slot.as_ref());
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
            State::Publishing | State::Saving(_) | State::Proving(_) if reason == EndReason::Cancelled => {
                out.push(Command::CancelTransfers(id));
                attempt.end(now, id, Refusal::new(reason, "cancelled"), out);
            }
            // The trainer is gone; what is under way takes no slot and is worth finishing.
            State::Publishing | State::Saving(_) | State::Proving(_) => {}
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
            | State::Proving(_)
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
                attempt.begin(prepared.clone(), self.awake);
                out.push(Command::Announce(prepared.lines.clone()));
                for line in &prepared.lines {
                    out.push(log(id, now, LogLevel::Info, line.clone()));
                }
                out.push(Command::Report(id, now, ReportBody::BatchChosen(prepared.chosen.clone())));
                out.push(Command::Spawn(assignment, prepared));
            }
            Err(refusal) => attempt.prove_and_end(now, id, refusal, out),
        }
    }

    fn on_spawn_failed(&mut self, now: Time, id: AttemptId, refusal: Refusal, out: &mut Vec<Command>) {
        let Some(attempt) = self.attempts.get_mut(&id) else { return };
        match attempt.state {
            State::Revoked { .. } => {
                self.attempts.remove(&id);
            }
            _ => attempt.prove_and_end(now, id, refusal, out),
        }
    }

    fn on_line(&mut self, now: Time, id: AttemptId, time: Time, event: TrainerEvent, out: &mut Vec<Command>) {
        let Some(attempt) = self.attempts.get_mut(&id) else { return };
        if !matches!(attempt.state, State::Running | State::Stopping { .. } | State::Killed { .. }) {
            return; // Revoked: nobody wants to know.
        }
        if let TrainerEvent::Beat(beat) = event {
            attempt.vigil.on_beat(self.awake, beat); // Ours alone.
            return;
        }
        attempt.vigil.on_line(self.awake);
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
        self.no_longer_stuck(id, out);
        let Some(attempt) = self.attempts.get_mut(&id) else { return };
        if matches!(attempt.state, State::Revoked { .. }) {
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
            Outcome::Publish(finished) => attempt.publish(now, id, finished, out),
            Outcome::Again { changed } => attempt.start_again((now, self.awake), id, changed, out),
            Outcome::Anew => attempt.start_anew(self.awake, out),
            Outcome::End(refusal) => {
                if refusal.reason == EndReason::HostOom {
                    out.push(Command::NoteKill(id, attempt.killed()));
                }
                let refusal = attempt.named(refusal, out);
                attempt.save_and_end(now, id, refusal, out);
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

//! One attempt on this machine.

use std::path::PathBuf;
use std::time::Duration;

use trainyard_types::trainer::{BatchSizeChanged, CheckpointSaved, Failed, Finished, TrainerEvent};
use trainyard_types::{Assignment, AttemptId, EndReason, ReportBody, Slot, Time};

use super::pictures::Pictures;
use super::stall::StallWatch;
use super::{Command, slot_of};
use crate::host::loader_workers::{HostOomRecord, WorkerTuner};
use crate::message::{Prepared, Refusal};

/// How far an attempt has come; see the diagram in [`super`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Another trainer still uses the slot or the job's directory.
    Waiting,
    /// The data set is checked, and a checkpoint is fetched.
    Preparing,
    /// The trainer's process lives.
    Running,
    /// SIGTERM was sent; SIGKILL follows at `kill_at`.
    Stopping { kill_at: Time },
    /// SIGKILL was sent. Then the trainer is given up on: on a GPU that is gone, or on a share that does not answer,
    /// it may never leave the kernel, where it can do no more harm.
    Killed { abandon_at: Time },
    /// The trainer has finished; its artifacts are uploaded.
    Publishing,
    /// The trainer is gone; its newest checkpoint is uploaded before the end is reported.
    Saving(Refusal),
    /// The trainer is gone; its device is tested before the end is reported.
    TestingDevice(Refusal),
    /// The report of the end is in the spool.
    Ended { completed: bool },
    /// The attempt is no longer this agent's, but its trainer, which was killed, still lives. The trainer is given up
    /// on at `abandon_at`, too.
    Revoked { abandon_at: Time },
}

/// What the agent knows of an attempt.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// `None` for an attempt of a former process.
    pub assignment: Option<Box<Assignment>>,
    /// What its trainer runs with.
    pub prepared: Option<Prepared>,
    /// How many loader workers it has, and whether more would help.
    pub worker_tuner: WorkerTuner,
    pub state: State,
    /// Why it was asked to stop.
    pub stop: Option<EndReason>,
    /// Who wants the stop and why, where the reason alone does not tell.
    pub stop_note: Option<String>,
    /// What its GPU did to it, or that it stalled.
    pub fault: Option<Refusal>,
    /// The newest checkpoint on disk.
    pub checkpoint: Option<CheckpointSaved>,
    /// Step of the newest checkpoint that is stored, or that cannot be.
    pub stored_step: Option<u64>,
    /// Step of the checkpoint that is on its way.
    pub uploading: Option<u64>,
    /// When the last upload began.
    pub upload_began: Option<Time>,
    /// Pictures of its trainer.
    pub pictures: Pictures,
    /// What handing in waits for, for a person.
    pub waits_for: String,
    /// Whether its trainer makes progress.
    pub stall_watch: StallWatch,
    pub finished: Option<Finished>,
    pub failed: Option<Failed>,
    /// Whether anything was trained.
    pub has_trained: bool,
    /// New processes since the last epoch that were started because batches that had fitted did not any more, or
    /// because memory was likely, but not surely, what ended the one before.
    pub oom_retries: u32,
}

impl Attempt {
    pub fn new(assignment: Box<Assignment>) -> Self {
        let stored_step = assignment.resume.as_ref().map(|checkpoint| checkpoint.step);
        Self { assignment: Some(assignment), state: State::Waiting, stored_step, ..Self::recovered() }
    }

    /// An attempt that ended with a former process of this agent.
    pub const fn recovered() -> Self {
        Self {
            assignment: None,
            prepared: None,
            worker_tuner: WorkerTuner::new(0, 0),
            state: State::Ended { completed: false },
            stop: None,
            stop_note: None,
            fault: None,
            checkpoint: None,
            stored_step: None,
            uploading: None,
            upload_began: None,
            pictures: Pictures::new(),
            waits_for: String::new(),
            stall_watch: StallWatch::new(Duration::ZERO),
            finished: None,
            failed: None,
            has_trained: false,
            oom_retries: 0,
        }
    }

    pub fn slot(&self) -> Option<&Slot> {
        slot_of(self.assignment.as_deref())
    }

    /// Whether a trainer of it may live.
    pub const fn has_process(&self) -> bool {
        matches!(
            self.state,
            State::Running | State::Stopping { .. } | State::Killed { .. } | State::Revoked { .. }
        )
    }

    /// Whether its trainer reads the data set, or will. One that only hands in what it has made does not.
    pub const fn reads_data(&self) -> bool {
        self.has_process() || matches!(self.state, State::Waiting | State::Preparing)
    }

    /// Whether this attempt, which is `id`, keeps `other` from starting on `slot`: one trainer at a time uses a slot,
    /// and a job's directory.
    pub fn conflicts(&self, id: AttemptId, other: AttemptId, slot: Option<&Slot>) -> bool {
        let busy = self.has_process() || matches!(self.state, State::Preparing);
        let reads = matches!(self.state, State::Publishing | State::Saving(_));
        id != other && ((busy && self.slot() == slot) || ((busy || reads) && id.job == other.job))
    }

    /// Takes what the trainer is about to start with.
    pub fn begin(&mut self, prepared: Prepared, active_time: Duration) {
        self.stall_watch = StallWatch::new(active_time);
        self.worker_tuner = WorkerTuner::new(prepared.workers, prepared.most_workers);
        self.prepared = Some(prepared);
    }

    /// What its trainer had when main memory ran out.
    pub fn host_oom_record(&self) -> HostOomRecord {
        HostOomRecord { workers: self.worker_tuner.workers(), batch_size: self.batch_size() }
    }

    /// Images per forward pass now; 0 before the trainer starts.
    pub fn batch_size(&self) -> u32 {
        self.prepared.as_ref().map_or(0, |prepared| prepared.chosen.batch_size)
    }

    pub fn set_batch_size(&mut self, size: u32) {
        if let Some(prepared) = &mut self.prepared {
            prepared.chosen.batch_size = size;
        }
    }

    /// Takes a smaller batch for a new process, and tells of it: the old process could not go on.
    pub fn restart_smaller(
        &mut self,
        now: Time,
        id: AttemptId,
        changed: BatchSizeChanged,
        out: &mut Vec<Command>,
    ) {
        self.set_batch_size(changed.to);
        let event = TrainerEvent::BatchSize(changed);
        out.push(Command::Report(id, now, ReportBody::Trainer(event.clone())));
        out.push(Command::UpdateFitRecords(id, event));
    }

    /// Goes on in a new process, from the newest checkpoint.
    pub fn spawn(&mut self, active_time: Duration, out: &mut Vec<Command>) {
        let (Some(assignment), Some(prepared)) = (self.assignment.clone(), self.prepared.clone()) else {
            return; // Cannot be: its trainer ran.
        };
        self.failed = None;
        self.finished = None;
        self.stall_watch = StallWatch::new(active_time);
        // The new process reads the same spec.
        self.worker_tuner = WorkerTuner::new(prepared.workers, prepared.most_workers);
        self.state = State::Running;
        out.push(Command::Spawn(assignment, prepared));
    }

    /// Has it remembered where decoded images are, if they are all of the data set.
    pub fn note_decoded_data(&self, files: Vec<PathBuf>, out: &mut Vec<Command>) {
        let train = self.assignment.as_ref().map(|assignment| &assignment.spec.train);
        // A part of a data set has files of its own.
        if let Some(train) = train.filter(|train| train.fraction >= 1.0 && !files.is_empty()) {
            let data = train.data.to_string_lossy().into_owned();
            out.push(Command::NoteDecodedData { data, imgsz: train.imgsz, files });
        }
    }

    /// Ends the attempt because the agent leaves: what is not reported yet goes into the spool.
    pub fn give_up(&mut self, now: Time, id: AttemptId, out: &mut Vec<Command>) {
        if self.has_process() {
            out.push(Command::Kill(id));
        }
        match self.state.clone() {
            State::Saving(refusal) | State::TestingDevice(refusal) => self.end(now, id, refusal, out),
            State::Waiting
            | State::Preparing
            | State::Running
            | State::Stopping { .. }
            | State::Killed { .. } => {
                let reason = self.stop.unwrap_or(EndReason::Drained);
                self.end(now, id, Refusal::new(reason, "the agent was stopped"), out);
            }
            // The next process of this agent goes on.
            State::Publishing => {}
            State::Ended { .. } | State::Revoked { .. } => {}
        }
    }
}

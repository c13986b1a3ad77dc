//! Hands in what a trainer has left: from the trainer's end, when the slot is free, to the end of the attempt.

use std::path::PathBuf;
use std::time::Duration;

use trainyard_types::reference::Reference;
use trainyard_types::trainer::{CheckpointSaved, Finished, LogLevel};
use trainyard_types::{
    Artifact, AttemptId, Checkpoint, EndReason, Ended, ReportBody, SlotReleased, Time, UnfitKind,
};

use super::attempt::{Attempt, State};
use super::{Command, Core, log};
use crate::message::{PathUse, Refusal};

impl Core {
    /// Tells what handing in waits for, when that changes.
    pub(super) fn on_handing_in(
        &mut self,
        now: Time,
        id: AttemptId,
        waits_for: String,
        out: &mut Vec<Command>,
    ) {
        let Some(attempt) = self.attempts.get_mut(&id) else { return };
        if matches!(attempt.state, State::Publishing | State::Saving(_)) && attempt.waits_for != waits_for {
            attempt.waits_for = waits_for;
            attempt.tell_release(now, id, out);
        }
    }

    /// The attempt's device is tested: its end may be reported.
    pub(super) fn on_device_tested(&mut self, now: Time, id: AttemptId, out: &mut Vec<Command>) {
        let Some(attempt) = self.attempts.get_mut(&id) else { return };
        if let State::TestingDevice(refusal) = attempt.state.clone() {
            attempt.end(now, id, refusal, out);
        }
    }

    pub(super) fn on_checkpoint_uploaded(
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
        if let State::Saving(refusal) = attempt.state.clone() {
            attempt.save_and_end(now, id, refusal, out);
        }
        attempt.try_pictures(id, out);
    }

    pub(super) fn on_artifacts_uploaded(
        &mut self,
        now: Time,
        id: AttemptId,
        result: Result<Vec<Artifact>, Refusal>,
        out: &mut Vec<Command>,
    ) {
        let Some(attempt) = self.attempts.get_mut(&id) else { return };
        if !matches!(attempt.state, State::Publishing) {
            return;
        }
        match result {
            Ok(artifacts) => attempt.complete(now, id, artifacts, out),
            Err(refusal) => attempt.test_device_and_end(now, id, refusal, out),
        }
    }
}

impl Attempt {
    /// Begins to hand in what the user keeps.
    pub(super) fn publish(&mut self, now: Time, id: AttemptId, finished: Finished, out: &mut Vec<Command>) {
        self.state = State::Publishing;
        if self.uploading.take().is_some() {
            out.push(Command::CancelTransfers(id)); // Nobody resumes from it any more.
        }
        out.push(Command::SaveHandIn(id, finished.clone()));
        self.tell_release(now, id, out);
        out.push(Command::UploadArtifacts(id, finished.artifacts));
    }

    /// An attempt that a former process of this agent was handing in.
    pub(super) fn handing_in(finished: Finished) -> Self {
        Self { state: State::Publishing, finished: Some(finished), ..Self::recovered() }
    }

    /// Tells that the slot is free, and what handing in waits for. Not of an agent that leaves, which has no slot to give.
    fn tell_release(&mut self, now: Time, id: AttemptId, out: &mut Vec<Command>) {
        if matches!(&self.state, State::Saving(refusal) if refusal.reason == EndReason::Drained) {
            return;
        }
        let is_trained = matches!(self.state, State::Publishing);
        let released = SlotReleased { waits_for: self.waits_for.clone(), is_trained };
        out.push(Command::Report(id, now, ReportBody::SlotReleased(released)));
    }

    /// Reports an end other than success.
    pub fn end(&mut self, now: Time, id: AttemptId, refusal: Refusal, out: &mut Vec<Command>) {
        self.state = State::Ended { completed: false };
        let Refusal { reason, message, unfit } = refusal;
        // A GPU that failed is no lack of the machine.
        let unfit = unfit.filter(|_| reason == EndReason::AgentUnfit);
        let ended = Ended { reason, message, artifacts: Vec::new(), unfit };
        out.push(Command::Report(id, now, ReportBody::Ended(ended)));
    }

    /// Reports success.
    pub fn complete(&mut self, now: Time, id: AttemptId, artifacts: Vec<Artifact>, out: &mut Vec<Command>) {
        self.state = State::Ended { completed: true };
        let best = self.finished.as_ref().map_or(0, |finished| finished.best_epoch);
        let message = format!("trained to the end; the best weights are of epoch {best}");
        let ended = Ended { reason: EndReason::Completed, message, artifacts, unfit: None };
        out.push(Command::Report(id, now, ReportBody::Ended(ended)));
    }

    /// Reports the end, after the device is tested if it may be to blame: it is closed before the job is offered
    /// again.
    pub fn test_device_and_end(
        &mut self,
        now: Time,
        id: AttemptId,
        refusal: Refusal,
        out: &mut Vec<Command>,
    ) {
        match (refusal.lack().cloned(), self.slot().cloned()) {
            (Some(unfit), Some(slot)) => {
                self.state = State::TestingDevice(refusal);
                out.push(Command::TestDevice(id, slot, unfit));
            }
            _ => self.end(now, id, refusal, out),
        }
    }

    /// Whether the newest checkpoint is neither stored nor given up on.
    fn unsaved(&self) -> Option<&CheckpointSaved> {
        self.checkpoint.as_ref().filter(|saved| self.stored_step.is_none_or(|step| step < saved.step))
    }

    fn upload(&mut self, now: Time, id: AttemptId, out: &mut Vec<Command>) {
        if let Some(saved) = self.unsaved().cloned() {
            self.uploading = Some(saved.step);
            self.upload_began = Some(now);
            self.pause_pictures(id, out);
            out.push(Command::UploadCheckpoint(id, saved));
        }
    }

    /// Uploads the newest checkpoint of a running trainer, unless one is on its way or went recently.
    pub fn try_upload(&mut self, now: Time, id: AttemptId, every: Duration, out: &mut Vec<Command>) {
        let due = self.upload_began.is_none_or(|began| began + every <= now);
        if due && self.uploading.is_none() {
            self.upload(now, id, out);
        }
    }

    /// Reports the end, after the newest checkpoint is stored if somebody may go on from it.
    pub fn save_and_end(&mut self, now: Time, id: AttemptId, refusal: Refusal, out: &mut Vec<Command>) {
        let resumes = refusal.reason.resumes();
        if resumes && self.uploading.is_none() {
            self.upload(now, id, out);
        }
        if resumes && self.uploading.is_some() {
            let is_new = !matches!(self.state, State::Saving(_));
            self.state = State::Saving(refusal);
            if is_new {
                self.tell_release(now, id, out);
            }
        } else {
            if self.uploading.take().is_some() {
                out.push(Command::CancelTransfers(id));
            }
            self.test_device_and_end(now, id, refusal, out);
        }
    }

    /// Puts the job's name for a path into a refusal: a trainer tells of the path that it looked at.
    pub(super) fn with_named_path(&self, mut refusal: Refusal, out: &mut Vec<Command>) -> Refusal {
        let train = self.assignment.as_ref().map(|assignment| &assignment.spec.train);
        if let (Some(unfit), Some(train)) = (&mut refusal.unfit, train)
            && unfit.kind.is_of_path()
        {
            let below = Some(PathBuf::from(&unfit.path)).filter(|path| !path.as_os_str().is_empty());
            // What was fetched lies in a folder that is called after its version.
            let version = Reference::of_path(&train.pretrained).filter(Reference::is_exact);
            let is_of =
                |path: &PathBuf, version: &Reference| path.iter().any(|part| part == version.version());
            let is_pretrained = below.as_ref().is_some_and(|below| {
                *below == train.pretrained || version.is_some_and(|version| is_of(below, &version))
            });
            let (path_use, named) = if is_pretrained {
                (PathUse::Pretrained, &train.pretrained)
            } else {
                (PathUse::Data, &train.data)
            };
            unfit.path = named.display().to_string();
            // What lies outside of the roots stays there; it is reported by its name all the same.
            let below = below.filter(|_| unfit.kind != UnfitKind::OutsideDataRoots);
            out.push(Command::NoteMissingPath { path_use, named: named.clone(), below });
        }
        refusal
    }
}

//! Uploads of checkpoints and artifacts.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use trainyard_types::AttemptId;
use trainyard_types::trainer::CheckpointSaved;

use super::Driver;
use crate::message::{Event, Picture, Refusal};
use crate::prepare::folder_refusal;
use crate::report::pictures;
use crate::report::transfer::{HandInProgress, Transfer, TransferError};

impl Driver {
    /// A transfer that tells what it waits for.
    fn hand_in(&self, attempt: AttemptId) -> Transfer {
        let progress = HandInProgress { attempt, inbox: self.context.sender.clone() };
        Transfer { progress: Some(progress), ..self.context.prepare.transfer() }
    }

    pub(super) fn upload_checkpoint(&mut self, attempt: AttemptId, saved: CheckpointSaved) {
        // It is given up after a while: a job can go on from an older checkpoint.
        let (mut transfer, run) = (self.hand_in(attempt), self.job_dir(attempt).run());
        self.spawn_task(attempt, async move {
            let stored = transfer.upload_checkpoint(attempt, &run, &saved).await;
            Event::CheckpointUploaded(attempt, stored.map_err(|error| error.to_string()))
        });
    }

    /// Uploads pictures of a running trainer to a scheduler that is there and takes them.
    pub(super) fn upload_pictures(&mut self, attempt: AttemptId, stored: Vec<Picture>) {
        let (mut transfer, run) = (self.context.prepare.transfer(), self.job_dir(attempt).run());
        let takes_them = transfer.link.borrow().as_ref().is_some_and(|link| link.takes_pictures);
        let is_paused = Arc::new(AtomicBool::new(!takes_them));
        self.pictures.insert(attempt, Arc::clone(&is_paused));
        self.spawn_task(attempt, async move {
            let stored = pictures::upload(&mut transfer, attempt, run, stored, &is_paused).await;
            Event::PicturesUploaded(attempt, stored)
        });
    }

    /// Has an upload of pictures end after the one that is on its way.
    pub(super) fn pause_pictures(&mut self, attempt: AttemptId) {
        if let Some(is_paused) = self.pictures.remove(&attempt) {
            is_paused.store(true, Ordering::Relaxed);
        }
    }

    pub(super) fn upload_artifacts(&mut self, attempt: AttemptId, names: Vec<PathBuf>) {
        let mut transfer = Transfer { give_up_after: None, ..self.hand_in(attempt) };
        let run = self.job_dir(attempt).run();
        self.spawn_task(attempt, async move {
            let stored = transfer.upload(attempt, &run, &names).await;
            Event::ArtifactsUploaded(attempt, stored.map_err(|error| not_handed_in(&error)))
        });
    }
}

/// How an attempt ends whose results could not be handed in.
fn not_handed_in(error: &TransferError) -> Refusal {
    let message = format!("the artifacts could not be uploaded: {error}");
    // A file that the trainer told of and did not write would be missing on every machine.
    let of_machine = error.file_error().filter(|source| source.kind() != io::ErrorKind::NotFound);
    folder_refusal(message, of_machine)
}

#[cfg(test)]
mod tests {
    use trainyard_types::{EndReason, UnfitKind};

    use super::*;

    #[test]
    fn a_machine_that_cannot_read_results_is_at_fault_and_not_the_job() {
        let ends = |errno| {
            let source = io::Error::from_raw_os_error(errno);
            not_handed_in(&TransferError::File { path: "results.png".into(), source })
        };
        for (errno, kind) in [(24, UnfitKind::OutOfResources), (5, UnfitKind::FolderUnwritable)] {
            let refusal = ends(errno);
            assert_eq!(refusal.reason, EndReason::AgentUnfit);
            assert_eq!(refusal.lack().map(|unfit| unfit.kind), Some(kind), "{errno}");
        }
        assert_eq!(ends(2).reason, EndReason::TrainerCrash);
    }
}

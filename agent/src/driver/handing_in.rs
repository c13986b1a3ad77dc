//! Uploads, for as long as they take.

use std::io;
use std::path::PathBuf;

use trainyard_types::AttemptId;
use trainyard_types::trainer::CheckpointSaved;

use super::Driver;
use crate::core::{Event, Refusal};
use crate::prepare;
use crate::transfer::{self, Terms, TransferError};

impl Driver {
    pub(super) fn upload_checkpoint(&mut self, attempt: AttemptId, saved: CheckpointSaved) {
        let (mut link, run) = (self.workshop.link.clone(), self.job_dir(attempt).run());
        // Whoever waits for it can go on from an older one.
        let hands_in = Some((attempt, self.sender.clone()));
        let terms = Terms { hands_in, ..self.workshop.terms() };
        self.start_transfer(attempt, async move {
            let stored = transfer::upload_checkpoint((&mut link, &terms), attempt, &run, &saved).await;
            Event::CheckpointUploaded(attempt, stored.map_err(|error| error.to_string()))
        });
    }

    pub(super) fn upload_artifacts(&mut self, attempt: AttemptId, names: Vec<PathBuf>) {
        let (mut link, run) = (self.workshop.link.clone(), self.job_dir(attempt).run());
        let hands_in = Some((attempt, self.sender.clone()));
        let terms = Terms { hands_in, give_up_after: None, ..self.workshop.terms() };
        self.start_transfer(attempt, async move {
            let stored = transfer::upload((&mut link, &terms), attempt, &run, &names).await;
            Event::ArtifactsUploaded(attempt, stored.map_err(|error| not_handed_in(&error)))
        });
    }
}

/// What it means that results were not handed in.
fn not_handed_in(error: &TransferError) -> Refusal {
    let message = format!("the artifacts could not be uploaded: {error}");
    // A file that the trainer told of and did not write would be missing on every machine.
    let of_machine = error.of_the_disk().filter(|source| source.kind() != io::ErrorKind::NotFound);
    prepare::in_folder(message, of_machine)
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

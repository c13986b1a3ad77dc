//! Finds what a job names: in this machine's data roots, or in the cluster's store, from where it is fetched.

use std::path::{Path, PathBuf};

use trainyard_content::Kind;
use trainyard_types::faults::{self, Place};
use trainyard_types::reference::Reference;
use trainyard_types::{AttemptId, EndReason, Unfit, UnfitKind};

use super::PrepareContext;
use crate::content::{FetchError, Wanted};
use crate::disk::space;
use crate::message::{PathUse, Refusal};

const fn kind(path_use: PathUse) -> Kind {
    match path_use {
        PathUse::Data => Kind::DataSet,
        PathUse::Pretrained => Kind::Weights,
    }
}

impl PrepareContext {
    /// The file of this machine that a job means by `named`.
    ///
    /// # Errors
    /// How the attempt ends. What this machine lacks is noted, so that the scheduler knows.
    pub(super) async fn locate(
        &mut self,
        attempt: AttemptId,
        path_use: PathUse,
        named: &Path,
    ) -> Result<PathBuf, Refusal> {
        let Some(reference) = Reference::of_path(named) else {
            return self.paths.find(path_use, named).await;
        };
        let wanted = Wanted { attempt, kind: kind(path_use), reference };
        match self.content.obtain(&wanted).await {
            Ok(obtained) => Ok(obtained.file),
            Err(error) => Err(self.not_fetched(path_use, &wanted.reference, error).await),
        }
    }

    /// Notes that a trainer could not read what its job means by `named`, or `below`, which the file there names.
    pub fn note_missing(&self, path_use: PathUse, named: &Path, below: Option<PathBuf>) {
        match Reference::of_path(named) {
            // The next attempt that comes here mends it.
            Some(reference) => self.content.note_unfetchable(kind(path_use), &reference),
            None => self.paths.note(path_use, named, below),
        }
    }

    /// How an attempt ends whose data set or weights could not be had.
    async fn not_fetched(&mut self, path_use: PathUse, reference: &Reference, error: FetchError) -> Refusal {
        let short = reference.short();
        if let FetchError::Gone = error {
            let text = format!(
                "{path_use} `{short}` does not exist any more: {error}; push it again, or submit the job with another version"
            );
            return Refusal::new(EndReason::BadSpec, text);
        }
        let file_error = error.file_error();
        let is_full = file_error.is_some_and(space::is_full) || matches!(error, FetchError::NoRoom(_));
        if is_full && let Some(why) = self.config.disk_shortage() {
            return self.send_back(why).await;
        }
        let text = format!("{path_use} `{short}` cannot be fetched to this agent: {error}");
        let known = file_error.filter(|_| !is_full).and_then(|error| faults::of_error(Place::Folder, error));
        if let Some(lack) = known.and_then(|row| row.lack()) {
            return Refusal::of_machine(lack, text);
        }
        self.content.note_unfetchable(kind(path_use), reference);
        let named = PathBuf::from(reference.to_string());
        Refusal::unfit(Unfit::at(UnfitKind::PathUnreadable, &named, text))
    }
}

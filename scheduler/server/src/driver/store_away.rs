//! What is said while the store does not answer: what is wrong, or more exactly the disk under it.

use tracing::{error, warn};

use super::{Driver, Role};
use crate::store::StoreError;

/// Tells what is wrong with the disk under the store, as far as this machine knows; asked while the store fails.
pub type DiskProblem = Box<dyn Fn() -> Option<String> + Send + Sync>;

/// What a scheduler is that has lost its store.
pub(super) const READS_ANEW: &str = "it reads its store anew";
/// What the system says of a full disk.
const NO_SPACE: &str = "No space left on device";

impl Driver {
    /// Asks there why the store fails.
    #[must_use]
    pub fn with_disk_problem(self, disk_problem: DiskProblem) -> Self {
        Self { disk_problem, ..self }
    }

    /// It has no state to show, as `text` says, or more exactly the disk under the store. Returns whether that is news.
    pub(super) fn set_away(&self, text: &str, cause: Option<&StoreError>) -> bool {
        let full = cause.and_then(|cause| match cause {
            StoreError::Unavailable(why) if why.contains(NO_SPACE) => {
                Some(format!("the disk of Redis is full: {why}"))
            }
            StoreError::Unavailable(_) => (self.disk_problem)(),
            _ => None,
        });
        let now = match full {
            Some(full) => Role::DiskFull(full.into()),
            None => Role::Unavailable(text.into()),
        };
        let is_news = self.role.send_replace(now.clone()) != now;
        if let (true, Role::DiskFull(why)) = (is_news, &now) {
            error!("{why}");
        }
        is_news
    }

    /// Says once what is wrong with the store.
    pub(super) fn store_is_away(&self, cause: &StoreError) {
        if !self.set_away(&cause.to_string(), Some(cause)) || self.role.borrow().is_disk_full() {
            return;
        }
        match cause {
            StoreError::Schema { .. } | StoreError::Lost => error!(%cause, "store must not be used, waiting"),
            _ => warn!(%cause, "store cannot be used, trying again"),
        }
    }
}

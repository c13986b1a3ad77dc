//! Prefetching: what a job names that is expected to start here comes while the GPUs are still busy.
//!
//! It gives way to every fetch of an attempt, in the middle of its own, and the attempt goes on with what has come. When
//! it fails, no job is concerned.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{debug, info};
use trainyard_types::Prefetching;

use super::make_whole::Manner;
use super::progress::Teller;
use super::{Content, FetchError};
use crate::message::Prefetch;

/// Tries of one version. The scheduler says it again after a while, if the job still waits.
const TRIES: u32 = 5;
/// From a failure to the next try; it doubles.
const FIRST_WAIT: Duration = Duration::from_secs(5);

/// An attempt's fetch is under way for as long as this lives.
pub struct Precedence(Content);

impl Drop for Precedence {
    fn drop(&mut self) {
        self.0.0.attempts_fetching.send_modify(|count| *count -= 1);
    }
}

impl Content {
    /// An attempt fetches: what is prefetched gives way.
    pub(super) fn take_precedence(&self) -> Precedence {
        self.0.attempts_fetching.send_modify(|count| *count += 1);
        Precedence(self.clone())
    }

    /// Prefetches what the scheduler said last.
    pub(super) async fn prefetch_as_told(&self, mut told: watch::Receiver<Option<Prefetch>>) {
        loop {
            let wanted = told.borrow_and_update().clone();
            let work = async {
                if let Some(wanted) = &wanted {
                    self.prefetch(wanted).await;
                    self.tell_prefetch_over();
                }
            };
            tokio::pin!(work);
            let mut is_over = false;
            loop {
                tokio::select! {
                    () = &mut work, if !is_over => is_over = true,
                    changed = told.changed() => {
                        if changed.is_err() {
                            return;
                        }
                        // Said again while it comes, it is no news.
                        if is_over || *told.borrow_and_update() != wanted {
                            break;
                        }
                    }
                }
            }
            self.tell_prefetch_over();
        }
    }

    async fn prefetch(&self, wanted: &Prefetch) {
        let mut attempts = self.0.attempts_fetching.subscribe();
        let (mut tries, mut wait) = (0, FIRST_WAIT);
        let version = wanted.reference.short();
        loop {
            // The sender is this store's own.
            drop(attempts.wait_for(|count| *count == 0).await);
            let tried = tokio::select! {
                tried = self.prefetch_once(wanted) => tried,
                _ = attempts.wait_for(|count| *count > 0) => {
                    info!(version, "a prefetch gives way to the fetch of an attempt");
                    continue;
                }
            };
            tries += 1;
            match tried {
                Ok(true) => return info!(version, "prefetched"),
                Ok(false) => return debug!(version, "what is to be prefetched is here"),
                Err(error @ (FetchError::Gone | FetchError::NoRoom(_) | FetchError::NoStore(_))) => {
                    return info!(version, %error, "cannot be prefetched");
                }
                Err(error) if tries >= TRIES => return info!(version, %error, "cannot be prefetched"),
                Err(error) => debug!(version, %error, "a prefetch has failed, will go on"),
            }
            sleep(wait).await;
            wait *= 2;
        }
    }

    /// Returns whether anything had to come.
    async fn prefetch_once(&self, wanted: &Prefetch) -> Result<bool, FetchError> {
        let store = self.store()?;
        let version = self.0.source.version(wanted.kind, &wanted.reference).await?;
        if store.holds(version.id) {
            return Ok(false);
        }
        let mut teller = Teller::of_prefetch(wanted.reference.to_string(), self.0.status.clone());
        let store = Arc::clone(&store);
        self.obtain_version(&store, &version, &mut teller, Manner::Prefetch).await?;
        self.tell_held();
        Ok(true)
    }

    fn tell_prefetch_over(&self) {
        self.0.status.send_if_modified(|status| {
            let prefetching = &mut status.fitness.prefetching;
            let before = prefetching.take();
            *prefetching = before.as_ref().map(|_| Prefetching::default());
            before.is_some_and(|before| before.now.is_some())
        });
    }
}

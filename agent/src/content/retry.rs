//! When a call for a version is made again, and when it is given up.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tonic::{Code, Status};
use tracing::warn;

use super::fetch_error::FetchError;
use crate::backoff::Backoff;
use crate::message::SchedulerLink;
use crate::report::transfer::is_transient;

/// After so many refusals in a row a fetch is given up.
const MOST_REFUSALS: u32 = 5;

/// How long a fetch waits for what.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// A try that moves no byte for so long is ended.
    pub stall_after: Duration,
    /// It is given up when no byte has come for so long, while the scheduler is there.
    pub give_up_after: Duration,
}

/// The failures of one stream, since its last byte.
#[derive(Debug)]
pub struct Retry {
    link: watch::Receiver<Option<SchedulerLink>>,
    give_up_after: Duration,
    backoff: Backoff,
    refusals: u32,
    /// Since when it fails although the scheduler is there.
    since: Option<Instant>,
}

impl Retry {
    /// Of a stream that has not failed.
    pub fn new(link: &watch::Receiver<Option<SchedulerLink>>, patience: Patience) -> Self {
        let give_up_after = patience.give_up_after;
        Self { link: link.clone(), give_up_after, backoff: Backoff::default(), refusals: 0, since: None }
    }

    /// Notes that bytes have come.
    pub fn moved(&mut self) {
        (self.backoff, self.refusals, self.since) = (Backoff::default(), 0, None);
    }

    /// The scheduler, as soon as it is there.
    ///
    /// # Errors
    /// The agent is stopping.
    pub async fn connected(&mut self) -> Result<SchedulerLink, FetchError> {
        let there = self.link.wait_for(Option::is_some).await.map_err(|_| FetchError::Stopping)?;
        there.clone().ok_or(FetchError::Stopping)
    }

    /// Waits before the next try.
    ///
    /// # Errors
    /// The version is gone, or there was no byte for too long: it is given up.
    pub async fn wait(&mut self, what: &str, status: Status) -> Result<(), FetchError> {
        if status.code() == Code::NotFound {
            return Err(FetchError::Gone);
        }
        if !is_transient(status.code()) {
            self.refusals += 1;
            if self.refusals >= MOST_REFUSALS {
                return Err(FetchError::Refused(Box::new(status)));
            }
        }
        if self.link.borrow().is_none() {
            self.since = None; // The scheduler is away, which is waited for.
        } else {
            let since = *self.since.get_or_insert_with(Instant::now);
            if since.elapsed() >= self.give_up_after {
                let last = format!("{} ({:?})", status.message(), status.code());
                return Err(FetchError::Stalled { within: self.give_up_after, last });
            }
        }
        if self.backoff.failures() == 0 {
            warn!(what, code = ?status.code(), told = status.message(), "a fetch was cut, will go on");
        }
        sleep(self.backoff.next_wait()).await;
        Ok(())
    }
}

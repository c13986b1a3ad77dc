//! The leader's lease: renewed by a task of its own, so that a long batch does not cost the leadership.

use std::sync::Arc;

use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::task::AbortOnDropHandle;
use tracing::debug;
use trainyard_types::LeaderEpoch;

use crate::store::{Candidate, Store, StoreError};

/// Ends when the lease is lost, with why; dropping it ends the renewal.
pub(super) type Lease = AbortOnDropHandle<StoreError>;

/// Keeps the lease that a campaign begun at `since` has won.
pub(super) fn keep(
    store: Arc<dyn Store>,
    candidate: Candidate,
    leader: LeaderEpoch,
    since: Instant,
) -> Lease {
    AbortOnDropHandle::new(tokio::spawn(renew(store, candidate, leader, since)))
}

async fn renew(
    store: Arc<dyn Store>,
    candidate: Candidate,
    leader: LeaderEpoch,
    since: Instant,
) -> StoreError {
    // Measured from before each request, so that it ends here no later than in the store.
    let mut until = since + candidate.lease;
    loop {
        sleep(candidate.lease / 3).await;
        let asked = Instant::now();
        if candidate.exclusive {
            // Nobody can take it, however late it is renewed; this only finds out whether the store answers.
            if let Err(cause) = store.renew(&candidate, leader).await {
                return cause;
            }
            continue;
        }
        match timeout_at(until, store.renew(&candidate, leader)).await {
            Ok(Ok(())) => until = asked + candidate.lease,
            Ok(Err(fenced @ StoreError::Fenced { .. })) => return fenced,
            Ok(Err(cause)) => debug!(%cause, "lease cannot be renewed"),
            Err(_) => debug!("lease cannot be renewed in time"),
        }
        if Instant::now() >= until {
            return StoreError::LeaseOver;
        }
    }
}

//! How many connections there may be, and how long each may take to become useful.

use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tracing::warn;

/// Connections at most, however many descriptors there are: each takes about 30 kB, so that all take 0.5 GB.
const MOST_CONNECTIONS: usize = 16_384;
/// Descriptors that connections leave for the store, for files of blobs, and for the log: an eighth within these.
const LEAST_RESERVE: u64 = 64;
const MOST_RESERVE: u64 = 1024;
/// What is assumed where the system does not tell; it is the least that it gives.
const FEW_DESCRIPTORS: u64 = 1024;
/// Handshakes under way at a time, in all and from one address: each costs more than all that comes after it.
const HANDSHAKES: usize = 4096;
const HANDSHAKES_BY_ORIGIN: usize = 64;

/// What the listener holds callers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    pub limits: Limits,
    pub patience: Patience,
}

/// What there may be at a time, in all and from one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub connections: usize,
    pub connections_by_origin: usize,
    pub handshakes: usize,
    pub handshakes_by_origin: usize,
}

/// How long a connection may take for each step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// To say which protocol it speaks.
    pub greeting: Duration,
    /// To be encrypted, the wait for its turn included.
    pub handshake: Duration,
    /// To make its first request, once it may.
    pub request: Duration,
}

impl Bounds {
    /// What this process can bear; raises the number of descriptors that it may open as far as it is allowed to.
    pub fn of_this_process() -> Self {
        Self { limits: Limits::of_descriptors(raise_descriptors()), patience: Patience::default() }
    }
}

impl Limits {
    /// What a process can bear that may open so many files and connections.
    fn of_descriptors(descriptors: u64) -> Self {
        let reserve = (descriptors / 8).clamp(LEAST_RESERVE, MOST_RESERVE);
        let left = usize::try_from(descriptors.saturating_sub(reserve)).unwrap_or(usize::MAX);
        // A scheduler that lets nobody in is of no use.
        let connections = left.clamp(2, MOST_CONNECTIONS);
        Self {
            connections,
            connections_by_origin: connections / 2,
            handshakes: HANDSHAKES,
            handshakes_by_origin: HANDSHAKES_BY_ORIGIN,
        }
    }
}

impl Default for Patience {
    fn default() -> Self {
        let step = Duration::from_secs(10);
        Self { greeting: step, handshake: step, request: Duration::from_secs(30) }
    }
}

/// How many descriptors this process may open, after its limit was raised.
fn raise_descriptors() -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return FEW_DESCRIPTORS };
    match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(cause) => {
            warn!(%cause, soft, hard, "the limit of open files cannot be raised");
            soft
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_descriptors_for_the_rest_and_one_address_leaves_half_of_them() {
        let table = [
            (0, 2, 1),
            (256, 192, 96),
            (1024, 896, 448),
            (10_000, 8976, 4488),
            (1 << 20, 16_384, 8192),
            (u64::MAX, 16_384, 8192),
        ];
        for (descriptors, all, of_one) in table {
            let limits = Limits::of_descriptors(descriptors);
            assert_eq!((limits.connections, limits.connections_by_origin), (all, of_one), "{descriptors}");
        }
    }

    #[test]
    fn a_process_may_open_all_that_it_is_allowed_to() {
        let raised = raise_descriptors();
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap(), (raised, raised));
    }
}

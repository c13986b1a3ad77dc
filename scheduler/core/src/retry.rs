//! What becomes of a job when an attempt ends: when to try again, when to give up.

use std::time::Duration;

use trainyard_types::{EndReason, Unfit};

use crate::config::CoreConfig;

/// What the end of an attempt means for its job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The job has succeeded: its results are committed.
    Succeed,
    /// Its user wanted it to end.
    Cancel,
    /// The job has failed: trying again cannot help.
    Fail,
    /// A crash: try again later, as long as crashes are forgiven.
    Retry,
    /// The machine's fault or wish: try again at once.
    Requeue,
}

/// An attempt that completed wins over a wish to cancel; that wish wins over a time limit, and that over
/// everything else.
pub fn verdict(reason: EndReason, cancel_requested: bool, out_of_time: bool) -> Verdict {
    match reason {
        EndReason::Completed => Verdict::Succeed,
        _ if cancel_requested => Verdict::Cancel,
        _ if out_of_time => Verdict::Fail,
        EndReason::Cancelled => Verdict::Cancel,
        _ if reason.counts_as_retry() => Verdict::Retry,
        _ if reason.requeues() => Verdict::Requeue,
        _ => Verdict::Fail,
    }
}

/// Whether an attempt that ends like this may have met something wrong with its machine. A path that the machine
/// lacks is another thing: nothing that names it is offered there.
pub fn is_bad(reason: EndReason, unfit: Option<&Unfit>) -> bool {
    let lacks_path = reason == EndReason::AgentUnfit && unfit.is_some_and(|unfit| unfit.kind.is_of_path());
    reason.may_blame_machine() && !lacks_path
}

/// How long to wait after the n-th crash (from 1): doubling, up to a limit.
pub fn delay(config: &CoreConfig, crashes: u32) -> Duration {
    let doublings = crashes.saturating_sub(1).min(31);
    config.retry_delay.saturating_mul(1 << doublings).min(config.retry_delay_max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_up_to_its_limit() {
        let config = CoreConfig::default();
        let seconds = [1, 2, 3, 5, 6, 100].map(|crashes| delay(&config, crashes).as_secs());
        assert_eq!(seconds, [10, 20, 40, 160, 300, 300]);
    }
}

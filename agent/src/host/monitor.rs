//! The task that tells the core what main memory and processors do.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::{Host, HostSampler};
use crate::message::{Event, Input};

/// How often main memory and processors are read.
const READ_EVERY: Duration = Duration::from_secs(1);

/// Tells the driver what the machine does, from the first reading on until `end`.
pub async fn run(host: Host, inbox: mpsc::Sender<Input>, end: CancellationToken) {
    let mut sampler = HostSampler::new(host);
    let mut ticks = interval(READ_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while end.run_until_cancelled(ticks.tick()).await.is_some() {
        // A reading that finds the driver busy is not worth waiting for.
        let _busy = inbox.try_send(Input::Core(Event::Host(sampler.read())));
    }
}

//! The task that keeps the disk of the data directory from becoming full.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::space::{self, Limits};
use crate::agent_status::AgentStatus;
use crate::message::{Event, Input};

/// How often the free room of the disk is read.
const CHECK_EVERY: Duration = Duration::from_secs(3);

/// After so many checks the jobs' directories are measured even if the disk has room.
const MEASURE_EVERY: u32 = 200;

/// Tells whether new jobs may come, and has directories removed that are too much.
pub struct DiskJanitor {
    /// The directory whose disk is kept from becoming full.
    pub data_dir: PathBuf,
    /// What jobs' directories may take.
    pub limits: Limits,
    /// The driver's inbox.
    pub inbox: mpsc::Sender<Input>,
    /// Where the scheduler is told that the disk takes no jobs.
    pub status: watch::Sender<AgentStatus>,
}

impl DiskJanitor {
    /// The janitor, after its first check.
    pub async fn after_check(self) -> Self {
        self.check(true).await;
        self
    }

    /// Checks the disk until `end`.
    pub async fn run(self, end: CancellationToken) {
        let mut ticks = interval(CHECK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for tick in 0_u32.. {
            if end.run_until_cancelled(ticks.tick()).await.is_none() {
                return;
            }
            self.check(tick % MEASURE_EVERY == 0).await;
            let _busy = self.inbox.try_send(Input::CheckDecodedData);
        }
    }

    /// Reads how much is free, tells whether jobs may come, and has directories removed that are too much.
    pub async fn check(&self, measures: bool) {
        let (data_dir, limits) = (self.data_dir.clone(), self.limits);
        let refuses = !self.status.borrow().disk_short.is_empty();
        let read = move || {
            let free = space::free_bytes(&data_dir)?;
            let refusal = space::refusal(&data_dir, free, limits.floor, refuses);
            let is_short = measures || !refusal.is_empty();
            let dirs = if is_short { space::job_dirs(&data_dir) } else { Vec::new() };
            io::Result::Ok((refusal, space::surplus(dirs, free, limits)))
        };
        match tokio::task::spawn_blocking(read).await {
            Ok(Ok((refusal, surplus))) => {
                if !surplus.is_empty() {
                    // A driver that is busy is asked again.
                    let _busy = self.inbox.try_send(Input::RemoveJobDirs(surplus));
                }
                self.tell(refusal);
            }
            Ok(Err(error)) => warn!(%error, "cannot see how full the disk of `data_dir` is"),
            Err(_) => {} // The agent is leaving.
        }
    }

    fn tell(&self, refusal: String) {
        self.status.send_if_modified(|status| {
            let changes = status.disk_short.is_empty() != refusal.is_empty();
            match (changes, refusal.is_empty()) {
                (true, false) => warn!("no new jobs: {refusal}"),
                (true, true) => info!("the disk has room again: new jobs may come"),
                (false, _) => {}
            }
            // How many MiB exactly are free is not worth a heartbeat.
            if changes {
                status.disk_short.clone_from(&refusal);
            }
            changes
        });
        // Attempts that cross with this go back at once. A driver that is busy is told the next time.
        let why = Some(refusal).filter(|why| !why.is_empty());
        let _busy = self.inbox.try_send(Input::Core(Event::DiskShort(why)));
    }
}

//! The service manager (systemd): what it is told, by datagrams to the socket that `NOTIFY_SOCKET` names. Where the
//! variable is not set nothing is said at all.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tracing::debug;

/// A sign of life comes so many times within the time in which one must come.
const SIGNS_PER_LIMIT: u32 = 3;

/// The service manager of this process, if it has one.
#[derive(Debug, Clone)]
pub struct ServiceManager {
    is_there: bool,
    /// Within this time it must hear a sign of life.
    limit: Option<Duration>,
    status: Arc<Mutex<String>>,
}

impl ServiceManager {
    /// The one that started this process.
    pub fn of_process() -> Self {
        let is_there = std::env::var_os("NOTIFY_SOCKET").is_some_and(|socket| !socket.is_empty());
        let limit = sd_notify::watchdog_enabled().filter(|limit| is_there && !limit.is_zero());
        Self { is_there, limit, status: Arc::default() }
    }

    /// None, for a program that is a part of another one.
    pub fn none() -> Self {
        Self { is_there: false, limit: None, status: Arc::default() }
    }

    /// Whether somebody listens.
    pub fn is_there(&self) -> bool {
        self.is_there
    }

    /// The program does its work from now on. Ends [`Self::reloading`], too.
    pub fn ready(&self) {
        self.say(&[NotifyState::Ready]);
    }

    /// One line for `systemctl status`; told when it changes.
    pub fn status(&self, text: &str) {
        let mut told = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        if *told != text {
            text.clone_into(&mut told);
            self.say(&[NotifyState::Status(&text.replace('\n', " "))]);
        }
    }

    /// The configuration is read anew, until [`Self::ready`].
    pub fn reloading(&self) {
        // Newer managers (`Type=notify-reload`) want the time as well.
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.say(&[NotifyState::Reloading, now]),
            Err(_) => self.say(&[NotifyState::Reloading]),
        }
    }

    /// The program is about to end.
    pub fn stopping(&self) {
        self.say(&[NotifyState::Stopping]);
    }

    /// What the task that does the work ticks with.
    pub fn watchdog(&self) -> Watchdog {
        let manager = self.clone();
        Watchdog { every: self.limit.map(|limit| limit / SIGNS_PER_LIMIT), ticks: None, manager }
    }

    fn say(&self, states: &[NotifyState<'_>]) {
        if self.is_there
            && let Err(error) = sd_notify::notify(states)
        {
            debug!(%error, "the service manager cannot be told");
        }
    }
}

/// Signs of life of one task. The task itself waits for [`Self::tick`] among its other work: so a task that hangs gives
/// none, and the manager starts the program again.
#[derive(Debug)]
pub struct Watchdog {
    every: Option<Duration>,
    ticks: Option<Interval>,
    manager: ServiceManager,
}

impl Watchdog {
    /// Gives one sign of life when it is time; never returns where nobody wants any. May be dropped and called again.
    pub async fn tick(&mut self) {
        let Some(every) = self.every else { return std::future::pending().await };
        let ticks = self.ticks.get_or_insert_with(|| {
            let mut ticks = interval(every);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        });
        ticks.tick().await;
        self.manager.say(&[NotifyState::Watchdog]);
    }

    /// Does work that may take long and that waits without blocking, with signs of life meanwhile.
    pub async fn during<T>(&mut self, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                () = self.tick() => {}
            }
        }
    }
}

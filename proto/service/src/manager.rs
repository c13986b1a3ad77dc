//! The service manager (systemd): what it is told, by datagrams to the socket that `NOTIFY_SOCKET` names. Where the
//! variable is not set nothing is said at all.

use std::collections::BTreeMap;
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
    status: Arc<Mutex<Status>>,
}

/// What the status line is made of.
#[derive(Debug, Default)]
struct Status {
    line: String,
    /// What a person has to mend, by what it is about.
    problems: BTreeMap<&'static str, String>,
    told: String,
}

impl Status {
    /// The line, if it is another one than was told.
    fn news(&mut self) -> Option<String> {
        let problems: String = self.problems.values().map(|problem| format!("; {problem}")).collect();
        let text = format!("{}{problems}", self.line).replace('\n', " ");
        if text == self.told {
            return None;
        }
        self.told.clone_from(&text);
        Some(text)
    }
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
        self.change_status(|status| text.clone_into(&mut status.line));
    }

    /// What a person has to mend stands in the line until it is mended: `None`. `about` tells problems apart.
    pub fn problem(&self, about: &'static str, problem: Option<String>) {
        self.change_status(|status| match problem {
            Some(problem) => drop(status.problems.insert(about, problem)),
            None => drop(status.problems.remove(about)),
        });
    }

    fn change_status(&self, change: impl FnOnce(&mut Status)) {
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut status);
        if let Some(text) = status.news() {
            self.say(&[NotifyState::Status(&text)]);
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

    /// The program is about to end, and may take so long; the manager's own limit counts where that is longer.
    pub fn stopping_within(&self, limit: Duration) {
        let limit_us = u32::try_from(limit.as_micros()).unwrap_or(u32::MAX);
        self.say(&[NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(limit_us)]);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_stays_in_the_line_until_it_is_mended_and_nothing_is_told_twice() {
        let mut status = Status { line: "leading".into(), ..Status::default() };
        assert_eq!(status.news().as_deref(), Some("leading"));
        status.problems.insert("reload", "not read:\nno TOML".into());
        assert_eq!(status.news().as_deref(), Some("leading; not read: no TOML"));
        assert_eq!(status.news(), None);
        status.line = "standing by".into();
        assert_eq!(status.news().as_deref(), Some("standing by; not read: no TOML"));
        status.problems.clear();
        assert_eq!(status.news().as_deref(), Some("standing by"));
    }
}

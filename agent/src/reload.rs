//! SIGHUP: the configuration and the certificate are read again, and what can change while the agent runs does.

use std::io::IsTerminal as _;

use anyhow::{Context, bail};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use trainyard_config::Effective;
use trainyard_service::{LogFilter, ServiceManager};

use crate::config::{Config, Options};
use crate::message::Reloaded;
use crate::startup;

/// The keys that count without a restart.
const RELOADED: [&str; 2] = ["log", "owners"];

/// What reading the configuration again needs.
pub struct Reload {
    /// The flags that the agent was started with.
    pub options: Options,
    /// The configuration that the agent runs with, and where each value came from.
    pub config: Effective<Config>,
    /// The filter of the agent's log, which `log` sets.
    pub log: LogFilter,
    /// The service manager, which is told that a reload is under way.
    pub service: ServiceManager,
    /// Where the tasks hear what has changed.
    pub reloaded: watch::Sender<Reloaded>,
    /// Ends the agent gently.
    pub stop: CancellationToken,
}

impl Reload {
    /// Waits for SIGHUP, again and again. The signal is listened for from this call on.
    ///
    /// # Errors
    /// The signal cannot be listened for.
    pub fn listen(mut self) -> anyhow::Result<impl Future<Output = ()> + Send + 'static> {
        let mut hangup = signal(SignalKind::hangup()).context("cannot wait for signals")?;
        // A terminal that is closed sends the same signal.
        let has_terminal = std::io::stdin().is_terminal();
        Ok(async move {
            while hangup.recv().await.is_some() {
                if has_terminal {
                    info!("SIGHUP: the terminal is gone, jobs are handed back");
                    self.stop.cancel();
                    return;
                }
                self.service.reloading();
                let problem = self.reread().err().map(|error| {
                    error!("SIGHUP: the configuration stays as it was: {error:#}");
                    format!("the changed configuration is not used: {error:#}")
                });
                self.service.problem("reload", problem);
                self.service.ready();
            }
        })
    }

    fn reread(&mut self) -> anyhow::Result<()> {
        let newer = load(&self.options)?;
        self.log.set(&newer.value.log())?;
        // Another scheduler that was joined is taken with its certificate.
        let follows = self.config.value.follows_join && newer.value.follows_join;
        let counts = |key: &String| RELOADED.contains(&key.as_str()) || (follows && key == "scheduler");
        let (now, later): (Vec<String>, Vec<String>) =
            self.config.changed(&newer).into_iter().partition(counts);
        info!(changed = now.join(","), "SIGHUP: configuration and certificate were read again");
        if !later.is_empty() {
            warn!(keys = later.join(","), "these keys have changed and count after a restart");
        }
        self.reloaded.send_replace(Reloaded::of(&newer.value));
        self.config = newer;
        Ok(())
    }
}

impl Reloaded {
    /// What a configuration says of it.
    pub fn of(config: &Config) -> Self {
        Self { owners: config.owners.clone() }
    }
}

/// The configuration that the agent runs with, by its flags.
///
/// # Errors
/// It cannot be read, or its values do not go together.
pub fn load(options: &Options) -> anyhow::Result<Effective<Config>> {
    let mut effective = options.load()?;
    startup::use_joined_scheduler(&mut effective);
    let problems = effective.value.problems();
    if !problems.is_empty() {
        bail!("{}", problems.join("; "));
    }
    Ok(effective)
}

//! `trainyard-scheduler`: reads its configuration, serves until a signal, drains, and says how it ended.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{CommandFactory as _, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};
use trainyard_access::Token;
use trainyard_config::{Effective, Sources};
use trainyard_console as console;
use trainyard_scheduler::config::Config;
use trainyard_scheduler::server::{Issue, Server, issue_token};
use trainyard_service::{LogFilter, Manual, ServiceManager, installed};

/// Queues training jobs, places them on agents, and keeps what becomes of them.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
struct Arguments {
    /// Configuration file, TOML [default: /etc/trainyard/scheduler.toml where root runs this and it is there].
    /// Environment (TRAINYARD_SCHEDULER__LISTEN=…) and flags override it.
    #[arg(long, global = true, value_name = "FILE", env = "TRAINYARD_SCHEDULER_CONFIG")]
    config: Option<PathBuf>,
    /// Address and port of gRPC and HTTP [default: 127.0.0.1:7433].
    #[arg(long, global = true, value_name = "ADDRESS:PORT")]
    listen: Option<String>,
    /// Where the private Redis server and all blobs are kept.
    #[arg(long, global = true, value_name = "DIR")]
    data_dir: Option<String>,
    /// A Redis server to use; without one, a private one is started in the data directory.
    #[arg(long, global = true, value_name = "URL")]
    redis_url: Option<String>,
    /// Listen beyond this machine in plaintext, and let whoever reaches the port do everything.
    #[arg(long, global = true)]
    insecure: bool,
    #[command(subcommand)]
    command: Option<Action>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Run the scheduler (the default).
    Run,
    /// Print the effective configuration and where each value came from.
    Config,
    /// Make a new token for an admin, where every other is lost; needs this scheduler's own files and its Redis.
    AdminToken,
    /// Make a new token that machines join with, and print it alone; needs this scheduler's own files and its Redis.
    JoinToken {
        /// How many machines may join with it.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
        uses: u32,
        /// How long it counts, such as 12h or 90d.
        #[arg(long, value_name = "DURATION", default_value = "7d", value_parser = humantime_serde::re::humantime::parse_duration)]
        expires: Duration,
    },
    /// Write the manual pages, for packages.
    #[command(hide = true)]
    Manual(Manual),
}

impl Arguments {
    fn load(&self) -> anyhow::Result<Effective<Config>> {
        let sources = Sources::new("TRAINYARD_SCHEDULER")
            .file(self.config.clone().or_else(|| installed::configuration("scheduler.toml")).as_deref())
            .process_environment()
            .flag("listen", self.listen.as_deref())
            .flag("data_dir", self.data_dir.as_deref())
            .flag("redis_url", self.redis_url.as_deref())
            .flag("security", self.insecure.then_some("off"));
        Ok(sources.load()?)
    }
}

fn main() -> ExitCode {
    let arguments = trainyard_service::parse::<Arguments>();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            console::note(format_args!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    if let Some(Action::Manual(manual)) = &arguments.command {
        return Ok(manual.write(Arguments::command())?);
    }
    let config = arguments.load()?;
    match arguments.command {
        Some(Action::Config) => {
            console::print(&config)?;
            Ok(config.value.validate()?)
        }
        Some(Action::AdminToken) => {
            let (token, address) = issue(&config.value, Issue::Admin)?;
            Ok(console::print(format_args!("yard login {address} {}\n", token.reveal()))?)
        }
        Some(Action::JoinToken { uses, expires: lifetime }) => {
            let (token, _) = issue(&config.value, Issue::Join { uses, lifetime })?;
            Ok(console::print(format_args!("{}\n", token.reveal()))?)
        }
        Some(Action::Run | Action::Manual(_)) | None => serve(arguments, config),
    }
}

#[tokio::main]
async fn issue(config: &Config, wanted: Issue) -> anyhow::Result<(Token, String)> {
    config.validate()?;
    Ok(issue_token(config, wanted).await?)
}

#[tokio::main]
async fn serve(arguments: &Arguments, mut config: Effective<Config>) -> anyhow::Result<()> {
    let log = LogFilter::start(&config.value.log, || console::LogOutput)?;
    // Before anything is started, so that no signal is missed.
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for signals")?;
    let mut hangup = signal(SignalKind::hangup()).context("cannot wait for signals")?;
    // A terminal that is closed sends the same signal.
    let has_terminal = std::io::stdin().is_terminal();
    let service = ServiceManager::of_process();
    let server = Server::start_under(config.value.clone(), &service).await?;
    let (closing, reload) = (server.closing(), server.reload());
    let waiting = server.wait();
    tokio::pin!(waiting);
    let cause = loop {
        tokio::select! {
            end = &mut waiting => return Ok(end?),
            _ = terminate.recv() => break "SIGTERM",
            _ = interrupt.recv() => break "SIGINT",
            _ = hangup.recv() => {}
        }
        if has_terminal {
            break "SIGHUP";
        }
        service.reloading();
        match reread(arguments, &config, &log) {
            Ok(newer) => {
                reload.send(&newer.value);
                config = newer;
                service.problem("reload", None);
            }
            Err(error) => {
                error!("SIGHUP: the configuration stays as it was: {error:#}");
                service.problem("reload", Some(format!("the changed configuration is not used: {error:#}")));
            }
        }
        service.ready();
    };
    info!(cause, "shutting down");
    service.stopping();
    closing.cancel();
    Ok(waiting.await?)
}

/// What takes effect without a restart.
const RELOADED: [&str; 4] = ["log", "queued_jobs", "running_gpus", "users"];

/// Reads the configuration again, and says what of it needs a restart.
fn reread(
    arguments: &Arguments,
    config: &Effective<Config>,
    log: &LogFilter,
) -> anyhow::Result<Effective<Config>> {
    let newer = arguments.load()?;
    newer.value.validate()?;
    log.set(&newer.value.log)?;
    let (now, later): (Vec<String>, Vec<String>) =
        config.changed(&newer).into_iter().partition(|key| RELOADED.contains(&key.as_str()));
    info!(changed = now.join(","), "SIGHUP: configuration and certificates were read again");
    if !later.is_empty() {
        warn!(keys = later.join(","), "these keys have changed and count after a restart");
    }
    Ok(newer)
}

//! `trainyard-scheduler`: reads its configuration, serves until a signal, drains, and says how it ended.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tracing::info;
use tracing_subscriber::EnvFilter;
use trainyard_access::Token;
use trainyard_config::{Effective, Sources};
use trainyard_console as console;
use trainyard_scheduler::config::Config;
use trainyard_scheduler::server::{Issue, Server, issue_token};

/// Queues training jobs, places them on agents, and keeps what becomes of them.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
struct Arguments {
    /// Configuration file, TOML. Environment (TRAINYARD_SCHEDULER__LISTEN=…) and flags override it.
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
}

impl Arguments {
    fn load(&self) -> anyhow::Result<Effective<Config>> {
        let sources = Sources::new("TRAINYARD_SCHEDULER")
            .file(self.config.as_deref())
            .process_environment()
            .flag("listen", self.listen.as_deref())
            .flag("data_dir", self.data_dir.as_deref())
            .flag("redis_url", self.redis_url.as_deref())
            .flag("security", self.insecure.then_some("off"));
        Ok(sources.load()?)
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            console::note(format_args!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
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
        None | Some(Action::Run) => serve(config.value),
    }
}

#[tokio::main]
async fn issue(config: &Config, wanted: Issue) -> anyhow::Result<(Token, String)> {
    config.validate()?;
    Ok(issue_token(config, wanted).await?)
}

#[tokio::main]
async fn serve(config: Config) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&config.log)
        .with_context(|| format!("log: `{}` is no level or list of directives; use `info`", config.log))?;
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| console::LogOutput)
        .log_internal_errors(false)
        .with_ansi(colours)
        .init();
    // Before anything is started, so that no signal is missed.
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for signals")?;
    let server = Server::start(config).await?;
    let closing = server.closing();
    let waiting = server.wait();
    tokio::pin!(waiting);
    let cause = tokio::select! {
        end = &mut waiting => return Ok(end?),
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    };
    info!(cause, "shutting down");
    closing.cancel();
    Ok(waiting.await?)
}

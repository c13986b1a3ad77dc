//! The command line: what every command shares, and the list of commands.

use std::path::PathBuf;

use clap::{Args, Command as Clap, Parser, Subcommand, ValueEnum};
use trainyard_service::Manual;

use crate::commands::{
    agents, artifacts, audit, cancel, completions, data, demo_data, job, jobs, login, logs, metrics, notify,
    open, operator, priority, queue, record, retry, setup, submit, sweep, token, top, train, up, watch,
    why_slow,
};

/// Train YOLOv8 on a lab's mixed GPUs.
#[derive(Debug, Parser)]
#[command(name = "yard", version, propagate_version = true, max_term_width = 100)]
#[command(after_help = "Exit codes: 0 fine, 1 the job failed or was cancelled, 2 wrong usage or bad spec, \
                        3 the server cannot be reached, 4 refused, 130 interrupted.\n\
                        An id may be shortened to any start that only it has.")]
pub struct Cli {
    /// The options that every command takes.
    #[command(flatten)]
    pub global: Global,
    /// The command, with its own options.
    #[command(subcommand)]
    pub command: Command,
}

/// Whether the word after an option of `yard train`, by its name without dashes, is its value. One that is not known is
/// clap's to refuse.
pub fn takes_value(yard: &Clap, option: &str) -> bool {
    let option = option.replace('_', "-");
    let train = yard.find_subcommand("train").into_iter().flat_map(Clap::get_arguments);
    let known = yard.get_arguments().chain(train).find(|known| known.get_long() == Some(option.as_str()));
    known.is_none_or(|known| known.get_action().takes_values())
}

/// Options of every command.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Options of every command")]
pub struct Global {
    /// The scheduler's address, or several with commas between [default: `server` in ~/.config/trainyard/cli.toml, or http://127.0.0.1:7433]
    #[arg(long, global = true, env = "YARD_SERVER", hide_env_values = true, value_name = "URL")]
    pub server: Option<String>,
    /// Who you are to the scheduler [default: `token` in ~/.config/trainyard/cli.toml]
    #[arg(long, global = true, env = "YARD_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// Authorities that certify the server, a PEM file; only where it is not the cluster's own [default: `ca` in ~/.config/trainyard/cli.toml]
    #[arg(long, global = true, env = "YARD_CA", hide_env_values = true, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Act for this user; admins only
    #[arg(long = "as", global = true, value_name = "USER")]
    pub act_as: Option<String>,
    /// How to print: table, or for scripts json, yaml or jsonl, all with proto3 JSON's names
    #[arg(short, long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    #[arg(hide_possible_values = true)]
    pub output: Format,
    /// When to print colours: auto, always or never; NO_COLOR switches them off as well
    #[arg(long, global = true, value_enum, default_value_t, value_name = "WHEN")]
    #[arg(hide_possible_values = true)]
    pub color: ColorChoice,
}

/// How a command prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Format {
    /// Tables and sentences
    #[default]
    Table,
    /// One JSON document
    Json,
    /// One YAML document
    Yaml,
    /// One JSON object a line
    Jsonl,
}

/// When to do something that only suits a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum ColorChoice {
    /// On a terminal
    #[default]
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// The commands of `yard`.
#[derive(Debug, Subcommand)]
pub enum Command {
    Up(up::Up),
    Setup(setup::Setup),
    Login(login::Login),
    Logout(login::Logout),
    /// The commands that ask the scheduler.
    #[command(flatten)]
    Remote(Remote),
    DemoData(demo_data::DemoData),
    Completions(completions::Completions),
    /// Write the manual pages, for packages.
    #[command(hide = true)]
    Manual(Manual),
}

/// The commands that ask the scheduler.
#[derive(Debug, Subcommand)]
pub enum Remote {
    Train(Box<train::Train>),
    Submit(submit::Submit),
    Jobs(jobs::Jobs),
    Job(job::ShowJob),
    Sweep(sweep::ShowSweep),
    Watch(watch::Watch),
    #[command(alias = "log")]
    Logs(logs::Logs),
    Metrics(metrics::ShowMetrics),
    Cancel(cancel::Cancel),
    Retry(retry::Retry),
    Priority(priority::Priority),
    Queue(queue::Queue),
    #[command(alias = "agent")]
    Agents(agents::Agents),
    #[command(alias = "gpu")]
    Gpus(agents::Gpus),
    Drain(operator::Drain),
    Resume(operator::Resume),
    Top(top::Top),
    Record(record::Record),
    WhySlow(why_slow::WhySlow),
    #[command(alias = "artifact")]
    Artifacts(artifacts::Artifacts),
    Data(data::DataCommand),
    Weights(data::WeightsCommand),
    #[command(name = "whoami")]
    WhoAmI(login::WhoAmI),
    #[command(alias = "tokens")]
    Token(token::TokenCommand),
    Audit(audit::Audit),
    Notify(notify::NotifyCommand),
    Open(open::Open),
}

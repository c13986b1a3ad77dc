//! The command line: what every command shares, and the list of commands.

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::commands::{
    agents, artifacts, cancel, completions, demo_data, job, jobs, logs, metrics, retry, submit, train, up,
    watch,
};

/// Train YOLOv8 on a lab's mixed GPUs.
#[derive(Debug, Parser)]
#[command(name = "yard", version, propagate_version = true, max_term_width = 100)]
#[command(after_help = "Exit codes: 0 fine, 1 the job failed or was cancelled, 2 wrong usage or bad spec, \
                        3 the server cannot be reached, 4 refused, 130 interrupted.\n\
                        A job's id may be shortened to any prefix that only it has.")]
pub struct Cli {
    /// What every command takes.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Options of every command")]
pub struct Global {
    /// The scheduler's address [default: `server` in ~/.config/trainyard/cli.toml, or http://127.0.0.1:7433]
    #[arg(long, global = true, env = "YARD_SERVER", value_name = "URL")]
    pub server: Option<String>,
    /// Who you are to the scheduler [default: `token` in ~/.config/trainyard/cli.toml]
    #[arg(long, global = true, env = "YARD_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// How to print: for people, or for scripts (proto3 JSON)
    #[arg(short, long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Format,
    /// When to print colours; NO_COLOR switches them off as well
    #[arg(long, global = true, value_enum, default_value_t, value_name = "WHEN")]
    pub color: When,
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
pub enum When {
    /// On a terminal
    #[default]
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// What `yard` can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a whole cluster on this machine: private Redis, scheduler, agent
    Up(up::Up),
    /// What asks the scheduler.
    #[command(flatten)]
    Remote(Remote),
    /// Write a small generated data set in YOLO format
    DemoData(demo_data::DemoData),
    /// Print a completion script for a shell
    Completions(completions::Completions),
}

/// What `yard` asks the scheduler.
#[derive(Debug, Subcommand)]
pub enum Remote {
    /// Queue a training job from flags and print its id
    Train(Box<train::Train>),
    /// Queue the jobs of a file and print their ids
    Submit(submit::Submit),
    /// List jobs, newest first
    Jobs(jobs::Jobs),
    /// Show everything about a job
    Job(job::ShowJob),
    /// Follow a job until it ends
    Watch(watch::Watch),
    /// Print a job's log
    #[command(alias = "log")]
    Logs(logs::Logs),
    /// Print a job's figures, epoch by epoch
    Metrics(metrics::ShowMetrics),
    /// End jobs
    Cancel(cancel::Cancel),
    /// Queue a job that failed or was cancelled again
    Retry(retry::Retry),
    /// List the machines
    #[command(alias = "agent")]
    Agents(agents::Agents),
    /// List the GPUs
    #[command(alias = "gpu")]
    Gpus(agents::Gpus),
    /// List or fetch what a job has left behind
    #[command(alias = "artifact")]
    Artifacts(artifacts::Artifacts),
}

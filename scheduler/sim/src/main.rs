//! `trainyard-sim`: what a policy makes of a queue.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use trainyard_console as console;
use trainyard_scheduler_core::{CoreConfig, Policy};
use trainyard_sim::cases::{Case, ChangedJob, Figures, RecordedRun, Schedule, drive};

/// Runs a recorded or generated queue through the scheduler's core, and writes who ran where and when.
#[derive(Debug, Parser)]
#[command(name = "trainyard-sim", version, args_conflicts_with_subcommands = true)]
#[command(arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Directory with cluster.csv and jobs.csv
    #[arg(long, value_name = "DIR")]
    case: Option<PathBuf>,
    #[command(flatten)]
    args: ScheduleArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs what `yard record DIR` recorded of a live cluster, and says what would have changed
    Replay {
        /// Directory with cluster.csv, jobs.csv and ran.csv
        dir: PathBuf,
        #[command(flatten)]
        args: ScheduleArgs,
    },
}

#[derive(Debug, Args)]
struct ScheduleArgs {
    /// Who goes next, and where
    #[arg(long, value_enum, default_value_t = PolicyArg::FinishTime)]
    policy: PolicyArg,
    /// Where the schedule goes
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum PolicyArg {
    Fifo,
    Fair,
    FinishTime,
}

impl From<PolicyArg> for Policy {
    fn from(policy: PolicyArg) -> Self {
        match policy {
            PolicyArg::Fifo => Self::Fifo,
            PolicyArg::Fair => Self::Fair,
            PolicyArg::FinishTime => Self::FinishTime,
        }
    }
}

/// What a start costs after a job's first, unless the case says so.
const RESTART_S: f64 = 30.0;

/// Jobs that a replay names.
const NAMED: usize = 10;

fn main() -> Result<()> {
    let Arguments { command, case, args } = Arguments::parse();
    match (command, case) {
        (Some(Command::Replay { dir, args }), _) => replay(&dir, &args),
        (None, Some(case)) => {
            let case = load(&case)?;
            let schedule = schedule(&case, &args)?;
            let figures = shown(&schedule.figures(&case));
            Ok(console::line(format_args!("{} jobs  {figures}", case.jobs.len()))?)
        }
        (None, None) => bail!("give --case DIR, or replay DIR"),
    }
}

fn schedule(case: &Case, args: &ScheduleArgs) -> Result<Schedule> {
    let config = CoreConfig { policy: args.policy.into(), ..CoreConfig::default() };
    let schedule = drive(case, config)?;
    schedule.check(case)?;
    if let Some(out) = &args.out {
        fs::write(out, schedule.csv(case)).with_context(|| format!("cannot write {}", out.display()))?;
    }
    Ok(schedule)
}

fn shown(figures: &Figures) -> String {
    let Figures { mean_h, p95_h, p99_h, jain, worst_user, restarts, longest_wait_h } = figures;
    format!(
        "mean {mean_h:.3} h  p95 {p95_h:.2} h  p99 {p99_h:.2} h  Jain {jain:.3}  worst user {worst_user:.2} x  \
         restarts {restarts:.3} a job  longest wait {longest_wait_h:.1} h"
    )
}

fn replay(dir: &Path, args: &ScheduleArgs) -> Result<()> {
    let case = load(dir)?;
    let path = dir.join("ran.csv");
    let ran = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let ran = RecordedRun::parse(&ran, &case)?;
    let schedule = schedule(&case, args)?;
    let (was, would_be) = (shown(&ran.figures(&case)), shown(&schedule.figures(&case)));
    let mut lines = vec![
        format!("{} jobs", case.jobs.len()),
        format!("as it was     {was}"),
        format!("{:<12}  {would_be}", Policy::from(args.policy).name()),
        "\nhours from submission to end of the jobs that would have changed most:".to_owned(),
        format!("{:<36}  {:<12}  {:>9}  {:>9}", "job", "user", "as it was", "would be"),
    ];
    for ChangedJob { id, user, was_h, would_be_h } in ran.changed(&case, &schedule, NAMED) {
        lines.push(format!("{id:<36}  {user:<12}  {was_h:>9.2}  {would_be_h:>9.2}"));
    }
    Ok(console::line(lines.join("\n"))?)
}

fn load(dir: &Path) -> Result<Case> {
    let read = |name: &str| {
        let path = dir.join(name);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let restart_s = match read("meta.json") {
        Ok(text) => {
            let meta: serde_json::Value = serde_json::from_str(&text).context("meta.json is no JSON")?;
            meta.get("restart_s").and_then(serde_json::Value::as_f64).unwrap_or(RESTART_S)
        }
        Err(_) => RESTART_S,
    };
    Ok(Case::parse(&read("cluster.csv")?, &read("jobs.csv")?, restart_s)?)
}

//! `trainyard-sim`: what a policy makes of a queue.

#![expect(clippy::print_stdout, reason = "a command prints")]

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use trainyard_scheduler_core::{CoreConfig, Policy};
use trainyard_sim::cases::{Case, drive};

/// Runs a recorded or generated queue through the scheduler's core, and writes who ran where and when.
#[derive(Debug, Parser)]
#[command(name = "trainyard-sim", version)]
struct Arguments {
    /// Directory with cluster.csv and jobs.csv
    #[arg(long, value_name = "DIR")]
    case: PathBuf,
    /// Who goes next, and where
    #[arg(long, value_enum, default_value_t = Chosen::FinishTime)]
    policy: Chosen,
    /// Where the schedule goes
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Chosen {
    Fifo,
    Fair,
    FinishTime,
}

impl From<Chosen> for Policy {
    fn from(chosen: Chosen) -> Self {
        match chosen {
            Chosen::Fifo => Self::Fifo,
            Chosen::Fair => Self::Fair,
            Chosen::FinishTime => Self::FinishTime,
        }
    }
}

/// What a start costs after a job's first, unless the case says so.
const RESTART_S: f64 = 30.0;

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let case = load(&arguments.case)?;
    let config = CoreConfig { policy: arguments.policy.into(), ..CoreConfig::default() };
    let schedule = drive(&case, config)?;
    schedule.check(&case)?;
    if let Some(out) = &arguments.out {
        fs::write(out, schedule.csv(&case)).with_context(|| format!("cannot write {}", out.display()))?;
    }
    let figures = schedule.figures(&case);
    println!(
        "{} jobs  mean {:.3} h  p95 {:.2} h  p99 {:.2} h  Jain {:.3}  worst user {:.2} x  restarts {:.3} a job  \
         longest wait {:.1} h",
        case.jobs.len(),
        figures.mean_h,
        figures.p95_h,
        figures.p99_h,
        figures.jain,
        figures.worst_user,
        figures.restarts,
        figures.longest_wait_h,
    );
    Ok(())
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

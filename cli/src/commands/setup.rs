//! `yard setup`: a service of systemd for programs that were not installed by a package.

use clap::{Args, Subcommand};

use crate::failure::Failure;
use crate::output::Output;
use crate::setup::machine::Machine;
use crate::setup::plan::Program;
use crate::setup::{execute, plan};

/// Run the scheduler or the agent as a service of systemd
///
/// For programs that were installed by hand or by pip; the Debian packages bring their services. Root
/// sets up a service of the machine, others one of their own. It says all that it does.
#[derive(Debug, Args)]
pub struct Setup {
    #[command(subcommand)]
    program: Which,
}

/// The program that becomes a service.
#[derive(Debug, Subcommand)]
enum Which {
    /// On each machine with GPUs
    Agent(How),
    /// On one machine
    Scheduler(How),
}

/// The flags of both.
#[derive(Debug, Args)]
struct How {
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
}

impl Setup {
    /// Writes the unit and, if it is not there, the configuration; then tells systemd.
    ///
    /// # Errors
    /// This machine has no systemd, the program is not where a service can use it, or a step fails.
    pub fn run(self, _output: Output) -> Result<(), Failure> {
        let (program, how) = match self.program {
            Which::Agent(how) => (Program::Agent, how),
            Which::Scheduler(how) => (Program::Scheduler, how),
        };
        let machine = Machine::here()?;
        let steps = plan::make(program, &machine)?;
        execute::all(&steps, how.dry_run)
    }
}

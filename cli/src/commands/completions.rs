//! `yard completions`: for the user's shell.

use std::io::Write as _;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::args::Cli;
use crate::failure::Failure;
use crate::output::Output;

/// Print a completion script for a shell
///
/// For bash: `yard completions bash > ~/.local/share/bash-completion/completions/yard`.
#[derive(Debug, Args)]
pub struct Completions {
    /// Which shell
    #[arg(value_enum)]
    shell: Shell,
}

impl Completions {
    /// Prints it, whatever the output format.
    ///
    /// # Errors
    /// stdout cannot be written to.
    pub fn run(self, _output: Output) -> Result<(), Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "yard", &mut script);
        Ok(std::io::stdout().lock().write_all(&script)?)
    }
}

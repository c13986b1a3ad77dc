//! `yard`: everything of Trainyard that a person types.

use std::process::ExitCode;

fn main() -> ExitCode {
    trainyard_cli::main()
}

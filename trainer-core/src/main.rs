//! `trainyard-trainer`: one training run in one process. Useful alone, and what an agent starts.

use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};
use trainyard_service::Manual;
use trainyard_trainer::commands::{
    self, cache::Cache, check::Check, export::Export, info::Info, predict::Predict, self_test::SelfTest,
    train::Train, val::Val,
};
use trainyard_trainer::libtorch;
use trainyard_trainer::train::error::TrainError;
use trainyard_types::habit;
use trainyard_types::trainer::exit_code;

/// Trains YOLOv8 detectors.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Train(Box<Train>),
    Val(Val),
    Predict(Predict),
    Export(Export),
    Info(Info),
    Check(Check),
    SelfTest(SelfTest),
    Cache(Cache),
    /// Write the manual pages, for packages.
    #[command(hide = true)]
    Manual(Manual),
}

/// Commands that take Ultralytics' `key=value` as well as `--key value`.
const KEYED: [&str; 5] = ["train", "val", "predict", "export", "info"];

fn main() -> ExitCode {
    // SAFETY: no thread was started yet.
    unsafe { libtorch::device::order_by_bus() };
    // Before anything else of libtorch: see `load_cuda`.
    let cuda = libtorch::load_cuda();
    let words = habit::words(std::env::args_os(), &KEYED, |path| Path::new(path).exists(), takes_value);
    let code = match Cli::parse_from(words).command {
        Command::Train(train) => train.run(&cuda),
        Command::Val(val) => report(val.run(&cuda)),
        Command::Predict(predict) => report(predict.run(&cuda)),
        Command::Export(export) => report(export.run()),
        Command::Info(info) => report(info.run(&cuda)),
        Command::Check(check) => check.run(),
        Command::SelfTest(test) => test.run(&cuda),
        Command::Cache(cache) => cache.run(),
        Command::Manual(manual) => match manual.write(Cli::command()) {
            Ok(()) => exit_code::DONE,
            Err(error) => {
                commands::complain(&error);
                exit_code::INTERNAL
            }
        },
    };
    ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
}

/// Whether the word after an option, by its name without dashes, is its value. One that is not known is clap's to refuse.
fn takes_value(option: &str) -> bool {
    let (option, program) = (option.replace('_', "-"), Cli::command());
    let mut options = program.get_subcommands().flat_map(clap::Command::get_arguments);
    let known = options.find(|known| known.get_long() == Some(option.as_str()));
    known.is_none_or(|known| known.get_action().takes_values())
}

fn report(result: Result<(), TrainError>) -> i32 {
    match result {
        Ok(()) => exit_code::DONE,
        Err(error) => {
            commands::complain(&error);
            error.exit_code()
        }
    }
}

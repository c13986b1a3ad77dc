//! `yard`, as a library so that tests reach its parts: the commands, what they print, and the client
//! behind them.
//!
//! Must not know: the scheduler, the agent and libtorch; all it has of them is the wire, and for
//! `yard up` the names of their binaries. Of the trainer it has the crate that checks data sets.

pub mod args;
pub mod artifact;
pub mod client;
pub mod commands;
pub mod dataset;
pub mod demo;
pub mod failure;
pub mod follow;
pub mod job_file;
pub mod output;
pub mod proto_json;
pub mod reconnect;
pub mod render;
pub mod secret;
pub mod settings;
pub mod setup;
pub mod terminal;
pub mod up;
pub mod values;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::CommandFactory as _;
use trainyard_types::habit;

use crate::args::Cli;

/// Runs `yard` with this process's arguments and gives its exit code.
pub fn main() -> ExitCode {
    trainyard_access::install_crypto();
    let command = Cli::command();
    let takes_value = |option: &str| args::takes_value(&command, option);
    let words = habit::words(std::env::args_os(), &["train"], |path| Path::new(path).exists(), takes_value);
    let words = words.into_iter().map(accept_underscores).collect();
    let cli = match trainyard_service::try_parse_from::<Cli>(words) {
        Ok(cli) => cli,
        Err(error) => {
            // Nothing is left to do about a terminal that does not take the message.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let color = cli.global.color;
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return report(&failure::Failure::from(error), color),
    };
    let result = runtime.block_on(commands::run(cli));
    // What a thread still reads or writes of a command that was interrupted is not waited for.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => report(&failure, color),
    }
}

fn report(failure: &failure::Failure, color: args::ColorChoice) -> ExitCode {
    let colored = terminal::color_on_stderr(color);
    terminal::message(&failure.render(colored));
    ExitCode::from(failure.exit.code())
}

/// YOLO users know `close_mosaic`, clap knows `--close-mosaic`: an underscore in the name of a long
/// option counts as a dash. Its value stays as it is.
fn accept_underscores(argument: OsString) -> OsString {
    let Some(rest) = argument.to_str().and_then(|text| text.strip_prefix("--")) else { return argument };
    let name = rest.split('=').next().unwrap_or(rest);
    format!("--{}{}", name.replace('_', "-"), &rest[name.len()..]).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_take_underscores_and_their_values_keep_them() {
        let changed = ["--close_mosaic=a_b", "--name", "my_job", "-x_y", "--"].map(|text| {
            let changed = accept_underscores(text.into());
            changed.into_string().unwrap()
        });
        assert_eq!(changed, ["--close-mosaic=a_b", "--name", "my_job", "-x_y", "--"]);
    }
}

//! A program's command line, with an environment whose empty variables are none: scripts and units unset a variable by
//! `NAME=`.

use clap::{ArgMatches, Command, Parser};

/// Reads this process's arguments as `P`; ends the process, as clap does, where they are wrong or ask for help.
pub fn parse<P: Parser>() -> P {
    let matches = without_empty_variables(P::command()).get_matches();
    from_matches(matches).unwrap_or_else(|error| error.exit())
}

/// Reads `words`, the program's own name first, as `P`.
///
/// # Errors
/// As clap tells them: wrong usage, or a wish for help.
pub fn try_parse_from<P: Parser>(words: Vec<std::ffi::OsString>) -> Result<P, clap::Error> {
    from_matches(without_empty_variables(P::command()).try_get_matches_from(words)?)
}

fn from_matches<P: Parser>(mut matches: ArgMatches) -> Result<P, clap::Error> {
    P::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut P::command()))
}

/// The same command, which does not read variables that are empty.
fn without_empty_variables(command: Command) -> Command {
    without_variables(command, &|name| std::env::var_os(name).is_some_and(|value| value.is_empty()))
}

fn without_variables(command: Command, is_empty: &impl Fn(&std::ffi::OsStr) -> bool) -> Command {
    let command = command.mut_args(|argument| {
        if argument.get_env().is_some_and(is_empty) {
            argument.env(clap::builder::Resettable::Reset)
        } else {
            argument
        }
    });
    command.mut_subcommands(|inner| without_variables(inner, is_empty))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[derive(Debug, Parser)]
    struct Options {
        // Every process has it, and it is not empty.
        #[arg(long, global = true, env = "PATH")]
        folders: Option<String>,
    }

    #[test]
    fn a_variable_that_is_empty_gives_no_value_and_another_does() {
        let read = |is_empty: bool| {
            let command = without_variables(Options::command(), &|_| is_empty);
            from_matches::<Options>(command.try_get_matches_from(["x"]).unwrap()).unwrap().folders
        };
        assert_eq!(read(true), None);
        assert!(read(false).is_some());
    }
}

//! Reading a secret: from standard input, not from the command line, whose history others may read.

use std::io::IsTerminal as _;

use crate::failure::Failure;
use crate::terminal;

/// The first line of standard input. On a terminal `prompt` is shown, and what is typed is not.
///
/// # Errors
/// Standard input cannot be read, or is empty.
pub async fn read(prompt: &str) -> Result<String, Failure> {
    if std::io::stdin().is_terminal() {
        terminal::message(prompt);
    }
    let line = trainyard_access::secret_line().await?;
    if line.is_empty() { Err(Failure::usage("no token was given")) } else { Ok(line) }
}

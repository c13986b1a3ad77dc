//! A secret from standard input: without echo on a terminal.

use std::io::{self, BufRead as _, IsTerminal as _, Read as _};
use std::thread;

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::sync::oneshot;

/// Bytes that a line may have: a token has 118.
const MOST_BYTES: u64 = 4096;

/// Switches a terminal's echo off for as long as it lives.
struct NoEcho(Option<Termios>);

impl NoEcho {
    fn new() -> Self {
        let stdin = io::stdin();
        let before = stdin.is_terminal().then(|| tcgetattr(&stdin).ok()).flatten();
        if let Some(before) = &before {
            let mut silent = before.clone();
            silent.local_modes.remove(LocalModes::ECHO);
            // The Enter still moves on to the next line.
            silent.local_modes.insert(LocalModes::ECHONL);
            // Where that does not work the secret is seen, by the one who has it.
            let _ = tcsetattr(&stdin, OptionalActions::Flush, &silent);
        }
        Self(before)
    }
}

impl Drop for NoEcho {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, before);
        }
    }
}

/// The first line of standard input, without blanks around it. Dropped before it is there, it leaves the terminal as it
/// was.
///
/// # Errors
/// Standard input cannot be read.
pub async fn secret_line() -> io::Result<String> {
    let _echo = NoEcho::new();
    let (send, line) = oneshot::channel();
    // A thread of its own: it may never end, and nothing waits for it.
    let read = move || {
        let mut line = String::new();
        let read = io::stdin().lock().take(MOST_BYTES).read_line(&mut line);
        let _nobody_waits = send.send(read.map(|_| line));
    };
    thread::Builder::new().name("stdin".into()).spawn(read)?;
    let line = line.await.map_err(io::Error::other)??;
    Ok(line.trim().to_owned())
}

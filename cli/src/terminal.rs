//! What depends on the terminal: colours, widths, and keeping strangers' text from steering it.

use std::io::IsTerminal;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::thread;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::sync::oneshot;

pub use trainyard_types::text::clean;

use crate::args::ColorChoice;

/// A path inside of a message: no name, whoever made it, ends a line or steers the terminal.
pub fn shown(path: &Path) -> String {
    clean(&path.display().to_string())
}

/// Prints a message for people. One that cannot be printed is lost: there is no other place for it.
pub fn message(text: &str) {
    if !text.is_empty() {
        trainyard_console::note(text);
    }
}

/// Prints what a person should know of what was done all the same, as the scheduler says it.
pub fn warn(warnings: &[String]) {
    for warning in warnings {
        message(&format!("warning: {}", clean(warning)));
    }
}

/// Comes when nobody reads stdout any more, which a command that waits for something to print would not notice.
/// Never where stdout is a file. `None` when the system has no thread for it.
pub fn stdout_closed() -> Option<oneshot::Receiver<()>> {
    let (closing, closed) = oneshot::channel();
    let watch = move || {
        let stdout = std::io::stdout();
        // Asked for nothing, a poll ends when the other end is closed.
        let mut end = [PollFd::new(stdout.as_fd(), PollFlags::empty())];
        while poll(&mut end, PollTimeout::NONE) == Err(Errno::EINTR) {}
        let _nobody_waits = closing.send(());
    };
    thread::Builder::new().name("stdout".into()).spawn(watch).ok().map(|_| closed)
}

/// Whether stdout takes colours.
pub fn color_on_stdout(when: ColorChoice) -> bool {
    colored(when, std::io::stdout().is_terminal())
}

/// Whether stderr takes colours.
pub fn color_on_stderr(when: ColorChoice) -> bool {
    colored(when, std::io::stderr().is_terminal())
}

fn colored(when: ColorChoice, terminal: bool) -> bool {
    match when {
        ColorChoice::Always => true,
        ColorChoice::Never => false,
        // https://no-color.org: set and not empty.
        ColorChoice::Auto => terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
    }
}

/// Columns of the terminal behind stdout; `None` when there is none.
pub fn width() -> Option<u16> {
    let stdout = std::io::stdout();
    if !stdout.is_terminal() {
        return None;
    }
    rustix::termios::tcgetwinsize(&stdout).ok().map(|size| size.ws_col).filter(|&columns| columns > 0)
}

//! What goes wrong for the user of a command: the exit code, and the message that says what, which,
//! why, and what to do.

mod access;

use std::fmt::Write as _;

use tonic::{Code, Status};
use tonic_types::{FieldViolation, StatusExt as _};
use trainyard_access::ConnectionProblem;

use trainyard_types::text::clean_lines;

use crate::settings::address::is_here;
use crate::terminal::clean;

/// What scripts can tell a failure by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// The job failed or was cancelled, or something on this machine did.
    Failed,
    /// Wrong usage or a bad spec.
    Usage,
    /// The server cannot be reached.
    Unreachable,
    /// The server said no: not found, not allowed, not now.
    Refused,
    /// The user has pressed Ctrl-C.
    Interrupted,
    /// Nobody reads what is printed any more (`yard jobs | head`): whoever did has seen enough.
    OutputClosed,
}

impl Exit {
    /// The process's exit code.
    pub const fn code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Unreachable => 3,
            Self::Refused => 4,
            Self::Interrupted => 130,
            Self::OutputClosed => 0,
        }
    }
}

/// Why a command did not do what it was asked to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What a script can tell the failure by.
    pub exit: Exit,
    /// For people: what failed, which one, and why. Empty when all was said before.
    pub message: String,
    /// More about it, such as the bad fields; a line each.
    pub details: Vec<String>,
    /// What the user can do about it.
    pub hint: Option<String>,
}

impl Failure {
    /// A failure with a message alone.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), details: Vec::new(), hint: None }
    }

    /// Wrong usage, or input that cannot be right.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// Something on this machine does not work.
    pub fn local(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, message)
    }

    /// An exit code after output that said everything.
    pub fn quiet(exit: Exit) -> Self {
        Self::new(exit, "")
    }

    /// Adds what the user can do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds lines under the message.
    #[must_use]
    pub fn details(mut self, details: impl IntoIterator<Item = String>) -> Self {
        self.details.extend(details);
        self
    }

    /// What `server` answered, or that it does not.
    pub fn from_status(status: &Status, server: &str) -> Self {
        let exit = exit_of(status);
        let violations = status.get_details_bad_request().map(|bad| bad.field_violations).unwrap_or_default();
        let line = |one: &FieldViolation| format!("{}: {}", clean(&one.field), clean(&one.description));
        let mut details: Vec<String> = violations.iter().map(line).collect();
        let answered = clean(status.message());
        let message = if is_transport(status) {
            let problem = ConnectionProblem::of(status).map(|problem| clean(&problem.to_string()));
            format!("the server at {server} cannot be reached: {}", problem.unwrap_or_else(|| cause(status)))
        } else if details.is_empty() || !details.iter().all(|detail| answered.contains(detail.as_str())) {
            answered
        } else if details.len() == 1 {
            // The answer holds the fields already, for clients that do not read details.
            details.remove(0)
        } else {
            format!("{} fields are wrong", details.len())
        };
        // An answer that says what to do needs no second advice.
        let hint = access::hint(status, server)
            .or_else(|| hint_for(status, server))
            .filter(|_| !message.contains("`yard "));
        Self { exit, message, details, hint }
    }

    /// The text for stderr; empty when there is nothing to say.
    pub fn render(&self, colored: bool) -> String {
        if self.message.is_empty() {
            return String::new();
        }
        let (red, cyan, off) = if colored { ("\x1b[1;31m", "\x1b[1;36m", "\x1b[0m") } else { ("", "", "") };
        // What is named may be a stranger's: of a job file, a path, an answer.
        let mut text = format!("{red}error:{off} {}", clean_lines(&self.message));
        // Writing to a String cannot fail.
        for detail in &self.details {
            // A line each, also where a file's name has several.
            let _ = write!(text, "\n  {}", clean(detail));
        }
        if let Some(hint) = &self.hint {
            let _ = write!(text, "\n{cyan}hint:{off} {}", clean_lines(hint));
        }
        text
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            return Self::quiet(Exit::OutputClosed);
        }
        Self::local(error.to_string())
    }
}

/// Whether the status was made on this side because the connection failed, rather than answered.
pub fn is_transport(status: &Status) -> bool {
    std::error::Error::source(status).is_some()
}

/// Whether asking again may help.
pub fn is_temporary(status: &Status) -> bool {
    (status.code() == Code::Unavailable || is_transport(status))
        && ConnectionProblem::of(status).is_none_or(|problem| !problem.is_final())
}

fn exit_of(status: &Status) -> Exit {
    if is_transport(status) {
        return Exit::Unreachable;
    }
    match status.code() {
        Code::Unavailable | Code::DeadlineExceeded => Exit::Unreachable,
        Code::InvalidArgument | Code::OutOfRange => Exit::Usage,
        _ => Exit::Refused,
    }
}

/// What helps where something is not there, whatever it is.
pub const NOT_FOUND_HINT: &str = "`yard jobs` lists the jobs that there are, `yard agents` the agents";

/// What a job has left that is not in the store any more.
const REMOVED: &str = "ARTIFACT_REMOVED";

fn reason(status: &Status) -> String {
    status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
}

fn hint_for(status: &Status, server: &str) -> Option<String> {
    if is_transport(status) {
        let hint = if server.starts_with("http://") && is_here(server) {
            "is it running? `yard up` starts one on this machine; `--server` or YARD_SERVER names another"
        } else {
            "is it running? `systemctl status trainyard-scheduler` tells on its machine; check the address and what \
             firewalls let through; `--server` or YARD_SERVER names another"
        };
        return Some(hint.into());
    }
    let hint = match status.code() {
        // It was there: a list of what there is helps nobody.
        Code::NotFound if reason(status) == REMOVED => return None,
        Code::InvalidArgument => "correct what is named and try again; `--help` lists the options",
        Code::NotFound => NOT_FOUND_HINT,
        Code::PermissionDenied => "the token that was given does not allow this; ask for one that does",
        Code::Unavailable | Code::DeadlineExceeded => "nothing was changed half; try again in a moment",
        Code::FailedPrecondition => "`yard job ID` shows how the job stands",
        Code::Unimplemented => "server and `yard` are of different versions; upgrade the older one",
        _ => return None,
    };
    Some(hint.into())
}

/// The innermost reason, which names what failed ("Connection refused").
fn cause(status: &Status) -> String {
    let mut error: Option<&dyn std::error::Error> = std::error::Error::source(status);
    let mut text = status.message().to_owned();
    while let Some(inner) = error {
        text = inner.to_string();
        error = inner.source();
    }
    clean(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_part_of_an_error_steers_a_terminal() {
        let failure = Failure::usage("a\u{1b}[31m").details(["b\u{7}\nd".to_owned()]).hint("c\u{1b}]0;x");
        let text = failure.render(false);
        assert!(text.chars().all(|letter| letter == '\n' || !letter.is_control()), "{text:?}");
        assert_eq!(text.lines().count(), 3);
    }

    #[test]
    fn an_error_says_what_which_and_what_to_do() {
        let failure = Failure::usage("job.yaml: 2 fields are wrong")
            .details([
                "document 1: train.epochs: is 0".to_owned(),
                "document 1: name: is too long".to_owned(),
            ])
            .hint("see `yard submit --help`");
        let wanted = "error: job.yaml: 2 fields are wrong\n  document 1: train.epochs: is 0\n  \
                      document 1: name: is too long\nhint: see `yard submit --help`";
        assert_eq!(failure.render(false), wanted);
    }

    #[test]
    fn codes_become_the_exit_codes_that_scripts_know() {
        let exits = [Code::InvalidArgument, Code::NotFound, Code::Unavailable, Code::FailedPrecondition]
            .map(|code| Failure::from_status(&Status::new(code, "x"), "http://s").exit.code());
        assert_eq!(exits, [2, 4, 3, 4]);
    }

    #[test]
    fn fields_that_the_answer_names_are_not_said_twice() {
        let status = |fields: &[&str]| {
            let mut details = tonic_types::ErrorDetails::new();
            for field in fields {
                details.add_bad_request_violation(*field, "is 0");
            }
            let text = fields.iter().map(|field| format!("{field}: is 0")).collect::<Vec<_>>().join("; ");
            Status::with_error_details(Code::InvalidArgument, text, details)
        };
        let one = Failure::from_status(&status(&["epochs"]), "http://s");
        assert_eq!((one.message.as_str(), one.details.len()), ("epochs: is 0", 0));
        let two = Failure::from_status(&status(&["epochs", "imgsz"]), "http://s");
        assert_eq!((two.message.as_str(), two.details.len()), ("2 fields are wrong", 2));
    }

    #[test]
    fn what_a_server_says_cannot_steer_the_terminal() {
        let failure = Failure::from_status(&Status::not_found("no \x1b[2Jjob"), "http://s");
        assert!(!failure.message.contains('\x1b'), "{failure:?}");
    }
}

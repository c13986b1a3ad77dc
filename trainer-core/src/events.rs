//! Reports what happens: JSON lines for an agent, readable lines for a person.

use std::fs::File;
use std::io::Write;
use std::os::fd::{FromRawFd, RawFd};
use std::sync::{Arc, Mutex, PoisonError};

use trainyard_types::Time;
use trainyard_types::text::clean_lines;
use trainyard_types::trainer::{Log, LogLevel, TrainerEvent, TrainerLine, VERSION};

use crate::activity;

/// The receivers of events: an agent, and a person.
#[derive(Debug, Default)]
pub struct Events {
    lines: Option<Arc<Mutex<File>>>,
    /// Whether no person reads along.
    quiet: bool,
    /// Kept instead of printed, for tests.
    recorded: Option<Vec<TrainerEvent>>,
}

/// A descriptor that a flag names is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("--{flag} {fd} is not an open file descriptor; start the trainer with one that it inherits")]
pub struct BadDescriptor {
    /// The flag, without its dashes.
    pub flag: &'static str,
    /// The descriptor, as given.
    pub fd: RawFd,
}

/// The descriptor `fd`, which this process has inherited for what `flag` says.
///
/// # Errors
/// When it is not open.
pub fn inherited(flag: &'static str, fd: RawFd) -> Result<File, BadDescriptor> {
    if fd < 0 {
        return Err(BadDescriptor { flag, fd });
    }
    // SAFETY: only asked whether it is open; `borrow_raw` of a closed one makes the call fail.
    let borrowed = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) };
    rustix::io::fcntl_getfd(borrowed).map_err(|_| BadDescriptor { flag, fd })?;
    // SAFETY: it is open, and whoever started us handed it over for this and nothing else.
    Ok(unsafe { File::from_raw_fd(fd) })
}

impl Events {
    /// JSON lines go to descriptor `fd`, if there is one; readable lines always go to the terminal.
    pub fn new(fd: Option<RawFd>) -> Result<Self, BadDescriptor> {
        let lines = fd.map(|fd| inherited("events-fd", fd)).transpose()?;
        Ok(Self { lines: lines.map(|file| Arc::new(Mutex::new(file))), ..Self::default() })
    }

    /// The same receivers once more, for what another thread may have to say.
    pub fn share(&self) -> Self {
        Self { lines: self.lines.clone(), quiet: self.quiet, recorded: None }
    }

    /// Reports to the agent from now on that the process lives, and what it does.
    pub fn report_activity(&self) {
        if let Some(lines) = &self.lines {
            let lines = Arc::clone(lines);
            activity::report_to(move |activity| write(&lines, TrainerEvent::Beat(activity)).is_ok());
        }
    }

    /// Keeps events in memory, for tests.
    pub fn recording() -> Self {
        Self { lines: None, quiet: true, recorded: Some(Vec::new()) }
    }

    /// The events that were kept.
    pub fn recorded(&self) -> &[TrainerEvent] {
        self.recorded.as_deref().unwrap_or_default()
    }

    /// Tells the agent. A pipe that nobody reads any more is no reason to stop training: the agent that
    /// read it will look for the checkpoints.
    pub fn emit(&mut self, event: TrainerEvent) {
        if let Some(recorded) = &mut self.recorded {
            recorded.push(event.clone());
        }
        if let Some(file) = &self.lines
            && let Err(error) = write(file, event)
        {
            self.lines = None;
            self.print(&format!("events are no longer read: {error}"));
        }
    }

    /// Tells the agent, and a person on the terminal.
    pub fn log(&mut self, level: LogLevel, message: impl Into<String>) {
        let message = message.into();
        let prefix = match level {
            LogLevel::Error => "error: ",
            LogLevel::Warning => "warning: ",
            LogLevel::Info => "",
        };
        // Names of files and classes are strangers' text.
        self.print(&format!("{prefix}{}", clean_lines(&message)));
        self.emit(TrainerEvent::Log(Log { level, message }));
    }

    /// Whether no person reads along.
    pub const fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// A line for a person; the agent does not see it.
    pub fn print(&self, line: &str) {
        if !self.quiet {
            // A terminal or pipe that is gone is no reason to stop training.
            let _ = writeln!(std::io::stderr(), "{line}");
        }
    }
}

/// Writes one line of the event stream, whole: one longer than a pipe takes at once must not be torn apart by another.
///
/// # Errors
/// Nobody reads it any more.
fn write(lines: &Mutex<File>, event: TrainerEvent) -> std::io::Result<()> {
    let mut text = serde_json::to_vec(&TrainerLine { v: VERSION, time: Time::now(), event })?;
    text.push(b'\n');
    lines.lock().unwrap_or_else(PoisonError::into_inner).write_all(&text)
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::os::fd::OwnedFd;

    use super::*;

    #[test]
    fn an_event_is_told_as_a_line_while_anybody_reads() {
        let (reader, writer) = std::io::pipe().unwrap();
        let lines = Mutex::new(File::from(OwnedFd::from(writer)));
        write(&lines, TrainerEvent::Beat(activity::now())).unwrap();
        let mut text = String::new();
        BufReader::new(&reader).read_line(&mut text).unwrap();
        let line: TrainerLine = serde_json::from_str(&text).unwrap();
        assert!(matches!(line.event, TrainerEvent::Beat(_)), "{text}");
        drop(reader);
        assert!(write(&lines, TrainerEvent::Beat(activity::now())).is_err(), "nobody reads any more");
    }

    #[test]
    fn a_closed_descriptor_is_refused() {
        let error = Events::new(Some(-1)).unwrap_err();
        assert_eq!(error, BadDescriptor { flag: "events-fd", fd: -1 });
        assert!(Events::new(Some(1_000_000)).is_err());
    }
}

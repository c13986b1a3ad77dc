//! What programs say on standard output and standard error, when nobody listens any more.
//!
//! `println!` and `eprintln!` panic when their reader is gone (`… | head -1`) or its disk is full. Here a reader
//! that is gone costs the words and nothing else: what was asked for is done, and the exit code is that of the work.

use std::fmt::Display;
use std::io::{self, Write};

/// Prints a line that was asked for on standard output. Nothing, when nobody reads it any more.
///
/// # Errors
/// Standard output does not take it for another reason, such as a full disk.
pub fn line(text: impl Display) -> io::Result<()> {
    unless_nobody_reads(writeln!(io::stdout().lock(), "{text}"))
}

/// [`line()`], without its end.
///
/// # Errors
/// As [`line()`].
pub fn print(text: impl Display) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    // Not left to the end of the process, which has no place for errors.
    unless_nobody_reads(write!(stdout, "{text}").and_then(|()| stdout.flush()))
}

/// Says a line on standard error, beside the work. One that cannot be said is lost: there is no other place for it.
pub fn note(text: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Takes a reader that is gone for one that has seen enough.
///
/// # Errors
/// Any error but a reader that is gone.
pub fn unless_nobody_reads(written: io::Result<()>) -> io::Result<()> {
    written.or_else(|error| if error.kind() == io::ErrorKind::BrokenPipe { Ok(()) } else { Err(error) })
}

/// Standard error for a log, which loses what cannot be written: a subscriber says of a write that failed
/// that it did by `eprintln!`, and panics.
#[derive(Debug, Clone, Copy, Default)]
pub struct LogOutput;

impl Write for LogOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = io::stderr().lock().write_all(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_reader_that_is_gone_is_no_error() {
        let of = |kind: io::ErrorKind| unless_nobody_reads(Err(kind.into())).map_err(|error| error.kind());
        assert_eq!(of(io::ErrorKind::BrokenPipe), Ok(()));
        assert_eq!(of(io::ErrorKind::StorageFull), Err(io::ErrorKind::StorageFull));
    }
}

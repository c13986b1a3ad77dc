//! How far a transfer is: a bar with rate and time left on a terminal, a line now and then elsewhere.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use trainyard_types::size::bytes;

use crate::output::Output;
use crate::render::span;
use crate::terminal;

/// Between two lines.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// The progress of one transfer, in bytes.
#[derive(Debug)]
pub struct Progress {
    what: &'static str,
    total: u64,
    done: AtomicU64,
    begun: Instant,
    /// The bar that is drawn on a terminal.
    bar: Option<ProgressBar>,
    /// The time at which the last line was printed.
    told: Mutex<Instant>,
}

impl Progress {
    /// `what` is done: "hashing", "sending", "fetching".
    pub fn new(output: Output, what: &'static str, total: u64) -> Self {
        let now = Instant::now();
        let bar = output.on_terminal().then(|| bar(what, total));
        Self { what, total, done: AtomicU64::new(0), begun: now, bar, told: Mutex::new(now) }
    }

    /// So many bytes more are done.
    pub fn add(&self, count: u64) {
        let done = self.done.fetch_add(count, Ordering::Relaxed) + count;
        if let Some(bar) = &self.bar {
            bar.set_position(done);
            return;
        }
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.elapsed() >= LINE_EVERY {
            *told = Instant::now();
            terminal::message(&line(self.what, done, self.total, self.begun.elapsed()));
        }
    }

    /// Prints a message, above the bar if there is one.
    pub fn message(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| terminal::message(text)),
            None => terminal::message(text),
        }
    }

    /// The rate over all, for a sentence: `112.0 MiB/s`.
    pub fn rate(&self) -> String {
        rate(self.done.load(Ordering::Relaxed), self.begun.elapsed())
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// `sending: 1.2 GiB of 3.4 GiB, 112.0 MiB/s, 20s left`.
fn line(what: &str, done: u64, total: u64, elapsed: Duration) -> String {
    let left = elapsed.mul_f64(total.saturating_sub(done) as f64 / done.max(1) as f64).as_secs();
    let left = span(i64::try_from(left).unwrap_or(i64::MAX));
    format!("{what}: {} of {}, {}, {left} left", bytes(done), bytes(total), rate(done, elapsed))
}

fn rate(done: u64, elapsed: Duration) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bytes a second, for people")]
    let rate = (done as f64 / elapsed.as_secs_f64().max(0.001)) as u64;
    format!("{}/s", bytes(rate))
}

fn bar(what: &'static str, total: u64) -> ProgressBar {
    let template =
        "{prefix} {bar:24} {binary_bytes}/{binary_total_bytes}  {binary_bytes_per_sec}  {eta} left";
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(total).with_style(style.progress_chars("━╸─")).with_prefix(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_how_fast_and_how_long() {
        let text = line("sending", 1 << 30, 3 << 30, Duration::from_secs(10));
        assert_eq!(text, "sending: 1.0 GiB of 3.0 GiB, 102.4 MiB/s, 20s left");
        assert_eq!(line("sending", 0, 10, Duration::ZERO), "sending: 0 B of 10 B, 0 B/s, 0s left");
    }
}

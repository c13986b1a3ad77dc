//! Events as lines: what a person reads in a file or over a poor connection. Pure.

use trainyard_proto::pb;
use trainyard_proto::pb::job_event::Event;
use trainyard_proto::pb::log_line::Level;

use crate::render::{time, training};
use crate::terminal::clean;

/// Seconds between two lines from inside an epoch, by the events' clock.
const EVERY_SECONDS: i64 = 10;

/// Turns events into lines, and leaves out what is too much for a log.
pub struct PlainText {
    all_logs: bool,
    colored: bool,
    last_step: i64,
}

impl PlainText {
    /// With `all_logs`, lines that are no warning are shown as well.
    pub const fn new(all_logs: bool, colored: bool) -> Self {
        Self { all_logs, colored, last_step: i64::MIN }
    }

    /// The line for `event`, if it deserves one.
    pub fn line(&mut self, event: &pb::JobEvent) -> Option<String> {
        match event.event.as_ref()? {
            Event::Metrics(metrics) if !metrics.epoch_end => {
                let seconds = event.time.as_ref().map_or(0, |time| time.seconds);
                // A few seconds of training are over before anybody wonders.
                if self.last_step == i64::MIN {
                    self.last_step = seconds;
                }
                if seconds - self.last_step < EVERY_SECONDS {
                    return None;
                }
                self.last_step = seconds;
                Some(format!("{}  {}", time(event.time.as_ref()), step(metrics)))
            }
            Event::Metrics(metrics) => {
                self.last_step = event.time.as_ref().map_or(0, |time| time.seconds);
                epoch_line(event, metrics)
            }
            Event::StateChange(change) => Some(state_line(event, change, self.colored)),
            Event::LogLine(line) if self.all_logs || line.level() > Level::Info => {
                Some(log_line(event, line, self.colored))
            }
            Event::LogLine(_) => None,
        }
    }
}

/// Where an epoch stands: `epoch 3/50  batch 12/40  box 1.234 cls 2.345 dfl 0.987  57.1 images/s`.
pub fn step(metrics: &pb::Metrics) -> String {
    let head = format!("epoch {}/{}", metrics.epoch, metrics.epochs);
    let batch = format!("batch {}/{}", metrics.batch, metrics.batches);
    let parts = [head, batch, step_figures(metrics)];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("  ")
}

/// The losses so far and the speed.
pub fn step_figures(metrics: &pb::Metrics) -> String {
    format!("{}  {:.1} images/s", training::losses(&metrics.values), metrics.images_per_second)
        .trim_start()
        .to_owned()
}

/// A finished epoch. The final figures by class come as an event too, but have a table of their own.
pub fn epoch_line(event: &pb::JobEvent, metrics: &pb::Metrics) -> Option<String> {
    let only_classes = metrics.values.keys().any(|name| training::is_per_class(name));
    (!only_classes).then(|| format!("{}  {}", time(event.time.as_ref()), training::epoch(metrics)))
}

/// `2026-01-16T10:00:00Z  RUNNING  on …`.
pub fn state_line(event: &pb::JobEvent, change: &pb::StateChange, colored: bool) -> String {
    let color = match change.state() {
        pb::JobState::Succeeded => "\x1b[32m",
        pb::JobState::Failed => "\x1b[31m",
        pb::JobState::Cancelled => "\x1b[33m",
        _ => "\x1b[36m",
    };
    let (on, off) = if colored { (color, "\x1b[0m") } else { ("", "") };
    let line = format!(
        "{}  {on}{}{off}  {}",
        time(event.time.as_ref()),
        change.state().as_str_name(),
        clean(&change.reason)
    );
    line.trim_end().to_owned()
}

/// `2026-01-16T10:00:00Z  warning: 2 corrupt images skipped`.
pub fn log_line(event: &pb::JobEvent, line: &pb::LogLine, colored: bool) -> String {
    let (label, color) = match line.level() {
        Level::Error => ("error: ", "\x1b[1;31m"),
        Level::Warning => ("warning: ", "\x1b[1;33m"),
        Level::Info | Level::Unspecified => ("", ""),
    };
    let (on, off) = if colored && !label.is_empty() { (color, "\x1b[0m") } else { ("", "") };
    format!("{}  {on}{label}{off}{}", time(event.time.as_ref()), clean(&line.message))
}

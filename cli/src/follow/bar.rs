//! Events on a terminal: a progress bar for the epoch under way, and lines above it.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use trainyard_proto::pb;
use trainyard_proto::pb::job_event::Event;
use trainyard_proto::pb::log_line::Level;

use super::plain;
use crate::failure::Failure;

/// The bar and what goes above it.
pub struct Bar {
    all_logs: bool,
    painted: bool,
    bar: ProgressBar,
}

impl Bar {
    /// Draws nothing before the first batch.
    pub fn new(all_logs: bool, painted: bool) -> Self {
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::hidden());
        let template = "{prefix} {bar:24} {pos}/{len}  {msg}";
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style.progress_chars("━╸─"));
        Self { all_logs, painted, bar }
    }

    /// Moves the bar, or prints a line above it.
    pub fn show(&mut self, event: &pb::JobEvent) -> Result<(), Failure> {
        let line = match &event.event {
            None => None,
            Some(Event::Metrics(metrics)) if !metrics.epoch_end => {
                self.moved(metrics);
                None
            }
            Some(Event::Metrics(metrics)) => {
                self.hide();
                plain::epoch_line(event, metrics)
            }
            Some(Event::StateChange(change)) => {
                // A new attempt begins with an empty bar.
                self.hide();
                Some(plain::state_line(event, change, self.painted))
            }
            Some(Event::LogLine(line)) if self.all_logs || line.level() > Level::Info => {
                Some(plain::log_line(event, line, self.painted))
            }
            Some(Event::LogLine(_)) => None,
        };
        if let Some(line) = line {
            self.bar.suspend(|| {
                use std::io::Write as _;
                writeln!(std::io::stdout().lock(), "{line}")
            })?;
        }
        Ok(())
    }

    fn moved(&self, metrics: &pb::Metrics) {
        self.bar.set_draw_target(ProgressDrawTarget::stderr());
        self.bar.set_length(metrics.batches.into());
        self.bar.set_prefix(format!("epoch {}/{}", metrics.epoch, metrics.epochs));
        self.bar.set_message(plain::step_figures(metrics));
        self.bar.set_position(metrics.batch.into());
    }

    fn hide(&self) {
        self.bar.set_position(0);
        self.bar.finish_and_clear();
        self.bar.reset();
        self.bar.set_draw_target(ProgressDrawTarget::hidden());
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

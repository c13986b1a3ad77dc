//! Events on a terminal: a progress bar for the epoch under way, and lines above it.

use std::io::Write as _;

use indicatif::{ProgressBar, ProgressStyle};
use trainyard_proto::pb;
use trainyard_proto::pb::job_event::Event;

use super::plain_text::{self, PlainText};
use crate::failure::Failure;

/// The bar and what goes above it.
pub struct EpochBar {
    plain: PlainText,
    /// The epoch under way, once a batch of it is done.
    bar: Option<(u32, ProgressBar)>,
}

impl EpochBar {
    /// Draws nothing before the first batch.
    pub fn new(all_logs: bool, colored: bool) -> Self {
        Self { plain: PlainText::new(all_logs, colored), bar: None }
    }

    /// Moves the bar, or prints a line above it.
    pub fn show(&mut self, event: &pb::JobEvent) -> Result<(), Failure> {
        match &event.event {
            Some(Event::Metrics(metrics)) if !metrics.epoch_end => {
                self.moved(metrics);
                return Ok(());
            }
            // The epoch is over, or a new attempt begins.
            Some(Event::Metrics(_) | Event::StateChange(_)) => self.clear(),
            Some(Event::LogLine(_)) | None => {}
        }
        let Some(line) = self.plain.line(event) else { return Ok(()) };
        let print = || writeln!(std::io::stdout().lock(), "{line}");
        match &self.bar {
            Some((_, bar)) => bar.suspend(print)?,
            None => print()?,
        }
        Ok(())
    }

    fn moved(&mut self, metrics: &pb::Metrics) {
        if self.bar.as_ref().is_none_or(|(epoch, _)| *epoch != metrics.epoch) {
            self.clear();
            self.bar = Some((metrics.epoch, new_bar(metrics)));
        }
        if let Some((_, bar)) = &self.bar {
            bar.set_message(plain_text::step_figures(metrics));
            bar.set_position(metrics.batch.into());
        }
    }

    fn clear(&mut self) {
        if let Some((_, bar)) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for EpochBar {
    fn drop(&mut self) {
        self.clear();
    }
}

/// On stderr, which `indicatif` leaves alone where it is no terminal.
fn new_bar(metrics: &pb::Metrics) -> ProgressBar {
    let template = "{prefix} {bar:24} {pos}/{len}  {msg}";
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(metrics.batches.into())
        .with_style(style.progress_chars("━╸─"))
        .with_prefix(format!("epoch {}/{}", metrics.epoch, metrics.epochs))
        .with_position(metrics.batch.into())
        .with_message(plain_text::step_figures(metrics))
}

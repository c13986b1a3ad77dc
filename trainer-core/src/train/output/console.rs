//! The lines that a person sees while a model trains: the table that YOLO users know.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};

use tch::Device;
use trainyard_types::TrainSpec;
use trainyard_types::text::clean;
use trainyard_types::trainer::{Epoch, Started, Step};

use crate::checkpoint::Progress;
use crate::eval::Metrics;
use crate::events::Events;
use crate::libtorch;
use crate::optim::Schedule;
use crate::train::setup::Setup;
use crate::train::validate::{ValidationDetails, ValidationTime};

/// What is shown of the newest batch.
#[derive(Debug, Clone, Copy)]
pub struct NewestBatch {
    /// Objects in the batch.
    pub objects: usize,
    /// Side of its images in pixels.
    pub side: usize,
    /// The device that it was trained on.
    pub device: Device,
}

/// What is shown of an epoch, beside its event.
#[derive(Debug)]
pub struct EpochTable<'a> {
    /// The epoch's last batch.
    pub last: NewestBatch,
    /// The metrics of its validation.
    pub metrics: &'a Metrics,
}

/// The names of the training columns.
const HEADER: [&str; 7] = ["Epoch", "GPU_mem", "box_loss", "cls_loss", "dfl_loss", "Instances", "Size"];
/// Characters of a progress bar.
const BAR: usize = 12;

/// A line about the optimiser. `spec`: with its optimiser resolved; the array: parameters by
/// [`crate::optim::groups::Group`].
pub fn optimizer(spec: &TrainSpec, schedule: &Schedule, [weights, norms, biases]: [usize; 3]) -> String {
    let (name, lr0, momentum) = (spec.optimizer.name(), spec.lr0, spec.momentum);
    let decay = schedule.decay();
    format!(
        "{name}: lr0 {lr0}, momentum {momentum}; {weights} weights with decay {decay}, {norms} without, {biases} biases"
    )
}

/// The lines before the first epoch: model, data, optimiser.
pub fn started(started: &Started, optimizer: &str, setup: &Setup, events: &Events) {
    let spec = setup.spec();
    events.print(&format!("Trainyard {}: {} on {}", env!("CARGO_PKG_VERSION"), spec.model, started.device));
    events.print(&format!(
        "{} parameters, {:.1} GFLOPs at {} pixels; batch {}, {} images a step",
        started.parameters,
        started.gflops,
        spec.imgsz,
        started.batch_size,
        spec.nbs.max(started.batch_size),
    ));
    events.print(optimizer);
    events.print(&format!(
        "{} training and {} validation images, {} classes; {} threads load images",
        started.train_images,
        started.val_images,
        started.classes.len(),
        started.workers,
    ));
    events.print(&format!("Results go to {}", setup.options.run_dir.display()));
    events.print(&format!("Starting training for {} epochs", started.epochs));
}

/// A line before the first epoch (counted from 1) without mosaics.
pub fn mosaic_ends(epoch: u32, events: &Events) {
    events.print(&format!("\nNo mosaics from epoch {epoch} on"));
}

/// The names of the training columns, before an epoch's first batch.
pub fn epoch_begins(events: &Events) {
    events.print(&format!("\n{}", HEADER.map(|name| format!("{name:>11}")).concat()));
}

/// A progress line that the next one overwrites; only on a terminal.
pub fn step(step: &Step, epochs: u32, newest: NewestBatch, events: &Events) {
    let mut terminal = std::io::stderr();
    if events.is_quiet() || !terminal.is_terminal() {
        return;
    }
    let row = row(&epoch_of(step.epoch, epochs), &step.metrics, newest);
    let done = f64::from(step.batch) / f64::from(step.batches.max(1));
    let speed = format!("{}/{} {:.1} images/s", step.batch, step.batches, step.images_per_second);
    // A terminal that is gone is no reason to stop.
    let _ = write!(terminal, "\r{row} {:>3.0}% {} {speed}\x1b[K\r", 100.0 * done, bar(done));
}

/// Shows how far a validation is, in a line that the next one overwrites; nothing but on a terminal.
pub fn validating(events: &Events) -> fn(usize, usize) {
    if events.is_quiet() || !std::io::stderr().is_terminal() {
        return |_, _| {};
    }
    |batches, of| {
        let done = batches as f64 / of.max(1) as f64;
        let line = format!("{:>22} {:>3.0}% {} {batches}/{of}", "Validating", 100.0 * done, bar(done));
        // The last one leaves the line to the result.
        let line = if batches == of { String::new() } else { line };
        // A terminal that is gone is no reason to stop.
        let _ = write!(std::io::stderr(), "\r{line}\x1b[K\r");
    }
}

/// An epoch's lines: training, and below it the validation.
pub fn epoch(epoch: &Epoch, table: &EpochTable<'_>, events: &Events) {
    let row = row(&epoch_of(epoch.epoch, epoch.epochs), &epoch.metrics, table.last);
    // On a terminal the last progress line is there, and may be longer.
    let rest = if std::io::stderr().is_terminal() { "\x1b[K" } else { "" };
    events.print(&format!("{row} 100% {} {:.1} images/s{rest}", bar(1.0), epoch.images_per_second));
    let best = if epoch.best { "  best" } else { "" };
    events.print(&validation_header(22));
    let Metrics { images, instances, precision, recall, map50, map50_95, .. } = table.metrics;
    let numbers = [precision, recall, map50, map50_95];
    events.print(&format!("{}{best}", validation_row("all", 22, [*images, *instances], numbers.map(|n| *n))));
}

/// Where a validation's time went, of each of its `images`.
pub fn speed(time: ValidationTime, images: usize) -> String {
    let ValidationTime { loader_wait, model, postprocess } = time;
    let [loader_wait, model, postprocess] =
        [loader_wait, model, postprocess].map(|seconds| 1000.0 * seconds / images.max(1) as f64);
    format!(
        "Speed: {loader_wait:.1} ms waiting for an image, {model:.1} ms in the model, {postprocess:.1} ms for its boxes"
    )
}

/// The lines after the last epoch: the best weights class by class.
pub fn finished(progress: &Progress, details: &ValidationDetails, setup: &Setup, events: &Events) {
    let metrics = &details.result.metrics;
    let hours = progress.seconds / 3600.0;
    events.print(&format!("\n{} epochs completed in {hours:.3} hours.", progress.epoch));
    if let Some(best) = &progress.best {
        events.print(&format!("The best weights are those of epoch {}:", best.epoch));
    }
    events.print(table(metrics, &setup.names).trim_end());
    events.print(&speed(details.time, metrics.images));
    events.print(&format!("Results saved to {}", setup.options.run_dir.display()));
}

fn epoch_of(epoch: u32, epochs: u32) -> String {
    format!("{epoch}/{epochs}")
}

fn row(epoch: &str, metrics: &BTreeMap<String, f64>, newest: NewestBatch) -> String {
    let losses = ["train/box_loss", "train/cls_loss", "train/dfl_loss"];
    let losses = losses.map(|name| format!("{:>11.4}", metrics.get(name).copied().unwrap_or(f64::NAN)));
    let NewestBatch { objects, side, device } = newest;
    format!("{epoch:>11}{:>11}{}{objects:>11}{side:>11}", memory(device), losses.concat())
}

/// Memory of the GPU that this process holds, as `1.234G`.
fn memory(device: Device) -> String {
    let taken = libtorch::memory_stats(device).map(|found| found.reserved_bytes as f64 / 1e9);
    taken.map_or_else(|| "0G".to_owned(), |taken| format!("{taken:.3}G"))
}

fn bar(done: f64) -> String {
    let full = (done.clamp(0.0, 1.0) * BAR as f64).round() as usize;
    format!("{}{}", "━".repeat(full), "─".repeat(BAR - full))
}

fn validation_header(width: usize) -> String {
    let columns = ["Images", "Instances", "Box(P", "R", "mAP50", "mAP50-95)"];
    format!("{:>width$}{}", "Class", columns.map(|name| format!("{name:>11}")).concat())
}

fn validation_row(name: &str, width: usize, counts: [usize; 2], numbers: [f64; 4]) -> String {
    let counts = counts.map(|count| format!("{count:>11}")).concat();
    let numbers = numbers.map(|number| format!("{number:>11.4}")).concat();
    format!("{name:>width$}{counts}{numbers}")
}

/// A validation as a table: all classes first, then each.
pub fn table(metrics: &Metrics, names: &[String]) -> String {
    let names: Vec<String> = names.iter().map(|name| clean(name)).collect();
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0).max(22);
    let mut lines = vec![validation_header(width)];
    let all = [metrics.precision, metrics.recall, metrics.map50, metrics.map50_95];
    lines.push(validation_row("all", width, [metrics.images, metrics.instances], all));
    for class in &metrics.classes {
        let name = names.get(class.class).map_or("?", String::as_str);
        let numbers = [class.precision, class.recall, class.ap50(), class.ap50_95()];
        lines.push(validation_row(name, width, [class.images, class.instances], numbers));
    }
    lines.push(String::new());
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_below_their_names() {
        let losses = [("train/box_loss", 3.4), ("train/cls_loss", 120.0), ("train/dfl_loss", 1.0)];
        let metrics: BTreeMap<String, f64> =
            losses.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let newest = NewestBatch { objects: 34, side: 320, device: Device::Cpu };
        let row = row(&epoch_of(7, 50), &metrics, newest);
        assert_eq!(row, "       7/50         0G     3.4000   120.0000     1.0000         34        320");
        assert_eq!(row.len(), HEADER.len() * 11);
        assert_eq!(validation_header(22).len(), validation_row("all", 22, [72, 945], [0.5; 4]).len());
    }

    #[test]
    fn names_of_classes_steer_no_terminal() {
        let class = crate::eval::ClassMetrics {
            class: 0,
            images: 1,
            instances: 1,
            precision: 0.5,
            recall: 0.5,
            f1: 0.5,
            ap: [0.5; 10],
        };
        let metrics = Metrics { classes: vec![class], ..Metrics::default() };
        let table = table(&metrics, &["red\x1b[31m\nrow".to_owned()]);
        assert_eq!(table.lines().count(), 3, "{table}");
        assert!(table.contains("red\u{FFFD}[31m row") && !table.contains('\x1b'), "{table}");
    }

    #[test]
    fn the_optimiser_and_the_speed_fit_in_a_line() {
        let spec = TrainSpec::new(trainyard_types::ModelScale::N, "/d.yaml");
        let line = optimizer(&spec, &Schedule::for_any_gpu(&spec, 100, 16), [63, 57, 63]);
        assert_eq!(
            line,
            "SGD: lr0 0.01, momentum 0.937; 63 weights with decay 0.0005, 57 without, 63 biases"
        );
        let time = ValidationTime { loader_wait: 0.1, model: 1.0, postprocess: 0.2 };
        assert_eq!(
            speed(time, 100),
            "Speed: 1.0 ms waiting for an image, 10.0 ms in the model, 2.0 ms for its boxes"
        );
    }

    #[test]
    fn a_bar_is_empty_at_first_and_full_at_the_end() {
        assert_eq!([0.0, 0.5, 1.0, 7.0].map(|done| bar(done).matches('━').count()), [0, 6, 12, 12]);
        assert_eq!(bar(0.3).chars().count(), BAR);
    }
}

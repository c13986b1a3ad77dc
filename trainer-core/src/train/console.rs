//! The lines that a person sees while a model trains.

use std::io::{IsTerminal, Write};

use trainyard_types::trainer::{Epoch, Started, Step};

use crate::eval::Metrics;
use crate::events::Events;
use crate::report::results_csv::METRICS;

/// Before the first epoch.
pub fn started(started: &Started, gflops: f64, events: &Events) {
    events.print(&format!(
        "{} parameters, {gflops:.1} GFLOPs; {} training and {} validation images, {} classes; batch {} on {}",
        started.parameters,
        started.train_images,
        started.val_images,
        started.classes.len(),
        started.batch_size,
        started.device,
    ));
    events.print(&format!(
        "{:>11} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "epoch", "box_loss", "cls_loss", "dfl_loss", "precision", "recall", "mAP50", "mAP50-95", "images/s"
    ));
}

/// A line that the next one overwrites; only on a terminal.
pub fn step(step: &Step, epochs: u32, events: &Events) {
    let mut terminal = std::io::stderr();
    if events.is_quiet() || !terminal.is_terminal() {
        return;
    }
    let losses =
        ["train/box_loss", "train/cls_loss", "train/dfl_loss"].map(|name| value(&step.metrics, name));
    let place = format!("{}/{epochs}", step.epoch);
    // A terminal that is gone is no reason to stop.
    let _ = write!(
        terminal,
        "\r{place:>11} {:>9.4} {:>9.4} {:>9.4} batch {}/{}, {:.1} images/s \x1b[K\r",
        losses[0], losses[1], losses[2], step.batch, step.batches, step.images_per_second,
    );
}

/// A row of the table.
pub fn epoch(epoch: &Epoch, events: &Events) {
    // The training losses and the accuracy; the other columns are for results.csv.
    let shown = METRICS.iter().take_while(|name| !name.starts_with("val/"));
    let numbers: Vec<String> = shown.map(|name| format!("{:>9.4}", value(&epoch.metrics, name))).collect();
    let numbers = numbers.join(" ");
    let place = format!("{}/{}", epoch.epoch, epoch.epochs);
    let best = if epoch.best { "  best" } else { "" };
    events.print(&format!("{place:>11} {numbers} {:>9.1}{best}", epoch.images_per_second));
}

fn value(metrics: &std::collections::BTreeMap<String, f64>, name: &str) -> f64 {
    metrics.get(name).copied().unwrap_or(f64::NAN)
}

/// A validation as a table: all classes first, then each.
pub fn table(metrics: &Metrics, names: &[String]) -> String {
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0).max(5);
    let mut text = format!(
        "{:>width$} {:>8} {:>9} {:>9} {:>9} {:>9} {:>9}\n",
        "class", "images", "instances", "precision", "recall", "mAP50", "mAP50-95"
    );
    let mut row = |name: &str, images: usize, instances: usize, numbers: [f64; 4]| {
        let numbers = numbers.map(|number| format!("{number:>9.4}")).join(" ");
        text.push_str(&format!("{name:>width$} {images:>8} {instances:>9} {numbers}\n"));
    };
    let all = [metrics.precision, metrics.recall, metrics.map50, metrics.map50_95];
    row("all", metrics.images, metrics.instances, all);
    for class in &metrics.classes {
        let name = names.get(class.class).map_or("?", String::as_str);
        let numbers = [class.precision, class.recall, class.ap50(), class.ap50_95()];
        row(name, class.images, class.instances, numbers);
    }
    text
}

//! Figures of training for people: epochs, losses, the final table by class.

use std::collections::HashMap;

use trainyard_proto::pb;

use super::{TextTable, cell, span};
use crate::output::Output;

/// Figures by the names of results.csv.
pub type Figures = HashMap<String, f64>;

const MAP50: &str = "metrics/mAP50(B)";
const MAP: &str = "metrics/mAP50-95(B)";
const PRECISION: &str = "metrics/precision(B)";
const RECALL: &str = "metrics/recall(B)";

/// Whether a figure belongs to one class: `metrics/mAP50(B)/cat`.
pub fn is_per_class(name: &str) -> bool {
    class_of(name).is_some()
}

fn class_of(name: &str) -> Option<&str> {
    [MAP50, MAP].iter().find_map(|figure| name.strip_prefix(figure)?.strip_prefix('/'))
}

/// `epoch 3/50, batch 12/40 of 16 images, 57.1 images/s, ETA 12m`.
pub fn progress(progress: &pb::Progress, running: bool) -> String {
    let mut text = format!("epoch {}/{}", progress.epoch, progress.epochs);
    if running && progress.batches > 0 {
        text += &format!(", batch {}/{}", progress.batch, progress.batches);
    }
    if progress.batch_size > 0 {
        text += &format!(", {} images a batch", progress.batch_size);
    }
    text += &format!(
        ", {:.1} images/s, {:.0} % of the time waiting for data",
        progress.images_per_second,
        progress.loader_wait_ratio * 100.0
    );
    match progress.eta {
        Some(eta) if running => text + &format!(", ETA {}", span(eta.seconds)),
        _ => text,
    }
}

/// The losses that a line has room for: `box 1.234 cls 2.345 dfl 0.987`.
pub fn losses(figures: &Figures) -> String {
    let part = |name: &str| {
        let value = figures.get(&format!("train/{name}_loss"))?;
        Some(format!("{name} {value:.3}"))
    };
    ["box", "cls", "dfl"].iter().filter_map(|name| part(name)).collect::<Vec<_>>().join(" ")
}

/// What the validation of an epoch found: `P 0.512 R 0.430 mAP50 0.467 mAP50-95 0.301`.
pub fn validation(figures: &Figures) -> String {
    let names = [("P", PRECISION), ("R", RECALL), ("mAP50", MAP50), ("mAP50-95", MAP)];
    let part = |(label, name): &(&str, &str)| Some(format!("{label} {:.3}", figures.get(*name)?));
    names.iter().filter_map(part).collect::<Vec<_>>().join(" ")
}

/// One finished epoch on one line.
pub fn epoch(metrics: &pb::Metrics) -> String {
    let width = metrics.epochs.to_string().len();
    let head = format!("epoch {:>width$}/{}", metrics.epoch, metrics.epochs);
    let speed = format!("{:.1} images/s", metrics.images_per_second);
    let parts = [head, losses(&metrics.values), validation(&metrics.values), speed];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("  ")
}

/// `400 ms a batch: backward 50 %, wait 25 %, forward 25 %`, the longest first.
pub fn phases(phases: &pb::Phases) -> String {
    let mut parts = [
        ("wait", phases.wait),
        ("copy", phases.copy),
        ("forward", phases.forward),
        ("loss", phases.loss),
        ("backward", phases.backward),
        ("optimiser", phases.optimizer),
    ];
    let all: f64 = parts.iter().map(|(_, seconds)| seconds).sum();
    parts.sort_by(|(_, one), (_, other)| other.total_cmp(one));
    let seen = parts.iter().filter(|(_, seconds)| *seconds > 0.0);
    let shares: Vec<String> =
        seen.map(|(name, seconds)| format!("{name} {:.0} %", seconds / all * 100.0)).collect();
    format!("{:.0} ms a batch: {}", all * 1000.0, shares.join(", "))
}

/// All epochs as a table.
pub fn epochs<'a>(output: Output, epochs: impl Iterator<Item = &'a pb::Metrics>) -> String {
    let columns = [
        ("BOX", "train/box_loss"),
        ("CLS", "train/cls_loss"),
        ("DFL", "train/dfl_loss"),
        ("P", PRECISION),
        ("R", RECALL),
        ("mAP50", MAP50),
        ("mAP50-95", MAP),
        ("VAL BOX", "val/box_loss"),
        ("VAL CLS", "val/cls_loss"),
        ("VAL DFL", "val/dfl_loss"),
    ];
    let heads: Vec<&str> =
        ["EPOCH"].into_iter().chain(columns.map(|(head, _)| head)).chain(["IMAGES/S"]).collect();
    let mut table = TextTable::new(output, &heads, 0).right(0..heads.len());
    for metrics in epochs {
        let mut cells = vec![cell(format!("{}/{}", metrics.epoch, metrics.epochs))];
        let figure = |name: &str| metrics.values.get(name).map(|value| format!("{value:.4}"));
        cells.extend(columns.map(|(_, name)| cell(figure(name).unwrap_or_else(|| "-".into()))));
        cells.push(cell(format!("{:.1}", metrics.images_per_second)));
        table.row(cells);
    }
    table.text()
}

/// What the best weights reach, class by class; empty when the figures do not tell.
pub fn per_class(output: Output, figures: &Figures) -> String {
    let mut classes: Vec<&str> = figures.keys().filter_map(|name| class_of(name)).collect();
    classes.sort_unstable();
    classes.dedup();
    if classes.is_empty() {
        return String::new();
    }
    let mut table = TextTable::new(output, &["CLASS", "mAP50", "mAP50-95"], 0).right(1..3);
    let shown = |name: String| figures.get(&name).map_or_else(|| "-".into(), |value| format!("{value:.3}"));
    for class in classes {
        let pair = [MAP50, MAP].map(|figure| cell(shown(format!("{figure}/{class}"))));
        table.row([vec![cell(class)], pair.to_vec()].concat());
    }
    let pair = [MAP50, MAP].map(|figure| cell(shown(figure.to_owned())));
    table.row([vec![cell("all")], pair.to_vec()].concat());
    table.text()
}

/// [`per_class`] with an empty line before and a line end after it, or nothing.
pub fn per_class_block(output: Output, figures: &Figures) -> String {
    let table = per_class(output, figures);
    if table.is_empty() { table } else { format!("\n{table}\n") }
}

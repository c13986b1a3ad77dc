//! The pictures of a run directory, under the names that YOLO users look for.

use std::io;
use std::path::Path;

use image::ImageEncoder;
use image::codecs::jpeg::JpegEncoder;
use trainyard_data::Image;
use trainyard_data::{Batch, Dataset};
use trainyard_files::write_atomically;

use super::draw::{DrawnBox, draw_boxes, montage, write_png};
use super::plots::{PlotError, Titles, confusion, curves, labels, results};
use crate::eval::map::ClassReport;
use crate::eval::{Confusion, Detection, Evaluator, Metrics};

/// Pictures of the validation of the best weights.
pub const VALIDATION: [&str; 6] = [
    "PR_curve.png",
    "F1_curve.png",
    "P_curve.png",
    "R_curve.png",
    "confusion_matrix.png",
    "confusion_matrix_normalized.png",
];
/// The file of the training labels' statistics.
pub const LABELS: &str = "labels.png";
/// The columns of results.csv over the epochs.
pub const RESULTS: &str = "results.png";
/// Training batches that are shown of a run's start, and again of where mosaics end.
pub const TRAIN_BATCHES: usize = 3;
/// Validation batches that are shown.
pub const VAL_BATCHES: usize = 3;

/// Images on a sheet, and how many of them lie side by side.
const SHOWN: usize = 16;
const COLUMNS: usize = 4;
/// Pixels that an image on a sheet has at most along its long side.
const CELL: usize = 480;
/// The quality of JPEG files, in percent.
const QUALITY: u8 = 90;
/// Points of a precision-recall curve.
const POINTS: usize = 1001;

/// The picture of a training batch, counted from the run's start, from 0.
pub fn train_batch(number: u64) -> String {
    format!("train_batch{number}.jpg")
}

/// The numbers of the training batches that `folder` has pictures of, in order.
pub fn train_batches(folder: &Path) -> Vec<u64> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let number = |entry: std::fs::DirEntry| {
        let name = entry.file_name();
        name.to_str()?.strip_prefix("train_batch")?.strip_suffix(".jpg")?.parse().ok()
    };
    let mut numbers: Vec<u64> = entries.filter_map(number).collect();
    numbers.sort_unstable();
    numbers
}

/// The picture of a validation batch, counted from 0, with its labels.
pub fn val_labels(number: usize) -> String {
    format!("val_batch{number}_labels.jpg")
}

/// The file name of the same images with the predictions of the best weights.
pub fn val_predictions(number: usize) -> String {
    format!("val_batch{number}_pred.jpg")
}

/// Writes [`VALIDATION`]: what a validation found in detail.
///
/// # Errors
/// When a file cannot be written.
pub fn write_validation(
    folder: &Path,
    names: &[String],
    evaluator: &Evaluator,
    confusion: &Confusion,
) -> io::Result<()> {
    let reports = evaluator.reports();
    let metrics = evaluator.metrics();
    let curve = |report: &ClassReport, values, figure| {
        let name = names.get(report.class).map_or_else(|| report.class.to_string(), String::clone);
        curves::ClassCurve { name, class: report.class, values, figure }
    };
    let over_recall: Vec<curves::ClassCurve> = reports
        .iter()
        .map(|report| curve(report, evaluator.curves(report.class)[0].sampled(POINTS), Some(report.ap[0])))
        .collect();
    let over_confidence = |value: &dyn Fn(&ClassReport, usize) -> f64| -> Vec<curves::ClassCurve> {
        let values = |report: &ClassReport| (0..report.precision.len()).map(|at| value(report, at)).collect();
        reports.iter().map(|report| curve(report, values(report), None)).collect()
    };
    let Metrics { map50, .. } = metrics;
    let at_best = |x: f64, y: f64| format!("all classes {y:.2} at {x:.3}");
    let pictures = [
        curves::draw(
            &over_recall,
            Titles { chart: "Precision over recall, IoU 0.5", x: "Recall", y: "Precision" },
            |_, _| format!("all classes {map50:.3} mAP@0.5"),
        ),
        curves::draw(
            &over_confidence(&|report, at| report.f1(at)),
            Titles { chart: "F1 over confidence, IoU 0.5", x: "Confidence", y: "F1" },
            at_best,
        ),
        curves::draw(
            &over_confidence(&|report, at| report.precision[at]),
            Titles { chart: "Precision over confidence, IoU 0.5", x: "Confidence", y: "Precision" },
            at_best,
        ),
        curves::draw(
            &over_confidence(&|report, at| report.recall[at]),
            Titles { chart: "Recall over confidence, IoU 0.5", x: "Confidence", y: "Recall" },
            at_best,
        ),
        confusion::draw(confusion, names, false),
        confusion::draw(confusion, names, true),
    ];
    for (picture, name) in pictures.into_iter().zip(VALIDATION) {
        write_plot(folder, name, picture)?;
    }
    Ok(())
}

/// Writes [`LABELS`].
///
/// # Errors
/// When the file cannot be written.
pub fn write_labels(folder: &Path, dataset: &Dataset) -> io::Result<()> {
    let boxes: Vec<labels::LabelBox> = dataset
        .images
        .iter()
        .flat_map(|item| item.labels.iter().map(|label| (label.class, label.cxcywh)))
        .collect();
    write_plot(folder, LABELS, labels::draw(&boxes, &dataset.names))
}

/// Writes [`RESULTS`]; `column` gives the values of a column of results.csv, one an epoch.
///
/// # Errors
/// When the file cannot be written.
pub fn write_results(folder: &Path, column: impl Fn(&str) -> Vec<f64>) -> io::Result<()> {
    write_plot(folder, RESULTS, results::draw(column))
}

fn write_plot(folder: &Path, name: &str, picture: Result<Image, PlotError>) -> io::Result<()> {
    write_png(&folder.join(name), &picture.map_err(|error| io::Error::other(error.to_string()))?)
}

/// Writes a sheet of a batch's first images with the labels that the model is given.
///
/// # Errors
/// When the file cannot be written.
pub fn write_batch(path: &Path, batch: &Batch, names: &[String]) -> io::Result<()> {
    write_sheet(path, batch, names, |image| {
        let drawn =
            |truth: trainyard_data::Object| DrawnBox { xyxy: truth.xyxy, class: truth.class, score: None };
        batch.truths(image).into_iter().map(drawn).collect()
    })
}

/// Writes a sheet of a batch's first images with what a model sees in them, `found` image by image.
///
/// # Errors
/// When the file cannot be written.
pub fn write_predictions(
    path: &Path,
    batch: &Batch,
    found: &[Vec<Detection>],
    names: &[String],
) -> io::Result<()> {
    write_sheet(path, batch, names, |image| {
        // The surest last, on top.
        let drawn =
            |found: &Detection| DrawnBox { xyxy: found.xyxy, class: found.class, score: Some(found.score) };
        found.get(image).map(|found| found.iter().rev().map(drawn).collect()).unwrap_or_default()
    })
}

fn write_sheet(
    path: &Path,
    batch: &Batch,
    names: &[String],
    boxes: impl Fn(usize) -> Vec<DrawnBox>,
) -> io::Result<()> {
    let images: Vec<Image> = (0..batch.n.min(SHOWN))
        .map(|at| {
            let (mut image, scale) = fitted(batch.image(at));
            let mut boxes = boxes(at);
            for drawn in &mut boxes {
                drawn.xyxy = drawn.xyxy.map(|side| side * scale);
            }
            draw_boxes(&mut image, &boxes, names);
            image
        })
        .collect();
    write_jpeg(path, &montage(&images, COLUMNS))
}

/// The image at about the size of a cell, and what its coordinates are then multiplied by. Small ones grow
/// by whole factors, so that labels do not cover them.
fn fitted(image: Image) -> (Image, f32) {
    let long = image.width.max(image.height).max(1);
    let growth = CELL / long;
    if growth == 1 {
        return (image, 1.0);
    }
    let goal = if growth == 0 { CELL } else { long * growth };
    let side = |pixels: usize| (pixels * goal / long).max(1) as u32;
    let (width, height) = (side(image.width), side(image.height));
    let scale = goal as f32 / long as f32;
    let Some(buffer) = image::RgbImage::from_raw(image.width as u32, image.height as u32, image.rgb) else {
        return (Image::filled(1, 1, 0), scale);
    };
    let made = if growth == 0 {
        image::imageops::thumbnail(&buffer, width, height)
    } else {
        image::imageops::resize(&buffer, width, height, image::imageops::FilterType::Nearest)
    };
    (Image { width: width as usize, height: height as usize, rgb: made.into_raw() }, scale)
}

/// Writes a JPEG file, whole or not at all.
fn write_jpeg(path: &Path, image: &Image) -> io::Result<()> {
    let side = |pixels: usize| u32::try_from(pixels).map_err(io::Error::other);
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, QUALITY)
        .write_image(&image.rgb, side(image.width)?, side(image.height)?, image::ExtendedColorType::Rgb8)
        .map_err(io::Error::other)?;
    write_atomically(path, &bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_images_shrink_to_a_cell_and_small_ones_grow_by_whole_factors() {
        let (small, scale) = fitted(Image::filled(960, 480, 7));
        assert_eq!((small.width, small.height, small.rgb[0], scale), (480, 240, 7, 0.5));
        let (same, scale) = fitted(Image::filled(300, 20, 7));
        assert_eq!((same.width, same.height, scale), (300, 20, 1.0));
        let (large, scale) = fitted(Image::filled(100, 20, 7));
        assert_eq!((large.width, large.height, large.rgb[0], scale), (400, 80, 7, 4.0));
    }

    #[test]
    fn a_validation_in_which_nothing_occurs_still_has_its_pictures() {
        let folder = tempfile::tempdir().unwrap();
        write_validation(folder.path(), &["a".into()], &Evaluator::new(1), &Confusion::new(1)).unwrap();
        write_results(folder.path(), |_| Vec::new()).unwrap();
        for name in VALIDATION.into_iter().chain([RESULTS]) {
            assert!(trainyard_data::decode::read(&folder.path().join(name)).is_ok(), "{name}");
        }
    }
}

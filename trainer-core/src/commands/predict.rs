//! `predict`: draws what weights see in images.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use trainyard_console as console;
use trainyard_types::Violation;

use super::val::{check_imgsz, check_share};
use super::{LoadedModel, device, load_model};
use crate::data::letterbox::{Fit, Letterbox};
use crate::data::{Image, decode};
use crate::eval::{Detection, NmsConfig};
use crate::libtorch;
use crate::report::draw::{DrawnBox, draw_boxes, write_png};
use crate::train::error::TrainError;
use crate::train::step::to_input;
use crate::train::validate::detections;

/// Name of the file with all detections.
const PREDICTIONS: &str = "predictions.json";

/// Draw boxes on images.
#[derive(Debug, Args)]
pub struct Predict {
    /// A weights file: safetensors, or PyTorch's .pt (read without running anything in it).
    #[arg(long, alias = "model", value_name = "FILE")]
    weights: PathBuf,
    /// An image, or a folder of images.
    #[arg(long, value_name = "PATH")]
    source: PathBuf,
    /// Where the pictures go, under the images' names; not where the images are.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Boxes that the model is surer of than this.
    #[arg(long, default_value_t = 0.25)]
    conf: f32,
    /// A box is left out when it overlaps a surer one by more than this.
    #[arg(long, default_value_t = 0.7)]
    iou: f32,
    /// Long side of the network's input; a multiple of 32. Default: as the weights were trained.
    #[arg(long)]
    imgsz: Option<usize>,
    /// Also write labels in YOLO format, with the confidence last.
    #[arg(long)]
    save_txt: bool,
    /// Also write predictions.json: every image with its boxes in pixels.
    #[arg(long)]
    save_json: bool,
    /// cpu or cuda:0. Default: a GPU if the machine has a driver for one.
    #[arg(long)]
    device: Option<String>,
}

/// An image in predictions.json.
#[derive(Debug, Serialize)]
struct Seen<'a> {
    /// Its file's name.
    image: String,
    #[serde(flatten)]
    outcome: Outcome<'a>,
}

/// What became of it.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Outcome<'a> {
    /// The surest object first.
    Read {
        width: usize,
        height: usize,
        objects: Vec<Object<'a>>,
    },
    Unreadable {
        error: String,
    },
}

/// An object in predictions.json.
#[derive(Debug, Serialize)]
struct Object<'a> {
    class: u32,
    name: &'a str,
    confidence: f32,
    /// Left, top, right and bottom, in pixels of the image.
    xyxy: [f32; 4],
}

impl Predict {
    /// Draws, and prints a line per image. An image that cannot be read is told, and the others are drawn.
    pub fn run(&self, cuda: &Result<(), String>) -> Result<(), TrainError> {
        libtorch::use_all_cores();
        check_share("conf", self.conf)?;
        check_share("iou", self.iou)?;
        let paths = images(&self.source)?;
        self.check_out()?;
        let loaded = load_model(&self.weights, device(self.device.as_deref(), cuda)?)?;
        let imgsz = self.imgsz.unwrap_or(loaded.imgsz);
        check_imgsz(imgsz)?;
        fs::create_dir_all(&self.out).map_err(TrainError::io(&self.out))?;
        let config = NmsConfig { conf: self.conf, iou: self.iou, ..NmsConfig::predict() };
        let mut all = Vec::new();
        for (path, name) in paths.iter().zip(names(&paths)) {
            let outcome = match decode::read(path) {
                Ok(mut image) => {
                    let found = libtorch::catch(|| see(&loaded, &image, imgsz, &config))?;
                    let (width, height) = (image.width, image.height);
                    self.write((path, &name), &mut image, &found, &loaded.names)?;
                    let objects = found.iter().map(|found| object(found, &loaded.names)).collect();
                    Outcome::Read { width, height, objects }
                }
                Err(error) => {
                    console::note(console::clean(&format!("warning: {}: {error}", path.display())));
                    Outcome::Unreadable { error: error.to_string() }
                }
            };
            let image = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            all.push(Seen { image, outcome });
        }
        if self.save_json {
            let target = self.out.join(PREDICTIONS);
            let text = serde_json::to_vec_pretty(&all).map_err(std::io::Error::from);
            text.and_then(|text| fs::write(&target, text)).map_err(TrainError::io(target))?;
        }
        let is_unreadable = |seen: &&Seen<'_>| matches!(seen.outcome, Outcome::Unreadable { .. });
        match all.iter().filter(is_unreadable).count() {
            0 => Ok(()),
            unreadable => Err(TrainError::Unreadable { unreadable, images: all.len() }),
        }
    }

    /// Refuses to write where the images are: a drawn one could take the place of its source.
    fn check_out(&self) -> Result<(), TrainError> {
        let folder = match self.source.parent() {
            _ if self.source.is_dir() => self.source.as_path(),
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let (Ok(folder), Ok(out)) = (folder.canonicalize(), self.out.canonicalize()) else { return Ok(()) };
        if folder != out {
            return Ok(());
        }
        let text = format!("{} is where the images are; give another folder", self.out.display());
        Err(TrainError::Spec(vec![Violation::new("out", text)]))
    }

    fn write(
        &self,
        (path, stem): (&Path, &OsStr),
        image: &mut Image,
        found: &[Detection],
        names: &[String],
    ) -> Result<(), TrainError> {
        let list: Vec<String> =
            found.iter().map(|found| format!("{} {:.2}", name(names, found.class), found.score)).collect();
        // A line that cannot be printed takes no picture with it.
        let line = format!("{}: {} objects: {}", path.display(), found.len(), list.join(", "));
        let _ = console::line(console::clean(&line));
        let target = |ending: &str| {
            let mut file = stem.to_owned();
            file.push(ending);
            self.out.join(file)
        };
        if self.save_txt {
            let text: String = found.iter().map(|found| label(found, image.width, image.height)).collect();
            let target = target(".txt");
            fs::write(&target, text).map_err(TrainError::io(target))?;
        }
        // The surest last, on top.
        let boxes: Vec<DrawnBox> = found
            .iter()
            .rev()
            .map(|found| DrawnBox { xyxy: found.xyxy, class: found.class, score: Some(found.score) })
            .collect();
        draw_boxes(image, &boxes, names);
        let target = target(".png");
        write_png(&target, image).map_err(TrainError::io(target))
    }
}

fn name(names: &[String], class: u32) -> &str {
    names.get(class as usize).map_or("?", String::as_str)
}

fn object<'a>(found: &Detection, names: &'a [String]) -> Object<'a> {
    let Detection { class, score, xyxy, .. } = *found;
    Object { class, name: name(names, class), confidence: score, xyxy }
}

/// What the files of each image are called, without their endings: as the image without its own, or with it
/// where another image has the same name otherwise (`x.jpg` beside `x.png`).
fn names(paths: &[PathBuf]) -> Vec<OsString> {
    let full = |path: &PathBuf| path.file_name().unwrap_or_default().to_owned();
    let stem = |path: &PathBuf| path.file_stem().unwrap_or_default().to_owned();
    let taken: HashSet<OsString> = paths.iter().map(full).collect();
    let mut counts: HashMap<OsString, usize> = HashMap::new();
    for path in paths {
        *counts.entry(stem(path)).or_default() += 1;
    }
    let alone = |stem: &OsString| counts.get(stem) == Some(&1) && !taken.contains(stem);
    paths.iter().map(|path| Some(stem(path)).filter(alone).unwrap_or_else(|| full(path))).collect()
}

/// A line of a label file: class, centre, size, confidence, as shares of the image.
#[expect(clippy::cast_precision_loss, reason = "image sides are far below 2^24")]
fn label(found: &Detection, width: usize, height: usize) -> String {
    let (width, height) = (width as f32, height as f32);
    let [x1, y1, x2, y2] = found.xyxy;
    let (cx, cy) = ((x1 + x2) / 2.0 / width, (y1 + y2) / 2.0 / height);
    let (w, h) = ((x2 - x1) / width, (y2 - y1) / height);
    format!("{} {cx:.6} {cy:.6} {w:.6} {h:.6} {:.6}\n", found.class, found.score)
}

/// Detections in pixels of `image`.
fn see(loaded: &LoadedModel, image: &Image, imgsz: usize, config: &NmsConfig) -> Vec<Detection> {
    // The smallest rectangle in multiples of the stride that holds the image at that size.
    let long = image.width.max(image.height).max(1);
    let side = |pixels: usize| (pixels * imgsz).div_ceil(long).next_multiple_of(32).max(32);
    let outer = [side(image.width), side(image.height)];
    let placement = Letterbox::fit([image.width, image.height], outer, Fit::Scale);
    let boxed = placement.apply(image);
    let mut planes = vec![0; boxed.rgb.len()];
    boxed.write_planes(&mut planes);
    let input = to_input(&planes, [1, boxed.height, boxed.width], loaded.model.device());
    let found = detections(&loaded.model.detect(&input), config).pop().unwrap_or_default();
    let back = |found: Detection| Detection { xyxy: placement.to_original(found.xyxy), ..found };
    found.into_iter().map(back).collect()
}

fn images(source: &Path) -> Result<Vec<PathBuf>, TrainError> {
    if !source.is_dir() {
        return Ok(vec![source.to_owned()]);
    }
    let entries = fs::read_dir(source).map_err(TrainError::io(source))?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(TrainError::io(source))?.path();
        if path.is_file() && decode::is_image_name(&path) {
            found.push(path);
        }
    }
    found.sort();
    if found.is_empty() {
        let text = format!("{} has no images; give an image, or a folder of images", source.display());
        return Err(TrainError::Spec(vec![Violation::new("source", text)]));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_images_have_files_of_the_same_name() {
        let found = |files: &[&str]| {
            let paths: Vec<PathBuf> = files.iter().map(|file| Path::new("/d").join(file)).collect();
            names(&paths).into_iter().map(|name| name.into_string().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(found(&["a_jpg.rf.1.jpg", "a_jpg.rf.2.jpg", "b.png"]), ["a_jpg.rf.1", "a_jpg.rf.2", "b"]);
        assert_eq!(found(&["x.jpg", "x.png", "y.jpg"]), ["x.jpg", "x.png", "y"]);
        assert_eq!(found(&["a.jpg", "a.png", "a.jpg.png"]), ["a.jpg", "a.png", "a.jpg.png"]);
        assert_eq!(found(&["a.jpg", "a.jpg.png"]), ["a", "a.jpg.png"]);
    }
}

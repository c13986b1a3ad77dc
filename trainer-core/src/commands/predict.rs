//! `predict`: draws what weights see in images.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
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

/// Draw boxes on images.
#[derive(Debug, Args)]
pub struct Predict {
    /// A weights file: safetensors, or PyTorch's .pt (read without running anything in it).
    #[arg(long, value_name = "FILE")]
    weights: PathBuf,
    /// An image, or a folder of images.
    #[arg(long, value_name = "PATH")]
    source: PathBuf,
    /// Where the pictures go, under the images' names.
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
    /// cpu or cuda:0. Default: a GPU if the machine has a driver for one.
    #[arg(long)]
    device: Option<String>,
}

impl Predict {
    /// Draws, and prints a line per image.
    pub fn run(&self, cuda: &Result<(), String>) -> Result<(), TrainError> {
        libtorch::use_all_cores();
        check_share("conf", self.conf)?;
        check_share("iou", self.iou)?;
        let loaded = load_model(&self.weights, device(self.device.as_deref(), cuda)?)?;
        let imgsz = self.imgsz.unwrap_or(loaded.imgsz);
        check_imgsz(imgsz)?;
        fs::create_dir_all(&self.out).map_err(TrainError::io(&self.out))?;
        let config = NmsConfig { conf: self.conf, iou: self.iou, ..NmsConfig::predict() };
        for path in images(&self.source)? {
            let mut image = decode::read(&path)
                .map_err(|error| TrainError::Picture { path: path.clone(), reason: error.to_string() })?;
            let found = libtorch::catch(|| see(&loaded, &image, imgsz, &config))?;
            self.write(&path, &mut image, &found, &loaded.names)?;
        }
        Ok(())
    }

    fn write(
        &self,
        path: &Path,
        image: &mut Image,
        found: &[Detection],
        names: &[String],
    ) -> Result<(), TrainError> {
        let stem = path.file_stem().unwrap_or_default();
        let name = |index: u32| names.get(index as usize).map_or("?", String::as_str);
        let list: Vec<String> =
            found.iter().map(|found| format!("{} {:.2}", name(found.class), found.score)).collect();
        println!("{}: {} objects: {}", path.display(), found.len(), list.join(", "));
        if self.save_txt {
            let text: String = found.iter().map(|found| label(found, image.width, image.height)).collect();
            let target = self.out.join(stem).with_extension("txt");
            fs::write(&target, text).map_err(TrainError::io(target))?;
        }
        // The surest last, on top.
        let boxes: Vec<DrawnBox> = found
            .iter()
            .rev()
            .map(|found| DrawnBox { xyxy: found.xyxy, class: found.class, score: Some(found.score) })
            .collect();
        draw_boxes(image, &boxes, names);
        let target = self.out.join(stem).with_extension("png");
        write_png(&target, image).map_err(TrainError::io(target))
    }
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

//! `predict`: draws what weights see in images.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use trainyard_console as console;
use trainyard_data::dataset::listing::folder_of;
use trainyard_data::resample::letterbox::{Fit, Letterbox};
use trainyard_data::{Image, decode};
use trainyard_types::Violation;
use trainyard_types::text::clean;

use super::sources::{Source, Sources, is_video};
use super::val::{check_imgsz, check_share};
use super::{LoadedModel, device, end_with_the_gpu, load_model};
use crate::eval::{Detection, NmsConfig};
use crate::libtorch;
use crate::report::draw::{DrawnBox, draw_boxes, write_png};
use crate::train::batch_tensors::from_pixels;
use crate::train::error::TrainError;
use crate::train::validate::detections;

/// Name of the file with all detections.
const PREDICTIONS: &str = "predictions.json";

/// Draw boxes on images.
#[derive(Debug, Args)]
pub struct Predict {
    /// A weights file: safetensors, or PyTorch's .pt (read without running anything in it).
    #[arg(long, alias = "model", value_name = "FILE")]
    weights: PathBuf,
    /// Images, folders of images, .txt lists of images, or patterns in quotes such as 'images/**/*.jpg'.
    #[arg(long, value_name = "PATH", num_args = 1.., required = true)]
    source: Vec<PathBuf>,
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
struct ImagePredictions<'a> {
    /// Its file's name; of an image in a folder inside of the source, with that folder.
    image: String,
    #[serde(flatten)]
    outcome: Outcome<'a>,
}

/// What became of an image.
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

/// The paths of an image.
struct Paths<'a> {
    /// The image itself.
    source: &'a Path,
    /// Its results in the folder of results, without their endings.
    name: &'a Path,
}

impl Predict {
    /// Draws, and prints a line per image. An image that cannot be read is told, and the others are drawn.
    pub fn run(&self, cuda: &Result<(), String>) -> Result<(), TrainError> {
        libtorch::use_all_cores();
        end_with_the_gpu();
        check_share("conf", self.conf)?;
        check_share("iou", self.iou)?;
        let Sources { images, notes, .. } = Sources::find(&self.source, &self.out)?;
        notes.iter().for_each(|note| console::note(clean(&format!("warning: {note}"))));
        self.check_out(&images)?;
        let loaded = load_model(&self.weights, device(self.device.as_deref(), cuda)?)?;
        let imgsz = self.imgsz.unwrap_or(loaded.imgsz);
        check_imgsz(imgsz)?;
        fs::create_dir_all(&self.out).map_err(TrainError::io(&self.out))?;
        let config = NmsConfig { conf: self.conf, iou: self.iou, ..NmsConfig::predict() };
        let mut all = Vec::new();
        for (source, name) in images.iter().zip(names(&images)) {
            let path = &source.path;
            let outcome = match read(path) {
                Ok(mut image) => {
                    let found = libtorch::catch(|| predict_image(&loaded, &image, imgsz, &config))?;
                    let (width, height) = (image.width, image.height);
                    self.write(&Paths { source: path, name: &name }, &mut image, &found, &loaded.names)?;
                    let objects = found.iter().map(|found| object(found, &loaded.names)).collect();
                    Outcome::Read { width, height, objects }
                }
                Err(error) => {
                    console::note(clean(&format!("warning: {}: {error}", path.display())));
                    Outcome::Unreadable { error }
                }
            };
            all.push(ImagePredictions { image: source.name.to_string_lossy().into_owned(), outcome });
        }
        if self.save_json {
            let target = self.out.join(PREDICTIONS);
            let text = serde_json::to_vec_pretty(&all).map_err(std::io::Error::from);
            text.and_then(|text| fs::write(&target, text)).map_err(TrainError::io(target))?;
        }
        let is_unreadable =
            |image: &&ImagePredictions<'_>| matches!(image.outcome, Outcome::Unreadable { .. });
        match all.iter().filter(is_unreadable).count() {
            0 => Ok(()),
            unreadable => Err(TrainError::Unreadable { unreadable, images: all.len() }),
        }
    }

    /// Refuses to write where the images are: a drawn one could take the place of its source.
    fn check_out(&self, images: &[Source]) -> Result<(), TrainError> {
        let folder = |file: &Path| folder_of(file).to_path_buf();
        let existing = |folders: BTreeSet<PathBuf>| {
            folders.into_iter().filter_map(|folder| folder.canonicalize().ok()).collect::<BTreeSet<PathBuf>>()
        };
        let from = existing(images.iter().map(|image| folder(&image.path)).collect());
        let to = existing(images.iter().map(|image| folder(&self.out.join(&image.name))).collect());
        if from.is_disjoint(&to) {
            return Ok(());
        }
        let text = format!("{} is where the images are; give another folder", self.out.display());
        Err(TrainError::Spec(vec![Violation::new("out", text)]))
    }

    fn write(
        &self,
        paths: &Paths<'_>,
        image: &mut Image,
        found: &[Detection],
        names: &[String],
    ) -> Result<(), TrainError> {
        let list: Vec<String> =
            found.iter().map(|found| format!("{} {:.2}", name(names, found.class), found.score)).collect();
        // A line that cannot be printed takes no picture with it.
        let line = format!("{}: {} objects: {}", paths.source.display(), found.len(), list.join(", "));
        let _ = console::line(clean(&line));
        let target = |ending: &str| {
            let mut file = self.out.join(paths.name).into_os_string();
            file.push(ending);
            PathBuf::from(file)
        };
        if let Some(folder) = target(".png").parent() {
            fs::create_dir_all(folder).map_err(TrainError::io(folder))?;
        }
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

/// What the files of each image are called in the folder of results, without their endings: as the image without its own,
/// or with it where another image has the same name otherwise (`x.jpg` beside `x.png`). Images of one name from several
/// sources are numbered.
fn names(images: &[Source]) -> Vec<PathBuf> {
    let stem = |image: &Source| image.name.with_file_name(image.name.file_stem().unwrap_or_default());
    let full: HashSet<&PathBuf> = images.iter().map(|image| &image.name).collect();
    let mut counts: HashMap<PathBuf, usize> = HashMap::new();
    for image in images {
        *counts.entry(stem(image)).or_default() += 1;
    }
    let alone = |stem: &PathBuf| counts.get(stem) == Some(&1) && !full.contains(stem);
    let mut taken = HashSet::new();
    let numbered = |image: &Source| {
        let wished = Some(stem(image)).filter(alone).unwrap_or_else(|| image.name.clone());
        let number = |at: usize| {
            let mut name = wished.clone().into_os_string();
            name.push(if at == 1 { String::new() } else { format!("-{at}") });
            PathBuf::from(name)
        };
        let free = (1..).map(number).find(|name| taken.insert(name.clone()));
        free.expect("one of endless numbers is free")
    };
    images.iter().map(numbered).collect()
}

/// Decodes an image, or says why not.
fn read(path: &Path) -> Result<Image, String> {
    if let Some(kind) = decode::unsupported_format(path) {
        return Err(format!("{kind} images are not read; convert it to JPEG or PNG"));
    }
    if is_video(path) {
        return Err("is a video, and videos are not read; take images from it".to_owned());
    }
    decode::read(path).map_err(|error| error.to_string())
}

/// A line of a label file: class, centre, size, confidence, as shares of the image.
fn label(found: &Detection, width: usize, height: usize) -> String {
    let (width, height) = (width as f32, height as f32);
    let [x1, y1, x2, y2] = found.xyxy;
    let (cx, cy) = ((x1 + x2) / 2.0 / width, (y1 + y2) / 2.0 / height);
    let (w, h) = ((x2 - x1) / width, (y2 - y1) / height);
    format!("{} {cx:.6} {cy:.6} {w:.6} {h:.6} {:.6}\n", found.class, found.score)
}

/// Detections in pixels of `image`.
fn predict_image(loaded: &LoadedModel, image: &Image, imgsz: usize, config: &NmsConfig) -> Vec<Detection> {
    // The smallest rectangle in multiples of the stride that holds the image at that size.
    let long = image.width.max(image.height).max(1);
    let side = |pixels: usize| (pixels * imgsz).div_ceil(long).next_multiple_of(32).max(32);
    let outer = [side(image.width), side(image.height)];
    let placement = Letterbox::fit([image.width, image.height], outer, Fit::Scale);
    let boxed = placement.apply(image);
    let mut planes = vec![0; boxed.rgb.len()];
    boxed.write_planes(&mut planes);
    let input = from_pixels(&planes, [1, boxed.height, boxed.width], loaded.model.device(), tch::Kind::Float);
    let found = detections(&loaded.model.detect(&input), config).pop().unwrap_or_default();
    let back = |found: Detection| Detection { xyxy: placement.to_original(found.xyxy), ..found };
    found.into_iter().map(back).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_images_have_files_of_the_same_name() {
        let found = |files: &[&str]| {
            let source = |file: &&str| Source { path: Path::new("/d").join(file), name: PathBuf::from(file) };
            let images: Vec<Source> = files.iter().map(source).collect();
            names(&images).into_iter().map(|name| name.display().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(found(&["a_jpg.rf.1.jpg", "a_jpg.rf.2.jpg", "b.png"]), ["a_jpg.rf.1", "a_jpg.rf.2", "b"]);
        assert_eq!(found(&["x.jpg", "x.png", "y.jpg"]), ["x.jpg", "x.png", "y"]);
        assert_eq!(found(&["a.jpg", "a.png", "a.jpg.png"]), ["a.jpg", "a.png", "a.jpg.png"]);
        assert_eq!(found(&["a.jpg", "a.jpg.png"]), ["a", "a.jpg.png"]);
        assert_eq!(found(&["a.jpg", "in/a.jpg", "in/a.png"]), ["a", "in/a.jpg", "in/a.png"]);
        assert_eq!(found(&["a.jpg", "b.jpg", "a.jpg"]), ["a.jpg", "b", "a.jpg-2"]);
    }
}

//! A generated data set in YOLO format: drawn shapes of three classes on textured backgrounds. The
//! same options give the same bytes, so that figures of two runs can be compared.

mod random;
mod shapes;
mod synthetic;

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use image::ExtendedColorType;
use image::codecs::jpeg::JpegEncoder;

use crate::failure::Failure;
use random::Random;
use synthetic::SyntheticImage;

/// The names of the classes; a class id is an index here.
pub const CLASSES: [&str; 3] = ["circle", "rectangle", "triangle"];

const JPEG_QUALITY: u8 = 90;

/// How a generated data set is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DatasetOptions {
    /// Another seed gives other pictures.
    pub seed: u64,
    /// Number of training images.
    pub train: u32,
    /// Number of validation images.
    pub val: u32,
    /// Side of an image, in pixels.
    pub size: u32,
}

/// Writes the data set to `dir` and gives the path of its data.yaml. What is there already is kept; a
/// run that was interrupted is completed.
///
/// # Errors
/// `dir` holds something else; the disk does not take it.
pub fn write(dir: &Path, options: &DatasetOptions) -> Result<PathBuf, Failure> {
    let yaml = dir.join("data.yaml");
    let text = data_yaml(options);
    let found = fs::read(&yaml).unwrap_or_default();
    if found != text.as_bytes() && !is_empty(dir).map_err(|error| io_failure(dir, &error))? {
        return Err(Failure::usage(format!("{} holds something else", dir.display()))
            .hint("name a folder that is empty or not there yet, or remove this one"));
    }
    // The description comes first: by it, the next run knows what an interrupted one began.
    write_whole(&yaml, text.as_bytes())?;
    for (split, count, offset) in [("train", options.train, 0), ("val", options.val, 1 << 32)] {
        let images = dir.join("images").join(split);
        let labels = dir.join("labels").join(split);
        for folder in [&images, &labels] {
            fs::create_dir_all(folder).map_err(|error| io_failure(folder, &error))?;
        }
        for number in 0..count {
            let (jpeg, label) = picture(options, offset + u64::from(number))?;
            write_whole(&labels.join(format!("{number:05}.txt")), label.as_bytes())?;
            write_whole(&images.join(format!("{number:05}.jpg")), &jpeg)?;
        }
    }
    Ok(yaml)
}

/// Without `path`, trainers look beside the file itself, wherever it is moved to.
fn data_yaml(options: &DatasetOptions) -> String {
    let DatasetOptions { seed, train, val, size } = options;
    let names: String = CLASSES.iter().enumerate().map(|(id, name)| format!("  {id}: {name}\n")).collect();
    format!(
        "# Made by `yard demo-data --seed {seed} --train {train} --val {val} --size {size}`.\n\
         train: images/train\nval: images/val\nnc: {}\nnames:\n{names}",
        CLASSES.len()
    )
}

/// The JPEG and the label file of one image.
fn picture(options: &DatasetOptions, number: u64) -> Result<(Vec<u8>, String), Failure> {
    let mut random = Random::new(options.seed, number);
    let image = SyntheticImage::draw(&mut random, f64::from(options.size));
    let pixels = image.paint(&mut random, options.size);
    let mut jpeg = Vec::new();
    JpegEncoder::new_with_quality(&mut jpeg, JPEG_QUALITY)
        .encode(&pixels, options.size, options.size, ExtendedColorType::Rgb8)
        .map_err(|error| Failure::local(error.to_string()))?;
    Ok((jpeg, image.labels()))
}

fn is_empty(dir: &Path) -> std::io::Result<bool> {
    match fs::read_dir(dir) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}

/// Writes a whole file or none; one that is there must be the same.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let io = |error: std::io::Error| io_failure(path, &error);
    match fs::read(path) {
        Ok(found) if found == bytes => return Ok(()),
        Ok(_) => {
            return Err(Failure::usage(format!("{} was changed", path.display()))
                .hint("name another folder, or remove this one"));
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(io(error)),
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(io)?;
    }
    let part = path.with_extension("part");
    let mut file = fs::File::create(&part).map_err(io)?;
    file.write_all(bytes).map_err(io)?;
    fs::rename(&part, path).map_err(io)
}

fn io_failure(path: &Path, error: &std::io::Error) -> Failure {
    Failure::local(format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests;

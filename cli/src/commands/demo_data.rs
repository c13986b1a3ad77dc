//! `yard demo-data`: something to train on.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::demo::{self, DatasetOptions};
use crate::failure::Failure;
use crate::output::Output;
use crate::terminal;

/// Write a small generated data set in YOLO format
///
/// Circles, rectangles and triangles on textured backgrounds. The same numbers give the same bytes.
#[derive(Debug, Args)]
pub struct DemoData {
    /// Where to; must be empty, absent, or hold this very data set
    dir: PathBuf,
    /// Draws other pictures
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// How many images train
    #[arg(long, default_value_t = 240, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    train: u32,
    /// How many images validate
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    val: u32,
    /// Side of an image in pixels
    #[arg(long, default_value_t = 192, value_parser = clap::value_parser!(u32).range(64..=2048))]
    size: u32,
}

impl DemoData {
    /// Writes it and prints the path of its data.yaml.
    ///
    /// # Errors
    /// The folder holds something else; the disk does not take it.
    pub fn run(self, output: Output) -> Result<(), Failure> {
        let options = DatasetOptions { seed: self.seed, train: self.train, val: self.val, size: self.size };
        let yaml = demo::write(&self.dir, &options)?;
        if output.for_people() {
            output.line(&yaml.display().to_string())?;
            let text = format!(
                "{} images train, {} validate; `yard train` takes this file",
                options.train, options.val
            );
            terminal::message(&text);
        }
        output.document(&json!({ "data": yaml.display().to_string() }))
    }
}

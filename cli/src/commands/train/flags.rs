//! The groups of flags of `yard train`. Every field of TrainSpec has a flag here, but for data and model.

use std::path::PathBuf;

use clap::builder::BoolishValueParser;
use clap::{ArgAction, Args};
use trainyard_types::habit;

use crate::values::{parse_label, parse_mib, parse_span};

/// Where the job may run, and which job goes first.
#[derive(Debug, Args)]
#[command(next_help_heading = "Placement")]
pub struct PlacementFlags {
    /// Train on a GPU or on a CPU slot [default: gpu]
    #[arg(long, value_name = "gpu|cpu", value_parser = habit::device)]
    pub(super) device: Option<&'static str>,
    /// GPUs to train on, all on one agent [default: 1]
    #[arg(long, value_name = "N")]
    pub(super) gpus: Option<u32>,
    /// A GPU model that will do, such as 4090; repeat for more than one
    #[arg(long, value_name = "MODEL")]
    pub(super) gpu_model: Vec<String>,
    /// Nominal memory that the GPU must have, such as 20G
    #[arg(long, value_name = "SIZE", value_parser = parse_mib)]
    pub(super) min_vram: Option<u64>,
    /// Higher goes first, -100 to 100 [default: 0]
    #[arg(long, allow_negative_numbers = true, value_name = "N")]
    pub(super) priority: Option<i32>,
    /// How many crashes of the trainer are forgiven [default: 3]
    #[arg(long, value_name = "N")]
    pub(super) max_retries: Option<u32>,
    /// How long its trainers may run in all, such as 90m or 2d; then it is stopped with a checkpoint
    #[arg(long, value_name = "SPAN", value_parser = parse_span)]
    pub(super) time_limit: Option<prost_types::Duration>,
    /// A label for people and filters; repeat for more than one
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_label)]
    pub(super) label: Vec<(String, String)>,
}

/// How long the job trains, on which images, and how large they are.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Training")]
pub struct TrainingFlags {
    /// Passes over the training images [default: 100]
    #[arg(long)]
    pub(super) epochs: Option<u32>,
    /// Side of the square training image in pixels, a multiple of 32 [default: 640]
    #[arg(long, value_parser = parse_imgsz)]
    pub(super) imgsz: Option<u32>,
    /// Images per forward pass; auto or -1 lets the agent compute it from its GPU, a share such as 0.7 does so that it takes
    /// about that much of the GPU's memory [default: -1]
    #[arg(long, allow_negative_numbers = true, value_parser = parse_batch)]
    pub(super) batch: Option<f64>,
    /// Threads that load images [default: 8]
    #[arg(long)]
    pub(super) workers: Option<u32>,
    /// Where decoded images are kept between epochs: disk, ram or none [default: disk]
    #[arg(long, value_parser = |text: &str| parse_name("cache", text))]
    #[arg(num_args = 0..=1, default_missing_value = "ram", value_name = "WHERE")]
    pub(super) cache: Option<String>,
    /// Mixed precision [default: true]
    #[arg(long, action = ArgAction::Set, value_parser = BoolishValueParser::new(), value_name = "BOOL")]
    pub(super) amp: Option<bool>,
    /// Vary the image size by up to half, batch by batch [default: false]
    #[arg(long, action = ArgAction::Set, value_parser = BoolishValueParser::new(), value_name = "BOOL")]
    pub(super) multi_scale: Option<bool>,
    /// Hours that training may take; overrides the epochs [default: as long as the epochs take]
    #[arg(long, value_name = "HOURS")]
    pub(super) time: Option<f64>,
    /// Weights to begin with: pushed ones, NAME or NAME@VERSION; a job's best, job:ID; or a .safetensors or .pt file as
    /// the agents see it [default: none]
    #[arg(long, value_name = "WEIGHTS")]
    pub(super) pretrained: Option<PathBuf>,
    /// Images that batch normalisation sees at once, the same on every GPU [default: as many as fit]
    #[arg(long, value_name = "IMAGES")]
    pub(super) bn_group: Option<u32>,
    /// Only algorithms whose results repeat bit by bit; slower on a GPU [default: false]
    #[arg(long, action = ArgAction::Set, value_parser = BoolishValueParser::new(), value_name = "BOOL")]
    pub(super) deterministic: Option<bool>,
    /// Minutes between checkpoints inside of an epoch; 0: at its end only [default: 10]
    #[arg(long, value_name = "MINUTES")]
    pub(super) checkpoint_minutes: Option<f64>,
    /// Treat every class as one [default: false]
    #[arg(long, action = ArgAction::Set, value_parser = BoolishValueParser::new(), value_name = "BOOL")]
    pub(super) single_cls: Option<bool>,
    /// Stop after so many epochs without improvement; 0 never stops [default: 100]
    #[arg(long)]
    pub(super) patience: Option<u32>,
    /// Seed of every random choice [default: 0]
    #[arg(long)]
    pub(super) seed: Option<u64>,
    /// Share of the training images to use [default: 1]
    #[arg(long)]
    pub(super) fraction: Option<f64>,
    /// How many of the first layers keep their weights [default: 0]
    #[arg(long)]
    pub(super) freeze: Option<u32>,
}

/// How weights are updated, and what the loss weighs.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Optimiser and loss")]
pub struct OptimizerFlags {
    /// SGD, AdamW, or auto, which ignores lr0, momentum and warmup_bias_lr [default: SGD]
    #[arg(long, value_parser = |text: &str| parse_name("optimizer", text))]
    pub(super) optimizer: Option<String>,
    /// Cosine learning rate; linear otherwise [default: true]
    #[arg(long, action = ArgAction::Set, value_parser = BoolishValueParser::new(), value_name = "BOOL")]
    pub(super) cos_lr: Option<bool>,
    /// Initial learning rate [default: 0.01]
    #[arg(long)]
    pub(super) lr0: Option<f64>,
    /// Final learning rate as a share of lr0 [default: 0.01]
    #[arg(long)]
    pub(super) lrf: Option<f64>,
    /// Nesterov momentum [default: 0.937]
    #[arg(long)]
    pub(super) momentum: Option<f64>,
    /// L2 penalty on convolution weights [default: 0.0005]
    #[arg(long)]
    pub(super) weight_decay: Option<f64>,
    /// Epochs over which the learning rate rises [default: 3]
    #[arg(long)]
    pub(super) warmup_epochs: Option<f64>,
    /// Momentum at the start of the warm-up [default: 0.8]
    #[arg(long)]
    pub(super) warmup_momentum: Option<f64>,
    /// Learning rate of biases at the start of the warm-up [default: 0.1]
    #[arg(long)]
    pub(super) warmup_bias_lr: Option<f64>,
    /// Nominal batch: images per optimiser step, reached by accumulation [default: 64]
    #[arg(long)]
    pub(super) nbs: Option<u32>,
    /// Gain of the box loss [default: 7.5]
    #[arg(long = "box", value_name = "GAIN")]
    pub(super) box_gain: Option<f64>,
    /// Gain of the class loss [default: 0.5]
    #[arg(long, value_name = "GAIN")]
    pub(super) cls: Option<f64>,
    /// Gain of the distribution focal loss [default: 1.5]
    #[arg(long, value_name = "GAIN")]
    pub(super) dfl: Option<f64>,
}

/// How training images are varied.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Augmentation")]
pub struct AugmentationFlags {
    /// Last epochs that train without mosaic and mixup [default: 10]
    #[arg(long)]
    pub(super) close_mosaic: Option<u32>,
    /// Hue jitter, share of the circle [default: 0.015]
    #[arg(long)]
    pub(super) hsv_h: Option<f64>,
    /// Saturation jitter, share [default: 0.7]
    #[arg(long)]
    pub(super) hsv_s: Option<f64>,
    /// Value jitter, share [default: 0.4]
    #[arg(long)]
    pub(super) hsv_v: Option<f64>,
    /// Rotation, degrees either way [default: 0]
    #[arg(long)]
    pub(super) degrees: Option<f64>,
    /// Translation, share of the image either way [default: 0.1]
    #[arg(long)]
    pub(super) translate: Option<f64>,
    /// Scaling, 1 plus or minus this [default: 0.5]
    #[arg(long)]
    pub(super) scale: Option<f64>,
    /// Shear, degrees either way [default: 0]
    #[arg(long)]
    pub(super) shear: Option<f64>,
    /// Perspective, up to 0.001 [default: 0]
    #[arg(long)]
    pub(super) perspective: Option<f64>,
    /// Probability of a vertical flip [default: 0]
    #[arg(long)]
    pub(super) flipud: Option<f64>,
    /// Probability of a horizontal flip [default: 0.5]
    #[arg(long)]
    pub(super) fliplr: Option<f64>,
    /// Probability of a four-image mosaic [default: 1]
    #[arg(long)]
    pub(super) mosaic: Option<f64>,
    /// Probability of blending two images [default: 0]
    #[arg(long)]
    pub(super) mixup: Option<f64>,
}

fn parse_batch(text: &str) -> Result<f64, String> {
    let wrong = "write auto, a whole number, or a share of the GPU's memory such as 0.7";
    habit::meaning("batch", text.into())?.as_f64().ok_or_else(|| wrong.to_owned())
}

fn parse_imgsz(text: &str) -> Result<u32, String> {
    let side = habit::meaning("imgsz", text.into())?.as_u64().and_then(|side| u32::try_from(side).ok());
    side.ok_or_else(|| "write the side of the square image in pixels, such as 640".to_owned())
}

/// One of a few names, as it is written here; what is none is for the scheduler to refuse.
fn parse_name(field: &str, text: &str) -> Result<String, String> {
    Ok(habit::meaning(field, text.into())?.as_str().unwrap_or(text).to_owned())
}

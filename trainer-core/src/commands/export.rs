//! `export`: weights for other programs.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use tch::{Device, Kind, Tensor};
use trainyard_files::write_atomically;
use trainyard_types::Violation;

use super::val::{check_imgsz, check_share};
use super::{LoadedModel, load_model};
use crate::export::onnx::{self, OnnxOptions};
use crate::export::onnx_nms::NmsOptions;
use crate::export::ultralytics::{self, About};
use crate::export::{RawTensors, pt};
use crate::import::{RawTensor, Values};
use crate::libtorch;
use crate::train::error::TrainError;
use crate::weights::{self, Metadata, Role, Weights, WeightsError};

/// Write weights in another format.
#[derive(Debug, Args)]
pub struct Export {
    /// A weights file: safetensors, or PyTorch's .pt (read without running anything in it).
    #[arg(long, alias = "model", value_name = "FILE")]
    weights: PathBuf,
    /// What to write.
    #[arg(long, value_enum)]
    format: Format,
    /// Where to. Default: beside the weights, with the format's ending.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// ONNX: side of the images, or height,width; multiples of 32. Default: as the weights were trained.
    #[arg(long, value_name = "SIZE", value_delimiter = ',', num_args = 1)]
    imgsz: Vec<usize>,
    /// ONNX: images at a time.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=4096))]
    batch: u32,
    /// ONNX: any number of images at a time.
    #[arg(long, conflicts_with = "batch")]
    dynamic: bool,
    /// Numbers in 16 bits: half the size.
    #[arg(long)]
    half: bool,
    /// ONNX: with non-maximum suppression; rows of x1, y1, x2, y2, score, class come out.
    #[arg(long)]
    nms: bool,
    /// With --nms: the least score.
    #[arg(long, default_value_t = 0.25, requires = "nms")]
    conf: f32,
    /// With --nms: the most overlap of two boxes of a class.
    #[arg(long, default_value_t = 0.7, requires = "nms")]
    iou: f32,
    /// With --nms: the most detections of an image.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(i64).range(1..=30_000), requires = "nms")]
    max_det: i64,
}

/// A file format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For ONNX Runtime, OpenCV, TensorRT and others: images in, boxes and scores out.
    Onnx,
    /// A checkpoint for Ultralytics: `YOLO("best.pt")`, `yolo predict model=best.pt`.
    Pt,
    /// A state dict for PyTorch: `torch.load(path, weights_only=True)`.
    StateDict,
    /// As a training run writes it.
    Safetensors,
}

impl Format {
    const fn ending(self) -> &'static str {
        match self {
            Self::Onnx => "onnx",
            Self::Pt => "pt",
            Self::StateDict => "pth",
            Self::Safetensors => "safetensors",
        }
    }
}

impl Export {
    /// Writes the file, and prints its name.
    ///
    /// # Errors
    /// When the weights cannot be used, or the file cannot be written.
    pub fn run(&self) -> Result<(), TrainError> {
        let out = self.out.clone().unwrap_or_else(|| self.weights.with_extension(self.format.ending()));
        let is_same = |a: &Path, b: &Path| {
            std::fs::canonicalize(a).ok().is_some_and(|a| std::fs::canonicalize(b).ok() == Some(a))
        };
        if is_same(&self.weights, &out) {
            let text = format!("is {}, the weights themselves; give another with --out", out.display());
            return Err(TrainError::Spec(vec![Violation::new("out", text)]));
        }
        check_share("conf", self.conf)?;
        check_share("iou", self.iou)?;
        let loaded = load_model(&self.weights, Device::Cpu)?;
        let size = match self.imgsz[..] {
            [] => [loaded.imgsz; 2],
            [side] => [side; 2],
            [height, width] => [height, width],
            _ => {
                let text = format!("is {:?}; use one side, or height,width", self.imgsz);
                return Err(TrainError::Spec(vec![Violation::new("imgsz", text)]));
            }
        };
        size.into_iter().try_for_each(check_imgsz)?;
        let bytes = libtorch::catch(|| self.bytes(&loaded, size))??;
        write_atomically(&out, &bytes).map_err(TrainError::io(&out))?;
        super::print(format_args!("{}: {:.1} MB\n", out.display(), bytes.len() as f64 / 1e6))
    }

    fn bytes(&self, loaded: &LoadedModel, size: [usize; 2]) -> Result<Vec<u8>, TrainError> {
        let weights = loaded.model.weights();
        let failed =
            |reason: String| TrainError::Weights(WeightsError::Format { path: self.weights.clone(), reason });
        match self.format {
            Format::Onnx => {
                let options = OnnxOptions {
                    size,
                    batch: (!self.dynamic).then_some(self.batch as usize),
                    half: self.half,
                    names: loaded.names.clone(),
                    nms: self.nms.then_some(NmsOptions {
                        conf: self.conf,
                        iou: self.iou,
                        max_det: self.max_det,
                    }),
                };
                onnx::write(loaded.model.plan(), &tensors(weights), &options)
                    .map_err(|error| failed(error.to_string()))
            }
            Format::Pt => {
                let about = About {
                    names: &loaded.names,
                    imgsz: size[0].max(size[1]),
                    strides: &ultralytics::strides(),
                };
                let tensors = tensors(weights);
                let checkpoint = ultralytics::checkpoint(loaded.model.plan(), &tensors, &about);
                let checkpoint = checkpoint.map_err(|error| failed(error.to_string()))?;
                pt::write(&checkpoint, self.half).map_err(|error| failed(error.to_string()))
            }
            Format::StateDict => {
                let tensors: Vec<(&str, RawTensor)> =
                    weights.iter().map(|entry| (entry.name.as_str(), raw(&entry.tensor))).collect();
                let dict = pt::state_dict(tensors.iter().map(|(name, tensor)| (*name, tensor)));
                pt::write(&dict, self.half).map_err(|error| failed(error.to_string()))
            }
            Format::Safetensors => self.safetensors(loaded, size[0].max(size[1])).map_err(failed),
        }
    }

    fn safetensors(&self, loaded: &LoadedModel, imgsz: usize) -> Result<Vec<u8>, String> {
        let kind = if self.half { Kind::Half } else { Kind::Float };
        let tensors: Vec<(&str, Tensor)> = loaded
            .model
            .weights()
            .iter()
            .map(|entry| {
                let kept = entry.role == Role::Counter;
                let tensor = entry.tensor.detach();
                (entry.name.as_str(), if kept { tensor } else { tensor.to_kind(kind) })
            })
            .collect();
        let names = serde_json::to_string(&loaded.names).map_err(|error| error.to_string())?;
        let metadata = [
            ("model", loaded.model.plan().scale.to_string()),
            ("names", names),
            ("nc", loaded.names.len().to_string()),
            ("imgsz", imgsz.to_string()),
            ("stride", "32".to_owned()),
            ("dtype", if self.half { "float16" } else { "float32" }.to_owned()),
            ("format", "pt".to_owned()),
        ];
        let metadata: Metadata = metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        weights::encode(tensors.iter().map(|(name, tensor)| (*name, tensor)), &metadata)
    }
}

fn tensors(weights: &Weights) -> RawTensors {
    weights.iter().map(|entry| (entry.name.clone(), raw(&entry.tensor))).collect()
}

/// A tensor's values on the host, row-major.
pub fn raw(tensor: &Tensor) -> RawTensor {
    let tensor = tensor.detach().to_device(Device::Cpu).contiguous();
    let shape = tensor.size().iter().map(|&side| usize::try_from(side).unwrap_or(0)).collect();
    let numel = tensor.numel();
    let values = if tensor.is_floating_point() {
        let mut values = vec![0.0; numel];
        tensor.to_kind(Kind::Float).copy_data(&mut values, numel);
        Values::Float(values)
    } else {
        let mut values = vec![0; numel];
        tensor.to_kind(Kind::Int64).copy_data(&mut values, numel);
        Values::Int(values)
    };
    RawTensor { shape, values }
}

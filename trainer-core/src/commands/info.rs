//! `info`: what a model is made of, by its name or by its weights.

use std::path::PathBuf;

use clap::Args;
use tch::Device;
use trainyard_types::ModelScale;
use trainyard_types::text::clean;

use super::{LoadedModel, load_model};
use crate::libtorch::build::build;
use crate::model::plan::{LayerKind, Plan};
use crate::train::error::TrainError;

/// Print a model's layers, parameters and cost.
#[derive(Debug, Args)]
pub struct Info {
    /// yolov8n, yolov8s, yolov8m, yolov8l or yolov8x.
    #[arg(long, required_unless_present_any = ["weights", "libtorch"])]
    model: Option<ModelScale>,
    /// Instead of a model's name: a weights file, safetensors or PyTorch's .pt.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["model", "nc"])]
    weights: Option<PathBuf>,
    /// Classes.
    #[arg(long, default_value_t = 80, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    nc: u32,
    /// Side of the image that the cost is given for.
    #[arg(long, default_value_t = 640, value_parser = clap::value_parser!(u32).range(32..=4096))]
    imgsz: u32,
    /// Instead of a model: what libtorch was built for, as JSON.
    #[arg(long, conflicts_with_all = ["model", "weights", "nc"])]
    libtorch: bool,
}

impl Info {
    /// Prints the table. `cuda` is what [`load_cuda`](crate::libtorch::load_cuda) returned.
    pub fn run(&self, cuda: &Result<(), String>) -> Result<(), TrainError> {
        let text = if self.libtorch {
            serde_json::to_string(&build(cuda)).expect("a struct of texts is JSON") + "\n"
        } else if let Some(weights) = &self.weights {
            let loaded = load_model(weights, Device::Cpu)?;
            let LoadedModel { model, names, imgsz } = loaded;
            let names = clean(&names.join(", "));
            self.text(model.plan()) + &format!("trained at {imgsz} pixels; classes: {names}\n")
        } else {
            self.text(&Plan::new(self.model.unwrap_or(ModelScale::N), self.nc.into()))
        };
        super::print(text)
    }

    fn text(&self, plan: &Plan) -> String {
        let counts = plan.parameters_by_layer();
        let mut text = format!("{:>3} {:>10}  {:<9} {:>10}  channels\n", "", "from", "layer", "parameters");
        for layer in &plan.layers {
            let from = if layer.from.is_empty() { "image".to_owned() } else { join(&layer.from) };
            let mut what = format!("{} -> {}", layer.input, layer.output);
            if let LayerKind::C2f { repeats, shortcut, .. } = layer.kind {
                let shortcut = if shortcut { ", shortcut" } else { "" };
                what.push_str(&format!(", {repeats} bottlenecks{shortcut}"));
            }
            let (index, count) = (layer.index, counts[layer.index]);
            text.push_str(&format!("{index:>3} {from:>10}  {:<9} {count:>10}  {what}\n", layer.kind.name()));
        }
        let head = plan.head;
        let (index, count) = (plan.layers.len(), counts[plan.layers.len()]);
        text.push_str(&format!(
            "{index:>3} {:>10}  {:<9} {count:>10}  {:?} -> {} classes\n",
            join(&head.from),
            "Detect",
            head.inputs,
            head.classes
        ));
        text.push_str(&format!(
            "{}: {} parameters, {:.3} GFLOPs at {} x {}\n",
            plan.scale,
            plan.parameters(),
            plan.gflops(self.imgsz.into()),
            self.imgsz,
            self.imgsz
        ));
        text
    }
}

fn join(from: &[usize]) -> String {
    from.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_has_the_published_parameters_and_cost_of_every_scale() {
        for (scale, expected) in [
            (ModelScale::N, "yolov8n: 3157200 parameters, 8.855 GFLOPs at 640 x 640\n"),
            (ModelScale::S, "yolov8s: 11166560 parameters, 28.812 GFLOPs at 640 x 640\n"),
            (ModelScale::M, "yolov8m: 25902640 parameters, 79.314 GFLOPs at 640 x 640\n"),
            (ModelScale::L, "yolov8l: 43691520 parameters, 165.735 GFLOPs at 640 x 640\n"),
            (ModelScale::X, "yolov8x: 68229648 parameters, 258.537 GFLOPs at 640 x 640\n"),
        ] {
            let info = Info { model: Some(scale), weights: None, nc: 80, imgsz: 640, libtorch: false };
            let text = info.text(&Plan::new(scale, 80));
            assert!(text.ends_with(expected), "{text}");
        }
    }
}

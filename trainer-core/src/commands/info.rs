//! `info`: what a model is made of. Needs no weights and no libtorch.

use clap::Args;
use trainyard_types::ModelScale;

use crate::model::scale::{Kind, Plan};

/// Print a model's layers, parameters and cost.
#[derive(Debug, Args)]
pub struct Info {
    /// yolov8n, yolov8s, yolov8m, yolov8l or yolov8x.
    #[arg(long)]
    model: ModelScale,
    /// Classes.
    #[arg(long, default_value_t = 80, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    nc: u32,
    /// Side of the image that the cost is given for.
    #[arg(long, default_value_t = 640, value_parser = clap::value_parser!(u32).range(32..=4096))]
    imgsz: u32,
}

impl Info {
    /// Prints the table.
    pub fn run(&self) {
        print!("{}", self.text());
    }

    fn text(&self) -> String {
        let plan = Plan::new(self.model, self.nc.into());
        let counts = plan.parameters_by_layer();
        let mut text = format!("{:>3} {:>10}  {:<9} {:>10}  channels\n", "", "from", "layer", "parameters");
        for layer in &plan.layers {
            let from = if layer.from.is_empty() { "image".to_owned() } else { join(&layer.from) };
            let mut what = format!("{} -> {}", layer.input, layer.output);
            if let Kind::C2f { repeats, shortcut, .. } = layer.kind {
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
            "15, 18, 21", "Detect", head.inputs, head.classes
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
    fn the_last_line_has_parameters_and_cost() {
        let info = Info { model: ModelScale::N, nc: 80, imgsz: 640 };
        assert!(info.text().ends_with("yolov8n: 3157200 parameters, 8.855 GFLOPs at 640 x 640\n"));
    }
}

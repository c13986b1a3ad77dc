//! How fast a GPU probably trains a model before anybody has seen it: data sheets, nothing else.
//!
//! It only has to be right enough for the first minutes; what agents measure replaces it
//! ([`crate::throughput::Rates`]).

use trainyard_types::{ModelScale, datasheet};

use crate::throughput::Workload;

/// Giga-operations of one 640 × 640 image, forward, from the YOLOv8 model card.
fn giga_operations(model: ModelScale) -> f64 {
    match model {
        ModelScale::N => 8.7,
        ModelScale::S => 28.6,
        ModelScale::M => 78.9,
        ModelScale::L => 165.2,
        ModelScale::X => 257.8,
    }
}

/// GPUs without tensor units, and a CPU: 10^12 operations and 10^9 bytes a second. They reach two to three times the
/// share of theirs, and stand here with as much more.
const WITHOUT_TENSOR_UNITS: [(&str, f64, f64); 4] =
    [("p100", 37.0, 732.0), ("k80", 10.0, 240.0), ("1080", 22.0, 320.0), ("cpu", 0.4, 40.0)];

/// A GPU that is on no list: a small one of these years.
const UNKNOWN: (f64, f64) = (30.0, 300.0);
/// The share of its tensor units that training keeps busy, and of its memory's bandwidth.
const UTILISATION: (f64, f64) = (0.28, 0.75);
/// Gigabytes moved for each giga-operation of the model at half precision.
const TRAFFIC: f64 = 0.09;
/// What an image costs beside that.
const FIXED_SECONDS: f64 = 0.6e-3;

/// 10^12 operations at half precision and 10^9 bytes a second of a device.
fn figures(device: &str) -> (f64, f64) {
    if let Some(sheet) = datasheet::nearest(device) {
        return (sheet.half_tflops, sheet.gigabytes_per_second);
    }
    let name = datasheet::plain(device);
    let known = WITHOUT_TENSOR_UNITS.iter().find(|(part, ..)| name.contains(part));
    known.map_or(UNKNOWN, |&(_, tera, bandwidth)| (tera, bandwidth))
}

/// Images a second over all of the workload's GPUs.
pub(crate) fn images_per_second(workload: &Workload, device: &str) -> f64 {
    let (tera, bandwidth) = figures(device);
    let side = f64::from(workload.imgsz) / 640.0;
    let work = giga_operations(workload.model) * side * side;
    // Backward costs twice the forward pass; full precision twice as much again, and twice the traffic.
    let precision = if workload.amp { 1.0 } else { 2.0 };
    let compute = 3.0 * work * precision / (tera * 1000.0 * UTILISATION.0);
    let memory = work * TRAFFIC * precision / (bandwidth * UTILISATION.1);
    f64::from(workload.gpus) / (compute + memory + FIXED_SECONDS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(model: ModelScale, device: &str) -> f64 {
        images_per_second(&Workload { model, imgsz: 640, amp: true, gpus: 1 }, device)
    }

    #[test]
    fn a_larger_gpu_is_faster_and_a_larger_model_slower() {
        let gpu = "NVIDIA GeForce RTX 4090";
        assert!(rate(ModelScale::N, gpu) > rate(ModelScale::N, "NVIDIA GeForce RTX 5070"));
        assert!(ModelScale::ALL.windows(2).all(|pair| rate(pair[0], gpu) > rate(pair[1], gpu)));
    }

    #[test]
    fn the_more_special_name_counts() {
        let special = rate(ModelScale::M, "NVIDIA GeForce RTX 5070 Ti");
        assert!(special > rate(ModelScale::M, "NVIDIA GeForce RTX 5070"));
        assert!(rate(ModelScale::M, "A GPU of tomorrow") > 0.0);
    }
}

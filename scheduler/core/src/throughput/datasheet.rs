//! How fast a GPU probably trains a model before anybody has seen it: data sheets, nothing else.
//!
//! It only has to be right enough for the first minutes; what agents measure replaces it
//! ([`crate::throughput::Rates`]).

use trainyard_types::ModelScale;

use crate::throughput::Workload;

/// Giga-operations of one 640 × 640 image, forward, from the YOLOv8 model GPU.
fn giga_operations(model: ModelScale) -> f64 {
    match model {
        ModelScale::N => 8.7,
        ModelScale::S => 28.6,
        ModelScale::M => 78.9,
        ModelScale::L => 165.2,
        ModelScale::X => 257.8,
    }
}

/// Dense half-precision tera-operations a second and gigabytes a second, from data sheets; GPUs without tensor
/// units reach two to three times the share of theirs and stand here with as much more. The first name that a
/// GPU's own contains counts, so that longer ones come first.
const CARDS: [(&str, f64, f64); 36] = [
    ("5090", 210.0, 1792.0),
    ("5080", 113.0, 960.0),
    ("5070ti", 88.0, 896.0),
    ("5070", 61.7, 672.0),
    ("5060", 47.0, 448.0),
    ("4090", 165.0, 1008.0),
    ("4080", 97.5, 717.0),
    ("4070ti", 80.0, 504.0),
    ("4070", 58.0, 504.0),
    ("4060ti", 44.0, 288.0),
    ("4060", 30.2, 272.0),
    ("3090", 71.0, 936.0),
    ("3080", 59.5, 760.0),
    ("3070", 40.6, 448.0),
    ("3060", 25.6, 360.0),
    ("2080", 44.8, 616.0),
    ("6000ada", 182.0, 960.0),
    ("a6000", 77.4, 768.0),
    ("a5000", 55.5, 768.0),
    ("a4000", 38.3, 448.0),
    ("a100", 312.0, 1555.0),
    ("a40", 75.0, 696.0),
    ("a30", 165.0, 933.0),
    ("a10", 62.5, 600.0),
    ("a2", 18.0, 200.0),
    ("h200", 989.0, 4800.0),
    ("h100", 989.0, 3350.0),
    ("b200", 2250.0, 8000.0),
    ("l40", 181.0, 864.0),
    ("l4", 60.0, 300.0),
    ("v100", 112.0, 900.0),
    ("p100", 37.0, 732.0),
    ("k80", 10.0, 240.0),
    ("t4", 65.0, 320.0),
    ("1080", 22.0, 320.0),
    ("cpu", 0.4, 40.0),
];

/// A GPU that is on no list: a small one of these years.
const UNKNOWN: (f64, f64) = (30.0, 300.0);
/// The share of its tensor units that training keeps busy, and of its memory's bandwidth.
const UTILISATION: (f64, f64) = (0.28, 0.75);
/// Gigabytes moved for each giga-operation of the model at half precision.
const TRAFFIC: f64 = 0.09;
/// What an image costs beside that.
const FIXED_SECONDS: f64 = 0.6e-3;

/// Images a second over all of the workload's GPUs.
pub(crate) fn images_per_second(workload: &Workload, device: &str) -> f64 {
    let name: String = device.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase();
    let known = CARDS.iter().find(|(part, ..)| name.contains(part));
    let (tera, bandwidth) = known.map_or(UNKNOWN, |&(_, tera, bandwidth)| (tera, bandwidth));
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
    fn a_larger_card_is_faster_and_a_larger_model_slower() {
        let card = "NVIDIA GeForce RTX 4090";
        assert!(rate(ModelScale::N, card) > rate(ModelScale::N, "NVIDIA GeForce RTX 5070"));
        assert!(ModelScale::ALL.windows(2).all(|pair| rate(pair[0], card) > rate(pair[1], card)));
    }

    #[test]
    fn the_more_special_name_counts() {
        let special = rate(ModelScale::M, "NVIDIA GeForce RTX 5070 Ti");
        assert!(special > rate(ModelScale::M, "NVIDIA GeForce RTX 5070"));
        assert!(rate(ModelScale::M, "A card of tomorrow") > 0.0);
    }
}

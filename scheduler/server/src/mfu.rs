//! Model FLOPs utilisation (MFU): how much of what a GPU can multiply at best training uses. In `fp32` convolutions run as TF32.

use trainyard_types::datasheet;

/// A training step takes about three times a forward pass: backward, each layer has two products.
const STEP_PER_FORWARD: f64 = 3.0;

/// 10^12 operations a second of a GPU at its best; `None` when that is not known.
fn peak_flops(model: &str, precision: &str) -> Option<f64> {
    let sheet = datasheet::exact(model)?;
    let peak = match precision {
        "fp16" | "bf16" => sheet.half_tflops,
        "fp32" => sheet.tf32_tflops,
        _ => return None,
    };
    (peak > 0.0).then_some(peak)
}

/// Share of a GPU's peak that training uses, 0 to 1; `None` when one of the figures is not known.
/// `gflops` are 10^9 operations of one image's forward pass.
pub fn mfu_of(model: &str, precision: &str, gflops: f64, images_per_second: f64) -> Option<f64> {
    let used = gflops * 1e9 * STEP_PER_FORWARD * images_per_second;
    let share = used / (peak_flops(model, precision)? * 1e12);
    (share.is_finite() && share > 0.0).then_some(share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_of_the_gpus_own_peak_in_that_precision() {
        // 8.7 GFLOP an image, three times, 1000 images a second: 26.1 TFLOP a second.
        let share =
            |model, precision| mfu_of(model, precision, 8.7, 1000.0).map(|share| (share * 1000.0).round());
        assert_eq!(share("NVIDIA GeForce RTX 4090", "bf16"), Some(158.0));
        assert_eq!(share("NVIDIA GeForce RTX 4090", "fp32"), Some(316.0));
        assert_eq!(share("NVIDIA H100 80GB HBM3", "fp16"), Some(26.0));
        assert_eq!(share("Tesla V100-SXM2-16GB", "fp16"), Some(209.0));
    }

    #[test]
    fn what_is_not_known_is_not_guessed() {
        for (model, precision) in [
            ("NVIDIA GeForce RTX 4090 Laptop GPU", "bf16"),
            ("NVIDIA GeForce RTX 4080 SUPER", "bf16"),
            ("CPU", "fp32"),
            ("Tesla T4", "fp32"),
            ("NVIDIA GeForce RTX 4090", ""),
        ] {
            assert_eq!(mfu_of(model, precision, 8.7, 1000.0), None, "{model} {precision}");
        }
        assert_eq!(mfu_of("NVIDIA GeForce RTX 4090", "bf16", 0.0, 1000.0), None);
    }
}

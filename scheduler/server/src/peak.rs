//! How fast cards can multiply at best, to say how much of that training uses.
//!
//! Dense tensor throughput from NVIDIA's own figures: the Turing, Ampere GA102, Ada and Blackwell RTX
//! architecture papers, and the data sheets of V100, T4, A100, L4, L40S and H100. GeForce cards accumulate in
//! 32 bits at half the advertised rate, which is what counts here. In `fp32` convolutions run as TF32.

/// A training step takes about three times a forward pass: backward, each layer has two products.
const STEP_PER_FORWARD: f64 = 3.0;

/// Model as it begins without `NVIDIA` and `GeForce`, whether that is all of it, and 10^12 operations a second
/// in fp16 or bf16, and in TF32 (0 where there is none).
const CARDS: [(&str, bool, f64, f64); 27] = [
    ("RTX 5090", true, 209.5, 104.8),
    ("RTX 5080", true, 112.6, 56.3),
    ("RTX 5070 Ti", true, 87.9, 43.9),
    ("RTX 5070", true, 61.7, 30.9),
    ("RTX 4090", true, 165.2, 82.6),
    ("RTX 4080", true, 97.5, 48.7),
    ("RTX 4070 Ti", true, 80.2, 40.1),
    ("RTX 4070", true, 58.3, 29.1),
    ("RTX 4060 Ti", true, 44.1, 22.1),
    ("RTX 3090", true, 71.0, 35.6),
    ("RTX 3080", true, 59.5, 29.8),
    ("RTX 3070", true, 40.6, 20.3),
    ("RTX A6000", true, 154.8, 77.4),
    ("RTX 2080 Ti", true, 53.8, 0.0),
    ("H100 PCIe", true, 756.0, 378.0),
    ("H100 80GB HBM3", true, 989.4, 494.7),
    ("H200", true, 989.4, 494.7),
    ("A100-SXM4-40GB", true, 312.0, 156.0),
    ("A100-SXM4-80GB", true, 312.0, 156.0),
    ("A100-PCIE-40GB", true, 312.0, 156.0),
    ("A100 80GB PCIe", true, 312.0, 156.0),
    ("L40S", true, 362.0, 183.0),
    ("L4", true, 121.0, 60.0),
    ("Tesla T4", true, 65.0, 0.0),
    ("T4", true, 65.0, 0.0),
    ("Tesla V100-SXM2", false, 125.0, 0.0),
    ("Tesla V100-PCIE", false, 112.0, 0.0),
];

/// 10^12 operations a second of a card at its best; `None` when that is not known.
fn peak(model: &str, precision: &str) -> Option<f64> {
    let short = model.trim_start_matches("NVIDIA ").trim_start_matches("GeForce ");
    let is_it = |name: &str, is_all: bool| if is_all { short == name } else { short.starts_with(name) };
    let (_, _, half, tf32) = CARDS.iter().find(|(name, is_all, ..)| is_it(name, *is_all))?;
    let peak = match precision {
        "fp16" | "bf16" => *half,
        "fp32" => *tf32,
        _ => return None,
    };
    (peak > 0.0).then_some(peak)
}

/// Share of a card's peak that training uses, 0 to 1; `None` when one of the figures is not known.
/// `gflops` are 10^9 operations of one image's forward pass.
pub fn mfu(model: &str, precision: &str, gflops: f64, images_per_second: f64) -> Option<f64> {
    let used = gflops * 1e9 * STEP_PER_FORWARD * images_per_second;
    let share = used / (peak(model, precision)? * 1e12);
    (share.is_finite() && share > 0.0).then_some(share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_of_the_cards_own_peak_in_that_precision() {
        // 8.7 GFLOP an image, three times, 1000 images a second: 26.1 TFLOP a second.
        let share =
            |model, precision| mfu(model, precision, 8.7, 1000.0).map(|share| (share * 1000.0).round());
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
            assert_eq!(mfu(model, precision, 8.7, 1000.0), None, "{model} {precision}");
        }
        assert_eq!(mfu("NVIDIA GeForce RTX 4090", "bf16", 0.0, 1000.0), None);
    }
}

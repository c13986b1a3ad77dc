//! Which precision layers learn in: the fastest one that this machine gains from and that is fit for the
//! model, as a forward pass shows before anything is trained.

use tch::{Device, Kind, Tensor};

use crate::libtorch::{Precision, catch_on, rethrow};
use crate::model::Model;
use crate::model::head::Prediction;

/// How far outputs may be from those in 32 bits, as a share of their length. Healthy models are within a
/// fifth of it; one that overflows is nowhere near.
const TOLERANCE: f64 = 0.1;
/// Images of the check, and their side in pixels at most.
const IMAGES: i64 = 2;
const SIDE: i64 = 160;

/// The precision that was chosen, and why not a faster one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrecisionChoice {
    /// The precision of the layers.
    pub precision: Precision,
    /// A sentence for each faster precision that is not fit.
    pub warnings: Vec<String>,
}

impl PrecisionChoice {
    /// Whether there was something faster, and none of it is fit.
    pub fn is_given_up(&self) -> bool {
        self.precision == Precision::Fp32 && !self.warnings.is_empty()
    }
}

/// Precisions that a run has given up, since values did not fit in them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GivenUp {
    /// 16-bit floats of little range.
    pub fp16: bool,
    /// All that are faster than 32 bits.
    pub all: bool,
}

impl GivenUp {
    /// Gives up `precision`, too.
    pub fn give_up(&mut self, precision: Precision) {
        match precision {
            Precision::Fp16 => self.fp16 = true,
            Precision::Bf16 | Precision::Fp32 => self.all = true,
        }
    }

    /// Those of `candidates` that are left.
    pub fn left(self, candidates: &[Precision]) -> Vec<Precision> {
        let given_up = |precision| self.all || (self.fp16 && precision == Precision::Fp16);
        candidates.iter().copied().filter(|&precision| !given_up(precision)).collect()
    }
}

/// Precisions that are faster than 32 bits on `device`, the one to prefer first.
///
/// A GPU takes 16-bit floats as the reference does, and those of larger range if a model overflows them. A
/// CPU takes the latter if it multiplies them itself.
pub fn candidates(device: Device) -> &'static [Precision] {
    match device {
        Device::Cuda(_) => &[Precision::Fp16, Precision::Bf16],
        Device::Cpu if has_bf16_instructions() => &[Precision::Bf16],
        Device::Cpu | Device::Mps | Device::Vulkan => &[],
    }
}

#[cfg(target_arch = "x86_64")]
fn has_bf16_instructions() -> bool {
    std::arch::is_x86_feature_detected!("avx512bf16")
}

#[cfg(not(target_arch = "x86_64"))]
const fn has_bf16_instructions() -> bool {
    false
}

/// The first of `candidates` in which `model` sees the same on images of side `imgsz` as in 32 bits.
///
/// Memory that runs out meanwhile says nothing of a precision: libtorch's exception comes as a panic, as in any step.
pub fn choose(model: &Model, imgsz: u32, candidates: &[Precision]) -> PrecisionChoice {
    let mut warnings = Vec::new();
    if candidates.is_empty() {
        return PrecisionChoice { precision: Precision::Fp32, warnings };
    }
    let images = test_images(i64::from(imgsz).min(SIDE), model.device());
    let single = predict(model, &images, Precision::Fp32);
    for &precision in candidates {
        let reason = match catch_on(model.device(), || distance(&predict(model, &images, precision), &single))
        {
            Ok(distance) if distance <= TOLERANCE => return PrecisionChoice { precision, warnings },
            Ok(distance) if distance.is_finite() => {
                format!("outputs differ by {:.0} % from those in fp32", 100.0 * distance)
            }
            Ok(_) => "outputs are not finite".to_owned(),
            Err(error) if error.is_out_of_memory() => rethrow(&error),
            Err(error) => error.to_string(),
        };
        warnings.push(format!("AMP: {} is not fit for this model here: {reason}", precision.name()));
    }
    warnings.push("AMP: training in fp32".to_owned());
    PrecisionChoice { precision: Precision::Fp32, warnings }
}

/// What the model says, without a trace in its statistics.
fn predict(model: &Model, images: &Tensor, precision: Precision) -> Prediction {
    let _no_grad = tch::no_grad_guard();
    forward(model, images, false, precision)
}

/// [`Model::forward`], its layers in `precision`.
pub fn forward(model: &Model, images: &Tensor, train: bool, precision: Precision) -> Prediction {
    precision.run(model.device(), || model.forward(images, train))
}

/// The larger of the two outputs' distances from what they should be, as a share of its length.
fn distance(found: &Prediction, expected: &Prediction) -> f64 {
    let share = |found: &Tensor, expected: &Tensor| {
        let expected = expected.to_kind(Kind::Float);
        let difference = (found.to_kind(Kind::Float) - &expected).norm();
        (difference / expected.norm().clamp_min(1e-12)).double_value(&[])
    };
    let (boxes, scores) = (share(&found.boxes, &expected.boxes), share(&found.scores, &expected.scores));
    // Not-a-number must win, whichever it is.
    if boxes > scores || boxes.is_nan() { boxes } else { scores }
}

/// Images with coarse and fine structure. No random numbers: those of a training stay what they are.
fn test_images(side: i64, device: Device) -> Tensor {
    let numbers = Tensor::arange(IMAGES * 3 * side * side, (Kind::Float, device));
    let (fine, coarse) = ((&numbers * 0.7).sin(), (numbers * 0.003).cos());
    ((fine + coarse) / 4.0 + 0.5).view([IMAGES, 3, side, side])
}

#[cfg(test)]
mod tests {
    use trainyard_types::ModelScale;

    use super::*;

    fn model() -> Model {
        tch::manual_seed(0);
        Model::new(ModelScale::N, 3, 0, Device::Cpu)
    }

    #[test]
    fn a_fresh_model_is_fit_for_16_bits_and_the_check_leaves_it_as_it_was() {
        let (model, untouched) = (model(), model());
        let choice = choose(&model, 64, &[Precision::Bf16]);
        assert_eq!(choice, PrecisionChoice { precision: Precision::Bf16, warnings: Vec::new() });
        for (after, before) in model.weights().iter().zip(untouched.weights().iter()) {
            assert!(after.tensor.equal(&before.tensor), "{}", after.name);
        }
    }

    #[test]
    fn what_overflows_fp16_goes_on_in_bf16_and_then_in_32_bits() {
        let mut given_up = GivenUp::default();
        let candidates = [Precision::Fp16, Precision::Bf16];
        assert_eq!(given_up.left(&candidates), candidates);
        given_up.give_up(Precision::Fp16);
        assert_eq!(given_up.left(&candidates), [Precision::Bf16]);
        given_up.give_up(Precision::Bf16);
        assert_eq!(given_up.left(&candidates), []);
    }

    #[test]
    fn a_model_that_overflows_one_type_takes_the_next() {
        let model = model();
        let weight = model.weights().get("model.0.conv.weight").unwrap();
        let norm = model.weights().get("model.0.bn.running_var").unwrap();
        tch::no_grad(|| {
            // A convolution's outputs above the largest 16-bit float, which the normalisation divides away.
            let _ = weight.shallow_clone().g_mul_scalar_(1e6);
            let _ = norm.shallow_clone().fill_(1e12);
        });
        let choice = choose(&model, 64, &[Precision::Fp16, Precision::Bf16]);
        assert_eq!(choice.precision, Precision::Bf16);
        assert!(choice.warnings.len() == 1 && choice.warnings[0].contains("fp16"), "{:?}", choice.warnings);
        let choice = choose(&model, 64, &[Precision::Fp16]);
        assert_eq!(choice.precision, Precision::Fp32);
        assert!(choice.warnings[1].contains("fp32"), "{:?}", choice.warnings);
    }
}

//! Dynamic loss scaling for training in 16 bits: small gradients survive, infinite ones skip a step.
//!
//! Written for CUDA; it has run on the CPU in its tests, and not on a card.

use tch::{Device, Kind, Tensor};

use super::sgd::Sgd;

/// Steps without an infinity after which the scale doubles.
const GROWTH_INTERVAL: i64 = 2000;

/// The scale, and how long it has held.
#[derive(Debug)]
pub struct Scaler {
    scale: Tensor,
    growth: Tensor,
}

impl Scaler {
    /// Starts at 65536, as PyTorch does.
    pub fn new(device: Device) -> Self {
        Self::restore(65_536.0, 0, device)
    }

    /// Goes on where [`Scaler::state`] left off.
    pub fn restore(scale: f64, growth: i64, device: Device) -> Self {
        Self {
            scale: Tensor::full([1], scale, (Kind::Float, device)),
            growth: Tensor::full([1], growth, (Kind::Int, device)),
        }
    }

    /// The scale, and the steps since it last changed. Waits for the device.
    pub fn state(&self) -> (f64, i64) {
        (self.scale.double_value(&[0]), self.growth.int64_value(&[0]))
    }

    /// A loss, ready for its backward pass.
    pub fn scale(&self, loss: &Tensor) -> Tensor {
        (loss * &self.scale).sum(Kind::Float)
    }

    /// Brings the optimiser's gradients back to their true size, and adapts the scale.
    ///
    /// Returns whether they are all finite; if not, the step must be skipped. Waits for the device.
    pub fn unscale(&mut self, sgd: &Sgd) -> bool {
        let _no_grad = tch::no_grad_guard();
        let mut found = self.scale.zeros_like();
        let inverse = self.scale.reciprocal();
        for mut gradient in sgd.raw_gradients() {
            gradient.internal_amp_non_finite_check_and_unscale(&mut found, &inverse);
        }
        let _ = self.scale.internal_amp_update_scale_(&self.growth, &found, 2.0, 0.5, GROWTH_INTERVAL);
        found.double_value(&[0]) == 0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::{Entry, Role, Weights};

    fn scaled_gradient(scaler: &mut Scaler, factor: f64) -> (bool, f64) {
        let tensor = Tensor::from_slice(&[1.0_f32]).set_requires_grad(true);
        let mut weights = Weights::default();
        let entry =
            Entry { name: "w".into(), role: Role::Weight, frozen: false, tensor: tensor.shallow_clone() };
        weights.push(entry);
        let sgd = Sgd::new(&weights);
        scaler.scale(&(&tensor * factor)).backward();
        (scaler.unscale(&sgd), tensor.grad().double_value(&[0]))
    }

    #[test]
    fn gradients_come_back_at_their_true_size() {
        let mut scaler = Scaler::new(Device::Cpu);
        assert_eq!(scaled_gradient(&mut scaler, 0.5), (true, 0.5));
        assert_eq!(scaler.state(), (65_536.0, 1));
    }

    #[test]
    fn an_infinite_gradient_halves_the_scale_and_skips_the_step() {
        let mut scaler = Scaler::new(Device::Cpu);
        let (finite, _) = scaled_gradient(&mut scaler, 3e38);
        assert!(!finite);
        assert_eq!(scaler.state(), (32_768.0, 0));
    }
}

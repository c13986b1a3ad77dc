//! Dynamic loss scaling for training in 16-bit floats of little range: small gradients survive, and a scale
//! that makes some infinite is halved.
//!
//! Knows nothing of gradients: who steps says whether they were finite.

use tch::{Device, Kind, Tensor};

/// Steps without an infinity after which the scale doubles.
const GROWTH_INTERVAL: i64 = 2000;
/// The scale at the start. PyTorch's is 65536, for the mean of a batch; here it is a sum that is scaled, of
/// some ten times that size.
const START: f64 = 4096.0;

/// The loss scale, and how long it has held.
#[derive(Debug)]
pub struct Scaler {
    scale: Tensor,
    growth: Tensor,
}

impl Scaler {
    /// The scale at the start of a training.
    pub fn new(device: Device) -> Self {
        Self::restore(START, 0, device)
    }

    /// A scale that goes on where [`Scaler::state`] left off.
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

    /// `[1]` on the device: what losses are multiplied by.
    pub const fn scale(&self) -> &Tensor {
        &self.scale
    }

    /// A loss, ready for its backward pass.
    pub fn scaled(&self, loss: &Tensor) -> Tensor {
        (loss * &self.scale).sum(Kind::Float)
    }

    /// What brings gradients back to their true size: a scalar on the device.
    pub fn inverse(&self) -> Tensor {
        self.scale.reciprocal().sum(Kind::Float)
    }

    /// Adapts the scale after a step; `skipped` is 1 on the device if gradients were not finite, else 0.
    pub fn update(&mut self, skipped: &Tensor) {
        let _no_grad = tch::no_grad_guard();
        let _ = self.scale.internal_amp_update_scale_(&self.growth, skipped, 2.0, 0.5, GROWTH_INTERVAL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(number: f32) -> Tensor {
        Tensor::from(number)
    }

    #[test]
    fn a_scaled_loss_and_the_inverse_make_the_loss_again() {
        let scaler = Scaler::new(Device::Cpu);
        let loss = scaler.scaled(&Tensor::from(0.3_f32)) * scaler.inverse();
        assert!((loss.double_value(&[]) - 0.3).abs() < 1e-7);
    }

    #[test]
    fn a_skipped_step_halves_the_scale() {
        let mut scaler = Scaler::restore(1024.0, 7, Device::Cpu);
        scaler.update(&found(0.0));
        assert_eq!(scaler.state(), (1024.0, 8));
        scaler.update(&found(1.0));
        assert_eq!(scaler.state(), (512.0, 0));
    }

    #[test]
    fn a_scale_that_has_held_for_long_doubles() {
        let mut scaler = Scaler::restore(1024.0, GROWTH_INTERVAL - 1, Device::Cpu);
        scaler.update(&found(0.0));
        assert_eq!(scaler.state(), (2048.0, 0));
    }
}

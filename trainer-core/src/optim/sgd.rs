//! Stochastic gradient descent with Nesterov momentum, and the norm that gradients are clipped to.

use tch::{Kind, Tensor};

use super::groups::{Group, trained};
use super::schedule::Rates;
use crate::weights::Weights;

/// Gradients of one step together are at most so long.
pub const MAX_NORM: f64 = 10.0;

/// A parameter and what the optimiser remembers of it.
#[derive(Debug)]
struct Slot {
    name: String,
    parameter: Tensor,
    momentum: Tensor,
    group: Group,
}

/// The optimiser of a model.
#[derive(Debug)]
pub struct Sgd {
    slots: Vec<Slot>,
}

impl Sgd {
    /// For the trained tensors of `weights`, with nothing remembered yet.
    pub fn new(weights: &Weights) -> Self {
        let slots = trained(weights).map(|(entry, group)| Slot {
            name: entry.name.clone(),
            parameter: entry.tensor.shallow_clone(),
            momentum: entry.tensor.detach().zeros_like(),
            group,
        });
        Self { slots: slots.collect() }
    }

    /// Momentum buffers under their parameters' names.
    pub fn momenta(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.slots.iter().map(|slot| (slot.name.as_str(), &slot.momentum))
    }

    /// The gradients that have been accumulated, under their parameters' names. Empty after a step.
    pub fn gradients(&self) -> impl Iterator<Item = (&str, Tensor)> {
        self.slots
            .iter()
            .map(|slot| (slot.name.as_str(), slot.parameter.grad()))
            .filter(|(_, gradient)| gradient.defined())
    }

    /// Takes the momentum of every parameter from `source`; a parameter that it does not know keeps its own.
    pub fn set_momenta(&mut self, source: impl Fn(&str) -> Option<Tensor>) {
        let _no_grad = tch::no_grad_guard();
        for slot in &mut self.slots {
            if let Some(momentum) = source(&slot.name) {
                slot.momentum.copy_(&momentum);
            }
        }
    }

    /// Makes the gradients of `source` the accumulated ones, bit by bit. There must be none yet.
    pub fn set_gradients(&self, source: impl Fn(&str) -> Option<Tensor>) {
        // tch cannot set a gradient; the derivative of `p * g` with respect to `p` is `g`.
        for slot in &self.slots {
            if let Some(gradient) = source(&slot.name) {
                let gradient = gradient.to_device(slot.parameter.device());
                (&slot.parameter * gradient).sum(Kind::Float).backward();
            }
        }
    }

    /// Length of all gradients together: a scalar on the device.
    pub fn gradient_norm(&self) -> Tensor {
        let _no_grad = tch::no_grad_guard();
        let norms: Vec<Tensor> = self.gradients().map(|(_, gradient)| gradient.norm()).collect();
        if norms.is_empty() {
            return Tensor::from(0.0_f32);
        }
        Tensor::stack(&norms, 0).norm()
    }

    /// One step along the gradients, clipped to [`MAX_NORM`]; then forgets them.
    ///
    /// `decay` is the L2 penalty on convolution weights.
    pub fn step(&mut self, rates: &Rates, decay: f64) {
        self.step_scaled(&Tensor::from(1.0_f32), rates, decay);
    }

    /// [`Sgd::step`] with gradients that are taken times `factor`, a scalar; they are clipped after that.
    pub fn step_scaled(&mut self, factor: &Tensor, rates: &Rates, decay: f64) {
        let _no_grad = tch::no_grad_guard();
        let norm = self.gradient_norm();
        let factor = factor.to_device(norm.device());
        let clip = (MAX_NORM / (norm * &factor + 1e-6)).clamp_max(1.0) * factor;
        for slot in &mut self.slots {
            let gradient = slot.parameter.grad();
            if !gradient.defined() {
                continue;
            }
            let mut slope = gradient * &clip;
            if slot.group == Group::Weight && decay > 0.0 {
                slope += &slot.parameter * decay;
            }
            slot.momentum *= rates.momentum;
            slot.momentum += &slope;
            slope += &slot.momentum * rates.momentum;
            let lr = rates.lr[slot.group as usize];
            slot.parameter -= slope * lr;
        }
        self.forget_gradients();
    }

    /// Drops what has been accumulated.
    pub fn forget_gradients(&mut self) {
        for slot in &mut self.slots {
            slot.parameter.zero_grad();
        }
    }

    /// Every gradient, for the loss scaler, which changes them in place.
    pub(super) fn raw_gradients(&self) -> Vec<Tensor> {
        self.gradients().map(|(_, gradient)| gradient).collect()
    }
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;
    use crate::weights::{Entry, Role};

    fn weights(value: f32) -> Weights {
        let mut weights = Weights::default();
        for (name, role) in [("w", Role::Weight), ("b", Role::Bias)] {
            let tensor = Tensor::from_slice(&[value]).set_requires_grad(true);
            weights.push(Entry { name: name.to_owned(), role, frozen: false, tensor });
        }
        weights
    }

    const RATES: Rates = Rates { lr: [0.1, 0.1, 0.2], momentum: 0.5, accumulate: 1 };

    fn value(weights: &Weights, name: &str) -> f64 {
        weights.get(name).expect("made above").double_value(&[0])
    }

    #[test]
    fn only_convolution_weights_decay_and_biases_have_their_own_rate() {
        let weights = weights(2.0);
        let mut sgd = Sgd::new(&weights);
        (weights.get("w").unwrap() + weights.get("b").unwrap()).sum(Kind::Float).backward();
        sgd.step(&RATES, 0.25);
        // Slope 1 and 1.5; Nesterov adds half of it again.
        assert!((value(&weights, "w") - (2.0 - 0.1 * 1.5 * 1.5)).abs() < 1e-6);
        assert!((value(&weights, "b") - (2.0 - 0.2 * 1.5)).abs() < 1e-6);
    }

    #[test]
    fn long_gradients_are_clipped() {
        let weights = weights(0.0);
        let mut sgd = Sgd::new(&weights);
        (weights.get("w").unwrap() * 1e6).sum(Kind::Float).backward();
        sgd.step(&Rates { momentum: 0.0, ..RATES }, 0.0);
        assert!((value(&weights, "w") + 1.0).abs() < 1e-5);
    }

    #[test]
    fn accumulated_gradients_can_be_put_back() {
        let weights = weights(3.0);
        let sgd = Sgd::new(&weights);
        let gradient = Tensor::from_slice(&[0.123_456_79_f32]).to_device(Device::Cpu);
        sgd.set_gradients(|_| Some(gradient.shallow_clone()));
        assert!(sgd.gradients().all(|(_, restored)| restored.equal(&gradient)));
        assert_eq!(sgd.gradients().count(), 2);
    }
}

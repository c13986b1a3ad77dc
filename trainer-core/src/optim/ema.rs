//! The exponential moving average of a model, which is what is validated and saved.

use tch::{Kind, Tensor};

use crate::libtorch::{foreach, rethrow};
use crate::model::Model;
use crate::weights::Weights;

/// Weight of the average against the newest model at the n-th update, from 1: starts low, so that the
/// average follows a model that still changes fast.
pub fn decay(updates: u64) -> f64 {
    0.9999 * (1.0 - (-(updates as f64) / 2000.0).exp())
}

/// A model that follows another one.
#[derive(Debug)]
pub struct Ema {
    model: Model,
    /// Updates of the average so far.
    pub updates: u64,
}

impl Ema {
    /// An average that starts as `model` is.
    pub fn new(model: &Model) -> Self {
        let plan = model.plan();
        // Frozen throughout: gradients never flow to an average.
        let layers = plan.layers.len() + 1;
        let copy = Model::new(plan.scale, plan.head.classes, layers, model.device());
        copy.weights().copy_from(model.weights());
        Self { model: copy, updates: 0 }
    }

    /// The averaged model.
    pub const fn model(&self) -> &Model {
        &self.model
    }

    /// Moves the average towards `model`, after an optimiser step.
    pub fn update(&mut self, model: &Model) {
        self.updates += 1;
        mix(self.model.weights(), model.weights(), decay(self.updates));
    }
}

/// `average = decay * average + (1 - decay) * newest`, for every float tensor, statistics included.
pub fn mix(average: &Weights, newest: &Weights, decay: f64) {
    let _no_grad = tch::no_grad_guard();
    let pairs = average.iter().zip(newest.iter());
    let (average, newest): (Vec<&Tensor>, Vec<&Tensor>) = pairs
        .map(|(average, newest)| (&average.tensor, &newest.tensor))
        .filter(|(average, _)| average.kind() == Kind::Float)
        .unzip();
    foreach::lerp(&average, &newest, 1.0 - decay).unwrap_or_else(|error| rethrow(&error));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_float_moves_by_the_formula_and_counters_stay() {
        let model = |seed| {
            tch::manual_seed(seed);
            Model::new(trainyard_types::ModelScale::N, 2, 0, tch::Device::Cpu)
        };
        let (average, newest, before) = (model(1), model(2), model(1));
        mix(average.weights(), newest.weights(), 0.75);
        for ((found, newest), before) in
            average.weights().iter().zip(newest.weights().iter()).zip(before.weights().iter())
        {
            let expected = if before.tensor.kind() == Kind::Float {
                before.tensor.detach() * 0.75 + newest.tensor.detach() * 0.25
            } else {
                before.tensor.shallow_clone()
            };
            assert!(found.tensor.allclose(&expected, 1e-6, 1e-7, false), "{}", found.name);
        }
    }

    #[test]
    fn the_average_follows_fast_at_first_and_slowly_later() {
        assert!(decay(1) < 0.001 && (decay(100) - 0.049).abs() < 0.001 && decay(1_000_000) > 0.9998);
    }
}

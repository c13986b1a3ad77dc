//! Moves a model's parameters along their gradients: SGD with Nesterov momentum, or AdamW.
//!
//! A step asks for no value on the host: whether gradients are finite, and how much they are clipped, is
//! known to the device only.

use tch::{Device, Kind, Tensor};

use super::groups::{Group, trained};
use super::schedule::Rates;
use crate::libtorch::foreach::{self, AdamRates, GradScaling, SgdRates};
use crate::libtorch::{TorchError, rethrow};
use crate::weights::{Weights, WeightsError};

/// The length that the gradients of a step are clipped to, all together.
pub const MAX_NORM: f64 = 10.0;
/// AdamW's second beta and epsilon, as PyTorch has them.
const BETA2: f64 = 0.999;
const EPS: f64 = 1e-8;
/// The name of the count of steps among the state.
const STEP: &str = "step";

/// The rule by which parameters move.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rule {
    /// Stochastic gradient descent with Nesterov momentum; decay is added to the gradients.
    Sgd,
    /// Adam with decoupled decay (Loshchilov and Hutter 2019). Its first beta does not change in warm-up.
    AdamW {
        /// The decay of the average of gradients.
        beta1: f64,
    },
}

impl Rule {
    /// The state that is kept of each parameter, under PyTorch's names.
    const fn state_names(self) -> &'static [&'static str] {
        match self {
            Self::Sgd => &["momentum_buffer"],
            Self::AdamW { .. } => &["exp_avg", "exp_avg_sq"],
        }
    }
}

/// A parameter and the optimiser's state of it.
#[derive(Debug)]
struct ParameterState {
    name: String,
    parameter: Tensor,
    group: Group,
    /// The state's tensors in the order of [`Rule::state_names`], shaped and laid out as the parameter.
    state: Vec<Tensor>,
}

/// The optimiser of a model.
#[derive(Debug)]
pub struct Optimizer {
    rule: Rule,
    parameters: Vec<ParameterState>,
    /// Float on the device: steps that moved something. Only AdamW needs it.
    step: Option<Tensor>,
}

impl Optimizer {
    /// An optimiser of the trained tensors of `weights`, with a state of zeros.
    pub fn new(weights: &Weights, rule: Rule) -> Self {
        let blank =
            |tensor: &Tensor| rule.state_names().iter().map(|_| tensor.detach().zeros_like()).collect();
        let parameters: Vec<ParameterState> = trained(weights)
            .map(|(entry, group)| ParameterState {
                name: entry.name.clone(),
                parameter: entry.tensor.shallow_clone(),
                group,
                state: blank(&entry.tensor),
            })
            .collect();
        let device = parameters.first().map_or(Device::Cpu, |one| one.parameter.device());
        let counts = matches!(rule, Rule::AdamW { .. });
        let step = counts.then(|| Tensor::zeros([0; 0], (Kind::Float, device)));
        Self { rule, parameters, step }
    }

    /// How many parameters are in each group, in [`Group::ALL`]'s order.
    pub fn counts(&self) -> [usize; 3] {
        Group::ALL.map(|group| self.parameters.iter().filter(|one| one.group == group).count())
    }

    /// The state, as a checkpoint names it: `exp_avg.model.0.conv.weight`.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        let named = |one: &ParameterState| {
            let name =
                |(kind, tensor): (&&str, &Tensor)| (format!("{kind}.{}", one.name), tensor.shallow_clone());
            self.rule.state_names().iter().zip(&one.state).map(name).collect::<Vec<_>>()
        };
        let step = self.step.iter().map(|step| (STEP.to_owned(), step.shallow_clone()));
        self.parameters.iter().flat_map(named).chain(step).collect()
    }

    /// Takes the whole state from `source`, bit by bit.
    ///
    /// # Errors
    /// When something is missing, as in the state of another rule, or has another shape.
    pub fn set_state(&mut self, source: impl Fn(&str) -> Option<Tensor>) -> Result<(), WeightsError> {
        let _no_grad = tch::no_grad_guard();
        for (name, mut tensor) in self.state() {
            let found = source(&name).ok_or_else(|| WeightsError::Missing(name.clone()))?;
            if found.size() != tensor.size() {
                return Err(WeightsError::Shape { name, found: found.size(), expected: tensor.size() });
            }
            tensor.copy_(&found);
        }
        Ok(())
    }

    /// The gradients that have been accumulated, under their parameters' names. None after a step.
    pub fn gradients(&self) -> impl Iterator<Item = (&str, Tensor)> {
        self.parameters
            .iter()
            .map(|one| (one.name.as_str(), one.parameter.grad()))
            .filter(|(_, gradient)| gradient.defined())
    }

    /// Makes the gradients of `source` the accumulated ones, bit by bit. There must be none yet.
    pub fn set_gradients(&self, source: impl Fn(&str) -> Option<Tensor>) {
        // tch cannot set a gradient; the derivative of `p * g` with respect to `p` is `g`.
        for one in &self.parameters {
            if let Some(gradient) = source(&one.name) {
                let gradient = gradient.to_device(one.parameter.device());
                (&one.parameter * gradient).sum(Kind::Float).backward();
            }
        }
    }

    /// Length of all gradients together: a scalar on the device.
    pub fn gradient_norm(&self) -> Tensor {
        let _no_grad = tch::no_grad_guard();
        expect(foreach::gradient_norm(self.parameters.iter().map(|one| &one.parameter)))
    }

    /// One step along the gradients, taken times `factor` and then clipped to [`MAX_NORM`]; then forgets
    /// them. Nothing moves when one of them is not finite.
    ///
    /// `factor`: a scalar on the device. `decay`: the penalty on convolution weights. Returns a float
    /// scalar on the device: 1 if nothing moved, else 0.
    pub fn step(&mut self, factor: &Tensor, rates: &Rates, decay: f64) -> Tensor {
        let _no_grad = tch::no_grad_guard();
        let norm = self.gradient_norm();
        // The norm tells it for all of them: one that is not finite makes it so.
        let skipped = norm.isfinite().logical_not().to_kind(Kind::Float);
        self.step_unless(skipped, &norm, factor, rates, decay)
    }

    /// The work and the memory of [`Optimizer::step`], in which nothing moves.
    pub fn dry_run(&mut self, factor: &Tensor, rates: &Rates, decay: f64) {
        let _no_grad = tch::no_grad_guard();
        let norm = self.gradient_norm();
        let _ = self.step_unless(norm.ones_like(), &norm, factor, rates, decay);
    }

    fn step_unless(
        &mut self,
        skipped: Tensor,
        norm: &Tensor,
        factor: &Tensor,
        rates: &Rates,
        decay: f64,
    ) -> Tensor {
        let divisor = ((norm * factor + 1e-6) / MAX_NORM).clamp_min(1.0) / factor;
        if let Some(step) = &mut self.step {
            *step += 1.0 - &skipped;
        }
        let scaling = GradScaling { divisor: Some(&divisor), found_inf: Some(&skipped) };
        for group in Group::ALL {
            let decay = if group == Group::Weight { decay } else { 0.0 };
            expect(self.step_group(group, rates, decay, scaling));
        }
        self.zero_grad();
        skipped
    }

    fn step_group(
        &self,
        group: Group,
        rates: &Rates,
        decay: f64,
        scaling: GradScaling<'_>,
    ) -> Result<(), TorchError> {
        let has_gradient = |one: &&ParameterState| one.group == group && one.parameter.grad().defined();
        let moving: Vec<&ParameterState> = self.parameters.iter().filter(has_gradient).collect();
        if moving.is_empty() {
            return Ok(());
        }
        let parameters: Vec<&Tensor> = moving.iter().map(|one| &one.parameter).collect();
        let state = |at: usize| moving.iter().map(|one| &one.state[at]).collect::<Vec<_>>();
        let lr = rates.lr[group as usize];
        match (self.rule, &self.step) {
            (Rule::AdamW { beta1 }, Some(step)) => {
                let rates = AdamRates { lr, betas: [beta1, BETA2], eps: EPS, decay };
                foreach::adamw(&parameters, [&state(0), &state(1)], step, rates, scaling)
            }
            _ => {
                let rates = SgdRates { lr, momentum: rates.momentum, decay };
                foreach::sgd(&parameters, &state(0), rates, scaling)
            }
        }
    }

    /// Drops the accumulated gradients.
    pub fn zero_grad(&mut self) {
        expect(foreach::zero_grad(self.parameters.iter().map(|one| &one.parameter)));
    }
}

/// What libtorch throws goes to the [`crate::libtorch::catch`] outside, as it does from tch.
fn expect<T>(result: Result<T, TorchError>) -> T {
    result.unwrap_or_else(|error| rethrow(&error))
}

#[cfg(test)]
mod tests;

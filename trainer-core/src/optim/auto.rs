//! What `optimizer: auto` stands for, as a function of how long a training is.

use trainyard_types::{Optimizer, TrainSpec};

use super::optimizer::Rule;

/// The number of optimiser steps above which SGD is taken.
const LONG: u64 = 10_000;
/// The learning rate of SGD.
const SGD_LR: f64 = 0.01;
/// Momentum of SGD, and AdamW's first beta.
const MOMENTUM: f64 = 0.9;

/// `spec` with its optimiser chosen: for `auto`, learning rate, momentum and the biases' warm-up too.
///
/// The reference's rule, for steps of the nominal batch so that it does not depend on the GPU: AdamW with a
/// learning rate of 0.002 * 5 / (4 + classes) for short trainings. For long ones the reference takes an
/// optimiser of its own (a mixture with Muon), at the same learning rate and momentum; here it is SGD.
pub fn resolve(spec: &TrainSpec, images: u64, classes: u32) -> TrainSpec {
    if spec.optimizer != Optimizer::Auto {
        return spec.clone();
    }
    let steps = u64::from(spec.epochs) * images.div_ceil(u64::from(spec.nbs.max(1)));
    let common = TrainSpec { momentum: MOMENTUM, ..spec.clone() };
    if steps > LONG {
        return TrainSpec { optimizer: Optimizer::Sgd, lr0: SGD_LR, ..common };
    }
    let lr0 = 0.002 * 5.0 / (4.0 + f64::from(classes));
    // Rounded as the reference writes it into its tables.
    let lr0 = (lr0 * 1e6).round() / 1e6;
    TrainSpec { optimizer: Optimizer::AdamW, lr0, warmup_bias_lr: 0.0, ..common }
}

/// The rule of a spec whose optimiser is chosen.
pub const fn rule(spec: &TrainSpec) -> Rule {
    match spec.optimizer {
        Optimizer::AdamW => Rule::AdamW { beta1: spec.momentum },
        Optimizer::Sgd | Optimizer::Auto => Rule::Sgd,
    }
}

#[cfg(test)]
mod tests {
    use trainyard_types::ModelScale;

    use super::*;

    fn auto(epochs: u32) -> TrainSpec {
        let spec = TrainSpec::new(ModelScale::N, "/d/data.yaml");
        TrainSpec { optimizer: Optimizer::Auto, lr0: 0.5, epochs, ..spec }
    }

    #[test]
    fn short_trainings_take_adamw_at_a_rate_for_their_classes() {
        let found = resolve(&auto(100), 6400, 3);
        assert_eq!((found.optimizer, found.lr0, found.warmup_bias_lr), (Optimizer::AdamW, 0.001_429, 0.0));
        assert_eq!(rule(&found), Rule::AdamW { beta1: 0.9 });
        assert_eq!(resolve(&auto(1), 10, 80).lr0, 0.000_119);
    }

    #[test]
    fn long_ones_take_sgd() {
        let found = resolve(&auto(101), 6400, 3);
        assert_eq!((found.optimizer, found.lr0, found.momentum), (Optimizer::Sgd, 0.01, 0.9));
        assert_eq!((rule(&found), found.warmup_bias_lr), (Rule::Sgd, 0.1));
    }

    #[test]
    fn what_is_named_stays_as_it_is() {
        for optimizer in [Optimizer::Sgd, Optimizer::AdamW] {
            let spec = TrainSpec { optimizer, ..auto(5) };
            assert_eq!(resolve(&spec, 10, 3), spec);
        }
    }
}

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

fn one() -> Tensor {
    Tensor::from(1.0_f32)
}

fn value(weights: &Weights, name: &str) -> f64 {
    weights.get(name).expect("made above").double_value(&[0])
}

fn learn(weights: &Weights, slope: f64) {
    ((weights.get("w").unwrap() + weights.get("b").unwrap()) * slope).sum(Kind::Float).backward();
}

#[test]
fn only_convolution_weights_decay_and_biases_have_their_own_rate() {
    let weights = weights(2.0);
    let mut sgd = Optimizer::new(&weights, Rule::Sgd);
    learn(&weights, 1.0);
    let _ = sgd.step(&one(), &RATES, 0.25);
    // Slope 1 and 1.5; Nesterov adds half of it again.
    assert!((value(&weights, "w") - (2.0 - 0.1 * 1.5 * 1.5)).abs() < 1e-6);
    assert!((value(&weights, "b") - (2.0 - 0.2 * 1.5)).abs() < 1e-6);
    assert_eq!(sgd.gradients().count(), 0);
}

#[test]
fn long_gradients_are_clipped_after_they_are_taken_times_the_factor() {
    let weights = weights(0.0);
    let mut sgd = Optimizer::new(&weights, Rule::Sgd);
    let rates = Rates { momentum: 0.0, ..RATES };
    (weights.get("w").unwrap() * 1e6).sum(Kind::Float).backward();
    let _ = sgd.step(&one(), &rates, 0.0);
    assert!((value(&weights, "w") + 1.0).abs() < 1e-5);
    (weights.get("w").unwrap() * 1e6).sum(Kind::Float).backward();
    let _ = sgd.step(&Tensor::from(1e-6_f32), &rates, 0.0);
    assert!((value(&weights, "w") + 1.1).abs() < 1e-5);
}

#[test]
fn a_gradient_that_is_not_finite_moves_nothing_and_the_next_one_does() {
    for rule in [Rule::Sgd, Rule::AdamW { beta1: 0.9 }] {
        let weights = weights(2.0);
        let mut optimizer = Optimizer::new(&weights, rule);
        learn(&weights, f64::NAN);
        assert_eq!(optimizer.step(&one(), &RATES, 0.25).double_value(&[]), 1.0);
        assert_eq!((value(&weights, "w"), value(&weights, "b")), (2.0, 2.0));
        assert!(optimizer.state().iter().all(|(_, tensor)| tensor.count_nonzero(None).int64_value(&[]) == 0));
        learn(&weights, 1.0);
        assert_eq!(optimizer.step(&one(), &RATES, 0.25).double_value(&[]), 0.0);
        assert!(value(&weights, "w") < 2.0 && value(&weights, "b") < 2.0);
    }
}

#[test]
fn accumulated_gradients_can_be_put_back() {
    let weights = weights(3.0);
    let sgd = Optimizer::new(&weights, Rule::Sgd);
    let gradient = Tensor::from_slice(&[0.123_456_79_f32]);
    sgd.set_gradients(|_| Some(gradient.shallow_clone()));
    assert!(sgd.gradients().all(|(_, restored)| restored.equal(&gradient)));
    assert_eq!(sgd.gradients().count(), 2);
}

#[test]
fn what_is_remembered_can_be_put_back_and_that_of_another_rule_is_refused() {
    let adam = Rule::AdamW { beta1: 0.9 };
    let (first, second) = (weights(2.0), weights(2.0));
    let mut before = Optimizer::new(&first, adam);
    learn(&first, 0.5);
    let _ = before.step(&one(), &RATES, 0.0);
    second.copy_from(&first);
    let mut after = Optimizer::new(&second, adam);
    let saved: std::collections::HashMap<String, Tensor> = before.state().into_iter().collect();
    after.set_state(|name| saved.get(name).map(Tensor::shallow_clone)).unwrap();
    for (weights, optimizer) in [(&first, &mut before), (&second, &mut after)] {
        learn(weights, -0.25);
        let _ = optimizer.step(&one(), &RATES, 0.1);
    }
    assert_eq!(value(&first, "w").to_bits(), value(&second, "w").to_bits());
    let mut sgd = Optimizer::new(&second, Rule::Sgd);
    let refused = sgd.set_state(|name| saved.get(name).map(Tensor::shallow_clone)).unwrap_err();
    assert!(refused.to_string().contains("momentum_buffer.w"), "{refused}");
}

/// Gradients of a weight and a bias, and the two after the step.
type AdamStep = ([f32; 4], [f32; 2], [f64; 4], [f64; 2]);
/// Three steps of AdamW, by PyTorch 2.13: betas 0.9 and 0.999, a
/// weight at a rate of 0.01 with decay 0.1, a bias at 0.02 without; gradients clipped to length 10.
const ADAMW: [AdamStep; 3] = [
    (
        [0.1, -2.0, 3.0, 1e-4],
        [0.5, -0.25],
        [0.489_500_015, -1.238_749_98, 1.988_000_03, -0.008_999_999_6],
        [0.980_000_019, -2.980_000_019],
    ),
    (
        [0.2, 1.0, -1.5, 1e-3],
        [0.0, 4.0],
        [0.479_358_702, -1.234_847_903, 1.983_348_722, -0.017_061_762_5],
        [0.966_598_868, -2.994_018_316],
    ),
    (
        [-5.0, 6.0, -7.0, 8.0],
        [9.0, -10.0],
        [0.484_618_902, -1.237_660_169, 1.984_730_124, -0.023_434_311],
        [0.952_814_519, -2.990_348_577],
    ),
];

#[test]
fn adamw_moves_as_pytorch_does() {
    let mut weights = Weights::default();
    let parameters =
        [("w", Role::Weight, vec![0.5_f32, -1.25, 2.0, 0.001]), ("b", Role::Bias, vec![1.0, -3.0])];
    for (name, role, values) in parameters {
        let tensor = Tensor::from_slice(&values).set_requires_grad(true);
        weights.push(Entry { name: name.to_owned(), role, frozen: false, tensor });
    }
    let mut adam = Optimizer::new(&weights, Rule::AdamW { beta1: 0.9 });
    // The momentum of the warm-up is SGD's alone.
    let rates = Rates { lr: [0.01, 0.01, 0.02], momentum: 0.1, accumulate: 1 };
    for (at, (of_weight, of_bias, weight, bias)) in ADAMW.into_iter().enumerate() {
        let slopes = [Tensor::from_slice(&of_weight), Tensor::from_slice(&of_bias)];
        adam.set_gradients(|name| Some(slopes[usize::from(name == "b")].shallow_clone()));
        let skipped = adam.step(&one(), &rates, 0.1);
        assert_eq!(skipped.double_value(&[]), 0.0);
        for (name, expected) in [("w", weight.as_slice()), ("b", bias.as_slice())] {
            let found =
                Vec::<f64>::try_from(weights.get(name).unwrap().detach().to_kind(Kind::Double)).unwrap();
            for (found, expected) in found.iter().zip(expected) {
                assert!((found - expected).abs() < 1e-6, "step {at}, {name}: {found}, not {expected}");
            }
        }
    }
}

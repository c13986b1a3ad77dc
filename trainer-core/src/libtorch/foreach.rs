//! Operations on many tensors in one call: on a GPU that is a handful of kernels instead of hundreds.
//!
//! Each works in place and is no part of any gradient; the parts of a list lie on one device.

use tch::Tensor;

use super::TorchError;
use super::shim::{self, List, pointer_or_null};

/// What a fused step does to gradients before it takes them (PyTorch's `grad_scale` and `found_inf`). Both are
/// scalars on the parameters' device, so that nobody waits for them.
#[derive(Debug, Clone, Copy, Default)]
pub struct GradScaling<'a> {
    /// The number that gradients are divided by.
    pub divisor: Option<&'a Tensor>,
    /// A float; if it is 1, nothing moves.
    pub found_inf: Option<&'a Tensor>,
}

/// The length of the gradients of all `parameters` together: a scalar on their device. A parameter without
/// one counts as zero.
pub fn gradient_norm<'a>(parameters: impl IntoIterator<Item = &'a Tensor>) -> Result<Tensor, TorchError> {
    let list = List::new(parameters);
    // SAFETY: the list holds its own number of tensors, which live through the call.
    shim::tensor_from(|norm| unsafe { shim::ty_gradient_norm(list.pointer(), list.len(), norm) })
}

/// Drops the gradients of `parameters`; the next ones are stored, not added to zeros.
pub fn zero_grad<'a>(parameters: impl IntoIterator<Item = &'a Tensor>) -> Result<(), TorchError> {
    let list = List::new(parameters);
    // SAFETY: as above.
    unsafe { shim::check(shim::ty_forget_gradients(list.pointer(), list.len())) }
}

/// The constants of a step of stochastic gradient descent.
#[derive(Debug, Clone, Copy)]
pub struct SgdRates {
    /// Learning rate.
    pub lr: f64,
    /// Nesterov's momentum.
    pub momentum: f64,
    /// L2 penalty, added to the gradients.
    pub decay: f64,
}

/// A step of SGD with Nesterov momentum along the parameters' gradients; each must have one.
///
/// # Panics
/// When the lists differ in length, which is a bug.
pub fn sgd(
    parameters: &[&Tensor],
    momenta: &[&Tensor],
    rates: SgdRates,
    scaling: GradScaling<'_>,
) -> Result<(), TorchError> {
    assert_eq!(parameters.len(), momenta.len(), "each parameter has its momentum");
    let (moved, momenta) = (list(parameters), list(momenta));
    let SgdRates { lr, momentum, decay } = rates;
    let (divisor, found) = (pointer_or_null(scaling.divisor), pointer_or_null(scaling.found_inf));
    // SAFETY: both lists hold `count` tensors, which live through the call; null stands for an absent one.
    unsafe {
        let count = moved.len();
        let (moved, momenta) = (moved.pointer(), momenta.pointer());
        shim::check(shim::ty_sgd(moved, momenta, count, decay, momentum, lr, divisor, found))
    }
}

/// The constants of a step of AdamW.
#[derive(Debug, Clone, Copy)]
pub struct AdamRates {
    /// Learning rate.
    pub lr: f64,
    /// How slowly the averages of gradients and of their squares change.
    pub betas: [f64; 2],
    /// Added to the root of the squares.
    pub eps: f64,
    /// Decoupled: the share of a parameter that goes at a learning rate of 1.
    pub decay: f64,
}

/// A step of AdamW (Loshchilov and Hutter 2019) along the parameters' gradients; each must have one.
///
/// `averages`, `squares`: moving averages of the gradients and of their squares. `step`: a float on the
/// device, the number of this step from 1.
///
/// # Panics
/// When the lists differ in length, which is a bug.
pub fn adamw(
    parameters: &[&Tensor],
    [averages, squares]: [&[&Tensor]; 2],
    step: &Tensor,
    rates: AdamRates,
    scaling: GradScaling<'_>,
) -> Result<(), TorchError> {
    assert!(parameters.len() == averages.len() && parameters.len() == squares.len(), "lists differ");
    let (moved, averages, squares) = (list(parameters), list(averages), list(squares));
    let AdamRates { lr, betas: [beta1, beta2], eps, decay } = rates;
    let (divisor, found) = (pointer_or_null(scaling.divisor), pointer_or_null(scaling.found_inf));
    // SAFETY: the lists hold `count` tensors, which live through the call; null stands for an absent one.
    unsafe {
        let count = moved.len();
        let (moved, averages, squares) = (moved.pointer(), averages.pointer(), squares.pointer());
        let step = step.as_ptr();
        shim::check(shim::ty_adamw(
            moved, averages, squares, count, step, decay, beta1, beta2, eps, lr, divisor, found,
        ))
    }
}

/// `from += weight * (to - from)`, tensor by tensor.
///
/// # Panics
/// When the lists differ in length, which is a bug.
pub fn lerp(from: &[&Tensor], to: &[&Tensor], weight: f64) -> Result<(), TorchError> {
    assert_eq!(from.len(), to.len(), "each tensor has its goal");
    let (from, to) = (list(from), list(to));
    // SAFETY: both lists hold as many tensors, which live through the call.
    unsafe { shim::check(shim::ty_lerp(from.pointer(), to.pointer(), from.len(), weight)) }
}

/// The values of `from` become those of `to`, tensor by tensor.
///
/// # Panics
/// When the lists differ in length, which is a bug.
pub fn copy(to: &[&Tensor], from: &[&Tensor]) -> Result<(), TorchError> {
    assert_eq!(from.len(), to.len(), "each tensor has its source");
    let (to, from) = (list(to), list(from));
    // SAFETY: both lists hold as many tensors, which live through the call.
    unsafe { shim::check(shim::ty_copy(to.pointer(), from.pointer(), to.len())) }
}

fn list<'a>(tensors: &[&'a Tensor]) -> List<'a> {
    List::new(tensors.iter().copied())
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;

    fn values(tensor: &Tensor) -> Vec<f32> {
        Vec::try_from(tensor.view(-1)).unwrap()
    }

    fn parameter(value: f32, gradient: f64) -> Tensor {
        let parameter = Tensor::from_slice(&[value]).set_requires_grad(true);
        (&parameter * gradient).sum(Kind::Float).backward();
        parameter
    }

    #[test]
    fn what_libtorch_throws_in_the_shim_is_an_error_of_one_line() {
        let _no_grad = tch::no_grad_guard();
        let (two, three) = (Tensor::from_slice(&[1.0_f32, 2.0]), Tensor::from_slice(&[1.0_f32, 2.0, 3.0]));
        let error = lerp(&[&two], &[&three], 0.5).unwrap_err();
        assert!(error.message.contains("size"), "{error}");
        assert_eq!(error.message.lines().count(), 1);
    }

    #[test]
    fn a_parameter_without_gradient_cannot_step() {
        let bare = Tensor::from_slice(&[1.0_f32]);
        let rates = SgdRates { lr: 0.1, momentum: 0.9, decay: 0.0 };
        let error = sgd(&[&bare], &[&bare.zeros_like()], rates, GradScaling::default()).unwrap_err();
        assert!(error.message.contains("without a gradient"), "{error}");
    }

    #[test]
    fn a_mean_moves_by_its_weight() {
        let _no_grad = tch::no_grad_guard();
        let (from, to) = (Tensor::from_slice(&[0.0_f32, 8.0]), Tensor::from_slice(&[4.0_f32, 0.0]));
        lerp(&[&from], &[&to], 0.25).unwrap();
        assert_eq!(values(&from), [1.0, 6.0]);
    }

    #[test]
    fn the_norm_is_of_all_gradients_and_forgetting_leaves_none() {
        let (three, four) = (parameter(1.0, 3.0), parameter(1.0, 4.0));
        let bare = Tensor::from_slice(&[9.0_f32]).set_requires_grad(true);
        let norm = || gradient_norm([&three, &bare, &four]).unwrap().double_value(&[]);
        assert!((norm() - 5.0).abs() < 1e-6);
        zero_grad([&three, &four]).unwrap();
        assert!(!three.grad().defined());
        assert_eq!(norm(), 0.0);
    }

    #[test]
    fn gradients_in_another_layout_than_their_parameters_are_taken_right() {
        let _alone = tch::no_grad_guard();
        let values: Vec<f32> = (0_u8..24).map(f32::from).collect();
        let plain = Tensor::from_slice(&values).view([2, 3, 2, 2]);
        let innermost = plain.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2]);
        let parameter = innermost.zeros_like().set_requires_grad(true);
        tch::with_grad(|| (&parameter * &plain).sum(Kind::Float).backward());
        let momentum = innermost.zeros_like();
        let rates = SgdRates { lr: 1.0, momentum: 0.0, decay: 0.0 };
        sgd(&[&parameter], &[&momentum], rates, GradScaling::default()).unwrap();
        assert!(parameter.equal(&-&plain), "{parameter:?}");
    }

    #[test]
    fn a_gradient_whose_strides_differ_where_a_side_is_one_is_taken_without_a_copy() {
        let _alone = tch::no_grad_guard();
        let plain = Tensor::from_slice(&[1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0]).view([2, 3, 1, 1]);
        let parameter =
            plain.zeros_like().as_strided([2, 3, 1, 1], [3, 1, 3, 3], None).set_requires_grad(true);
        tch::with_grad(|| (&parameter * &plain).sum(Kind::Float).backward());
        assert_ne!(parameter.grad().stride(), parameter.stride());
        let divisor = Tensor::from(2.0_f32);
        let scaling = GradScaling { divisor: Some(&divisor), found_inf: None };
        let momentum = parameter.detach().zeros_like();
        sgd(&[&parameter], &[&momentum], SgdRates { lr: 1.0, momentum: 0.0, decay: 0.0 }, scaling).unwrap();
        assert!(parameter.equal(&(&plain / -2.0)));
        // The kernel leaves the divided gradient where it took it from.
        assert!(parameter.grad().equal(&(&plain / 2.0)));
    }

    #[test]
    fn nothing_moves_when_an_infinity_was_found() {
        let _ = Device::Cpu;
        let (found, divisor) = (Tensor::from(1.0_f32), Tensor::from(1.0_f32));
        let scaling = GradScaling { divisor: Some(&divisor), found_inf: Some(&found) };
        let (moved, state) = (parameter(2.0, f64::INFINITY), Tensor::from_slice(&[0.5_f32]));
        let _no_grad = tch::no_grad_guard();
        sgd(&[&moved], &[&state], SgdRates { lr: 1.0, momentum: 0.9, decay: 0.1 }, scaling).unwrap();
        let (squares, step) = (Tensor::from_slice(&[0.25_f32]), Tensor::from(1.0_f32));
        let rates = AdamRates { lr: 1.0, betas: [0.9, 0.999], eps: 1e-8, decay: 0.1 };
        adamw(&[&moved], [&[&state], &[&squares]], &step, rates, scaling).unwrap();
        assert_eq!((values(&moved), values(&state), values(&squares)), (vec![2.0], vec![0.5], vec![0.25]));
    }
}

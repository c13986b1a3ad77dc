//! `trainyard-trainer self-test`: whether this machine can train at all, in one tiny step.

use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;
use tch::{Device, Kind, Tensor};
use trainyard_types::trainer::exit_code;
use trainyard_types::{Unfit, UnfitKind};

use super::device;
use crate::libtorch::{self, device_name};
use crate::train::error::TrainError;
use crate::train::unfit::unfit;

/// Losses before and after the step, in exact arithmetic.
const EXPECTED_LOSSES: [f64; 2] = [1.054_725_787_9, 0.892_211_176_4];

/// GPUs may multiply with 10 bits of mantissa.
const TOLERANCE: f64 = 0.02;

/// Longer than any machine needs that is well. The agent is less patient.
const TIME_LIMIT: Duration = Duration::from_secs(120);

/// Do one tiny step of training on a device and check its result, as an agent does before it takes jobs. Prints one
/// JSON object; exit code 0: the device can train.
#[derive(Debug, Args)]
pub struct SelfTest {
    /// cpu or cuda:N. Default: a GPU if the machine has a driver for one.
    #[arg(long)]
    device: Option<String>,
}

/// The result of a self-test, as it is printed.
#[derive(Debug, Serialize)]
struct Report {
    /// Whether the device can train.
    ok: bool,
    /// This program's version.
    trainer: &'static str,
    /// libtorch's version.
    libtorch: String,
    /// The CUDA that it was built with.
    cuda: Option<String>,
    /// Whether cuDNN can be used.
    cudnn: bool,
    /// The device's name; empty if none was asked for and none was found.
    device: String,
    /// Seconds that the step took, with the device's start.
    seconds: f64,
    /// What is wrong; absent when nothing is.
    #[serde(skip_serializing_if = "Option::is_none")]
    unfit: Option<Unfit>,
}

impl SelfTest {
    /// Tests, prints, and returns the exit code. `cuda` is what [`libtorch::load_cuda`] returned.
    pub fn run(&self, cuda: &Result<(), String>) -> i32 {
        end_in_time();
        let began = Instant::now();
        let result = libtorch::catch_panic(|| {
            let device = device(self.device.as_deref(), cuda)?;
            let losses = libtorch::catch(|| step(device))?;
            Ok((device, losses))
        });
        let result = result.unwrap_or_else(|text| Err(TrainError::Bug(text)));
        let seconds = began.elapsed().as_secs_f64();
        let (name, problem) = match result {
            Ok((device, losses)) => (device_name(device), check_losses(losses)),
            Err(error) => (self.device.clone().unwrap_or_default(), Some(unfit_by(&error))),
        };
        let build = libtorch::build::build(cuda);
        let report = Report {
            ok: problem.is_none(),
            trainer: env!("CARGO_PKG_VERSION"),
            libtorch: build.version,
            cuda: build.cuda,
            cudnn: name.starts_with("cuda") && problem.is_none() && tch::Cuda::cudnn_is_available(),
            device: name,
            seconds,
            unfit: problem,
        };
        let text = serde_json::to_string(&report).expect("a struct of texts and numbers is JSON") + "\n";
        // Whoever reads may have gone; the exit code stands.
        let _ = super::print(text);
        if report.ok { exit_code::DONE } else { exit_code::INTERNAL }
    }
}

/// A device that hangs must not keep a process for ever.
fn end_in_time() {
    let thread = std::thread::Builder::new().name("limit".to_owned());
    let _none = thread.spawn(|| {
        std::thread::sleep(TIME_LIMIT);
        std::process::exit(exit_code::INTERNAL);
    });
}

/// What the machine lacks by an error, whatever it is: nothing here is a job's fault.
fn unfit_by(error: &TrainError) -> Unfit {
    let other = || Unfit::of_machine(UnfitKind::SelfTest, format!("one step of training fails: {error}"));
    unfit(error).unwrap_or_else(other)
}

/// What is wrong with the losses.
fn check_losses(losses: [f64; 2]) -> Option<Unfit> {
    let near = |(found, known): (f64, f64)| (found - known).abs() <= TOLERANCE;
    if losses.into_iter().zip(EXPECTED_LOSSES).all(near) {
        return None;
    }
    let message = format!(
        "one step of training has a wrong result: the losses are {losses:?} and should be {EXPECTED_LOSSES:?}; the device, or \
         its memory, computes wrongly"
    );
    Some(Unfit { kind: UnfitKind::SelfTest, path: String::new(), message })
}

/// The loss of a tiny net before and after a step: convolution, matrix product, backward pass, and an update.
fn step(device: Device) -> [f64; 2] {
    let fill = |shape: &[i64]| {
        let numbers = Tensor::arange(shape.iter().product::<i64>(), (Kind::Float, device));
        (numbers.sin() * 0.5).reshape(shape)
    };
    let images = fill(&[2, 3, 16, 16]);
    let mut kernel = fill(&[8, 3, 3, 3]).set_requires_grad(true);
    let mut matrix = fill(&[8, 4]).set_requires_grad(true);
    let loss = |kernel: &Tensor, matrix: &Tensor| {
        let seen = images.conv2d(kernel, None::<&Tensor>, [1, 1], [1, 1], [1, 1], 1).relu();
        let means = seen.mean_dim([2_i64, 3].as_slice(), false, Kind::Float);
        (means.matmul(matrix) - 1.0).square().mean(Kind::Float)
    };
    let before = loss(&kernel, &matrix);
    before.backward();
    let _no_grad = tch::no_grad_guard();
    for weights in [&mut kernel, &mut matrix] {
        let gradient = weights.grad();
        *weights -= gradient * 0.5;
    }
    [before.double_value(&[]), loss(&kernel, &matrix).double_value(&[])]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_step_has_the_known_result_on_the_cpu_and_a_wrong_one_is_told() {
        let losses = step(Device::Cpu);
        for (found, known) in losses.into_iter().zip(EXPECTED_LOSSES) {
            assert!((found - known).abs() < 1e-5, "{losses:?}");
        }
        assert_eq!(check_losses(losses), None);
        for broken in [[EXPECTED_LOSSES[0], EXPECTED_LOSSES[0]], [f64::NAN, EXPECTED_LOSSES[1]]] {
            assert_eq!(check_losses(broken).unwrap().kind, UnfitKind::SelfTest);
        }
    }
}

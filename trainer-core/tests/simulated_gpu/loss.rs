//! What the loss costs a GPU: operators, and the memory that they take for a while.

use simulated_gpu::{Counts, SimulatedGpu};
use tch::{Device, Kind, Tensor};
use trainyard_trainer::libtorch::Precision;
use trainyard_trainer::loss::assign::{Object, Targets, assign};
use trainyard_trainer::loss::{Gains, detection_loss};
use trainyard_trainer::model::head::{Anchors, Prediction, corners, distances};
use trainyard_trainer::model::plan::BINS;
use trainyard_trainer::optim::Rule;
use trainyard_trainer::train::upload::Uploader;
use trainyard_types::trainer::Phase;

use super::steps::{batch, state};
use super::{GPU, alone, on_host};

/// Pixels of a side, and the anchors that such an image has.
const SIDE: i64 = 640;
const ANCHORS: i64 = 8400;
const CLASSES: i64 = 80;
/// Objects in the fullest image.
const MOST: u32 = 100;

/// Evenly spread numbers from 0 to 1 (a linear congruence).
struct Spread(u32);

impl Spread {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f32::from(u16::try_from(self.0 >> 16).unwrap()) / 65_536.0
    }
}

/// Many objects in the first image, fewer in the others; most of them are small.
fn crowd(images: u32) -> Vec<Object> {
    let mut spread = Spread(1);
    let mut objects = Vec::new();
    for image in 0..images {
        let count = if image == 0 { MOST } else { (spread.next() * spread.next() * 100.0) as u32 };
        for at in 0..count {
            let (w, h) = (0.02 + 0.4 * spread.next().powi(3), 0.02 + 0.4 * spread.next().powi(3));
            let cxcywh = [spread.next(), spread.next(), w, h];
            objects.push(Object { image, class: at % CLASSES as u32, cxcywh });
        }
    }
    objects
}

/// What a model might say of images, on the CPU.
fn prediction(images: i64) -> Prediction {
    tch::manual_seed(0);
    let options = (Kind::Float, Device::Cpu);
    Prediction {
        boxes: Tensor::randn([images, ANCHORS, 4 * BINS], options),
        scores: Tensor::randn([images, ANCHORS, CLASSES], options) - 4.0,
        anchors: Anchors::new([(80, 80), (40, 40), (20, 20)], Device::Cpu),
    }
}

fn on(device: Device, of: &Prediction) -> Prediction {
    Prediction {
        boxes: of.boxes.to_device(device).copy().set_requires_grad(true),
        scores: of.scores.to_device(device).copy().set_requires_grad(true),
        anchors: Anchors::new(of.anchors.grid, device),
    }
}

fn phase(gpu: &SimulatedGpu, name: &str) -> Counts {
    let counts = gpu.counts_by_phase().remove(name).unwrap();
    let (operators, megabytes) = (counts.operators, counts.allocated_bytes as f64 / 1e6);
    println!("{name}: {operators} operators, {megabytes:.1} MB");
    counts
}

#[test]
fn the_assigner_takes_memory_for_pairs_and_not_for_each_object_with_each_anchor() {
    let (gpu, _alone) = alone();
    let images = 4;
    let found = on(GPU, &prediction(images));
    let targets = Targets::new(&crowd(images as u32), images as usize, [SIDE; 2], GPU);
    let _no_grad = tch::no_grad_guard();
    let anchors = &found.anchors;
    let bins = Tensor::arange(BINS, (Kind::Float, GPU));
    let boxes = corners(&anchors.centers, &distances(&found.boxes, &bins)) * &anchors.strides;
    gpu.reset();
    gpu.enter("assigner");
    let _ = assign(&found.scores, &boxes, &targets);
    gpu.enter("");
    let counts = phase(gpu, "assigner");
    // Comparing all took 65 tensors of that many numbers.
    let all = images * i64::from(MOST) * ANCHORS * 4;
    assert!(counts.allocated_bytes < 65 * all / 10, "{} of {all}", counts.allocated_bytes);
    assert_eq!(counts.waits, 0, "{counts:?}");
}

#[test]
fn a_crowd_has_the_loss_and_the_gradients_that_it_has_on_the_cpu_in_fewer_than_200_operators() {
    let (gpu, _alone) = alone();
    let images = 2;
    let prediction = prediction(images);
    let [on_cpu, on_gpu] = [Device::Cpu, GPU].map(|device| {
        let found = on(device, &prediction);
        let targets = Targets::new(&crowd(images as u32), images as usize, [SIDE; 2], device);
        let bins = Tensor::arange(BINS, (Kind::Float, device));
        gpu.reset();
        gpu.enter("loss");
        let loss = detection_loss(&found, &bins, &targets, Gains::default());
        gpu.enter("");
        loss.total().backward();
        [loss.components, loss.scores, found.boxes.grad(), found.scores.grad()]
    });
    for (expected, found) in on_cpu.iter().zip(&on_gpu) {
        assert!(expected.equal(&on_host(found)), "{:?} differs", expected.size());
    }
    let counts = phase(gpu, "loss");
    assert!(counts.operators < 200, "{counts:?}");
    assert_eq!(counts.waits, 0, "{counts:?}");
}

#[test]
fn a_step_is_at_most_900_operators() {
    let (gpu, _alone) = alone();
    for precision in [Precision::Fp32, Precision::Fp16, Precision::Bf16] {
        let mut state = state(GPU, Rule::Sgd, precision);
        let uploader = Uploader::new(GPU, precision);
        for unit in 0..2 {
            gpu.reset();
            gpu.enter("upload");
            let tensors = uploader.upload(&batch());
            state.forward_backward_timed(&tensors.images, &tensors.targets, &mut |phase| {
                gpu.enter(match phase {
                    Phase::Forward => "forward",
                    Phase::Loss => "loss",
                    _ => "backward",
                });
            });
            gpu.enter("step");
            state.step(unit);
            gpu.enter("");
        }
        let phases = ["upload", "forward", "loss", "backward", "step"];
        let operators = phases.map(|name| phase(gpu, name).operators);
        let total: i64 = operators.iter().sum();
        println!("{precision:?}: {total} operators");
        assert!(total <= 900, "{precision:?}: {operators:?}");
    }
}

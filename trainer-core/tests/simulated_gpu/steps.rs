//! Optimiser steps: what they compute, and what the host waits for.

use simulated_gpu::SimulatedGpu;
use tch::{Device, Tensor};
use trainyard_data::{Batch, Target};
use trainyard_trainer::libtorch::Precision;
use trainyard_trainer::loss::Gains;
use trainyard_trainer::model::Model;
use trainyard_trainer::optim::{Rule, Scaler, Schedule};
use trainyard_trainer::train::state::TrainState;
use trainyard_trainer::train::upload::Uploader;
use trainyard_types::{ModelScale, TrainSpec};

use super::{GPU, alone, on_host};

/// Four images with an object each, but for the third.
pub fn batch() -> Batch {
    const SIDE: usize = 64;
    let pixels: Vec<u8> = (0..4 * 3 * SIDE * SIDE).map(|at| (at * 7 % 251) as u8).collect();
    let object = |image| Target { image, class: image % 3, cxcywh: [0.5, 0.4, 0.2, 0.3] };
    Batch {
        number: 0,
        images: pixels.into(),
        n: 4,
        height: SIDE,
        width: SIDE,
        targets: vec![object(0), object(1), object(1), object(3)],
        indices: vec![0, 1, 2, 3],
        placements: Vec::new(),
    }
}

/// A model before its first step, the same on every device.
pub fn state(device: Device, rule: Rule, precision: Precision) -> TrainState {
    tch::manual_seed(0);
    let spec = TrainSpec { nbs: 4, warmup_epochs: 0.0, ..TrainSpec::new(ModelScale::N, "/data.yaml") };
    let model = Model::new(spec.model, 3, 0, device);
    TrainState::new(model, rule, Schedule::new(&spec, 4, 2), Gains::default(), precision)
}

/// So many optimiser steps of one batch each.
pub fn train(state: &mut TrainState, uploader: &Uploader, steps: u64) {
    for unit in 0..steps {
        let tensors = uploader.upload(&batch());
        state.forward_backward(&tensors.images, &tensors.targets);
        state.step(unit);
    }
}

pub fn weights(state: &TrainState) -> Vec<(String, Tensor)> {
    state.model.weights().iter().map(|entry| (entry.name.clone(), on_host(&entry.tensor))).collect()
}

/// Trains a step on the CPU and one on the GPU, each after a first one, and compares all weights.
fn compare(gpu: &SimulatedGpu, rule: Rule, precision: Precision) {
    let what = format!("{rule:?} {precision:?}");
    let [on_cpu, on_gpu] = [Device::Cpu, GPU].map(|device| {
        let mut state = state(device, rule, precision);
        let uploader = Uploader::new(device, precision);
        train(&mut state, &uploader, 1);
        gpu.reset();
        train(&mut state, &uploader, 1);
        if device == GPU {
            let counts = gpu.counts();
            println!("{what}: {} operators, {} allocations", counts.operators, counts.allocations);
            assert_eq!((counts.waits, counts.staged, counts.hazards), (0, 0, 0), "{what}: {counts:?}");
        }
        weights(&state)
    });
    for ((name, expected), (_, found)) in on_cpu.iter().zip(&on_gpu) {
        assert!(expected.equal(found), "{what}: {name} differs");
    }
}

#[test]
fn sgd_in_each_precision_does_what_it_does_on_the_cpu_bit_by_bit_and_a_step_waits_for_nothing() {
    let (gpu, _alone) = alone();
    for precision in [Precision::Fp32, Precision::Fp16, Precision::Bf16] {
        compare(gpu, Rule::Sgd, precision);
    }
}

#[test]
fn adamw_does_what_it_does_on_the_cpu_bit_by_bit_and_a_step_waits_for_nothing() {
    let (gpu, _alone) = alone();
    compare(gpu, Rule::AdamW { beta1: 0.9 }, Precision::Fp32);
}

#[test]
fn a_step_moves_the_same_bits_at_every_loss_scale_clipped_or_not() {
    let (_gpu, _alone) = alone();
    // Scales are powers of two: they change the exponents of gradients and of nothing else.
    let step = |scale: Option<f64>| {
        let mut state = state(GPU, Rule::Sgd, Precision::Fp32);
        state.scaler = scale.map(|scale| Scaler::restore(scale, 0, GPU));
        train(&mut state, &Uploader::new(GPU, Precision::Fp32), 2);
        weights(&state)
    };
    let expected = step(None);
    for scale in [1.0, 4096.0, 65_536.0] {
        for ((name, expected), (_, found)) in expected.iter().zip(&step(Some(scale))) {
            assert!(expected.equal(found), "{name} at {scale}");
        }
    }
}

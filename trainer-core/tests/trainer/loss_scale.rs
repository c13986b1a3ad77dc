//! Gradients that wait for their step, and the loss scale that they were accumulated at.

use std::collections::HashMap;
use std::path::PathBuf;

use tch::{Device, Kind, Tensor};
use trainyard_trainer::checkpoint::{Identity, Loaded, Progress};
use trainyard_trainer::libtorch::Precision;
use trainyard_trainer::loss::Gains;
use trainyard_trainer::loss::assign::{Object, Targets};
use trainyard_trainer::model::Model;
use trainyard_trainer::optim::{Rule, Scaler, Schedule};
use trainyard_trainer::train::output::saver::WeightsFiles;
use trainyard_trainer::train::resume;
use trainyard_trainer::train::state::TrainState;
use trainyard_trainer::weights::Metadata;
use trainyard_types::{ModelScale, TrainSpec};

use crate::runs::alone;

const SIDE: i64 = 64;
const SCALE: f64 = 4096.0;

/// A trainer whose layers are in 32 bits, with this loss scale or with none.
fn trainer(seed: i64, scale: Option<f64>) -> TrainState {
    tch::manual_seed(seed);
    let spec = TrainSpec { nbs: 4, warmup_epochs: 0.0, ..TrainSpec::new(ModelScale::N, "/data.yaml") };
    let model = Model::new(spec.model, 2, 0, Device::Cpu);
    let schedule = Schedule::for_any_gpu(&spec, 8, 2);
    let mut trainer = TrainState::new(model, Rule::Sgd, schedule, Gains::default(), Precision::Fp32);
    trainer.scaler = scale.map(|scale| Scaler::restore(scale, 0, Device::Cpu));
    trainer
}

/// Half of a step's images.
fn learn(trainer: &mut TrainState, half: i64) {
    tch::manual_seed(7 + half);
    let images = Tensor::rand([2, 3, SIDE, SIDE], (Kind::Float, Device::Cpu));
    let object = |image| Object { image, class: 1, cxcywh: [0.5, 0.4, 0.3 + 0.1 * half as f32, 0.3] };
    trainer.forward_backward(&images, &Targets::new(&[object(0), object(1)], 2, [SIDE; 2], Device::Cpu));
}

/// What a checkpoint in the middle of a step holds.
fn checkpoint(trainer: &TrainState) -> Loaded {
    let identity = Identity::new(ModelScale::N, Vec::new(), 8, 0);
    let progress = Progress {
        images_accumulated: trainer.accumulated.images,
        scores_accumulated: trainer.accumulated.scores.double_value(&[]),
        scaler: trainer.scaler.as_ref().map(Scaler::state),
        ..Progress::start(identity, 2)
    };
    let saved = resume::snapshot(trainer, &progress, &WeightsFiles::default());
    let files = saved.files.into_iter();
    let files: HashMap<String, Vec<u8>> =
        files.map(|(name, tensors)| (name.to_owned(), tensors.encode(&Metadata::new()).unwrap())).collect();
    Loaded { directory: PathBuf::new(), progress, files }
}

/// A trainer that goes on from there, with this loss scale or with none.
fn resumed(from: &Loaded, scale: Option<f64>) -> TrainState {
    let mut trainer = trainer(99, scale);
    resume::restore(&mut trainer, from, &from.progress).unwrap();
    trainer
}

/// The second half of the step; returns the weights after it.
fn step(mut trainer: TrainState) -> Vec<Tensor> {
    learn(&mut trainer, 1);
    trainer.step(0);
    assert_eq!(trainer.skipped.double_value(&[]), 0.0);
    trainer.model.weights().iter().map(|entry| entry.tensor.detach().copy()).collect()
}

#[test]
fn a_step_is_the_same_whatever_loss_scale_its_first_half_was_accumulated_at() {
    let _alone = alone();
    let begun = |scale| {
        let mut trainer = trainer(0, scale);
        learn(&mut trainer, 0);
        trainer
    };
    let expected = step(begun(None));
    for before in [None, Some(SCALE), Some(1.0)] {
        let saved = checkpoint(&begun(before));
        for after in [None, Some(SCALE), Some(0.5)] {
            let trainer = resumed(&saved, after);
            // Who has a scaler goes on with the one of before, if there was one.
            let scale = if after.is_some() { before.or(after) } else { None };
            assert_eq!(trainer.loss_scale(), scale.unwrap_or(1.0));
            for (found, expected) in step(trainer).iter().zip(&expected) {
                assert!(found.equal(expected), "{before:?} to {after:?}");
            }
        }
    }
}

#[test]
fn a_step_that_would_be_skipped_is_skipped_after_a_resume_too() {
    let _alone = alone();
    let mut trainer = trainer(0, Some(SCALE));
    learn(&mut trainer, 0);
    let (_, mut gradient) = trainer.optimizer.gradients().next().unwrap();
    let _ = gradient.fill_(f64::INFINITY);
    let saved = checkpoint(&trainer);
    for (scale, next) in [(Some(SCALE), SCALE / 2.0), (None, 1.0)] {
        let mut trainer = resumed(&saved, scale);
        let before: Vec<Tensor> = trainer.model.weights().iter().map(|entry| entry.tensor.copy()).collect();
        trainer.step(0);
        assert_eq!((trainer.skipped.double_value(&[]), trainer.loss_scale()), (1.0, next));
        for (after, before) in trainer.model.weights().iter().zip(before) {
            assert!(after.tensor.equal(&before), "{}", after.name);
        }
    }
}

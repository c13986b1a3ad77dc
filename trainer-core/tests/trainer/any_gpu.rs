//! The same job on every GPU: an optimiser step has the same gradient however many images fit at once.

use tch::{Device, Kind, Tensor};
use trainyard_trainer::libtorch::Precision;
use trainyard_trainer::loss::Gains;
use trainyard_trainer::loss::assign::{Object, Targets};
use trainyard_trainer::loss::detection_loss;
use trainyard_trainer::model::Model;
use trainyard_trainer::optim::{Rule, Schedule};
use trainyard_trainer::train::state::TrainState;
use trainyard_types::{ModelScale, TrainSpec};

use crate::runs::alone;

const IMAGES: u32 = 64;
const SIDE: i64 = 64;
/// Gradients are sums over some ten thousand positions in 32 bits, added up in another order.
const ROUNDING: f64 = 1e-4;

/// Very different images: some full, some empty.
fn objects() -> Vec<Object> {
    let image = |image: u32| {
        (0..image % 5).map(move |at| {
            let place = 0.15 + 0.17 * at as f32;
            Object { image, class: at % 3, cxcywh: [place, 0.9 - place, 0.25, 0.1 + 0.01 * image as f32] }
        })
    };
    (0..IMAGES).flat_map(image).collect()
}

fn trainer() -> TrainState {
    tch::manual_seed(3);
    let spec = TrainSpec::new(ModelScale::N, "/data.yaml");
    let model = Model::new(spec.model, 3, 0, Device::Cpu);
    TrainState::new(
        model,
        Rule::Sgd,
        Schedule::for_any_gpu(&spec, 640, IMAGES),
        Gains::default(),
        Precision::Fp32,
    )
}

/// The gradients of a step of all images that go through the model in batches of these sizes; batch
/// normalisation uses fixed statistics.
fn gradients(images: &Tensor, sizes: &[u32]) -> Vec<(String, Tensor)> {
    let mut trainer = trainer();
    let (all, mut from) = (objects(), 0);
    for &size in sizes {
        let part: Vec<Object> = all
            .iter()
            .filter(|object| (from..from + size).contains(&object.image))
            .map(|object| Object { image: object.image - from, ..*object })
            .collect();
        let targets = Targets::new(&part, size as usize, [SIDE; 2], Device::Cpu);
        let prediction = trainer.model.forward(&images.narrow(0, from.into(), size.into()), false);
        trainer.loss_backward(prediction, &targets);
        from += size;
    }
    assert_eq!((from, trainer.accumulated.images), (IMAGES, IMAGES.into()));
    let factor = trainer.gradient_factor();
    trainer.optimizer.gradients().map(|(name, gradient)| (name.to_owned(), gradient * &factor)).collect()
}

#[test]
fn however_many_images_fit_at_once_a_step_has_the_same_gradient() {
    let _alone = alone();
    tch::manual_seed(5);
    let images = Tensor::rand([IMAGES.into(), 3, SIDE, SIDE], (Kind::Float, Device::Cpu));
    let whole = gradients(&images, &[64]);

    // It is the gradient of the loss of all images at once, as it is reported.
    let reference = trainer();
    let targets = Targets::new(&objects(), IMAGES as usize, [SIDE; 2], Device::Cpu);
    let prediction = reference.model.forward(&images, false);
    detection_loss(&prediction, reference.model.head().bins(), &targets, Gains::default()).total().backward();
    let of_total: Vec<_> =
        reference.optimizer.gradients().map(|(name, gradient)| (name.to_owned(), gradient)).collect();

    for (what, found) in [
        ("of the loss", of_total),
        ("24 + 24 + 16", gradients(&images, &[24, 24, 16])),
        ("4 x 16", gradients(&images, &[16; 4])),
        ("64 x 1", gradients(&images, &[1; 64])),
    ] {
        assert_eq!(found.len(), whole.len());
        let mut worst = 0.0_f64;
        for ((name, found), (_, expected)) in found.iter().zip(&whole) {
            let length = expected.norm().double_value(&[]);
            let difference = (found - expected).norm().double_value(&[]) / length.max(1e-12);
            assert!(difference <= ROUNDING, "{what}: {name} differs by {difference:e} of its length");
            worst = worst.max(difference);
        }
        println!("{what}: at most {worst:e} of a gradient's length");
    }
}

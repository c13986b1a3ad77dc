//! Speed of a training step on this machine's CPU: yolov8n, 320 pixels, batch 16, 32 bits, two threads.
//! One line `name value unit`.

use std::time::Instant;

use tch::{Device, Kind, Tensor};
use trainyard_trainer::libtorch;
use trainyard_trainer::loss::Gains;
use trainyard_trainer::loss::assign::{Object, Targets};
use trainyard_trainer::model::Model;
use trainyard_trainer::optim::Schedule;
use trainyard_trainer::train::step::Trainer;
use trainyard_types::{ModelScale, TrainSpec};

const BATCH: usize = 16;
const SIDE: i64 = 320;
const THREADS: i32 = 2;
/// Objects an image.
const OBJECTS: u16 = 8;

fn main() {
    let _ = libtorch::load_cuda();
    tch::set_num_threads(THREADS);
    tch::manual_seed(0);
    let spec = TrainSpec { imgsz: 320, nbs: 16, warmup_epochs: 0.0, ..TrainSpec::new(ModelScale::N, "/") };
    let model = Model::new(spec.model, 3, 0, Device::Cpu);
    let schedule = Schedule::new(&spec, 1600, 16);
    let mut trainer = Trainer::new(model, schedule, Gains::default(), false);
    let images = Tensor::rand([BATCH as i64, 3, SIDE, SIDE], (Kind::Float, Device::Cpu));
    let targets = Targets::new(&objects(), BATCH, [SIDE, SIDE], Device::Cpu);
    trainer.learn(&images, &targets);
    trainer.step(0);
    // The median of some steps: others may use the machine meanwhile.
    let mut seconds: Vec<f64> = (1..8)
        .map(|iteration| {
            let start = Instant::now();
            trainer.learn(&images, &targets);
            trainer.step(iteration);
            start.elapsed().as_secs_f64()
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    let median = seconds[seconds.len() / 2];
    #[expect(clippy::cast_precision_loss, reason = "a small constant")]
    let rate = BATCH as f64 / median;
    println!("train_step_yolov8n_320_b16_fp32_2threads {rate:.2} images/s");
}

/// Boxes spread over every image.
fn objects() -> Vec<Object> {
    let object = |image: u32, at: u16| {
        let place = f32::from(at) / f32::from(OBJECTS);
        Object { image, class: u32::from(at % 3), cxcywh: [0.1 + 0.8 * place, 0.9 - 0.8 * place, 0.15, 0.2] }
    };
    (0..16).flat_map(|image| (0..OBJECTS).map(move |at| object(image, at))).collect()
}

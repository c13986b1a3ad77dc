//! Speed of a training step on this machine's CPU: yolov8n, 320 pixels, batch 16, two threads, in 32 bits
//! and in bf16. One line `name value unit`.
//!
//! Rates are the median of some steps, alternating between the precisions: others may use the machine
//! meanwhile. Rates per CPU-second hardly depend on them.

use std::time::Instant;

use tch::{Device, Kind, Tensor};
use trainyard_trainer::libtorch::{self, Precision};
use trainyard_trainer::loss::Gains;
use trainyard_trainer::loss::assign::{Object, Targets};
use trainyard_trainer::model::Model;
use trainyard_trainer::optim::{Rule, Schedule};
use trainyard_trainer::train::state::TrainState;
use trainyard_types::{ModelScale, TrainSpec};

const BATCH: usize = 16;
const SIDE: i64 = 320;
const THREADS: i32 = 2;
/// Objects an image.
const OBJECTS: u16 = 8;
/// Measured of each precision.
const STEPS: u64 = 10;
/// Kernel ticks a second, in which /proc counts CPU time on every Linux that matters.
const TICKS: f64 = 100.0;

/// A training, and what its steps took.
struct Run {
    trainer: TrainState,
    wall: Vec<f64>,
    cpu: Vec<f64>,
}

fn main() {
    let _ = libtorch::load_cuda();
    tch::set_num_threads(THREADS);
    // As a training does.
    libtorch::keep_freed_memory();
    libtorch::bind_threads();
    tch::manual_seed(0);
    let images = Tensor::rand([BATCH as i64, 3, SIDE, SIDE], (Kind::Float, Device::Cpu));
    let mut runs = [Precision::Fp32, Precision::Bf16].map(run);
    for unit in 0..=STEPS {
        for run in &mut runs {
            let (start, cpu) = (Instant::now(), cpu_seconds());
            let targets = Targets::new(&objects(), BATCH, [SIDE, SIDE], Device::Cpu);
            run.trainer.forward_backward(&images, &targets);
            run.trainer.step(unit);
            // The first one allocates.
            if unit > 0 {
                run.wall.push(start.elapsed().as_secs_f64());
                run.cpu.push(cpu_seconds() - cpu);
            }
        }
    }
    for run in &mut runs {
        let precision = run.trainer.precision().name();
        let name = format!("train_step_yolov8n_320_b16_{precision}_2threads");
        println!("{name} {:.2} images/s", rate(median(&mut run.wall)));
        println!("{name}_per_cpu {:.2} images/cpu-s", rate(median(&mut run.cpu)));
    }
}

fn run(precision: Precision) -> Run {
    let spec = TrainSpec { imgsz: 320, nbs: 16, warmup_epochs: 0.0, ..TrainSpec::new(ModelScale::N, "/") };
    let model = Model::new(spec.model, 3, 0, Device::Cpu);
    let schedule = Schedule::new(&spec, 1600, 16);
    let trainer = TrainState::new(model, Rule::Sgd, schedule, Gains::default(), precision);
    Run { trainer, wall: Vec::new(), cpu: Vec::new() }
}

fn rate(seconds: f64) -> f64 {
    BATCH as f64 / seconds
}

fn median(seconds: &mut [f64]) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

/// Seconds that this process has used so far, in all its threads.
fn cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").expect("Linux tells a process about itself");
    // The name, in parentheses, may hold spaces; user and system time are fields 14 and 15.
    let fields = text.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: f64 = fields.skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum();
    ticks / TICKS
}

/// Boxes spread over every image.
fn objects() -> Vec<Object> {
    let object = |image: u32, at: u16| {
        let place = f32::from(at) / f32::from(OBJECTS);
        Object { image, class: u32::from(at % 3), cxcywh: [0.1 + 0.8 * place, 0.9 - 0.8 * place, 0.15, 0.2] }
    };
    (0..16).flat_map(|image| (0..OBJECTS).map(move |at| object(image, at))).collect()
}

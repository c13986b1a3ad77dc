//! Speeds on this machine's first GPU, one line `name value unit`: steps of several models, sizes, batches and
//! precisions, with the memory that they take. With `TRAINYARD_GPU_REHEARSAL` one small one, for a simulated GPU.

use std::time::Instant;

use tch::{Cuda, Device};
use trainyard_data::{Batch, Target};
use trainyard_trainer::libtorch::{self, Precision, catch};
use trainyard_trainer::loss::Gains;
use trainyard_trainer::model::Model;
use trainyard_trainer::optim::{Rule, Schedule};
use trainyard_trainer::train::state::TrainState;
use trainyard_trainer::train::upload::Uploader;
use trainyard_types::{ModelScale, TrainSpec};

/// Steps that are measured, after the first ones, in which memory is taken and algorithms are chosen.
const STEPS: u64 = 12;
const WARM_UP: u64 = 3;
/// Objects an image.
const OBJECTS: u32 = 8;
const CLASSES: i64 = 80;

/// One training to measure.
#[derive(Clone, Copy)]
struct Case {
    model: ModelScale,
    side: usize,
    batch: usize,
    precision: Precision,
    /// Whether cuDNN searches the fastest algorithm of each shape.
    search: bool,
}

impl Case {
    fn name(&self) -> String {
        let Self { model, side, batch, precision, search } = self;
        let search = if *search { "_search" } else { "" };
        format!("gpu_{model}_{side}_b{batch}_{}{search}", precision.name())
    }
}

fn cases() -> Vec<Case> {
    let case = |model, side, batch, precision| Case { model, side, batch, precision, search: false };
    if std::env::var_os("TRAINYARD_GPU_REHEARSAL").is_some() {
        return vec![case(ModelScale::N, 64, 2, Precision::Fp32)];
    }
    let mut cases = Vec::new();
    for model in [ModelScale::N, ModelScale::S, ModelScale::M] {
        for (side, batch) in [(640, 16), (640, 64), (320, 64)] {
            cases.push(case(model, side, batch, Precision::Fp16));
        }
    }
    for precision in [Precision::Bf16, Precision::Fp32] {
        cases.push(case(ModelScale::N, 640, 16, precision));
    }
    cases.push(Case { search: true, ..case(ModelScale::N, 640, 16, Precision::Fp16) });
    cases
}

/// Grey images with objects at a few places.
fn batch(case: Case) -> Batch {
    let Case { side, batch, .. } = case;
    let object =
        |image, at: u32| Target { image, class: at % 3, cxcywh: [0.1 + 0.1 * at as f32, 0.5, 0.15, 0.2] };
    Batch {
        number: 0,
        images: vec![114_u8; batch * 3 * side * side].into(),
        n: batch,
        height: side,
        width: side,
        targets: (0..batch as u32).flat_map(|image| (0..OBJECTS).map(move |at| object(image, at))).collect(),
        indices: (0..batch).collect(),
        placements: Vec::new(),
    }
}

fn measure(case: Case, device: Device) {
    let (name, images) = (case.name(), case.batch as f64);
    Cuda::cudnn_set_benchmark(case.search);
    let spec = TrainSpec { nbs: case.batch as u32, ..TrainSpec::new(case.model, "/data.yaml") };
    let model = Model::new(case.model, CLASSES, 0, device);
    let schedule = Schedule::new(&spec, case.batch as u64, case.batch as u32);
    let mut state = TrainState::new(model, Rule::Sgd, schedule, Gains::default(), case.precision);
    let (uploader, batch) = (Uploader::new(device, case.precision), batch(case));
    let mut step = |unit| {
        let tensors = uploader.upload(&batch);
        state.forward_backward(&tensors.images, &tensors.targets);
        state.step(unit);
    };
    let began = Instant::now();
    step(0);
    Cuda::synchronize(0);
    println!("{name}_first_step {:.2} s", began.elapsed().as_secs_f64());
    (1..WARM_UP).for_each(&mut step);
    Cuda::synchronize(0);
    let began = Instant::now();
    (0..STEPS).for_each(&mut step);
    // What the host needs to start the work of a step; the rest of the time is the GPU's.
    let host = began.elapsed().as_secs_f64() / STEPS as f64;
    Cuda::synchronize(0);
    let seconds = began.elapsed().as_secs_f64() / STEPS as f64;
    println!("{name} {:.1} images/s", images / seconds);
    println!("{name}_host {:.1} ms", host * 1e3);
    if let Some(stats) = libtorch::memory_stats(device) {
        println!("{name}_memory {} MiB", stats.peak_reserved_bytes >> 20);
        println!("{name}_allocation_retries {} times", stats.retries);
    }
}

fn main() {
    let device = match libtorch::device("cuda:0", &libtorch::load_cuda()) {
        Ok(device) => device,
        Err(error) => {
            eprintln!("this needs an NVIDIA GPU: {error}");
            std::process::exit(1);
        }
    };
    for case in cases() {
        tch::manual_seed(0);
        if let Err(error) = catch(|| measure(case, device)) {
            // Not a failure: small GPUs have no room for large batches.
            eprintln!("{} does not run: {error}", case.name());
        }
        let _ = libtorch::memory::release(device).and_then(|()| libtorch::memory::reset_peak(device));
    }
}

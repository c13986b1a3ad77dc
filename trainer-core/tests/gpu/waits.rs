//! No step and no batch of a validation waits for the GPU: libtorch itself refuses to wait meanwhile.

use std::ffi::c_int;

use libloading::os::unix::Library;
use trainyard_data::{Batch, Target};
use trainyard_trainer::libtorch::Precision;
use trainyard_trainer::loss::Gains;
use trainyard_trainer::optim::Rule;
use trainyard_trainer::train::memory::PhaseTracker;
use trainyard_trainer::train::upload::Uploader;
use trainyard_trainer::train::validate::{BatchInFlight, ValidationConfig, rehearse};

use super::golden::alone;
use super::{gpu, state};

/// As long as it lives, libtorch throws where it would wait for the GPU.
struct WaitsForbidden(*mut c_int);

impl WaitsForbidden {
    /// `c10::cuda::SyncDebugMode::L_ERROR`.
    const ERROR: c_int = 2;

    fn begin() -> Self {
        // SAFETY: what `c10::cuda::warning_state()` returns a reference to is nothing but the mode.
        let mode = unsafe {
            let library = Library::open(Some("libc10_cuda.so"), libloading::os::unix::RTLD_NOW).unwrap();
            let name = b"_ZZN3c104cuda13warning_stateEvE14warning_state_";
            let mode: *mut c_int = *library.get(name).unwrap();
            *mode = Self::ERROR;
            mode
        };
        Self(mode)
    }
}

impl Drop for WaitsForbidden {
    fn drop(&mut self) {
        // SAFETY: it stays as long as the process.
        unsafe { *self.0 = 0 };
    }
}

fn batch() -> Batch {
    const SIDE: usize = 160;
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

#[test]
fn three_steps_wait_for_nothing() {
    let _alone = alone();
    let mut state = state(gpu(), Rule::Sgd, Precision::Fp16);
    let uploader = Uploader::new(gpu(), Precision::Fp16);
    let mut step = |unit| {
        let tensors = uploader.upload(&batch());
        state.forward_backward(&tensors.images, &tensors.targets);
        state.step(unit);
    };
    // The first one makes what is made once.
    step(0);
    let forbidden = WaitsForbidden::begin();
    for unit in 1..4 {
        step(unit);
    }
    drop(forbidden);
}

#[test]
fn batches_of_a_validation_are_begun_without_a_wait() {
    let _alone = alone();
    let precision = Precision::Fp16;
    let model = state(gpu(), Rule::Sgd, precision).model;
    let (tracker, uploader) = (&PhaseTracker::default(), &Uploader::new(gpu(), precision));
    let gains = Gains::default();
    let config = ValidationConfig { gains, precision, uploader, most_objects: 2, tracker, show: |_, _| {} };
    // The first ones make what is made once.
    rehearse(&model, &batch(), &config);
    let forbidden = WaitsForbidden::begin();
    let begun = [(); 2].map(|()| BatchInFlight::begin(&model, &batch(), &config));
    drop(forbidden);
    assert_eq!(begun.map(|batch| batch.finish().detections.len()), [4, 4]);
}

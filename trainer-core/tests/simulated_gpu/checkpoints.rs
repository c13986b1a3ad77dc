//! What a checkpoint takes from the GPU: the same bytes as tensor by tensor, for a few waits.

use tch::{Device, Kind, Tensor};
use trainyard_trainer::checkpoint::{Identity, Progress};
use trainyard_trainer::libtorch::{self, Precision};
use trainyard_trainer::optim::Rule;
use trainyard_trainer::train::output::saver::{Snapshot, WeightsFiles};
use trainyard_trainer::train::resume::snapshot;
use trainyard_trainer::train::upload::Uploader;
use trainyard_trainer::weights::{HostTensors, Metadata};
use trainyard_types::ModelScale;

use super::steps::{state, train};
use super::{GPU, alone};

/// The files of a checkpoint, encoded.
fn encoded(snapshot: Snapshot) -> Vec<(&'static str, Vec<u8>)> {
    let encode = |tensors: &HostTensors| tensors.encode(&Metadata::new()).unwrap();
    snapshot.files.into_iter().map(|(name, tensors)| (name, encode(&tensors))).collect()
}

#[test]
fn a_checkpoint_on_the_gpu_is_the_cpus_byte_by_byte_and_each_of_its_files_is_one_wait() {
    let (gpu, _alone) = alone();
    for rule in [Rule::Sgd, Rule::AdamW { beta1: 0.9 }] {
        let [on_cpu, on_gpu] = [Device::Cpu, GPU].map(|device| {
            let mut state = state(device, rule, Precision::Fp32);
            let uploader = Uploader::new(device, Precision::Fp32);
            train(&mut state, &uploader, 2);
            let tensors = uploader.upload(&super::steps::batch());
            state.forward_backward(&tensors.images, &tensors.targets);
            let progress = Progress::start(Identity::new(ModelScale::N, Vec::new(), 4, 0), 4);
            gpu.reset();
            let snapshot = snapshot(&state, &progress, &WeightsFiles::default());
            (snapshot, gpu.counts())
        });
        let counts = on_gpu.1;
        // The model, its average, the optimiser's state, the accumulated gradients.
        assert_eq!((counts.waits, counts.staged, counts.hazards), (4, 0, 0), "{counts:?}");
        let (on_cpu, on_gpu) = (encoded(on_cpu.0), encoded(on_gpu.0));
        assert_eq!(on_gpu.len(), 4);
        for ((name, cpu), (other, gpu)) in on_cpu.iter().zip(&on_gpu) {
            assert!(name == other && cpu == gpu, "{rule:?}: {name} differs");
        }
    }
}

/// Tensors of 150 MiB in all.
fn large(device: Device) -> Vec<(String, Tensor)> {
    let one = |at: i64| {
        let numbers = Tensor::arange((5 << 20) / 4, (Kind::Float, Device::Cpu)) * at as f64;
        (format!("t{at:02}"), numbers.to_device(device))
    };
    (0..30).map(one).collect()
}

fn encode(tensors: &[(String, Tensor)]) -> Vec<u8> {
    let named = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor));
    HostTensors::copy(named).encode(&Metadata::new()).unwrap()
}

#[test]
fn many_tensors_come_in_pieces_for_which_the_gpu_needs_little_memory() {
    let (gpu, _alone) = alone();
    let tensors = large(GPU);
    let before = libtorch::memory_stats(GPU).unwrap().allocated_bytes;
    libtorch::memory::reset_peak(GPU).unwrap();
    gpu.reset();
    let found = encode(&tensors);
    let counts = gpu.counts();
    let peak = libtorch::memory_stats(GPU).unwrap().peak_allocated_bytes;
    // 12, 12 and 6 of them.
    assert_eq!((counts.waits, counts.staged, counts.hazards), (3, 0, 0), "{counts:?}");
    // The simulated GPU copies as late as may be, and keeps a piece until then.
    assert!(peak - before <= 2 * (64 << 20), "{}", peak - before);
    assert!(found == encode(&large(Device::Cpu)));
}

#[test]
fn where_the_gpu_has_no_room_for_a_piece_tensors_come_one_by_one() {
    let (gpu, _alone) = alone();
    let (tensors, expected) = (large(GPU), encode(&large(Device::Cpu)));
    for nth in [1, 2] {
        gpu.reset();
        gpu.fail_at(nth);
        let found = encode(&tensors);
        gpu.fail_at(0);
        assert!(found == expected);
        let counts = gpu.counts();
        assert!(counts.waits >= 30, "{counts:?}");
    }
}

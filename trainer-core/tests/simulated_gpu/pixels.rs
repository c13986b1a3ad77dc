//! Batches that the loader writes into page-locked memory, from where the GPU copies them.

use std::collections::BTreeSet;
use std::sync::Arc;

use tch::{Device, Tensor};
use tempfile::TempDir;
use trainyard_data::{CacheMode, DataYaml, Dataset, ImageStore, OpenOptions, Split, ValConfig, ValLoader};
use trainyard_trainer::libtorch::Precision;
use trainyard_trainer::libtorch::copies::Copier;
use trainyard_trainer::train::locked_pixels::{LockedPixels, pixel_memory};
use trainyard_trainer::train::upload::Uploader;

use super::{GPU, alone, shapes};

const BATCHES: usize = 12;
/// Buffers that wait or are in the making, at most, without worker threads.
const BUFFERS: usize = 4;

/// Batches of one image each, all of them different.
fn loader() -> (TempDir, ValLoader) {
    let folder = tempfile::tempdir().unwrap();
    let yaml = DataYaml::read(&shapes::write(folder.path(), BATCHES as u32)).unwrap();
    let dataset = Dataset::open(&yaml, Split::Val, &OpenOptions::default()).unwrap();
    let store = Arc::new(ImageStore::new(Arc::new(dataset), shapes::SIDE as usize, CacheMode::None));
    let config = ValConfig { imgsz: shapes::SIDE as usize, batch_size: 1, workers: 0, prefetch: 1 };
    (folder, ValLoader::new(store, config).with_memory(pixel_memory(GPU)))
}

/// Sends every batch, drops it, and only then lets the GPU copy them. Returns how many arrived as they were, and how many
/// buffers there were. `told`: the loader is told until when each is read.
fn send_all(told: bool) -> (usize, usize) {
    let (_folder, loader) = loader();
    let copier = Copier::new(GPU).unwrap();
    let (mut sent, mut buffers) = (Vec::new(), BTreeSet::new());
    for batch in loader.pass() {
        let batch = batch.unwrap();
        let locked = batch.images.lent::<LockedPixels>().expect("the loader takes page-locked memory");
        let view = locked.view(0..batch.images.len());
        buffers.insert(view.data_ptr() as usize);
        let copy = copier.send(&[&view]).unwrap();
        if told {
            locked.read_until(copy.arrival());
        }
        sent.push((Tensor::from_slice(&batch.images), copy));
    }
    let arrived = sent.into_iter().map(|(expected, copy)| {
        let there = copier.receive(copy).unwrap().remove(0);
        there.to_device(Device::Cpu).equal(&expected)
    });
    (arrived.filter(|same| *same).count(), buffers.len())
}

#[test]
fn a_batchs_memory_is_written_again_only_when_the_gpu_has_copied_it() {
    let (gpu, _alone) = alone();
    let (same, buffers) = send_all(true);
    assert_eq!(same, BATCHES);
    assert!(buffers <= BUFFERS, "{buffers}");
    let counts = gpu.counts();
    assert_eq!((counts.staged, counts.hazards), (0, 0), "{counts:?}");
    // The wrong order does show.
    let (same, buffers) = send_all(false);
    assert!(same < BATCHES && buffers < BUFFERS, "{same} of {buffers}");
}

#[test]
fn an_upload_of_such_a_batch_waits_for_nothing_and_brings_the_same() {
    let (gpu, _alone) = alone();
    let (_folder, loader) = loader();
    let [on_cpu, on_gpu] = [Device::Cpu, GPU].map(|device| Uploader::new(device, Precision::Fp16));
    for batch in loader.pass() {
        let batch = batch.unwrap();
        gpu.reset();
        let there = on_gpu.upload(&batch);
        let counts = gpu.counts();
        assert_eq!((counts.waits, counts.staged, counts.hazards), (0, 0, 0), "{counts:?}");
        assert!(there.images.to_device(Device::Cpu).equal(&on_cpu.upload(&batch).images));
    }
}

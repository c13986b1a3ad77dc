//! What a run needs of its device's memory, measured before its first step by a dry run of one.
//!
//! The batch is the densest one that the labels allow: the assigner's memory grows with the objects of an
//! image. It takes the way of any other, up to the optimiser, which skips the step. A validation batch of the
//! largest shape comes first: it is the smaller one, and on a CPU some memory that was held stays held.

use std::collections::BTreeMap;

use tch::Device;
use trainyard_data::Target;
use trainyard_data::{AugmentConfig, Batch, MosaicTiles};
use trainyard_types::TrainSpec;
use trainyard_types::trainer::{MemoryMeasured, Phase};

use super::peak_memory::PeakMemory;
use crate::libtorch::memory_stats;
use crate::train::batch_tensors::BatchTensors;
use crate::train::bn_state::BnState;
use crate::train::setup::Setup;
use crate::train::state::TrainState;
use crate::train::upload::Uploader;
use crate::train::validate::{ValidationConfig, rehearse};

/// How many times over the objects of the densest batch cover an image, at least.
const COVERED: f32 = 1.5;

/// When memory is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum ProbeWhen {
    /// On a GPU; not on a CPU, where a step takes long and memory is only short of for large batches.
    #[default]
    Auto,
    /// Before each first step.
    Always,
    /// Not at all.
    Never,
}

impl ProbeWhen {
    /// Whether to measure on `device`.
    pub fn wants(self, device: Device) -> bool {
        match self {
            Self::Auto => device != Device::Cpu,
            Self::Always => true,
            Self::Never => false,
        }
    }
}

/// The measurement of a run's memory before its first step.
#[derive(Debug, Clone, Copy)]
pub struct MemoryProbe<'a> {
    /// The run.
    pub setup: &'a Setup,
    /// Images per batch.
    pub batch_size: u32,
    /// Brings batches to the device.
    pub uploader: &'a Uploader,
    /// How the run validates.
    pub validation: &'a ValidationConfig<'a>,
}

impl MemoryProbe<'_> {
    /// Measures. `state` must be new, without accumulated gradients, and is to the bit what it was afterwards.
    /// Where memory runs out libtorch's exception comes as a panic, as in any step.
    pub fn run(&self, state: &mut TrainState) -> MemoryMeasured {
        let (device, tracker) = (state.model.device(), self.validation.tracker);
        let fixed_mib = PeakMemory::start(device).baseline_mib();
        tracker.enter(Phase::Measurement, self.batch_size as usize);
        let validation_peak_mib = self.validation_peak_mib(state);
        // The batch of validation has entered a phase of its own.
        tracker.enter(Phase::Measurement, 0);
        let spec = self.setup.spec();
        let images = (self.batch_size as usize).min(self.setup.train.len());
        let objects = densest(&self.setup.train.dataset().report.objects, images, partners(spec));
        let side = largest_side(spec);
        let batch = synthetic(&objects, [side, side]);
        let bn_state = BnState::save(&state.model);
        let memory = PeakMemory::start(device);
        let BatchTensors { images, targets } = self.uploader.upload(&batch);
        state.forward_backward(&images, &targets);
        state.dry_run();
        let step_peak_mib = memory.peak_mib();
        bn_state.restore(&state.model);
        PeakMemory::start(device);
        let beside_mib = memory_stats(device)
            .map(|stats| stats.total_bytes.saturating_sub(stats.free_bytes + stats.reserved_bytes) >> 20);
        MemoryMeasured {
            batch_size: self.batch_size,
            fixed_mib,
            step_peak_mib,
            densest_objects: u32::try_from(objects.iter().sum::<usize>()).unwrap_or(u32::MAX),
            validation_peak_mib,
            beside_mib,
        }
    }

    /// The peak of a validation batch, in MiB.
    fn validation_peak_mib(&self, state: &TrainState) -> u64 {
        let largest = self.setup.val_loader(self.batch_size).largest();
        let Some((images, [width, height])) = largest else { return 0 };
        let objects = densest(&self.setup.val.dataset().report.objects, images, 0);
        let batch = synthetic(&objects, [height, width]);
        let memory = PeakMemory::start(state.model.device());
        rehearse(state.ema.model(), &batch, self.validation);
        memory.peak_mib()
    }
}

/// Objects in each image of the densest batch of `images` images: each is joined by the `partners` fullest ones.
/// `histogram`: images by how many objects they have.
pub fn densest(histogram: &BTreeMap<usize, usize>, images: usize, partners: usize) -> Vec<usize> {
    let by_count = histogram.iter().rev();
    let counts: Vec<usize> = by_count
        .flat_map(|(objects, images)| std::iter::repeat_n(*objects, *images))
        .take(images.max(partners + 1))
        .collect();
    let most = counts.first().copied().unwrap_or(0);
    let joined = |at: usize| {
        let others = counts.iter().enumerate().filter(|(other, _)| *other != at).map(|(_, count)| *count);
        // A small data set's images join each other more than once.
        others.chain(std::iter::repeat(most)).take(partners).sum::<usize>()
    };
    (0..images.min(counts.len())).map(|at| counts[at] + joined(at)).collect()
}

/// Images that may join another one in a sample, by mosaic and mixup.
fn partners(spec: &TrainSpec) -> usize {
    let augment = AugmentConfig::from(spec);
    let mosaic = match augment.tiles {
        _ if augment.mosaic <= 0.0 => 0,
        MosaicTiles::Four => 3,
        MosaicTiles::Nine => 8,
    };
    if augment.mixup > 0.0 { 2 * mosaic + 1 } else { mosaic }
}

/// The side of the largest images that train, in pixels.
fn largest_side(spec: &TrainSpec) -> usize {
    let side = spec.imgsz as usize;
    if spec.multi_scale { side * 3 / 2 / 32 * 32 } else { side }
}

/// A batch of grey images with so many objects, of `[height, width]` pixels.
fn synthetic(objects: &[usize], [height, width]: [usize; 2]) -> Batch {
    let n = objects.len();
    let target = |image: usize, at: usize, of: usize| {
        let place = 0.1 + 0.8 * at as f32 / of as f32;
        let image = u32::try_from(image).unwrap_or(u32::MAX);
        // The assigner's memory grows with the anchors inside of objects, too: few objects are large ones.
        let side = (COVERED / of as f32).sqrt().clamp(0.15, 1.0);
        Target { image, class: 0, cxcywh: [place, 1.0 - place, side, side] }
    };
    let targets = objects.iter().enumerate();
    Batch {
        number: 0,
        images: vec![114; n * 3 * height * width].into(),
        n,
        height,
        width,
        targets: targets.flat_map(|(image, &of)| (0..of).map(move |at| target(image, at, of))).collect(),
        indices: vec![0; n],
        placements: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use trainyard_types::ModelScale;

    use super::*;

    #[test]
    fn the_densest_batch_joins_each_image_with_the_fullest_others() {
        let histogram = BTreeMap::from([(0, 5), (2, 3), (7, 1), (40, 1)]);
        assert_eq!(densest(&histogram, 3, 0), [40, 7, 2]);
        assert_eq!(densest(&histogram, 3, 3), [40 + 7 + 2 + 2, 7 + 40 + 2 + 2, 2 + 40 + 7 + 2]);
        assert_eq!(densest(&histogram, 99, 0).len(), 10);
        // One image, four times.
        assert_eq!(densest(&BTreeMap::from([(6, 1)]), 1, 3), [24]);
        assert_eq!(densest(&BTreeMap::from([(0, 2)]), 2, 3), [0, 0]);
    }

    #[test]
    fn mosaics_and_mixup_decide_how_many_images_make_one() {
        let spec = |mosaic, mixup| TrainSpec { mosaic, mixup, ..TrainSpec::new(ModelScale::N, "/d.yaml") };
        let found = [(0.0, 0.0), (0.5, 0.0), (1.0, 0.1), (0.0, 0.1)]
            .map(|(mosaic, mixup)| partners(&spec(mosaic, mixup)));
        assert_eq!(found, [0, 3, 7, 1]);
    }

    #[test]
    fn the_largest_images_are_those_that_grow() {
        let side = |multi_scale| {
            largest_side(&TrainSpec { multi_scale, imgsz: 320, ..TrainSpec::new(ModelScale::N, "/d") })
        };
        assert_eq!((side(false), side(true)), (320, 480));
    }
}

//! Whole runs, in this process: a run on the GPU leaves what a run on the CPU leaves.

use tch::Device;
use tempfile::TempDir;
use trainyard_trainer::train::memory::ProbeWhen;
use trainyard_trainer::train::session::RunEnd;
use trainyard_trainer::train::setup::Options;
use trainyard_types::TrainSpec;
use trainyard_types::trainer::TrainerEvent;

use super::runs::checkpoints;
use super::runs::{options, run};
use super::{GPU, alone, shapes};

struct Bench {
    folder: TempDir,
    spec: TrainSpec,
}

impl Bench {
    /// Three epochs of four steps of two micro-batches each, in fp32, as a machine that computes bit by bit the same has.
    fn new(change: impl FnOnce(TrainSpec) -> TrainSpec) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = shapes::write(&folder.path().join("data"), 32);
        let spec = TrainSpec { nbs: 8, amp: false, mosaic: 0.5, close_mosaic: 1, ..shapes::spec(&data, 3) };
        Self { folder, spec: change(spec) }
    }

    fn options(&self, name: &str, device: Device) -> Options {
        let options = options(&self.spec, &self.folder.path().join(name));
        Options { device, batch_size: Some(4), resume: true, probe_memory: ProbeWhen::Never, ..options }
    }

    /// A run to the end.
    fn finish(&self, name: &str, device: Device) -> Vec<TrainerEvent> {
        let (end, events) = run(self.options(name, device), false);
        assert_eq!(end.unwrap(), RunEnd::Finished, "{events:?}");
        events
    }

    /// A run that is stopped after its first batch, in the middle of a step.
    fn stop(&self, name: &str, device: Device) {
        let (end, _) = run(self.options(name, device), true);
        assert_eq!(end.unwrap(), RunEnd::Stopped);
        let progress = checkpoints::newest(&self.folder.path().join(name)).progress;
        assert_eq!((progress.batches, progress.images_accumulated), (1, 4));
    }

    /// Tensors that differ between the newest checkpoints of two runs.
    fn differing(&self, a: &str, b: &str) -> Vec<String> {
        let [a, b] = [a, b].map(|name| checkpoints::newest(&self.folder.path().join(name)));
        checkpoints::differing(&a, &b, &["model", "ema", "optimizer"])
    }
}

/// Each step is of two micro-batches from the first one on.
fn without_warm_up(spec: TrainSpec) -> TrainSpec {
    TrainSpec { epochs: 2, warmup_epochs: 0.0, ..spec }
}

#[test]
fn a_run_on_the_gpu_leaves_the_checkpoint_of_a_run_on_the_cpu() {
    let (_gpu, _alone) = alone();
    let bench = Bench::new(|spec| spec);
    bench.finish("cpu", Device::Cpu);
    bench.finish("gpu", GPU);
    assert_eq!(bench.differing("cpu", "gpu"), Vec::<String>::new());
}

#[test]
fn a_run_of_several_sizes_and_groups_of_images_does_the_same_too() {
    let (_gpu, _alone) = alone();
    let bench = Bench::new(|spec| TrainSpec { multi_scale: true, bn_group: 2, epochs: 2, ..spec });
    bench.finish("cpu", Device::Cpu);
    bench.finish("gpu", GPU);
    assert_eq!(bench.differing("cpu", "gpu"), Vec::<String>::new());
}

#[test]
fn a_run_that_is_stopped_between_the_micro_batches_of_a_step_goes_on_as_if_it_had_not_been() {
    let (_gpu, _alone) = alone();
    let bench = Bench::new(without_warm_up);
    bench.finish("whole", GPU);
    bench.stop("parts", GPU);
    bench.finish("parts", GPU);
    assert_eq!(bench.differing("whole", "parts"), Vec::<String>::new());
}

#[test]
fn a_run_that_goes_from_the_gpu_to_the_cpu_and_back_in_the_middle_of_a_step_ends_as_if_it_had_stayed() {
    let (_gpu, _alone) = alone();
    let bench = Bench::new(without_warm_up);
    bench.finish("cpu", Device::Cpu);
    bench.stop("moved", GPU);
    // The first batch of the next process is the second of the step.
    let (end, _) = run(bench.options("moved", Device::Cpu), true);
    assert_eq!(end.unwrap(), RunEnd::Stopped);
    bench.finish("moved", GPU);
    assert_eq!(bench.differing("cpu", "moved"), Vec::<String>::new());
}

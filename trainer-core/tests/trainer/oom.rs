//! Memory that runs out, anywhere in a real training on the CPU: faults fail with libtorch's own words where a
//! GPU would. And its measurement before the first step.

use std::path::PathBuf;
use std::sync::OnceLock;

use tempfile::TempDir;
use trainyard_trainer::checkpoint::Loaded;
use trainyard_trainer::train::error::TrainError;
use trainyard_trainer::train::memory::ProbeWhen;
use trainyard_trainer::train::session::RunEnd;
use trainyard_trainer::train::setup::Options;
use trainyard_types::TrainSpec;
use trainyard_types::trainer::{Epoch, MemoryMeasured, Phase, TrainerEvent, exit_code};

use crate::runs::checkpoints::{differing, newest};
use crate::runs::events::{batch_sizes, epochs, memory, started};
use crate::runs::{alone, options};

/// Validation losses of a run some of whose batches were cut smaller: batch normalisation saw other batches.
/// Measured on runs of nine steps: 3.2 %. (Training losses are divided by the soft scores of a batch or by 1,
/// which ever is more, so before a model has learnt to see they grow with its images.)
const OTHER_BATCHES: f64 = 0.1;
/// Losses of validation in parts: sums in another order.
const ROUNDING: f64 = 1e-4;

/// Three optimiser steps an epoch, each of one batch of 8.
struct Bench {
    folder: TempDir,
    spec: TrainSpec,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = crate::shapes::write(&folder.path().join("data"), 24);
        let spec = TrainSpec {
            nbs: 8,
            warmup_epochs: 0.0,
            mosaic: 0.5,
            close_mosaic: 1,
            ..crate::shapes::spec(&data, 3)
        };
        Self { folder, spec }
    }

    fn options(&self, name: &str, batch_size: u32) -> Options {
        Options { batch_size: Some(batch_size), resume: true, ..options(&self.spec, &self.run_dir(name)) }
    }

    fn run_dir(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A run to the end.
    fn finish(&self, name: &str, batch_size: u32, faults: &str) -> Vec<TrainerEvent> {
        let (end, events) = crate::runs::run_with(self.options(name, batch_size), false, faults);
        assert_eq!(end.unwrap(), RunEnd::Finished, "{faults}: {events:?}");
        events
    }

    /// So many batches, each by a run that is asked to stop.
    fn batches(&self, name: &str, batch_size: u32, count: u64) {
        for _ in 0..count {
            assert_eq!(crate::runs::run(self.options(name, batch_size), true).0.unwrap(), RunEnd::Stopped);
        }
        assert_eq!(self.newest(name).progress.batches, count);
    }

    fn newest(&self, name: &str) -> Loaded {
        newest(&self.run_dir(name))
    }

    /// Tensors of the newest checkpoints that differ in a bit, and of the best weights.
    fn differing(&self, a: &str, b: &str) -> Vec<String> {
        differing_in_all(&self.newest(a), &self.newest(b))
    }
}

/// A run of the bench's spec with batch 8 and without a fault.
struct Whole {
    events: Vec<TrainerEvent>,
    /// Its last checkpoint.
    end: Loaded,
}

/// Several tests compare with this run; it is made once.
fn whole() -> &'static Whole {
    static WHOLE: OnceLock<Whole> = OnceLock::new();
    WHOLE.get_or_init(|| {
        let bench = Bench::new();
        Whole { events: bench.finish("whole", 8, ""), end: bench.newest("whole") }
    })
}

fn differing_in_all(a: &Loaded, b: &Loaded) -> Vec<String> {
    assert_eq!((a.progress.batches, a.progress.updates), (b.progress.batches, b.progress.updates));
    differing(a, b, &["model", "ema", "optimizer", "best"])
}

fn steps_down(events: &[TrainerEvent]) -> Vec<(u32, u32, Phase)> {
    batch_sizes(events).into_iter().map(|change| (change.from, change.to, change.phase)).collect()
}

/// The largest distance of losses, as a share, over all epochs.
fn distance(a: &[TrainerEvent], b: &[TrainerEvent], what: &str) -> f64 {
    let (a, b) = (epochs(a), epochs(b));
    assert_eq!(a.len(), b.len());
    let losses = a.iter().zip(&b).flat_map(|(a, b)| {
        let losses = a.metrics.iter().filter(|(name, _)| name.starts_with(what));
        losses.map(|(name, value)| (value / b.metrics[name] - 1.0).abs())
    });
    losses.fold(0.0, f64::max)
}

#[test]
fn what_does_not_fit_from_the_start_trains_as_if_it_had_begun_smaller() {
    let _alone = alone();
    let bench = Bench::new();
    bench.finish("smaller", 6, "");
    let events = bench.finish("first step", 8, "8@forward");
    assert_eq!(steps_down(&events), [(8, 6, Phase::Forward)]);
    assert_eq!(bench.differing("smaller", "first step"), Vec::<String>::new());
    // No checkpoint can be made at all: from the start again, with less.
    let events = bench.finish("checkpoint", 8, "8@checkpoint");
    assert_eq!(steps_down(&events), [(8, 6, Phase::Checkpoint)]);
    assert_eq!(bench.differing("smaller", "checkpoint"), Vec::<String>::new());
}

#[test]
fn in_the_middle_of_an_epoch_it_goes_on_from_the_last_optimiser_step_with_nothing_lost() {
    let _alone = alone();
    let bench = Bench::new();
    let whole = whole();
    // What should come out: two batches of 8, and the rest with 6.
    bench.batches("expected", 8, 2);
    bench.finish("expected", 6, "");
    for (name, faults, phase) in
        [("backward", "8@backward:3", Phase::Backward), ("loss", "8@loss:3!", Phase::Loss)]
    {
        let events = bench.finish(name, 8, faults);
        assert_eq!(steps_down(&events), [(8, 6, phase)]);
        let message = &batch_sizes(&events)[0].message;
        assert!(message.contains("going on with 6 from the newest checkpoint"), "{message}");
        assert_eq!(bench.differing("expected", name), Vec::<String>::new(), "{faults}");
        // The same images in the same optimiser steps as without a fault; only batch normalisation saw less at once.
        let updates = bench.newest(name).progress.updates;
        assert_eq!((updates, whole.end.progress.updates), (9, 9));
        let distance = distance(&events, &whole.events, "val/");
        println!("{faults}: validation losses differ by {distance:.3} from a run without");
        assert!(distance < OTHER_BATCHES, "{distance}");
    }
    // In an optimiser step some weights have moved: from the checkpoint at the epoch's end.
    let events = bench.finish("optimizer", 8, "8@optimizer:5");
    assert_eq!(steps_down(&events), [(8, 6, Phase::Optimizer)]);
    assert_eq!(epochs(&events).iter().map(|epoch| epoch.epoch).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(epochs(&events)[0].metrics, epochs(&whole.events)[0].metrics, "before it");
    assert!(distance(&events, &whole.events, "val/") < OTHER_BATCHES);
}

#[test]
fn in_validation_and_at_a_checkpoint_training_stays_as_it_is_to_the_bit() {
    let _alone = alone();
    let bench = Bench::new();
    let whole = whole();
    // Validation takes twice as many images at once.
    let events = bench.finish("validation", 8, "13@validation:2");
    assert_eq!(steps_down(&events), [(8, 8, Phase::Validation)], "told once");
    assert!(batch_sizes(&events)[0].message.contains("validation looks at 12 at once"), "{events:?}");
    assert_eq!(differing_in_all(&whole.end, &bench.newest("validation")), Vec::<String>::new());
    assert!(distance(&events, &whole.events, "val/") < ROUNDING);
    for (found, expected) in epochs(&events).iter().zip(epochs(&whole.events)) {
        let map = |epoch: &Epoch| epoch.metrics["metrics/mAP50-95(B)"];
        assert!((map(found) - map(expected)).abs() < 1e-6);
    }
    let events = bench.finish("checkpoint", 8, "1@checkpoint:2!");
    assert_eq!(steps_down(&events), [(8, 8, Phase::Checkpoint)]);
    assert_eq!(differing_in_all(&whole.end, &bench.newest("checkpoint")), Vec::<String>::new());
}

#[test]
fn with_bn_group_a_passing_shortage_changes_no_bit_and_a_lasting_one_ends_the_process() {
    let _alone = alone();
    let mut bench = Bench::new();
    bench.spec.bn_group = 4;
    let whole = bench.finish("whole", 8, "");
    let events = bench.finish("passing", 8, "4@backward:5!");
    assert_eq!(steps_down(&events), [(4, 4, Phase::Backward)]);
    assert_eq!(bench.differing("whole", "passing"), Vec::<String>::new());
    assert_eq!(epochs(&events).last().unwrap().metrics, epochs(&whole).last().unwrap().metrics);

    bench.spec.bn_group = 0;
    let (end, events) = crate::runs::run_with(bench.options("lasting", 8), false, "1@forward:5");
    let error = end.unwrap_err();
    assert!(matches!(error, TrainError::OutOfMemoryAgain { .. }), "{error}");
    assert_eq!(error.exit_code(), exit_code::GPU_OOM_AGAIN);
    assert!(error.to_string().contains("goes on from the newest checkpoint"), "{error}");
    let sizes: Vec<(u32, u32)> = batch_sizes(&events).iter().map(|change| (change.from, change.to)).collect();
    assert_eq!(sizes, [(8, 6), (6, 4), (4, 3), (3, 2), (2, 1), (1, 1)]);
    assert_eq!(bench.newest("lasting").progress.batches, 4, "a new process goes on from the last step");
    bench.finish("lasting", 8, "");

    // Not even one image at a time can be validated: what was learnt before is not lost.
    let (end, _) = crate::runs::run_with(bench.options("validation", 8), false, "1@validation");
    assert!(matches!(end, Err(TrainError::OutOfMemoryAgain { .. })), "{end:?}");
    let progress = bench.newest("validation").progress;
    assert_eq!((progress.batches, progress.images_done, progress.epoch), (3, 24, 0));
}

#[test]
fn what_never_fits_ends_with_what_would() {
    let _alone = alone();
    let bench = Bench::new();
    let (end, _) = crate::runs::run_with(bench.options("run", 2), false, "1");
    let error = end.unwrap_err();
    assert_eq!(error.exit_code(), exit_code::GPU_OOM);
    let text = error.to_string();
    assert!(text.contains("CUDA out of memory") && text.contains("what would fit: "), "{text}");
    assert!(text.ends_with("a GPU with 4 GB"), "{text}");
}

#[test]
fn measuring_memory_changes_no_bit_of_a_run_however_often_it_is_resumed() {
    let _alone = alone();
    let mut bench = Bench::new();
    // Gradients wait for a step when the run stops.
    bench.spec.nbs = 20;
    bench.spec.multi_scale = true;
    let whole = bench.finish("whole", 8, "");
    assert!(memory(&whole).is_empty(), "a CPU is not measured unasked");
    let always = || Options { probe_memory: ProbeWhen::Always, ..bench.options("measured", 8) };
    for _ in 0..2 {
        let (end, events) = crate::runs::run(always(), true);
        assert_eq!((end.unwrap(), memory(&events).len()), (RunEnd::Stopped, 1));
    }
    let (end, events) = crate::runs::run(always(), false);
    assert_eq!(end.unwrap(), RunEnd::Finished);
    assert_eq!(bench.differing("whole", "measured"), Vec::<String>::new());
    let [measured] = memory(&events)[..] else { panic!("{events:?}") };
    println!("{measured:?}");
    // Each image has one object; half of the samples are of four images.
    assert_eq!((measured.batch_size, measured.densest_objects), (8, 32));
    // How they compare depends on what the kernel leaves resident.
    let MemoryMeasured { fixed_mib, step_peak_mib, validation_peak_mib, .. } = *measured;
    assert!([fixed_mib, step_peak_mib, validation_peak_mib].iter().all(|mib| *mib > 50), "{measured:?}");

    // What does not fit is known before a batch is loaded.
    let (end, events) = crate::runs::run_with(
        Options { probe_memory: ProbeWhen::Always, ..bench.options("less", 8) },
        false,
        "8@measurement",
    );
    assert_eq!(end.unwrap(), RunEnd::Finished);
    assert_eq!(steps_down(&events), [(8, 6, Phase::Measurement)]);
    let started = started(&events);
    assert_eq!((started.batch_size, memory(&events)[0].batch_size), (6, 6));
}

#[test]
fn a_run_tells_where_its_time_goes_and_what_it_computes_with() {
    let _alone = alone();
    let events = &whole().events;
    let started = started(events);
    assert!(["fp32", "bf16"].contains(&started.precision.as_str()), "{started:?}");
    assert!(started.libtorch.starts_with("2."), "{started:?}");
    assert_eq!(started.workers, 1);
    // 8.1 billion at 640 pixels; a hundredth of the pixels.
    assert!((started.gflops - 0.081).abs() < 0.01, "{started:?}");
    for epoch in epochs(events) {
        let phases = epoch.phases.unwrap();
        let spent = [phases.copy, phases.forward, phases.loss, phases.backward, phases.optimizer];
        assert!(spent.iter().all(|seconds| *seconds > 0.0) && phases.wait >= 0.0, "{phases:?}");
    }
}

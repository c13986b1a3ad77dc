//! Memory that runs out once anywhere in a run: the run ends well, and leaves what it would have left.

use std::cell::OnceCell;

use tempfile::TempDir;
use trainyard_trainer::train::memory::ProbeWhen;
use trainyard_trainer::train::session::RunEnd;
use trainyard_trainer::train::setup::Options;
use trainyard_types::TrainSpec;
use trainyard_types::trainer::{BatchSizeChanged, Phase, TrainerEvent};

use super::allocations::{allocated, wait_until_free};
use super::runs::events::{batch_sizes, epoch_numbers, logs};
use super::runs::{checkpoints, options, run};
use super::tries::chosen;
use super::{GPU, alone, shapes};

struct Bench {
    folder: TempDir,
    spec: TrainSpec,
    /// Whether a run that began with a smaller batch has been made.
    smaller: OnceCell<()>,
}

impl Bench {
    /// Two epochs of two steps of two micro-batches each.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = shapes::write(&folder.path().join("data"), 8);
        let spec = TrainSpec { nbs: 4, ..shapes::spec(&data, 2) };
        Self { folder, spec, smaller: OnceCell::new() }
    }

    /// A run to the end on the GPU.
    fn finish(&self, name: &str, batch_size: u32) -> Vec<TrainerEvent> {
        let options = options(&self.spec, &self.folder.path().join(name));
        let batch_size = Some(batch_size);
        let (end, events) =
            run(Options { device: GPU, batch_size, probe_memory: ProbeWhen::Always, ..options }, false);
        assert_eq!(end.unwrap(), RunEnd::Finished, "{name}: {:?}", logs(&events));
        assert_eq!(epoch_numbers(&events).last(), Some(&2), "{name}");
        events
    }

    /// Tensors that differ between the newest checkpoints of two runs.
    fn differing(&self, a: &str, b: &str) -> Vec<String> {
        let [a, b] = [a, b].map(|name| checkpoints::newest(&self.folder.path().join(name)));
        checkpoints::differing(&a, &b, &["model", "ema", "optimizer", "best"])
    }

    /// The run that this one must be to the bit, if its rule is that it be any.
    fn twin(&self, told: &BatchSizeChanged) -> Option<&'static str> {
        match told.phase {
            _ if told.from == told.to => Some("whole"),
            Phase::Start | Phase::Measurement => {
                self.smaller.get_or_init(|| drop(self.finish("smaller", 1)));
                Some("smaller")
            }
            _ => None,
        }
    }
}

/// A few by chance; `TRAINYARD_EVERY_ALLOCATION=1` tries every allocation of the run, in some hours.
#[test]
fn a_run_whose_memory_runs_out_once_at_any_allocation_ends_well_as_the_rules_say_and_leaves_nothing() {
    let (gpu, _alone) = alone();
    let bench = Bench::new();
    bench.finish("first", 2);
    let before = allocated();
    gpu.reset();
    bench.finish("whole", 2);
    let total = gpu.counts().allocations;
    assert_eq!(allocated(), before);
    for nth in chosen("a run", total, 6) {
        let name = format!("run-{nth}");
        gpu.fail_at(nth);
        let events = bench.finish(&name, 2);
        gpu.fail_at(0);
        wait_until_free(before, &name);
        let told = batch_sizes(&events);
        let phases: Vec<Phase> = told.iter().map(|told| told.phase).collect();
        println!("{name}: {phases:?}");
        let logs = logs(&events);
        // After the last epoch nothing but a picture is lost.
        let is_picture_missing = logs.iter().any(|text| text.starts_with("a picture is missing"));
        assert_eq!(told.len() + usize::from(is_picture_missing), 1, "{name}: {logs:?}");
        let twin = if is_picture_missing { Some("whole") } else { bench.twin(told[0]) };
        if let Some(twin) = twin {
            assert_eq!(bench.differing(twin, &name), Vec::<String>::new(), "{name}: {logs:?}");
        }
        std::fs::remove_dir_all(bench.folder.path().join(&name)).unwrap();
    }
}

//! Writes checkpoints and weights files on a thread of its own, while training goes on.
//!
//! Training only copies its tensors to the host. Encoding, hashing, writing and waiting for the disk happen
//! on the thread; one checkpoint is written at a time, and of those that come meanwhile the newest waits.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use trainyard_types::trainer::{CheckpointSaved, LogLevel, TrainerEvent};

use super::artifacts::{self, BEST, EpochWeights, LAST};
use crate::checkpoint::{self, CheckpointFile, Progress};
use crate::events::Events;
use crate::train::error::TrainError;
use crate::train::resume::{BEST_WEIGHTS, GRADIENTS};
use crate::weights::{HostTensors, Metadata};

/// The weights files that a run has at some moment.
#[derive(Debug, Clone, Default)]
pub struct WeightsFiles {
    /// The newest epoch's weights.
    pub last: Option<Arc<EpochWeights>>,
    /// The best epoch's weights.
    pub best: Option<Arc<EpochWeights>>,
}

/// All that a checkpoint is made of, copied to the host.
#[derive(Debug)]
pub struct Snapshot {
    /// Where training stands.
    pub progress: Progress,
    /// Tensors by file name.
    pub files: Vec<(&'static str, Arc<HostTensors>)>,
    /// Weights files of the run, which are written with the checkpoint if they are not there yet.
    pub weights: WeightsFiles,
}

impl Snapshot {
    const fn point(&self) -> SavePoint {
        SavePoint { batches: self.progress.batches, epoch: self.progress.epoch }
    }
}

/// What tells the checkpoints of a run apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct SavePoint {
    /// Batches since the start.
    batches: u64,
    /// Epochs completed.
    epoch: u32,
}

/// The epochs of the weights files in the run directory, as far as this process has written them.
#[derive(Debug, Clone, Copy, Default)]
struct Written {
    last: Option<u32>,
    best: Option<u32>,
}

/// What came of writing a snapshot.
#[derive(Debug)]
struct Outcome {
    /// The checkpoint's directory.
    saved: Result<PathBuf, SaveError>,
    weights: Result<(), TrainError>,
    pruned: io::Result<()>,
    written: Written,
}

/// Why a checkpoint was not written.
#[derive(Debug, thiserror::Error)]
enum SaveError {
    #[error("{}: {source}", root.display())]
    Io { root: PathBuf, source: io::Error },
    #[error("`{0}` holds values that are not numbers")]
    NotFinite(String),
    #[error("its thread ended early, which is a bug of the trainer")]
    Gone,
}

/// Writes the checkpoints of a run, however many sessions it takes.
#[derive(Debug)]
pub struct Saver {
    run_dir: PathBuf,
    root: PathBuf,
    interval: Option<Duration>,
    running: Option<(SavePoint, JoinHandle<Outcome>)>,
    waiting: Option<Snapshot>,
    durable: Option<SavePoint>,
    written: Written,
    /// When training last handed a snapshot over.
    since: Instant,
}

impl Saver {
    /// A saver for the run in `run_dir`, whose checkpoints go to `root`; `minutes` between two of them inside of an
    /// epoch, 0 for none there.
    pub fn new(run_dir: &Path, root: PathBuf, minutes: f64) -> Self {
        let interval = (minutes > 0.0).then(|| Duration::from_secs_f64(minutes * 60.0));
        Self {
            run_dir: run_dir.to_owned(),
            root,
            interval,
            running: None,
            waiting: None,
            durable: None,
            written: Written::default(),
            since: Instant::now(),
        }
    }

    /// Whether it is time for a checkpoint inside of an epoch, and the disk has kept up.
    pub fn is_due(&self) -> bool {
        self.running.is_none() && self.interval.is_some_and(|interval| self.since.elapsed() >= interval)
    }

    /// Whether the newest checkpoint on the disk was made after so many batches and epochs.
    pub fn is_durable(&self, batches: u64, epoch: u32) -> bool {
        self.durable == Some(SavePoint { batches, epoch })
    }

    /// Whether some checkpoint of the run is on the disk.
    pub fn has_any(&self) -> bool {
        checkpoint::newest(&self.root).is_ok_and(|found| found.checkpoint.is_some())
    }

    /// Writes `snapshot` when the one before is done; one that still waits is replaced.
    pub fn submit(&mut self, snapshot: Snapshot, events: &mut Events) {
        self.since = Instant::now();
        self.waiting = Some(snapshot);
        self.poll(events);
    }

    /// Reports checkpoints that are written, and begins to write what waits. Never waits for the disk.
    pub fn poll(&mut self, events: &mut Events) {
        if self.running.as_ref().is_none_or(|(_, thread)| thread.is_finished()) {
            self.end_running(events);
            self.begin_waiting();
        }
    }

    /// Waits until all checkpoints are written.
    pub fn flush(&mut self, events: &mut Events) {
        while self.running.is_some() || self.waiting.is_some() {
            self.end_running(events);
            self.begin_waiting();
        }
    }

    /// Writes, here and now, the weights files that are not there yet because the disk was full.
    ///
    /// # Errors
    /// What the file system says.
    pub fn write_weights(&mut self, weights: &WeightsFiles) -> Result<(), TrainError> {
        write_weights(&self.run_dir, weights, &mut self.written)
    }

    fn begin_waiting(&mut self) {
        let Some(snapshot) = self.waiting.take() else { return };
        let (run_dir, root, written) = (self.run_dir.clone(), self.root.clone(), self.written);
        let point = snapshot.point();
        let work = move || {
            crate::libtorch::unbind_thread();
            write(snapshot, &run_dir, &root, written)
        };
        // A thread that cannot be had is one more sign of a machine in need: the next snapshot tries again.
        let thread = Builder::new().name("checkpoint".to_owned()).spawn(work);
        self.running = thread.ok().map(|thread| (point, thread));
    }

    fn end_running(&mut self, events: &mut Events) {
        let Some((point, thread)) = self.running.take() else { return };
        let outcome = thread.join().unwrap_or(Outcome {
            saved: Err(SaveError::Gone),
            weights: Ok(()),
            pruned: Ok(()),
            written: self.written,
        });
        self.written = outcome.written;
        match outcome.saved {
            Ok(path) => {
                self.durable = Some(point);
                let path = path.strip_prefix(&self.run_dir).unwrap_or(&path).to_owned();
                let SavePoint { batches: step, epoch } = point;
                events.emit(TrainerEvent::Checkpoint(CheckpointSaved { step, epoch, path }));
            }
            Err(error) => {
                let before = self.durable.map_or_else(String::new, |point| {
                    let step = point.batches;
                    format!("; the one of step {step} stays, and is what a resume would go on from")
                });
                let message = format!(
                    "no checkpoint of step {} was written ({error}); training goes on{before}",
                    point.batches
                );
                events.log(LogLevel::Warning, message);
            }
        }
        if let Err(error) = outcome.weights {
            let message = format!("weights were not written, which is tried again later: {error}");
            events.log(LogLevel::Warning, message);
        }
        if let Err(error) = outcome.pruned {
            events.log(LogLevel::Warning, format!("older checkpoints cannot be removed: {error}"));
        }
    }
}

impl Drop for Saver {
    /// A checkpoint that is being written becomes complete: there is no reason to lose it.
    fn drop(&mut self) {
        if let Some((_, thread)) = self.running.take() {
            let _ = thread.join();
        }
    }
}

fn write(snapshot: Snapshot, run_dir: &Path, root: &Path, mut written: Written) -> Outcome {
    let files = snapshot.weights.clone();
    let saved = save(snapshot, root);
    let pruned = if saved.is_ok() { checkpoint::prune(root) } else { Ok(()) };
    let weights = write_weights(run_dir, &files, &mut written);
    Outcome { saved, weights, pruned, written }
}

fn save(snapshot: Snapshot, root: &Path) -> Result<PathBuf, SaveError> {
    let Snapshot { progress, files, weights } = snapshot;
    // Gradients in 16 bits may be infinite: the device skips their step, and so it does after a resume.
    let learnt = files.iter().filter(|(file, _)| *file != GRADIENTS);
    if let Some(name) = learnt.filter_map(|(_, tensors)| tensors.not_finite()).next() {
        return Err(SaveError::NotFinite(name.to_owned()));
    }
    let plain = files.into_iter().map(|(name, tensors)| CheckpointFile {
        name,
        bytes: tensors.encode(&Metadata::new()).expect(artifacts::ENCODABLE),
    });
    let best = weights.best.iter().map(|best| CheckpointFile { name: BEST_WEIGHTS, bytes: best.encode() });
    // One file is encoded, written and dropped before the next.
    let path = checkpoint::save(root, &progress, plain.chain(best));
    path.map_err(|source| SaveError::Io { root: root.to_owned(), source })
}

fn write_weights(run_dir: &Path, files: &WeightsFiles, written: &mut Written) -> Result<(), TrainError> {
    let Written { last, best } = written;
    for (weights, name, written) in [(&files.last, LAST, last), (&files.best, BEST, best)] {
        let Some(weights) = weights.as_ref().filter(|weights| *written != Some(weights.epoch)) else {
            continue;
        };
        artifacts::write(run_dir, name, &weights.encode())?;
        *written = Some(weights.epoch);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use trainyard_types::ModelScale;

    use super::*;
    use crate::checkpoint::Identity;

    fn snapshot(batches: u64, value: f32) -> Snapshot {
        let tensor = tch::Tensor::from_slice(&[value]);
        let identity = Identity::new(ModelScale::N, Vec::new(), 4, 0);
        let weights = EpochWeights {
            epoch: u32::try_from(batches).unwrap(),
            tensors: Arc::new(HostTensors::copy([("w", &tensor)])),
            metadata: Metadata::new(),
        };
        Snapshot {
            progress: Progress { batches, ..Progress::start(identity, 2) },
            files: vec![("model.safetensors", Arc::new(HostTensors::copy([("w", &tensor)])))],
            weights: WeightsFiles { last: Some(Arc::new(weights)), best: None },
        }
    }

    fn saver(folder: &Path) -> Saver {
        Saver::new(folder, folder.join("checkpoints"), 0.0)
    }

    fn steps(events: &Events) -> Vec<u64> {
        let step = |event: &TrainerEvent| match event {
            TrainerEvent::Checkpoint(saved) => Some(saved.step),
            _ => None,
        };
        events.recorded().iter().filter_map(step).collect()
    }

    #[test]
    fn one_is_written_at_a_time_and_of_the_others_the_newest() {
        let folder = tempfile::tempdir().unwrap();
        let (mut saver, mut events) = (saver(folder.path()), Events::recording());
        for step in 1..=50 {
            saver.submit(snapshot(step, 1.0), &mut events);
        }
        saver.flush(&mut events);
        let steps = steps(&events);
        assert!(steps.is_sorted() && steps.last() == Some(&50), "{steps:?}");
        assert!(saver.is_durable(50, 0) && saver.has_any());
        assert!(folder.path().join(LAST).is_file());
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_a_warning_and_the_next_one_is_tried() {
        let folder = tempfile::tempdir().unwrap();
        let (mut saver, mut events) = (saver(folder.path()), Events::recording());
        std::fs::write(folder.path().join("checkpoints"), "in the way").unwrap();
        saver.submit(snapshot(1, 1.0), &mut events);
        saver.flush(&mut events);
        assert!(!saver.is_durable(1, 0));
        let Some(TrainerEvent::Log(log)) = events.recorded().last() else { panic!("{events:?}") };
        assert_eq!(log.level, LogLevel::Warning);
        assert!(log.message.starts_with("no checkpoint of step 1 was written"), "{}", log.message);
        std::fs::remove_file(folder.path().join("checkpoints")).unwrap();
        saver.submit(snapshot(2, 1.0), &mut events);
        saver.flush(&mut events);
        assert_eq!(steps(&events), [2]);
    }

    #[test]
    fn gradients_of_a_step_that_will_be_skipped_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let (mut saver, mut events) = (saver(folder.path()), Events::recording());
        let infinite = tch::Tensor::from_slice(&[f32::INFINITY]);
        let mut snapshot = snapshot(1, 1.0);
        snapshot.files.push((GRADIENTS, Arc::new(HostTensors::copy([("w", &infinite)]))));
        saver.submit(snapshot, &mut events);
        saver.flush(&mut events);
        assert_eq!(steps(&events), [1]);
    }

    #[test]
    fn weights_that_are_no_numbers_are_not_kept() {
        let folder = tempfile::tempdir().unwrap();
        let (mut saver, mut events) = (saver(folder.path()), Events::recording());
        saver.submit(snapshot(1, 1.0), &mut events);
        saver.flush(&mut events);
        saver.submit(snapshot(2, f32::NAN), &mut events);
        saver.flush(&mut events);
        let Some(TrainerEvent::Log(log)) = events.recorded().last() else { panic!("{events:?}") };
        assert!(log.message.contains("`w`") && log.message.contains("step 1 stays"), "{}", log.message);
        assert_eq!(steps(&events), [1]);
    }
}

//! Draws what a run shows of its batches, on threads of their own: training does not wait for pictures.

use std::path::Path;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use trainyard_data::Batch;

use super::artifacts::Sample;
use crate::report::pictures;
use crate::train::error::TrainError;
use crate::train::setup::Setup;

/// A preview is due again after so many times what the last one took: it costs at most a hundredth of a run.
const PREVIEW_EVERY: f64 = 100.0;

/// Pictures that are being drawn.
#[derive(Debug)]
pub struct Drawing {
    threads: Vec<JoinHandle<Result<(), TrainError>>>,
    /// Batches that are still to be drawn.
    left: usize,
    /// Whether the picture of all training labels is still to be drawn.
    labels: bool,
    /// The sheet of validation images that is being drawn.
    preview: Option<JoinHandle<Result<(), TrainError>>>,
    /// Seconds of training after which the next one is due.
    next_preview: f64,
}

impl Drawing {
    /// Draws what `run_dir` has not got yet: a job that goes on elsewhere shows the batches from there on.
    pub fn start(run_dir: &Path) -> Self {
        let left = pictures::TRAIN_BATCHES.saturating_sub(pictures::train_batches(run_dir).len());
        let labels = !run_dir.join(pictures::LABELS).exists();
        Self { threads: Vec::new(), left, labels, preview: None, next_preview: 0.0 }
    }

    /// Batches look different from now on: some more are shown.
    pub const fn show_more(&mut self) {
        self.left = pictures::TRAIN_BATCHES;
    }

    /// Begins the picture of the run's batch `number` (from 0), with the labels that the model was given, if
    /// some are still to be shown; with the first one, also that of all training labels.
    pub fn begin(&mut self, setup: &Setup, number: u64, batch: Batch) {
        if self.left > 0 {
            self.left -= 1;
            let (run_dir, names) = (setup.options.run_dir.clone(), setup.names.clone());
            self.threads.extend(spawn(move || {
                let path = run_dir.join(pictures::train_batch(number));
                pictures::write_batch(&path, &batch, &names).map_err(TrainError::io(path))
            }));
        }
        if std::mem::take(&mut self.labels) {
            let (run_dir, images) = (setup.options.run_dir.clone(), Arc::clone(&setup.train));
            self.threads.extend(spawn(move || {
                pictures::write_labels(&run_dir, images.dataset()).map_err(TrainError::io(run_dir))
            }));
        }
    }

    /// Whether it is time to show what the model sees, after so many seconds of training, and the last sheet is drawn.
    pub fn is_preview_due(&self, seconds: f64) -> bool {
        seconds >= self.next_preview && self.preview.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Begins the sheet of what the model sees.
    ///
    /// # Errors
    /// Why the sheet before this one is missing.
    pub fn begin_preview(&mut self, setup: &Setup, sample: Sample) -> Result<(), TrainError> {
        let (run_dir, names) = (setup.options.run_dir.clone(), setup.names.clone());
        let before = self.preview.take();
        self.preview = spawn(move || sample.write(&run_dir, &names));
        before.map_or(Ok(()), join)
    }

    /// Notes that training has waited for a preview, between these seconds of it.
    pub fn previewed(&mut self, began: f64, ended: f64) {
        self.next_preview = ended + (ended - began) * PREVIEW_EVERY;
    }

    /// Waits for all pictures; returns why some are missing.
    pub fn finish(&mut self) -> Vec<TrainError> {
        let drawn = self.threads.drain(..).chain(self.preview.take()).map(join);
        drawn.filter_map(Result::err).collect()
    }
}

impl Drop for Drawing {
    /// Without waiting, a process that ends would leave a picture out.
    fn drop(&mut self) {
        let _ = self.finish();
    }
}

fn join(drawn: JoinHandle<Result<(), TrainError>>) -> Result<(), TrainError> {
    drawn.join().unwrap_or(Ok(()))
}

/// A thread that draws; without one there is one picture less, and worse to worry about.
fn spawn(
    work: impl FnOnce() -> Result<(), TrainError> + Send + 'static,
) -> Option<JoinHandle<Result<(), TrainError>>> {
    let drawn = move || {
        crate::libtorch::unbind_thread();
        work()
    };
    Builder::new().name("pictures".to_owned()).spawn(drawn).ok()
}

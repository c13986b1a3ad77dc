//! Draws some training batches of a run on threads of their own: training does not wait for pictures.

use std::path::Path;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use trainyard_data::Batch;

use crate::report::pictures;
use crate::train::error::TrainError;
use crate::train::setup::Setup;

/// Pictures that are being drawn.
#[derive(Debug)]
pub struct Drawing {
    threads: Vec<JoinHandle<Result<(), TrainError>>>,
    /// Batches that are still to be drawn.
    left: usize,
    /// Whether the picture of all training labels is still to be drawn.
    labels: bool,
}

impl Drawing {
    /// Draws what `run_dir` has not got yet: a job that goes on elsewhere shows the batches from there on.
    pub fn start(run_dir: &Path) -> Self {
        let left = pictures::TRAIN_BATCHES.saturating_sub(pictures::train_batches(run_dir).len());
        Self { threads: Vec::new(), left, labels: !run_dir.join(pictures::LABELS).exists() }
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
            self.spawn(move || {
                let path = run_dir.join(pictures::train_batch(number));
                pictures::write_batch(&path, &batch, &names).map_err(TrainError::io(path))
            });
        }
        if std::mem::take(&mut self.labels) {
            let (run_dir, images) = (setup.options.run_dir.clone(), Arc::clone(&setup.train));
            self.spawn(move || {
                pictures::write_labels(&run_dir, images.dataset()).map_err(TrainError::io(run_dir))
            });
        }
    }

    fn spawn(&mut self, work: impl FnOnce() -> Result<(), TrainError> + Send + 'static) {
        let drawn = move || {
            crate::libtorch::unbind_thread();
            work()
        };
        // Without a thread there is one picture less, and worse to worry about.
        self.threads.extend(Builder::new().name("pictures".to_owned()).spawn(drawn).ok());
    }

    /// Waits for all pictures; returns why some are missing.
    pub fn finish(&mut self) -> Vec<TrainError> {
        let ended = self.threads.drain(..).map(JoinHandle::join);
        ended.filter_map(|drawn| drawn.unwrap_or(Ok(())).err()).collect()
    }
}

impl Drop for Drawing {
    /// Without waiting, a process that ends would leave a picture out.
    fn drop(&mut self) {
        let _ = self.finish();
    }
}

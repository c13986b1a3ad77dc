//! Draws the first training batches of a run on threads of their own: training does not wait for pictures.

use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use super::error::TrainError;
use super::setup::Setup;
use crate::data::Batch;
use crate::report::pictures;

/// Pictures that are being drawn.
#[derive(Debug, Default)]
pub struct Drawing {
    threads: Vec<JoinHandle<Result<(), TrainError>>>,
}

impl Drawing {
    /// Begins the picture of the run's batch `number` (from 0), with the labels that the model was given, if
    /// it is one of those that are shown; with the first one, also that of all training labels.
    pub fn begin(&mut self, setup: &Setup, number: u64, batch: Batch) {
        if number >= pictures::TRAIN_BATCHES {
            return;
        }
        let (run_dir, names) = (setup.options.run_dir.clone(), setup.names.clone());
        let images = Arc::clone(&setup.train);
        let work = move || {
            let path = run_dir.join(pictures::train_batch(number));
            let mut written = pictures::write_batch(&path, &batch, &names);
            drop(batch);
            if number == 0 {
                written = written.and_then(|()| pictures::write_labels(&run_dir, images.dataset()));
            }
            written.map_err(TrainError::io(run_dir))
        };
        // Without a thread there is one picture less, and worse to worry about.
        let drawn = move || {
            crate::libtorch::anywhere();
            work()
        };
        self.threads.extend(Builder::new().name("pictures".to_owned()).spawn(drawn).ok());
    }

    /// Waits for all pictures; returns why some are missing.
    pub fn settle(&mut self) -> Vec<TrainError> {
        let ended = self.threads.drain(..).map(JoinHandle::join);
        ended.filter_map(|drawn| drawn.unwrap_or(Ok(())).err()).collect()
    }
}

impl Drop for Drawing {
    /// Without waiting, a process that ends would leave a picture out.
    fn drop(&mut self) {
        let _ = self.settle();
    }
}

//! Between a training in memory and a checkpoint's files.

use std::sync::Arc;

use tch::Tensor;

use super::artifacts::EpochWeights;
use super::error::TrainError;
use super::saver::{Kept, Snapshot};
use super::step::Trainer;
use crate::checkpoint::{Loaded, Progress};
use crate::optim::Scaler;
use crate::optim::schedule::unit;
use crate::weights::{self, HostTensors, Tensors, WeightsError};

const MODEL: &str = "model.safetensors";
const EMA: &str = "ema.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const GRADIENTS: &str = "gradients.safetensors";
/// A copy of the run's best weights: a run that goes on from here may never see their like again.
pub const BEST_WEIGHTS: &str = "best.safetensors";

/// Copies to the host what a checkpoint of where `trainer` stands is made of. Waits for the device.
pub fn snapshot(trainer: &Trainer, progress: &Progress, kept: &Kept) -> Snapshot {
    let state = trainer.optimizer.state();
    // Right after an epoch the average is what the epoch's weights are, and on the host already.
    let at_end = |last: &&Arc<EpochWeights>| progress.images_done == 0 && last.epoch == progress.epoch;
    let average = match kept.last.as_ref().filter(at_end) {
        Some(last) => Arc::clone(&last.tensors),
        None => Arc::new(HostTensors::copy(trainer.ema.model().weights().named())),
    };
    let mut files = vec![
        (MODEL, Arc::new(HostTensors::copy(trainer.model.weights().named()))),
        (EMA, average),
        (OPTIMIZER, Arc::new(HostTensors::copy(borrowed(&state)))),
    ];
    if trainer.waiting.images > 0 {
        let gradients: Vec<(&str, Tensor)> = trainer.optimizer.gradients().collect();
        files.push((GRADIENTS, Arc::new(HostTensors::copy(borrowed(&gradients)))));
    }
    Snapshot { progress: progress.clone(), files, kept: kept.clone() }
}

fn borrowed<N: AsRef<str>>(tensors: &[(N, Tensor)]) -> impl Iterator<Item = (&str, &Tensor)> {
    tensors.iter().map(|(name, tensor)| (name.as_ref(), tensor))
}

/// Brings `trainer`, which is new, to where the checkpoint was made. Returns the best epoch's weights.
///
/// `progress` is the checkpoint's, adapted to the batch size that is used from now on.
pub fn restore(
    trainer: &mut Trainer,
    loaded: &Loaded,
    progress: &Progress,
) -> Result<Option<EpochWeights>, TrainError> {
    let format = |file: &str, reason| WeightsError::Format { path: loaded.place.join(file), reason };
    let read = |file: &str| -> Result<Tensors, WeightsError> {
        let bytes = loaded.files.get(file).ok_or_else(|| WeightsError::Missing(file.to_owned()))?;
        Ok(weights::parse(bytes).map_err(|reason| format(file, reason))?.tensors)
    };
    let copy = |tensors: &Tensors, name: &str| tensors.get(name).map(Tensor::shallow_clone);
    let model = read(MODEL)?;
    trainer.model.weights().assign(|name| copy(&model, name))?;
    let ema = read(EMA)?;
    trainer.ema.model().weights().assign(|name| copy(&ema, name))?;
    trainer.ema.updates = progress.ema_updates;
    let remembered = read(OPTIMIZER)?;
    trainer.optimizer.set_state(|name| copy(&remembered, name))?;
    trainer.updates = progress.updates;
    if progress.images_waiting > 0 {
        let gradients = read(GRADIENTS)?;
        trainer.optimizer.set_gradients(|name| copy(&gradients, name));
        trainer.waiting.images = progress.images_waiting;
        let _ = trainer.waiting.scores.fill_(progress.scores_waiting);
    }
    if let (Some(scaler), Some((scale, growth))) = (&mut trainer.scaler, progress.scaler) {
        *scaler = Scaler::restore(scale, growth, trainer.model.device());
    }
    #[expect(clippy::cast_possible_truncation, reason = "the sums were 32-bit floats when they were saved")]
    let sums = progress.loss_sums.map(|sum| sum as f32);
    trainer.loss_sums.copy_(&Tensor::from_slice(&sums));
    let (Some(best), Some(bytes)) = (&progress.best, loaded.files.get(BEST_WEIGHTS)) else { return Ok(None) };
    let weights = EpochWeights::decode(bytes, best.epoch).map_err(|reason| format(BEST_WEIGHTS, reason))?;
    Ok(Some(weights))
}

/// Where to go on when a checkpoint was made with another batch size; `nominal` is the spec's `nbs`.
///
/// Mostly right there: steps are made of the same images whatever the batch size. Only above the nominal
/// batch they are not; then images whose gradients still waited train again. Nothing is left out.
pub fn with_batch_size(progress: &Progress, batch_size: u32, nominal: u32) -> Progress {
    let mut next = Progress { batch_size, ..progress.clone() };
    let new = unit(nominal, batch_size);
    if new != unit(nominal, progress.batch_size) {
        let trained = progress.images_done.saturating_sub(progress.images_waiting);
        next.images_done = trained - trained % u64::from(new);
        (next.units_waiting, next.images_waiting, next.scores_waiting) = (0, 0, 0.0);
        // The epoch's mean must stay a mean over its images.
        #[expect(clippy::cast_precision_loss, reason = "images of an epoch are far below 2^52")]
        let share = next.images_done as f64 / progress.images_done.max(1) as f64;
        next.loss_sums = progress.loss_sums.map(|sum| sum * share);
    }
    next
}

#[cfg(test)]
mod tests {
    use trainyard_types::ModelScale;

    use super::*;
    use crate::checkpoint::Identity;

    fn progress(batch_size: u32) -> Progress {
        let identity = Identity::new(ModelScale::N, Vec::new(), 1000, 0);
        Progress {
            images_done: 500,
            batches_done: 5,
            units_waiting: 1,
            images_waiting: 80,
            scores_waiting: 12.5,
            loss_sums: [5.0, 10.0, 15.0],
            ..Progress::start(identity, batch_size)
        }
    }

    #[test]
    fn another_batch_size_goes_on_at_the_very_image() {
        for size in [16, 12, 64] {
            let expected = Progress { batch_size: size, ..progress(16) };
            assert_eq!(with_batch_size(&progress(16), size, 64), expected);
        }
    }

    #[test]
    fn a_batch_that_is_its_own_nominal_one_trains_waiting_and_broken_steps_again() {
        let next = with_batch_size(&progress(64), 100, 64);
        assert_eq!((next.images_done, next.units_waiting, next.images_waiting), (400, 0, 0));
        assert_eq!((next.scores_waiting, next.loss_sums), (0.0, [4.0, 8.0, 12.0]));
    }
}

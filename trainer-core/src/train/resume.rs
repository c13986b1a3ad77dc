//! Between a training in memory and a checkpoint's files.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use tch::Tensor;

use super::artifacts::BEST;
use super::error::TrainError;
use super::step::Trainer;
use crate::checkpoint::{Loaded, Part, Progress, replace};
use crate::optim::Scaler;
use crate::weights::{self, Tensors, Weights, WeightsError};

const MODEL: &str = "model.safetensors";
const EMA: &str = "ema.safetensors";
const MOMENTUM: &str = "momentum.safetensors";
const GRADIENTS: &str = "gradients.safetensors";
/// A copy of the run's best weights: a run that goes on from here may never see their like again.
const BEST_WEIGHTS: &str = "best.safetensors";

/// A checkpoint's files for where `trainer` stands. Waits for the device.
pub fn parts(trainer: &Trainer, progress: &Progress, run_dir: &Path) -> Result<Vec<Part>, TrainError> {
    let named = |weights: &Weights| {
        encode(weights.iter().map(|entry| (entry.name.as_str(), entry.tensor.shallow_clone())))
    };
    let mut parts = vec![
        Part { name: MODEL, bytes: named(trainer.model.weights()) },
        Part { name: EMA, bytes: named(trainer.ema.model().weights()) },
        Part {
            name: MOMENTUM,
            bytes: encode(trainer.sgd.momenta().map(|(name, tensor)| (name, tensor.shallow_clone()))),
        },
    ];
    if trainer.accumulation.waiting > 0 {
        parts.push(Part { name: GRADIENTS, bytes: encode(trainer.sgd.gradients()) });
    }
    if progress.best.is_some() {
        let path = run_dir.join(BEST);
        parts.push(Part { name: BEST_WEIGHTS, bytes: fs::read(&path).map_err(TrainError::io(path))? });
    }
    Ok(parts)
}

fn encode<'a>(tensors: impl Iterator<Item = (&'a str, Tensor)>) -> Vec<u8> {
    let tensors: Vec<(&str, Tensor)> = tensors.collect();
    let borrowed = tensors.iter().map(|(name, tensor)| (*name, tensor));
    weights::encode(borrowed, HashMap::new()).expect("tensors of a model have distinct names and known types")
}

/// Brings `trainer`, which is new, to where the checkpoint was made, and its best weights back.
///
/// `progress` is the checkpoint's, adapted to the batch size that is used from now on.
pub fn restore(
    trainer: &mut Trainer,
    loaded: &Loaded,
    progress: &Progress,
    run_dir: &Path,
) -> Result<(), TrainError> {
    let read = |file: &str| -> Result<Tensors, WeightsError> {
        let path = loaded.place.join(file);
        let bytes = loaded.files.get(file).ok_or_else(|| WeightsError::Missing(file.to_owned()))?;
        Ok(weights::parse(bytes).map_err(|reason| WeightsError::Format { path, reason })?.tensors)
    };
    let copy = |tensors: &Tensors, name: &str| tensors.get(name).map(Tensor::shallow_clone);
    let model = read(MODEL)?;
    trainer.model.weights().assign(|name| copy(&model, name))?;
    let ema = read(EMA)?;
    trainer.ema.model().weights().assign(|name| copy(&ema, name))?;
    trainer.ema.updates = progress.ema_updates;
    let momentum = read(MOMENTUM)?;
    trainer.sgd.set_momenta(|name| copy(&momentum, name));
    trainer.updates = progress.updates;
    if progress.waiting > 0 {
        let gradients = read(GRADIENTS)?;
        trainer.sgd.set_gradients(|name| copy(&gradients, name));
        trainer.accumulation.waiting = progress.waiting;
    }
    if let (Some(scaler), Some((scale, growth))) = (&mut trainer.scaler, progress.scaler) {
        *scaler = Scaler::restore(scale, growth, trainer.model.device());
    }
    #[expect(clippy::cast_possible_truncation, reason = "the sums were 32-bit floats when they were saved")]
    let sums = progress.loss_sums.map(|sum| sum as f32);
    trainer.loss_sums.copy_(&Tensor::from_slice(&sums));
    if let Some(bytes) = loaded.files.get(BEST_WEIGHTS) {
        let path = run_dir.join(BEST);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(TrainError::io(folder))?;
        }
        replace(&path, bytes).map_err(TrainError::io(path))?;
    }
    Ok(())
}

/// Where to go on when a checkpoint was made with another batch size.
///
/// Batches whose gradients still waited train again; a part of a batch does, too. Nothing is left out.
pub fn with_batch_size(progress: &Progress, batch_size: u32) -> Progress {
    let mut next = progress.clone();
    if batch_size != progress.batch_size {
        let waiting = progress.waiting * u64::from(progress.batch_size);
        let trained = progress.images_done.saturating_sub(waiting);
        let batches = trained / u64::from(batch_size);
        next.batch_size = batch_size;
        next.batches_done = batches;
        next.images_done = batches * u64::from(batch_size);
        next.waiting = 0;
        // The epoch's mean must stay a mean over its batches.
        #[expect(clippy::cast_precision_loss, reason = "batches of an epoch are far below 2^52")]
        let share = batches as f64 / progress.batches_done.max(1) as f64;
        next.loss_sums = progress.loss_sums.map(|sum| sum * share);
    }
    next
}

#[cfg(test)]
mod tests {
    use trainyard_types::ModelScale;

    use super::*;
    use crate::checkpoint::Identity;

    #[test]
    fn another_batch_size_trains_waiting_and_broken_batches_again() {
        let identity = Identity { model: ModelScale::N, names: Vec::new(), images: 100, seed: 0 };
        let progress = Progress {
            images_done: 80,
            batches_done: 5,
            waiting: 2,
            loss_sums: [5.0, 10.0, 15.0],
            ..Progress::start(identity, 16)
        };
        assert_eq!(with_batch_size(&progress, 16), progress);
        let next = with_batch_size(&progress, 12);
        assert_eq!((next.batches_done, next.images_done, next.waiting), (4, 48, 0));
        assert_eq!(next.loss_sums, [4.0, 8.0, 12.0]);
    }
}

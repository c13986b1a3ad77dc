//! Resuming: which checkpoint a run goes on from, and the way between a training in memory and its files.

use std::sync::Arc;

use tch::Tensor;
use trainyard_types::trainer::LogLevel;

use super::error::TrainError;
use super::output::artifacts::EpochWeights;
use super::output::saver::{Snapshot, WeightsFiles};
use super::setup::Setup;
use super::state::TrainState;
use crate::checkpoint::{self, Loaded, Progress};
use crate::events::Events;
use crate::optim::Scaler;
use crate::optim::schedule::unit_images;
use crate::weights::{self, HostTensors, Tensors, WeightsError};

const MODEL: &str = "model.safetensors";
const EMA: &str = "ema.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
/// The accumulated gradients, times the loss scale. Those of a step that will be skipped may be infinite.
pub const GRADIENTS: &str = "gradients.safetensors";
/// A copy of the run's best weights: a run that goes on from here may never see their like again.
pub const BEST_WEIGHTS: &str = "best.safetensors";

/// The newest checkpoint of this very run. Damaged ones get another name.
///
/// # Errors
/// The newest one is of another run, or none is whole and one is of another version of the state.
pub fn newest(setup: &Setup, events: &mut Events) -> Result<Option<Loaded>, TrainError> {
    let root = setup.options.checkpoints();
    let found = checkpoint::newest(&root).map_err(TrainError::io(&root))?;
    if let Some(skipped) = found.of_another_version() {
        // To begin anew would be to lose a run for an upgrade.
        let (checkpoint, reason) = (skipped.directory.clone(), skipped.reason.to_string());
        return Err(TrainError::OtherVersion { checkpoint, reason });
    }
    if let Some(loaded) = &found.checkpoint
        && let Some(difference) = setup.identity.difference(&loaded.progress.identity)
    {
        return Err(TrainError::Foreign { checkpoint: loaded.directory.clone(), difference });
    }
    for skipped in &found.skipped {
        let renamed = skipped.mark_damaged().map_err(TrainError::io(&skipped.directory))?;
        let message = format!("checkpoint {skipped}; it is set aside as {}", renamed.display());
        events.log(LogLevel::Warning, message);
    }
    let Some(loaded) = found.checkpoint else {
        if !found.skipped.is_empty() {
            let message = "no checkpoint of the run is whole: it begins anew";
            events.log(LogLevel::Warning, message);
        }
        return Ok(None);
    };
    if let Some(images) = setup.identity.changed_labels(&loaded.progress.identity) {
        let message = format!("the labels of the {images} have changed since the checkpoint was made");
        events.log(LogLevel::Warning, message);
    }
    let progress = &loaded.progress;
    let message = format!(
        "going on from step {} in epoch {} ({})",
        progress.batches,
        progress.epoch + 1,
        loaded.directory.display()
    );
    events.log(LogLevel::Info, message);
    Ok(Some(loaded))
}

/// Copies to the host what a checkpoint of where `state` stands is made of. Waits for the device.
pub fn snapshot(state: &TrainState, progress: &Progress, weights: &WeightsFiles) -> Snapshot {
    let optimizer = state.optimizer.state();
    // Right after an epoch the average is what the epoch's weights are, and on the host already.
    let at_end = |last: &&Arc<EpochWeights>| progress.images_done == 0 && last.epoch == progress.epoch;
    let average = match weights.last.as_ref().filter(at_end) {
        Some(last) => Arc::clone(&last.tensors),
        None => Arc::new(HostTensors::copy(state.ema.model().weights().named())),
    };
    let mut files = vec![
        (MODEL, Arc::new(HostTensors::copy(state.model.weights().named()))),
        (EMA, average),
        (OPTIMIZER, Arc::new(HostTensors::copy(borrowed(&optimizer)))),
    ];
    if state.accumulated.images > 0 {
        let gradients: Vec<(&str, Tensor)> = state.optimizer.gradients().collect();
        files.push((GRADIENTS, Arc::new(HostTensors::copy(borrowed(&gradients)))));
    }
    Snapshot { progress: progress.clone(), files, weights: weights.clone() }
}

fn borrowed<N: AsRef<str>>(tensors: &[(N, Tensor)]) -> impl Iterator<Item = (&str, &Tensor)> {
    tensors.iter().map(|(name, tensor)| (name.as_ref(), tensor))
}

/// Brings `state`, which is new, to where the checkpoint was made. Returns the best epoch's weights.
///
/// `progress` is the checkpoint's, adapted to the batch size that is used from now on.
pub fn restore(
    state: &mut TrainState,
    loaded: &Loaded,
    progress: &Progress,
) -> Result<Option<EpochWeights>, TrainError> {
    let format = |file: &str, reason| WeightsError::Format { path: loaded.directory.join(file), reason };
    let read = |file: &str| -> Result<Tensors, WeightsError> {
        let bytes = loaded.files.get(file).ok_or_else(|| WeightsError::Missing(file.to_owned()))?;
        Ok(weights::parse(bytes).map_err(|reason| format(file, reason))?.tensors)
    };
    let copy = |tensors: &Tensors, name: &str| tensors.get(name).map(Tensor::shallow_clone);
    let model = read(MODEL)?;
    state.model.weights().assign(|name| copy(&model, name))?;
    let ema = read(EMA)?;
    state.ema.model().weights().assign(|name| copy(&ema, name))?;
    state.ema.updates = progress.ema_updates;
    let optimizer = read(OPTIMIZER)?;
    state.optimizer.set_state(|name| copy(&optimizer, name))?;
    state.updates = progress.updates;
    if let (Some(scaler), Some((scale, growth))) = (&mut state.scaler, progress.scaler) {
        *scaler = Scaler::restore(scale, growth, state.model.device());
    }
    if progress.images_accumulated > 0 {
        let gradients = read(GRADIENTS)?;
        // They are times the loss scale that they were accumulated at, and here there may be another one, or none.
        // Scales are powers of two, so that no bit of a gradient changes.
        let scale_then = progress.scaler.map_or(1.0, |(scale, _)| scale);
        let factor = state.loss_scale() / scale_then;
        state.optimizer.set_gradients(|name| Some(gradients.get(name)? * factor));
        state.accumulated.images = progress.images_accumulated;
        let _ = state.accumulated.scores.fill_(progress.scores_accumulated);
    }
    let sums = progress.loss_sums.map(|sum| sum as f32);
    state.loss_sums.copy_(&Tensor::from_slice(&sums));
    let (Some(best), Some(bytes)) = (&progress.best, loaded.files.get(BEST_WEIGHTS)) else { return Ok(None) };
    let weights = EpochWeights::decode(bytes, best.epoch).map_err(|reason| format(BEST_WEIGHTS, reason))?;
    Ok(Some(weights))
}

/// Where to go on when a checkpoint was made with another batch size; `nominal` is the spec's `nbs`.
///
/// Mostly with the very next image: steps are made of the same images whatever the batch size. Only above the nominal
/// batch they are not; then images whose gradients were accumulated train again. Nothing is left out.
pub fn with_batch_size(progress: &Progress, batch_size: u32, nominal: u32) -> Progress {
    let mut next = Progress { batch_size, ..progress.clone() };
    let new = unit_images(nominal, batch_size);
    if new != unit_images(nominal, progress.batch_size) {
        let trained = progress.images_done.saturating_sub(progress.images_accumulated);
        next.images_done = trained - trained % u64::from(new);
        (next.units_accumulated, next.images_accumulated, next.scores_accumulated) = (0, 0, 0.0);
        // The epoch's mean must stay a mean over its images.
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
            units_accumulated: 1,
            images_accumulated: 80,
            scores_accumulated: 12.5,
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
        assert_eq!((next.images_done, next.units_accumulated, next.images_accumulated), (400, 0, 0));
        assert_eq!((next.scores_accumulated, next.loss_sums), (0.0, [4.0, 8.0, 12.0]));
    }
}

//! The running statistics of batch normalisation, which a forward pass changes before any optimiser step:
//! saved, and restored where a pass must leave no trace.

use tch::{Device, Kind, Tensor};
use trainyard_types::TrainSpec;

use crate::libtorch::{foreach, rethrow};
use crate::model::Model;
use crate::weights::{Entry, Role};

/// Pixels of an image's side that the deepest layers see as one.
const STRIDE: u32 = 32;

/// A copy of a model's running statistics.
#[derive(Debug)]
pub struct BnState {
    /// On the model's device: means and variances, one after the other.
    values: Tensor,
    /// On the CPU: counts of batches.
    counts: Tensor,
}

impl BnState {
    /// Copies the statistics of `model`. Nothing waits for the device.
    pub fn save(model: &Model) -> Self {
        Self {
            values: join(model, Role::Statistic, (Kind::Float, model.device())),
            counts: join(model, Role::Counter, (Kind::Int64, Device::Cpu)),
        }
    }

    /// Makes the statistics of `model`, the same one, what they were.
    pub fn restore(&self, model: &Model) {
        assign(model, Role::Statistic, &self.values);
        assign(model, Role::Counter, &self.counts);
    }

    /// Makes means and variances of `model`, the same one, what they were, unless `keep`, a bool scalar on its device.
    /// Nothing waits for the device.
    pub fn restore_unless(&self, model: &Model, keep: &Tensor) {
        let now = join(model, Role::Statistic, (Kind::Float, model.device()));
        assign(model, Role::Statistic, &now.where_self(keep, &self.values));
    }
}

/// All tensors of `model` with that role, one after the other.
fn join(model: &Model, role: Role, options: (Kind, Device)) -> Tensor {
    let parts: Vec<Tensor> = entries(model, role).map(|entry| entry.tensor.view(-1)).collect();
    if parts.is_empty() { Tensor::zeros([0], options) } else { Tensor::cat(&parts, 0) }
}

/// The inverse of [`join`].
fn assign(model: &Model, role: Role, values: &Tensor) {
    let _no_grad = tch::no_grad_guard();
    let tensors: Vec<&Tensor> = entries(model, role).map(|entry| &entry.tensor).collect();
    if tensors.is_empty() {
        return;
    }
    let length = |tensor: &&Tensor| i64::try_from(tensor.numel()).unwrap_or(0);
    let lengths: Vec<i64> = tensors.iter().map(length).collect();
    let parts = values.split_with_sizes(lengths, 0);
    let parts: Vec<Tensor> = parts.iter().zip(&tensors).map(|(part, tensor)| part.view_as(tensor)).collect();
    let parts: Vec<&Tensor> = parts.iter().collect();
    foreach::copy(&tensors, &parts).unwrap_or_else(|error| rethrow(&error));
}

/// A warning where the deepest layers never see more than one value of each channel, if they do not.
///
/// `images`: those that train.
pub fn single_value_warning(spec: &TrainSpec, images: usize, batch_size: u32) -> Option<String> {
    // A map of one pixel; `multi_scale` makes images of this side no smaller or larger.
    let one_pixel = spec.imgsz <= STRIDE;
    (one_pixel && (images <= 1 || batch_size <= 1)).then(|| {
        format!(
            "one image of {0} pixels at a time gives the deepest layers one value of each channel, which has no \
             statistics: their batch normalisation keeps those that it began with; it learns its own with `imgsz` \
             of at least {1}, or with two images at a time",
            spec.imgsz,
            2 * STRIDE
        )
    })
}

fn entries(model: &Model, role: Role) -> impl Iterator<Item = &Entry> {
    model.weights().iter().filter(move |entry| entry.role == role)
}

#[cfg(test)]
mod tests {
    use trainyard_types::ModelScale;

    use super::*;

    #[test]
    fn one_value_of_a_channel_leaves_the_statistics_as_they_are_and_everything_finite() {
        tch::manual_seed(0);
        let model = Model::new(ModelScale::N, 2, 0, Device::Cpu);
        let before: Vec<Tensor> = entries(&model, Role::Counter).map(|entry| entry.tensor.copy()).collect();
        let image = |side: i64| Tensor::rand([1, 3, side, side], (Kind::Float, Device::Cpu));
        let prediction = model.forward(&image(32), true);
        (prediction.boxes.sum(Kind::Float) + prediction.scores.sum(Kind::Float)).backward();
        for entry in model.weights().iter() {
            let finite = |tensor: &Tensor| bool::try_from(tensor.isfinite().all()).unwrap();
            assert!(finite(&entry.tensor), "{}", entry.name);
            let gradient = entry.tensor.grad();
            assert!(!gradient.defined() || finite(&gradient), "{}", entry.name);
        }
        let counted = |counter: &Tensor| counter.int64_value(&[]);
        let seen = || entries(&model, Role::Counter).map(|entry| counted(&entry.tensor)).collect::<Vec<_>>();
        let few: i64 = seen().iter().sum();
        assert!(before.iter().all(|counter| counted(counter) == 0));
        assert!(few > 0 && few < 57, "the deepest layers have seen none: {:?}", seen());
        // One pixel more, and all of them learn.
        let _ = model.forward(&image(64), true);
        assert_eq!(seen().iter().sum::<i64>(), few + 57);
    }

    #[test]
    fn who_trains_on_single_pixels_is_told() {
        let spec = |imgsz| TrainSpec { imgsz, ..TrainSpec::new(ModelScale::N, "/d.yaml") };
        assert!(single_value_warning(&spec(32), 100, 1).unwrap().contains("`imgsz` of at least 64"));
        assert!(single_value_warning(&spec(32), 1, 16).is_some());
        assert_eq!(
            [single_value_warning(&spec(32), 2, 2), single_value_warning(&spec(64), 1, 1)],
            [None, None]
        );
    }

    #[test]
    fn a_forward_pass_leaves_no_trace_once_statistics_are_put_back() {
        tch::manual_seed(0);
        let model = Model::new(ModelScale::N, 2, 0, Device::Cpu);
        let all = || model.weights().iter().map(|entry| entry.tensor.detach().copy()).collect::<Vec<_>>();
        let images = Tensor::rand([2, 3, 64, 64], (Kind::Float, Device::Cpu));
        let _ = model.forward(&images, true);
        let before = all();
        let saved = BnState::save(&model);
        let _ = model.forward(&(&images * 0.5), true);
        let differ = |found: &[Tensor]| found.iter().zip(&before).filter(|(a, b)| !a.equal(b)).count();
        assert_eq!(differ(&all()), 3 * 57, "means, variances and counts");
        saved.restore(&model);
        assert_eq!(differ(&all()), 0);

        // Where a batch was not finite, and only there.
        let _ = model.forward(&(images * f64::NAN), true);
        saved.restore_unless(&model, &Tensor::from(true));
        assert_eq!(differ(&all()), 3 * 57);
        saved.restore_unless(&model, &Tensor::from(false));
        assert_eq!(differ(&all()), 57, "counts");
    }
}

//! The running statistics of batch normalisation, which a forward pass changes before any optimiser step:
//! saved, and restored where a pass must leave no trace.

use tch::{Device, Kind, Tensor};
use trainyard_types::TrainSpec;

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
        let values: Vec<&Tensor> = entries(model, Role::Statistic).map(|entry| &entry.tensor).collect();
        let counts: Vec<&Tensor> = entries(model, Role::Counter).map(|entry| &entry.tensor).collect();
        let join = |parts: Vec<Tensor>, kind, device| match parts.is_empty() {
            true => Tensor::zeros([0], (kind, device)),
            false => Tensor::cat(&parts, 0),
        };
        let flat = |parts: Vec<&Tensor>| parts.into_iter().map(|part| part.view(-1)).collect::<Vec<_>>();
        Self {
            values: join(flat(values), Kind::Float, model.device()),
            counts: join(flat(counts), Kind::Int64, Device::Cpu),
        }
    }

    /// Makes the statistics of `model`, the same one, what they were.
    pub fn restore(&self, model: &Model) {
        let _no_grad = tch::no_grad_guard();
        for (role, saved) in [(Role::Statistic, &self.values), (Role::Counter, &self.counts)] {
            let mut from = 0;
            for entry in entries(model, role) {
                let length = i64::try_from(entry.tensor.numel()).unwrap_or(0);
                entry.tensor.shallow_clone().copy_(&saved.narrow(0, from, length).view_as(&entry.tensor));
                from += length;
            }
        }
    }
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
        let _ = model.forward(&(images * 0.5), true);
        let differ = |found: &[Tensor]| found.iter().zip(&before).filter(|(a, b)| !a.equal(b)).count();
        assert_eq!(differ(&all()), 3 * 57, "means, variances and counts");
        saved.restore(&model);
        assert_eq!(differ(&all()), 0);
    }
}

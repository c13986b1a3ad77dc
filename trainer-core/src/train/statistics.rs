//! The statistics of batch normalisation, which a forward pass changes before anything is learnt: kept, and put
//! back where a pass must leave no trace.

use tch::{Device, Kind, Tensor};

use crate::model::Model;
use crate::weights::{Entry, Role};

/// A copy of a model's statistics.
#[derive(Debug)]
pub struct Statistics {
    /// On the model's device: all of them, one after the other.
    values: Tensor,
    /// On the CPU: counts of batches.
    counts: Tensor,
}

impl Statistics {
    /// Copies those of `model`. Nothing waits for the device.
    pub fn keep(model: &Model) -> Self {
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

    /// Makes those of `model`, the same one, what they were.
    pub fn put_back(&self, model: &Model) {
        let _no_grad = tch::no_grad_guard();
        for (role, kept) in [(Role::Statistic, &self.values), (Role::Counter, &self.counts)] {
            let mut from = 0;
            for entry in entries(model, role) {
                let length = i64::try_from(entry.tensor.numel()).unwrap_or(0);
                entry.tensor.shallow_clone().copy_(&kept.narrow(0, from, length).view_as(&entry.tensor));
                from += length;
            }
        }
    }
}

fn entries(model: &Model, role: Role) -> impl Iterator<Item = &Entry> {
    model.weights().iter().filter(move |entry| entry.role == role)
}

#[cfg(test)]
mod tests {
    use trainyard_types::ModelScale;

    use super::*;

    #[test]
    fn a_forward_pass_leaves_no_trace_once_statistics_are_put_back() {
        tch::manual_seed(0);
        let model = Model::new(ModelScale::N, 2, 0, Device::Cpu);
        let all = || model.weights().iter().map(|entry| entry.tensor.detach().copy()).collect::<Vec<_>>();
        let images = Tensor::rand([2, 3, 64, 64], (Kind::Float, Device::Cpu));
        let _ = model.forward(&images, true);
        let before = all();
        let kept = Statistics::keep(&model);
        let _ = model.forward(&(images * 0.5), true);
        let differ = |found: &[Tensor]| found.iter().zip(&before).filter(|(a, b)| !a.equal(b)).count();
        assert_eq!(differ(&all()), 3 * 57, "means, variances and counts");
        kept.put_back(&model);
        assert_eq!(differ(&all()), 0);
    }
}

//! Distribution focal loss: a box side is a distribution over bins (Li et al. 2020).

use tch::{Kind, Tensor};

use crate::model::plan::BINS;

/// Just under the last bin, so that the bin above a target exists.
const LARGEST: f64 = (BINS - 1) as f64 - 0.01;

/// Distances from anchors to the sides of the boxes around them, as far as bins go.
///
/// `centers`: `[N, 2]`, `boxes`: `[N, 4]` `xyxy`, both in cells. Returns `[N, 4]` in `[0, 14.99]`: left,
/// top, right, bottom.
pub fn side_distances(centers: &Tensor, boxes: &Tensor) -> Tensor {
    let corners = boxes.chunk(2, -1);
    Tensor::cat(&[centers - &corners[0], &corners[1] - centers], -1).clamp(0.0, LARGEST)
}

/// Cross-entropy to the two bins around a distance, weighted by nearness, mean over the sides.
///
/// `logits`: `[N, 64]`, `distances`: `[N, 4]` in `[0, 14.99]`. Returns `[N]`; gradients flow through
/// `logits`.
pub fn distribution_focal(logits: &Tensor, distances: &Tensor) -> Tensor {
    let log_shares = logits.reshape([-1, 4, BINS]).log_softmax(-1, Kind::Float);
    let below = distances.floor();
    let share_above = distances - &below;
    let shares = Tensor::stack(&[share_above.rsub_scalar(1.0), share_above], -1);
    let below = below.to_kind(Kind::Int64);
    let bins = Tensor::stack(&[&below, &(&below + 1)], -1);
    // [N, 4, 2]: of both bins together, which is one gather, and one scatter in the backward pass.
    let likelihood = log_shares.gather(-1, &bins, false) * shares;
    likelihood.sum_dim_intlist([-2, -1].as_slice(), false, Kind::Float) * -0.25
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    #[test]
    fn a_sharp_distribution_at_the_distance_costs_nothing() {
        let logits = Tensor::full([1, 4, BINS], -50.0, (Kind::Float, Device::Cpu));
        let _ = logits.narrow(2, 3, 1).fill_(50.0);
        let at = |distance: f32| {
            let distances = Tensor::from_slice(&[distance; 4]).view([1, 4]);
            distribution_focal(&logits.view([1, 64]), &distances).double_value(&[0])
        };
        assert!(at(3.0) < 1e-6);
        assert!((at(4.0) - 100.0).abs() < 1e-3);
    }

    #[test]
    fn distances_stay_within_the_bins() {
        let centers = Tensor::from_slice(&[5.0_f32, 5.0]).view([1, 2]);
        let boxes = Tensor::from_slice(&[6.0_f32, -20.0, 8.5, 40.0]).view([1, 4]);
        let found = Vec::<f32>::try_from(side_distances(&centers, &boxes).view(-1)).unwrap();
        assert_eq!(found, [0.0, 14.99, 3.5, 14.99]);
    }
}

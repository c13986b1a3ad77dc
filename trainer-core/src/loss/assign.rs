//! Task-aligned assignment: which anchors learn which object (Feng et al. 2021, TOOD).
//!
//! Compares the pairs of an object and an anchor inside it, which the host knows, and no others. Everything is one
//! batch of tensor operations without a look at their values, so that a GPU need not wait for the host.

mod candidates;
mod targets;

use tch::{Kind, Tensor};

use self::targets::Pairs;
pub use self::targets::{Object, PixelObject, Targets};
use super::ciou::complete_iou;

/// Anchors that an object may take, the best ones.
const TOP_K: i64 = 10;
/// Exponent of the overlap in the alignment metric; the score's is one half.
const BETA: f64 = 6.0;
const EPS: f64 = 1e-9;

/// Which anchors learn what. An anchor may be there more than once, with the same object.
#[derive(Debug)]
pub struct Assignment {
    /// `[B, A, classes]` float: soft scores; zero for the background.
    pub scores: Tensor,
    /// `[N]` integer: the anchors that learn an object, counted through the batch, in their order; `B * A` in places that are
    /// left over.
    pub anchors: Tensor,
    /// `[N]` float: the soft score of each, counted once: zero where the anchor was there before, or where there is none.
    pub weights: Tensor,
    /// `[N, 4]` float: the object's box in pixels.
    pub boxes: Tensor,
    /// `[N]` integer: the object's class.
    pub labels: Tensor,
}

/// Assigns anchors to objects, for targets that are not empty.
///
/// `logits`: `[B, A, classes]`; `boxes`: `[B, A, 4]` `xyxy` in pixels; anchors as [`Targets::grid`] has them. Nothing here
/// has a gradient.
pub fn assign(logits: &Tensor, boxes: &Tensor, targets: &Targets) -> Assignment {
    let _no_grad = tch::no_grad_guard();
    let size = logits.size();
    let (count, classes) = (size[0] * size[1], size[2]);
    let (logits, boxes) = (logits.reshape([count, classes]), boxes.reshape([count, 4]));
    // One row more, for the places that are left over.
    let mut scores = Tensor::zeros([count + 1, classes], (Kind::Float, logits.device()));
    let parts: Vec<Taken> = targets
        .pairs()
        .map(|pairs| {
            let taken = take(&compare(&logits, &boxes, &pairs), &pairs, count);
            let at = [Some(&taken.anchors), Some(&taken.labels)];
            let _ = scores.index_put_(&at, &taken.scores, false);
            taken
        })
        .collect();
    let join = |part: fn(&Taken) -> &Tensor| match &parts[..] {
        [only] => part(only).shallow_clone(),
        several => Tensor::cat(&several.iter().map(part).collect::<Vec<_>>(), 0),
    };
    Assignment {
        scores: scores.narrow(0, 0, count).view([size[0], size[1], classes]),
        anchors: join(|part| &part.anchors),
        weights: join(|part| &part.weights),
        boxes: join(|part| &part.boxes),
        labels: join(|part| &part.labels),
    }
}

/// `[2, pairs]` float: how well each anchor's box overlaps the object, 0 to 1, together with the score that it gives to the
/// object's class; and the overlap alone.
fn compare(logits: &Tensor, boxes: &Tensor, pairs: &Pairs) -> Tensor {
    let predicted = boxes.index_select(0, &pairs.anchors);
    let overlaps = complete_iou(&predicted, &pairs.boxes.index_select(0, &pairs.objects)).clamp_min(0.0);
    let classes = pairs.labels.index_select(0, &pairs.objects);
    let scores = logits.index(&[Some(&pairs.anchors), Some(&classes)]).sigmoid();
    let metrics = scores.sqrt() * overlaps.pow_tensor_scalar(BETA);
    Tensor::stack(&[metrics, overlaps], 0)
}

/// What the objects of a part take; see [`Assignment`].
struct Taken {
    anchors: Tensor,
    labels: Tensor,
    boxes: Tensor,
    /// `[picks]` float: soft scores, the same at each place of an anchor.
    scores: Tensor,
    weights: Tensor,
}

/// Gives each object its best anchors, and those that several want to the object that they overlap most. `count`: the
/// anchors of the batch.
///
/// `fits`: as [`compare`] gives them.
fn take(fits: &Tensor, pairs: &Pairs, count: i64) -> Taken {
    // Floats that are not negative are in the order of their bits.
    let bits = fits.view_dtype(Kind::Int).to_kind(Kind::Int64);
    let picks = best_pairs(&bits.get(0), pairs);
    let wanted = pairs.anchors.index_select(0, &picks.pairs).where_scalarother(&picks.taken, count);
    let (anchors, order) = wanted.sort_stable(true, 0, false);
    let places = anchors.size()[0];

    // An anchor that several want is at several places, one after the other.
    let as_before = anchors.narrow(0, 1, places - 1).eq_tensor(&anchors.narrow(0, 0, places - 1));
    let as_before = as_before.constant_pad_nd([1, 1]);
    let (again, more) = (as_before.narrow(0, 0, places), as_before.narrow(0, 1, places));
    let closest = closest_pairs(&bits.get(1), pairs, count).index_select(0, &anchors);
    let own = picks.pairs.index_select(0, &order);
    let chosen = closest.where_self(&again.logical_or(&more), &own);

    // [2, places]: metric and overlap; [2, objects]: the best of each object.
    let fits = fits.index_select(1, &chosen).where_scalarother(&anchors.lt(count), 0.0);
    let objects = pairs.objects.index_select(0, &chosen);
    let mut best = fits.new_zeros([2, pairs.labels.size()[0]], (fits.kind(), fits.device()));
    let _ = best.internal_scatter_reduce_(1, &objects.expand([2, places], false), &fits, "amax", true);
    let best = best.index_select(1, &objects);
    // An anchor's share of its object's best metric, times the object's best overlap.
    let scores = fits.get(0) * best.get(1) / (best.get(0) + EPS);
    Taken {
        labels: pairs.labels.index_select(0, &objects),
        boxes: pairs.boxes.index_select(0, &objects),
        weights: Tensor::where_scalarself(&again, 0.0, &scores),
        scores,
        anchors,
    }
}

/// The best pairs of each object, in the objects' order.
struct Picks {
    /// `[picks]` integer: which pairs.
    pairs: Tensor,
    /// `[picks]` bool: whether the object takes the anchor.
    taken: Tensor,
}

/// `metrics`: the bits of the metrics.
fn best_pairs(metrics: &Tensor, pairs: &Pairs) -> Picks {
    // Object by object, best first, and of equals the first. So each object's pairs stay where they are together.
    let keys = &pairs.objects * (1_i64 << 31) - metrics;
    let (_, order) = keys.sort_stable(true, 0, false);
    let best = order.index_select(0, &pairs.firsts);
    let fits = metrics.index_select(0, &best).gt(0);
    // See `Builder::close_object`.
    let early = (pairs.anchors.index_select(0, &best) - &best).lt_tensor(&pairs.limits);
    Picks { taken: fits.logical_or(&early), pairs: best }
}

/// `[count + 1]` integer: of the pairs of each anchor, the one that overlaps most, the first of equals; some pair where
/// there is none. `overlaps`: their bits.
fn closest_pairs(overlaps: &Tensor, pairs: &Pairs, count: i64) -> Tensor {
    const LOW: i64 = 1 << 32;
    // The largest overlap gives the smallest key, and so does the first pair of equals.
    let keys = Tensor::arange(pairs.anchors.size()[0], (Kind::Int64, overlaps.device())) - overlaps * LOW;
    let largest = i64::MAX / LOW * LOW;
    let mut closest = Tensor::full([count + 1], largest, (Kind::Int64, overlaps.device()));
    let _ = closest.internal_scatter_reduce_(0, &pairs.anchors, &keys, "amin", true);
    closest.bitwise_and_(LOW - 1)
}

#[cfg(test)]
mod tests;

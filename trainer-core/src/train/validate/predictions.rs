//! What a model says of images, from its device to detections.
//!
//! On a GPU it travels by itself. Where layers compute in 16 bits, so do the logits of the classes, which are most of it;
//! the host makes scores of those few that may become detections.

use std::sync::OnceLock;
use std::thread::ScopedJoinHandle;

use tch::{Device, Kind, Tensor};

use crate::eval::{Detection, LogitScores, NmsConfig, suppress, suppress_logits};
use crate::libtorch::copies::ToHost;
use crate::libtorch::{self, TorchError};
use crate::model::head::{Head, Prediction};

/// Predictions on their way to the host.
#[derive(Debug)]
pub(super) struct Predictions {
    /// `[B, 4 + classes, A]`, as [`Head::decode`] has it; or boxes `[B, A, 4]` in 32 bits and logits `[B, A, classes]` in 16.
    sent: ToHost,
}

impl Predictions {
    /// Begins to bring what the model says to the host. Does not wait, and keeps no memory of a GPU: the copy is in the
    /// order of its work.
    pub(super) fn send(head: &Head, prediction: &Prediction) -> Result<Self, TorchError> {
        let scores = &prediction.scores;
        // A CPU need not copy, and makes scores of logits faster itself.
        let tensors = if scores.device().is_cuda() && logit_scores(scores.kind()).is_some() {
            vec![head.decode_boxes(prediction), scores.contiguous()]
        } else {
            vec![head.decode(prediction)]
        };
        Ok(Self { sent: ToHost::begin(tensors)? })
    }

    /// The detections of each image. Waits for the device, once.
    pub(super) fn receive(self) -> Result<Arrived, TorchError> {
        Ok(Arrived(self.sent.finish()?))
    }
}

/// [`Predictions`] on the host.
#[derive(Debug)]
pub(super) struct Arrived(Vec<Tensor>);

impl Arrived {
    /// Detections of each image.
    pub(super) fn detections(&self, config: &NmsConfig) -> Vec<Vec<Detection>> {
        match &self.0[..] {
            [boxes, logits] => detections_of_logits(boxes, logits, config),
            all => all.iter().flat_map(|decoded| detections(decoded, config)).collect(),
        }
    }
}

/// Detections of each image, from decoded predictions `[B, 4 + classes, A]`; see [`suppress`].
pub fn detections(decoded: &Tensor, config: &NmsConfig) -> Vec<Vec<Detection>> {
    let decoded = decoded.to_device(Device::Cpu).to_kind(Kind::Float).contiguous();
    let [images, rows, anchors] = sizes(&decoded);
    let values = values::<f32>(&decoded);
    let (classes, length) = (rows.saturating_sub(4), rows * anchors);
    of_each(images, |image| suppress(&values[image * length..(image + 1) * length], classes, anchors, config))
}

/// [`detections`], from boxes `[B, A, 4]` and the logits of scores `[B, A, classes]` in 16 bits.
fn detections_of_logits(boxes: &Tensor, logits: &Tensor, config: &NmsConfig) -> Vec<Vec<Detection>> {
    let scores = logit_scores(logits.kind()).expect("they were sent so because there are");
    let [images, anchors, classes] = sizes(logits);
    let (boxes, logits) = (values::<f32>(boxes), values::<u16>(logits));
    of_each(images, |image| {
        let boxes = &boxes[image * anchors * 4..(image + 1) * anchors * 4];
        let logits = &logits[image * anchors * classes..(image + 1) * anchors * classes];
        suppress_logits(boxes, logits, classes, scores, config)
    })
}

/// `find` for each of so many images, which are shared among threads: an untrained model has thousands of candidates an
/// image.
fn of_each(images: usize, find: impl Fn(usize) -> Vec<Detection> + Sync) -> Vec<Vec<Detection>> {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let share = images.div_ceil(threads).max(1);
    let find = &find;
    std::thread::scope(|scope| {
        let starts = (0..images).step_by(share);
        let parts: Vec<_> = starts
            .map(|start| {
                scope.spawn(move || {
                    libtorch::unbind_thread();
                    (start..(start + share).min(images)).map(find).collect::<Vec<_>>()
                })
            })
            .collect();
        let join = |part: ScopedJoinHandle<'_, Vec<Vec<Detection>>>| match part.join() {
            Ok(found) => found,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        parts.into_iter().flat_map(join).collect()
    })
}

/// The scores of logits of a 16-bit type, as libtorch computes them in 32 bits; none of other types.
fn logit_scores(kind: Kind) -> Option<&'static LogitScores> {
    static HALF: OnceLock<LogitScores> = OnceLock::new();
    static BFLOAT16: OnceLock<LogitScores> = OnceLock::new();
    let known = match kind {
        Kind::Half => &HALF,
        Kind::BFloat16 => &BFLOAT16,
        _ => return None,
    };
    Some(known.get_or_init(|| {
        let all: Vec<i16> = (0..=u16::MAX).map(u16::cast_signed).collect();
        let scores = Tensor::from_slice(&all).view_dtype(kind).to_kind(Kind::Float).sigmoid();
        LogitScores::new(values::<f32>(&scores).to_vec())
    }))
}

/// The three sides of a tensor.
fn sizes(tensor: &Tensor) -> [usize; 3] {
    let size = tensor.size();
    [0, 1, 2].map(|side| usize::try_from(size[side]).unwrap_or(0))
}

/// The values of a contiguous tensor on the host, or their bits.
///
/// # Panics
/// When its values are of another size than `T`, or lie elsewhere.
fn values<T: Bits>(tensor: &Tensor) -> &[T] {
    assert!(tensor.is_contiguous() && tensor.device() == Device::Cpu, "values are read in their order");
    assert_eq!(tensor.kind().elt_size_in_bytes(), size_of::<T>(), "values are of this size");
    if tensor.numel() == 0 {
        return &[];
    }
    // SAFETY: so many values of this size lie there one after the other, any bits are a `T`, and the tensor lives.
    unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast::<T>(), tensor.numel()) }
}

/// Numbers that any bits make.
trait Bits: Copy {}
impl Bits for f32 {}
impl Bits for u16 {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logits_of_16_bits_have_the_scores_that_libtorch_gives_them() {
        for kind in [Kind::Half, Kind::BFloat16] {
            let boxes =
                Tensor::from_slice(&[50.0_f32, 50.0, 20.0, 20.0, 90.0, 50.0, 20.0, 20.0]).view([1, 2, 4]);
            let logits = Tensor::from_slice(&[-8.0_f32, 0.3, 1.7, -20.0]).to_kind(kind).view([1, 2, 2]);
            let scores = logits.to_kind(Kind::Float).sigmoid();
            let decoded = Tensor::cat(&[&boxes, &scores], 2).transpose(1, 2);
            let config = NmsConfig::validation();
            let expected = detections(&decoded, &config);
            assert_eq!(expected[0].len(), 2);
            assert_eq!(detections_of_logits(&boxes, &logits, &config), expected, "{kind:?}");
        }
    }

    #[test]
    fn without_images_or_anchors_there_are_no_detections() {
        let options = (Kind::Float, Device::Cpu);
        let config = NmsConfig::validation();
        assert_eq!(detections(&Tensor::zeros([0, 6, 21], options), &config), Vec::<Vec<Detection>>::new());
        assert_eq!(detections(&Tensor::zeros([2, 6, 0], options), &config), [Vec::new(), Vec::new()]);
    }
}

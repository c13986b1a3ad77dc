//! Rectangular validation batches: images of like aspect ratio go together, so that little of a batch is grey.

use crate::resample::resize::to_side;

/// Which images go together when validating, and in what shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RectBatches {
    /// The indices of all images, by rising height/width.
    pub order: Vec<usize>,
    /// The shape in pixels of each batch of `batch_size` images of `order`, `[width, height]`.
    pub shapes: Vec<[usize; 2]>,
}

/// Sorts images of `sizes` (`[width, height]`, pixels) by aspect ratio and gives each batch the smallest shape
/// that holds its images at a long side of `imgsz`, rounded up to the stride with half a stride to spare.
///
/// # Panics
/// When `batch_size` is 0.
pub fn rect_batches(sizes: &[[usize; 2]], imgsz: usize, batch_size: usize) -> RectBatches {
    const STRIDE: f64 = 32.0;
    let ratio = |index: usize| sizes[index][1] as f64 / sizes[index][0] as f64;
    let mut order: Vec<usize> = (0..sizes.len()).collect();
    order.sort_by(|left, right| ratio(*left).total_cmp(&ratio(*right)));
    let shapes = order
        .chunks(batch_size)
        .map(|batch| {
            let (lowest, highest) = (ratio(batch[0]), ratio(batch[batch.len() - 1]));
            let shape = if highest < 1.0 {
                [1.0, highest]
            } else if lowest > 1.0 {
                [1.0 / lowest, 1.0]
            } else {
                [1.0, 1.0]
            };
            shape.map(|side| to_side((side * imgsz as f64 / STRIDE + 0.5).ceil()) * 32)
        })
        .collect();
    RectBatches { order, shapes }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bccd_at_320_validates_at_256_by_352() {
        assert_eq!(rect_batches(&[[640, 480]; 3], 320, 2).shapes, [[352, 256]; 2]);
        assert_eq!(rect_batches(&[[480, 640]], 320, 2).shapes, [[256, 352]]);
        assert_eq!(rect_batches(&[[480, 640], [640, 480]], 320, 2).shapes, [[352, 352]]);
    }
}

//! Which anchors may learn an object: those whose centres lie inside its box. Geometry alone, on the host.

use std::ops::Range;

use crate::model::plan::STRIDES;

/// An object's side counts as at least this many pixels when anchors are looked for.
const MIN_SIDE: f32 = 16.0;
/// A centre must be farther than this from each side of the box, in pixels.
const EPS: f32 = 1e-9;

/// Rows and columns of the head's levels for images of `[height, width]` pixels.
pub(super) fn grid([height, width]: [i64; 2]) -> [(i64, i64); 3] {
    STRIDES.map(|stride| (cells(height, stride), cells(width, stride)))
}

/// A level's cells along a side: layers that halve a side round up.
fn cells(side: i64, stride: i64) -> i64 {
    (side + stride - 1) / stride
}

/// Anchors of all levels together.
pub(super) fn anchors(grid: &[(i64, i64); 3]) -> i64 {
    grid.iter().map(|(rows, columns)| rows * columns).sum()
}

/// Calls `found` with the number of each anchor inside the box `xyxy`, in pixels, in ascending order.
///
/// The centres inside a box are some rows and some columns of each level.
pub(super) fn inside(xyxy: [f32; 4], grid: &[(i64, i64); 3], mut found: impl FnMut(i64)) {
    let [x1, y1, x2, y2] = xyxy;
    let (across, down) = (reach(x1, x2), reach(y1, y2));
    let mut before = 0;
    for (&(rows, columns), stride) in grid.iter().zip(STRIDES) {
        let (row_range, column_range) = (between(down, rows, stride), between(across, columns, stride));
        for row in row_range {
            column_range.clone().for_each(|column| found(before + row * columns + column));
        }
        before += rows * columns;
    }
}

/// A side from `near` to `far`, a small one taken as larger.
fn reach(near: f32, far: f32) -> [f32; 2] {
    if far - near < MIN_SIDE {
        let center = (near + far) / 2.0;
        [center - MIN_SIDE / 2.0, center + MIN_SIDE / 2.0]
    } else {
        [near, far]
    }
}

/// The cells of `count` whose centres lie between two places. None if one of those is not a number.
fn between([near, far]: [f32; 2], count: i64, stride: i64) -> Range<i64> {
    let center = |cell: i64| (cell as f32 + 0.5) * stride as f32;
    let first = if near.is_nan() { count } else { leading(count, |cell| center(cell) - near <= EPS) };
    first..first.max(leading(count, |cell| far - center(cell) > EPS))
}

/// How many numbers below `count` have a property that the first ones have, and no others.
fn leading(count: i64, has: impl Fn(i64) -> bool) -> i64 {
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = i64::midpoint(low, high);
        if has(middle) { low = middle + 1 } else { high = middle }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(xyxy: [f32; 4]) -> Vec<i64> {
        let mut all = Vec::new();
        inside(xyxy, &grid([32, 32]), |anchor| all.push(anchor));
        all
    }

    #[test]
    fn a_box_holds_the_centres_inside_it_of_every_level() {
        // Of 4 x 4, 2 x 2 and 1 x 1 cells. A centre on the border is outside.
        assert_eq!(found([4.0, 0.0, 24.0, 18.0]), [1, 2, 5, 6, 16, 20]);
        assert_eq!(found([-100.0, -100.0, 100.0, 100.0]), (0..21).collect::<Vec<_>>());
    }

    #[test]
    fn a_small_box_counts_as_one_of_16_pixels() {
        // From 3 to 19 across, and from 4.5 to 20.5 down.
        assert_eq!(found([11.0, 11.0, 11.0, 14.0]), [4, 5, 8, 9, 16, 20]);
    }

    #[test]
    fn boxes_beside_the_image_and_boxes_of_no_numbers_hold_none() {
        assert!(found([40.0, 0.0, 60.0, 32.0]).is_empty());
        for side in 0..4 {
            let mut xyxy = [0.0, 0.0, 32.0, 32.0];
            xyxy[side] = f32::NAN;
            assert!(found(xyxy).is_empty(), "{xyxy:?}");
        }
    }

    #[test]
    fn sides_that_are_no_multiples_of_a_stride_have_a_cell_more() {
        assert_eq!(grid([32, 40]), [(4, 5), (2, 3), (1, 2)]);
        assert_eq!(anchors(&grid([32, 40])), 20 + 6 + 2);
    }
}

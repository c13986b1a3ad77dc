//! The path for scale and translation. Each row of the mosaic that is needed is put together from its images, brought
//! to the columns of the output once, and then blended with its neighbour for each output row between the two.

use std::ops::Range;

use super::{Flips, Row, VisibleTile};
use crate::augment::affine::Matrix;
use crate::augment::mosaic::MosaicLayout;
use crate::resample::GREY;
use crate::resample::row_kernels::{COLUMN_SUM, GROUP, ROW_PADDING, TapGroup, blend_columns, blend_rows};

/// Scale and translation of one mosaic.
#[derive(Debug, Default)]
pub(super) struct SeparablePath {
    /// The taps of all output columns.
    groups: Vec<TapGroup>,
    /// The taps of all output rows.
    rows: Vec<RowTap>,
    /// The columns of the mosaic that are read, with margin.
    columns: Range<usize>,
    /// One row of the mosaic: three planes of `columns`, each with [`ROW_PADDING`] behind it.
    line: Vec<u8>,
    /// The rows above and below the output row.
    blended: [BlendedRow; 2],
}

/// The filter tap of one output row.
#[derive(Debug, Clone, Copy)]
struct RowTap {
    /// The upper one of its two rows of the mosaic, with margin.
    upper: usize,
    /// The weight of the lower one, of [`COLUMN_SUM`].
    lower_weight: i16,
}

/// A row of the mosaic at the columns of the output.
#[derive(Debug, Default)]
struct BlendedRow {
    /// Which row of the mosaic it is, with margin; `None` before the first.
    row: Option<usize>,
    /// What [`blend_columns`] gives for each of the three planes.
    sums: Vec<i16>,
}

/// The filter tap of a continuous position on a mosaic of `side` pixels: the pixel at or before it, with margin, and the
/// share of the next one.
fn tap(position: f64, side: usize) -> (usize, f64) {
    // The centre of pixel 0, which has index 1 with the margin, is at 0.5 without it.
    let position = (position + 0.5).clamp(0.0, side as f64 + 1.0);
    let first = (position as usize).min(side);
    (first, position - first as f64)
}

impl SeparablePath {
    /// Gets ready to make `side` x `side` pixels of a mosaic of `mosaic_side`; `back` maps the output to it.
    pub fn prepare(&mut self, mosaic_side: usize, back: &Matrix, side: usize, flips: Flips) {
        let position = |axis: usize, at: usize, flipped: bool| {
            let at = if flipped { side - 1 - at } else { at };
            let m = &back.0;
            tap((m[axis][axis] * (at as f64 + 0.5) + m[axis][2]) / m[2][2], mosaic_side)
        };
        self.rows.clear();
        self.rows.extend((0..side).map(|y| {
            let (upper, share) = position(1, y, flips.up_down);
            RowTap { upper, lower_weight: (share * f64::from(COLUMN_SUM)).round_ties_even() as i16 }
        }));
        let columns: Vec<(usize, f64)> = (0..side).map(|x| position(0, x, flips.left_right)).collect();
        let lowest = columns.iter().map(|tap| tap.0).min().unwrap_or(0);
        let highest = columns.iter().map(|tap| tap.0).max().unwrap_or(0);
        self.columns = lowest..highest + 2;
        self.groups.clear();
        self.groups.extend(
            columns.chunks(GROUP).map(|taps| TapGroup::new(taps.iter().map(|tap| (tap.0 - lowest, tap.1)))),
        );
        self.line.clear();
        self.line.resize(3 * (self.columns.len() + ROW_PADDING), GREY);
        for blended in &mut self.blended {
            blended.row = None;
            blended.sums.clear();
            blended.sums.resize(3 * self.groups.len() * GROUP, 0);
        }
    }

    /// Makes row `y` of the output.
    pub fn row(&mut self, layout: &MosaicLayout, visible: &[VisibleTile], y: usize, out: Row<'_>) {
        let RowTap { upper, lower_weight } = self.rows[y];
        // From one output row to the next, one of the two input rows often stays.
        if self.blended[1].row == Some(upper) || self.blended[0].row == Some(upper + 1) {
            self.blended.swap(0, 1);
        }
        for index in 0..2 {
            if self.blended[index].row != Some(upper + index) {
                self.fill(layout, visible, upper + index, index);
            }
        }
        let plane_length = self.groups.len() * GROUP;
        let [above, below] = &self.blended;
        for (plane, out) in out.into_iter().enumerate() {
            let start = plane * plane_length;
            blend_rows(&above.sums[start..], &below.sums[start..], lower_weight, out);
        }
    }

    /// Puts a row of the mosaic together, and brings it to the columns of the output.
    fn fill(&mut self, layout: &MosaicLayout, visible: &[VisibleTile], row: usize, index: usize) {
        let (columns, stride) = (&self.columns, self.columns.len() + ROW_PADDING);
        self.line.fill(GREY);
        for visible in visible.iter().filter(|visible| visible.rows.contains(&row)) {
            let shown = visible.columns.start.max(columns.start)..visible.columns.end.min(columns.end);
            if shown.is_empty() {
                continue;
            }
            let tile = &layout.tiles[visible.tile];
            let source = (shown.start.cast_signed() - 1 - tile.left).cast_unsigned();
            let line = (row.cast_signed() - 1 - tile.top).cast_unsigned();
            for plane in 0..3 {
                let target = plane * stride + shown.start - columns.start;
                self.line[target..target + shown.len()]
                    .copy_from_slice(&tile.planes.row(plane, line)[source..source + shown.len()]);
            }
        }
        let plane_length = self.groups.len() * GROUP;
        let blended = &mut self.blended[index];
        blended.row = Some(row);
        for (line, sums) in self.line.chunks_exact(stride).zip(blended.sums.chunks_exact_mut(plane_length)) {
            blend_columns(line, &self.groups, sums);
        }
    }
}

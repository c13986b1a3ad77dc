//! The fused sampler: makes the rows of a sample straight from the images of a scene. No picture of the
//! scene exists at any time, only the two rows of it that are being blended.
//!
//! Pixels are bilinear; positions are continuous, pixel (0, 0) covers the square from 0 to 1. Around the
//! scene all is grey, and an edge blends into it.

mod general;

use std::ops::Range;

use self::general::General;
use crate::affine::Matrix;
use crate::canvas::Scene;
use crate::kernels::{COLUMN_SUM, GROUP, Group, SLACK, blend_columns, blend_rows};
use crate::letterbox::GREY;

/// Which ways a sample is turned over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flips {
    /// Top and bottom change places.
    pub up_down: bool,
    /// Left and right change places.
    pub left_right: bool,
}

/// The three planes of a row.
pub type Row<'a> = [&'a mut [u8]; 3];

/// Makes the rows of one sample; used again and again, so that its buffers stay.
#[derive(Debug, Default)]
pub struct Sampler {
    path: Path,
    seen: Vec<Seen>,
    separable: Separable,
    general: General,
}

#[derive(Debug, Clone, Copy, Default)]
enum Path {
    /// The transform folds the plane: nothing is to be seen.
    #[default]
    Grey,
    /// Rows stay rows and columns stay columns.
    Separable,
    /// Anything else.
    General,
}

/// The part of a tile that lies on the scene, in margin terms: pixel 0 has index 1, and indices 0 and
/// `side + 1` are the grey margin.
#[derive(Debug)]
struct Seen {
    tile: usize,
    columns: Range<usize>,
    rows: Range<usize>,
}

#[derive(Debug, Default)]
struct Separable {
    groups: Vec<Group>,
    /// For each output row the upper one of its two input rows, and the weight of the lower one.
    rows: Vec<(usize, i16)>,
    /// The columns that are looked at.
    columns: Range<usize>,
    /// One row of the scene, three planes with [`SLACK`] behind each.
    line: Vec<u8>,
    held: [Held; 2],
}

/// A row of the scene at the columns of the output.
#[derive(Debug, Default)]
struct Held {
    of: Option<usize>,
    /// Three planes.
    sums: Vec<i16>,
}

/// A continuous position in margin terms: the pixel at or before it, and the share of the next one.
fn tap(position: f64, side: usize) -> (usize, f64) {
    // The centre of pixel 0, which has index 1 there, is at 0.5 here.
    let position = (position + 0.5).clamp(0.0, side as f64 + 1.0);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "just clamped")]
    let first = (position as usize).min(side);
    (first, position - first as f64)
}

impl Sampler {
    /// Gets ready to make a square of `side` pixels of `scene`, which `matrix` maps to it.
    pub fn prepare(&mut self, scene: &Scene, matrix: &Matrix, side: usize, flips: Flips) {
        self.seen.clear();
        for (tile, on) in scene.tiles.iter().enumerate() {
            let margin = |range: Range<usize>| range.start + 1..range.end + 1;
            let (columns, rows) = (margin(on.columns(scene.side)), margin(on.rows(scene.side)));
            if !columns.is_empty() && !rows.is_empty() {
                self.seen.push(Seen { tile, columns, rows });
            }
        }
        self.path = match matrix.inverse() {
            None => Path::Grey,
            Some(back) if back.is_separable() => {
                self.separable.prepare(scene.side, &back, side, flips);
                Path::Separable
            }
            Some(back) => {
                self.general.prepare(scene.side, &self.seen, back, side, flips);
                Path::General
            }
        };
    }

    /// Makes row `y` of the scene that it was prepared for.
    ///
    /// # Panics
    /// When `y`, or a part of `out`, does not fit what was prepared.
    pub fn row(&mut self, scene: &Scene, y: usize, out: Row<'_>) {
        match self.path {
            Path::Grey => out.into_iter().for_each(|plane| plane.fill(GREY)),
            Path::Separable => self.separable.row(scene, &self.seen, y, out),
            Path::General => self.general.row(scene, y, out),
        }
    }
}

impl Separable {
    fn prepare(&mut self, from: usize, back: &Matrix, side: usize, flips: Flips) {
        let position = |axis: usize, at: usize, flipped: bool| {
            let at = if flipped { side - 1 - at } else { at };
            let m = &back.0;
            tap((m[axis][axis] * (at as f64 + 0.5) + m[axis][2]) / m[2][2], from)
        };
        self.rows.clear();
        self.rows.extend((0..side).map(|y| {
            let (first, share) = position(1, y, flips.up_down);
            #[expect(clippy::cast_possible_truncation, reason = "a share of COLUMN_SUM")]
            let lower = (share * f64::from(COLUMN_SUM)).round_ties_even() as i16;
            (first, lower)
        }));
        let columns: Vec<(usize, f64)> = (0..side).map(|x| position(0, x, flips.left_right)).collect();
        let lowest = columns.iter().map(|tap| tap.0).min().unwrap_or(0);
        let highest = columns.iter().map(|tap| tap.0).max().unwrap_or(0);
        self.columns = lowest..highest + 2;
        self.groups.clear();
        self.groups.extend(
            columns.chunks(GROUP).map(|taps| Group::new(taps.iter().map(|tap| (tap.0 - lowest, tap.1)))),
        );
        self.line.clear();
        self.line.resize(3 * (self.columns.len() + SLACK), GREY);
        for held in &mut self.held {
            held.of = None;
            held.sums.clear();
            held.sums.resize(3 * self.groups.len() * GROUP, 0);
        }
    }

    fn row(&mut self, scene: &Scene, seen: &[Seen], y: usize, out: Row<'_>) {
        let (first, lower) = self.rows[y];
        // From one output row to the next, one of the two input rows often stays.
        if self.held[1].of == Some(first) || self.held[0].of == Some(first + 1) {
            self.held.swap(0, 1);
        }
        for index in 0..2 {
            if self.held[index].of != Some(first + index) {
                self.fill(scene, seen, first + index, index);
            }
        }
        let plane_length = self.groups.len() * GROUP;
        let [above, below] = &self.held;
        for (plane, out) in out.into_iter().enumerate() {
            let start = plane * plane_length;
            blend_rows(&above.sums[start..], &below.sums[start..], lower, out);
        }
    }

    /// Puts a row of the scene together, and brings it to the columns of the output.
    fn fill(&mut self, scene: &Scene, seen: &[Seen], row: usize, index: usize) {
        let (columns, stride) = (&self.columns, self.columns.len() + SLACK);
        self.line.fill(GREY);
        for seen in seen.iter().filter(|seen| seen.rows.contains(&row)) {
            let shown = seen.columns.start.max(columns.start)..seen.columns.end.min(columns.end);
            if shown.is_empty() {
                continue;
            }
            let tile = &scene.tiles[seen.tile];
            let source = (shown.start.cast_signed() - 1 - tile.left).cast_unsigned();
            let line = (row.cast_signed() - 1 - tile.top).cast_unsigned();
            for plane in 0..3 {
                let target = plane * stride + shown.start - columns.start;
                self.line[target..target + shown.len()]
                    .copy_from_slice(&tile.planes.row(plane, line)[source..source + shown.len()]);
            }
        }
        let plane_length = self.groups.len() * GROUP;
        let held = &mut self.held[index];
        held.of = Some(row);
        for (line, sums) in self.line.chunks_exact(stride).zip(held.sums.chunks_exact_mut(plane_length)) {
            blend_columns(line, &self.groups, sums);
        }
    }
}

#[cfg(test)]
mod tests;

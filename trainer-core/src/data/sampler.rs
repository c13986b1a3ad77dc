//! The fused sampler: makes the rows of a sample straight from the images of a scene. No picture of the
//! scene exists at any time, only the two rows of it that are being blended.
//!
//! Pixels are bilinear; positions are continuous, pixel (0, 0) covers the square from 0 to 1. Around the
//! scene all is grey, and an edge blends into it.

use std::ops::Range;

use crate::data::affine::Matrix;
use crate::data::canvas::Scene;
use crate::data::kernels::{COLUMN_SUM, GROUP, Group, SLACK, blend_columns, blend_rows};
use crate::data::letterbox::GREY;

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
    /// Output columns and rows, after flips, as positions in the scene.
    side: usize,
    flips: Flips,
    separable: Separable,
    /// Positions of a row's pixels, in 2048ths, of the general path.
    positions: Vec<[i32; 2]>,
}

#[derive(Debug, Clone, Copy, Default)]
enum Path {
    /// The transform folds the plane: nothing is to be seen.
    #[default]
    Grey,
    /// Rows stay rows and columns stay columns.
    Separable,
    /// Anything else, by the way back from the output to the scene.
    General(Matrix),
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
        (self.side, self.flips) = (side, flips);
        self.path = match matrix.inverse() {
            None => Path::Grey,
            Some(back) if back.is_separable() => {
                self.separable.prepare(scene.side, &back, side, flips);
                Path::Separable
            }
            Some(back) => Path::General(back),
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
            Path::General(back) => self.general_row(scene, &back, y, out),
        }
    }

    fn general_row(&mut self, scene: &Scene, back: &Matrix, y: usize, [red, green, blue]: Row<'_>) {
        let m = &back.0;
        let flip = |at: usize, flipped: bool| if flipped { self.side - 1 - at } else { at };
        let v = flip(y, self.flips.up_down) as f64 + 0.5;
        let limit = (scene.side as f64 + 1.0) * SUBPIXELS;
        self.positions.clear();
        self.positions.extend((0..self.side).map(|x| {
            let u = flip(x, self.flips.left_right) as f64 + 0.5;
            let depth = m[2][0] * u + m[2][1] * v + m[2][2];
            let axis = |axis: usize| {
                let position = (m[axis][0] * u + m[axis][1] * v + m[axis][2]) / depth + 0.5;
                #[expect(clippy::cast_possible_truncation, reason = "clamped to the scene")]
                // Not negative, so cutting off rounds down.
                let position = ((position * SUBPIXELS).clamp(0.0, limit) + 0.5) as i32;
                position
            };
            [axis(0), axis(1)]
        }));
        let mut hint = 0;
        for (((position, r), g), b) in self.positions.iter().zip(red).zip(green).zip(blue) {
            [*r, *g, *b] = sample(scene, &self.seen, *position, &mut hint);
        }
    }
}

/// Steps between two pixels in the general path.
const SUBPIXELS: f64 = 2048.0;
const SUBPIXEL_BITS: u32 = 11;

/// One pixel of the general path. `hint` is the tile that was met last.
fn sample(scene: &Scene, seen: &[Seen], position: [i32; 2], hint: &mut usize) -> [u8; 3] {
    // The last position has no right neighbour: it is taken from the left with full weight.
    let [(x, right), (y, lower)] = position.map(|at| {
        let first = (at.cast_unsigned() as usize >> SUBPIXEL_BITS).min(scene.side);
        (first, at.wrapping_sub((first << SUBPIXEL_BITS) as i32))
    });
    let covers = |seen: &Seen| {
        seen.columns.contains(&x)
            && x + 1 < seen.columns.end
            && seen.rows.contains(&y)
            && y + 1 < seen.rows.end
    };
    let blend = |[a, b, c, d]: [u8; 4]| {
        let along = |left: u8, next: u8| {
            i32::from(left)
                .wrapping_mul(2048_i32.wrapping_sub(right))
                .wrapping_add(i32::from(next).wrapping_mul(right))
        };
        let sum = along(a, b)
            .wrapping_mul(2048_i32.wrapping_sub(lower))
            .wrapping_add(along(c, d).wrapping_mul(lower))
            .wrapping_add(1 << 21);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a mean of bytes")]
        let byte = (sum >> 22) as u8;
        byte
    };
    // Of tiles that overlap the last one is seen, so the hint is of use only when it is that one.
    let found = match seen.get(*hint) {
        Some(tile) if covers(tile) && seen.len() <= 4 => Some(*hint),
        _ => seen.iter().rposition(covers),
    };
    if let Some(found) = found
        && (seen.len() <= 4 || seen[found + 1..].iter().all(|later| !touches(later, x, y)))
    {
        *hint = found;
        let tile = &scene.tiles[seen[found].tile];
        let (width, height) = (tile.planes.width, tile.planes.height);
        let column = (x.cast_signed() - 1 - tile.left).cast_unsigned();
        let row = (y.cast_signed() - 1 - tile.top).cast_unsigned();
        let bytes = tile.planes.bytes();
        return [0, 1, 2].map(|plane| {
            let start = (plane * height + row) * width + column;
            let (above, below) = (&bytes[start..start + 2], &bytes[start + width..start + width + 2]);
            blend([above[0], above[1], below[0], below[1]])
        });
    }
    let pixel = |plane: usize, x: usize, y: usize| {
        let tile = seen.iter().rfind(|seen| seen.columns.contains(&x) && seen.rows.contains(&y));
        tile.map_or(GREY, |seen| {
            let tile = &scene.tiles[seen.tile];
            let column = (x.cast_signed() - 1 - tile.left).cast_unsigned();
            tile.planes.row(plane, (y.cast_signed() - 1 - tile.top).cast_unsigned())[column]
        })
    };
    [0, 1, 2].map(|plane| {
        blend([
            pixel(plane, x, y),
            pixel(plane, x + 1, y),
            pixel(plane, x, y + 1),
            pixel(plane, x + 1, y + 1),
        ])
    })
}

/// Whether any of the four pixels from (x, y) on is the tile's.
fn touches(seen: &Seen, x: usize, y: usize) -> bool {
    x + 1 >= seen.columns.start && x < seen.columns.end && y + 1 >= seen.rows.start && y < seen.rows.end
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

//! The path for rotation, shear and perspective. A row of the output is a line across the mosaic. Where that line stays
//! on one image, all its samples are made in one go, without a look at borders.

use std::ops::Range;

use super::{Flips, Row, VisibleTile};
use crate::augment::affine::Matrix;
use crate::augment::mosaic::MosaicLayout;
use crate::cpu::has_avx2;
use crate::resample::GREY;
use crate::resample::bilinear::{self, SUBPIXEL_BITS, SUBPIXELS, SourceImage, blend};

/// A rectangle of the mosaic, in pixels with margin, on which one image is seen, or nothing.
#[derive(Debug, Clone)]
struct Region {
    /// The index of the image in the layout; `None` where all is grey.
    tile: Option<usize>,
    columns: Range<usize>,
    rows: Range<usize>,
}

impl Region {
    /// Whether a sample whose upper left pixel is (`x`, `y`) reads pixels of this region only.
    fn covers(&self, [x, y]: [usize; 2]) -> bool {
        self.has([x, y]) && x + 1 < self.columns.end && y + 1 < self.rows.end
    }

    fn has(&self, [x, y]: [usize; 2]) -> bool {
        self.columns.contains(&x) && self.rows.contains(&y)
    }

    /// Adds to `left` what is left of it, in up to four regions, when another one lies on it.
    fn without(&self, on_top: &Self, left: &mut Vec<Self>) {
        let columns = self.columns.start.max(on_top.columns.start)..self.columns.end.min(on_top.columns.end);
        let rows = self.rows.start.max(on_top.rows.start)..self.rows.end.min(on_top.rows.end);
        if columns.is_empty() || rows.is_empty() {
            left.push(self.clone());
            return;
        }
        let parts = [
            (self.columns.clone(), self.rows.start..rows.start),
            (self.columns.clone(), rows.end..self.rows.end),
            (self.columns.start..columns.start, rows.clone()),
            (columns.end..self.columns.end, rows),
        ];
        let parts = parts.into_iter().filter(|(columns, rows)| !columns.is_empty() && !rows.is_empty());
        left.extend(parts.map(|(columns, rows)| Self { tile: self.tile, columns, rows }));
    }
}

/// Any transform of one mosaic.
#[derive(Debug, Default)]
pub(super) struct WarpPath {
    /// Maps the output to the mosaic; `None` before the first sample.
    back: Option<Matrix>,
    /// Side of the output, pixels.
    side: usize,
    flips: Flips,
    /// Together the whole mosaic with its margin.
    regions: Vec<Region>,
    /// Columns of the samples of a row, in [`SUBPIXELS`], with margin.
    xs: Vec<i32>,
    /// Rows of the samples of a row, in [`SUBPIXELS`], with margin.
    ys: Vec<i32>,
}

impl WarpPath {
    /// Gets ready to make `side` x `side` pixels of a mosaic of `mosaic_side`; `back` maps the output to it.
    pub fn prepare(
        &mut self,
        mosaic_side: usize,
        visible: &[VisibleTile],
        back: Matrix,
        side: usize,
        flips: Flips,
    ) {
        (self.back, self.side, self.flips) = (Some(back), side, flips);
        let whole = 0..mosaic_side + 2;
        self.regions = vec![Region { tile: None, columns: whole.clone(), rows: whole }];
        for VisibleTile { tile, columns, rows } in visible {
            let on_top = Region { tile: Some(*tile), columns: columns.clone(), rows: rows.clone() };
            let mut left = Vec::with_capacity(self.regions.len() + 4);
            self.regions.iter().for_each(|region| region.without(&on_top, &mut left));
            left.push(on_top);
            self.regions = left;
        }
        self.xs.resize(side, 0);
        self.ys.resize(side, 0);
    }

    /// Makes row `y` of the output.
    pub fn row(&mut self, layout: &MosaicLayout, y: usize, [red, green, blue]: Row<'_>) {
        let Some(back) = self.back else { return };
        let is_monotonous = self.locate(&back, layout.side, y);
        let (mut x, mut last) = (0, 0);
        while x < self.side {
            let covering = |region: &Region| region.covers(self.at(x));
            let known = self.regions.get(last).filter(|region| covering(region)).map(|_| last);
            let Some(found) = known.or_else(|| self.regions.iter().position(covering)) else {
                [red[x], green[x], blue[x]] = self.across_regions(layout, x);
                x += 1;
                continue;
            };
            last = found;
            let region = &self.regions[found];
            let mut end = x + 1;
            if is_monotonous {
                end += self.count_while(end, |at| region.covers(self.at(at)));
            } else {
                while end < self.side && region.covers(self.at(end)) {
                    end += 1;
                }
            }
            let out = [&mut red[x..end], &mut green[x..end], &mut blue[x..end]];
            match region.tile {
                None => out.into_iter().for_each(|plane| plane.fill(GREY)),
                Some(tile) => bilinear::sample(source(layout, tile), &self.xs[x..end], &self.ys[x..end], out),
            }
            x = end;
        }
    }

    /// Computes the positions of all samples of row `y`. Returns whether they go one way along each axis, so that those on
    /// a rectangle are neighbours.
    fn locate(&mut self, back: &Matrix, mosaic_side: usize, y: usize) -> bool {
        let (side, m) = (self.side, &back.0);
        let v = if self.flips.up_down { side - 1 - y } else { y } as f64 + 0.5;
        let (first, step) = if self.flips.left_right { (side as f64 - 0.5, -1.0) } else { (0.5, 1.0) };
        // Of each coordinate: at the first pixel, and from pixel to pixel.
        let line = |row: usize| [m[row][0] * first + m[row][1] * v + m[row][2], m[row][0] * step];
        let lines = Lines {
            along: line(0),
            down: line(1),
            depth: line(2),
            limit: (mosaic_side as f64 + 1.0) * f64::from(SUBPIXELS),
        };
        #[cfg(target_arch = "x86_64")]
        if has_avx2() {
            // SAFETY: the processor has AVX2.
            unsafe { locate_avx2(&lines, &mut self.xs, &mut self.ys) };
            return lines.is_monotonous(side);
        }
        lines.locate(&mut self.xs, &mut self.ys);
        lines.is_monotonous(side)
    }

    /// The upper left one of the four pixels of the sample of column `x`, `[column, row]` with margin.
    fn at(&self, x: usize) -> [usize; 2] {
        [self.xs[x], self.ys[x]].map(|position| (position >> SUBPIXEL_BITS).cast_unsigned() as usize)
    }

    /// How many positions from `start` on there are before the first that is not `inside`, when none after
    /// that one is.
    fn count_while(&self, start: usize, inside: impl Fn(usize) -> bool) -> usize {
        let (mut low, mut high) = (start, self.side);
        while low < high {
            let middle = usize::midpoint(low, high);
            if inside(middle) { low = middle + 1 } else { high = middle }
        }
        low - start
    }

    /// The sample of column `x` where regions meet, or at the edge of the margin.
    fn across_regions(&self, layout: &MosaicLayout, x: usize) -> [u8; 3] {
        // The last position has no right neighbour: it is taken from the left with full weight.
        let [(x, right), (y, lower)] = [self.xs[x], self.ys[x]].map(|position| {
            let pixel = ((position >> SUBPIXEL_BITS).cast_unsigned() as usize).min(layout.side);
            let fraction = position.wrapping_sub((pixel << SUBPIXEL_BITS) as i32);
            (pixel, fraction)
        });
        let pixels = [[x, y], [x + 1, y], [x, y + 1], [x + 1, y + 1]].map(|[x, y]| {
            let tile = self.regions.iter().find(|region| region.has([x, y])).and_then(|region| region.tile);
            tile.map_or([GREY; 3], |tile| {
                let tile = &layout.tiles[tile];
                let column = (x.cast_signed() - 1 - tile.left).cast_unsigned();
                let row = (y.cast_signed() - 1 - tile.top).cast_unsigned();
                [0, 1, 2].map(|plane| tile.planes.row(plane, row)[column])
            })
        });
        [0, 1, 2].map(|plane| blend(pixels.map(|pixel| pixel[plane]), right, lower))
    }
}

/// A tile in the coordinates of the samples.
fn source(layout: &MosaicLayout, tile: usize) -> SourceImage<'_> {
    let tile = &layout.tiles[tile];
    let with_margin = |first: isize| i32::try_from(first + 1).expect("tiles lie about the mosaic");
    SourceImage { planes: &tile.planes, left: with_margin(tile.left), top: with_margin(tile.top) }
}

/// The positions of a row's samples: quotients of linear functions of the column.
struct Lines {
    /// Numerator of the columns: at the first pixel, and from pixel to pixel.
    along: [f64; 2],
    /// Numerator of the rows, in the same way.
    down: [f64; 2],
    /// Denominator of both, in the same way.
    depth: [f64; 2],
    /// The largest position, in [`SUBPIXELS`].
    limit: f64,
}

impl Lines {
    /// Whether the denominator keeps its sign, so that both positions go one way.
    fn is_monotonous(&self, side: usize) -> bool {
        let [first, step] = self.depth;
        let last = first + step * (side as f64 - 1.0);
        first.min(last) > 0.0 || first.max(last) < 0.0
    }

    /// Computes all positions.
    #[inline(always)]
    fn locate(&self, xs: &mut [i32], ys: &mut [i32]) {
        let steps = f64::from(SUBPIXELS);
        let half = 0.5 * steps;
        if self.depth[1] == 0.0 {
            let scale = steps / self.depth[0];
            let [along, down] = [self.along, self.down].map(|line| line.map(|number| number * scale));
            for (index, (x, y)) in (0_i32..).zip(xs.iter_mut().zip(ys)) {
                let at = f64::from(index);
                *x = self.whole(along[0] + along[1] * at + half);
                *y = self.whole(down[0] + down[1] * at + half);
            }
            return;
        }
        for (index, (x, y)) in (0_i32..).zip(xs.iter_mut().zip(ys)) {
            let at = f64::from(index);
            let scale = steps / (self.depth[0] + self.depth[1] * at);
            *x = self.whole((self.along[0] + self.along[1] * at) * scale + half);
            *y = self.whole((self.down[0] + self.down[1] * at) * scale + half);
        }
    }

    /// The nearest whole number from 0 to the limit; 0 for what is not a number.
    #[inline(always)]
    fn whole(&self, position: f64) -> i32 {
        // In this range of magnitudes the spacing of double precision is 1.
        const SHIFTER: f64 = 6_755_399_441_055_744.0;
        let position = if position > 0.0 { position } else { 0.0 };
        let position = if position < self.limit { position } else { self.limit };
        // The low half of the bits is the number.
        let low = (position + SHIFTER).to_bits() as u32;
        low.cast_signed()
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn locate_avx2(lines: &Lines, xs: &mut [i32], ys: &mut [i32]) {
    lines.locate(xs, ys);
}

//! The one-pass resampler: makes the rows of a sample straight from the images of a mosaic. The pixels of the mosaic
//! are nowhere put together, except for the two rows that are being blended.
//!
//! Samples are bilinear. Positions are continuous: pixel (0, 0) covers the square from 0 to 1. All around the mosaic is
//! grey, and an edge blends into it. For that the mosaic has a grey margin of one pixel here, "with margin": pixel 0
//! has index 1, and indices 0 and `side + 1` are the margin.

mod separable;
mod warp;

use std::ops::Range;

use self::separable::SeparablePath;
use self::warp::WarpPath;
use super::affine::Matrix;
use super::mosaic::MosaicLayout;
use crate::resample::GREY;

/// Which ways a sample is mirrored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flips {
    /// Top and bottom change places.
    pub up_down: bool,
    /// Left and right change places.
    pub left_right: bool,
}

/// One row of each of the three planes of a sample.
pub type Row<'a> = [&'a mut [u8]; 3];

/// Makes the rows of one sample; used again and again, so that its buffers stay.
#[derive(Debug, Default)]
pub struct Resampler {
    path: Path,
    visible: Vec<VisibleTile>,
    separable: SeparablePath,
    warp: WarpPath,
}

/// The code that makes a sample's rows.
#[derive(Debug, Clone, Copy, Default)]
enum Path {
    /// The transform is singular: all is grey.
    #[default]
    Grey,
    /// Scale and translation only: rows stay rows and columns stay columns.
    Separable,
    /// Rotation, shear or perspective.
    Warp,
}

/// The part of a tile that lies on the mosaic, in pixels with margin.
#[derive(Debug)]
struct VisibleTile {
    /// Its index in the layout.
    tile: usize,
    columns: Range<usize>,
    rows: Range<usize>,
}

impl Resampler {
    /// Gets ready to make a sample of `side` x `side` pixels, to which `matrix` maps the mosaic.
    pub fn prepare(&mut self, layout: &MosaicLayout, matrix: &Matrix, side: usize, flips: Flips) {
        self.visible.clear();
        for (tile, on) in layout.tiles.iter().enumerate() {
            let with_margin = |range: Range<usize>| range.start + 1..range.end + 1;
            let (columns, rows) = (with_margin(on.columns(layout.side)), with_margin(on.rows(layout.side)));
            if !columns.is_empty() && !rows.is_empty() {
                self.visible.push(VisibleTile { tile, columns, rows });
            }
        }
        self.path = match matrix.inverse() {
            None => Path::Grey,
            Some(back) if back.is_separable() => {
                self.separable.prepare(layout.side, &back, side, flips);
                Path::Separable
            }
            Some(back) => {
                self.warp.prepare(layout.side, &self.visible, back, side, flips);
                Path::Warp
            }
        };
    }

    /// Makes row `y` of the sample that it was prepared for.
    ///
    /// # Panics
    /// When `y`, or a plane of `out`, does not fit what was prepared.
    pub fn row(&mut self, layout: &MosaicLayout, y: usize, out: Row<'_>) {
        match self.path {
            Path::Grey => out.into_iter().for_each(|plane| plane.fill(GREY)),
            Path::Separable => self.separable.row(layout, &self.visible, y, out),
            Path::Warp => self.warp.row(layout, y, out),
        }
    }
}

#[cfg(test)]
mod tests;

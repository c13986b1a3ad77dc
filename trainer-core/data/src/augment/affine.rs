//! Rotation, scaling, shear, perspective and translation of a mosaic and of its boxes.
//!
//! Coordinates are continuous: pixel (0, 0) covers the square from 0 to 1, its centre is at 0.5.

use crate::labels::Object;

/// A box is dropped if a side of it has at most so many pixels.
const MIN_SIDE: f32 = 2.0;
/// A box is dropped if less than this share of its area is left.
const MIN_AREA_KEPT: f32 = 0.10;
/// A box is dropped if its aspect ratio is this or more.
const MAX_ASPECT: f32 = 100.0;

/// The parameters of one affine step, drawn already.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AffineParams {
    /// Rotation, degrees, anticlockwise on the screen.
    pub degrees: f64,
    /// Factor of enlargement.
    pub scale: f64,
    /// Shear along x and y, degrees.
    pub shear: [f64; 2],
    /// Perspective along x and y, 1/pixel.
    pub perspective: [f64; 2],
    /// Where the centre of the mosaic goes, `[x, y]` as shares of the output.
    pub centre: [f64; 2],
}

impl AffineParams {
    /// Leaves everything as it is, if the output is as large as the mosaic.
    pub const IDENTITY: Self =
        Self { degrees: 0.0, scale: 1.0, shear: [0.0; 2], perspective: [0.0; 2], centre: [0.5; 2] };
}

/// A 3 x 3 matrix on homogeneous points, row by row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Matrix(pub [[f64; 3]; 3]);

impl Matrix {
    /// Maps a mosaic of `from` pixels a side to an output of `to` pixels a side.
    pub fn new(params: &AffineParams, from: usize, to: usize) -> Self {
        let half = from as f64 / 2.0;
        let centre = Self([[1.0, 0.0, -half], [0.0, 1.0, -half], [0.0, 0.0, 1.0]]);
        let [px, py] = params.perspective;
        let perspective = Self([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [px, py, 1.0]]);
        let (sin, cos) = params.degrees.to_radians().sin_cos();
        let (sin, cos) = (sin * params.scale, cos * params.scale);
        let rotation = Self([[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, 1.0]]);
        let [sx, sy] = params.shear.map(|degrees| degrees.to_radians().tan());
        let shear = Self([[1.0, sx, 0.0], [sy, 1.0, 0.0], [0.0, 0.0, 1.0]]);
        let [tx, ty] = params.centre.map(|share| share * to as f64);
        let translation = Self([[1.0, 0.0, tx], [0.0, 1.0, ty], [0.0, 0.0, 1.0]]);
        translation.times(shear).times(rotation).times(perspective).times(centre)
    }

    fn times(self, right: Self) -> Self {
        let mut product = [[0.0; 3]; 3];
        for (row, out) in product.iter_mut().enumerate() {
            for (column, value) in out.iter_mut().enumerate() {
                *value = (0..3).map(|k| self.0[row][k] * right.0[k][column]).sum();
            }
        }
        Self(product)
    }

    /// The inverse, by cofactors; `None` when the matrix is singular.
    pub(crate) fn inverse(&self) -> Option<Self> {
        let m = &self.0;
        let cofactor = |row: usize, column: usize| {
            let (r1, r2) = ((row + 1) % 3, (row + 2) % 3);
            let (c1, c2) = ((column + 1) % 3, (column + 2) % 3);
            m[r1][c1] * m[r2][c2] - m[r1][c2] * m[r2][c1]
        };
        let determinant: f64 = (0..3).map(|column| m[0][column] * cofactor(0, column)).sum();
        if !determinant.is_normal() {
            return None;
        }
        let mut inverse = [[0.0; 3]; 3];
        for (row, out) in inverse.iter_mut().enumerate() {
            for (column, value) in out.iter_mut().enumerate() {
                *value = cofactor(column, row) / determinant;
            }
        }
        Some(Self(inverse))
    }

    /// Where the point (`x`, `y`) goes.
    pub fn apply(&self, x: f64, y: f64) -> [f64; 2] {
        let [a, b, c] = self.0.map(|row| row[0] * x + row[1] * y + row[2]);
        [a / c, b / c]
    }

    /// Whether rows stay rows and columns stay columns: scale and translation only.
    pub(crate) fn is_separable(&self) -> bool {
        let m = &self.0;
        m[0][1] == 0.0 && m[1][0] == 0.0 && m[2][0] == 0.0 && m[2][1] == 0.0
    }
}

/// Moves objects with their pixels into an output of `side` pixels a side, clips them, and drops those
/// of which too little is left. `scale` is the factor of enlargement that `matrix` has.
pub fn move_objects(objects: &[Object], matrix: &Matrix, scale: f64, side: usize) -> Vec<Object> {
    let (side, scale) = (side as f32, scale as f32);
    objects
        .iter()
        .filter_map(|object| {
            let moved = bounding_box(object, matrix).clipped(side, side);
            let [x1, y1, x2, y2] = moved.xyxy;
            let (w, h) = (x2 - x1, y2 - y1);
            let kept = moved.area() > MIN_AREA_KEPT * object.area() * scale * scale;
            let slim = w < MAX_ASPECT * h && h < MAX_ASPECT * w;
            (w > MIN_SIDE && h > MIN_SIDE && kept && slim).then_some(moved)
        })
        .collect()
}

/// The upright box around an object's moved corners.
fn bounding_box(object: &Object, matrix: &Matrix) -> Object {
    let [x1, y1, x2, y2] = object.xyxy.map(f64::from);
    let corners = [[x1, y1], [x2, y1], [x2, y2], [x1, y2]].map(|[x, y]| matrix.apply(x, y));
    let low = |axis: usize| corners.iter().map(|corner| corner[axis]).fold(f64::INFINITY, f64::min);
    let high = |axis: usize| corners.iter().map(|corner| corner[axis]).fold(f64::NEG_INFINITY, f64::max);
    let xyxy = [low(0), low(1), high(0), high(1)].map(|value| value as f32);
    Object { class: object.class, xyxy }
}

#[cfg(test)]
mod tests;

//! Painting by signed distance: every pixel asks how far it lies inside a shape.

use std::f64::consts::TAU;

use super::random::Random;
use super::synthetic::Bounds;

/// Width of the darker rim of a shape, in pixels.
const RIM: f64 = 1.5;

/// A colour: red, green and blue, each from 0 to 1.
#[derive(Debug, Clone, Copy)]
pub struct Color([f64; 3]);

impl Color {
    /// A random colour.
    fn draw(random: &mut Random) -> Self {
        Self([(); 3].map(|()| random.between(0.05, 0.95)))
    }

    /// A colour that is well seen before `ground`.
    pub fn draw_against(random: &mut Random, ground: Self) -> Self {
        let mut best = Self::draw(random);
        for _ in 0..8 {
            let other = Self::draw(random);
            if best.distance(ground) < 0.45 {
                best = if other.distance(ground) > best.distance(ground) { other } else { best };
            }
        }
        best
    }

    fn distance(self, other: Self) -> f64 {
        self.0.iter().zip(other.0).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt()
    }

    fn mixed(self, other: Self, share: f64) -> Self {
        Self(std::array::from_fn(|at| self.0[at] + (other.0[at] - self.0[at]) * share))
    }

    /// This colour in `shape`, painted over `ground`, at `point`.
    pub fn over(self, ground: Self, shape: &Shape, point: [f64; 2]) -> Self {
        let distance = shape.distance(point);
        if distance >= 0.5 {
            return ground;
        }
        let rim = (distance + RIM + 0.5).clamp(0.0, 1.0);
        let ink = self.mixed(Self(self.0.map(|part| part * 0.55)), rim);
        ground.mixed(ink, (0.5 - distance).min(1.0))
    }

    /// The colour as three bytes, lighter by `grain`.
    pub fn bytes(self, grain: f64) -> [u8; 3] {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 255, as clamped")]
        self.0.map(|part| ((part + grain).clamp(0.0, 1.0) * 255.0).round() as u8)
    }
}

/// A convex outline around a centre, in pixels.
#[derive(Debug, Clone)]
pub enum Shape {
    /// Centre and radius.
    Circle([f64; 2], f64),
    /// Corners, clockwise on the screen.
    Polygon(Vec<[f64; 2]>),
}

impl Shape {
    /// A circle around the origin.
    pub fn circle(radius: f64) -> Self {
        Self::Circle([0.0, 0.0], radius)
    }

    /// A polygon with `corners` around the origin, clockwise on the screen, turned by `turn` radians.
    pub fn polygon(corners: &[[f64; 2]], turn: f64) -> Self {
        let (sin, cos) = turn.sin_cos();
        Self::Polygon(corners.iter().map(|[x, y]| [x * cos - y * sin, x * sin + y * cos]).collect())
    }

    /// The same shape elsewhere.
    pub fn moved(self, by: [f64; 2]) -> Self {
        let moved = |[x, y]: [f64; 2]| [x + by[0], y + by[1]];
        match self {
            Self::Circle(center, radius) => Self::Circle(moved(center), radius),
            Self::Polygon(corners) => Self::Polygon(corners.into_iter().map(moved).collect()),
        }
    }

    /// The smallest box around it.
    pub fn bounds(&self) -> Bounds {
        match self {
            Self::Circle([x, y], radius) => {
                Bounds { low: [x - radius, y - radius], high: [x + radius, y + radius] }
            }
            Self::Polygon(corners) => {
                let fold = |start: f64, pick: fn(f64, f64) -> f64| {
                    std::array::from_fn(|axis| corners.iter().map(|corner| corner[axis]).fold(start, pick))
                };
                Bounds { low: fold(f64::INFINITY, f64::min), high: fold(f64::NEG_INFINITY, f64::max) }
            }
        }
    }

    /// Distance to the outline, negative inside. Beyond a corner it is too small, which nobody sees.
    fn distance(&self, [x, y]: [f64; 2]) -> f64 {
        match self {
            Self::Circle(center, radius) => (x - center[0]).hypot(y - center[1]) - radius,
            Self::Polygon(corners) => {
                let next = corners.iter().cycle().skip(1);
                let edge = |(from, to): (&[f64; 2], &[f64; 2])| {
                    let along = [to[0] - from[0], to[1] - from[1]];
                    let length = along[0].hypot(along[1]);
                    ((x - from[0]) * along[1] - (y - from[1]) * along[0]) / length
                };
                corners.iter().zip(next).map(edge).fold(f64::NEG_INFINITY, f64::max)
            }
        }
    }
}

/// A textured ground: two layers of smooth noise and a wave, around a base colour.
pub struct Background {
    /// The colour that it varies around.
    pub base: Color,
    accent: Color,
    coarse: Lattice,
    fine: Lattice,
    wave: [f64; 3],
}

impl Background {
    /// A random ground for a picture with sides of `side` pixels.
    pub fn draw(random: &mut Random, side: f64) -> Self {
        let base = Color::draw(random);
        let accent = base.mixed(Color::draw(random), 0.35);
        let (coarse, fine) = (Lattice::draw(random, side / 4.0), Lattice::draw(random, side / 24.0));
        let turn = random.between(0.0, TAU);
        let pitch = TAU / (side * random.between(0.03, 0.12));
        let wave = [turn.cos() * pitch, turn.sin() * pitch, random.between(0.0, 0.18)];
        Self { base, accent, coarse, fine, wave }
    }

    /// The colour at `point`.
    pub fn at(&self, point: [f64; 2]) -> Color {
        let wave = (point[0] * self.wave[0] + point[1] * self.wave[1]).sin() * self.wave[2];
        let share = self.coarse.at(point) * 0.7 + self.fine.at(point) * 0.4 + wave;
        self.base.mixed(self.accent, share)
    }
}

/// Smooth noise in `[-1, 1]`: random values on a grid that repeats, blended between.
struct Lattice {
    pitch: f64,
    values: Vec<f64>,
}

/// Side of the grid; larger than any picture has cells.
const GRID: usize = 32;

impl Lattice {
    fn draw(random: &mut Random, pitch: f64) -> Self {
        Self { pitch, values: (0..GRID * GRID).map(|_| random.between(-1.0, 1.0)).collect() }
    }

    fn at(&self, [x, y]: [f64; 2]) -> f64 {
        let (x, y) = (x / self.pitch, y / self.pitch);
        let smooth = |share: f64| share * share * (3.0 - 2.0 * share);
        let (right, down) = (smooth(x.fract()), smooth(y.fract()));
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "pixels are positive")]
        let (column, row) = (x as usize, y as usize);
        let value = |column: usize, row: usize| self.values[row % GRID * GRID + column % GRID];
        let blend = |row: usize| value(column, row) * (1.0 - right) + value(column + 1, row) * right;
        blend(row) * (1.0 - down) + blend(row + 1) * down
    }
}

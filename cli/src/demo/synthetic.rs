//! What is on one picture: where, how large, how turned, in which colour.

use std::f64::consts::TAU;
use std::fmt::Write as _;

use super::random::Random;
use super::shapes::{Background, Color, Shape};

/// The most objects on a picture.
const MAX_OBJECTS: usize = 5;
/// Distance to the picture's edge that an object keeps, in pixels.
const MARGIN: f64 = 2.0;
/// Largest part of the smaller box that two boxes may share.
const MAX_OVERLAP: f64 = 0.05;

/// An axis-aligned box in pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bounds {
    /// The left and the top edge.
    pub low: [f64; 2],
    /// The right and the bottom edge.
    pub high: [f64; 2],
}

impl Bounds {
    fn size(&self, axis: usize) -> f64 {
        self.high[axis] - self.low[axis]
    }

    /// The part of the smaller box that both cover.
    fn overlap(&self, other: &Self) -> f64 {
        let shared = |axis: usize| {
            (self.high[axis].min(other.high[axis]) - self.low[axis].max(other.low[axis])).max(0.0)
        };
        let area = |bounds: &Self| bounds.size(0) * bounds.size(1);
        shared(0) * shared(1) / area(self).min(area(other))
    }
}

/// One drawn object.
pub struct Object {
    /// Index into the classes.
    pub class: usize,
    pub shape: Shape,
    pub color: Color,
}

/// What is on one picture, before it is painted.
pub struct SyntheticImage {
    side: f64,
    background: Background,
    objects: Vec<Object>,
}

impl SyntheticImage {
    /// A random picture with sides of `side` pixels.
    pub fn draw(random: &mut Random, side: f64) -> Self {
        let background = Background::draw(random, side);
        let wanted = 1 + random.below(MAX_OBJECTS);
        let mut objects: Vec<Object> = Vec::new();
        // A full picture takes no more; at least the first try always fits.
        for _ in 0..wanted * 20 {
            if objects.len() == wanted {
                break;
            }
            let class = random.below(super::CLASSES.len());
            let shape = draw_shape(random, class, side);
            let bounds = shape.bounds();
            if objects.iter().all(|other| other.shape.bounds().overlap(&bounds) <= MAX_OVERLAP) {
                let color = Color::draw_against(random, background.base);
                objects.push(Object { class, shape, color });
            }
        }
        Self { side, background, objects }
    }

    /// The picture as RGB bytes, row by row.
    pub fn paint(&self, random: &mut Random, size: u32) -> Vec<u8> {
        let mut pixels = Vec::with_capacity(size as usize * size as usize * 3);
        for y in 0..size {
            for x in 0..size {
                let point = [f64::from(x) + 0.5, f64::from(y) + 0.5];
                let mut color = self.background.at(point);
                for object in &self.objects {
                    color = object.color.over(color, &object.shape, point);
                }
                // A camera's noise.
                let grain = random.between(-0.035, 0.035) + random.between(-0.035, 0.035);
                pixels.extend(color.bytes(grain));
            }
        }
        pixels
    }

    /// The label file: `class cx cy w h`, shares of the picture's side.
    pub fn labels(&self) -> String {
        let mut text = String::new();
        for object in &self.objects {
            let bounds = object.shape.bounds();
            let center = |axis: usize| (bounds.low[axis] + bounds.high[axis]) / 2.0 / self.side;
            let size = |axis: usize| bounds.size(axis) / self.side;
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "{} {:.6} {:.6} {:.6} {:.6}",
                object.class,
                center(0),
                center(1),
                size(0),
                size(1)
            );
        }
        text
    }
}

/// A shape of `class` somewhere wholly on the picture.
fn draw_shape(random: &mut Random, class: usize, side: f64) -> Shape {
    let radius = side * random.between(0.08, 0.2);
    let turn = random.between(0.0, TAU);
    let shape = match class {
        0 => Shape::circle(radius),
        1 => {
            // From long bricks to squares.
            let half = radius * random.between(0.45, 0.95);
            Shape::polygon(&[[-radius, -half], [radius, -half], [radius, half], [-radius, half]], turn)
        }
        _ => {
            let corner = |angle: f64| [radius * angle.cos(), radius * angle.sin()];
            let spread = [random.between(-0.3, 0.3), random.between(-0.3, 0.3)];
            let corners = [corner(0.0), corner(TAU / 3.0 + spread[0]), corner(TAU * 2.0 / 3.0 + spread[1])];
            Shape::polygon(&corners, turn)
        }
    };
    let bounds = shape.bounds();
    let place = |axis: usize, random: &mut Random| {
        random.between(MARGIN - bounds.low[axis], side - MARGIN - bounds.high[axis])
    };
    let by = [place(0, random), place(1, random)];
    shape.moved(by)
}

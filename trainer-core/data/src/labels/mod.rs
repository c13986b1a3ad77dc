//! Labels: what objects an image has, where their file lies, and how it is read.

pub mod search_path;
pub(crate) mod stray;

// The scheduler reads label files by the same rules, and does not link this crate.
pub use trainyard_types::labels::{BadRows, Label, LabelError, LabelFile, LabelRules, RowCounts, parse};

/// An object in an image, with its box in pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Object {
    /// Class id, below the number of classes.
    pub class: u32,
    /// Corners in pixels, `[x1, y1, x2, y2]`.
    pub xyxy: [f32; 4],
}

impl Object {
    /// The area of the box, square pixels.
    pub fn area(&self) -> f32 {
        let [x1, y1, x2, y2] = self.xyxy;
        (x2 - x1) * (y2 - y1)
    }

    /// The same object, cropped to an image of `width` x `height` pixels.
    pub fn clipped(&self, width: f32, height: f32) -> Self {
        let [x1, y1, x2, y2] = self.xyxy;
        let xyxy = [x1.clamp(0.0, width), y1.clamp(0.0, height), x2.clamp(0.0, width), y2.clamp(0.0, height)];
        Self { class: self.class, xyxy }
    }
}

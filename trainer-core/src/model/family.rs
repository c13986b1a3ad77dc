//! What a family of models is: a table of layers, and what each of its scales does to the table's numbers.
//!
//! Another family is a table like [`super::yolov8`], its place in [`Family::of`], and a variant of [`Module`]
//! for each block that is new. Must not know libtorch.

use trainyard_types::ModelScale;

use super::yolov8::YOLOV8;

/// What a layer does, with its arguments as published: before a scale's multiples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Module {
    /// A 3x3 convolution with stride 2, batch normalisation, SiLU.
    Conv {
        /// Channels out.
        channels: i64,
    },
    /// Cross-stage block with two convolutions and a chain of bottlenecks.
    C2f {
        /// Channels out.
        channels: i64,
        /// How many bottlenecks are chained.
        repeats: usize,
        /// Whether a bottleneck adds its input to its output.
        shortcut: bool,
    },
    /// Spatial pyramid pooling, three chained 5x5 max-pools.
    Sppf {
        /// Channels out.
        channels: i64,
    },
    /// Twice the size, nearest neighbour.
    Upsample,
    /// All inputs along the channels.
    Concat,
}

/// A row of the table: one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Its number, which names its weights: `model.{index}`.
    pub index: usize,
    /// The layers whose outputs it takes; empty for the image.
    pub from: &'static [usize],
    /// The layer itself.
    pub module: Module,
}

/// A row, short enough for a table.
pub const fn row(index: usize, from: &'static [usize], module: Module) -> Row {
    Row { index, from, module }
}

/// What a scale does to the numbers of the table.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Multiples {
    /// The multiple of repeats.
    pub depth: f64,
    /// The multiple of channels.
    pub width: f64,
    /// The most channels that the multiple is applied to.
    pub max_channels: i64,
}

impl Multiples {
    /// Channels of a layer that is published with so many: a multiple of 8.
    pub fn channels(self, published: i64) -> i64 {
        (published.min(self.max_channels) as f64 * self.width / 8.0).ceil() as i64 * 8
    }

    /// Bottlenecks of a layer that is published with so many: one at least.
    pub fn repeats(self, published: usize) -> usize {
        ((published as f64 * self.depth).round_ties_even() as usize).max(1)
    }
}

/// A family of models.
#[derive(Debug, Clone, Copy)]
pub struct Family {
    /// All layers but the head, which comes after the last one.
    pub rows: &'static [Row],
    /// How many of them, from the first on, are the backbone.
    pub backbone: usize,
    /// The layers whose outputs enter the head, at strides 8, 16 and 32.
    pub head_from: [usize; 3],
    /// The multiples of a scale.
    pub multiples: fn(ModelScale) -> Multiples,
}

impl Family {
    /// The family that `scale` is of.
    pub const fn of(scale: ModelScale) -> &'static Self {
        match scale {
            ModelScale::N | ModelScale::S | ModelScale::M | ModelScale::L | ModelScale::X => &YOLOV8,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_numbered_in_order_and_take_what_came_before() {
        for scale in ModelScale::ALL {
            let family = Family::of(scale);
            for (at, row) in family.rows.iter().enumerate() {
                assert_eq!(row.index, at);
                assert!(row.from.iter().all(|&from| from < at), "{row:?}");
                assert!(matches!(row.module, Module::Concat) || row.from.len() <= 1, "{row:?}");
            }
            assert!(family.head_from.iter().all(|&from| from < family.rows.len()));
            assert!(family.backbone <= family.rows.len());
        }
    }
}

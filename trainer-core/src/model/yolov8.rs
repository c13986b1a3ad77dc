//! The YOLOv8 detectors as a table, with the published numbers.

use trainyard_types::ModelScale;

use super::family::{Family, Module, Multiples, Row, row};

/// Layers 0 to 21; layer 22 is the head.
pub const YOLOV8: Family = Family { rows: &ROWS, backbone: 10, head_from: [15, 18, 21], multiples };

#[rustfmt::skip]
const ROWS: [Row; 22] = [
    // index, from, module and its arguments: the backbone, from the image to stride 32
    row(0, &[], Module::Conv { channels: 64 }),
    row(1, &[0], Module::Conv { channels: 128 }),
    row(2, &[1], Module::C2f { channels: 128, repeats: 3, shortcut: true }),
    row(3, &[2], Module::Conv { channels: 256 }),
    row(4, &[3], Module::C2f { channels: 256, repeats: 6, shortcut: true }),
    row(5, &[4], Module::Conv { channels: 512 }),
    row(6, &[5], Module::C2f { channels: 512, repeats: 6, shortcut: true }),
    row(7, &[6], Module::Conv { channels: 1024 }),
    row(8, &[7], Module::C2f { channels: 1024, repeats: 3, shortcut: true }),
    row(9, &[8], Module::Sppf { channels: 1024 }),
    // the neck, from coarse to fine
    row(10, &[9], Module::Upsample),
    row(11, &[10, 6], Module::Concat),
    row(12, &[11], Module::C2f { channels: 512, repeats: 3, shortcut: false }),
    row(13, &[12], Module::Upsample),
    row(14, &[13, 4], Module::Concat),
    row(15, &[14], Module::C2f { channels: 256, repeats: 3, shortcut: false }),
    // and back
    row(16, &[15], Module::Conv { channels: 256 }),
    row(17, &[16, 12], Module::Concat),
    row(18, &[17], Module::C2f { channels: 512, repeats: 3, shortcut: false }),
    row(19, &[18], Module::Conv { channels: 512 }),
    row(20, &[19, 9], Module::Concat),
    row(21, &[20], Module::C2f { channels: 1024, repeats: 3, shortcut: false }),
];

const fn multiples(scale: ModelScale) -> Multiples {
    let (depth, width, max_channels) = match scale {
        ModelScale::N => (0.33, 0.25, 1024),
        ModelScale::S => (0.33, 0.50, 1024),
        ModelScale::M => (0.67, 0.75, 768),
        ModelScale::L => (1.0, 1.0, 512),
        ModelScale::X => (1.0, 1.25, 512),
    };
    Multiples { depth, width, max_channels }
}

//! What a training leaves and shows: checkpoints, weights, tables, pictures, lines on the terminal.

pub mod artifacts;
pub mod console;
pub mod drawing;
pub mod saver;
pub mod tables;

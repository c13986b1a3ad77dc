//! The trainer as its callers see it: runs in this process, and the program. One program, since each would link libtorch.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod any_gpu;
mod binary;
mod export;
mod golden;
mod golden_data;
mod golden_model;
mod golden_pt;
mod loss_scale;
mod nobody_listens;
mod one_image;
mod oom;
mod recipe;
mod resume;
mod runs;
mod same_bytes;
mod shapes;
mod training;

//! Pixels at other positions: resize and letterbox of whole images, and the inner loops of bilinear samples. Knows nothing
//! of samples or of random choices.

pub mod bilinear;
pub mod letterbox;
pub mod resize;
pub mod row_kernels;

pub use self::letterbox::{GREY, Letterbox};

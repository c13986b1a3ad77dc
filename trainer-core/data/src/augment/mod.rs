//! Augmentation: how one training sample is made of a data set's images.
//!
//! This file has the strength of each augmentation and its random choice. `sample` chooses and puts together, `mosaic`
//! says which image lies where, `affine` moves and drops boxes, `resampler` makes the pixels in one pass, `mixup` and
//! `hsv` change them row by row. The plain definition that all must agree with is `reference`, for tests.

pub mod affine;
pub mod hsv;
pub mod mixup;
pub mod mosaic;
#[cfg(test)]
pub(crate) mod reference;
pub mod resampler;
pub mod sample;

use trainyard_types::train::TrainSpec;

use self::affine::AffineParams;
use self::hsv::HsvShift;
pub use self::sample::Sample;
use crate::random::SampleRng;

/// How many images a mosaic has, and how they lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MosaicTiles {
    /// Two by two, around a random centre.
    Four,
    /// Three by three, the first in the middle.
    Nine,
}

/// The strength of each augmentation, as in [`TrainSpec`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AugmentConfig {
    /// Hue jitter, share of the circle.
    pub hsv_h: f64,
    /// Saturation jitter, share.
    pub hsv_s: f64,
    /// Value jitter, share.
    pub hsv_v: f64,
    /// Rotation, degrees either way.
    pub degrees: f64,
    /// Translation, share of the image either way.
    pub translate: f64,
    /// Scaling, 1 plus or minus this.
    pub scale: f64,
    /// Shear, degrees either way.
    pub shear: f64,
    /// Perspective either way.
    pub perspective: f64,
    /// Probability of a vertical flip.
    pub flipud: f64,
    /// Probability of a horizontal flip.
    pub fliplr: f64,
    /// Probability of a mosaic.
    pub mosaic: f64,
    /// Images in a mosaic.
    pub tiles: MosaicTiles,
    /// Probability of blending two images.
    pub mixup: f64,
}

impl From<&TrainSpec> for AugmentConfig {
    fn from(spec: &TrainSpec) -> Self {
        Self {
            hsv_h: spec.hsv_h,
            hsv_s: spec.hsv_s,
            hsv_v: spec.hsv_v,
            degrees: spec.degrees,
            translate: spec.translate,
            scale: spec.scale,
            shear: spec.shear,
            perspective: spec.perspective,
            flipud: spec.flipud,
            fliplr: spec.fliplr,
            mosaic: spec.mosaic,
            tiles: MosaicTiles::Four,
            mixup: spec.mixup,
        }
    }
}

impl AugmentConfig {
    /// No augmentation: an image is only letterboxed.
    pub const NONE: Self = Self {
        hsv_h: 0.0,
        hsv_s: 0.0,
        hsv_v: 0.0,
        degrees: 0.0,
        translate: 0.0,
        scale: 0.0,
        shear: 0.0,
        perspective: 0.0,
        flipud: 0.0,
        fliplr: 0.0,
        mosaic: 0.0,
        tiles: MosaicTiles::Four,
        mixup: 0.0,
    };

    /// Draws rotation, scale, shear, perspective and translation of one sample.
    pub(crate) fn affine(&self, rng: &mut SampleRng) -> AffineParams {
        let mut either_way = |amount: f64| rng.between(-amount, amount);
        AffineParams {
            perspective: [either_way(self.perspective), either_way(self.perspective)],
            degrees: either_way(self.degrees),
            scale: 1.0 + either_way(self.scale),
            shear: [either_way(self.shear), either_way(self.shear)],
            centre: [0.5 + either_way(self.translate), 0.5 + either_way(self.translate)],
        }
    }

    /// Draws the change of colour of one sample; `None` when colours stay.
    pub(crate) fn hsv_shift(&self, rng: &mut SampleRng) -> Option<HsvShift> {
        if self.hsv_h == 0.0 && self.hsv_s == 0.0 && self.hsv_v == 0.0 {
            return None;
        }
        let mut either_way = |amount: f64| rng.between(-amount, amount);
        Some(HsvShift::new(either_way(self.hsv_h), either_way(self.hsv_s), either_way(self.hsv_v)))
    }
}

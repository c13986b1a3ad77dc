//! What may be done to a training image, and the random choice of it.

use trainyard_types::train::TrainSpec;

use crate::affine::AffineParams;
use crate::kernels::ColourChange;
use crate::random::Draw;

/// How many images a mosaic has.
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
    /// How many images a mosaic has.
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
    /// Letterbox only.
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

    /// Rotation, scale, shear, perspective and translation of one sample.
    pub(crate) fn affine(&self, draw: &mut Draw) -> AffineParams {
        let mut either_way = |amount: f64| draw.between(-amount, amount);
        AffineParams {
            perspective: [either_way(self.perspective), either_way(self.perspective)],
            degrees: either_way(self.degrees),
            scale: 1.0 + either_way(self.scale),
            shear: [either_way(self.shear), either_way(self.shear)],
            centre: [0.5 + either_way(self.translate), 0.5 + either_way(self.translate)],
        }
    }

    /// The change of colour of one sample; `None` when colours stay.
    pub(crate) fn colour(&self, draw: &mut Draw) -> Option<ColourChange> {
        if self.hsv_h == 0.0 && self.hsv_s == 0.0 && self.hsv_v == 0.0 {
            return None;
        }
        let mut either_way = |amount: f64| draw.between(-amount, amount);
        Some(ColourChange::new(either_way(self.hsv_h), either_way(self.hsv_s), either_way(self.hsv_v)))
    }
}

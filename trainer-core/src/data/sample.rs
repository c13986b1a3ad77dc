//! One training sample: mosaic, affine, mixup, colour, flips, in this order.
//!
//! Every choice is drawn from (seed, epoch, data set index, purpose), so a sample is the same whoever
//! makes it and whenever.

use std::sync::Arc;

use crate::data::affine::{Matrix, move_objects, warp};
use crate::data::augment::AugmentConfig;
use crate::data::cache::ImageStore;
use crate::data::canvas::{Canvas, Object};
use crate::data::image::Image;
use crate::data::labels::Label;
use crate::data::letterbox::Letterbox;
use crate::data::loader::LoadError;
use crate::data::random::{Draw, Purpose};

/// One image of a batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Its index in the data set.
    pub index: usize,
    /// `[3, height, width]`, RGB.
    pub planes: Vec<u8>,
    /// Its objects, as shares of the sample's size.
    pub labels: Vec<Label>,
    /// Where the image lies in the sample, when validating.
    pub placement: Option<Letterbox>,
}

/// Makes the samples of one epoch.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// The images.
    pub store: Arc<ImageStore>,
    /// What may be done to them.
    pub augment: AugmentConfig,
    /// Side of the square sample, pixels.
    pub imgsz: usize,
    /// Of the run.
    pub seed: u64,
    /// Of this pass.
    pub epoch: u32,
    /// Whether mosaic and mixup are on.
    pub mosaic: bool,
}

/// Buffers that a thread uses again and again.
#[derive(Debug, Default)]
pub struct Scratch {
    canvas: Canvas,
}

/// An augmented picture before colour and flips.
struct Picture {
    image: Image,
    objects: Vec<Object>,
}

impl Recipe {
    /// Makes the sample of image `index`.
    ///
    /// # Errors
    /// When so many images are unreadable that no replacement is found.
    pub fn make(&self, index: usize, scratch: &mut Scratch) -> Result<Sample, LoadError> {
        let mut picture = self.picture(index, index, scratch)?;
        let mut draw = self.draw(index, Purpose::Mixup);
        if self.mosaic && draw.chance(self.augment.mixup) {
            let partner = draw.below(self.store.len());
            let share = draw.beta(32);
            // The partner is drawn for this sample, so its own choices are this sample's, too.
            let other = self.picture(partner, self.store.len() + index, scratch)?;
            picture.blend(&other, share);
        }
        if let Some(jitter) = self.augment.colour(&mut self.draw(index, Purpose::Colour)) {
            jitter.apply(&mut picture.image.rgb);
        }
        let mut draw = self.draw(index, Purpose::Flip);
        let (up_down, left_right) = (draw.chance(self.augment.flipud), draw.chance(self.augment.fliplr));
        picture.flip(up_down, left_right);
        Ok(picture.into_sample(index))
    }

    fn draw(&self, sample: usize, purpose: Purpose) -> Draw {
        Draw::new(self.seed, self.epoch, sample, purpose)
    }

    /// Image `index`, alone or in a mosaic, after the affine step; random choices are `sample`'s.
    fn picture(&self, index: usize, sample: usize, scratch: &mut Scratch) -> Result<Picture, LoadError> {
        let (augment, side) = (&self.augment, self.imgsz);
        let mut draw = self.draw(sample, Purpose::Mosaic);
        let canvas = &mut scratch.canvas;
        if self.mosaic && draw.chance(augment.mosaic) {
            let mut centre = || draw.below(side + 1) + side / 2;
            let centre = [centre(), centre()];
            let images = self.store.len();
            let others = [draw.below(images), draw.below(images), draw.below(images)];
            let first = self.store.load(index)?;
            let others =
                [self.store.load(others[0])?, self.store.load(others[1])?, self.store.load(others[2])?];
            let [second, third, fourth] = &others;
            canvas.mosaic(side, centre, [first.tile(), second.tile(), third.tile(), fourth.tile()]);
        } else {
            let loaded = self.store.load(index)?;
            let (image, labels) = loaded.tile();
            canvas.single(side, image, labels);
        }
        let params = augment.affine(&mut self.draw(sample, Purpose::Affine));
        let matrix = Matrix::new(&params, canvas.side(), side);
        let mut image = Image::filled(side, side, 0);
        warp(canvas, &matrix, &mut image);
        Ok(Picture { image, objects: move_objects(&canvas.objects, &matrix, params.scale, side) })
    }
}

impl Picture {
    /// Lays `other` over this picture, which keeps `share` of its brightness.
    fn blend(&mut self, other: &Self, share: f64) {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 256")]
        let share = (share * 256.0).round() as u32;
        for (here, there) in self.image.rgb.iter_mut().zip(&other.image.rgb) {
            let sum = u32::from(*here) * share + u32::from(*there) * (256 - share);
            #[expect(clippy::cast_possible_truncation, reason = "a mean of bytes")]
            let byte = ((sum + 128) >> 8) as u8;
            *here = byte;
        }
        self.objects.extend_from_slice(&other.objects);
    }

    fn flip(&mut self, up_down: bool, left_right: bool) {
        let (width, height) = (self.image.width, self.image.height);
        let stride = self.image.stride();
        if up_down {
            let (upper, lower) = self.image.rgb.split_at_mut(height / 2 * stride);
            let below = lower.rchunks_exact_mut(stride);
            upper.chunks_exact_mut(stride).zip(below).for_each(|(a, b)| a.swap_with_slice(b));
        }
        if left_right {
            for row in self.image.rgb.chunks_exact_mut(stride) {
                let (mut left, mut right) = (0, width.saturating_sub(1));
                while left < right {
                    for channel in 0..3 {
                        row.swap(left * 3 + channel, right * 3 + channel);
                    }
                    left += 1;
                    right -= 1;
                }
            }
        }
        let (width, height) = (width as f32, height as f32);
        for object in &mut self.objects {
            let [x1, y1, x2, y2] = object.xyxy;
            let [x1, x2] = if left_right { [width - x2, width - x1] } else { [x1, x2] };
            let [y1, y2] = if up_down { [height - y2, height - y1] } else { [y1, y2] };
            object.xyxy = [x1, y1, x2, y2];
        }
    }

    fn into_sample(self, index: usize) -> Sample {
        let (width, height) = (self.image.width as f32, self.image.height as f32);
        let labels = self.objects.iter().map(|object| {
            let [x1, y1, x2, y2] = object.xyxy;
            let cxcywh =
                [(x1 + x2) / 2.0 / width, (y1 + y2) / 2.0 / height, (x2 - x1) / width, (y2 - y1) / height];
            Label { class: object.class, cxcywh }
        });
        let mut planes = vec![0; self.image.rgb.len()];
        self.image.write_planes(&mut planes);
        Sample { index, planes, labels: labels.collect(), placement: None }
    }
}

#[cfg(test)]
mod tests;

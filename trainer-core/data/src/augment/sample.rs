//! One training sample: mosaic, affine, mixup, colour, flips, in this order, in one pass over its pixels.
//!
//! Every choice is drawn from (seed, epoch, index in the data set, purpose), so a sample is the same whoever
//! makes it and whenever.

use std::sync::Arc;

use super::affine::{Matrix, move_objects};
use super::hsv::{HsvShift, shift_hsv};
use super::mixup::mixup_row;
use super::mosaic::{LabelledImage, MosaicLayout};
use super::resampler::{Flips, Resampler};
use super::{AugmentConfig, MosaicTiles};
use crate::cache::ImageStore;
use crate::cache::image_store::LoadedImage;
use crate::labels::{Label, Object};
use crate::load_error::LoadError;
use crate::random::{SampleRng, Stream};
use crate::resample::Letterbox;

/// What is known of one image of a batch beside its pixels.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Its index in the data set; of a mosaic that of the first image.
    pub index: usize,
    /// Its objects, as shares of the sample's size.
    pub labels: Vec<Label>,
    /// How the image was letterboxed, when validating.
    pub placement: Option<Letterbox>,
}

/// Makes the samples of one epoch.
#[derive(Debug, Clone)]
pub struct SampleBuilder {
    /// The images that samples are made of.
    pub store: Arc<ImageStore>,
    /// The strength of each augmentation.
    pub augment: AugmentConfig,
    /// Side of the square sample, pixels.
    pub imgsz: usize,
    /// The seed of the run.
    pub seed: u64,
    /// The epoch, a part of the seed of every choice.
    pub epoch: u32,
    /// Whether mosaic and mixup are on.
    pub mosaic: bool,
}

/// Buffers that a worker uses again and again.
#[derive(Debug, Default)]
pub struct Scratch {
    /// The sample itself, and its partner in a mixup.
    layers: [Layer; 2],
    /// A row of the second layer, three planes one behind the other.
    row: Vec<u8>,
}

/// A mosaic on its way to the sample.
#[derive(Debug, Default)]
struct Layer {
    layout: MosaicLayout,
    resampler: Resampler,
    objects: Vec<Object>,
}

/// What is done to the pixels of a sample after its layers are resampled.
#[derive(Debug, Clone, Copy)]
struct PixelOps {
    /// The first layer's share in a mixup, 0 to 1; `None` without one.
    mixup: Option<f64>,
    hsv_shift: Option<HsvShift>,
}

impl SampleBuilder {
    /// Makes the sample of image `index` and writes its pixels to `planes`, `[3, imgsz, imgsz]`, RGB.
    ///
    /// # Errors
    /// When so many images are unreadable that no replacement is found.
    ///
    /// # Panics
    /// When `planes` is not of that size.
    pub fn build(&self, index: usize, scratch: &mut Scratch, planes: &mut [u8]) -> Result<Sample, LoadError> {
        let side = self.imgsz;
        assert_eq!(planes.len(), 3 * side * side, "three planes");
        let (flips, ops) = self.prepare(index, scratch)?;
        render(scratch, ops, side, planes);
        let objects = scratch.layers.iter().take(1 + usize::from(ops.mixup.is_some()));
        let objects = objects.flat_map(|layer| &layer.objects);
        let labels = objects.map(|object| label(object, side, flips)).collect();
        Ok(Sample { index, labels, placement: None })
    }

    /// Draws everything, and prepares the layers.
    fn prepare(&self, index: usize, scratch: &mut Scratch) -> Result<(Flips, PixelOps), LoadError> {
        let mut rng = self.rng(index, Stream::Flip);
        let (up_down, left_right) = (rng.chance(self.augment.flipud), rng.chance(self.augment.fliplr));
        let flips = Flips { up_down, left_right };
        let [first, second] = &mut scratch.layers;
        self.layer(index, index, flips, first)?;
        let mut rng = self.rng(index, Stream::Mixup);
        let mut mixup = None;
        if self.mosaic && rng.chance(self.augment.mixup) {
            let partner = rng.below(self.store.len());
            mixup = Some(rng.beta(32));
            // The partner is drawn for this sample, so its own choices are this sample's, too.
            self.layer(partner, self.store.len() + index, flips, second)?;
        }
        let hsv_shift = self.augment.hsv_shift(&mut self.rng(index, Stream::Colour));
        Ok((flips, PixelOps { mixup, hsv_shift }))
    }

    /// The random numbers of sample number `sample` for one purpose.
    fn rng(&self, sample: usize, stream: Stream) -> SampleRng {
        SampleRng::new(self.seed, self.epoch, sample, stream)
    }

    /// Prepares a layer of image `index`, alone or in a mosaic. Its random choices are those of number `sample`.
    fn layer(&self, index: usize, sample: usize, flips: Flips, layer: &mut Layer) -> Result<(), LoadError> {
        let augment = &self.augment;
        self.lay_out(index, sample, &mut layer.layout)?;
        let params = augment.affine(&mut self.rng(sample, Stream::Affine));
        let matrix = Matrix::new(&params, layer.layout.side, self.imgsz);
        layer.resampler.prepare(&layer.layout, &matrix, self.imgsz, flips);
        layer.objects = move_objects(&layer.layout.objects, &matrix, params.scale, self.imgsz);
        Ok(())
    }

    /// Lays image `index` on a mosaic, alone or with others.
    fn lay_out(&self, index: usize, sample: usize, layout: &mut MosaicLayout) -> Result<(), LoadError> {
        let (augment, side) = (&self.augment, self.imgsz);
        let mut rng = self.rng(sample, Stream::Mosaic);
        if !self.mosaic || !rng.chance(augment.mosaic) {
            layout.single(side, labelled(&self.store.load(index)?));
            return Ok(());
        }
        let mut centre = || rng.below(side + 1) + side / 2;
        let centre = [centre(), centre()];
        match augment.tiles {
            MosaicTiles::Four => {
                let tiles: [LoadedImage; 4] = self.tiles(index, &mut rng)?;
                layout.mosaic_of_four(side, centre, tiles.each_ref().map(labelled));
            }
            MosaicTiles::Nine => {
                let tiles: [LoadedImage; 9] = self.tiles(index, &mut rng)?;
                layout.mosaic_of_nine(side, centre, tiles.each_ref().map(labelled));
            }
        }
        Ok(())
    }

    /// Image `index`, and N - 1 others that are drawn.
    fn tiles<const N: usize>(
        &self,
        index: usize,
        rng: &mut SampleRng,
    ) -> Result<[LoadedImage; N], LoadError> {
        let mut tiles = vec![self.store.load(index)?];
        while tiles.len() < N {
            tiles.push(self.store.load(rng.below(self.store.len()))?);
        }
        Ok(tiles.try_into().expect("there are N of them"))
    }
}

fn labelled(loaded: &LoadedImage) -> LabelledImage<'_> {
    LabelledImage { image: &loaded.image, labels: loaded.labels() }
}

/// The one pass over the pixels: resampled, blended and coloured row by row.
fn render(scratch: &mut Scratch, ops: PixelOps, side: usize, planes: &mut [u8]) {
    let [first, second] = &mut scratch.layers;
    let (red, rest) = planes.split_at_mut(side * side);
    let (green, blue) = rest.split_at_mut(side * side);
    let rows = red.chunks_exact_mut(side).zip(green.chunks_exact_mut(side)).zip(blue.chunks_exact_mut(side));
    for (y, ((r, g), b)) in rows.enumerate() {
        first.resampler.row(&first.layout, y, [&mut *r, &mut *g, &mut *b]);
        if let Some(share) = ops.mixup {
            scratch.row.resize(3 * side, 0);
            let (other_r, rest) = scratch.row.split_at_mut(side);
            let (other_g, other_b) = rest.split_at_mut(side);
            second.resampler.row(&second.layout, y, [&mut *other_r, &mut *other_g, &mut *other_b]);
            let share = (share * 256.0).round() as u16;
            for (here, there) in [(&mut *r, other_r), (&mut *g, other_g), (&mut *b, other_b)] {
                mixup_row(here, there, share);
            }
        }
        if let Some(shift) = ops.hsv_shift {
            shift_hsv(r, g, b, shift);
        }
    }
}

/// An object of the unflipped sample of `side` pixels, as a label of the flipped one.
fn label(object: &Object, side: usize, flips: Flips) -> Label {
    let side = side as f32;
    let [x1, y1, x2, y2] = object.xyxy;
    let [x1, x2] = if flips.left_right { [side - x2, side - x1] } else { [x1, x2] };
    let [y1, y2] = if flips.up_down { [side - y2, side - y1] } else { [y1, y2] };
    let cxcywh = [(x1 + x2) / 2.0 / side, (y1 + y2) / 2.0 / side, (x2 - x1) / side, (y2 - y1) / side];
    Label { class: object.class, cxcywh }
}

#[cfg(test)]
mod tests;

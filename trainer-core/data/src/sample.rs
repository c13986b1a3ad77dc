//! One training sample: mosaic, affine, mixup, colour, flips, in this order, in one pass over its pixels.
//!
//! Every choice is drawn from (seed, epoch, data set index, purpose), so a sample is the same whoever
//! makes it and whenever.

use std::sync::Arc;

use crate::affine::{Matrix, move_objects};
use crate::augment::{AugmentConfig, MosaicTiles};
use crate::cache::{ImageStore, Loaded};
use crate::canvas::{Object, Scene};
use crate::kernels::{ColourChange, blend_pictures, change_colours};
use crate::labels::Label;
use crate::letterbox::Letterbox;
use crate::loader::LoadError;
use crate::random::{Draw, Purpose};
use crate::sampler::{Flips, Sampler};

/// What one image of a batch is, but its pixels.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Its index in the data set.
    pub index: usize,
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
    layers: [Layer; 2],
    /// A row of the second layer.
    row: Vec<u8>,
}

/// A scene on its way to the sample.
#[derive(Debug, Default)]
struct Layer {
    scene: Scene,
    sampler: Sampler,
    objects: Vec<Object>,
}

/// All that was drawn for a sample's pixels, once its layers are prepared.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Finish {
    /// The first layer's share in a mixup.
    mixup: Option<f64>,
    colour: Option<ColourChange>,
}

impl Recipe {
    /// Makes the sample of image `index`, `[3, imgsz, imgsz]`, RGB, in `planes`.
    ///
    /// # Errors
    /// When so many images are unreadable that no replacement is found.
    ///
    /// # Panics
    /// When `planes` is not of that size.
    pub fn make(&self, index: usize, scratch: &mut Scratch, planes: &mut [u8]) -> Result<Sample, LoadError> {
        let side = self.imgsz;
        assert_eq!(planes.len(), 3 * side * side, "three planes");
        let (flips, finish) = self.prepare(index, scratch)?;
        render(scratch, finish, side, planes);
        let objects = scratch.layers.iter().take(1 + usize::from(finish.mixup.is_some()));
        let objects = objects.flat_map(|layer| &layer.objects);
        let labels = objects.map(|object| label(object, side, flips)).collect();
        Ok(Sample { index, labels, placement: None })
    }

    /// Draws everything, and readies the samplers.
    fn prepare(&self, index: usize, scratch: &mut Scratch) -> Result<(Flips, Finish), LoadError> {
        let mut draw = self.draw(index, Purpose::Flip);
        let (up_down, left_right) = (draw.chance(self.augment.flipud), draw.chance(self.augment.fliplr));
        let flips = Flips { up_down, left_right };
        let [first, second] = &mut scratch.layers;
        self.layer(index, index, flips, first)?;
        let mut draw = self.draw(index, Purpose::Mixup);
        let mut mixup = None;
        if self.mosaic && draw.chance(self.augment.mixup) {
            let partner = draw.below(self.store.len());
            mixup = Some(draw.beta(32));
            // The partner is drawn for this sample, so its own choices are this sample's, too.
            self.layer(partner, self.store.len() + index, flips, second)?;
        }
        let colour = self.augment.colour(&mut self.draw(index, Purpose::Colour));
        Ok((flips, Finish { mixup, colour }))
    }

    fn draw(&self, sample: usize, purpose: Purpose) -> Draw {
        Draw::new(self.seed, self.epoch, sample, purpose)
    }

    /// Image `index`, alone or in a mosaic, and its affine step; random choices are `sample`'s.
    fn layer(&self, index: usize, sample: usize, flips: Flips, layer: &mut Layer) -> Result<(), LoadError> {
        let augment = &self.augment;
        self.scene(index, sample, &mut layer.scene)?;
        let params = augment.affine(&mut self.draw(sample, Purpose::Affine));
        let matrix = Matrix::new(&params, layer.scene.side, self.imgsz);
        layer.sampler.prepare(&layer.scene, &matrix, self.imgsz, flips);
        layer.objects = move_objects(&layer.scene.objects, &matrix, params.scale, self.imgsz);
        Ok(())
    }

    fn scene(&self, index: usize, sample: usize, scene: &mut Scene) -> Result<(), LoadError> {
        let (augment, side) = (&self.augment, self.imgsz);
        let mut draw = self.draw(sample, Purpose::Mosaic);
        if !self.mosaic || !draw.chance(augment.mosaic) {
            scene.single(side, self.store.load(index)?.tile());
            return Ok(());
        }
        let mut centre = || draw.below(side + 1) + side / 2;
        let centre = [centre(), centre()];
        match augment.tiles {
            MosaicTiles::Four => {
                let tiles: [Loaded; 4] = self.tiles(index, &mut draw)?;
                scene.mosaic(side, centre, tiles.each_ref().map(Loaded::tile));
            }
            MosaicTiles::Nine => {
                let tiles: [Loaded; 9] = self.tiles(index, &mut draw)?;
                scene.mosaic9(side, centre, tiles.each_ref().map(Loaded::tile));
            }
        }
        Ok(())
    }

    /// Image `index`, and others that are drawn.
    fn tiles<const N: usize>(&self, index: usize, draw: &mut Draw) -> Result<[Loaded; N], LoadError> {
        let mut tiles = vec![self.store.load(index)?];
        while tiles.len() < N {
            tiles.push(self.store.load(draw.below(self.store.len()))?);
        }
        Ok(tiles.try_into().expect("there are N of them"))
    }
}

/// The one pass over the pixels: sampled, blended, coloured, row by row.
fn render(scratch: &mut Scratch, finish: Finish, side: usize, planes: &mut [u8]) {
    let [first, second] = &mut scratch.layers;
    let (red, rest) = planes.split_at_mut(side * side);
    let (green, blue) = rest.split_at_mut(side * side);
    let rows = red.chunks_exact_mut(side).zip(green.chunks_exact_mut(side)).zip(blue.chunks_exact_mut(side));
    for (y, ((r, g), b)) in rows.enumerate() {
        first.sampler.row(&first.scene, y, [&mut *r, &mut *g, &mut *b]);
        if let Some(share) = finish.mixup {
            scratch.row.resize(3 * side, 0);
            let (other_r, rest) = scratch.row.split_at_mut(side);
            let (other_g, other_b) = rest.split_at_mut(side);
            second.sampler.row(&second.scene, y, [&mut *other_r, &mut *other_g, &mut *other_b]);
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 256")]
            let share = (share * 256.0).round() as u16;
            for (here, there) in [(&mut *r, other_r), (&mut *g, other_g), (&mut *b, other_b)] {
                blend_pictures(here, there, share);
            }
        }
        if let Some(change) = finish.colour {
            change_colours(r, g, b, change);
        }
    }
}

/// An object as it is told, after the flips.
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

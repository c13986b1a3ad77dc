//! A batch's objects, and which anchors may learn them, in the form that the assigner takes on the device.

use std::ops::Range;

use tch::{Device, Kind, Tensor};

use super::TOP_K;
use super::candidates::{anchors, grid, inside};

/// Pairs that are compared at a time, about. Bounds the memory of large batches of crowded images, at some 150 bytes a
/// pair; others have fewer: two or three for each anchor.
const PAIRS_PER_PART: usize = 1 << 21;

/// One object of a batch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Object {
    /// The image of the batch that it is in.
    pub image: u32,
    /// The class's id.
    pub class: u32,
    /// Centre x and y, width, height, as shares of the batch's width and height.
    pub cxcywh: [f32; 4],
}

/// An object whose place is in pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PixelObject {
    /// The image of the batch that it is in.
    pub image: u32,
    /// The class's id.
    pub class: u32,
    /// The corners, in pixels.
    pub xyxy: [f32; 4],
}

/// A batch's objects, and all pairs of an object and an anchor that may learn it.
///
/// The pairs are found on the host, so that the device compares those only, and that their number is known without a
/// wait.
#[derive(Debug)]
pub struct Targets {
    /// `[objects, 4]` float: `xyxy` in pixels, image by image.
    boxes: Tensor,
    /// The parts' numbers, one after the other, as [`Part::read`] takes them. 32-bit integers: half the way to a GPU.
    indices: Tensor,
    /// Some images each.
    parts: Vec<Part>,
    /// Rows and columns of the levels that the anchors are of.
    grid: [(i64, i64); 3],
}

/// Some images of a batch, as many as are assigned at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    /// Among the batch's objects.
    objects: Range<i64>,
    /// The place of its numbers.
    from: i64,
    /// Pairs of an object and an anchor.
    pairs: i64,
    /// The most anchors that its objects may take.
    picks: i64,
}

/// A part's pairs on the device. All are 64-bit integers but for the boxes.
pub(super) struct Pairs {
    /// `[objects, 4]` float: `xyxy` in pixels.
    pub(super) boxes: Tensor,
    /// `[objects]`: class ids.
    pub(super) labels: Tensor,
    /// `[pairs]`: anchors, counted through the batch. Object by object, and ascending for each.
    pub(super) anchors: Tensor,
    /// `[pairs]`: the part's objects, ascending.
    pub(super) objects: Tensor,
    /// `[picks]`: the places of each object's best pairs, when its pairs are sorted, best first.
    pub(super) firsts: Tensor,
    /// `[picks]`: see [`Builder::close_object`].
    pub(super) limits: Tensor,
}

impl Targets {
    /// Objects of a batch of so many `images`, whose size in pixels is `[height, width]`.
    pub fn new(objects: &[Object], images: usize, size: [i64; 2], device: Device) -> Self {
        let [height, width] = size.map(|side| side as f32);
        let in_pixels = |object: &Object| {
            let [cx, cy, w, h] = object.cxcywh;
            let (cx, cy, w, h) = (cx * width, cy * height, w * width, h * height);
            let xyxy = [cx - w / 2.0, cy - h / 2.0, cx + w / 2.0, cy + h / 2.0];
            PixelObject { image: object.image, class: object.class, xyxy }
        };
        let objects: Vec<PixelObject> = objects.iter().map(in_pixels).collect();
        Self::of_pixels(&objects, images, size, device)
    }

    /// [`Targets::new`], of objects in pixels.
    pub fn of_pixels(objects: &[PixelObject], images: usize, size: [i64; 2], device: Device) -> Self {
        Self::in_parts(objects, images, size, PAIRS_PER_PART).to(device)
    }

    /// [`Targets::of_pixels`] on the host, with about so many pairs in a part.
    pub(super) fn in_parts(
        objects: &[PixelObject],
        images: usize,
        size: [i64; 2],
        pairs_per_part: usize,
    ) -> Self {
        let mut by_image: Vec<&PixelObject> = objects.iter().collect();
        by_image.sort_by_key(|object| object.image);
        let boxes: Vec<[f32; 4]> = by_image.iter().map(|object| object.xyxy).collect();
        let mut builder = Builder::new(grid(size), pairs_per_part);
        for image in by_image.chunk_by(|a, b| a.image == b.image) {
            assert!((image[0].image as usize) < images, "an object is in an image of the batch");
            builder.add_image(image);
        }
        let (indices, parts, grid) = builder.finish();
        Self {
            boxes: Tensor::from_slice(boxes.as_flattened()).view([-1, 4]),
            indices: Tensor::from_slice(&indices),
            parts,
            grid,
        }
    }

    /// How many objects there are.
    pub fn count(&self) -> i64 {
        self.boxes.size()[0]
    }

    /// Whether no anchor can learn anything.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Rows and columns of the levels that the anchors are of.
    pub const fn grid(&self) -> &[(i64, i64); 3] {
        &self.grid
    }

    /// What must be on the device.
    pub const fn tensors(&self) -> [&Tensor; 2] {
        [&self.boxes, &self.indices]
    }

    /// The same, with copies of its [`Targets::tensors`] elsewhere.
    #[must_use]
    pub fn with_tensors(self, [boxes, indices]: [Tensor; 2]) -> Self {
        Self { boxes, indices, ..self }
    }

    /// The same, on `device`.
    #[must_use]
    pub fn to(self, device: Device) -> Self {
        let there = self.tensors().map(|tensor| tensor.to_device(device));
        self.with_tensors(there)
    }

    /// The pairs of each part.
    pub(super) fn pairs(&self) -> impl Iterator<Item = Pairs> + '_ {
        self.parts.iter().map(|part| part.read(&self.boxes, &self.indices))
    }
}

impl Part {
    fn read(&self, boxes: &Tensor, indices: &Tensor) -> Pairs {
        let objects = self.objects.end - self.objects.start;
        let lengths = [objects, self.pairs, self.pairs, self.picks, self.picks];
        let all = indices.narrow(0, self.from, lengths.iter().sum()).to_kind(Kind::Int64);
        let mut from = 0;
        let [labels, anchors, objects_of, firsts, limits] = lengths.map(|length| {
            from += length;
            all.narrow(0, from - length, length)
        });
        let boxes = boxes.narrow(0, self.objects.start, objects);
        Pairs { boxes, labels, anchors, objects: objects_of, firsts, limits }
    }
}

/// Finds the pairs of a batch, image by image.
struct Builder {
    grid: [(i64, i64); 3],
    pairs_per_part: usize,
    indices: Vec<i32>,
    parts: Vec<Part>,
    /// Objects of the parts that are closed.
    objects_before: i64,
    // The numbers of the part that is open.
    labels: Vec<i32>,
    anchors: Vec<i32>,
    objects: Vec<i32>,
    firsts: Vec<i32>,
    limits: Vec<i32>,
}

impl Builder {
    const fn new(grid: [(i64, i64); 3], pairs_per_part: usize) -> Self {
        Self {
            grid,
            pairs_per_part,
            indices: Vec::new(),
            parts: Vec::new(),
            objects_before: 0,
            labels: Vec::new(),
            anchors: Vec::new(),
            objects: Vec::new(),
            firsts: Vec::new(),
            limits: Vec::new(),
        }
    }

    /// The objects of one image, which are of one part: those that want the same anchor meet.
    fn add_image(&mut self, objects: &[&PixelObject]) {
        for object in objects {
            let before = i64::from(object.image) * anchors(&self.grid);
            let (from, number) = (self.anchors.len(), small(self.labels.len()));
            inside(object.xyxy, &self.grid, |anchor| {
                self.anchors.push(small(before + anchor));
                self.objects.push(number);
            });
            self.labels.push(small(object.class));
            self.close_object(from, before);
        }
        if self.anchors.len() >= self.pairs_per_part {
            self.close_part();
        }
    }

    /// Notes where the best pairs of the object are to be found, whose pairs begin at `from`.
    ///
    /// An object takes its best anchors of all, where those outside its box fit not at all, and of equals the first.
    /// Of anchors inside that fit not at all, either, it takes only those that come before all but [`TOP_K`] others.
    /// With `r` better ones, the `j`th pair, of anchor `a`, has `r` and `a - j` before it; and since `j` is the
    /// pair's number `p` less `from`, it is taken if `a - p` is less than the limit of its place.
    fn close_object(&mut self, from: usize, anchors_before: i64) {
        let pairs = self.anchors.len() - from;
        for better in 0..pairs.min(usize::try_from(TOP_K).unwrap_or(0)) {
            self.firsts.push(small(from + better));
            self.limits.push(small(TOP_K - better as i64 + anchors_before - from as i64));
        }
    }

    fn close_part(&mut self) {
        let objects = self.objects_before..self.objects_before + self.labels.len() as i64;
        self.objects_before = objects.end;
        if !self.anchors.is_empty() {
            let (pairs, picks) = (self.anchors.len() as i64, self.firsts.len() as i64);
            self.parts.push(Part { objects, from: self.indices.len() as i64, pairs, picks });
            for numbers in [&self.labels, &self.anchors, &self.objects, &self.firsts, &self.limits] {
                self.indices.extend(numbers);
            }
        }
        for numbers in
            [&mut self.labels, &mut self.anchors, &mut self.objects, &mut self.firsts, &mut self.limits]
        {
            numbers.clear();
        }
    }

    fn finish(mut self) -> (Vec<i32>, Vec<Part>, [(i64, i64); 3]) {
        self.close_part();
        (self.indices, self.parts, self.grid)
    }
}

/// A number as the device gets it.
fn small(number: impl TryInto<i32>) -> i32 {
    number
        .try_into()
        .ok()
        .expect("a batch has fewer than 2^31 anchors and pairs, or it would not fit in memory")
}

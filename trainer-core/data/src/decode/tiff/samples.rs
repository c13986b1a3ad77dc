//! The samples of a TIFF to RGB. Knows nothing of files.

use super::super::DecodeError;
use crate::image::Image;

/// The photometric interpretation: what the samples of a pixel mean. Further ones, such as transparency, are passed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Photometric {
    /// A brightness: 0 is black.
    Grey,
    /// A darkness: 0 is white.
    Inverted,
    /// Numbers of colours.
    Palette(Vec<[u8; 3]>),
    /// Red, green, blue.
    Rgb,
    /// Brightness and two differences; they are RGB already where a JPEG was decoded.
    YCbCr,
    /// How much there is of each ink.
    Cmyk,
}

impl Photometric {
    /// The interpretation of a directory's number, and its palette: all reds, all greens, all blues, of 16 bits each.
    ///
    /// # Errors
    /// When it is not read, or there are too few samples for it.
    pub fn of(
        number: Option<u16>,
        samples: usize,
        bits: usize,
        palette: Option<&[u16]>,
    ) -> Result<Self, DecodeError> {
        let refuse = |kind: &str| Err(DecodeError::Unsupported { kind: kind.to_owned() });
        let (photometric, needed) = match number {
            Some(0) => (Self::Inverted, 1),
            Some(1) => (Self::Grey, 1),
            Some(2) => (Self::Rgb, 3),
            Some(3) => {
                let palette = palette.and_then(|palette| colours(palette, bits));
                match palette {
                    Some(palette) => (Self::Palette(palette), 1),
                    None => return refuse("a TIFF without the palette that it needs"),
                }
            }
            Some(4) => return refuse("a TIFF of a mask alone"),
            Some(5) => (Self::Cmyk, 4),
            Some(6) => (Self::YCbCr, 3),
            Some(8..=10) => return refuse("a TIFF of CIE L*a*b* colours"),
            Some(32_803 | 34_892) => return refuse("a camera's raw file"),
            Some(other) => return refuse(&format!("a TIFF of colours of kind {other}")),
            None => return refuse("a TIFF that does not say what its samples mean"),
        };
        if samples < needed {
            return refuse(&format!("a TIFF of {samples} samples a pixel where its colours have {needed}"));
        }
        Ok(photometric)
    }

    /// Number of samples of a pixel.
    fn samples(&self) -> usize {
        match self {
            Self::Grey | Self::Inverted | Self::Palette(_) => 1,
            Self::Rgb | Self::YCbCr => 3,
            Self::Cmyk => 4,
        }
    }

    /// Writes the colours of a row to `pixels`, interleaved RGB; each pixel of the row has `samples` samples.
    fn write(&self, row: &[u8], samples: usize, pixels: &mut [u8]) {
        if samples == 3 && matches!(self, Self::Rgb | Self::YCbCr) {
            return pixels.copy_from_slice(row);
        }
        for (pixel, samples) in pixels.chunks_exact_mut(3).zip(row.chunks_exact(samples)) {
            pixel.copy_from_slice(&self.rgb(samples));
        }
    }

    fn rgb(&self, samples: &[u8]) -> [u8; 3] {
        match self {
            Self::Grey => [samples[0]; 3],
            Self::Inverted => [255 - samples[0]; 3],
            Self::Palette(colours) => colours[usize::from(samples[0])],
            Self::Rgb | Self::YCbCr => [samples[0], samples[1], samples[2]],
            Self::Cmyk => {
                let light = |ink: u8| 255 - u16::from(ink);
                let through = |ink: u8| (light(ink) * light(samples[3]) + 127) / 255;
                let byte = |ink: u8| u8::try_from(through(ink)).expect("a share of 255");
                [byte(samples[0]), byte(samples[1]), byte(samples[2])]
            }
        }
    }
}

fn colours(palette: &[u16], bits: usize) -> Option<Vec<[u8; 3]>> {
    let count = if bits <= 8 { 1 << bits } else { return None };
    let [red, green, blue] = [0, 1, 2].map(|colour| palette.get(colour * count..(colour + 1) * count));
    // Some writers put bytes where words are meant.
    let narrow =
        |word: u16| if palette.iter().all(|word| *word < 256) { low(word) } else { eight_bits(word) };
    let (red, green, blue) = (red?, green?, blue?);
    let mut colours: Vec<_> =
        (0..count).map(|number| [narrow(red[number]), narrow(green[number]), narrow(blue[number])]).collect();
    // So that every byte has one.
    colours.resize(256, [0; 3]);
    Some(colours)
}

fn low(word: u16) -> u8 {
    word.to_le_bytes()[0]
}

fn eight_bits(word: u16) -> u8 {
    u8::try_from((u32::from(word) + 128) / 257).expect("65535 is 255 times 257")
}

/// A decompressed strip or tile.
pub(super) struct Chunk<'a> {
    /// Rows of packed samples, each of whole bytes; words are of this machine's order.
    pub bytes: &'a [u8],
    /// Size in pixels, `[width, height]`.
    pub size: [usize; 2],
    /// Bits of a sample.
    pub bits: usize,
    /// Samples of a pixel.
    pub samples: usize,
    /// Whether each sample of all pixels comes by itself.
    pub planar: bool,
}

impl Chunk<'_> {
    /// Writes its colours to where it lies in the image.
    pub fn write(&self, photometric: &Photometric, image: &mut Image, at: [usize; 2]) {
        let [width, height] = self.size;
        let in_row = if self.planar { 1 } else { self.samples };
        let row_bytes = (width * in_row * self.bits).div_ceil(8);
        let row = |plane: usize, y: usize| &self.bytes[(plane * height + y) * row_bytes..][..row_bytes];
        let is_number = matches!(photometric, Photometric::Palette(_));
        let mut unpacked = Vec::new();
        for y in 0..height {
            let pixels = &mut image.row_mut(at[1] + y)[3 * at[0]..][..3 * width];
            if self.planar {
                let used = photometric.samples();
                unpacked.resize(width * used, 0);
                for plane in 0..used {
                    let places = unpacked.iter_mut().skip(plane).step_by(used);
                    unpack(row(plane, y), self.bits, is_number, places);
                }
                photometric.write(&unpacked, used, pixels);
            } else if self.bits == 8 {
                photometric.write(row(0, y), in_row, pixels);
            } else {
                unpacked.resize(width * in_row, 0);
                unpack(row(0, y), self.bits, is_number, unpacked.iter_mut());
                photometric.write(&unpacked, in_row, pixels);
            }
        }
    }
}

/// Samples of a row as bytes: numbers as they are, brightness from 0 to 255.
fn unpack<'a>(row: &[u8], bits: usize, is_number: bool, places: impl Iterator<Item = &'a mut u8>) {
    match bits {
        8 => places.zip(row).for_each(|(place, byte)| *place = *byte),
        16 => places
            .zip(row.chunks_exact(2))
            .for_each(|(place, word)| *place = eight_bits(u16::from_ne_bytes([word[0], word[1]]))),
        _ => {
            let most = (1_u8 << bits) - 1;
            let scale = if is_number { 1 } else { 255 / most };
            for (at, place) in places.enumerate() {
                let first = at * bits;
                let sample = row[first / 8] >> (8 - bits - first % 8) & most;
                *place = sample * scale;
            }
        }
    }
}

//! Image files to RGB: JPEG, PNG, BMP, WebP, TIFF, told apart by content; EXIF orientation is applied.
//!
//! JPEG is always decoded by the same decoder, because decoders differ by a few grey values and pixels
//! must not depend on whether they came through a cache.

mod tiff;

use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Seek};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, RgbImage};
use zune_jpeg::JpegDecoder;
use zune_jpeg::errors::DecodeErrors;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use crate::data::image::Image;
use crate::data::items::Seen;
use crate::data::source::Ends;

/// File name extensions that are taken for images, lower case.
pub const EXTENSIONS: [&str; 8] = ["bmp", "jpeg", "jpg", "mpo", "png", "tif", "tiff", "webp"];

/// Extensions of images that are told of and left out, lower case, and what they are called.
const UNSUPPORTED: [(&str, &str); 8] = [
    ("avif", "AVIF"),
    ("dng", "DNG"),
    ("gif", "GIF"),
    ("heic", "HEIC"),
    ("heif", "HEIF"),
    ("jp2", "JPEG 2000"),
    ("jxl", "JPEG XL"),
    ("pfm", "PFM"),
];

/// How much of a file's end is searched for its end marker. Not more, because a preview inside the file
/// has an end marker, too.
const TAIL_BYTES: usize = 16;
const JPEG_END: [u8; 2] = [0xFF, 0xD9];

/// The longest side that is decoded, pixels: a JPEG has none longer.
const LONGEST_SIDE: usize = 65_535;
/// Pixels that are decoded at most, as by OpenCV: 3 GiB. What promises more is mostly damaged.
const MOST_PIXELS: usize = 1 << 30;

/// Why an image file yields no pixels.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    Read(#[from] std::io::Error),
    /// It is a broken JPEG.
    #[error("is a corrupt JPEG: {0}")]
    Jpeg(DecodeErrors),
    /// It is a broken file of another kind, or of an unknown one.
    #[error("is no readable image: {0}")]
    Other(#[from] image::ImageError),
    /// It ends early.
    #[error("is truncated")]
    Truncated,
    /// It has, or pretends to have, more pixels than are decoded.
    #[error("is {width}x{height} pixels, more than can be decoded")]
    TooLarge {
        /// Pixels from left to right.
        width: usize,
        /// Pixels from top to bottom.
        height: usize,
    },
    /// A bug in a decoder, which a damaged file set off.
    #[error("is corrupt: its decoder gave up")]
    Panicked,
}

/// Whether a file of this name is taken for an image.
pub fn is_image_name(path: &Path) -> bool {
    let extension = path.extension().unwrap_or_default();
    EXTENSIONS.iter().any(|known| extension.eq_ignore_ascii_case(known))
}

/// What an image of a kind that is not read is called; told by its name.
pub fn unsupported(path: &Path) -> Option<&'static str> {
    let extension = path.extension()?;
    let known = UNSUPPORTED.iter().find(|(known, _)| extension.eq_ignore_ascii_case(known));
    known.map(|(_, name)| *name)
}

/// Reads and decodes a file.
///
/// # Errors
/// When it cannot be read or decoded.
pub fn read(path: &Path) -> Result<Image, DecodeError> {
    decode(&std::fs::read(path)?)
}

/// Decodes the bytes of a file. Grey becomes RGB, 16 bits become 8, transparency is dropped.
///
/// # Errors
/// When the bytes are no image, or a broken one.
pub fn decode(bytes: &[u8]) -> Result<Image, DecodeError> {
    // Decoders meet arbitrary bytes here; one that panics must not end the training.
    catch_unwind(|| decode_unguarded(bytes)).unwrap_or(Err(DecodeError::Panicked))
}

fn decode_unguarded(bytes: &[u8]) -> Result<Image, DecodeError> {
    let format = image::guess_format(bytes)?;
    if format == ImageFormat::Jpeg {
        return decode_jpeg(bytes);
    }
    let mut decoder = ImageReader::with_format(Cursor::new(bytes), format).into_decoder()?;
    let (width, height) = decoder.dimensions();
    bounded(width as usize, height as usize)?;
    let orientation = decoder.orientation()?;
    let mut image = DynamicImage::from_decoder(decoder)?;
    image.apply_orientation(orientation);
    Ok(from_rgb(image.into_rgb8()))
}

fn decode_jpeg(bytes: &[u8]) -> Result<Image, DecodeError> {
    // The decoder makes grey of what is missing unless it is strict. Some writers leave the end marker out, or
    // put something behind it; the pixels tell.
    let seems_cut = lacks(&JPEG_END, bytes);
    let options = jpeg_options().set_strict_mode(seems_cut);
    let failed = |error| if seems_cut { DecodeError::Truncated } else { DecodeError::Jpeg(error) };
    let mut decoder = JpegDecoder::new_with_options(Cursor::new(bytes), options);
    decoder.decode_headers().map_err(failed)?;
    let (width, height) = decoder.dimensions().ok_or(DecodeError::Truncated)?;
    bounded(width, height)?;
    let rgb = decoder.decode().map_err(failed)?;
    let image = match rgb.len() {
        length if length == width * height * 3 => Image { width, height, rgb },
        // Some grey files come out grey whatever was asked for.
        length if length == width * height => {
            Image { width, height, rgb: rgb.iter().flat_map(|grey| [*grey; 3]).collect() }
        }
        _ => return Err(DecodeError::Truncated),
    };
    Ok(oriented(image, jpeg_orientation(decoder.exif())))
}

fn jpeg_options() -> DecoderOptions {
    let options = DecoderOptions::default().jpeg_set_out_colorspace(ColorSpace::RGB);
    options.set_max_width(LONGEST_SIDE).set_max_height(LONGEST_SIDE)
}

fn bounded(width: usize, height: usize) -> Result<(), DecodeError> {
    if width.max(height) <= LONGEST_SIDE && width * height <= MOST_PIXELS {
        Ok(())
    } else {
        Err(DecodeError::TooLarge { width, height })
    }
}

fn jpeg_orientation(exif: Option<&Vec<u8>>) -> Orientation {
    exif.and_then(|exif| Orientation::from_exif_chunk(exif)).unwrap_or(Orientation::NoTransforms)
}

fn from_rgb(image: RgbImage) -> Image {
    let (width, height) = (image.width() as usize, image.height() as usize);
    Image { width, height, rgb: image.into_raw() }
}

fn oriented(image: Image, orientation: Orientation) -> Image {
    if orientation == Orientation::NoTransforms {
        return image;
    }
    let (width, height) = (dimension(image.width), dimension(image.height));
    let Some(buffer) = RgbImage::from_raw(width, height, image.rgb) else {
        unreachable!("the buffer was sized by width and height");
    };
    let mut image = DynamicImage::ImageRgb8(buffer);
    image.apply_orientation(orientation);
    from_rgb(image.into_rgb8())
}

fn dimension(pixels: usize) -> u32 {
    u32::try_from(pixels).expect("both sides are bounded")
}

/// Looks at a file without decoding it: its first bytes tell its size, its last ones whether it ends early. Only
/// one that seems to is decoded.
///
/// # Errors
/// When its header is broken, it is truncated, or it cannot be read.
pub fn look(path: &Path) -> Result<Seen, DecodeError> {
    let file = File::open(path)?;
    let ends = Ends::read(&file)?;
    let (width, height) = size(&file, &ends)?;
    if seems_cut(&ends, &file) && decode(&std::fs::read(path)?).is_err() {
        return Err(DecodeError::Truncated);
    }
    Ok(Seen { size: [width, height], fingerprint: ends.fingerprint() })
}

fn size(file: &File, ends: &Ends) -> Result<(usize, usize), DecodeError> {
    let is_whole = ends.head().len() as u64 == ends.length;
    // What these say of themselves stands before their pixels, and so mostly in what was read already.
    let begins = matches!(
        image::guess_format(ends.head()),
        Ok(ImageFormat::Jpeg | ImageFormat::Png | ImageFormat::Bmp)
    );
    if is_whole || begins {
        let told = size_in(Cursor::new(ends.head()));
        if is_whole || told.is_ok() {
            return told;
        }
    }
    size_in(BufReader::new(file))
}

fn size_in(file: impl BufRead + Seek) -> Result<(usize, usize), DecodeError> {
    let size = catch_unwind(AssertUnwindSafe(|| size_unguarded(file)));
    let (width, height) = size.unwrap_or(Err(DecodeError::Panicked))?;
    bounded(width, height)?;
    Ok((width, height))
}

fn size_unguarded(file: impl BufRead + Seek) -> Result<(usize, usize), DecodeError> {
    let reader = ImageReader::new(file).with_guessed_format()?;
    let (width, height, orientation) = if reader.format() == Some(ImageFormat::Jpeg) {
        let mut decoder = JpegDecoder::new_with_options(reader.into_inner(), jpeg_options());
        decoder.decode_headers().map_err(DecodeError::Jpeg)?;
        let (width, height) = decoder.dimensions().ok_or(DecodeError::Truncated)?;
        (width, height, jpeg_orientation(decoder.exif()))
    } else {
        let mut decoder = reader.into_decoder()?;
        let (width, height) = decoder.dimensions();
        (width as usize, height as usize, decoder.orientation()?)
    };
    let sideways = matches!(
        orientation,
        Orientation::Rotate90
            | Orientation::Rotate270
            | Orientation::Rotate90FlipH
            | Orientation::Rotate270FlipH
    );
    Ok(if sideways { (height, width) } else { (width, height) })
}

/// Whether a file lacks its end marker, or bytes that its header promises.
fn seems_cut(ends: &Ends, file: &File) -> bool {
    let promised = |at: usize| {
        let bytes = ends.head().get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(u64::MAX, |bytes| u64::from(u32::from_le_bytes(bytes)))
    };
    match image::guess_format(ends.head()) {
        Ok(ImageFormat::Jpeg) => lacks(&JPEG_END, ends.tail()),
        Ok(ImageFormat::Png) => lacks(b"IEND", ends.tail()),
        Ok(ImageFormat::Bmp) => promised(2) > ends.length,
        Ok(ImageFormat::WebP) => promised(4).saturating_add(8) > ends.length,
        Ok(ImageFormat::Tiff) => tiff::seems_cut(file, ends.length),
        _ => false,
    }
}

/// Whether the end of a file does not have `marker`.
fn lacks(marker: &[u8], file: &[u8]) -> bool {
    let last = &file[file.len().saturating_sub(TAIL_BYTES)..];
    !last.windows(marker.len()).any(|window| window == marker)
}

#[cfg(test)]
mod tests;

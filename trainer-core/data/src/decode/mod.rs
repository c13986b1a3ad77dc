//! Image files to RGB: JPEG, PNG, BMP, WebP, TIFF, told apart by their first bytes; EXIF orientation is applied.
//!
//! JPEG is always decoded by the same decoder, because decoders differ by a few grey values and pixels
//! must not depend on whether they came through a cache.

mod error;
mod jpeg;
mod signatures;
mod tiff;

use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Seek};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, RgbImage};
use trainyard_types::SizeLimit;

pub use self::error::DecodeError;
use self::signatures::{FileKind, SIGNATURE_BYTES};
use crate::files::{self, HeadAndTail};
use crate::image::Image;

/// File name extensions that are taken for images, lower case.
pub const EXTENSIONS: [&str; 8] = ["bmp", "jpeg", "jpg", "mpo", "png", "tif", "tiff", "webp"];

/// Extensions, lower case, of formats that are not read, and the name of each. Such files are reported and left out.
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

/// Bytes at a file's end that are searched for its end marker. They are few, because a preview inside of the file has an
/// end marker, too.
const TAIL_BYTES: usize = 16;
/// JPEG's end marker (EOI).
const JPEG_END: [u8; 2] = [0xFF, 0xD9];

/// The longest side that is decoded, pixels: no JPEG has a longer one.
const MAX_SIDE: usize = 65_535;
/// The most pixels that are decoded, as by OpenCV: 3 GiB. A file that promises more is mostly damaged.
const MAX_PIXELS: usize = 1 << 30;
/// The most bytes that a decoder may allocate: all pixels at four samples of 16 bits, and ample room besides. So no picture
/// is refused for its memory that is not refused for its pixels.
const MAX_ALLOC_BYTES: u64 = 8 * (MAX_PIXELS as u64) + (1 << 28);

/// Whether a file is taken for an image by its extension.
pub fn is_image_name(path: &Path) -> bool {
    let extension = path.extension().unwrap_or_default();
    EXTENSIONS.iter().any(|known| extension.eq_ignore_ascii_case(known))
}

/// The name of the format that is not read, if the extension of `path` is one of such a format.
pub fn unsupported_format(path: &Path) -> Option<&'static str> {
    let extension = path.extension()?;
    let known = UNSUPPORTED.iter().find(|(known, _)| extension.eq_ignore_ascii_case(known));
    known.map(|(_, name)| *name)
}

/// Reads and decodes a file.
///
/// # Errors
/// When it cannot be read or decoded.
pub fn read(path: &Path) -> Result<Image, DecodeError> {
    decode(&files::read_once(path, SizeLimit::IMAGE)?).map_err(|error| error.of(path))
}

/// Decodes the bytes of a file. Grey becomes RGB, 16 bits become 8, transparency is dropped; of several pictures the
/// first is taken.
///
/// # Errors
/// When the bytes are no image, or a broken one, or one of a kind that is not read.
pub fn decode(bytes: &[u8]) -> Result<Image, DecodeError> {
    // Decoders meet arbitrary bytes here; one that panics must not end the training.
    catch_unwind(|| decode_unguarded(bytes)).unwrap_or(Err(DecodeError::Panicked))
}

fn decode_unguarded(bytes: &[u8]) -> Result<Image, DecodeError> {
    let (image, orientation) = match detect_format(bytes)? {
        ImageFormat::Jpeg => jpeg::decode(bytes).map_err(|error| match error {
            DecodeError::Jpeg(_) if lacks_marker(&JPEG_END, bytes) => DecodeError::Truncated,
            other => other,
        })?,
        ImageFormat::Tiff => tiff::decode(bytes)?,
        format => decode_other(bytes, format)?,
    };
    Ok(oriented(image, orientation))
}

fn decode_other(bytes: &[u8], format: ImageFormat) -> Result<(Image, Orientation), DecodeError> {
    let mut decoder = decoder(Cursor::new(bytes), format)?;
    let orientation = decoder.orientation()?;
    Ok((from_rgb(DynamicImage::from_decoder(decoder)?.into_rgb8()), orientation))
}

/// The decoder of a format that has none of its own here; its picture is not too large.
fn decoder<'a>(
    file: impl BufRead + Seek + 'a,
    format: ImageFormat,
) -> Result<impl ImageDecoder + 'a, DecodeError> {
    let mut reader = ImageReader::with_format(file, format);
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(MAX_ALLOC_BYTES);
    reader.limits(limits);
    let decoder = reader.into_decoder()?;
    let (width, height) = decoder.dimensions();
    check_size(width as usize, height as usize)?;
    Ok(decoder)
}

/// The format of a file by its first bytes.
fn detect_format(head: &[u8]) -> Result<ImageFormat, DecodeError> {
    let head = &head[..head.len().min(SIGNATURE_BYTES)];
    Err(match signatures::detect(head) {
        FileKind::Read(format) => return Ok(format),
        FileKind::Foreign(kind) => DecodeError::Foreign { kind, extension: None },
        FileKind::Text => DecodeError::Text { begins: signatures::first_line(head).unwrap_or_default() },
        FileKind::Empty => DecodeError::Empty,
        FileKind::Unknown => DecodeError::Unknown,
    })
}

/// Refuses pictures that are too large.
fn check_size(width: usize, height: usize) -> Result<(), DecodeError> {
    if width.max(height) <= MAX_SIDE && width * height <= MAX_PIXELS {
        Ok(())
    } else {
        Err(DecodeError::TooLarge { width, height })
    }
}

fn from_rgb(image: RgbImage) -> Image {
    let (width, height) = (image.width() as usize, image.height() as usize);
    Image { width, height, rgb: image.into_raw() }
}

/// Turns a decoded image as its EXIF orientation says.
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

/// What is known of an image file without decoding it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageProbe {
    /// Size in pixels, `[width, height]`, after EXIF orientation.
    pub size: [usize; 2],
    /// Tells contents apart, [`HeadAndTail::fingerprint`].
    pub fingerprint: u64,
}

/// Probes a file without decoding it: its first bytes tell format and size, its last ones whether it is truncated. Only a
/// file that looks truncated is decoded.
///
/// # Errors
/// When its header is broken, or of a kind that is not read; when it is truncated, too large, or cannot be read.
pub fn probe(path: &Path) -> Result<ImageProbe, DecodeError> {
    let file = files::open(path)?;
    let ends = HeadAndTail::read(&file)?;
    files::read::check_size(ends.length, SizeLimit::IMAGE)?;
    let (width, height) = size(&file, &ends).map_err(|error| error.of(path))?;
    if looks_truncated(&ends, &file) && decode(&files::read_once(path, SizeLimit::IMAGE)?).is_err() {
        return Err(DecodeError::Truncated);
    }
    Ok(ImageProbe { size: [width, height], fingerprint: ends.fingerprint() })
}

/// The size of a picture, `(width, height)`, after EXIF orientation.
fn size(file: &File, ends: &HeadAndTail) -> Result<(usize, usize), DecodeError> {
    let format = detect_format(ends.head())?;
    let is_whole = ends.head().len() as u64 == ends.length;
    let guarded = |look: &dyn Fn() -> Result<_, DecodeError>| {
        catch_unwind(AssertUnwindSafe(look)).unwrap_or(Err(DecodeError::Panicked))
    };
    // The headers of these stand before their pixels, and so mostly in what was read already.
    let header_is_first = matches!(format, ImageFormat::Jpeg | ImageFormat::Png | ImageFormat::Bmp);
    if is_whole || header_is_first {
        let found = guarded(&|| match format {
            ImageFormat::Tiff => tiff::size_in_bytes(ends.head()),
            _ => size_in(Cursor::new(ends.head()), format),
        });
        if is_whole || found.is_ok() {
            return found.map(|(size, orientation)| turned(size, orientation));
        }
    }
    let found = guarded(&|| match format {
        ImageFormat::Tiff => tiff::size_in_file(file),
        _ => size_in(BufReader::new(file), format),
    });
    found.map(|(size, orientation)| turned(size, orientation))
}

fn size_in(file: impl BufRead + Seek, format: ImageFormat) -> Result<([usize; 2], Orientation), DecodeError> {
    if format == ImageFormat::Jpeg {
        let header = jpeg::Header::read(file)?;
        header.check_is_read()?;
        check_size(header.width, header.height)?;
        return Ok(([header.width, header.height], header.orientation));
    }
    let mut decoder = decoder(file, format)?;
    let (width, height) = decoder.dimensions();
    Ok(([width as usize, height as usize], decoder.orientation()?))
}

/// The size of a picture after it is turned as its EXIF orientation says.
fn turned([width, height]: [usize; 2], orientation: Orientation) -> (usize, usize) {
    let sideways = matches!(
        orientation,
        Orientation::Rotate90
            | Orientation::Rotate270
            | Orientation::Rotate90FlipH
            | Orientation::Rotate270FlipH
    );
    if sideways { (height, width) } else { (width, height) }
}

/// Whether a file lacks its end marker, or bytes that its header promises.
fn looks_truncated(ends: &HeadAndTail, file: &File) -> bool {
    let promised = |at: usize| {
        let bytes = ends.head().get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(u64::MAX, |bytes| u64::from(u32::from_le_bytes(bytes)))
    };
    match detect_format(ends.head()) {
        Ok(ImageFormat::Jpeg) => lacks_marker(&JPEG_END, ends.tail()),
        Ok(ImageFormat::Png) => lacks_marker(b"IEND", ends.tail()),
        Ok(ImageFormat::Bmp) => promised(2) > ends.length,
        Ok(ImageFormat::WebP) => promised(4).saturating_add(8) > ends.length,
        Ok(ImageFormat::Tiff) => tiff::looks_truncated(file, ends.length),
        _ => false,
    }
}

/// Whether `marker` is not at the end of a file.
fn lacks_marker(marker: &[u8], file: &[u8]) -> bool {
    let last = &file[file.len().saturating_sub(TAIL_BYTES)..];
    !last.windows(marker.len()).any(|window| window == marker)
}

#[cfg(test)]
mod tests;

//! TIFF and BigTIFF to RGB, strip by strip or tile by tile; both are called chunks here. The `tiff` crate reads directories
//! and undoes compression and prediction. What the samples mean is decided here; a file whose samples have no plain
//! meaning as eight-bit colours is named and refused.

mod ifd;
mod jpeg_chunks;
mod samples;

use std::fs::File;
use std::io::{self, BufReader, Cursor, Read, Seek, SeekFrom};

use image::metadata::Orientation;
use tiff::TiffError;
use tiff::decoder::{ChunkType, Decoder, Limits, TiffCodingUnit};
use tiff::tags::Tag;

use self::ifd::Ifd;
use self::jpeg_chunks::JpegChunks;
use self::samples::{Chunk, Photometric};
use super::{DecodeError, MAX_PIXELS};
use crate::image::Image;

/// The tag PhotometricInterpretation.
const PHOTOMETRIC: u16 = 262;
const DNG_VERSION: Tag = Tag::Unknown(50_706);
/// The photometric interpretation of grey values.
const BLACK_IS_ZERO: u16 = 1;
/// Compression by CCITT group 4.
const FAX: u16 = 4;
/// Compression by JPEG.
const JPEG: u16 = 7;

/// The most bytes of a chunk: what the largest picture has at four samples of 16 bits.
const MAX_CHUNK_BYTES: usize = 8 * MAX_PIXELS;

/// What a picture's directory says.
struct Picture {
    width: usize,
    height: usize,
    orientation: Orientation,
    photometric: Photometric,
    /// Bits of a sample.
    bits: usize,
    /// Samples of a pixel.
    samples: usize,
    /// Whether each sample of all pixels comes in chunks of its own.
    planar: bool,
    compression: u16,
}

/// Size in pixels, before the picture is turned, and orientation. No pixels are read.
pub(super) fn size_in_file(file: &File) -> Result<([usize; 2], Orientation), DecodeError> {
    let (_, picture) = open(Ifd::read(file), BufReader::new(file))?;
    Ok(([picture.width, picture.height], picture.orientation))
}

/// As [`size_in_file`], from the bytes of a file.
pub(super) fn size_in_bytes(bytes: &[u8]) -> Result<([usize; 2], Orientation), DecodeError> {
    let (_, picture) = open(Ifd::read(bytes), Cursor::new(bytes))?;
    Ok(([picture.width, picture.height], picture.orientation))
}

/// Whether a chunk of the first picture lies beyond the `length` bytes of the file. Also true where that cannot be told.
pub(super) fn looks_truncated(file: &File, length: u64) -> bool {
    Ifd::read(file).and_then(|ifd| ifd.pixels_end()).is_none_or(|end| end > length)
}

/// Decodes the first picture. It is not turned yet; the orientation says how it has to be.
pub(super) fn decode(bytes: &[u8]) -> Result<(Image, Orientation), DecodeError> {
    let (mut decoder, picture) = open(Ifd::read(bytes), Cursor::new(bytes))?;
    let mut image = Image {
        width: picture.width,
        height: picture.height,
        rgb: vec![0; 3 * picture.width * picture.height],
    };
    let [width, height] = chunk_size(&decoder);
    let across = picture.width.div_ceil(width);
    let chunks = across * picture.height.div_ceil(height);
    let jpeg_chunks =
        if picture.compression == JPEG { Some(JpegChunks::of(&mut decoder, bytes)?) } else { None };
    let overrun = tile_overrun(&decoder, &picture)?;
    let mut buffer = Vec::new();
    for number in 0..u32::try_from(chunks).map_err(|_| TiffError::IntSizeError)? {
        let size = decoder.chunk_data_dimensions(number);
        let size = [size.0 as usize, size.1 as usize];
        match &jpeg_chunks {
            Some(jpeg_chunks) => jpeg_chunks.decode(number as usize, chunks, &picture, size, &mut buffer)?,
            None => {
                let bytes = picture.chunk_bytes(size).ok_or(TiffError::IntSizeError)?;
                buffer.resize(bytes + overrun, 0);
                decoder.read_coding_unit_bytes(TiffCodingUnit(number), &mut buffer)?;
            }
        }
        let at = [(number as usize % across) * width, (number as usize / across) * height];
        let chunk = Chunk {
            bytes: &buffer,
            size,
            bits: picture.bits,
            samples: picture.samples,
            planar: picture.planar,
        };
        chunk.write(&picture.photometric, &mut image, at);
    }
    Ok((image, picture.orientation))
}

/// Opens a file whose `ifd` was read before, and refuses what [`decode`] cannot do.
fn open<R: Read + Seek>(
    ifd: Option<Ifd<impl ifd::ReadAt>>,
    file: R,
) -> Result<(Decoder<PhotometricPatch<R>>, Picture), DecodeError> {
    let written = ifd.and_then(|ifd| ifd.short(PHOTOMETRIC));
    let photometric = written.map(|written| written.value);
    // The library is told that every picture has grey values: it does not know palettes, and mistakes some colours.
    let patch = written.map(|written| (written.at, written.order.bytes(BLACK_IS_ZERO)));
    let mut decoder = Decoder::new(PhotometricPatch { file, at: 0, patch })?;
    let (width, height) = decoder.dimensions()?;
    let (width, height) = (width as usize, height as usize);
    super::check_size(width, height)?;
    let picture = Picture::of(&mut decoder, photometric, [width, height])?;
    let size = chunk_size(&decoder);
    let size = [size[0].min(width), size[1].min(height)];
    if picture.chunk_bytes(size).is_none_or(|bytes| bytes > MAX_CHUNK_BYTES) {
        return Err(DecodeError::TooLarge { width, height });
    }
    tile_overrun(&decoder, &picture)?;
    // The library refuses here what it cannot decode: it checks everything but the data themselves.
    decoder.image_coding_unit_layout(TiffCodingUnit(0))?;
    let mut limits = Limits::default();
    (limits.decoding_buffer_size, limits.intermediate_buffer_size) = (MAX_CHUNK_BYTES, MAX_CHUNK_BYTES);
    Ok((decoder.with_limits(limits), picture))
}

/// Bytes that the buffer of a chunk needs behind the chunk. In all planes but the first the library takes the last tiles
/// for full ones. What is too much of a plane is overwritten by the next one; what is too much of the last one needs room.
fn tile_overrun<R: Read + Seek>(decoder: &Decoder<R>, picture: &Picture) -> Result<usize, DecodeError> {
    if !picture.planar || decoder.get_chunk_type() == ChunkType::Strip {
        return Ok(0);
    }
    let bytes = picture.chunk_bytes(chunk_size(decoder)).filter(|bytes| *bytes <= MAX_CHUNK_BYTES);
    bytes.ok_or(DecodeError::TooLarge { width: picture.width, height: picture.height })
}

/// The size of the chunks in pixels, `[width, height]`; the last ones may be smaller.
fn chunk_size<R: Read + Seek>(decoder: &Decoder<R>) -> [usize; 2] {
    let (width, height) = decoder.chunk_dimensions();
    [width as usize, height as usize]
}

impl Picture {
    /// Reads what is needed of the directory, and refuses what is not read.
    fn of<R: Read + Seek>(
        decoder: &mut Decoder<R>,
        photometric: Option<u16>,
        [width, height]: [usize; 2],
    ) -> Result<Self, DecodeError> {
        let refuse = |kind: String| Err(DecodeError::Unsupported { kind });
        let number = |decoder: &mut Decoder<R>, tag, otherwise| {
            decoder.find_tag_unsigned_vec(tag).map(|found: Option<Vec<u16>>| {
                found.and_then(|numbers| numbers.first().copied()).unwrap_or(otherwise)
            })
        };
        if decoder.find_tag(DNG_VERSION)?.is_some() {
            return refuse("DNG".to_owned());
        }
        let compression = number(decoder, Tag::Compression, 1)?;
        let bits = usize::from(number(decoder, Tag::BitsPerSample, 1)?);
        let samples = usize::from(number(decoder, Tag::SamplesPerPixel, 1)?);
        let planar = number(decoder, Tag::PlanarConfiguration, 1)? == 2;
        let predictor = number(decoder, Tag::Predictor, 1)?;
        let palette: Option<Vec<u16>> = decoder.find_tag_unsigned_vec(Tag::ColorMap)?;
        if let Some(what) = unknown_compression(compression) {
            return refuse(format!("a TIFF {what}"));
        }
        match number(decoder, Tag::SampleFormat, 1)? {
            1 | 4 => {}
            2 => return refuse("a TIFF of numbers with a sign".to_owned()),
            3 => return refuse("a TIFF of floating-point numbers".to_owned()),
            other => return refuse(format!("a TIFF of samples of format {other}")),
        }
        if !matches!(bits, 1 | 2 | 4 | 8 | 16) {
            return refuse(format!("a TIFF of {bits} bits a sample"));
        }
        if number(decoder, Tag::FillOrder, 1)? != 1 {
            return refuse("a TIFF whose bits are in reverse order".to_owned());
        }
        if predictor == 3 || (predictor == 2 && bits < 8) {
            return refuse(format!("a TIFF of {bits} bits a sample with predictor {predictor}"));
        }
        let photometric = Photometric::of(photometric, samples, bits, palette.as_deref())?;
        if compression == JPEG
            && (bits != 8 || !(planar || samples == 1 || (samples == 3 && photometric != Photometric::Cmyk)))
        {
            return refuse(format!("a TIFF of JPEGs of {samples} samples of {bits} bits"));
        }
        if photometric == Photometric::YCbCr && (compression != JPEG || planar || samples != 3) {
            return refuse("a TIFF of YCbCr colours".to_owned());
        }
        let rows = decoder.chunk_dimensions();
        if compression == FAX && (samples != 1 || bits != 1 || rows.0.max(rows.1) > u16::MAX.into()) {
            return refuse("a TIFF of an unusual kind of fax".to_owned());
        }
        let orientation = u8::try_from(number(decoder, Tag::Orientation, 1)?).ok();
        let orientation = orientation.and_then(Orientation::from_exif).unwrap_or(Orientation::NoTransforms);
        Ok(Self { width, height, orientation, photometric, bits, samples, planar, compression })
    }

    /// Bytes of a chunk of `[width, height]` pixels; `None` when they are too many to count.
    fn chunk_bytes(&self, [width, height]: [usize; 2]) -> Option<usize> {
        let (row, planes) = if self.planar { (1, self.samples) } else { (self.samples, 1) };
        let row = width.checked_mul(row)?.checked_mul(self.bits)?.div_ceil(8);
        row.checked_mul(height)?.checked_mul(planes)
    }
}

/// The name of a compression that is not undone here; `None` for one that is.
fn unknown_compression(number: u16) -> Option<String> {
    Some(match number {
        1 | FAX | 5 | JPEG | 8 | 32_773 | 32_946 => return None,
        2 | 3 => "of faxes of group 3".to_owned(),
        6 => "of JPEGs of the old style".to_owned(),
        34_712 => "of JPEG 2000".to_owned(),
        34_887 => "compressed by LERC".to_owned(),
        34_925 => "compressed by LZMA".to_owned(),
        50_000 => "compressed by Zstandard".to_owned(),
        50_001 => "of WebP".to_owned(),
        50_002 => "of JPEG XL".to_owned(),
        other => format!("of compression {other}"),
    })
}

impl From<TiffError> for DecodeError {
    fn from(error: TiffError) -> Self {
        match error {
            TiffError::IoError(error) if error.kind() == io::ErrorKind::UnexpectedEof => Self::Truncated,
            TiffError::UnsupportedError(what) => {
                Self::Unsupported { kind: format!("a TIFF of an unusual kind ({what})") }
            }
            other => Self::Tiff(other),
        }
    }
}

/// A reader of a file in which the value of the tag PhotometricInterpretation is another.
struct PhotometricPatch<R> {
    file: R,
    at: u64,
    /// Offset of the two bytes of the value, and their new values.
    patch: Option<(u64, [u8; 2])>,
}

impl<R: Read> Read for PhotometricPatch<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        if let Some((place, bytes)) = self.patch {
            for (place, byte) in (place..).zip(bytes) {
                let index = place.checked_sub(self.at).and_then(|index| usize::try_from(index).ok());
                if let Some(old) = index.and_then(|index| buffer[..count].get_mut(index)) {
                    *old = byte;
                }
            }
        }
        self.at += count as u64;
        Ok(count)
    }
}

impl<R: Seek> Seek for PhotometricPatch<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.at = self.file.seek(to)?;
        Ok(self.at)
    }
}

//! TIFFs whose strips or tiles are JPEGs.

use std::io::{Cursor, Read, Seek};

use tiff::decoder::{ChunkType, Decoder};
use tiff::tags::Tag;

use super::super::DecodeError;
use super::super::jpeg::{self, ColourSpace, Header};
use super::Picture;
use super::samples::Photometric;

/// The chunks of a picture that are JPEGs. Each is decoded as a file of its own.
pub(super) struct JpegChunks<'a> {
    /// The whole TIFF.
    bytes: &'a [u8],
    /// The tables that all JPEGs have in common, if the TIFF keeps them apart: a JPEG without a picture.
    tables: Option<Vec<u8>>,
    ranges: Vec<ByteRange>,
}

/// Where a JPEG lies in the file.
struct ByteRange {
    offset: u64,
    length: u64,
}

impl<'a> JpegChunks<'a> {
    /// Finds the JPEGs, and the tables that they share.
    pub fn of<R: Read + Seek>(decoder: &mut Decoder<R>, bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let (offsets, lengths) = match decoder.get_chunk_type() {
            ChunkType::Strip => (Tag::StripOffsets, Tag::StripByteCounts),
            ChunkType::Tile => (Tag::TileOffsets, Tag::TileByteCounts),
        };
        let mut numbers = |tag| decoder.find_tag_unsigned_vec(tag).map(Option::unwrap_or_default);
        let offsets = numbers(offsets)?.into_iter().zip(numbers(lengths)?);
        let ranges = offsets.map(|(offset, length)| ByteRange { offset, length }).collect();
        let tables = match decoder.find_tag(Tag::JPEGTables)? {
            Some(tables) => Some(tables.into_u8_vec()?),
            None => None,
        };
        Ok(Self { bytes, tables, ranges })
    }

    /// Decodes chunk `number` into `buffer`, where its top left `size` pixels remain; of a planar picture the chunk of each
    /// plane, which has `chunks` of them.
    pub fn decode(
        &self,
        number: usize,
        chunks: usize,
        picture: &Picture,
        size: [usize; 2],
        buffer: &mut Vec<u8>,
    ) -> Result<(), DecodeError> {
        buffer.clear();
        let (planes, samples) = if picture.planar { (picture.samples, 1) } else { (1, picture.samples) };
        for plane in 0..planes {
            let jpeg = self.file(number + plane * chunks).ok_or(DecodeError::Truncated)?;
            let header = Header::read(Cursor::new(&jpeg))?;
            header.check_is_read()?;
            if header.components() != samples || header.width < size[0] || header.height < size[1] {
                return Err(DecodeError::Jpeg("a part of a TIFF has another size".to_owned()));
            }
            super::super::check_size(header.width, header.height)?;
            let ycbcr = picture.photometric == Photometric::YCbCr;
            let colours = if ycbcr { ColourSpace::YCbCr } else { ColourSpace::Rgb };
            let pixels = jpeg::samples(&jpeg, &header, colours, samples)?;
            let rows = pixels.chunks_exact(header.width * samples).take(size[1]);
            rows.for_each(|row| buffer.extend_from_slice(&row[..size[0] * samples]));
        }
        Ok(())
    }

    /// JPEG `number` as a file of its own: the tables without their end marker, and the JPEG without its start marker.
    fn file(&self, number: usize) -> Option<Vec<u8>> {
        let ByteRange { offset, length } = self.ranges.get(number)?;
        let (start, length) = (usize::try_from(*offset).ok()?, usize::try_from(*length).ok()?);
        let jpeg = self.bytes.get(start..start.checked_add(length)?)?;
        let Some(tables) = &self.tables else { return Some(jpeg.to_vec()) };
        let tables = tables.get(..tables.len().checked_sub(2)?)?;
        Some([tables, jpeg.get(2..)?].concat())
    }
}

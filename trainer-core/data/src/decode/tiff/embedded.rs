//! JPEGs in TIFFs.

use std::io::{Cursor, Read, Seek};

use tiff::decoder::{ChunkType, Decoder};
use tiff::tags::Tag;

use super::super::DecodeError;
use super::super::jpeg::{self, Colours, Header};
use super::Picture;
use super::samples::Meaning;

/// The parts of a picture that are JPEGs, which are decoded as files of their own are.
pub(super) struct Embedded<'a> {
    bytes: &'a [u8],
    /// What all have in common, if that stands apart.
    tables: Option<Vec<u8>>,
    places: Vec<(u64, u64)>,
}

impl<'a> Embedded<'a> {
    /// Finds the parts, and the tables that they share.
    pub fn of<R: Read + Seek>(decoder: &mut Decoder<R>, bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let (starts, lengths) = match decoder.get_chunk_type() {
            ChunkType::Strip => (Tag::StripOffsets, Tag::StripByteCounts),
            ChunkType::Tile => (Tag::TileOffsets, Tag::TileByteCounts),
        };
        let mut numbers = |tag| decoder.find_tag_unsigned_vec(tag).map(Option::unwrap_or_default);
        let places = numbers(starts)?.into_iter().zip(numbers(lengths)?).collect();
        let tables = match decoder.find_tag(Tag::JPEGTables)? {
            Some(tables) => Some(tables.into_u8_vec()?),
            None => None,
        };
        Ok(Self { bytes, tables, places })
    }

    /// Decodes one, or one of each plane.
    pub fn read(
        &self,
        number: usize,
        parts: usize,
        picture: &Picture,
        size: [usize; 2],
        buffer: &mut Vec<u8>,
    ) -> Result<(), DecodeError> {
        buffer.clear();
        let (planes, samples) = if picture.planar { (picture.samples, 1) } else { (1, picture.samples) };
        for plane in 0..planes {
            let jpeg = self.file(number + plane * parts).ok_or(DecodeError::Truncated)?;
            let header = Header::read(Cursor::new(&jpeg))?;
            header.check_is_read()?;
            if header.components() != samples || header.width < size[0] || header.height < size[1] {
                return Err(DecodeError::Jpeg("a part of a TIFF has another size".to_owned()));
            }
            super::super::bounded(header.width, header.height)?;
            let colours = if picture.meaning == Meaning::YCbCr { Colours::YCbCr } else { Colours::Rgb };
            let pixels = jpeg::samples(&jpeg, &header, colours, samples)?;
            let rows = pixels.chunks_exact(header.width * samples).take(size[1]);
            rows.for_each(|row| buffer.extend_from_slice(&row[..size[0] * samples]));
        }
        Ok(())
    }

    /// One part as a file: a beginning without an end, and an end without a beginning.
    fn file(&self, number: usize) -> Option<Vec<u8>> {
        let &(start, length) = self.places.get(number)?;
        let (start, length) = (usize::try_from(start).ok()?, usize::try_from(length).ok()?);
        let part = self.bytes.get(start..start.checked_add(length)?)?;
        let Some(tables) = &self.tables else { return Some(part.to_vec()) };
        let tables = tables.get(..tables.len().checked_sub(2)?)?;
        Some([tables, part.get(2..)?].concat())
    }
}

//! The header of a JPEG, and its scans: what it is, and whether it is whole. Knows nothing of pixels.

use std::io::{BufRead, ErrorKind, Seek};

use image::metadata::Orientation;

use super::super::DecodeError;

/// The most scans that are decoded. Each goes over the whole picture, so that a small file could take hours.
const MAX_SCANS: usize = 500;

const SOI: u8 = 0xD8;
const EOI: u8 = 0xD9;
const SOS: u8 = 0xDA;
const APP1: u8 = 0xE1;
const EXIF: &[u8] = b"Exif\0\0";

/// DCT coefficients of a block.
const COEFFICIENTS: usize = 64;

/// What stands before the first scan of a file.
#[derive(Debug, Clone)]
pub struct Header {
    /// Pixels from left to right, before the picture is turned.
    pub width: usize,
    /// Pixels from top to bottom, before the picture is turned; 0 where it is told behind the pixels.
    pub height: usize,
    /// How the picture has to be turned.
    pub orientation: Orientation,
    /// The marker that begins the frame: it says how the picture is encoded.
    process: u8,
    /// Bits of a sample.
    precision: u8,
    /// The colours, or the one grey.
    components: Vec<Component>,
    /// Number of components in the first scan.
    in_first_scan: usize,
    /// Offset of the first scan's marker.
    first_scan: u64,
}

#[derive(Debug, Clone, Copy)]
struct Component {
    id: u8,
    /// Sampling factors, across and down.
    sampling: [u8; 2],
}

impl Header {
    /// Reads a file up to its first scan.
    ///
    /// # Errors
    /// When the file ends before that, cannot be read, or contradicts itself.
    pub fn read(mut file: impl BufRead + Seek) -> Result<Self, DecodeError> {
        let (mut header, mut exif): (Option<Self>, Option<Vec<u8>>) = (None, None);
        if marker(&mut file)? != SOI {
            return Err(corrupt("it does not begin as one"));
        }
        loop {
            let marker = marker(&mut file)?;
            match marker {
                EOI => return Err(corrupt("it has no picture")),
                SOS => break,
                APP1 if exif.is_none() => {
                    let segment = segment(&mut file)?;
                    exif = segment.strip_prefix(EXIF).map(<[u8]>::to_vec);
                }
                _ if is_frame(marker) => {
                    if header.is_some() {
                        return Err(corrupt("it has two frames"));
                    }
                    header = Some(Self::of_frame(marker, &segment(&mut file)?)?);
                }
                _ if is_alone(marker) => {}
                _ => skip_segment(&mut file)?,
            }
        }
        let mut header = header.ok_or_else(|| corrupt("its picture has no frame"))?;
        header.first_scan = file.stream_position()? - 2;
        header.in_first_scan = segment(&mut file)?.first().copied().unwrap_or(0).into();
        let orientation = exif.as_deref().and_then(Orientation::from_exif_chunk);
        header.orientation = orientation.unwrap_or(Orientation::NoTransforms);
        Ok(header)
    }

    /// Parses the segment of a frame, whose marker is `process`.
    fn of_frame(process: u8, frame: &[u8]) -> Result<Self, DecodeError> {
        let (&[precision, height_high, height_low, width_high, width_low, count], components) =
            frame.split_first_chunk().ok_or_else(|| corrupt("its frame is too short"))?;
        let components: Vec<Component> = components
            .chunks_exact(3)
            .map(|component| Component { id: component[0], sampling: [component[1] >> 4, component[1] & 15] })
            .collect();
        if components.len() != usize::from(count) {
            return Err(corrupt("its frame is too short"));
        }
        Ok(Self {
            width: u16::from_be_bytes([width_high, width_low]).into(),
            height: u16::from_be_bytes([height_high, height_low]).into(),
            orientation: Orientation::NoTransforms,
            process,
            precision,
            components,
            in_first_scan: 0,
            first_scan: 0,
        })
    }

    /// Number of components: colours, or the one grey.
    pub fn components(&self) -> usize {
        self.components.len()
    }

    /// Whether the picture comes in several scans.
    pub fn has_many_scans(&self) -> bool {
        self.is_progressive() || self.in_first_scan < self.components.len()
    }

    fn is_progressive(&self) -> bool {
        matches!(self.process, 0xC2 | 0xCA)
    }

    /// Checks that such a file can be decoded if it is whole.
    ///
    /// # Errors
    /// When its kind is not read, or the header contradicts itself.
    pub fn check_is_read(&self) -> Result<(), DecodeError> {
        let what = match self.process {
            0xC0..=0xC2 | 0xC9 | 0xCA => None,
            0xC3 | 0xCB => Some("a lossless JPEG".to_owned()),
            0xF7 => Some("JPEG-LS".to_owned()),
            _ => Some("a hierarchical JPEG".to_owned()),
        };
        let what = what.or_else(|| match (self.precision, self.components.len()) {
            (8, 1 | 3 | 4) => None,
            (8, count) => Some(format!("a JPEG of {count} components")),
            (bits, _) => Some(format!("a JPEG of {bits} bits a sample")),
        });
        let what = what.or_else(|| {
            (self.height == 0).then(|| "a JPEG that tells its height behind its pixels".to_owned())
        });
        if let Some(kind) = what {
            return Err(DecodeError::Unsupported { kind });
        }
        if self.width == 0 {
            return Err(corrupt("it has no width"));
        }
        let sampling = self.components.iter().map(|component| component.sampling);
        if sampling.clone().flatten().any(|factor| !(1..=4).contains(&factor)) {
            return Err(corrupt("a sampling factor is not 1 to 4"));
        }
        let finest =
            sampling.clone().fold([1, 1], |most: [u8; 2], own| [most[0].max(own[0]), most[1].max(own[1])]);
        if sampling.flatten().zip(finest.into_iter().cycle()).any(|(own, most)| most % own != 0) {
            let kind = "a JPEG whose sampling factors are no multiples of each other".to_owned();
            return Err(DecodeError::Unsupported { kind });
        }
        Ok(())
    }
}

/// The scans of a file that has several.
#[derive(Debug)]
pub struct Scans {
    count: usize,
    /// Whether the file has an end marker.
    has_end: bool,
    /// For each coefficient of each component the number of bits that no scan has brought; `None` when no scan brought any.
    missing_bits: Vec<[Option<u8>; COEFFICIENTS]>,
}

impl Scans {
    /// Finds the scans of a file whose header was read.
    ///
    /// # Errors
    /// When a scan's head is damaged.
    pub fn of(bytes: &[u8], header: &Header) -> Result<Self, DecodeError> {
        let mut scans = Self {
            count: 0,
            has_end: false,
            missing_bits: vec![[None; COEFFICIENTS]; header.components.len()],
        };
        let mut rest =
            bytes.get(usize::try_from(header.first_scan).unwrap_or(usize::MAX)..).unwrap_or_default();
        while let Some((marker, behind)) = next_marker(rest) {
            rest = behind;
            if marker == EOI {
                scans.has_end = true;
                break;
            }
            let Some((segment, behind)) = split_segment(rest) else { break };
            rest = behind;
            if marker == SOS {
                scans.add(segment, header)?;
            }
        }
        Ok(scans)
    }

    /// Takes the header of a scan into account.
    fn add(&mut self, scan: &[u8], header: &Header) -> Result<(), DecodeError> {
        let damaged = || corrupt("the head of a scan is damaged");
        self.count += 1;
        let (&count, rest) = scan.split_first().ok_or_else(damaged)?;
        let (components, rest) = rest.split_at_checked(2 * usize::from(count)).ok_or_else(damaged)?;
        let (&[first, last, bits], _) = rest.split_first_chunk().ok_or_else(damaged)?;
        let (coefficients, bits) = if header.is_progressive() {
            (usize::from(first)..usize::from(last) + 1, bits & 15)
        } else {
            (0..COEFFICIENTS, 0)
        };
        for component in components.chunks_exact(2) {
            let known = header.components.iter().position(|known| known.id == component[0]);
            let missing = &mut self.missing_bits[known.ok_or_else(damaged)?];
            missing.get_mut(coefficients.clone()).ok_or_else(damaged)?.fill(Some(bits));
        }
        Ok(())
    }

    /// Checks that nothing of the picture is missing: a file with an end marker has a scan of each component, a file
    /// without one has all bits of all components.
    ///
    /// # Errors
    /// When something is missing, or there are too many scans.
    pub fn check_are_whole(&self) -> Result<(), DecodeError> {
        if self.count > MAX_SCANS {
            let kind = format!("a JPEG of {} scans", self.count);
            return Err(DecodeError::Unsupported { kind });
        }
        let whole = self.missing_bits.iter().all(|missing| {
            if self.has_end { missing[0].is_some() } else { missing.iter().all(|bits| *bits == Some(0)) }
        });
        match (whole, self.has_end) {
            (true, _) => Ok(()),
            (false, true) => Err(corrupt("a colour has no scan")),
            (false, false) => Err(DecodeError::Truncated),
        }
    }
}

fn corrupt(why: &str) -> DecodeError {
    DecodeError::Jpeg(why.to_owned())
}

/// Markers without a segment behind them.
fn is_alone(marker: u8) -> bool {
    matches!(marker, 0x01 | 0xD0..=0xD8)
}

/// Markers of frames, JPEG-LS's among them; 0xC4, 0xC8 and 0xCC are others.
fn is_frame(marker: u8) -> bool {
    matches!(marker, 0xC0..=0xC3 | 0xC5..=0xC7 | 0xC9..=0xCB | 0xCD..=0xCF | 0xF7)
}

/// The next marker of a file, past bytes that belong to nothing.
fn marker(file: &mut impl BufRead) -> Result<u8, DecodeError> {
    let mut last = 0;
    loop {
        let [byte] = read(file)?;
        if last == 0xFF && !matches!(byte, 0 | 0xFF) {
            return Ok(byte);
        }
        last = byte;
    }
}

fn read<const N: usize>(file: &mut impl BufRead) -> Result<[u8; N], DecodeError> {
    let mut bytes = [0; N];
    file.read_exact(&mut bytes).map_err(ended)?;
    Ok(bytes)
}

fn ended(error: std::io::Error) -> DecodeError {
    if error.kind() == ErrorKind::UnexpectedEof { DecodeError::Truncated } else { error.into() }
}

/// Bytes of a segment behind its length.
fn segment_bytes(file: &mut impl BufRead) -> Result<u16, DecodeError> {
    let length = u16::from_be_bytes(read(file)?);
    length.checked_sub(2).ok_or_else(|| corrupt("a length is too small"))
}

fn segment(file: &mut impl BufRead) -> Result<Vec<u8>, DecodeError> {
    let mut bytes = vec![0; segment_bytes(file)?.into()];
    file.read_exact(&mut bytes).map_err(ended)?;
    Ok(bytes)
}

fn skip_segment(file: &mut (impl BufRead + Seek)) -> Result<(), DecodeError> {
    let length = segment_bytes(file)?;
    // Keeps what a buffer holds already, as a plain seek does not.
    file.seek_relative(length.into())?;
    Ok(())
}

/// The next marker and what is behind it; those that stand alone, and stuffed bytes, are part of the data.
fn next_marker(mut bytes: &[u8]) -> Option<(u8, &[u8])> {
    loop {
        let at = bytes.iter().position(|byte| *byte == 0xFF)?;
        bytes = &bytes[at + 1..];
        match bytes.first()? {
            0xFF => {}
            0 => bytes = &bytes[1..],
            marker if is_alone(*marker) => bytes = &bytes[1..],
            marker => return Some((*marker, &bytes[1..])),
        }
    }
}

/// A segment, without its length, and what is behind it.
fn split_segment(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length).checked_sub(2)?))
}

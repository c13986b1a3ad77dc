//! JPEG by libjpeg-turbo. It gives right pixels or an error: the header tells what cannot be decoded, the decoder's
//! warnings tell what is damaged.

mod header;

use std::ffi::{CStr, c_char, c_int, c_uint};
use std::io::Cursor;

use image::metadata::Orientation;
// Linked for `shim/jpeg.c`.
use turbojpeg_sys as _;

pub(super) use self::header::{Header, Scans};
use super::{DecodeError, MAX_SIDE};
use crate::image::Image;

/// libjpeg's `JMSG_LENGTH_MAX`.
const MESSAGE_BYTES: usize = 200;

/// The colour space of the three components of a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub(super) enum ColourSpace {
    /// What the file's own markers say, else YCbCr.
    FromFile = 0,
    /// Red, green and blue, whatever the file says.
    Rgb = 1,
    /// Luma and two chroma, whatever the file says.
    YCbCr = 2,
}

unsafe extern "C" {
    fn ty_jpeg_decode(
        bytes: *const u8,
        length: usize,
        colours: c_int,
        width: c_uint,
        height: c_uint,
        samples: c_int,
        pixels: *mut u8,
        message: *mut c_char,
    ) -> c_int;
}

/// Decodes a file. The picture is not turned yet; the orientation says how it has to be.
pub(super) fn decode(bytes: &[u8]) -> Result<(Image, Orientation), DecodeError> {
    let header = Header::read(Cursor::new(bytes))?;
    header.check_is_read()?;
    let (width, height) = (header.width, header.height);
    super::check_size(width, height)?;
    let rgb = samples(bytes, &header, ColourSpace::FromFile, 3)?;
    Ok((Image { width, height, rgb }, header.orientation))
}

/// Decodes the samples of a picture, `[height, width, count]`: grey for `count` 1, RGB for 3.
pub(super) fn samples(
    bytes: &[u8],
    header: &Header,
    colours: ColourSpace,
    count: usize,
) -> Result<Vec<u8>, DecodeError> {
    let (width, height) = (header.width, header.height);
    assert!(width.max(height) <= MAX_SIDE, "the caller has bounded both sides");
    assert!(count == 3 || (count == 1 && header.components() == 1), "grey is of grey files only");
    if header.has_many_scans() {
        Scans::of(bytes, header)?.check_are_whole()?;
    }
    let mut pixels = Vec::with_capacity(width * height * count);
    let mut message = [0; MESSAGE_BYTES];
    // SAFETY: `pixels` has room for what is written, which is checked against the decoder's own idea of both sides;
    // `message` for any message. Nothing of the arguments is kept.
    let failed = unsafe {
        ty_jpeg_decode(
            bytes.as_ptr(),
            bytes.len(),
            colours as c_int,
            width as c_uint,
            height as c_uint,
            count as c_int,
            pixels.as_mut_ptr(),
            message.as_mut_ptr(),
        )
    };
    if failed != 0 {
        return Err(DecodeError::Jpeg(text(&message)));
    }
    // SAFETY: every row was written.
    unsafe { pixels.set_len(width * height * count) };
    Ok(pixels)
}

/// The decoder's message, without what all of them begin with.
fn text(message: &[c_char; MESSAGE_BYTES]) -> String {
    // SAFETY: `c_char` and `u8` have the same bytes.
    let bytes = unsafe { std::slice::from_raw_parts(message.as_ptr().cast(), message.len()) };
    let text = CStr::from_bytes_until_nul(bytes).map(CStr::to_string_lossy).unwrap_or_default();
    text.trim_start_matches("Corrupt JPEG data: ").to_owned()
}

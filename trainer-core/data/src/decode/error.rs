//! Why a file yields no pixels, in words for those whose file it is.

use std::fmt;
use std::io::ErrorKind;
use std::path::Path;

use image::ImageError;

/// Why an image file yields no pixels.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    Read(#[from] std::io::Error),
    /// The file is a broken JPEG.
    #[error("is a corrupt JPEG: {0}")]
    Jpeg(String),
    /// The file is a broken TIFF.
    #[error("is a corrupt TIFF: {0}")]
    Tiff(tiff::TiffError),
    /// The file is a broken image of another format.
    #[error("is no readable image: {0}")]
    Other(ImageError),
    /// The file ends early.
    #[error("is truncated")]
    Truncated,
    /// The picture has, or pretends to have, more pixels than are decoded.
    #[error("is {width}x{height} pixels, more than can be decoded")]
    TooLarge {
        /// Pixels from left to right.
        width: usize,
        /// Pixels from top to bottom.
        height: usize,
    },
    /// The format is read, but not this kind of it.
    #[error("is {kind}, which is not read; convert it to an 8-bit JPEG or PNG")]
    Unsupported {
        /// The kind, as words.
        kind: String,
    },
    /// The file is of another format.
    #[error("is {kind}{}; convert it to JPEG or PNG", Under(extension.as_deref()))]
    Foreign {
        /// The name of the format.
        kind: &'static str,
        /// The extension of the file's name, where the name is known.
        extension: Option<String>,
    },
    /// The file is text: a page that says that an image was not found, or a pointer of Git LFS that was not fetched.
    #[error("is no readable image: it is text that begins with `{begins}`")]
    Text {
        /// The beginning of its first line.
        begins: String,
    },
    /// The file has no bytes.
    #[error("is empty")]
    Empty,
    /// No known format begins like the file.
    #[error("is no readable image: nothing known begins like it")]
    Unknown,
    /// A decoder panicked: a bug of the decoder, which a damaged file set off.
    #[error("is corrupt: its decoder gave up")]
    Panicked,
}

/// Says that the file's name promises another format.
struct Under<'a>(Option<&'a str>);

impl fmt::Display for Under<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(extension) => write!(f, " under the name .{extension}"),
            None => write!(f, ", which is not read"),
        }
    }
}

impl DecodeError {
    /// The same error, with the extension of the file's name where that promises another format.
    pub(super) fn of(self, path: &Path) -> Self {
        match self {
            Self::Foreign { kind, extension: None } if super::unsupported_format(path).is_none() => {
                let extension = path.extension().map(|extension| extension.to_string_lossy().into_owned());
                Self::Foreign { kind, extension }
            }
            other => other,
        }
    }

    /// Whether the file may be whole, and only its kind is not read here.
    pub fn is_unsupported(&self) -> bool {
        matches!(self, Self::Unsupported { .. } | Self::Foreign { .. })
    }
}

impl From<ImageError> for DecodeError {
    fn from(error: ImageError) -> Self {
        match error {
            ImageError::IoError(error) if error.kind() == ErrorKind::UnexpectedEof => Self::Truncated,
            ImageError::Unsupported(what) => {
                Self::Unsupported { kind: format!("of an unusual kind ({what})") }
            }
            other => Self::Other(other),
        }
    }
}

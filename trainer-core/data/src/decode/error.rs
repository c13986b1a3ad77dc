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
    /// It is a broken JPEG.
    #[error("is a corrupt JPEG: {0}")]
    Jpeg(String),
    /// It is a broken TIFF.
    #[error("is a corrupt TIFF: {0}")]
    Tiff(tiff::TiffError),
    /// It is a broken file of another kind.
    #[error("is no readable image: {0}")]
    Other(ImageError),
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
    /// It is of a format that is read, but of a kind that is not.
    #[error("is {kind}, which is not read; convert it to an 8-bit JPEG or PNG")]
    Unsupported {
        /// What the kind is called.
        kind: String,
    },
    /// It is of another format.
    #[error("is {kind}{}; convert it to JPEG or PNG", Under(extension.as_deref()))]
    Foreign {
        /// What the format is called.
        kind: &'static str,
        /// The end of the file's name, where that is known.
        extension: Option<String>,
    },
    /// It is words, as a page that says that an image was not found, or a pointer to a large file that was not fetched.
    #[error("is no readable image: it is text that begins with `{begins}`")]
    Text {
        /// Its first line, or the beginning of that.
        begins: String,
    },
    /// It has no bytes.
    #[error("is empty")]
    Empty,
    /// Nothing is known that begins so.
    #[error("is no readable image: nothing known begins like it")]
    Unknown,
    /// A bug in a decoder, which a damaged file set off.
    #[error("is corrupt: its decoder gave up")]
    Panicked,
}

/// Says that a name promises something else.
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
    /// The same error, with what the file's name promises.
    pub(super) fn of(self, path: &Path) -> Self {
        match self {
            Self::Foreign { kind, extension: None } if super::unsupported(path).is_none() => {
                let extension = path.extension().map(|extension| extension.to_string_lossy().into_owned());
                Self::Foreign { kind, extension }
            }
            other => other,
        }
    }

    /// Whether the file may be whole, and only nothing here reads its kind.
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

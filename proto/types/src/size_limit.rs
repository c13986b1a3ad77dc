//! How large files may be that are read whole: those of data sets, which strangers write, and weights. One table for all
//! who read them. Must not know: files.

use crate::size;

/// The most bytes that are read of a file of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SizeLimit {
    /// Bytes that are read at most.
    pub most: u64,
    /// The kind, with its article.
    of: &'static str,
    /// What to do about a larger one.
    way_out: &'static str,
}

impl SizeLimit {
    /// An image file, as it lies on the disk.
    pub const IMAGE: Self =
        Self { most: 256 << 20, of: "an image", way_out: "convert it to a JPEG or PNG, or make it smaller" };
    /// A label file: some hundred thousand objects.
    pub const LABELS: Self =
        Self { most: 16 << 20, of: "a label file", way_out: "write a row for each object, and nothing else" };
    /// A text file that lists images: those of two million images have 100 MB.
    pub const LIST: Self = Self {
        most: 256 << 20,
        of: "a list of images",
        way_out: "name folders instead of images, or make several lists",
    };
    /// A data.yaml: a hundred thousand class names. It takes a hundred times as much memory while it is parsed.
    pub const DATA_YAML: Self = Self {
        most: 4 << 20,
        of: "a data.yaml",
        way_out: "give the path of the data set's data.yaml, and name folders or lists of images in it",
    };
    /// A weights file: those of the largest model have 0.3 GB, with its optimiser's state 1 GB.
    pub const WEIGHTS: Self = Self {
        most: 8 << 30,
        of: "a weights file",
        way_out: "give the .pt or .safetensors file of one model",
    };

    /// # Errors
    /// A file of `bytes` is too large.
    pub fn check(self, bytes: u64) -> Result<(), TooLarge> {
        if bytes > self.most { Err(TooLarge { bytes, limit: self }) } else { Ok(()) }
    }
}

/// A file is larger than what is read of one of its kind. The text leaves the file's name to the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "has {}, more than the {} that are read of {}; {}",
    size::bytes(*bytes), size::bytes(limit.most), limit.of, limit.way_out
)]
pub struct TooLarge {
    bytes: u64,
    limit: SizeLimit,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_above_its_limit_is_told_with_size_limit_and_way_out() {
        assert_eq!(SizeLimit::IMAGE.check(SizeLimit::IMAGE.most), Ok(()));
        assert_eq!(
            SizeLimit::IMAGE.check(50 << 30).unwrap_err().to_string(),
            "has 50.0 GiB, more than the 256.0 MiB that are read of an image; convert it to a JPEG or PNG, or make it \
             smaller"
        );
    }
}

//! Why no batch can be made. The image store finds that no image is readable, the loader that a thread is gone.

/// Why no batch can be made.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// So many images in a row cannot be decoded that the data must be gone.
    #[error("none of {tried} images from {first} on could be read; the last error was: {last}")]
    NothingReadable {
        /// The first image that failed.
        first: String,
        /// How many images were tried.
        tried: usize,
        /// The error of the last image.
        last: String,
    },
    /// A bug of ours.
    #[error("a loader thread ended early")]
    WorkerGone,
}

//! Memory that the pixels of batches lie in: the loader's own, or another's who copies them from there, such as
//! page-locked memory that a GPU reads by itself.

use std::any::Any;
use std::fmt::Debug;

/// Somebody who has memory for pixels.
pub trait PixelMemory: Debug + Send + Sync {
    /// A buffer of at least so many bytes; `None` if there is none now, and the loader takes its own.
    fn allocate(&self, bytes: usize) -> Option<Box<dyn PixelBuffer>>;
}

/// Memory for the pixels of one batch at a time. The loader uses it again for later ones.
///
/// # Safety
/// The bytes stay where [`PixelBuffer::start`] says as long as the buffer lives. Nobody else writes them, and nobody reads
/// them any more when [`PixelBuffer::is_read`] says so after the batch was dropped.
pub unsafe trait PixelBuffer: Any + Debug + Send {
    /// Where its bytes begin.
    fn start(&self) -> *mut u8;

    /// How many bytes there are.
    fn length(&self) -> usize;

    /// Whether somebody still reads them, such as a copy that goes on. Does not wait.
    fn is_read(&self) -> bool;

    /// Waits until nobody does; not at all if nobody does now.
    fn wait(&self);
}

/// The memory of one batch.
#[derive(Debug)]
pub(super) enum BatchMemory {
    /// The loader's own.
    Own(Vec<u8>),
    /// Another's.
    Lent(Box<dyn PixelBuffer>),
}

impl BatchMemory {
    pub(super) fn start(&mut self) -> *mut u8 {
        match self {
            Self::Own(bytes) => bytes.as_mut_ptr(),
            Self::Lent(buffer) => buffer.start(),
        }
    }

    pub(super) fn bytes(&self, length: usize) -> &[u8] {
        match self {
            Self::Own(bytes) => &bytes[..length],
            // SAFETY: so many bytes are there as long as the buffer lives, and nobody writes them meanwhile: whoever makes
            // a batch is done with it when it has `Pixels`.
            Self::Lent(buffer) => unsafe {
                assert!(length <= buffer.length(), "a batch fits in its memory");
                std::slice::from_raw_parts(buffer.start(), length)
            },
        }
    }

    /// The other's buffer, if it is one.
    pub(super) fn lent(&self) -> Option<&dyn PixelBuffer> {
        match self {
            Self::Own(_) => None,
            Self::Lent(buffer) => Some(&**buffer),
        }
    }
}

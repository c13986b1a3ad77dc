//! Copies that nobody waits for: to a GPU beside what it computes, through page-locked memory and a stream of their
//! own; and of a few numbers back, in the order of its work.

use std::ffi::c_int;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use tch::{Device, Tensor};

use super::TorchError;
use super::shim::{self, List};

/// So many page-locked bytes, whatever they are: a GPU copies from them by itself. `[bytes]`, on the CPU.
///
/// Dropping the tensor is safe at any time: the memory is used again only when copies from it have ended.
///
/// # Errors
/// There is no GPU, or the system has no more memory to lock.
pub fn pinned(bytes: usize) -> Result<Tensor, TorchError> {
    let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
    // SAFETY: takes a number, and the place of the result.
    shim::tensor_from(|out| unsafe { shim::ty_pinned(bytes, out) })
}

/// A stream of copies to one GPU.
#[derive(Debug)]
pub struct Copier(NonNull<shim::Copier>);

// SAFETY: it holds the number of a stream, and streams may be used from any thread.
unsafe impl Send for Copier {}

/// Tensors on their way to a GPU.
#[derive(Debug)]
pub struct Sent {
    tensors: Vec<Tensor>,
    arrival: Arrival,
}

/// The mark in a GPU's work that says that copies are there.
#[derive(Debug, Clone)]
pub struct Arrival(Arc<Event>);

#[derive(Debug)]
struct Event(NonNull<shim::Event>);

// SAFETY: it is a mark of the GPU's driver, which may be asked, waited for and destroyed on any thread.
unsafe impl Send for Event {}
// SAFETY: as above; nothing changes it once it is there.
unsafe impl Sync for Event {}

impl Arrival {
    /// The event that a call of the shim has made.
    fn new(event: *mut shim::Event) -> Result<Self, TorchError> {
        let missing = || TorchError { message: "libtorch gave no event".to_owned() };
        NonNull::new(event).map(|event| Self(Arc::new(Event(event)))).ok_or_else(missing)
    }

    fn pointer(&self) -> *const shim::Event {
        self.0.0.as_ptr()
    }

    /// Whether the copies are there. Does not wait.
    pub fn is_there(&self) -> Result<bool, TorchError> {
        let mut passed = 0;
        // SAFETY: the event lives, and `passed` can be written.
        unsafe { shim::check(shim::ty_event_passed(self.pointer(), &raw mut passed)) }?;
        Ok(passed != 0)
    }

    /// Waits until they are.
    pub fn wait(&self) -> Result<(), TorchError> {
        // SAFETY: the event lives.
        unsafe { shim::check(shim::ty_event_wait(self.pointer())) }
    }
}

impl Sent {
    /// What says that the copies have been made, and what they are of is no longer read.
    pub fn arrival(&self) -> Arrival {
        self.arrival.clone()
    }
}

impl Copier {
    /// # Errors
    /// When `device` is no GPU that is there.
    pub fn new(device: Device) -> Result<Self, TorchError> {
        let index = match device {
            Device::Cuda(index) => c_int::try_from(index).unwrap_or(c_int::MAX),
            Device::Cpu | Device::Mps | Device::Vulkan => -1,
        };
        let mut made = ptr::null_mut();
        // SAFETY: takes a number, and the place of the result.
        unsafe { shim::check(shim::ty_copier_new(index, &raw mut made)) }?;
        let missing = || TorchError { message: "libtorch gave no stream".to_owned() };
        NonNull::new(made).map(Self).ok_or_else(missing)
    }

    /// Begins to copy. Does not wait when `tensors` are page-locked; otherwise it waits for the copies, but
    /// not for what the GPU computes.
    pub fn send(&self, tensors: &[&Tensor]) -> Result<Sent, TorchError> {
        let list = List::new(tensors.iter().copied());
        let mut copies = vec![ptr::null_mut(); tensors.len()];
        let mut event = ptr::null_mut();
        let (copier, out) = (self.0.as_ptr(), copies.as_mut_ptr());
        // SAFETY: the copier lives; `copies` has a place for each of the list's tensors, which live too.
        let sent = unsafe {
            shim::check(shim::ty_copier_send(copier, list.pointer(), list.len(), out, &raw mut event))
        };
        sent?;
        // SAFETY: the call has put a tensor of ours into each place.
        let tensors = copies.into_iter().map(|copy| unsafe { Tensor::from_ptr(copy) }).collect();
        Ok(Sent { tensors, arrival: Arrival::new(event)? })
    }

    /// The tensors that were sent. What the GPU computes from now on waits for them; the host does not.
    pub fn receive(&self, sent: Sent) -> Result<Vec<Tensor>, TorchError> {
        let list = List::new(&sent.tensors);
        let event = sent.arrival.pointer();
        // SAFETY: copier, event and tensors live through the call.
        let received = unsafe {
            shim::check(shim::ty_copier_receive(self.0.as_ptr(), list.pointer(), list.len(), event))
        };
        received.map(|()| sent.tensors)
    }
}

/// Tensors on their way to the host.
#[derive(Debug)]
pub struct ToHost {
    tensors: Vec<Tensor>,
    /// None if they are there.
    arrival: Option<Arrival>,
}

impl ToHost {
    /// Begins to copy `tensors`, which nobody changes any more, as they are after all that their device was told so far.
    /// The host does not wait. Tensors of a CPU are there already.
    pub fn begin(tensors: Vec<Tensor>) -> Result<Self, TorchError> {
        if !tensors.iter().any(|tensor| tensor.device().is_cuda()) {
            return Ok(Self { tensors, arrival: None });
        }
        let list = List::new(&tensors);
        let mut copies = vec![ptr::null_mut(); tensors.len()];
        let mut event = ptr::null_mut();
        let out = copies.as_mut_ptr();
        // SAFETY: the tensors live; there is a place for each of them, and for the event.
        unsafe { shim::check(shim::ty_to_host(list.pointer(), list.len(), out, &raw mut event)) }?;
        // SAFETY: a call that succeeds has made all tensors and left them to us.
        let tensors = copies.into_iter().map(|copy| unsafe { Tensor::from_ptr(copy) }).collect();
        Ok(Self { tensors, arrival: Some(Arrival::new(event)?) })
    }

    /// The tensors on the host. Waits for them, once, if they are not there yet.
    pub fn finish(self) -> Result<Vec<Tensor>, TorchError> {
        if let Some(arrival) = &self.arrival {
            arrival.wait()?;
        }
        Ok(self.tensors)
    }
}

impl Drop for Copier {
    fn drop(&mut self) {
        // SAFETY: it is ours, and this is the end of it.
        unsafe { shim::ty_copier_free(self.0.as_ptr()) };
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: as above.
        unsafe { shim::ty_event_free(self.0.as_ptr()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_cpu_has_is_there_already() {
        let tensors = vec![Tensor::from_slice(&[1.0_f64, 2.0]), Tensor::from_slice(&[3_i64])];
        let places: Vec<_> = tensors.iter().map(Tensor::data_ptr).collect();
        let there = ToHost::begin(tensors).unwrap().finish().unwrap();
        assert_eq!(there.iter().map(Tensor::data_ptr).collect::<Vec<_>>(), places);
    }

    #[test]
    fn without_a_gpu_there_is_an_error_and_no_crash() {
        for device in [Device::Cpu, Device::Cuda(99)] {
            assert!(Copier::new(device).is_err(), "{device:?}");
        }
    }
}

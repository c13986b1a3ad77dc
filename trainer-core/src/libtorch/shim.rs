//! The C functions of `shim/torch.cpp`, which say there what they do. Knows how to pass tensors and errors.

use std::ffi::{CStr, c_char, c_int};
use std::marker::PhantomData;
use std::ptr;

use tch::Tensor;
use torch_sys::C_tensor;

use super::TorchError;

/// A tensor that C++ only reads, or changes the values of.
pub(super) type Pointer = *const C_tensor;
/// Why a call failed; null if it did not.
type Message = *mut c_char;

/// What autocast was before.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct AutocastState {
    enabled: c_int,
    dtype: c_int,
}

/// Numbers of a device's allocator.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Memory {
    pub allocated: i64,
    pub allocated_peak: i64,
    pub reserved: i64,
    pub reserved_peak: i64,
    pub free: i64,
    pub total: i64,
    pub out_of_memory: i64,
    pub retries: i64,
}

/// A stream of copies, of C++.
#[repr(C)]
pub(super) struct Copier {
    _opaque: [u8; 0],
}

/// A mark in a stream, of C++.
#[repr(C)]
pub(super) struct Event {
    _opaque: [u8; 0],
}

unsafe extern "C" {
    fn ty_free(message: Message);
    pub(super) fn ty_config(out: *mut Message) -> Message;
    pub(super) fn ty_keep_freed_memory();
    pub(super) fn ty_deterministic() -> Message;
    pub(super) fn ty_exact_fp32() -> Message;
    pub(super) fn ty_allows_tf32(out: *mut c_int) -> Message;
    pub(super) fn ty_set_allocator(settings: *const c_char) -> Message;
    pub(super) fn ty_allocator_settings(out: *mut Message) -> Message;
    pub(super) fn ty_bind_threads() -> Message;
    pub(super) fn ty_anywhere();
    pub(super) fn ty_autocast_enter(cuda: c_int, dtype: c_int, before: *mut AutocastState) -> Message;
    pub(super) fn ty_autocast_leave(cuda: c_int, before: *const AutocastState) -> Message;
    pub(super) fn ty_gradient_norm(
        parameters: *const Pointer,
        count: usize,
        norm: *mut *mut C_tensor,
    ) -> Message;
    pub(super) fn ty_forget_gradients(parameters: *const Pointer, count: usize) -> Message;
    pub(super) fn ty_sgd(
        parameters: *const Pointer,
        momenta: *const Pointer,
        count: usize,
        decay: f64,
        momentum: f64,
        lr: f64,
        divisor: Pointer,
        found_inf: Pointer,
    ) -> Message;
    pub(super) fn ty_adamw(
        parameters: *const Pointer,
        averages: *const Pointer,
        squares: *const Pointer,
        count: usize,
        step: Pointer,
        decay: f64,
        beta1: f64,
        beta2: f64,
        eps: f64,
        lr: f64,
        divisor: Pointer,
        found_inf: Pointer,
    ) -> Message;
    pub(super) fn ty_lerp(from: *const Pointer, to: *const Pointer, count: usize, weight: f64) -> Message;
    pub(super) fn ty_copy(to: *const Pointer, from: *const Pointer, count: usize) -> Message;
    pub(super) fn ty_memory_stats(index: c_int, out: *mut Memory) -> Message;
    pub(super) fn ty_memory_reset_peak(index: c_int) -> Message;
    pub(super) fn ty_memory_release() -> Message;
    pub(super) fn ty_pinned(bytes: i64, out: *mut *mut C_tensor) -> Message;
    pub(super) fn ty_copier_new(index: c_int, out: *mut *mut Copier) -> Message;
    pub(super) fn ty_copier_free(copier: *mut Copier);
    pub(super) fn ty_copier_send(
        copier: *const Copier,
        tensors: *const Pointer,
        count: usize,
        out: *mut *mut C_tensor,
        event: *mut *mut Event,
    ) -> Message;
    pub(super) fn ty_copier_receive(
        copier: *const Copier,
        tensors: *const Pointer,
        count: usize,
        event: *const Event,
    ) -> Message;
    pub(super) fn ty_to_host(
        tensors: *const Pointer,
        count: usize,
        out: *mut *mut C_tensor,
        event: *mut *mut Event,
    ) -> Message;
    pub(super) fn ty_event_wait(event: *const Event) -> Message;
    pub(super) fn ty_event_passed(event: *const Event, out: *mut c_int) -> Message;
    pub(super) fn ty_event_free(event: *mut Event);
}

/// The meaning of a call's answer.
///
/// # Safety
/// `message` is what a function of the shim returned just now.
pub(super) unsafe fn check(message: Message) -> Result<(), TorchError> {
    if message.is_null() {
        return Ok(());
    }
    // SAFETY: the shim returns null or a text that ends in a zero, which stays until `ty_free`.
    let text = unsafe { CStr::from_ptr(message) }.to_string_lossy().into_owned();
    // SAFETY: it is the shim's, and nobody else frees it.
    unsafe { ty_free(message) };
    let first = text.lines().next().unwrap_or_default();
    Err(TorchError { message: first.to_owned() })
}

/// Runs a call that puts one text where it is told.
pub(super) fn text_from(call: impl FnOnce(*mut Message) -> Message) -> Result<String, TorchError> {
    let mut made = ptr::null_mut();
    let failed = call(&raw mut made);
    // SAFETY: what the call returned.
    unsafe { check(failed) }?;
    // SAFETY: the call has not failed, so that it has made a text that ends in a zero.
    let text = unsafe { CStr::from_ptr(made) }.to_string_lossy().into_owned();
    // SAFETY: it is ours, and nobody else frees it.
    unsafe { ty_free(made) };
    Ok(text)
}

/// Runs a call that puts one new tensor where it is told.
pub(super) fn tensor_from(call: impl FnOnce(*mut *mut C_tensor) -> Message) -> Result<Tensor, TorchError> {
    let mut made = ptr::null_mut();
    let message = call(&raw mut made);
    // SAFETY: the call returned it just now.
    unsafe { check(message) }?;
    // SAFETY: a call that succeeds has made a tensor and left it to us.
    Ok(unsafe { Tensor::from_ptr(made) })
}

/// Tensors as C++ takes a list of them; they live at least as long.
pub(super) struct List<'a> {
    pointers: Vec<Pointer>,
    of: PhantomData<&'a Tensor>,
}

impl<'a> List<'a> {
    pub(super) fn new(tensors: impl IntoIterator<Item = &'a Tensor>) -> Self {
        Self { pointers: tensors.into_iter().map(Tensor::as_ptr).collect(), of: PhantomData }
    }

    pub(super) fn pointer(&self) -> *const Pointer {
        self.pointers.as_ptr()
    }

    pub(super) fn len(&self) -> usize {
        self.pointers.len()
    }
}

/// [`Tensor::as_ptr`], or null.
pub(super) fn pointer_or_null(tensor: Option<&Tensor>) -> Pointer {
    tensor.map_or(ptr::null(), Tensor::as_ptr)
}

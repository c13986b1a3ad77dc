//! Tensors copied to the host: plain bytes that another thread can hash and write while training goes on.

use std::collections::HashMap;

use safetensors::tensor::{Dtype, View};
use tch::{Device, Tensor};

use super::dtype;

/// Named tensors as they were at one moment.
#[derive(Debug, Default)]
pub struct HostTensors(Vec<(String, Bytes)>);

impl HostTensors {
    /// Copies `tensors` from wherever they are. Waits for the device.
    pub fn copy<'a>(tensors: impl IntoIterator<Item = (&'a str, &'a Tensor)>) -> Self {
        let copied = tensors.into_iter().map(|(name, tensor)| (name.to_owned(), Bytes::of(tensor)));
        Self(copied.collect())
    }

    /// Bytes of a safetensors file; sorted by name.
    pub fn encode(&self, metadata: HashMap<String, String>) -> Result<Vec<u8>, String> {
        let mut views: Vec<(&str, &Bytes)> =
            self.0.iter().map(|(name, bytes)| (name.as_str(), bytes)).collect();
        views.sort_by_key(|(name, _)| *name);
        safetensors::tensor::serialize(views, Some(metadata)).map_err(|error| error.to_string())
    }

    /// A tensor of 32-bit floats that holds a value which is not a number or infinite, if there is one.
    pub fn not_finite(&self) -> Option<&str> {
        let broken = |bytes: &Bytes| bytes.dtype == Dtype::F32 && bytes.data.chunks_exact(4).any(is_special);
        self.0.iter().find(|(_, bytes)| broken(bytes)).map(|(name, _)| name.as_str())
    }
}

/// Whether a little-endian 32-bit float has the exponent of infinities and of what is not a number.
fn is_special(float: &[u8]) -> bool {
    float[3] & 0x7f == 0x7f && float[2] & 0x80 != 0
}

/// A tensor's values, row-major.
#[derive(Debug)]
struct Bytes {
    dtype: Dtype,
    shape: Vec<usize>,
    data: Vec<u8>,
}

impl Bytes {
    fn of(tensor: &Tensor) -> Self {
        let tensor = tensor.detach().to_device(Device::Cpu).contiguous();
        let dtype = dtype(tensor.kind()).expect("models and optimisers hold none but these types");
        let numel = tensor.numel();
        let mut data = vec![0; numel * tensor.kind().elt_size_in_bytes()];
        tensor.copy_data_u8(&mut data, numel);
        let shape = tensor.size().iter().map(|&side| usize::try_from(side).unwrap_or(0)).collect();
        Self { dtype, shape, data }
    }
}

impl View for &Bytes {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> std::borrow::Cow<'_, [u8]> {
        (&self.data).into()
    }

    fn data_len(&self) -> usize {
        self.data.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_is_no_number_is_found_and_the_largest_number_is_none() {
        let of = |value: f32| HostTensors::copy([("a", &Tensor::from_slice(&[0.0, value]))]);
        assert_eq!([f32::MAX, -1.0, 0.0].map(|value| of(value).not_finite().is_some()), [false; 3]);
        let special = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -f32::NAN];
        assert!(special.iter().all(|value| of(*value).not_finite() == Some("a")));
    }
}

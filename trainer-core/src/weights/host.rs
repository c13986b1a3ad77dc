//! Tensors copied to the host: plain bytes that another thread can hash and write while training goes on.

use safetensors::tensor::{Dtype, View};
use tch::{Device, Tensor};

use super::{Metadata, download, dtype};
use crate::libtorch::rethrow;

/// Named tensors as they were at one moment.
#[derive(Debug, Default)]
pub struct HostTensors(Vec<(String, Bytes)>);

impl HostTensors {
    /// Copies `tensors` from wherever they are. Waits for the device: once for a piece of 64 MiB.
    ///
    /// An exception of libtorch comes as a panic.
    pub fn copy<'a>(tensors: impl IntoIterator<Item = (&'a str, &'a Tensor)>) -> Self {
        let tensors: Vec<(&str, &Tensor)> = tensors.into_iter().collect();
        let of_gpu: Vec<&Tensor> =
            tensors.iter().map(|(_, tensor)| *tensor).filter(|tensor| tensor.device().is_cuda()).collect();
        let downloaded = of_gpu.first().map(|first| download::values(first.device(), &of_gpu));
        let mut downloaded = match downloaded.transpose() {
            Ok(values) => values.map(Vec::into_iter),
            // One by one they need no memory there.
            Err(error) if error.is_out_of_memory() => None,
            Err(error) => rethrow(&error),
        };
        let copied = tensors.into_iter().map(|(name, tensor)| {
            let values = downloaded.as_mut().filter(|_| tensor.device().is_cuda());
            let values = values.and_then(Iterator::next).unwrap_or_else(|| values_of(tensor));
            (name.to_owned(), Bytes::new(tensor, values))
        });
        Self(copied.collect())
    }

    /// Bytes of a safetensors file; the same ones for the same tensors and metadata.
    pub fn encode(&self, metadata: &Metadata) -> Result<Vec<u8>, String> {
        let mut views: Vec<(&str, &Bytes)> =
            self.0.iter().map(|(name, bytes)| (name.as_str(), bytes)).collect();
        views.sort_by_key(|(name, _)| *name);
        let file = safetensors::tensor::serialize(views, None).map_err(|error| error.to_string())?;
        with_metadata(file, metadata)
    }

    /// A tensor of 32-bit floats that holds a value which is not a number or infinite, if there is one.
    pub fn not_finite(&self) -> Option<&str> {
        let broken = |bytes: &Bytes| bytes.dtype == Dtype::F32 && bytes.data.chunks_exact(4).any(is_special);
        self.0.iter().find(|(_, bytes)| broken(bytes)).map(|(name, _)| name.as_str())
    }
}

/// The bytes of the length of a safetensors file's header, with which it begins.
const LENGTH: usize = 8;

/// `file`, a safetensors file without metadata, with `metadata` at the beginning of its header.
///
/// The library takes a `HashMap`, and writes it in the map's order, which is another one in each process.
fn with_metadata(mut file: Vec<u8>, metadata: &Metadata) -> Result<Vec<u8>, String> {
    let metadata = serde_json::to_string(metadata).map_err(|error| error.to_string())?;
    let cut = || "the file has no header".to_owned();
    let length: [u8; LENGTH] = file.get(..LENGTH).and_then(|bytes| bytes.try_into().ok()).ok_or_else(cut)?;
    let end = LENGTH + usize::try_from(u64::from_le_bytes(length)).map_err(|error| error.to_string())?;
    let header = file.get(LENGTH..end).and_then(|bytes| std::str::from_utf8(bytes).ok()).ok_or_else(cut)?;
    let tensors = header.trim_end().strip_prefix('{').ok_or_else(cut)?;
    let comma = if tensors == "}" { "" } else { "," };
    let mut header = format!("{{\"__metadata__\":{metadata}{comma}{tensors}").into_bytes();
    // Blanks, so that the tensors begin at a multiple of the length's size.
    header.resize(header.len().next_multiple_of(LENGTH), b' ');
    let length = (header.len() as u64).to_le_bytes();
    file.splice(..end, length.into_iter().chain(header));
    Ok(file)
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
    fn new(tensor: &Tensor, data: Vec<u8>) -> Self {
        let dtype = dtype(tensor.kind()).expect("models and optimisers hold none but these types");
        let shape = tensor.size().iter().map(|&side| usize::try_from(side).unwrap_or(0)).collect();
        Self { dtype, shape, data }
    }
}

/// The values of a tensor, row-major. Waits for its device.
fn values_of(tensor: &Tensor) -> Vec<u8> {
    let tensor = tensor.detach().to_device(Device::Cpu).contiguous();
    let numel = tensor.numel();
    let mut data = vec![0; numel * tensor.kind().elt_size_in_bytes()];
    tensor.copy_data_u8(&mut data, numel);
    data
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
    fn equal_tensors_and_metadata_are_equal_bytes_whatever_order_they_came_in() {
        let (one, two) = (Tensor::from_slice(&[1.0_f32, 2.0]), Tensor::from_slice(&[7_i64]));
        let pairs: Vec<(String, String)> =
            (0..20).map(|at| (format!("key {at}"), format!("\"{at}\" µ"))).collect();
        let forth = HostTensors::copy([("a", &one), ("b", &two)]);
        let back = HostTensors::copy([("b", &two), ("a", &one)]);
        let bytes = forth.encode(&pairs.iter().cloned().collect()).unwrap();
        assert_eq!(bytes, back.encode(&pairs.iter().rev().cloned().collect()).unwrap());

        let (length, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        assert!(length.is_multiple_of(8), "{length}");
        let found: Metadata = header.metadata().clone().unwrap().into_iter().collect();
        assert_eq!(found, pairs.into_iter().collect());
        let text = std::str::from_utf8(&bytes[8..8 + length]).unwrap();
        let places: Vec<usize> = found.keys().map(|key| text.find(&format!("\"{key}\"")).unwrap()).collect();
        assert!(places.is_sorted(), "{text}");
    }

    #[test]
    fn a_file_without_tensors_or_metadata_is_one() {
        let empty = HostTensors::default().encode(&Metadata::new()).unwrap();
        assert_eq!(safetensors::SafeTensors::deserialize(&empty).unwrap().len(), 0);
    }

    #[test]
    fn a_value_that_is_no_number_is_found_and_the_largest_number_is_none() {
        let of = |value: f32| HostTensors::copy([("a", &Tensor::from_slice(&[0.0, value]))]);
        assert_eq!([f32::MAX, -1.0, 0.0].map(|value| of(value).not_finite().is_some()), [false; 3]);
        let special = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -f32::NAN];
        assert!(special.iter().all(|value| of(*value).not_finite() == Some("a")));
    }
}

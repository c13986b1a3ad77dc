//! Writes a state dict as PyTorch's `.pt`, which `torch.load(path, weights_only=True)` reads.

use std::io::{Cursor, Seek, Write};

use half::f16;
use zip::result::ZipResult;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use crate::import::{RawTensor, Values};

/// Storages begin at multiples of this, as torch's own do, so that they can be mapped.
const ALIGNMENT: u16 = 64;
/// The folder inside the ZIP.
const ROOT: &str = "weights";

/// Bytes of a `.pt` file with an `OrderedDict` of these tensors, in order. `half`: floats in 16 bits.
///
/// # Errors
/// When the ZIP cannot hold them: above 4 GiB.
pub fn write<'a>(
    tensors: impl IntoIterator<Item = (&'a str, &'a RawTensor)>,
    half: bool,
) -> ZipResult<Vec<u8>> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let mut pickle = Pickler::default();
    let mut storages = Vec::new();
    pickle.begin();
    for (key, (name, tensor)) in tensors.into_iter().enumerate() {
        let (class, bytes) = storage(&tensor.values, half);
        pickle.tensor(name, &tensor.shape, class, key);
        storages.push(bytes);
    }
    add(&mut zip, "data.pkl", &pickle.end())?;
    add(&mut zip, "byteorder", b"little")?;
    for (key, bytes) in storages.iter().enumerate() {
        add(&mut zip, &format!("data/{key}"), bytes)?;
    }
    add(&mut zip, "version", b"3\n")?;
    Ok(zip.finish()?.into_inner())
}

fn add<W: Write + Seek>(zip: &mut ZipWriter<W>, name: &str, bytes: &[u8]) -> ZipResult<()> {
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    zip.start_file(format!("{ROOT}/{name}"), options.with_alignment(ALIGNMENT))?;
    Ok(zip.write_all(bytes)?)
}

/// The class of a storage, and its bytes.
fn storage(values: &Values, half: bool) -> (&'static str, Vec<u8>) {
    match values {
        Values::Int(values) => ("LongStorage", values.iter().flat_map(|value| value.to_le_bytes()).collect()),
        Values::Float(values) if half => {
            ("HalfStorage", values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect())
        }
        Values::Float(values) => {
            ("FloatStorage", values.iter().flat_map(|value| value.to_le_bytes()).collect())
        }
    }
}

/// Writes instructions of pickle protocol 2.
#[derive(Debug, Default)]
struct Pickler {
    bytes: Vec<u8>,
}

impl Pickler {
    fn begin(&mut self) {
        self.bytes.extend(b"\x80\x02ccollections\nOrderedDict\n)R(");
    }

    fn end(mut self) -> Vec<u8> {
        self.bytes.extend(b"u.");
        self.bytes
    }

    fn text(&mut self, text: &str) {
        self.bytes.push(b'X');
        self.bytes.extend(u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes());
        self.bytes.extend(text.as_bytes());
    }

    fn int(&mut self, value: usize) {
        if let Ok(small) = i32::try_from(value) {
            self.bytes.push(b'J');
            self.bytes.extend(small.to_le_bytes());
        } else {
            // Eight bytes of a signed number.
            self.bytes.extend([0x8a, 8]);
            self.bytes.extend((value as u64).to_le_bytes());
        }
    }

    fn tuple(&mut self, values: &[usize]) {
        self.bytes.push(b'(');
        for &value in values {
            self.int(value);
        }
        self.bytes.push(b't');
    }

    /// A name, and the call that makes its tensor out of storage `key`.
    fn tensor(&mut self, name: &str, shape: &[usize], class: &str, key: usize) {
        let mut strides = vec![1; shape.len()];
        for at in (1..shape.len()).rev() {
            strides[at - 1] = strides[at] * shape[at];
        }
        self.text(name);
        self.bytes.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        self.text("storage");
        self.bytes.extend(format!("ctorch\n{class}\n").as_bytes());
        self.text(&key.to_string());
        self.text("cpu");
        self.int(shape.iter().product());
        self.bytes.extend(b"tQ");
        self.int(0);
        self.tuple(shape);
        self.tuple(&strides);
        // No gradient, no hooks.
        self.bytes.extend(b"\x89ccollections\nOrderedDict\n)RtR");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import;

    #[test]
    fn what_is_written_reads_back() {
        let tensors = [
            (
                "a.weight",
                RawTensor { shape: vec![2, 3], values: Values::Float(vec![1.0, -2.5, 0.1, 4.0, 5.0, 6.0]) },
            ),
            ("a.steps", RawTensor { shape: vec![], values: Values::Int(vec![1 << 40]) }),
            ("b", RawTensor { shape: vec![0], values: Values::Float(Vec::new()) }),
        ];
        let bytes = write(tensors.iter().map(|(name, tensor)| (*name, tensor)), false).unwrap();
        let found = import::parse(Cursor::new(&bytes), bytes.len() as u64).unwrap();
        let expected: Vec<(String, RawTensor)> =
            tensors.iter().map(|(name, tensor)| ((*name).to_owned(), tensor.clone())).collect();
        assert_eq!(found.tensors, expected);

        let bytes = write([("a", &tensors[0].1)], true).unwrap();
        let found = import::parse(Cursor::new(&bytes), bytes.len() as u64).unwrap();
        let Values::Float(values) = &found.tensors[0].1.values else { panic!("floats") };
        assert_eq!(values[2], f16::from_f32(0.1).to_f32());
    }
}

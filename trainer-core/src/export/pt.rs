//! Writes PyTorch's `.pt` files: a ZIP of a pickled value and of the numbers of its tensors.

use std::io::{Cursor, Seek, Write};

use zip::result::ZipResult;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::pickle::{self, Py};
use super::storages::Storages;
use crate::import::RawTensor;

/// Storages begin at multiples of this, as torch's own do, so that they can be mapped.
const ALIGNMENT: u16 = 64;
/// The folder inside the ZIP.
const ROOT: &str = "weights";

/// A state dict, which `torch.load(path, weights_only=True)` reads: an `OrderedDict` of these tensors, in order.
pub fn state_dict<'a>(tensors: impl IntoIterator<Item = (&'a str, &'a RawTensor)>) -> Py<'a> {
    Py::Ordered(tensors.into_iter().map(|(name, tensor)| (Py::text(name), Py::Tensor(tensor))).collect())
}

/// Bytes of a `.pt` file with `value` in it. `half`: floats in 16 bits.
///
/// # Errors
/// When the ZIP cannot hold them: above 4 GiB.
pub fn write(value: &Py<'_>, half: bool) -> ZipResult<Vec<u8>> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let mut storages = Storages::new(half);
    add(&mut zip, "data.pkl", &pickle::write(value, &mut storages))?;
    add(&mut zip, "byteorder", b"little")?;
    for (key, bytes) in storages.bytes().enumerate() {
        add(&mut zip, &format!("data/{key}"), &bytes)?;
    }
    add(&mut zip, "version", b"3\n")?;
    Ok(zip.finish()?.into_inner())
}

fn add<W: Write + Seek>(zip: &mut ZipWriter<W>, name: &str, bytes: &[u8]) -> ZipResult<()> {
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    zip.start_file(format!("{ROOT}/{name}"), options.with_alignment(ALIGNMENT))?;
    Ok(zip.write_all(bytes)?)
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;
    use crate::import::{self, Values};

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
        let dict = state_dict(tensors.iter().map(|(name, tensor)| (*name, tensor)));
        let bytes = write(&dict, false).unwrap();
        let found = import::parse(Cursor::new(&bytes), bytes.len() as u64).unwrap();
        let expected: Vec<(String, RawTensor)> =
            tensors.iter().map(|(name, tensor)| ((*name).to_owned(), tensor.clone())).collect();
        assert_eq!(found.tensors, expected);

        let bytes = write(&state_dict([("a", &tensors[0].1)]), true).unwrap();
        let found = import::parse(Cursor::new(&bytes), bytes.len() as u64).unwrap();
        let Values::Float(values) = &found.tensors[0].1.values else { panic!("floats") };
        assert_eq!(values[2], f16::from_f32(0.1).to_f32());
    }
}

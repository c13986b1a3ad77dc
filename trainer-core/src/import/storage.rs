//! From a pickled tensor (storage, offset, sizes, strides) to its values.

use std::collections::HashMap;
use std::io::{Read, Seek};

use half::{bf16, f16};

use super::PtError;
use super::archive::Archive;
use super::pickle::{Id, Node, Pickle};

/// Values of all tensors together; the largest YOLOv8 has 68 million.
const MAX_VALUES: usize = 1 << 28;
/// Dimensions of a tensor.
const MAX_DIMENSIONS: usize = 8;

/// Numbers, row-major.
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    /// Floats of any width become these.
    Float(Vec<f32>),
    /// Whole numbers and truth values of any width become these.
    Int(Vec<i64>),
}

/// A tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct RawTensor {
    /// Sizes of its dimensions.
    pub shape: Vec<usize>,
    /// The tensor's numbers, row-major.
    pub values: Values,
}

/// Types of storages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Float,
    Half,
    BFloat16,
    Double,
    Long,
    Int,
    Short,
    Char,
    Byte,
}

impl Kind {
    fn parse(class: &str) -> Option<Self> {
        let name = class.strip_prefix("torch.")?.strip_suffix("Storage")?;
        Some(match name.strip_prefix("cuda.").unwrap_or(name) {
            "Float" => Self::Float,
            "Half" => Self::Half,
            "BFloat16" => Self::BFloat16,
            "Double" => Self::Double,
            "Long" => Self::Long,
            "Int" => Self::Int,
            "Short" => Self::Short,
            "Char" => Self::Char,
            "Byte" | "Bool" => Self::Byte,
            _ => return None,
        })
    }

    const fn bytes(self) -> usize {
        match self {
            Self::Double | Self::Long => 8,
            Self::Float | Self::Int => 4,
            Self::Half | Self::BFloat16 | Self::Short => 2,
            Self::Char | Self::Byte => 1,
        }
    }

    /// All values of a storage.
    fn decode(self, bytes: &[u8]) -> Values {
        fn each<const N: usize, T>(bytes: &[u8], value: impl Fn([u8; N]) -> T) -> Vec<T> {
            bytes.chunks_exact(N).map(|chunk| value(std::array::from_fn(|at| chunk[at]))).collect()
        }
        match self {
            Self::Float => Values::Float(each(bytes, f32::from_le_bytes)),
            Self::Half => Values::Float(each(bytes, |two| f16::from_le_bytes(two).to_f32())),
            Self::BFloat16 => Values::Float(each(bytes, |two| bf16::from_le_bytes(two).to_f32())),
            Self::Double => Values::Float(each(bytes, |eight| f64::from_le_bytes(eight) as f32)),
            Self::Long => Values::Int(each(bytes, i64::from_le_bytes)),
            Self::Int => Values::Int(each(bytes, |four| i32::from_le_bytes(four).into())),
            Self::Short => Values::Int(each(bytes, |two| i16::from_le_bytes(two).into())),
            Self::Char => Values::Int(each(bytes, |[byte]: [u8; 1]| (byte as i8).into())),
            Self::Byte => Values::Int(each(bytes, |[byte]: [u8; 1]| byte.into())),
        }
    }
}

/// Where a tensor's values are.
struct Place {
    kind: Kind,
    key: u32,
    /// Values of the storage.
    length: usize,
    offset: usize,
    shape: Vec<usize>,
    strides: Vec<usize>,
}

/// Reads tensors, each storage once.
pub(super) struct Storages<'a, R> {
    archive: &'a mut Archive<R>,
    read: HashMap<u32, (Kind, Values)>,
    /// Values taken so far.
    taken: usize,
}

impl<'a, R: Read + Seek> Storages<'a, R> {
    pub(super) fn new(archive: &'a mut Archive<R>) -> Self {
        Self { archive, read: HashMap::new(), taken: 0 }
    }

    /// The values of the tensor `id`, which goes by `name`.
    pub(super) fn tensor(&mut self, pickle: &Pickle, id: Id, name: &str) -> Result<RawTensor, PtError> {
        let wrong = |what| PtError::Tensor { name: name.to_owned(), what };
        let place = place(pickle, id).map_err(wrong)?;
        let mut count = 1_usize;
        let mut last = place.offset;
        for (&size, &stride) in place.shape.iter().zip(&place.strides) {
            // A stride of 0 makes much out of little.
            if stride == 0 && size > 1 {
                return Err(wrong("values that repeat"));
            }
            count = count
                .checked_mul(size)
                .filter(|count| *count <= MAX_VALUES)
                .ok_or_else(|| wrong("too many values"))?;
            last = size
                .saturating_sub(1)
                .checked_mul(stride)
                .and_then(|way| last.checked_add(way))
                .ok_or_else(|| wrong("strides beyond all memory"))?;
        }
        if count > 0 && last >= place.length {
            return Err(wrong("values outside of its storage"));
        }
        self.taken += count;
        if self.taken > MAX_VALUES {
            return Err(PtError::TooLarge { what: "values in all tensors", limit: MAX_VALUES as u64 });
        }
        let (kind, values) = self.storage(&place)?;
        let length = match values {
            Values::Float(values) => values.len(),
            Values::Int(values) => values.len(),
        };
        if *kind != place.kind || length != place.length {
            return Err(wrong("a storage that another tensor takes for another type or size"));
        }
        let values = match values {
            Values::Float(values) => Values::Float(gather(values, &place, count)),
            Values::Int(values) => Values::Int(gather(values, &place, count)),
        };
        Ok(RawTensor { shape: place.shape, values })
    }

    fn storage(&mut self, place: &Place) -> Result<&(Kind, Values), PtError> {
        use std::collections::hash_map::Entry;
        match self.read.entry(place.key) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => {
                let bytes = (place.length as u64).saturating_mul(place.kind.bytes() as u64);
                let bytes = self.archive.storage(place.key, bytes)?;
                Ok(entry.insert((place.kind, place.kind.decode(&bytes))))
            }
        }
    }
}

/// The values that a tensor has of its storage, row-major. The bounds have been checked.
fn gather<T: Copy>(values: &[T], place: &Place, count: usize) -> Vec<T> {
    let mut contiguous = 1;
    let mut dense = true;
    for (&size, &stride) in place.shape.iter().zip(&place.strides).rev() {
        dense &= size <= 1 || stride == contiguous;
        contiguous *= size;
    }
    if count == 0 || dense {
        return values[place.offset.min(values.len())..][..count].to_vec();
    }
    let mut index = vec![0_usize; place.shape.len()];
    let mut found = Vec::with_capacity(count);
    for _ in 0..count {
        let at: usize = index.iter().zip(&place.strides).map(|(index, stride)| index * stride).sum();
        found.push(values[place.offset + at]);
        for (index, &size) in index.iter_mut().zip(&place.shape).rev() {
            *index += 1;
            if *index < size {
                break;
            }
            *index = 0;
        }
    }
    found
}

/// Whether that value is a tensor or a parameter.
pub(super) fn is_tensor(pickle: &Pickle, id: Id) -> bool {
    pickle.callee(id).is_some_and(|name| name.starts_with("torch._utils._rebuild_"))
}

/// Where the pickle says that the tensor is, or what is wrong with what it says.
fn place(pickle: &Pickle, id: Id) -> Result<Place, &'static str> {
    let mut id = id;
    if matches!(
        pickle.callee(id),
        Some("torch._utils._rebuild_parameter" | "torch._utils._rebuild_parameter_with_state")
    ) {
        id = pickle.arguments(id).and_then(|args| args.first()).copied().ok_or("no value")?;
    }
    if !matches!(pickle.callee(id), Some("torch._utils._rebuild_tensor_v2" | "torch._utils._rebuild_tensor"))
    {
        return Err("a form that is not supported (sparse, quantised, or of another type)");
    }
    let [storage, offset, shape, strides, ..] = pickle.arguments(id).ok_or("no arguments")? else {
        return Err("too few arguments");
    };
    let Node::External(storage) = pickle.node(*storage) else { return Err("no storage") };
    let [tag, class, key, _, length] = pickle.tuple(*storage).ok_or("no storage")? else {
        return Err("an unknown kind of storage");
    };
    let Node::Global(class) = pickle.node(*class) else { return Err("a storage without a type") };
    if pickle.text(*tag) != Some("storage") {
        return Err("an unknown kind of storage");
    }
    let kind = Kind::parse(class).ok_or("a type of values that is not supported")?;
    // Digits only: it becomes part of a name.
    let key = pickle.text(*key).filter(|key| key.bytes().all(|byte| byte.is_ascii_digit()));
    let key = key.and_then(|key| key.parse().ok()).ok_or("a storage whose key is not a number")?;
    let size = |id: &Id| pickle.int(*id).and_then(|size| usize::try_from(size).ok());
    let sizes = |id: Id| -> Option<Vec<usize>> { pickle.members(id)?.iter().map(size).collect() };
    let shape = sizes(*shape).ok_or("no sizes")?;
    let strides = sizes(*strides).ok_or("no strides")?;
    if shape.len() != strides.len() || shape.len() > MAX_DIMENSIONS {
        return Err("sizes and strides that do not fit");
    }
    let (length, offset) = (size(length).ok_or("no length")?, size(offset).ok_or("no offset")?);
    Ok(Place { kind, key, length, offset, shape, strides })
}

//! Writes Python values as a pickle of protocol 2, the one that `torch.save` writes. Nothing is shared: a value
//! that is there twice is written twice.

use super::storages::Storages;
use crate::import::RawTensor;

/// A Python value.
#[derive(Debug, Clone)]
pub enum Py<'a> {
    /// `None`
    None,
    /// `True`
    Bool(bool),
    /// `3`
    Int(i64),
    /// `0.5`
    Float(f64),
    /// `"text"`
    Text(String),
    /// `[…]`
    List(Vec<Py<'a>>),
    /// `(…)`
    Tuple(Vec<Py<'a>>),
    /// `{…}`, in order
    Dict(Vec<(Py<'a>, Py<'a>)>),
    /// `collections.OrderedDict`
    Ordered(Vec<(Py<'a>, Py<'a>)>),
    /// `set()`, an empty one
    Set,
    /// `torch.Tensor`
    Tensor(&'a RawTensor),
    /// `torch.nn.Parameter`
    Parameter(&'a RawTensor),
    /// An object of `module`, `class` with these attributes.
    Object(&'static str, &'static str, Vec<(Py<'a>, Py<'a>)>),
}

impl<'a> Py<'a> {
    /// A text as a Python value.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// Pairs with texts as keys, for a [`Py::Dict`] or an object's attributes.
    pub fn named<const N: usize>(pairs: [(&str, Py<'a>); N]) -> Vec<(Self, Self)> {
        pairs.into_iter().map(|(name, value)| (Self::text(name), value)).collect()
    }

    /// `(a, b, …)` of whole numbers.
    pub fn ints(values: impl IntoIterator<Item = i64>) -> Self {
        Self::Tuple(values.into_iter().map(Py::Int).collect())
    }
}

/// The pickle of `value`. The numbers of its tensors go to `storages`.
pub fn write<'a>(value: &Py<'a>, storages: &mut Storages<'a>) -> Vec<u8> {
    let mut pickler = Pickler { bytes: b"\x80\x02".to_vec(), storages };
    pickler.value(value);
    pickler.bytes.push(b'.');
    pickler.bytes
}

/// Writes a pickle's instructions.
struct Pickler<'a, 's> {
    bytes: Vec<u8>,
    storages: &'s mut Storages<'a>,
}

impl<'a> Pickler<'a, '_> {
    fn value(&mut self, value: &Py<'a>) {
        match value {
            Py::None => self.bytes.push(b'N'),
            Py::Bool(value) => self.bytes.push(if *value { 0x88 } else { 0x89 }),
            Py::Int(value) => self.int(*value),
            Py::Float(value) => {
                self.bytes.push(b'G');
                self.bytes.extend(value.to_be_bytes());
            }
            Py::Text(text) => self.text(text),
            Py::List(values) => {
                self.bytes.extend(b"](");
                self.all(values);
                self.bytes.push(b'e');
            }
            Py::Tuple(values) => {
                self.bytes.push(b'(');
                self.all(values);
                self.bytes.push(b't');
            }
            Py::Dict(pairs) => self.dict(pairs),
            Py::Ordered(pairs) => {
                self.global("collections", "OrderedDict");
                self.bytes.extend(b")R");
                self.items(pairs);
            }
            Py::Set => {
                self.global("__builtin__", "set");
                self.bytes.extend(b"](e\x85R");
            }
            Py::Tensor(tensor) => self.tensor(tensor),
            Py::Parameter(tensor) => {
                self.global("torch._utils", "_rebuild_parameter");
                self.bytes.push(b'(');
                self.tensor(tensor);
                // It takes no gradient, and has no hooks.
                self.bytes.push(0x89);
                self.value(&Py::Ordered(Vec::new()));
                self.bytes.extend(b"tR");
            }
            Py::Object(module, class, attributes) => {
                self.global(module, class);
                self.bytes.extend(b")\x81");
                self.dict(attributes);
                self.bytes.push(b'b');
            }
        }
    }

    fn all(&mut self, values: &[Py<'a>]) {
        for value in values {
            self.value(value);
        }
    }

    fn dict(&mut self, pairs: &[(Py<'a>, Py<'a>)]) {
        self.bytes.push(b'}');
        self.items(pairs);
    }

    /// Puts pairs into the dictionary made last.
    fn items(&mut self, pairs: &[(Py<'a>, Py<'a>)]) {
        self.bytes.push(b'(');
        for (key, value) in pairs {
            self.value(key);
            self.value(value);
        }
        self.bytes.push(b'u');
    }

    fn global(&mut self, module: &str, name: &str) {
        self.bytes.extend(format!("c{module}\n{name}\n").as_bytes());
    }

    fn text(&mut self, text: &str) {
        self.bytes.push(b'X');
        self.bytes.extend(u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes());
        self.bytes.extend(text.as_bytes());
    }

    fn int(&mut self, value: i64) {
        if let Ok(small) = i32::try_from(value) {
            self.bytes.push(b'J');
            self.bytes.extend(small.to_le_bytes());
        } else {
            // Eight bytes of a signed number.
            self.bytes.extend([0x8a, 8]);
            self.bytes.extend(value.to_le_bytes());
        }
    }

    fn size(&mut self, value: usize) {
        self.int(i64::try_from(value).unwrap_or(i64::MAX));
    }

    fn sizes(&mut self, values: &[usize]) {
        self.bytes.push(b'(');
        for &value in values {
            self.size(value);
        }
        self.bytes.push(b't');
    }

    /// The call that makes a tensor out of its storage.
    fn tensor(&mut self, tensor: &'a RawTensor) {
        let (class, key) = self.storages.add(&tensor.values);
        let shape = &tensor.shape;
        let mut strides = vec![1; shape.len()];
        for at in (1..shape.len()).rev() {
            strides[at - 1] = strides[at] * shape[at];
        }
        self.global("torch._utils", "_rebuild_tensor_v2");
        self.bytes.extend(b"((");
        self.text("storage");
        self.global("torch", class);
        self.text(&key.to_string());
        self.text("cpu");
        self.size(shape.iter().product());
        self.bytes.extend(b"tQ");
        self.size(0);
        self.sizes(shape);
        self.sizes(&strides);
        // No gradient, no hooks.
        self.bytes.push(0x89);
        self.value(&Py::Ordered(Vec::new()));
        self.bytes.extend(b"tR");
    }
}

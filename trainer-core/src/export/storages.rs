//! The numbers of tensors, as `.pt` files keep them.

use half::f16;

use crate::import::Values;

/// Storages of a file, in the order of their keys.
#[derive(Debug)]
pub struct Storages<'a> {
    values: Vec<&'a Values>,
    half: bool,
}

impl<'a> Storages<'a> {
    /// None yet. `half`: floats in 16 bits.
    pub const fn new(half: bool) -> Self {
        Self { values: Vec::new(), half }
    }

    /// Takes one more; returns its class and its key.
    pub fn add(&mut self, values: &'a Values) -> (&'static str, usize) {
        self.values.push(values);
        let class = match values {
            Values::Int(_) => "LongStorage",
            Values::Float(_) if self.half => "HalfStorage",
            Values::Float(_) => "FloatStorage",
        };
        (class, self.values.len() - 1)
    }

    /// Bytes of each, little end first, made when asked for.
    pub fn bytes(&self) -> impl Iterator<Item = Vec<u8>> {
        self.values.iter().map(|values| match values {
            Values::Int(values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Values::Float(values) if self.half => {
                values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect()
            }
            Values::Float(values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        })
    }
}

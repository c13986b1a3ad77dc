//! Random messages of every method, by the descriptors: their fields are right, what is in them need not be.

use std::collections::BTreeMap;

use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint};
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet};

use super::Rng;

/// A method as it stands in a path, and what it takes.
pub struct Method {
    pub path: String,
    pub input: String,
}

/// Everything that the scheduler serves.
pub struct Schema {
    messages: BTreeMap<String, DescriptorProto>,
    pub methods: Vec<Method>,
}

impl Schema {
    pub fn new(sets: &[&[u8]]) -> Self {
        let mut schema = Self { messages: BTreeMap::new(), methods: Vec::new() };
        for file in sets.iter().flat_map(|set| FileDescriptorSet::decode(*set).unwrap().file) {
            let package = format!(".{}", file.package());
            for message in &file.message_type {
                schema.add(&package, message);
            }
            for service in &file.service {
                for method in &service.method {
                    let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                    schema.methods.push(Method { path, input: method.input_type().to_owned() });
                }
            }
        }
        schema
    }

    fn add(&mut self, scope: &str, message: &DescriptorProto) {
        let name = format!("{scope}.{}", message.name());
        for inner in &message.nested_type {
            self.add(&name, inner);
        }
        self.messages.insert(name, message.clone());
    }

    /// One message. Texts are of `words`, or nonsense.
    pub fn message(&self, rng: &mut Rng, name: &str, words: &[String], depth: usize) -> Vec<u8> {
        let Some(message) = self.messages.get(name) else { return Vec::new() };
        let mut bytes = Vec::new();
        for field in &message.field {
            let count = match (field.label(), rng.below(60)) {
                // A list without end, now and then.
                (Label::Repeated, 0) if depth < 2 => 300 + rng.below(3000),
                (Label::Repeated, draw) => draw % 3,
                (_, draw) => usize::from(draw % 4 > 0),
            };
            for _ in 0..count {
                self.field(rng, field, words, depth, &mut bytes);
            }
        }
        bytes
    }

    fn field(
        &self,
        rng: &mut Rng,
        field: &FieldDescriptorProto,
        words: &[String],
        depth: usize,
        bytes: &mut Vec<u8>,
    ) {
        let tag = u32::try_from(field.number()).unwrap();
        let mut delimited = |content: &[u8]| {
            encode_key(tag, WireType::LengthDelimited, bytes);
            encode_varint(content.len() as u64, bytes);
            bytes.extend(content);
        };
        match field.r#type() {
            Type::Message if depth < 6 => {
                delimited(&self.message(rng, field.type_name(), words, depth + 1));
            }
            Type::Message | Type::Group => {}
            Type::String => match rng.below(8) {
                0 => delimited("x".repeat(rng.below(9000)).as_bytes()),
                1 => delimited(b""),
                _ => delimited(words[rng.below(words.len())].as_bytes()),
            },
            Type::Bytes => delimited(&rng.bytes(40)),
            Type::Double => {
                encode_key(tag, WireType::SixtyFourBit, bytes);
                let values = [0.0, 0.5, 1.0, -1.0, 1e300, f64::NAN, f64::INFINITY];
                bytes.extend(values[rng.below(values.len())].to_le_bytes());
            }
            Type::Fixed64 | Type::Sfixed64 => {
                encode_key(tag, WireType::SixtyFourBit, bytes);
                bytes.extend(rng.number().to_le_bytes());
            }
            Type::Float | Type::Fixed32 | Type::Sfixed32 => {
                encode_key(tag, WireType::ThirtyTwoBit, bytes);
                bytes.extend([0, 0, 128, 63]);
            }
            _ => {
                encode_key(tag, WireType::Varint, bytes);
                encode_varint(rng.number(), bytes);
            }
        }
    }
}

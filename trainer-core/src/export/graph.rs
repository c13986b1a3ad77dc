//! Builds an ONNX graph operator by operator; every value gets a name of its own.

use half::f16;

use super::proto::{
    AttributeProto, FLOAT, FLOAT16, GraphProto, INT64, NodeProto, TensorProto, ValueInfoProto,
};

/// A graph that grows. Functions return the name of the value that they add.
#[derive(Debug, Default)]
pub struct Graph {
    proto: GraphProto,
    /// Constants given by [`Graph::weights`] are stored in 16 bits.
    half: bool,
}

impl Graph {
    /// An empty graph. `half`: weights are stored in 16 bits.
    pub fn new(half: bool) -> Self {
        let proto = GraphProto { name: "yolov8".to_owned(), ..GraphProto::default() };
        Self { proto, half }
    }

    /// The type of what is computed with weights.
    pub const fn float(&self) -> i32 {
        if self.half { FLOAT16 } else { FLOAT }
    }

    /// The graph with its ends.
    pub fn finish(mut self, input: ValueInfoProto, output: ValueInfoProto) -> GraphProto {
        self.proto.input.push(input);
        self.proto.output.push(output);
        self.proto
    }

    /// An operator with one result, called `name`.
    pub fn named(
        &mut self,
        name: &str,
        operator: &str,
        inputs: &[&str],
        attributes: Vec<AttributeProto>,
    ) -> String {
        self.proto.node.push(NodeProto {
            input: inputs.iter().map(|&input| input.to_owned()).collect(),
            output: vec![name.to_owned()],
            name: format!("{name}/{operator}"),
            op_type: operator.to_owned(),
            attribute: attributes,
        });
        name.to_owned()
    }

    /// An operator with one result.
    pub fn add(&mut self, operator: &str, inputs: &[&str], attributes: Vec<AttributeProto>) -> String {
        let name = self.fresh(operator);
        self.named(&name, operator, inputs, attributes)
    }

    /// Two halves along `axis`, each of `size`.
    pub fn halves(&mut self, value: &str, axis: i64, size: i64) -> [String; 2] {
        let sizes = self.ints(&[size, size]);
        self.add_pair("Split", &[value, &sizes], vec![AttributeProto::int("axis", axis)])
    }

    /// An operator with two results.
    pub fn add_pair(
        &mut self,
        operator: &str,
        inputs: &[&str],
        attributes: Vec<AttributeProto>,
    ) -> [String; 2] {
        let first = self.add(operator, inputs, attributes);
        let second = format!("{first}.1");
        self.proto.node.last_mut().expect("the operator was just added").output.push(second.clone());
        [first, second]
    }

    /// All values along `axis`.
    pub fn concat(&mut self, values: &[&str], axis: i64) -> String {
        self.add("Concat", values, vec![AttributeProto::int("axis", axis)])
    }

    /// A value in another shape; 0 keeps a size, -1 takes what is left.
    pub fn reshape(&mut self, value: &str, shape: &[i64]) -> String {
        let shape = self.ints(shape);
        self.add("Reshape", &[value, &shape], Vec::new())
    }

    /// A constant of whole numbers.
    pub fn ints(&mut self, values: &[i64]) -> String {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let name = self.fresh("ints");
        self.constant(name, &[values.len()], INT64, bytes)
    }

    /// A constant of floats that stay in 32 bits.
    pub fn floats(&mut self, shape: &[usize], values: &[f32]) -> String {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let name = self.fresh("floats");
        self.constant(name, shape, FLOAT, bytes)
    }

    /// A constant of weights under their own name.
    pub fn weights(&mut self, name: String, shape: &[usize], values: &[f32]) -> String {
        let bytes = if self.half {
            values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect()
        } else {
            values.iter().flat_map(|value| value.to_le_bytes()).collect()
        };
        let kind = self.float();
        self.constant(name, shape, kind, bytes)
    }

    fn constant(&mut self, name: String, shape: &[usize], data_type: i32, raw_data: Vec<u8>) -> String {
        let dims = shape.iter().map(|&size| i64::try_from(size).unwrap_or(i64::MAX)).collect();
        self.proto.initializer.push(TensorProto { dims, data_type, name: name.clone(), raw_data });
        name
    }

    fn fresh(&self, what: &str) -> String {
        format!("{what}_{}", self.proto.node.len() + self.proto.initializer.len())
    }
}

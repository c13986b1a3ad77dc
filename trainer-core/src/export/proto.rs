//! The messages of ONNX files that a detector needs; numbers and names are those of the ONNX standard.

/// A whole ONNX file.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ModelProto {
    /// Version of the file format.
    #[prost(int64, tag = "1")]
    pub ir_version: i64,
    /// The program that wrote the file.
    #[prost(string, tag = "2")]
    pub producer_name: String,
    /// That program's release.
    #[prost(string, tag = "3")]
    pub producer_version: String,
    /// The graph that the model computes.
    #[prost(message, optional, tag = "7")]
    pub graph: Option<GraphProto>,
    /// The operator sets that the graph uses.
    #[prost(message, repeated, tag = "8")]
    pub opset_import: Vec<OperatorSetIdProto>,
    /// What else a user of the file should know.
    #[prost(message, repeated, tag = "14")]
    pub metadata_props: Vec<StringStringEntryProto>,
}

/// A set of operators.
#[derive(Clone, PartialEq, prost::Message)]
pub struct OperatorSetIdProto {
    /// Its name; empty for ONNX's own.
    #[prost(string, tag = "1")]
    pub domain: String,
    /// The set's version, from 1.
    #[prost(int64, tag = "2")]
    pub version: i64,
}

/// A line of metadata.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StringStringEntryProto {
    /// Its name, such as `names`.
    #[prost(string, tag = "1")]
    pub key: String,
    /// Its value, such as `{0: 'cat'}`.
    #[prost(string, tag = "2")]
    pub value: String,
}

/// Operators in the order in which they compute.
#[derive(Clone, PartialEq, prost::Message)]
pub struct GraphProto {
    /// The operators, in the order of computation.
    #[prost(message, repeated, tag = "1")]
    pub node: Vec<NodeProto>,
    /// The graph's name, which must not be empty.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Constants: weights and shapes.
    #[prost(message, repeated, tag = "5")]
    pub initializer: Vec<TensorProto>,
    /// The values that go in.
    #[prost(message, repeated, tag = "11")]
    pub input: Vec<ValueInfoProto>,
    /// The values that come out.
    #[prost(message, repeated, tag = "12")]
    pub output: Vec<ValueInfoProto>,
}

/// An operator with its arguments.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NodeProto {
    /// Names of values; empty for an argument that is left out.
    #[prost(string, repeated, tag = "1")]
    pub input: Vec<String>,
    /// Names of values.
    #[prost(string, repeated, tag = "2")]
    pub output: Vec<String>,
    /// A name for people.
    #[prost(string, tag = "3")]
    pub name: String,
    /// The operator, such as `Conv`.
    #[prost(string, tag = "4")]
    pub op_type: String,
    /// Its attributes, such as strides.
    #[prost(message, repeated, tag = "5")]
    pub attribute: Vec<AttributeProto>,
}

/// A named constant of an operator.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AttributeProto {
    /// Its name, such as `strides`.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The value of an [`AttributeProto::INT`].
    #[prost(int64, optional, tag = "3")]
    pub i: Option<i64>,
    /// The value of an [`AttributeProto::STRING`].
    #[prost(bytes = "vec", optional, tag = "4")]
    pub s: Option<Vec<u8>>,
    /// The values of an [`AttributeProto::INTS`].
    #[prost(int64, repeated, packed = "false", tag = "8")]
    pub ints: Vec<i64>,
    /// Which of the values counts.
    #[prost(int32, tag = "20")]
    pub r#type: i32,
}

impl AttributeProto {
    const INT: i32 = 2;
    const STRING: i32 = 3;
    const INTS: i32 = 7;

    /// An attribute with one number.
    pub fn int(name: &str, value: i64) -> Self {
        Self { name: name.to_owned(), i: Some(value), r#type: Self::INT, ..Self::default() }
    }

    /// An attribute with a text.
    pub fn text(name: &str, value: &str) -> Self {
        let s = Some(value.as_bytes().to_vec());
        Self { name: name.to_owned(), s, r#type: Self::STRING, ..Self::default() }
    }

    /// An attribute with several numbers.
    pub fn ints(name: &str, values: &[i64]) -> Self {
        Self { name: name.to_owned(), ints: values.to_vec(), r#type: Self::INTS, ..Self::default() }
    }
}

/// A constant.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TensorProto {
    /// Sizes; none for a single number.
    #[prost(int64, repeated, packed = "false", tag = "1")]
    pub dims: Vec<i64>,
    /// The elements' type: [`FLOAT`], [`INT64`] or [`FLOAT16`].
    #[prost(int32, tag = "2")]
    pub data_type: i32,
    /// The value's name.
    #[prost(string, tag = "8")]
    pub name: String,
    /// The elements, row-major, little-endian.
    #[prost(bytes = "vec", tag = "9")]
    pub raw_data: Vec<u8>,
}

/// Element type: 32-bit floats.
pub const FLOAT: i32 = 1;
/// Element type: 64-bit whole numbers.
pub const INT64: i32 = 7;
/// Element type: 16-bit floats.
pub const FLOAT16: i32 = 10;

/// A value that goes in or comes out.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ValueInfoProto {
    /// Its name, such as `images`.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its type.
    #[prost(message, optional, tag = "2")]
    pub r#type: Option<TypeProto>,
}

impl ValueInfoProto {
    /// A tensor; sizes are numbers, or names for what is known later.
    pub fn tensor(name: &str, elem_type: i32, sizes: &[Result<i64, &str>]) -> Self {
        let dim = sizes
            .iter()
            .map(|size| match size {
                Ok(size) => Dimension { value: Some(DimensionValue::DimValue(*size)) },
                Err(name) => Dimension { value: Some(DimensionValue::DimParam((*name).to_owned())) },
            })
            .collect();
        let tensor_type = TensorType { elem_type, shape: Some(TensorShapeProto { dim }) };
        let r#type = Some(TypeProto { tensor_type: Some(tensor_type) });
        Self { name: name.to_owned(), r#type }
    }
}

/// A type; of the kinds that there are, only tensors.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TypeProto {
    /// The type of a tensor.
    #[prost(message, optional, tag = "1")]
    pub tensor_type: Option<TensorType>,
}

/// A tensor's type.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TensorType {
    /// The elements' type, as in [`TensorProto`].
    #[prost(int32, tag = "1")]
    pub elem_type: i32,
    /// Its sizes.
    #[prost(message, optional, tag = "2")]
    pub shape: Option<TensorShapeProto>,
}

/// Sizes of a tensor.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TensorShapeProto {
    /// The sizes, from the outermost dimension on.
    #[prost(message, repeated, tag = "1")]
    pub dim: Vec<Dimension>,
}

/// The size of a dimension.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Dimension {
    /// Known now, or a name.
    #[prost(oneof = "DimensionValue", tags = "1, 2")]
    pub value: Option<DimensionValue>,
}

/// See [`Dimension`].
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum DimensionValue {
    /// A size that is known now.
    #[prost(int64, tag = "1")]
    DimValue(i64),
    /// The name of a size that is known when the model runs.
    #[prost(string, tag = "2")]
    DimParam(String),
}

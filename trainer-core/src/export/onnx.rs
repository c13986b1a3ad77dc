//! Writes a detector as an ONNX file: input `images`, output `output0`, metadata as Ultralytics' tools read.
//!
//! Every batch normalisation is folded into the convolution before it. Knows nothing of libtorch.

use prost::Message;

use super::graph::Graph;
use super::onnx_nms::{self, NmsOptions};
use super::proto::{
    AttributeProto, FLOAT, ModelProto, OperatorSetIdProto, StringStringEntryProto, ValueInfoProto,
};
use super::{ExportError, RawTensors, floats};
use crate::import::RawTensor;
use crate::model::blocks::BN_EPS;
use crate::model::plan::{BINS, LayerKind, Plan, STRIDES};

/// Version of the file format; that of ONNX 1.12, which all current readers know.
const IR_VERSION: i64 = 8;
/// Version of the operators.
const OPSET: i64 = 17;

/// How an ONNX file is to be made.
#[derive(Debug, Clone, PartialEq)]
pub struct OnnxOptions {
    /// Height and width of the images; multiples of 32.
    pub size: [usize; 2],
    /// Images at a time; `None` leaves it to whoever runs it.
    pub batch: Option<usize>,
    /// Input and weights in 16 bits. Boxes and scores are still computed and given in 32.
    pub half: bool,
    /// Class names by id.
    pub names: Vec<String>,
    /// Detections come out instead of everything that the model says.
    pub nms: Option<NmsOptions>,
}

/// Bytes of an ONNX file with the model `plan` and its weights.
///
/// Input `images` is `[N, 3, height, width]`, RGB in 0 to 1. Output `output0` is `[N, 4 + classes, anchors]`:
/// centre x, centre y, width, height in pixels of the input, then a score in 0 to 1 for each class; with
/// [`OnnxOptions::nms`], see [`onnx_nms::select`].
///
/// # Errors
/// When a tensor is missing or has another shape than `plan` says.
pub fn write(plan: &Plan, tensors: &RawTensors, options: &OnnxOptions) -> Result<Vec<u8>, ExportError> {
    let mut writer = Writer { graph: Graph::new(options.half), tensors };
    let maps = writer.layers(plan)?;
    let [boxes, scores] = writer.head(plan, &maps, options)?;
    let batch = options.batch.map_or(Err("batch"), |batch| Ok(size(batch)));
    let [height, width] = options.size.map(size);
    let anchors: i64 = STRIDES.iter().map(|stride| (height / stride) * (width / stride)).sum();
    let mut graph = writer.graph;
    let classes = plan.head.classes;
    let shape = if let Some(nms) = options.nms {
        [onnx_nms::select(&mut graph, [&boxes, &scores], [classes, anchors], nms), 6]
    } else {
        graph.named("output0", "Concat", &[&boxes, &scores], vec![AttributeProto::int("axis", 1)]);
        [4 + classes, anchors]
    };
    let input = ValueInfoProto::tensor("images", graph.float(), &[batch, Ok(3), Ok(height), Ok(width)]);
    let output = ValueInfoProto::tensor("output0", FLOAT, &[batch, Ok(shape[0]), Ok(shape[1])]);
    let model = ModelProto {
        ir_version: IR_VERSION,
        producer_name: "trainyard".to_owned(),
        producer_version: env!("CARGO_PKG_VERSION").to_owned(),
        graph: Some(graph.finish(input, output)),
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: OPSET }],
        metadata_props: metadata(plan, options),
    };
    Ok(model.encode_to_vec())
}

fn size(size: usize) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

/// Texts that Python's `ast.literal_eval` reads, as Ultralytics' tools expect.
fn metadata(plan: &Plan, options: &OnnxOptions) -> Vec<StringStringEntryProto> {
    let names: Vec<String> =
        options.names.iter().enumerate().map(|(id, name)| format!("{id}: {}", python_text(name))).collect();
    let truth = |value| if value { "True" } else { "False" };
    let [half, dynamic, nms] = [options.half, options.batch.is_none(), options.nms.is_some()].map(truth);
    let batch = options.batch.unwrap_or(1);
    let [height, width] = options.size;
    let entries = [
        ("description", format!("{} detector, {} classes", plan.scale, plan.head.classes)),
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("stride", STRIDES[2].to_string()),
        ("task", "detect".to_owned()),
        ("batch", batch.to_string()),
        ("imgsz", format!("[{height}, {width}]")),
        ("names", format!("{{{}}}", names.join(", "))),
        ("channels", "3".to_owned()),
        ("args", format!("{{'batch': {batch}, 'half': {half}, 'dynamic': {dynamic}, 'nms': {nms}}}")),
    ];
    entries.map(|(key, value)| StringStringEntryProto { key: key.to_owned(), value }).into()
}

/// `text` as a Python literal.
fn python_text(text: &str) -> String {
    let mut literal = String::from("'");
    for character in text.chars() {
        match character {
            '\'' | '\\' => literal.extend(['\\', character]),
            '\n' => literal.push_str("\\n"),
            control if control.is_control() => literal.push_str(&format!("\\u{:04x}", u32::from(control))),
            other => literal.push(other),
        }
    }
    literal.push('\'');
    literal
}

struct Writer<'a> {
    graph: Graph,
    tensors: &'a RawTensors,
}

impl<'a> Writer<'a> {
    /// All layers but the head; returns the three maps that enter it.
    fn layers(&mut self, plan: &Plan) -> Result<[String; 3], ExportError> {
        let mut outputs: Vec<String> = Vec::with_capacity(plan.layers.len());
        for layer in &plan.layers {
            let path = format!("model.{}", layer.index);
            let x = layer.from.first().map_or("images", |&from| outputs[from].as_str()).to_owned();
            let output = match layer.kind {
                LayerKind::Conv => self.conv(&path, &x, [layer.input, layer.output, 3], 2)?,
                LayerKind::C2f { hidden, repeats, shortcut } => {
                    self.c2f(&path, &x, [layer.input, layer.output, hidden], repeats, shortcut)?
                }
                LayerKind::Sppf { hidden } => self.sppf(&path, &x, [layer.input, layer.output, hidden])?,
                LayerKind::Upsample => self.double(&x),
                LayerKind::Concat => {
                    let parts: Vec<&str> = layer.from.iter().map(|&from| outputs[from].as_str()).collect();
                    self.graph.concat(&parts, 1)
                }
            };
            outputs.push(output);
        }
        Ok(plan.head.from.map(|at| outputs[at].clone()))
    }

    fn tensor(&self, name: &str, shape: &[i64]) -> Result<&'a RawTensor, ExportError> {
        let missing = || ExportError::Missing(name.to_owned());
        let tensor = self.tensors.get(name).ok_or_else(missing)?;
        let found = tensor.shape.iter().map(|&side| size(side));
        if found.eq(shape.iter().copied()) { Ok(tensor) } else { Err(missing()) }
    }

    fn floats(&self, name: &str, shape: &[i64]) -> Result<&'a [f32], ExportError> {
        floats(name, self.tensor(name, shape)?)
    }

    /// Convolution, batch normalisation, SiLU; the first two as one convolution with a bias.
    fn conv(&mut self, path: &str, x: &str, sizes: [i64; 3], stride: i64) -> Result<String, ExportError> {
        let [input, output, side] = sizes;
        let name = format!("{path}.conv.weight");
        let kernel = self.tensor(&name, &[output, input, side, side])?;
        let norm = |what: &str| self.floats(&format!("{path}.bn.{what}"), &[output]);
        let (gain, shift) = (norm("weight")?, norm("bias")?);
        let (mean, variance) = (norm("running_mean")?, norm("running_var")?);
        let values = floats(&name, kernel)?;
        let each = values.len() / gain.len().max(1);
        let mut folded = Vec::with_capacity(values.len());
        let mut bias = Vec::with_capacity(gain.len());
        for (channel, kernel) in values.chunks_exact(each.max(1)).enumerate() {
            let scale = f64::from(gain[channel]) / (f64::from(variance[channel]) + BN_EPS).sqrt();
            folded.extend(kernel.iter().map(|value| narrow(f64::from(*value) * scale)));
            bias.push(narrow(f64::from(shift[channel]) - f64::from(mean[channel]) * scale));
        }
        let weight = self.graph.weights(name, &kernel.shape, &folded);
        let bias = self.graph.weights(format!("{path}.conv.bias"), &[bias.len()], &bias);
        let y = self.convolve(&[x, &weight, &bias], side, stride);
        let gate = self.graph.add("Sigmoid", &[&y], Vec::new());
        Ok(self.graph.add("Mul", &[&y, &gate], Vec::new()))
    }

    fn convolve(&mut self, inputs: &[&str], side: i64, stride: i64) -> String {
        let attributes = vec![
            AttributeProto::ints("dilations", &[1, 1]),
            AttributeProto::int("group", 1),
            AttributeProto::ints("kernel_shape", &[side; 2]),
            AttributeProto::ints("pads", &[side / 2; 4]),
            AttributeProto::ints("strides", &[stride; 2]),
        ];
        self.graph.add("Conv", inputs, attributes)
    }

    /// A 1x1 convolution with bias and nothing else.
    fn pointwise(&mut self, path: &str, x: &str, input: i64, output: i64) -> Result<String, ExportError> {
        let [weight, bias] = ["weight", "bias"].map(|what| format!("{path}.{what}"));
        let kernel = self.tensor(&weight, &[output, input, 1, 1])?;
        let (values, offsets) = (floats(&weight, kernel)?, self.floats(&bias, &[output])?);
        let weight = self.graph.weights(weight, &kernel.shape, values);
        let bias = self.graph.weights(bias, &[offsets.len()], offsets);
        Ok(self.convolve(&[x, &weight, &bias], 1, 1))
    }

    fn c2f(
        &mut self,
        path: &str,
        x: &str,
        sizes: [i64; 3],
        repeats: usize,
        shortcut: bool,
    ) -> Result<String, ExportError> {
        let [input, output, hidden] = sizes;
        let entry = self.conv(&format!("{path}.cv1"), x, [input, 2 * hidden, 1], 1)?;
        let [_, mut y] = self.graph.halves(&entry, 1, hidden);
        let mut parts = vec![entry];
        for at in 0..repeats {
            let block = format!("{path}.m.{at}");
            let first = self.conv(&format!("{block}.cv1"), &y, [hidden, hidden, 3], 1)?;
            let second = self.conv(&format!("{block}.cv2"), &first, [hidden, hidden, 3], 1)?;
            y = if shortcut { self.graph.add("Add", &[&y, &second], Vec::new()) } else { second };
            parts.push(y.clone());
        }
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let joined = self.graph.concat(&parts, 1);
        let width = (2 + size(repeats)) * hidden;
        self.conv(&format!("{path}.cv2"), &joined, [width, output, 1], 1)
    }

    fn sppf(
        &mut self,
        path: &str,
        x: &str,
        [input, output, hidden]: [i64; 3],
    ) -> Result<String, ExportError> {
        let mut parts = vec![self.conv(&format!("{path}.cv1"), x, [input, hidden, 1], 1)?];
        for at in 0..3 {
            let attributes = vec![
                AttributeProto::ints("kernel_shape", &[5, 5]),
                AttributeProto::ints("pads", &[2; 4]),
                AttributeProto::ints("strides", &[1, 1]),
            ];
            let pooled = self.graph.add("MaxPool", &[&parts[at]], attributes);
            parts.push(pooled);
        }
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let joined = self.graph.concat(&parts, 1);
        self.conv(&format!("{path}.cv2"), &joined, [4 * hidden, output, 1], 1)
    }

    /// Twice the size, nearest neighbour.
    fn double(&mut self, x: &str) -> String {
        let scales = self.graph.floats(&[4], &[1.0, 1.0, 2.0, 2.0]);
        let attributes = vec![
            AttributeProto::text("coordinate_transformation_mode", "asymmetric"),
            AttributeProto::text("mode", "nearest"),
            AttributeProto::text("nearest_mode", "floor"),
        ];
        self.graph.add("Resize", &[x, "", &scales], attributes)
    }

    /// Layer 22 with the decoding of boxes: `[N, 4, A]` boxes and `[N, classes, A]` scores.
    fn head(
        &mut self,
        plan: &Plan,
        maps: &[String; 3],
        options: &OnnxOptions,
    ) -> Result<[String; 2], ExportError> {
        let head = plan.head;
        let (mut boxes, mut scores) = (Vec::new(), Vec::new());
        for (level, (map, input)) in maps.iter().zip(head.inputs).enumerate() {
            let branches = [("cv2", head.box_channels, 4 * BINS), ("cv3", head.class_channels, head.classes)];
            for ((name, hidden, output), rows) in branches.into_iter().zip([&mut boxes, &mut scores]) {
                let path = format!("model.{}.{name}.{level}", plan.layers.len());
                let y = self.conv(&format!("{path}.0"), map, [input, hidden, 3], 1)?;
                let y = self.conv(&format!("{path}.1"), &y, [hidden, hidden, 3], 1)?;
                let y = self.pointwise(&format!("{path}.2"), &y, hidden, output)?;
                rows.push(self.graph.reshape(&y, &[0, output, -1]));
            }
        }
        let mut join = |rows: &[String]| {
            let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
            let joined = self.graph.concat(&rows, 2);
            if options.half {
                self.graph.add("Cast", &[&joined], vec![AttributeProto::int("to", FLOAT.into())])
            } else {
                joined
            }
        };
        let (boxes, scores) = (join(&boxes), join(&scores));
        let boxes = self.decode(&boxes, options.size);
        let scores = self.graph.add("Sigmoid", &[&scores], Vec::new());
        Ok([boxes, scores])
    }

    /// `[N, 64, A]` logits of distances to `[N, 4, A]` boxes: centre and size in pixels.
    fn decode(&mut self, boxes: &str, [height, width]: [usize; 2]) -> String {
        let graph = &mut self.graph;
        let apart = graph.reshape(boxes, &[0, 4, BINS, -1]);
        let shares = graph.add("Softmax", &[&apart], vec![AttributeProto::int("axis", 2)]);
        let bins_first =
            graph.add("Transpose", &[&shares], vec![AttributeProto::ints("perm", &[0, 2, 1, 3])]);
        let values: Vec<f32> = (0..BINS).map(|bin| bin as f32).collect();
        let bins = graph.floats(&[1, values.len(), 1, 1], &values);
        let expected =
            graph.add("Conv", &[&bins_first, &bins], vec![AttributeProto::ints("kernel_shape", &[1, 1])]);
        let distances = graph.reshape(&expected, &[0, 4, -1]);
        let [near, far] = graph.halves(&distances, 1, 2);
        let (mut x, mut y, mut strides) = (Vec::new(), Vec::new(), Vec::new());
        for stride in STRIDES {
            for row in 0..size(height) / stride {
                for column in 0..size(width) / stride {
                    x.push(column as f32 + 0.5);
                    y.push(row as f32 + 0.5);
                    strides.push(stride as f32);
                }
            }
        }
        let anchors = x.len();
        x.extend(y);
        let centers = graph.floats(&[1, 2, anchors], &x);
        let strides = graph.floats(&[1, 1, anchors], &strides);
        let two = graph.floats(&[], &[2.0]);
        let corner = graph.add("Sub", &[&centers, &near], Vec::new());
        let opposite = graph.add("Add", &[&centers, &far], Vec::new());
        let sum = graph.add("Add", &[&corner, &opposite], Vec::new());
        let middle = graph.add("Div", &[&sum, &two], Vec::new());
        let sides = graph.add("Sub", &[&opposite, &corner], Vec::new());
        let in_cells = graph.concat(&[&middle, &sides], 1);
        graph.add("Mul", &[&in_cells, &strides], Vec::new())
    }
}

const fn narrow(value: f64) -> f32 {
    value as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_python_literals() {
        assert_eq!(python_text("it's a \\ \n猫\u{7}"), "'it\\'s a \\\\ \\n猫\\u0007'");
    }
}

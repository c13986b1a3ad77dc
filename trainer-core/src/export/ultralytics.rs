//! A model as the tree of objects that Ultralytics' checkpoints hold, which `ultralytics.YOLO(path)` loads, validates,
//! fine-tunes and exports. Made from what such a file looks like, not from the program that writes it.

mod module;

use self::module::{Conv2d, class, module, modules, sequence};
use super::pickle::Py;
use super::{ExportError, RawTensors, floats};
use crate::import::RawTensor;
use crate::model::plan::{BINS, HeadPlan, Layer, LayerKind, Plan, STRIDES};

/// Batch normalisation's, as the model is trained.
const BN: (f64, f64) = (1e-3, 0.03);

/// What goes into a checkpoint beside the tensors.
#[derive(Debug, Clone)]
pub struct About<'a> {
    /// Class names, by id.
    pub names: &'a [String],
    /// Side of the images that it was trained with.
    pub imgsz: usize,
    /// Strides of the three levels: `[3]`.
    pub strides: &'a RawTensor,
}

/// The strides, as a tensor for [`About::strides`].
pub fn strides() -> RawTensor {
    let values = STRIDES.iter().map(|&stride| stride as f32).collect();
    RawTensor { shape: vec![STRIDES.len()], values: crate::import::Values::Float(values) }
}

/// The value of a checkpoint file of a finished training.
///
/// # Errors
/// When a tensor of the model is not among `tensors`.
pub fn checkpoint<'a>(
    plan: &Plan,
    tensors: &'a RawTensors,
    about: &About<'a>,
) -> Result<Py<'a>, ExportError> {
    let tree = Tree { plan, tensors };
    let args = Py::Dict(Py::named([
        ("task", Py::text("detect")),
        ("imgsz", int(about.imgsz)),
        ("single_cls", Py::Bool(false)),
        ("model", Py::text(format!("{}.yaml", plan.scale))),
    ]));
    let none = ["best_fitness", "ema", "updates", "optimizer", "scaler"].map(|key| (Py::text(key), Py::None));
    let mut top = Py::named([
        // Readers compare it with their own; it names the form that this file has.
        ("version", Py::text("8.4.190")),
        ("epoch", Py::Int(-1)),
        ("model", tree.detector(about, args.clone())?),
        ("train_args", args),
    ]);
    top.extend(none);
    Ok(Py::Dict(top))
}

fn int(value: usize) -> Py<'static> {
    Py::Int(i64::try_from(value).unwrap_or(i64::MAX))
}

/// Builds modules out of tensors.
struct Tree<'a, 'p> {
    plan: &'p Plan,
    tensors: &'a RawTensors,
}

impl<'a> Tree<'a, '_> {
    fn detector(&self, about: &About<'a>, args: Py<'a>) -> Result<Py<'a>, ExportError> {
        let counts = self.plan.parameters_by_layer();
        let mut layers: Vec<Py<'a>> = Vec::new();
        for layer in &self.plan.layers {
            let from = sources(layer);
            let (class, mut attributes) = self.layer(layer)?;
            attributes.extend(placed(layer.index, from, counts[layer.index], class));
            layers.push(Py::Object(class.0, class.1, attributes));
        }
        layers.push(self.head(about, counts[layers.len()])?);
        let pairs = (0..).zip(about.names).map(|(id, name)| (Py::Int(id), Py::text(name)));
        let mut attributes = module([], [], modules([("model", sequence(layers))]));
        attributes.extend(Py::named([
            ("yaml", yaml(self.plan)),
            ("save", Py::List(self.plan.saved().into_iter().map(int).collect())),
            ("names", Py::Dict(pairs.collect())),
            ("inplace", Py::Bool(true)),
            ("stride", Py::Tensor(about.strides)),
            ("nc", Py::Int(self.plan.head.classes)),
            ("args", args),
        ]));
        Ok(Py::Object("ultralytics.nn.tasks", "DetectionModel", attributes))
    }

    fn layer(&self, layer: &Layer) -> Result<(module::Class, module::Attributes<'a>), ExportError> {
        let path = format!("model.{}", layer.index);
        Ok(match layer.kind {
            LayerKind::Conv => (class::CONV, self.conv(&path, 2)?),
            LayerKind::C2f { hidden, repeats, shortcut } => {
                (class::C2F, self.c2f(&path, hidden, repeats, shortcut)?)
            }
            LayerKind::Sppf { .. } => (class::SPPF, self.sppf(&path)?),
            LayerKind::Upsample => (class::UPSAMPLE, module::upsample()),
            LayerKind::Concat => {
                let mut attributes = module([], [], Vec::new());
                attributes.extend(Py::named([("d", Py::Int(1))]));
                (class::CONCAT, attributes)
            }
        })
    }

    fn tensor(&self, name: String) -> Result<&'a RawTensor, ExportError> {
        self.tensors.get(&name).ok_or(ExportError::Missing(name))
    }

    /// A convolution; `bias`: with one.
    fn conv2d(&self, path: &str, stride: i64, bias: bool) -> Result<Py<'a>, ExportError> {
        let name = format!("{path}.weight");
        let weight = self.tensor(name.clone())?;
        floats(&name, weight)?;
        let [output, input, height, _] = weight.shape[..] else { return Err(ExportError::Missing(name)) };
        let bias = if bias { Some(self.tensor(format!("{path}.bias"))?) } else { None };
        Ok(Conv2d { weight, bias, channels: (int(input), int(output)), side: height, stride }.object())
    }

    /// Convolution, batch normalisation, SiLU.
    fn conv(&self, path: &str, stride: i64) -> Result<module::Attributes<'a>, ExportError> {
        let bn = format!("{path}.bn");
        let get = |name: &str| self.tensor(format!("{bn}.{name}"));
        let weight = get("weight")?;
        let parameters = [("weight", Py::Parameter(weight)), ("bias", Py::Parameter(get("bias")?))];
        let buffers = [
            ("running_mean", Py::Tensor(get("running_mean")?)),
            ("running_var", Py::Tensor(get("running_var")?)),
            ("num_batches_tracked", Py::Tensor(get("num_batches_tracked")?)),
        ];
        let mut attributes = module(parameters, buffers, Vec::new());
        attributes.extend(Py::named([
            ("num_features", int(weight.shape.first().copied().unwrap_or(0))),
            ("eps", Py::Float(BN.0)),
            ("momentum", Py::Float(BN.1)),
            ("affine", Py::Bool(true)),
            ("track_running_stats", Py::Bool(true)),
        ]));
        let (space, name) = class::BATCH_NORM;
        Ok(module(
            [],
            [],
            modules([
                ("conv", self.conv2d(&format!("{path}.conv"), stride, false)?),
                ("bn", Py::Object(space, name, attributes)),
                ("act", module::silu()),
            ]),
        ))
    }

    fn conv_object(&self, path: &str) -> Result<Py<'a>, ExportError> {
        let (space, name) = class::CONV;
        Ok(Py::Object(space, name, self.conv(path, 1)?))
    }

    fn c2f(
        &self,
        path: &str,
        hidden: i64,
        repeats: usize,
        shortcut: bool,
    ) -> Result<module::Attributes<'a>, ExportError> {
        let bottleneck = |at| {
            let path = format!("{path}.m.{at}");
            let mut attributes = module([], [], self.two_convs(&path)?);
            attributes.extend(Py::named([("add", Py::Bool(shortcut))]));
            let (space, name) = class::BOTTLENECK;
            Ok(Py::Object(space, name, attributes))
        };
        let chain = (0..repeats).map(bottleneck).collect::<Result<Vec<_>, ExportError>>()?;
        let mut inner = self.two_convs(path)?;
        inner.push((Py::text("m"), module::list(chain)));
        let mut attributes = module([], [], inner);
        attributes.extend(Py::named([("c", Py::Int(hidden))]));
        Ok(attributes)
    }

    fn sppf(&self, path: &str) -> Result<module::Attributes<'a>, ExportError> {
        let mut inner = self.two_convs(path)?;
        inner.push((Py::text("m"), module::max_pool()));
        let mut attributes = module([], [], inner);
        attributes.extend(Py::named([("n", Py::Int(3)), ("add", Py::Bool(false))]));
        Ok(attributes)
    }

    fn two_convs(&self, path: &str) -> Result<module::Attributes<'a>, ExportError> {
        let conv = |name| self.conv_object(&format!("{path}.{name}"));
        Ok(modules([("cv1", conv("cv1")?), ("cv2", conv("cv2")?)]))
    }

    /// One of the head's two families of branches.
    fn branches(&self, path: &str) -> Result<Py<'a>, ExportError> {
        let branch = |level| {
            let path = format!("{path}.{level}");
            let last = self.conv2d(&format!("{path}.2"), 1, true)?;
            Ok(sequence([
                self.conv_object(&format!("{path}.0"))?,
                self.conv_object(&format!("{path}.1"))?,
                last,
            ]))
        };
        Ok(module::list((0..STRIDES.len()).map(branch).collect::<Result<Vec<_>, ExportError>>()?))
    }

    fn head(&self, about: &About<'a>, parameters: i64) -> Result<Py<'a>, ExportError> {
        let HeadPlan { classes, .. } = self.plan.head;
        let index = self.plan.layers.len();
        let path = format!("model.{index}");
        let mut bins =
            module([], [], modules([("conv", self.conv2d(&format!("{path}.dfl.conv"), 1, false)?)]));
        bins.extend(Py::named([("c1", Py::Int(BINS))]));
        let (space, name) = class::DFL;
        let inner = modules([
            ("cv2", self.branches(&format!("{path}.cv2"))?),
            ("cv3", self.branches(&format!("{path}.cv3"))?),
            ("dfl", Py::Object(space, name, bins)),
        ]);
        let mut attributes = module([], [], inner);
        attributes.extend(Py::named([
            ("nc", Py::Int(classes)),
            ("nl", int(STRIDES.len())),
            ("reg_max", Py::Int(BINS)),
            ("no", Py::Int(classes + 4 * BINS)),
            ("stride", Py::Tensor(about.strides)),
            ("inplace", Py::Bool(true)),
        ]));
        attributes.extend(placed(index, head_sources(self.plan), parameters, class::DETECT));
        let (space, name) = class::DETECT;
        Ok(Py::Object(space, name, attributes))
    }
}

/// The layers whose outputs the head takes.
fn head_sources(plan: &Plan) -> Py<'static> {
    Py::List(plan.head.from.map(int).into())
}

/// Where a layer takes its input from: `-1` is the layer before.
fn sources(layer: &Layer) -> Py<'static> {
    let source = |&at: &usize| if at + 1 == layer.index { Py::Int(-1) } else { int(at) };
    match &layer.from[..] {
        [] => Py::Int(-1),
        [one] => source(one),
        several => Py::List(several.iter().map(source).collect()),
    }
}

/// Attributes of a layer that say where it stands in the model.
fn placed<'a>(
    index: usize,
    from: Py<'a>,
    parameters: i64,
    (space, name): module::Class,
) -> Vec<(Py<'a>, Py<'a>)> {
    let kind = Py::text(format!("{space}.{name}"));
    Py::named([("np", Py::Int(parameters)), ("i", int(index)), ("f", from), ("type", kind)])
}

/// The architecture, from which Ultralytics builds the model anew when it trains on: rows of sources, repeats,
/// what, arguments; channels and repeats are those of this scale.
fn yaml(plan: &Plan) -> Py<'static> {
    let row = |layer: &Layer| {
        let output = Py::Int(layer.output);
        let (repeats, what, arguments) = match layer.kind {
            LayerKind::Conv => (1, "Conv", vec![output, Py::Int(3), Py::Int(2)]),
            LayerKind::C2f { repeats, shortcut, .. } => (repeats, "C2f", vec![output, Py::Bool(shortcut)]),
            LayerKind::Sppf { .. } => (1, "SPPF", vec![output, Py::Int(5)]),
            LayerKind::Upsample => {
                (1, "nn.Upsample", vec![Py::text("None"), Py::Int(2), Py::text("nearest")])
            }
            LayerKind::Concat => (1, "Concat", vec![Py::Int(1)]),
        };
        Py::List(vec![sources(layer), int(repeats), Py::text(what), Py::List(arguments)])
    };
    let (backbone, neck) = plan.layers.split_at(plan.backbone);
    let mut head: Vec<Py<'static>> = neck.iter().map(row).collect();
    let arguments = Py::List(vec![Py::text("nc")]);
    head.push(Py::List(vec![head_sources(plan), Py::Int(1), Py::text("Detect"), arguments]));
    Py::Dict(Py::named([
        ("nc", Py::Int(plan.head.classes)),
        ("depth_multiple", Py::Float(1.0)),
        ("width_multiple", Py::Float(1.0)),
        ("backbone", Py::List(backbone.iter().map(row).collect())),
        ("head", Py::List(head)),
        ("channels", Py::Int(3)),
        ("yaml_file", Py::text(format!("{}.yaml", plan.scale))),
    ]))
}

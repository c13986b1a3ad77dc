//! What to train and how, under the names that YOLO users know.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::model::ModelScale;
use crate::reference::Reference;
use crate::violation::Violation;

/// Where decoded images are kept between epochs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cache {
    /// In files on the agent's disk.
    #[default]
    Disk,
    /// In main memory.
    Ram,
    /// Nowhere: decode each time.
    None,
}

impl Cache {
    /// The name that users write.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Disk => "disk",
            Self::Ram => "ram",
            Self::None => "none",
        }
    }
}

/// How weights are updated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Optimizer {
    /// Stochastic gradient descent with Nesterov momentum.
    #[default]
    #[serde(rename = "SGD")]
    Sgd,
    /// Adam with decoupled weight decay; its first beta is the spec's `momentum`.
    AdamW,
    /// One of them with a learning rate and momentum of its own, by how long the training is.
    #[serde(rename = "auto")]
    Auto,
}

impl Optimizer {
    /// Every value there is.
    pub const ALL: [Self; 3] = [Self::Sgd, Self::AdamW, Self::Auto];

    /// The name that users write.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sgd => "SGD",
            Self::AdamW => "AdamW",
            Self::Auto => "auto",
        }
    }
}

/// How many images go through the model at once.
#[derive(Debug, Clone, Copy, PartialEq, Default, Deserialize)]
#[serde(try_from = "f64")]
pub enum Batch {
    /// The agent computes it from its GPU.
    #[default]
    Auto,
    /// So many images, as the user asks.
    Size(u32),
    /// The agent computes it from its GPU, and aims at this share of the GPU's memory, between 0 and 1.
    Share(f64),
}

/// A batch size that is none.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("is {0}; use -1 (auto), a share of the GPU's memory such as 0.7, or a whole number from 1 to 4096")]
pub struct ParseBatchError(f64);

impl TryFrom<f64> for Batch {
    type Error = ParseBatchError;

    fn try_from(number: f64) -> Result<Self, ParseBatchError> {
        if number == -1.0 {
            Ok(Self::Auto)
        } else if number > 0.0 && number < 1.0 {
            Ok(Self::Share(number))
        } else if number.fract() == 0.0 && (1.0..=4096.0).contains(&number) {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "whole and between 1 and 4096, as just checked"
            )]
            Ok(Self::Size(number as u32))
        } else {
            Err(ParseBatchError(number))
        }
    }
}

impl Serialize for Batch {
    /// A number; a whole one without a point, as users write it.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_i64(-1),
            Self::Size(size) => serializer.serialize_u32(*size),
            Self::Share(share) => serializer.serialize_f64(*share),
        }
    }
}

impl From<Batch> for f64 {
    fn from(batch: Batch) -> Self {
        match batch {
            Batch::Auto => -1.0,
            Batch::Size(size) => Self::from(size),
            Batch::Share(share) => share,
        }
    }
}

/// A required field that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("missing field `{0}`")]
pub struct MissingField(&'static str);

macro_rules! train_spec {
    ($($(#[$meta:meta])* $field:ident: $type:ty = $default:expr,)*) => {
        /// A training run. The defaults are the "high-performance mode" on top of YOLOv8's own.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(try_from = "TrainPatch")]
        pub struct TrainSpec {
            /// The scale of the model.
            pub model: ModelScale,
            /// The data set's data.yaml, an absolute path on the machine that trains.
            pub data: PathBuf,
            $($(#[$meta])* pub $field: $type,)*
        }

        impl TrainSpec {
            /// A training with the default of every other field.
            pub fn new(model: ModelScale, data: impl Into<PathBuf>) -> Self {
                Self { model, data: data.into(), $($field: $default,)* }
            }
        }

        /// Some fields of a spec. On a spec as written down, what is left out takes its default.
        #[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct TrainPatch {
            /// The scale of the model.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub model: Option<ModelScale>,
            /// The data set's data.yaml, as in [`TrainSpec::data`].
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub data: Option<PathBuf>,
            $(
                $(#[$meta])*
                #[serde(default, skip_serializing_if = "Option::is_none")]
                pub $field: Option<$type>,
            )*
        }

        impl TrainPatch {
            /// What turns `base` into `spec`.
            pub fn between(base: &TrainSpec, spec: &TrainSpec) -> Self {
                Self {
                    model: (base.model != spec.model).then_some(spec.model),
                    data: (base.data != spec.data).then(|| spec.data.clone()),
                    $($field: (base.$field != spec.$field).then(|| spec.$field.clone()),)*
                }
            }

            /// Sets the fields that this names.
            pub fn apply(&self, spec: &mut TrainSpec) {
                if let Some(model) = self.model {
                    spec.model = model;
                }
                if let Some(data) = &self.data {
                    spec.data.clone_from(data);
                }
                $(if let Some(value) = &self.$field {
                    spec.$field.clone_from(value);
                })*
            }
        }

        impl TryFrom<TrainPatch> for TrainSpec {
            type Error = MissingField;

            fn try_from(written: TrainPatch) -> Result<Self, MissingField> {
                let model = written.model.ok_or(MissingField("model"))?;
                let data = written.data.ok_or(MissingField("data"))?;
                Ok(Self { model, data, $($field: written.$field.unwrap_or($default),)* })
            }
        }
    };
}

train_spec! {
    /// Passes over the training images.
    epochs: u32 = 100,
    /// Hours that training may take; overrides `epochs`, and 0 leaves it at them.
    time: f64 = 0.0,
    /// Weights to begin with, a .safetensors or .pt file, an absolute path on the machine that trains; empty
    /// begins from scratch.
    pretrained: PathBuf = PathBuf::new(),
    /// Side of the square training image, in pixels; a multiple of 32.
    imgsz: u32 = 640,
    /// Images per forward pass; the optimiser's nominal batch stays `nbs` whatever this is.
    batch: Batch = Batch::Auto,
    /// Threads that load images; 0 loads on the training thread.
    workers: u32 = 8,
    /// Where decoded images are kept.
    cache: Cache = Cache::Disk,
    /// Mixed precision, on devices that gain from it.
    amp: bool = true,
    /// Cosine learning rate; linear otherwise.
    cos_lr: bool = true,
    /// Vary the image size by up to half, batch by batch.
    multi_scale: bool = false,
    /// How weights are updated.
    optimizer: Optimizer = Optimizer::Sgd,
    /// Initial learning rate.
    lr0: f64 = 0.01,
    /// Final learning rate, as a share of `lr0`.
    lrf: f64 = 0.01,
    /// Nesterov momentum.
    momentum: f64 = 0.937,
    /// L2 penalty on convolution weights, for a nominal batch.
    weight_decay: f64 = 0.0005,
    /// Epochs over which the learning rate rises.
    warmup_epochs: f64 = 3.0,
    /// Momentum at the start of the warm-up.
    warmup_momentum: f64 = 0.8,
    /// Learning rate of biases at the start of the warm-up.
    warmup_bias_lr: f64 = 0.1,
    /// Nominal batch: images per optimiser step, reached by accumulation.
    nbs: u32 = 64,
    /// Images that batch normalisation sees at once, the same on every GPU; 0: as many as fit.
    bn_group: u32 = 0,
    /// Last epochs that train without mosaic and mixup.
    close_mosaic: u32 = 10,
    /// Stop after so many epochs without improvement; 0 never stops.
    patience: u32 = 100,
    /// Seed of every random choice.
    seed: u64 = 0,
    /// Only algorithms whose results repeat bit by bit; slower on a GPU.
    deterministic: bool = false,
    /// Minutes between checkpoints inside of an epoch; 0 writes them at the ends of epochs only.
    checkpoint_minutes: f64 = 10.0,
    /// Share of the training images to use, 0 to 1.
    fraction: f64 = 1.0,
    /// Treat every class as one.
    single_cls: bool = false,
    /// How many of the first layers keep their weights.
    freeze: u32 = 0,
    /// Gain of the box loss. (`box` is a keyword in Rust; everywhere else the field is `box`.)
    #[serde(rename = "box")]
    box_gain: f64 = 7.5,
    /// Gain of the class loss.
    cls: f64 = 0.5,
    /// Gain of the distribution focal loss.
    dfl: f64 = 1.5,
    /// Hue jitter, share of the circle.
    hsv_h: f64 = 0.015,
    /// Saturation jitter, share.
    hsv_s: f64 = 0.7,
    /// Value jitter, share.
    hsv_v: f64 = 0.4,
    /// Rotation, degrees either way.
    degrees: f64 = 0.0,
    /// Translation, share of the image either way.
    translate: f64 = 0.1,
    /// Scaling, 1 plus or minus this.
    scale: f64 = 0.5,
    /// Shear, degrees either way.
    shear: f64 = 0.0,
    /// Perspective, 0 to 0.001.
    perspective: f64 = 0.0,
    /// Probability of a vertical flip.
    flipud: f64 = 0.0,
    /// Probability of a horizontal flip.
    fliplr: f64 = 0.5,
    /// Probability of a four-image mosaic.
    mosaic: f64 = 1.0,
    /// Probability of blending two images.
    mixup: f64 = 0.0,
}

/// The longest path that the system takes.
const PATH_BYTES: usize = 4096;
/// What `pretrained` begins with where it is a job's best weights.
pub const JOB_WEIGHTS: &str = "job:";

/// Collects what is out of range.
struct Ranges(Vec<Violation>);

impl Ranges {
    fn whole(&mut self, field: &str, value: u64, range: RangeInclusive<u64>) {
        if !range.contains(&value) {
            let text = format!("is {value}; use {} to {}", range.start(), range.end());
            self.0.push(Violation::new(field, text));
        }
    }

    fn real(&mut self, field: &str, value: f64, range: RangeInclusive<f64>) {
        // Not-a-number is outside every range.
        if !range.contains(&value) {
            let text = format!("is {value}; use {} to {}", range.start(), range.end());
            self.0.push(Violation::new(field, text));
        }
    }
}

impl TrainSpec {
    /// Every field that is out of range or asks for what is not built, not only the first.
    pub fn violations(&self) -> Vec<Violation> {
        let mut check = Ranges(Vec::new());
        self.check_data(&mut check);
        self.check_run(&mut check);
        self.check_optimizer(&mut check);
        self.check_augmentation(&mut check);
        check.0
    }

    fn check_data(&self, check: &mut Ranges) {
        for (field, path) in [("data", &self.data), ("pretrained", &self.pretrained)] {
            let bytes = path.as_os_str().len();
            if bytes > PATH_BYTES {
                let text = format!("has {bytes} bytes; use at most {PATH_BYTES}");
                check.0.push(Violation::new(field, text));
            }
        }
        let path = self.data.display();
        if self.data.as_os_str().is_empty() {
            let text = "is empty; give the name of a pushed data set, or the path of a data.yaml as the agents see it";
            check.0.push(Violation::new("data", text));
        } else if !self.data.is_absolute() && Reference::of_path(&self.data).is_none() {
            let text = format!(
                "is `{path}`; give an absolute path, as the agents see it, or the name of a pushed data set"
            );
            check.0.push(Violation::new("data", text));
        }
        check.real("fraction", self.fraction, 1e-6..=1.0);
        let path = self.pretrained.display();
        let is_named = || {
            let text = self.pretrained.to_str().unwrap_or_default();
            text.strip_prefix(JOB_WEIGHTS).is_some_and(|job| !job.is_empty())
                || Reference::of_path(&self.pretrained).is_some()
        };
        if !self.pretrained.as_os_str().is_empty() && !self.pretrained.is_absolute() && !is_named() {
            let text = format!(
                "is `{path}`; give an absolute path of a weights file, as the agents see it, the name of pushed \
                 weights, or `{JOB_WEIGHTS}ID` for a job's best"
            );
            check.0.push(Violation::new("pretrained", text));
        }
    }

    fn check_run(&self, check: &mut Ranges) {
        check.whole("epochs", self.epochs.into(), 1..=100_000);
        if !self.imgsz.is_multiple_of(32) || !(32..=4096).contains(&self.imgsz) {
            let text = format!("is {}; use a multiple of 32 from 32 to 4096", self.imgsz);
            check.0.push(Violation::new("imgsz", text));
        }
        if let Batch::Size(size) = self.batch {
            check.whole("batch", size.into(), 1..=4096);
        }
        if let Batch::Share(share) = self.batch
            && !(share > 0.0 && share < 1.0)
        {
            let text = format!("is {share}; use a share of the GPU's memory between 0 and 1, such as 0.7");
            check.0.push(Violation::new("batch", text));
        }
        check.whole("bn_group", self.bn_group.into(), 0..=4096);
        if let Batch::Size(size) = self.batch
            && size < self.bn_group
        {
            let text = format!("is {}, more than `batch` ({size}); use at most that", self.bn_group);
            check.0.push(Violation::new("bn_group", text));
        }
        check.real("time", self.time, 0.0..=10_000.0);
        check.real("checkpoint_minutes", self.checkpoint_minutes, 0.0..=10_000.0);
        check.whole("workers", self.workers.into(), 0..=64);
        check.whole("nbs", self.nbs.into(), 1..=4096);
        check.whole("freeze", self.freeze.into(), 0..=22);
        // The seed crosses the wire and JSON, where a number is exact only up to 2^53.
        check.whole("seed", self.seed, 0..=1 << 53);
    }

    fn check_optimizer(&self, check: &mut Ranges) {
        check.real("lr0", self.lr0, 1e-12..=10.0);
        check.real("lrf", self.lrf, 0.0..=1.0);
        check.real("momentum", self.momentum, 0.0..=0.9999);
        check.real("weight_decay", self.weight_decay, 0.0..=1.0);
        check.real("warmup_epochs", self.warmup_epochs, 0.0..=100_000.0);
        check.real("warmup_momentum", self.warmup_momentum, 0.0..=0.9999);
        check.real("warmup_bias_lr", self.warmup_bias_lr, 0.0..=10.0);
        check.real("box", self.box_gain, 0.0..=1000.0);
        check.real("cls", self.cls, 0.0..=1000.0);
        check.real("dfl", self.dfl, 0.0..=1000.0);
    }

    fn check_augmentation(&self, check: &mut Ranges) {
        check.real("hsv_h", self.hsv_h, 0.0..=1.0);
        check.real("hsv_s", self.hsv_s, 0.0..=1.0);
        check.real("hsv_v", self.hsv_v, 0.0..=1.0);
        check.real("degrees", self.degrees, 0.0..=180.0);
        check.real("translate", self.translate, 0.0..=1.0);
        check.real("scale", self.scale, 0.0..=0.99);
        check.real("shear", self.shear, 0.0..=89.0);
        check.real("perspective", self.perspective, 0.0..=0.001);
        check.real("flipud", self.flipud, 0.0..=1.0);
        check.real("fliplr", self.fliplr, 0.0..=1.0);
        check.real("mosaic", self.mosaic, 0.0..=1.0);
        check.real("mixup", self.mixup, 0.0..=1.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> TrainSpec {
        TrainSpec::new(ModelScale::N, "/data/bccd/data.yaml")
    }

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(spec().violations(), []);
    }

    #[test]
    fn every_bad_field_is_named_at_once() {
        let bad = TrainSpec { epochs: 0, imgsz: 100, lr0: f64::NAN, data: "data.yaml".into(), ..spec() };
        let fields: Vec<String> = bad.violations().into_iter().map(|violation| violation.field).collect();
        assert_eq!(fields, ["data", "epochs", "imgsz", "lr0"]);
    }

    #[test]
    fn a_path_that_no_system_takes_is_refused() {
        let bad = TrainSpec { data: format!("/{}", "d".repeat(5000)).into(), ..spec() };
        assert_eq!(bad.violations()[0].to_string(), "data: has 5001 bytes; use at most 4096");
    }

    #[test]
    fn fields_that_belong_together_are_checked_together() {
        let bad = TrainSpec { batch: Batch::Size(8), bn_group: 16, pretrained: "n.pt".into(), ..spec() };
        let fields: Vec<String> = bad.violations().into_iter().map(|violation| violation.field).collect();
        assert_eq!(fields, ["pretrained", "bn_group"]);
        let good = TrainSpec { batch: Batch::Size(8), bn_group: 8, pretrained: "/n.pt".into(), ..spec() };
        assert_eq!(good.violations(), []);
    }

    #[test]
    fn json_leaves_defaults_out_and_refuses_unknown_fields() {
        let text = r#"{"model":"yolov8n","data":"/data/bccd/data.yaml"}"#;
        assert_eq!(serde_json::from_str::<TrainSpec>(text).unwrap(), spec());
        let text = r#"{"model":"yolov8n","data":"/d.yaml","epoch":3}"#;
        assert!(serde_json::from_str::<TrainSpec>(text).unwrap_err().to_string().contains("`epoch`"));
    }

    #[test]
    fn a_patch_holds_the_difference_of_two_specs_and_nothing_else() {
        let other = TrainSpec { lr0: 0.02, batch: Batch::Size(8), data: "/other.yaml".into(), ..spec() };
        let patch = TrainPatch::between(&spec(), &other);
        assert_eq!(serde_json::to_string(&patch).unwrap(), r#"{"data":"/other.yaml","batch":8,"lr0":0.02}"#);
        let mut patched = spec();
        patch.apply(&mut patched);
        assert_eq!(patched, other);
        assert_eq!(TrainPatch::between(&other, &patched), TrainPatch::default());
    }

    #[test]
    fn a_batch_is_auto_a_whole_number_or_a_share_of_memory() {
        assert_eq!(Batch::try_from(-1.0), Ok(Batch::Auto));
        assert_eq!(Batch::try_from(24.0), Ok(Batch::Size(24)));
        assert_eq!(Batch::try_from(0.7), Ok(Batch::Share(0.7)));
        for (batch, text) in [(Batch::Auto, "-1"), (Batch::Size(24), "24"), (Batch::Share(0.7), "0.7")] {
            assert_eq!(serde_json::to_string(&batch).unwrap(), text);
            assert_eq!(serde_json::from_str::<Batch>(text).unwrap(), batch);
        }
        for wrong in [-2.0, 0.0, 1.5, f64::NAN, f64::INFINITY] {
            assert!(Batch::try_from(wrong).is_err(), "{wrong}");
        }
    }
}

//! Reads a directory of golden data. Shapes and parameters come from its files; nothing is tied to one set.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use tch::{Device, Kind, Tensor};
use trainyard_trainer::libtorch;
use trainyard_trainer::weights::{self, TensorFile};

/// libtorch is used by one test at a time: two thread pools would only be in each other's way.
/// Loads libtorch's CUDA half before anything else of it.
pub fn alone() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    let guard = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
    let _ = libtorch::load_cuda();
    guard
}

/// `TRAINYARD_GOLDEN_DIR`, or where `make test-golden` unpacks the repository's own set.
fn folder() -> PathBuf {
    std::env::var_os("TRAINYARD_GOLDEN_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/golden"), PathBuf::from)
}

/// One file of the set and what the manifest says about it.
pub struct Golden {
    file: TensorFile,
    pub about: Value,
    name: String,
}

pub fn open(name: &str) -> Golden {
    let path = folder().join(name);
    let hint = "unpack trainer-core/tests/golden/open.tar.xz into target/golden, or set TRAINYARD_GOLDEN_DIR";
    let file = weights::read(&path).unwrap_or_else(|error| panic!("{error}; {hint}"));
    let about = json("manifest.json")["files"][name].clone();
    Golden { file, about, name: name.to_owned() }
}

pub fn json(name: &str) -> Value {
    let path = folder().join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap()
}

impl Golden {
    /// A tensor; floats as f32, whatever they are stored as.
    pub fn get(&self, name: &str) -> Tensor {
        self.find(name).unwrap_or_else(|| panic!("{} has no tensor {name}", self.name))
    }

    pub fn find(&self, name: &str) -> Option<Tensor> {
        let tensor = self.file.tensors.get(name)?;
        Some(if tensor.kind() == Kind::Half { tensor.to_kind(Kind::Float) } else { tensor.shallow_clone() })
    }

    /// Names that begin with `prefix`, without it.
    pub fn under<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a str> {
        self.file.tensors.keys().filter_map(move |name| name.strip_prefix(prefix))
    }

    /// A number of the manifest, by a path of keys.
    pub fn number(&self, path: &[&str]) -> f64 {
        number(path.iter().fold(&self.about, |value, key| &value[key]))
    }

    pub fn tensors(&self) -> &weights::Tensors {
        &self.file.tensors
    }
}

pub fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is not a number"))
}

// What is compared prints how far it is from its tolerance; `--nocapture` shows it.

/// The largest difference, element by element.
pub fn max_difference(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.size(), b.size());
    if a.numel() == 0 {
        return 0.0;
    }
    (a.to_kind(Kind::Double) - b.to_kind(Kind::Double)).abs().max().double_value(&[])
}

/// Length of the difference over the length of `expected`.
pub fn relative(found: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(found.size(), expected.size());
    let (found, expected) = (found.to_kind(Kind::Double), expected.to_kind(Kind::Double));
    let length = expected.norm().double_value(&[]);
    (found - expected).norm().double_value(&[]) / length.max(1e-12)
}

pub fn assert_close(what: &str, found: &Tensor, expected: &Tensor, tolerance: f64) {
    let difference = max_difference(found, expected);
    println!("{what}: {difference:e} of {tolerance:e}");
    assert!(difference <= tolerance, "{what} differs by {difference:e}, more than {tolerance:e}");
}

pub fn assert_relative(what: &str, found: &Tensor, expected: &Tensor, tolerance: f64) {
    let difference = relative(found, expected);
    println!("{what}: {difference:e} of {tolerance:e}, relative");
    assert!(
        difference <= tolerance,
        "{what} differs by {difference:e} of its length, more than {tolerance:e}"
    );
}

/// Compares a tensor with the manifest's mean, standard deviation, length and first values of it.
pub fn assert_statistics(what: &str, found: &Tensor, expected: &Value, tolerance: f64) {
    let flat = found.to_kind(Kind::Double).contiguous().view(-1);
    let length = number(&expected["l2"]);
    let typical = length / (flat.numel() as f64).sqrt();
    let near = |name: &str, value: f64, wanted: f64, scale: f64| {
        let difference = (value - wanted).abs();
        assert!(difference <= tolerance * scale.max(1e-12), "{what}: {name} is {value}, not {wanted}");
    };
    near("l2", flat.norm().double_value(&[]), length, length);
    near("mean", flat.mean(Kind::Double).double_value(&[]), number(&expected["mean"]), typical);
    let largest = number(&expected["absmax"]);
    near("absmax", flat.abs().max().double_value(&[]), largest, largest);
    for (at, wanted) in expected["first8"].as_array().unwrap().iter().enumerate() {
        near(&format!("value {at}"), flat.double_value(&[at as i64]), number(wanted), largest);
    }
}

pub const CPU: Device = Device::Cpu;

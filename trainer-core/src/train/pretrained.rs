//! The spec's `pretrained`: weights to begin with (transfer learning), perhaps of other classes.

use std::path::Path;

use tch::Tensor;
use trainyard_types::ModelScale;
use trainyard_types::trainer::LogLevel;

use super::data_roots;
use super::error::TrainError;
use super::setup::Setup;
use crate::events::Events;
use crate::model::Model;
use crate::model::plan::Plan;
use crate::weights::{self, TensorFile, Tensors, Weights, WeightsError};

/// What was loaded of a weights file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadReport {
    /// How many of its tensors.
    pub loaded: usize,
    /// Tensors of the model that keep their initialisation: the head's class branch, for other classes.
    pub fresh: Vec<String>,
    /// How many tensors of the file the model has not.
    pub unused: usize,
}

/// Gives `model`, which is new, the weights of the spec's `pretrained`, and reports what was loaded.
///
/// # Errors
/// The file lies where it may not be read, is damaged, or is of another model; nothing is changed then.
pub fn load_into(model: &Model, setup: &Setup, events: &mut Events) -> Result<(), TrainError> {
    let path = setup.spec().pretrained.as_path();
    if path.as_os_str().is_empty() {
        return Ok(());
    }
    if !data_roots::is_allowed(path, &setup.options.data_roots) {
        return Err(TrainError::PretrainedOutside(path.to_owned()));
    }
    let report = load(model, path);
    let LoadReport { loaded, fresh, unused } =
        report.map_err(|source| TrainError::Pretrained { path: path.to_owned(), source })?;
    let mut message =
        format!("pretrained: {loaded} of {} tensors are those of {}", model.weights().len(), path.display());
    if let Some(first) = fresh.first() {
        message.push_str(&format!("; {} have other shapes and begin anew ({first} …)", fresh.len()));
    }
    if unused > 0 {
        message.push_str(&format!("; {unused} of the file's have no place in the model"));
    }
    events.log(LogLevel::Info, message);
    Ok(())
}

fn load(model: &Model, path: &Path) -> Result<LoadReport, WeightsError> {
    let TensorFile { tensors, .. } = weights::read(path)?;
    assign_matching(model, &tensors)
}

/// Copies into `model` every one of `tensors` that has the name and shape of one of its own.
///
/// # Errors
/// Before the head, every tensor must be there, of the model's shape; and all that is loaded must be finite.
/// Nothing is changed then.
pub fn assign_matching(model: &Model, tensors: &Tensors) -> Result<LoadReport, WeightsError> {
    check_scale(model.plan(), tensors)?;
    let head = format!("model.{}.", model.plan().layers.len());
    let mut found = LoadReport { loaded: 0, fresh: Vec::new(), unused: 0 };
    for (name, own) in model.weights().named() {
        match tensors.get(name) {
            Some(tensor) if tensor.size() == own.size() => {
                if tensor.is_floating_point() && !is_finite(tensor) {
                    return Err(WeightsError::NotFinite(name.to_owned()));
                }
                found.loaded += 1;
            }
            Some(tensor) if !name.starts_with(&head) => {
                let (found, expected) = (tensor.size(), own.size());
                return Err(WeightsError::Shape { name: name.to_owned(), found, expected });
            }
            None if !name.starts_with(&head) => return Err(WeightsError::Missing(name.to_owned())),
            Some(_) | None => found.fresh.push(name.to_owned()),
        }
    }
    found.unused = tensors.keys().filter(|name| model.weights().get(name).is_none()).count();
    copy(model.weights(), tensors);
    Ok(found)
}

/// Another scale's weights differ in nearly every shape: better named than listed.
fn check_scale(plan: &Plan, tensors: &Tensors) -> Result<(), WeightsError> {
    const STEM: &str = "model.0.conv.weight";
    let stem = tensors.get(STEM).ok_or_else(|| WeightsError::Missing(STEM.to_owned()))?;
    let channels = stem.size().first().copied().unwrap_or(0);
    let of = |scale: ModelScale| Plan::new(scale, 1).layers[0].output;
    let scale = ModelScale::ALL.into_iter().find(|scale| of(*scale) == channels);
    let scale = scale.ok_or(WeightsError::Scale(channels))?;
    if scale == plan.scale {
        Ok(())
    } else {
        Err(WeightsError::OtherScale { found: scale, expected: plan.scale })
    }
}

fn is_finite(tensor: &Tensor) -> bool {
    bool::try_from(tensor.isfinite().all()).unwrap_or(false)
}

fn copy(weights: &Weights, tensors: &Tensors) {
    let _no_grad = tch::no_grad_guard();
    for (name, own) in weights.named() {
        if let Some(tensor) = tensors.get(name).filter(|tensor| tensor.size() == own.size()) {
            own.shallow_clone().copy_(tensor);
        }
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;

    fn model(scale: ModelScale, classes: i64) -> Model {
        Model::new(scale, classes, 0, Device::Cpu)
    }

    fn tensors(model: &Model) -> Tensors {
        model.weights().named().map(|(name, tensor)| (name.to_owned(), tensor.detach().copy())).collect()
    }

    #[test]
    fn other_classes_leave_the_class_branch_as_it_was_drawn() {
        let (new, old) = (model(ModelScale::N, 3), model(ModelScale::N, 80));
        let drawn = tensors(&new);
        let mut given = tensors(&old);
        given.insert("model.22.cv4.0.conv.weight".to_owned(), Tensor::zeros([1], (Kind::Float, Device::Cpu)));
        let found = assign_matching(&new, &given).unwrap();
        assert_eq!((found.loaded + found.fresh.len(), found.unused), (355, 1));
        assert!(!found.fresh.is_empty());
        assert!(found.fresh.iter().all(|name| name.starts_with("model.22.cv3.")), "{:?}", found.fresh);
        for (name, tensor) in new.weights().named() {
            let source = if found.fresh.iter().any(|fresh| fresh == name) { &drawn } else { &given };
            assert!(tensor.equal(&source[name]), "{name}");
        }
    }

    #[test]
    fn the_same_classes_are_taken_whole() {
        let (new, old) = (model(ModelScale::N, 2), model(ModelScale::N, 2));
        let found = assign_matching(&new, &tensors(&old)).unwrap();
        assert_eq!(found, LoadReport { loaded: 355, fresh: Vec::new(), unused: 0 });
    }

    #[test]
    fn what_does_not_fit_is_named_and_changes_nothing() {
        let new = model(ModelScale::N, 2);
        let before = tensors(&new);
        let given = tensors(&model(ModelScale::N, 2));
        let refused = |change: &dyn Fn(&mut Tensors)| {
            let mut given = given.iter().map(|(name, tensor)| (name.clone(), tensor.copy())).collect();
            change(&mut given);
            assign_matching(&new, &given).unwrap_err().to_string()
        };
        let options = (Kind::Float, Device::Cpu);
        let none = assign_matching(&new, &Tensors::new()).unwrap_err().to_string();
        assert!(none.contains("`model.0.conv.weight` is missing"), "{none}");
        let scale = assign_matching(&new, &tensors(&model(ModelScale::S, 2))).unwrap_err().to_string();
        assert!(scale.contains("yolov8s") && scale.contains("yolov8n"), "{scale}");
        let missing = refused(&|given| drop(given.remove("model.5.bn.weight")));
        assert!(missing.contains("`model.5.bn.weight` is missing"), "{missing}");
        let shape =
            refused(&|given| drop(given.insert("model.5.bn.bias".into(), Tensor::zeros([3], options))));
        assert!(shape.contains("`model.5.bn.bias` has shape [3]"), "{shape}");
        let broken = Tensor::full([16, 3, 3, 3], f64::NAN, options);
        let nan = refused(&|given| drop(given.insert("model.0.conv.weight".into(), broken.copy())));
        assert!(nan.contains("`model.0.conv.weight` has values that are not numbers"), "{nan}");
        for (name, tensor) in new.weights().named() {
            assert!(tensor.equal(&before[name]), "{name}");
        }
    }
}

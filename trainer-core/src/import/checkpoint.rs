//! From a tree of pickled objects to tensors under the names of a state dict.

use std::io::{Read, Seek};

use super::PtError;
use super::archive::Archive;
use super::pickle::{Id, Node, Pickle};
use super::storage::{RawTensor, Storages, is_tensor};

/// How deep modules may lie in each other; YOLOv8's do six deep.
const MAX_DEPTH: usize = 32;
/// Modules that are looked at; YOLOv8x has some 300. Bounds a tree whose branches are the same branch.
const MAX_MODULES: usize = 20_000;

/// The model in a `.pt` file.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PtFile {
    /// Under the names of the state dict, in its order.
    pub tensors: Vec<(String, RawTensor)>,
    /// Class names by id, if the file has them.
    pub names: Option<Vec<String>>,
    /// Long side of the images that it was trained with, if the file says.
    pub imgsz: Option<u32>,
    /// `detect`, if the file says.
    pub task: Option<String>,
}

/// Reads the model: the averaged one (`ema`) if there is one, or else `model`, or else the state dict that
/// the file itself is.
pub(super) fn collect<R: Read + Seek>(pickle: &Pickle, archive: &mut Archive<R>) -> Result<PtFile, PtError> {
    let top = pickle.top();
    let is_model = |id: &Id| modules(pickle, *id).is_some() || is_state_dict(pickle, *id);
    let inside = ["ema", "model", "state_dict"].into_iter().filter_map(|key| pickle.get(top, key));
    let model = inside.chain([top]).find(is_model).ok_or(PtError::NoModel)?;
    let mut walk = Walk { pickle, storages: Storages::new(archive), tensors: Vec::new(), modules: 0 };
    if modules(pickle, model).is_some() {
        walk.module(model, "", 0)?;
    } else {
        walk.named(model, "")?;
    }
    let args = pickle.get(top, "train_args").or_else(|| pickle.attribute(model, "args"));
    let arg = |key: &str| {
        let args = args?;
        pickle.get(args, key).or_else(|| pickle.attribute(args, key))
    };
    let imgsz = arg("imgsz").and_then(|id| u32::try_from(pickle.int(id)?).ok());
    let task = pickle.attribute(model, "task").or_else(|| arg("task"));
    let names = pickle.attribute(model, "names").or_else(|| pickle.get(top, "names"));
    Ok(PtFile {
        tensors: walk.tensors,
        names: names.and_then(|names| class_names(pickle, names)),
        imgsz,
        task: task.and_then(|id| pickle.text(id)).map(str::to_owned),
    })
}

/// The submodules of a module; `None` for what is none.
fn modules(pickle: &Pickle, id: Id) -> Option<Id> {
    pickle.attribute(id, "_modules")
}

fn is_state_dict(pickle: &Pickle, id: Id) -> bool {
    pickle.pairs(id).is_some_and(|pairs| {
        !pairs.is_empty()
            && pairs.iter().all(|(name, value)| pickle.text(*name).is_some() && is_tensor(pickle, *value))
    })
}

/// Names as a list, or as a dictionary by id without gaps.
fn class_names(pickle: &Pickle, id: Id) -> Option<Vec<String>> {
    if let Node::List(members) = pickle.node(id) {
        return members.iter().map(|name| pickle.text(*name).map(str::to_owned)).collect();
    }
    let mut named: Vec<(i64, &str)> = Vec::new();
    for (class, name) in pickle.pairs(id)? {
        named.push((pickle.int(*class)?, pickle.text(*name)?));
    }
    named.sort_unstable();
    let without_gaps = named.iter().zip(0..).all(|((class, _), expected)| *class == expected);
    without_gaps.then(|| named.into_iter().map(|(_, name)| name.to_owned()).collect())
}

struct Walk<'a, R> {
    pickle: &'a Pickle,
    storages: Storages<'a, R>,
    tensors: Vec<(String, RawTensor)>,
    modules: usize,
}

impl<R: Read + Seek> Walk<'_, R> {
    /// Takes the tensors of a module and of all below it. `path` ends with a dot, or is empty.
    fn module(&mut self, id: Id, path: &str, depth: usize) -> Result<(), PtError> {
        self.modules += 1;
        if depth > MAX_DEPTH {
            return Err(PtError::TooLarge { what: "modules inside each other", limit: MAX_DEPTH as u64 });
        }
        if self.modules > MAX_MODULES {
            return Err(PtError::TooLarge { what: "modules", limit: MAX_MODULES as u64 });
        }
        let pickle = self.pickle;
        for kind in ["_parameters", "_buffers"] {
            if let Some(named) = pickle.attribute(id, kind) {
                self.named(named, path)?;
            }
        }
        let inner = modules(pickle, id).and_then(|inner| pickle.pairs(inner)).unwrap_or_default();
        for &(name, module) in inner {
            // Names come from the file: what is printed of them must not be without end.
            let Some(name) = pickle.text(name).filter(|name| name.len() <= 100) else {
                return Err(PtError::Tensor {
                    name: path.to_owned(),
                    what: "a module below it that has no name",
                });
            };
            if modules(pickle, module).is_some() {
                self.module(module, &format!("{path}{name}."), depth + 1)?;
            }
        }
        Ok(())
    }

    /// Takes the tensors of a dictionary; what is `None` is a tensor that the module goes without.
    fn named(&mut self, dict: Id, path: &str) -> Result<(), PtError> {
        let pickle = self.pickle;
        for &(name, value) in pickle.pairs(dict).unwrap_or_default() {
            let Some(name) = pickle.text(name).filter(|name| name.len() <= 1000) else { continue };
            if is_tensor(pickle, value) {
                let name = format!("{path}{name}");
                let tensor = self.storages.tensor(pickle, value, &name)?;
                self.tensors.push((name, tensor));
            }
        }
        Ok(())
    }
}

//! What users of other YOLO programs write by habit, and what it means here. Where the meaning is plain it is taken;
//! otherwise the answer says in one line what to write. One table for flags, job files and spec files.
//!
//! Must not know: files. Whether one is there is for the caller to see.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::model::ModelScale;
use crate::train::{Cache, Optimizer};
use crate::violation::Violation;

/// Fields of a training spec that are true or false.
const SWITCHES: [&str; 5] = ["amp", "cos_lr", "multi_scale", "deterministic", "single_cls"];
/// Endings of weights files.
const WEIGHTS: [&str; 3] = ["pt", "pth", "safetensors"];

/// `value` of the training spec's `field`, as the spec writes it. What is no known habit stays as it is: whoever
/// reads the spec says what is wrong with it.
///
/// # Errors
/// A sentence without its subject, with what to write instead.
pub fn meaning(field: &str, value: Value) -> Result<Value, String> {
    match field {
        "batch" => Ok(batch(value)),
        "cache" => Ok(cache(value)),
        "imgsz" => imgsz(value),
        "optimizer" => Ok(optimizer(value)),
        // Ultralytics' `pretrained=False` begins from scratch.
        "pretrained" => match switch(&value) {
            Some(false) => Ok("".into()),
            Some(true) => Err("is true; give the path of a weights file, or leave it out".to_owned()),
            None => Ok(value),
        },
        _ if SWITCHES.contains(&field) => Ok(switch(&value).map_or(value, Value::Bool)),
        _ => Ok(value),
    }
}

/// `true`, `True`, `yes`, `on` and `1`, and their opposites; `None` for anything else.
fn switch(value: &Value) -> Option<bool> {
    let text = match value {
        Value::Bool(value) => return Some(*value),
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.trim().to_ascii_lowercase(),
        _ => return None,
    };
    match text.as_str() {
        "true" | "yes" | "on" | "1" => Some(true),
        "false" | "no" | "off" | "0" => Some(false),
        _ => None,
    }
}

fn batch(value: Value) -> Value {
    let Value::String(text) = &value else { return value };
    match text.trim() {
        text if text.eq_ignore_ascii_case("auto") || text.eq_ignore_ascii_case("autobatch") => (-1).into(),
        text => serde_json::from_str::<serde_json::Number>(text).map_or(value, Value::Number),
    }
}

fn cache(value: Value) -> Value {
    let known = value.as_str().and_then(|text| {
        let text = text.trim();
        [Cache::Disk, Cache::Ram, Cache::None]
            .into_iter()
            .find(|cache| text.eq_ignore_ascii_case(cache.name()))
    });
    // As in the reference, `True` is main memory.
    let meant = known.or_else(|| switch(&value).map(|on| if on { Cache::Ram } else { Cache::None }));
    meant.map_or(value, |cache| cache.name().into())
}

fn optimizer(value: Value) -> Value {
    let known = value.as_str().and_then(|text| {
        Optimizer::ALL.into_iter().find(|optimizer| text.trim().eq_ignore_ascii_case(optimizer.name()))
    });
    known.map_or(value, |optimizer| optimizer.name().into())
}

/// One side, or both where they are equal: `640`, `640,640`, `[640, 640]`, `640x640`.
fn imgsz(value: Value) -> Result<Value, String> {
    let sides: Vec<u64> = match &value {
        Value::Array(sides) => sides.iter().filter_map(Value::as_u64).collect(),
        Value::String(text) => {
            let parts = text.trim_matches(|c: char| "[]() ".contains(c)).split(|c: char| ",x× ".contains(c));
            let parts = parts.filter(|part| !part.is_empty()).map(str::parse);
            parts.collect::<Result<_, _>>().unwrap_or_default()
        }
        _ => return Ok(value),
    };
    match sides[..] {
        [side] => Ok(side.into()),
        [one, other] if one == other => Ok(one.into()),
        [one, other] => {
            let longer = one.max(other);
            Err(format!(
                "is {one} and {other}; training images are square: write {longer}, which fits others in with borders"
            ))
        }
        _ => Ok(value),
    }
}

/// What a model's name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelWord {
    /// `yolov8n`: begins from scratch, or with what `pretrained` names.
    Scale(ModelScale),
    /// `yolov8n.pt`: that model, which begins with these weights.
    Weights(ModelScale, PathBuf),
}

/// Reads a model's name, or the path of a weights file that is named after its model.
///
/// # Errors
/// A sentence without its subject, with what to write instead.
pub fn model(text: &str) -> Result<ModelWord, String> {
    if let Ok(scale) = text.parse() {
        return Ok(ModelWord::Scale(scale));
    }
    let path = Path::new(text);
    let names = ModelScale::ALL.map(ModelScale::name).join(", ");
    let is_weights = path.extension().is_some_and(|ending| WEIGHTS.iter().any(|known| ending == *known));
    if !is_weights {
        return Err(format!("is `{text}`; use one of {names}"));
    }
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    match stem.to_ascii_lowercase().parse() {
        Ok(scale) => Ok(ModelWord::Weights(scale, path.to_owned())),
        Err(_) => Err(format!(
            "is `{text}`, a weights file whose name is no model's; use `pretrained` for it, and for `model` what it \
             is of: one of {names}"
        )),
    }
}

/// What a training begins with. A field that nothing was written of is not there.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Beginning {
    /// The scale of the model.
    pub model: Option<ModelScale>,
    /// The weights, as the training spec writes them.
    pub pretrained: Option<Value>,
}

/// What `model` and `pretrained`, as they were written, mean together.
/// `usable` makes of the path of weights that a model is named by the one to take, or nothing where they are not there.
///
/// # Errors
/// The field, and a sentence without its subject, with what to write instead.
pub fn beginning(
    model_name: Option<&str>,
    pretrained: Option<Value>,
    usable: impl FnOnce(&Path) -> Option<PathBuf>,
) -> Result<Beginning, Violation> {
    let word = model_name.map(model).transpose().map_err(|text| Violation::new("model", text))?;
    // `model=yolov8n.pt pretrained=True` says the same twice.
    let is_own = |value: &Value| switch(value) == Some(true) && matches!(word, Some(ModelWord::Weights(..)));
    let pretrained = pretrained.filter(|value| !is_own(value)).map(|value| meaning("pretrained", value));
    let pretrained = pretrained.transpose().map_err(|text| Violation::new("pretrained", text))?;
    let (model, pretrained) = match word {
        Some(ModelWord::Weights(scale, path)) if pretrained.is_none() => {
            let usable = usable(&path).ok_or_else(|| Violation::new("model", no_weights(scale, &path)))?;
            (Some(scale), Some(usable.to_string_lossy().into()))
        }
        Some(ModelWord::Scale(scale) | ModelWord::Weights(scale, _)) => (Some(scale), pretrained),
        None => (None, pretrained),
    };
    Ok(Beginning { model, pretrained })
}

/// Said of weights that a model's name stands for and that are not there.
fn no_weights(scale: ModelScale, path: &Path) -> String {
    format!(
        "is `{}`, which is no file here, and nothing is downloaded; `{scale}` begins from scratch, `pretrained` names \
         the weights to begin with",
        path.display()
    )
}

/// The kind of device that a job asks for, `gpu` or `cpu`, of a device as other programs name it.
///
/// # Errors
/// A sentence without its subject, with what to write instead: which GPU is the scheduler's choice.
pub fn device(text: &str) -> Result<&'static str, String> {
    match text.trim().to_ascii_lowercase().as_str() {
        "cpu" => Ok("cpu"),
        "gpu" | "cuda" | "cuda:0" | "0" => Ok("gpu"),
        several if several.contains(',') => Err(format!(
            "is `{text}`; write gpu, and how many in `gpus`: which ones is the scheduler's choice"
        )),
        one if one.trim_start_matches("cuda:").parse::<u32>().is_ok() => Err(format!(
            "is `{text}`; write gpu: which one is the scheduler's choice, `gpu_models` says of what kind"
        )),
        _ => Err(format!("is `{text}`; write gpu or cpu")),
    }
}

/// The one file in a data set's folder that describes it, of the names that are there.
///
/// # Errors
/// A sentence without its subject, with what is there.
pub fn data_yaml(mut names: Vec<String>) -> Result<String, String> {
    names.sort();
    let yaml = |name: &&String| name.ends_with(".yaml") || name.ends_with(".yml");
    let found: Vec<&String> = names.iter().filter(yaml).collect();
    let usual = |name: &&&String| name.as_str() == "data.yaml" || name.as_str() == "data.yml";
    match (&found[..], found.iter().find(usual)) {
        ([one], _) | (_, Some(one)) => Ok((*one).clone()),
        ([], None) => {
            let some: Vec<&str> = names.iter().take(NAMED).map(String::as_str).collect();
            let more = names.len().saturating_sub(NAMED);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            let there = if names.is_empty() {
                "it is empty".to_owned()
            } else {
                format!("in it are {}{more}", some.join(", "))
            };
            Err(format!(
                "is a folder without a data.yaml: {there}; give the file that names the images and classes"
            ))
        }
        (several, None) => {
            let several: Vec<&str> = several.iter().take(NAMED).map(|name| name.as_str()).collect();
            Err(format!(
                "is a folder with several descriptions: {}; give the one that is meant",
                several.join(", ")
            ))
        }
    }
}

/// How many names a message lists.
const NAMED: usize = 8;

/// A command line with Ultralytics' words made options: `detect train data=d.yaml lr0=0.02` becomes
/// `train --data=d.yaml --lr0=0.02`. Only for the commands `keyed`, since others take labels and the like.
///
/// `arguments`: with the program's name. Nothing after `--` is touched, nothing that is the path of a file, which
/// `exists` tells, and nothing that is the value of the option before it, of which `takes_value` tells by its name
/// without dashes.
pub fn words(
    arguments: impl IntoIterator<Item = OsString>,
    keyed: &[&str],
    exists: impl Fn(&str) -> bool,
    takes_value: impl Fn(&str) -> bool,
) -> Vec<OsString> {
    let mut words: Vec<OsString> = arguments.into_iter().collect();
    let is = |word: Option<&OsString>, text: &str| word.is_some_and(|word| word == text);
    if ["detect", "task=detect"].iter().any(|task| is(words.get(1), task)) {
        words.remove(1);
    }
    if let Some(mode) = words.get(1).and_then(|word| word.to_str()?.strip_prefix("mode=")) {
        words[1] = mode.into();
    }
    let Some(command) = words.iter().position(|word| keyed.iter().any(|keyed| word == keyed)) else {
        return words;
    };
    let says_nothing = |word: &OsString| {
        let mode = word.to_str().and_then(|word| word.strip_prefix("mode="));
        word == "task=detect" || mode.is_some_and(|mode| is(words.get(command), mode))
    };
    let end = words.iter().position(|word| word == "--").unwrap_or(words.len());
    let idle: Vec<usize> = (command + 1..end).filter(|at| says_nothing(&words[*at])).collect();
    idle.iter().rev().for_each(|at| drop(words.remove(*at)));
    let end = end - idle.len();
    let is_name =
        |key: &str| key.starts_with(|c: char| c.is_ascii_lowercase()) && key.chars().all(is_of_a_name);
    for at in command + 1..end {
        // The value of an option that stands before it is its own: `--label stage=1`.
        let before = words[at - 1].to_str().and_then(|word| word.strip_prefix('-'));
        if before.is_some_and(|option| !option.contains('=') && takes_value(option.trim_start_matches('-'))) {
            continue;
        }
        let Some(word) = words[at].to_str().filter(|word| !exists(word)) else { continue };
        if let Some((key, value)) = word.split_once('=').filter(|(key, _)| is_name(key)) {
            // In the name alone: a value may be a path.
            words[at] = format!("--{}={value}", key.replace('_', "-")).into();
        }
    }
    words
}

const fn is_of_a_name(character: char) -> bool {
    character.is_ascii_lowercase() || character.is_ascii_digit() || character == '_' || character == '-'
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn all(field: &str, values: &[Value]) -> Vec<Value> {
        values.iter().map(|value| meaning(field, value.clone()).unwrap()).collect()
    }

    #[test]
    fn batches_caches_optimizers_and_switches_are_taken_as_other_programs_write_them() {
        assert_eq!(
            all("batch", &[json!("auto"), json!("AutoBatch"), json!("16"), json!(0.7)]),
            [json!(-1), json!(-1), json!(16), json!(0.7)]
        );
        let caches = [json!("True"), json!(true), json!("RAM"), json!("disk"), json!(false), json!("False")];
        assert_eq!(all("cache", &caches), ["ram", "ram", "ram", "disk", "none", "none"]);
        assert_eq!(
            all("optimizer", &[json!("adamw"), json!("sgd"), json!("AUTO")]),
            ["AdamW", "SGD", "auto"]
        );
        let switches = [json!("True"), json!("no"), json!(1), json!(0), json!(false)];
        assert_eq!(all("amp", &switches), [true, false, true, false, false]);
        // Who reads the spec says what is wrong with these.
        assert_eq!(all("batch", &[json!("many")]), ["many"]);
        assert_eq!(all("optimizer", &[json!("Adam")]), ["Adam"]);
        assert_eq!(all("lr0", &[json!("1")]), ["1"]);
    }

    #[test]
    fn two_equal_sides_are_one_and_two_others_are_refused_with_the_way_out() {
        let equal =
            [json!("640"), json!("640,640"), json!([640, 640]), json!("[640, 640]"), json!("640x640")];
        assert_eq!(all("imgsz", &equal), [640; 5]);
        for sides in [json!("640,480"), json!([480, 640]), json!("(640, 480)")] {
            let error = meaning("imgsz", sides).unwrap_err();
            assert!(error.contains("square: write 640"), "{error}");
        }
        assert_eq!(all("imgsz", &[json!("big"), json!([1, 2, 3])]), [json!("big"), json!([1, 2, 3])]);
    }

    #[test]
    fn a_model_may_be_named_by_its_weights() {
        assert_eq!(model("yolov8s.yaml"), Ok(ModelWord::Scale(ModelScale::S)));
        assert_eq!(model("w/yolov8n.pt"), Ok(ModelWord::Weights(ModelScale::N, "w/yolov8n.pt".into())));
        assert!(model("best.pt").unwrap_err().contains("use `pretrained` for it"));
        assert!(model("yolo11n").unwrap_err().contains("use one of yolov8n, "));
        assert_eq!(meaning("pretrained", json!("False")), Ok(json!("")));
        assert!(meaning("pretrained", json!(true)).is_err());
    }

    #[test]
    fn a_model_named_by_its_weights_begins_with_them_unless_others_are_named() {
        let n = |pretrained: Option<&str>| {
            Ok(Beginning { model: Some(ModelScale::N), pretrained: pretrained.map(Value::from) })
        };
        let here = |model, pretrained| beginning(model, pretrained, |path| Some(path.to_owned()));
        assert_eq!(here(Some("yolov8n.pt"), None), n(Some("yolov8n.pt")));
        assert_eq!(here(Some("yolov8n.pt"), Some(json!("True"))), n(Some("yolov8n.pt")));
        assert_eq!(here(Some("yolov8n"), None), n(None));
        assert_eq!(here(None, Some(json!("w.pt"))).unwrap().pretrained, Some(json!("w.pt")));
        assert_eq!(here(Some("yolov8n"), Some(json!(true))).unwrap_err().field, "pretrained");
        assert_eq!(here(None, Some(json!(true))).unwrap_err().field, "pretrained");
        let away = |pretrained| beginning(Some("yolov8n.pt"), pretrained, |_| None);
        assert_eq!(away(None).unwrap_err().field, "model");
        assert_eq!(away(Some(json!("/w/best.pt"))), n(Some("/w/best.pt")));
        assert_eq!(away(Some(json!(false))), n(Some("")), "from scratch");
    }

    #[test]
    fn a_device_is_a_kind_and_which_one_is_the_schedulers_choice() {
        assert_eq!(
            ["0", "cuda:0", "cuda", "GPU", "cpu"].map(device),
            ["gpu", "gpu", "gpu", "gpu", "cpu"].map(Ok)
        );
        for (text, wanted) in
            [("1", "`gpu_models`"), ("cuda:2", "`gpu_models`"), ("0,1", "`gpus`"), ("tpu", "gpu or cpu")]
        {
            assert!(device(text).unwrap_err().contains(wanted), "{text}");
        }
    }

    #[test]
    fn a_folder_means_its_only_description() {
        let of = |names: &[&str]| data_yaml(names.iter().map(|name| (*name).to_owned()).collect());
        assert_eq!(of(&["images", "cells.yaml"]).unwrap(), "cells.yaml");
        assert_eq!(of(&["data.yaml", "hyp.yaml"]).unwrap(), "data.yaml");
        assert!(of(&["b.yaml", "a.yml"]).unwrap_err().contains("a.yml, b.yaml"));
        assert!(of(&["images", "labels"]).unwrap_err().contains("in it are images, labels"));
        assert!(of(&[]).unwrap_err().contains("it is empty"));
    }

    #[test]
    fn words_with_values_become_options() {
        let of = |line: &str| {
            let words = words(
                line.split(' ').map(OsString::from),
                &["train"],
                |path| path == "a=b",
                |option| option != "follow",
            );
            words.into_iter().map(|word| word.into_string().unwrap()).collect::<Vec<_>>().join(" ")
        };
        let wanted = "yard train --data=d_1.yaml --model=yolov8n --cos-lr=False";
        assert_eq!(of("yard detect train data=d_1.yaml model=yolov8n cos_lr=False"), wanted);
        assert_eq!(of("yard task=detect mode=train data=d.yaml"), "yard train --data=d.yaml");
        assert_eq!(of("yard train task=detect mode=train data=d.yaml"), "yard train --data=d.yaml");
        assert_eq!(of("yard train --follow data=d.yaml"), "yard train --follow --data=d.yaml");
        for untouched in [
            "yard train d.yaml --label stage=1 --sweep lr0=0.1,0.2",
            "yard train a=b",
            "yard train /data/a=b/data.yaml",
            "yard train -- c=d",
            "yard jobs --label a=b",
        ] {
            assert_eq!(of(untouched), untouched);
        }
    }
}

//! What people write in job files, in the types that the fields have: `time_limit: 90m`, `name: 123`,
//! `labels: {fold: 3}`, and what they know from other YOLO programs.

use std::collections::BTreeMap;

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use serde::Deserialize;
use serde_json::{Map, Value};
use trainyard_types::Violation;
use trainyard_types::habit::{self, ModelWord};

use super::parse_span;

/// The texts of a document as they are written: `1.10` is no number to whom it names.
#[derive(Debug, Default, Deserialize)]
pub struct Texts {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    labels: BTreeMap<String, Option<String>>,
}

/// Puts what the fields of a job mean in their places.
pub fn put_in_place(
    descriptor: &MessageDescriptor,
    fields: &mut Map<String, Value>,
    texts: &Texts,
) -> Vec<Violation> {
    let mut found = Vec::new();
    for (name, value) in fields {
        match field(descriptor, name).as_ref().map(FieldDescriptor::name) {
            Some("name") => text(value, texts.name.as_deref()),
            Some("labels") => labels(name, value, &texts.labels, &mut found),
            Some("time_limit") => span(name, value, &mut found),
            Some("train") => train(name, value, &mut found),
            Some("resources") => resources(name, value, &mut found),
            _ => {}
        }
    }
    found
}

/// The field that `name` means, in either spelling.
pub fn field(descriptor: &MessageDescriptor, name: &str) -> Option<FieldDescriptor> {
    descriptor.fields().find(|field| field.name() == name || field.json_name() == name)
}

/// Makes a number or truth value the text that it was written as.
fn text(value: &mut Value, written: Option<&str>) {
    if matches!(value, Value::Number(_) | Value::Bool(_)) {
        *value = written.map_or_else(|| value.to_string(), str::to_owned).into();
    }
}

/// Makes every label a text; one that is empty (`a:`, `a: null`) is an empty text.
fn labels(
    at: &str,
    value: &mut Value,
    written: &BTreeMap<String, Option<String>>,
    found: &mut Vec<Violation>,
) {
    let Some(labels) = value.as_object_mut() else { return };
    labels.retain(|key, value| {
        text(value, written.get(key).and_then(Option::as_deref));
        if value.is_null() {
            *value = "".into();
        }
        if !value.is_string() {
            let what = super::kind_of(value);
            found.push(Violation::new(format!("{at}.{key}"), format!("is {what}; write one text")));
        }
        value.is_string()
    });
}

/// What a field takes, for whoever wrote something else; `None` where the type says nothing.
pub fn wanted(field: &FieldDescriptor) -> Option<&'static str> {
    if field.is_list() || field.is_map() {
        return None;
    }
    match field.kind() {
        Kind::Bool => Some("write true or false"),
        Kind::Float | Kind::Double => Some("write a number, with a point as in 0.01"),
        Kind::Uint32 | Kind::Uint64 => Some("write a whole number from 0"),
        Kind::Int32 | Kind::Int64 | Kind::Sint32 | Kind::Sint64 => Some("write a whole number"),
        _ => None,
    }
}

/// Makes `90m`, and a number of seconds, what proto3 JSON calls a span of time.
fn span(name: &str, value: &mut Value, found: &mut Vec<Violation>) {
    let read = match &*value {
        Value::String(text) => parse_span(text).map(|span| (span.seconds, span.nanos)),
        Value::Number(number) => parse_span(&format!("{number}s")).map(|span| (span.seconds, span.nanos)),
        // Left to the check of types.
        _ => return,
    };
    match read {
        Ok((seconds, 0)) => *value = format!("{seconds}s").into(),
        Ok((seconds, nanos)) => *value = format!("{seconds}.{nanos:09}s").into(),
        Err(text) => found.push(Violation::new(name, text)),
    }
}

fn train(at: &str, value: &mut Value, found: &mut Vec<Violation>) {
    let (Some(fields), Some(descriptor)) =
        (value.as_object_mut(), crate::proto_json::descriptor("TrainSpec"))
    else {
        return;
    };
    let mut weights = None;
    let named = fields.get("model").and_then(Value::as_str).map(str::to_owned);
    fields.retain(|name, value| {
        name != "pretrained" || !habit::asks_for_the_models_own(value, named.as_deref())
    });
    for (name, value) in fields.iter_mut() {
        let known = field(&descriptor, name);
        let known = known.as_ref().map_or(name.as_str(), FieldDescriptor::name);
        let meant = match (known, value.as_str()) {
            ("model", Some(text)) => model(text, &mut weights),
            _ => habit::meaning(known, value.clone()),
        };
        match meant {
            Ok(meant) => *value = meant,
            Err(text) => found.push(Violation::new(format!("{at}.{name}"), text)),
        }
    }
    if let Some(weights) = weights {
        fields.entry("pretrained").or_insert(weights);
    }
}

/// A model's name; where it stands for weights they go into `weights`. Names that are none are the scheduler's to
/// refuse.
fn model(text: &str, weights: &mut Option<Value>) -> Result<Value, String> {
    match habit::model(text) {
        Ok(ModelWord::Scale(scale)) => Ok(scale.name().into()),
        // As the agents see it, which a relative path does not say.
        Ok(ModelWord::Weights(scale, path)) if path.is_relative() => Err(habit::no_weights(scale, &path)),
        Ok(ModelWord::Weights(scale, path)) => {
            *weights = Some(path.to_string_lossy().into());
            Ok(scale.name().into())
        }
        Err(text) => Err(text),
    }
}

fn resources(at: &str, value: &mut Value, found: &mut Vec<Violation>) {
    for (name, value) in value.as_object_mut().into_iter().flatten() {
        match name.as_str() {
            "device" => {
                text(value, None);
                match value.as_str().map(habit::device) {
                    Some(Ok(device)) => *value = device.into(),
                    Some(Err(text)) => found.push(Violation::new(format!("{at}.{name}"), text)),
                    None => {}
                }
            }
            // `12GB`; what is no size is left to the check of types.
            "min_vram_mib" | "minVramMib" => {
                if let Some(Ok(mib)) = value.as_str().map(super::parse_mib) {
                    *value = mib.into();
                }
            }
            "gpu_models" | "gpuModels" => {
                // One is a list of one, and `4090` a name.
                text(value, None);
                if value.is_string() {
                    *value = vec![value.take()].into();
                }
                value.as_array_mut().into_iter().flatten().for_each(|model| text(model, None));
            }
            _ => {}
        }
    }
}

//! What people write in job files, in the types that the fields have: `time_limit: 90m`, `name: 123`,
//! `labels: {fold: 3}`, and what they know from other YOLO programs.

use std::collections::BTreeMap;

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use serde::Deserialize;
use serde_json::{Map, Value};
use trainyard_types::Violation;
use trainyard_types::habit::{self, Beginning};

use crate::values::{parse_mib, parse_span};

/// The texts of a document as they are written: `name: 1.10` is a text, not the number 1.1.
#[derive(Debug, Default, Deserialize)]
pub struct WrittenTexts {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    labels: BTreeMap<String, Option<String>>,
}

/// Turns what people write into what the fields of a job take, in place; names what has no meaning.
pub fn normalize(
    descriptor: &MessageDescriptor,
    fields: &mut Map<String, Value>,
    texts: &WrittenTexts,
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
    let text = match &*value {
        Value::String(text) => text.clone(),
        Value::Number(number) => format!("{number}s"),
        // Left to the check of types.
        _ => return,
    };
    match parse_span(&text) {
        Ok(span) => *value = format!("{}s", span.seconds).into(),
        Err(text) => found.push(Violation::new(name, text)),
    }
}

fn train(at: &str, value: &mut Value, found: &mut Vec<Violation>) {
    let (Some(fields), Some(descriptor)) =
        (value.as_object_mut(), crate::proto_json::descriptor("TrainSpec"))
    else {
        return;
    };
    let named = fields.get("model").and_then(Value::as_str).map(str::to_owned);
    let pretrained = fields.get("pretrained").cloned();
    // As the agents see it, which a relative path does not say.
    match habit::beginning(named.as_deref(), pretrained, |path| path.is_absolute().then(|| path.to_owned())) {
        Ok(Beginning { model, pretrained }) => {
            fields.remove("pretrained");
            fields.extend(model.map(|model| ("model".to_owned(), model.name().into())));
            fields.extend(pretrained.map(|pretrained| ("pretrained".to_owned(), pretrained)));
        }
        Err(violation) => found.push(violation.under(at)),
    }
    for (name, value) in
        fields.iter_mut().filter(|(name, _)| !["model", "pretrained"].contains(&name.as_str()))
    {
        let known = field(&descriptor, name);
        let known = known.as_ref().map_or(name.as_str(), FieldDescriptor::name);
        match habit::meaning(known, value.clone()) {
            Ok(meant) => *value = meant,
            Err(text) => found.push(Violation::new(format!("{at}.{name}"), text)),
        }
    }
}

fn resources(at: &str, value: &mut Value, found: &mut Vec<Violation>) {
    let Some(descriptor) = crate::proto_json::descriptor("Resources") else { return };
    for (name, value) in value.as_object_mut().into_iter().flatten() {
        match field(&descriptor, name).as_ref().map_or("", FieldDescriptor::name) {
            "device" => {
                text(value, None);
                match value.as_str().map(habit::device) {
                    Some(Ok(device)) => *value = device.into(),
                    Some(Err(text)) => found.push(Violation::new(format!("{at}.{name}"), text)),
                    None => {}
                }
            }
            // `12GB`; what is no size is left to the check of types.
            "min_vram_mib" => {
                if let Some(Ok(mib)) = value.as_str().map(parse_mib) {
                    *value = mib.into();
                }
            }
            "gpu_models" => {
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

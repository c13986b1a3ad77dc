//! Which fields of a JSON object a message does not take, in words for people: a parser stops at the first of them, and
//! tells of lines and columns.

use prost_reflect::{DeserializeOptions, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value, json};

use super::json::Wrong;

/// Fields that one refusal names.
const MOST: usize = 16;
/// Characters of a value, or of a name, that a refusal repeats.
const LONGEST: usize = 60;

/// All fields of an object that are wrong, by the names of the proto.
pub fn find(descriptor: &MessageDescriptor, fields: &Map<String, Value>) -> Vec<Wrong> {
    let mut found = Vec::new();
    look_at(descriptor, fields, "", &mut found);
    found
}

/// What a value is, with a short one's text.
pub fn shown(value: &Value) -> String {
    match value {
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        Value::String(text) => format!("`{}`", clipped(text)),
        Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

fn look_at(descriptor: &MessageDescriptor, fields: &Map<String, Value>, path: &str, found: &mut Vec<Wrong>) {
    for (name, value) in fields {
        if found.len() >= MOST {
            return;
        }
        let known = descriptor.fields().find(|field| field.name() == name || field.json_name() == name);
        let Some(field) = known else {
            let text =
                "is no field of this message; look at its description by reflection, or in the reference";
            found.push(Wrong { field: joined(path, &clipped(name)), text: text.to_owned() });
            continue;
        };
        let path = joined(path, field.name());
        let of_map =
            field.kind().as_message().filter(|_| field.is_map()).map(|entry| entry.map_entry_value_field());
        match (value, of_map) {
            (Value::Null, _) => {}
            (Value::Object(entries), Some(of_map)) => {
                for (key, value) in entries {
                    let path = joined(&path, &clipped(key));
                    let takes = || takes(descriptor, &field, &json!({ key: value }));
                    look_at_one(&of_map.kind(), value, path, takes, found);
                }
            }
            (_, Some(_)) => found.push(wrong(path, value, "an object")),
            (Value::Array(items), None) if field.is_list() => {
                for (at, value) in items.iter().enumerate() {
                    let takes = || takes(descriptor, &field, &json!([value]));
                    look_at_one(&field.kind(), value, format!("{path}[{at}]"), takes, found);
                }
            }
            (_, None) if field.is_list() => found.push(wrong(path, value, "a list")),
            (value, None) => {
                let takes = || takes(descriptor, &field, value);
                look_at_one(&field.kind(), value, path, takes, found);
            }
        }
    }
}

fn look_at_one(
    kind: &Kind,
    value: &Value,
    path: String,
    takes: impl FnOnce() -> bool,
    found: &mut Vec<Wrong>,
) {
    if found.len() >= MOST {
        return;
    }
    match (kind, value) {
        // Google's own messages are texts, mostly.
        (Kind::Message(message), Value::Object(fields)) if !is_googles(message) => {
            look_at(message, fields, &path, found);
        }
        _ if takes() => {}
        _ => found.push(wrong(path, value, &wanted(kind, value))),
    }
}

/// Whether a message takes a value for one of its fields: what is asked is what reads whole messages.
fn takes(descriptor: &MessageDescriptor, field: &FieldDescriptor, value: &Value) -> bool {
    let alone = json!({ field.json_name(): value });
    let options = DeserializeOptions::new().deny_unknown_fields(true);
    DynamicMessage::deserialize_with_options(descriptor.clone(), alone, &options).is_ok()
}

fn is_googles(message: &MessageDescriptor) -> bool {
    message.full_name().starts_with("google.protobuf.")
}

fn wrong(field: String, value: &Value, wanted: &str) -> Wrong {
    Wrong { field, text: format!("is {}; give {wanted}", shown(value)) }
}

/// What a field takes, as far as this value is not it.
fn wanted(kind: &Kind, value: &Value) -> String {
    match kind {
        Kind::Uint32 | Kind::Fixed32 => whole_number(value, "0", &u32::MAX.to_string()),
        Kind::Uint64 | Kind::Fixed64 => whole_number(value, "0", &u64::MAX.to_string()),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => {
            whole_number(value, &i32::MIN.to_string(), &i32::MAX.to_string())
        }
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => {
            whole_number(value, &i64::MIN.to_string(), &i64::MAX.to_string())
        }
        Kind::Float | Kind::Double => "a number".to_owned(),
        Kind::Bool => "true or false".to_owned(),
        Kind::String => "a text".to_owned(),
        Kind::Bytes => "a text in base64".to_owned(),
        Kind::Enum(known) => {
            let names: Vec<String> =
                known.values().filter(|one| one.number() != 0).map(|one| one.name().to_owned()).collect();
            format!("one of {}", names.join(", "))
        }
        Kind::Message(message) => match message.full_name() {
            "google.protobuf.Duration" => "a duration such as \"5400s\"".to_owned(),
            "google.protobuf.Timestamp" => "a time such as \"2026-01-31T12:00:00Z\"".to_owned(),
            _ => "an object".to_owned(),
        },
    }
}

/// The bounds are named where they say something: nobody means 4294967296 epochs.
fn whole_number(value: &Value, least: &str, most: &str) -> String {
    let number = value.as_f64().or_else(|| value.as_str()?.parse().ok());
    let bound = |text: &str| text.parse::<f64>().unwrap_or_default();
    match number {
        Some(number) if number > bound(most) => format!("a whole number up to {most}"),
        Some(number) if number < bound(least) => format!("a whole number from {least}"),
        _ if least == "0" => "a whole number from 0".to_owned(),
        _ => "a whole number".to_owned(),
    }
}

fn joined(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn clipped(text: &str) -> String {
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::web::descriptors;

    fn of(json: &Value) -> Vec<String> {
        let descriptor = descriptors::message("trainyard.v1.SubmitJobRequest").unwrap();
        let found = find(&descriptor, json.as_object().unwrap());
        found.into_iter().map(|Wrong { field, text }| format!("{field}: {text}")).collect()
    }

    #[test]
    fn values_of_each_kind_are_refused_in_words_by_the_names_of_the_proto() {
        let table = [
            (json!({ "train": { "epochs": -1 } }), "spec.train.epochs: is -1; give a whole number from 0"),
            (json!({ "train": { "epochs": 3.5 } }), "spec.train.epochs: is 3.5; give a whole number from 0"),
            (
                json!({ "train": { "epochs": "many" } }),
                "spec.train.epochs: is `many`; give a whole number from 0",
            ),
            (
                json!({ "train": { "epochs": 4_294_967_296_u64 } }),
                "spec.train.epochs: is 4294967296; give a whole number up to 4294967295",
            ),
            (json!({ "priority": "high" }), "spec.priority: is `high`; give a whole number"),
            (json!({ "timeLimit": "abc" }), "spec.time_limit: is `abc`; give a duration such as \"5400s\""),
            (json!({ "train": { "amp": "on" } }), "spec.train.amp: is `on`; give true or false"),
            (json!({ "train": { "lr0": [] } }), "spec.train.lr0: is a list; give a number"),
            (json!({ "train": 3 }), "spec.train: is 3; give an object"),
            (json!({ "name": {} }), "spec.name: is an object; give a text"),
            (
                json!({ "resources": { "gpuModels": "4090" } }),
                "spec.resources.gpu_models: is `4090`; give a list",
            ),
            (
                json!({ "resources": { "gpuModels": ["a", 3] } }),
                "spec.resources.gpu_models[1]: is 3; give a text",
            ),
            (json!({ "labels": { "a": 1 } }), "spec.labels.a: is 1; give a text"),
            (json!({ "labels": [] }), "spec.labels: is a list; give an object"),
        ];
        for (spec, expected) in table {
            assert_eq!(of(&json!({ "spec": spec })), [expected]);
        }
        let fine =
            json!({ "spec": { "name": null, "labels": { "a": "b" }, "train": { "epochs": "3", "lr0": 1 } } });
        assert_eq!(of(&fine), [""; 0]);
    }

    #[test]
    fn every_field_that_is_wrong_is_named_and_what_is_long_is_cut() {
        let spec = json!({ "priority": 1.5, "train": { "epoch": 3, "amp": 1 } });
        let fields: Vec<String> = of(&json!({ "spec": spec }))
            .iter()
            .map(|one| one.split(':').next().unwrap().to_owned())
            .collect();
        assert_eq!(fields, ["spec.priority", "spec.train.amp", "spec.train.epoch"]);
        let long = of(&json!({ "x".repeat(100_000): 1, "requestId": ["y".repeat(100_000)] }));
        assert!(long.iter().all(|one| one.len() < 400), "{long:?}");
        let many: Map<String, Value> = (0..1000).map(|at| (format!("x{at}"), json!(1))).collect();
        assert_eq!(of(&Value::Object(many)).len(), MOST);
    }

    #[test]
    fn names_of_an_enum_are_listed() {
        let descriptor = descriptors::message("trainyard.v1.ListJobsRequest").unwrap();
        let found = find(&descriptor, json!({ "states": ["LATE"] }).as_object().unwrap());
        assert_eq!(found[0].field, "states[0]");
        assert!(found[0].text.starts_with("is `LATE`; give one of QUEUED, "), "{}", found[0].text);
    }
}

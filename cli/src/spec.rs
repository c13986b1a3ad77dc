//! Job specifications from files: YAML or JSON, many documents a file, every error named at once.
//!
//! Only names and types are checked here. Whether values make sense is the scheduler's to say, so that
//! `yard` and grpcurl get the same answer.

use std::path::{Component, Path, PathBuf};

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor};
use serde::Deserialize;
use serde_json::{Map, Value};
use trainyard_proto::pb;
use trainyard_types::Violation;

use crate::failure::Failure;
use crate::proto_json;

/// A job as one document of a file described it.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// From 1.
    pub number: usize,
    /// What it says.
    pub spec: pb::JobSpec,
}

/// Reads every document of `text`, which came from `file` (for messages).
///
/// # Errors
/// Every wrong field of every document; text that is no YAML; no document at all.
pub fn parse(file: &str, text: &str) -> Result<Vec<Document>, Failure> {
    let mut documents = Vec::new();
    let mut wrong = Vec::new();
    for (at, document) in serde_norway::Deserializer::from_str(text).enumerate() {
        let number = at + 1;
        let value = match Value::deserialize(document) {
            // `---` at the end of a file begins a document that nobody meant.
            Ok(Value::Null) => continue,
            Ok(value) => value,
            // Nothing after this can be trusted to be where it seems.
            Err(error) => {
                wrong.push(format!("document {number}: {error}"));
                break;
            }
        };
        match job_spec(&value) {
            Ok(spec) => documents.push(Document { number, spec }),
            Err(violations) => {
                wrong.extend(violations.iter().map(|violation| format!("document {number}: {violation}")));
            }
        }
    }
    if !wrong.is_empty() {
        return Err(Failure::usage(format!("{file}: nothing was submitted, because of this"))
            .details(wrong)
            .hint("the fields are those of JobSpec; `yard train --help` says what they mean"));
    }
    if documents.is_empty() {
        return Err(Failure::usage(format!("{file}: holds no job"))
            .hint("write at least `train: {model: yolov8n, data: /path/to/data.yaml}`"));
    }
    Ok(documents)
}

/// One job from its parsed document; on failure every wrong field.
fn job_spec(value: &Value) -> Result<pb::JobSpec, Vec<Violation>> {
    let Value::Object(fields) = value else {
        let what = format!("is {}; write the fields of a job, such as `train:`", kind_of(value));
        return Err(vec![Violation::new("(document)", what)]);
    };
    let descriptor = proto_json::descriptor("JobSpec").expect("jobs.proto defines it");
    let mut found = Vec::new();
    check_message(&descriptor, fields, "", &mut found);
    if !fields.contains_key("train") {
        found.push(Violation::new("train", "is missing; say what to train: model and data"));
    }
    if !found.is_empty() {
        return Err(found);
    }
    let whole = |text: String| vec![Violation::new("(document)", text)];
    let message = DynamicMessage::deserialize(descriptor, value).map_err(|error| whole(error.to_string()))?;
    message.transcode_to().map_err(|error| whole(error.to_string()))
}

/// Checks each field by itself, so that one wrong field hides no other.
fn check_message(
    descriptor: &MessageDescriptor,
    fields: &Map<String, Value>,
    path: &str,
    found: &mut Vec<Violation>,
) {
    for (name, value) in fields {
        let here = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let by_name = |field: &FieldDescriptor| field.name() == name || field.json_name() == name;
        let Some(field) = descriptor.fields().find(by_name) else {
            found.push(Violation::new(here, unknown(descriptor, name)));
            continue;
        };
        let nested = match field.kind() {
            Kind::Message(inner) if !field.is_map() && !field.is_list() => Some(inner),
            _ => None,
        };
        match (nested, value) {
            (Some(inner), Value::Object(fields)) if inner.package_name() == "trainyard.v1" => {
                check_message(&inner, fields, &here, found);
            }
            _ => {
                let alone = Value::Object(Map::from_iter([(name.clone(), value.clone())]));
                if let Err(error) = DynamicMessage::deserialize(descriptor.clone(), alone) {
                    found.push(Violation::new(here, format!("is {}: {error}", shown(value))));
                }
            }
        }
    }
}

fn unknown(descriptor: &MessageDescriptor, name: &str) -> String {
    let nearest = descriptor
        .fields()
        .min_by_key(|field| strsim::damerau_levenshtein(&name.to_lowercase(), field.name()));
    let meant = nearest.map(|field| format!("; did you mean `{}`?", field.name())).unwrap_or_default();
    format!("is no field of {}{meant}", descriptor.name())
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => format!("`{}`", crate::terminal::clean(text)),
        Value::Null | Value::Bool(_) | Value::Number(_) => format!("`{value}`"),
        Value::Array(_) | Value::Object(_) => kind_of(value).to_owned(),
    }
}

const fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "empty",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a group of fields",
    }
}

/// `path` as an absolute one: agents do not share this process's directory. `..` is resolved where
/// the path exists; where it does not, it stays, since a link may change what it means.
pub fn absolute(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let climbs = absolute.components().any(|part| part == Component::ParentDir);
    if climbs { absolute.canonicalize().unwrap_or(absolute) } else { absolute }
}

/// Reads `20G`, `20GB`, `20GiB`, `20480M`, … as MiB. Users of cards count in powers of two.
///
/// # Errors
/// A number without its unit, or no number.
pub fn parse_mib(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is not a memory size; write a number and a unit, such as 20G or 20480M");
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
    let (number, unit) = text.split_at(split);
    let factor = match unit.trim().to_ascii_lowercase().as_str() {
        "g" | "gb" | "gib" => 1024.0,
        "m" | "mb" | "mib" => 1.0,
        _ => return Err(wrong()),
    };
    let mib = (number.parse::<f64>().map_err(|_| wrong())? * factor).round();
    if !(0.0..=1e9).contains(&mib) {
        return Err(wrong());
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 1e9, as just checked")]
    Ok(mib as u64)
}

/// Reads `90s`, `90m`, `36h`, `2d` or `1h30m`.
///
/// # Errors
/// A number without its unit, or no number.
pub fn parse_span(text: &str) -> Result<prost_types::Duration, String> {
    let wrong = || format!("`{text}` is not a span of time; write numbers with units, such as 90m or 1h30m");
    let (mut seconds, mut rest) = (0_i64, text.trim());
    while !rest.is_empty() {
        let split = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let number: i64 = rest[..split].parse().map_err(|_| wrong())?;
        let unit = match &rest[split..split + rest[split..].chars().next().map_or(0, char::len_utf8)] {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            "d" => 86_400,
            _ => return Err(wrong()),
        };
        seconds = number.checked_mul(unit).and_then(|more| seconds.checked_add(more)).ok_or_else(wrong)?;
        rest = &rest[split + 1..];
    }
    if text.trim().is_empty() { Err(wrong()) } else { Ok(prost_types::Duration { seconds, nanos: 0 }) }
}

/// Reads `key=value`.
///
/// # Errors
/// No `=`, or nothing before it.
pub fn parse_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("`{text}` is not a label; write key=value")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &str = "name: first\ntrain: {model: yolov8n, data: /d/data.yaml, epochs: 3, lr0: 0.02}\n\
                       resources: {minVramMib: 20000, gpu_models: ['4090']}\nlabels: {rack: '7'}\n---\n\
                       {\"train\": {\"model\": \"yolov8s\", \"data\": \"/d/data.yaml\", \"cosLr\": false}}\n---\n";

    #[test]
    fn a_file_holds_many_jobs_in_yaml_or_json_under_either_spelling() {
        let documents = parse("job.yaml", TWO).unwrap();
        assert_eq!(documents.iter().map(|document| document.number).collect::<Vec<_>>(), [1, 2]);
        let first = &documents[0].spec;
        let train = first.train.as_ref().unwrap();
        assert_eq!((train.epochs, train.lr0, train.imgsz), (Some(3), Some(0.02), None));
        let resources = first.resources.as_ref().unwrap();
        assert_eq!((resources.min_vram_mib, &resources.gpu_models[..]), (20000, &["4090".to_owned()][..]));
        assert_eq!(documents[1].spec.train.as_ref().unwrap().cos_lr, Some(false));
    }

    #[test]
    fn every_wrong_field_of_every_document_is_named() {
        let text = "train: {model: yolov8n, data: /d, epoch: 3, imgsz: big}\nprioritty: 1\n---\nname: x\n";
        let failure = parse("job.yaml", text).unwrap_err();
        assert_eq!(failure.exit.code(), 2);
        assert!(failure.message.starts_with("job.yaml: "), "{failure:?}");
        let starts = [
            "document 1: prioritty: is no field of JobSpec; did you mean `priority`?",
            "document 1: train.epoch: is no field of TrainSpec; did you mean `epochs`?",
            "document 1: train.imgsz: is `big`",
            "document 2: train: is missing",
        ];
        assert_eq!(failure.details.len(), starts.len(), "{failure:?}");
        for (detail, start) in failure.details.iter().zip(starts) {
            assert!(detail.starts_with(start), "{detail}");
        }
    }

    #[test]
    fn a_file_that_is_no_list_of_jobs_is_refused() {
        for wrong in ["", "---\n---\n", "just text", "- 1\n", "train: [", "train: 3", "\tx"] {
            assert_eq!(parse("job.yaml", wrong).unwrap_err().exit.code(), 2, "{wrong:?}");
        }
    }

    #[test]
    fn memory_sizes_need_their_unit() {
        assert_eq!(
            ["20G", "20gb", "20GiB", "20480M", "0.5G"].map(parse_mib),
            [20480, 20480, 20480, 20480, 512].map(Ok)
        );
        for wrong in ["20", "G", "-1G", "x", "1.2.3G", "1T", "99999999999G"] {
            assert!(parse_mib(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_path_becomes_absolute() {
        let here = std::env::current_dir().unwrap();
        assert_eq!(absolute(Path::new("d/data.yaml")), here.join("d/data.yaml"));
        assert_eq!(absolute(Path::new("../nowhere-to-be-found")), here.join("../nowhere-to-be-found"));
        assert_eq!(absolute(Path::new("/data/data.yaml")), Path::new("/data/data.yaml"));
    }
}

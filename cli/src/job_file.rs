//! Job files: YAML or JSON, many documents a file, every error named at once.
//!
//! Only names and types are checked here. Whether values make sense is the scheduler's to say, so that
//! `yard` and grpcurl get the same answer.

mod line_numbers;
mod normalize;

use std::ops::Range;

use prost_reflect::{DynamicMessage, Kind, MessageDescriptor};
use serde::Deserialize;
use serde_json::{Map, Value};
use trainyard_proto::pb;
use trainyard_types::Violation;

use self::normalize::WrittenTexts;
use crate::failure::Failure;
use crate::proto_json;

/// A job as one document of a file described it.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// Its number in the file, from 1.
    pub number: usize,
    /// The lines of the file that it is on, counted from 0.
    lines: Range<usize>,
    /// The job that it describes.
    pub spec: pb::JobSpec,
}

impl Document {
    /// Where `field` of this document of `text` stands, for a message: `document 2, line 14`.
    pub fn position(&self, text: &str, field: &str) -> String {
        position_of(self.number, line_numbers::of_field(text, self.lines.clone(), field))
    }
}

fn position_of(document: usize, line: Option<usize>) -> String {
    line.map_or_else(|| format!("document {document}"), |line| format!("document {document}, line {line}"))
}

/// Reads every document of `text`, which came from `file` (for messages).
///
/// # Errors
/// Every wrong field of every document; text that is no YAML; no document at all.
pub fn parse(file: &str, text: &str) -> Result<Vec<Document>, Failure> {
    let mut documents = Vec::new();
    let mut wrong = Vec::new();
    let ranges = line_numbers::of_documents(text);
    // Read twice: once for the types, and once for texts as they are written.
    let texts =
        serde_norway::Deserializer::from_str(text).map(|document| WrittenTexts::deserialize(document).ok());
    let mut texts = texts.chain(std::iter::repeat_with(|| None));
    for (at, document) in serde_norway::Deserializer::from_str(text).enumerate() {
        let (number, texts) = (at + 1, texts.next().flatten().unwrap_or_default());
        let lines = ranges.get(at).cloned().unwrap_or_default();
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
        match job_spec(value, &texts) {
            Ok(spec) => documents.push(Document { number, lines, spec }),
            Err(violations) => {
                let line =
                    |violation: &Violation| line_numbers::of_field(text, lines.clone(), &violation.field);
                let told = |one: &Violation| format!("{}: {one}", position_of(number, line(one)));
                wrong.extend(violations.iter().map(told));
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
fn job_spec(value: Value, texts: &WrittenTexts) -> Result<pb::JobSpec, Vec<Violation>> {
    let Value::Object(mut fields) = value else {
        let what = format!("is {}; write the fields of a job, such as `train:`", kind_of(&value));
        return Err(vec![Violation::new("(document)", what)]);
    };
    let descriptor = proto_json::descriptor("JobSpec").expect("jobs.proto defines it");
    let mut found = normalize::normalize(&descriptor, &mut fields, texts);
    let mut others = Vec::new();
    check_message(&descriptor, &fields, "", &mut others);
    // What has no meaning has been named, with what to write.
    others.retain(|other| found.iter().all(|one| one.field != other.field));
    found.extend(others);
    if !fields.contains_key("train") {
        found.push(Violation::new("train", "is missing; say what to train: model and data"));
    }
    if !found.is_empty() {
        return Err(found);
    }
    let whole = |text: String| vec![Violation::new("(document)", text)];
    let message = DynamicMessage::deserialize(descriptor, Value::Object(fields))
        .map_err(|error| whole(error.to_string()))?;
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
        let Some(field) = normalize::field(descriptor, name) else {
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
                    let text = match normalize::wanted(&field) {
                        Some(wanted) => format!("is {}; {wanted}", shown(value)),
                        None => format!("is {}: {error}", shown(value)),
                    };
                    found.push(Violation::new(here, text));
                }
            }
        }
    }
}

fn unknown(descriptor: &MessageDescriptor, name: &str) -> String {
    // A field of another group is in the wrong place, not misspelt.
    for (message, place) in [
        ("TrainSpec", "in `train:`"),
        ("Resources", "in `resources:`"),
        ("JobSpec", "at the top, beside `train:`"),
    ] {
        let of_group = proto_json::descriptor(message).filter(|other| other != descriptor);
        if of_group.is_some_and(|other| normalize::field(&other, name).is_some()) {
            return format!("stands in the wrong place; write it {place}");
        }
    }
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
            "document 1, line 2: prioritty: is no field of JobSpec; did you mean `priority`?",
            "document 1, line 1: train.epoch: is no field of TrainSpec; did you mean `epochs`?",
            "document 1, line 1: train.imgsz: is `big`",
            "document 2: train: is missing",
        ];
        assert_eq!(failure.details.len(), starts.len(), "{failure:?}");
        for (detail, start) in failure.details.iter().zip(starts) {
            assert!(detail.starts_with(start), "{detail}");
        }
    }

    #[test]
    fn what_people_write_means_what_it_says() {
        let text = "name: 1.10\ntime_limit: 90m\nlabels: {fold: 03, ok: True, 7: x}\n\
                    resources: {device: 0, gpu_models: 4090}\n\
                    train:\n  model: /w/yolov8s.pt\n  data: /d\n  batch: auto\n  cache: true\n  \
                    imgsz: [640, 640]\n  optimizer: adamw\n  amp: 0\n---\n\
                    {\"timeLimit\": 5400, \"train\": {\"model\": \"yolov8n\", \"data\": \"/d\", \"cosLr\": \"False\"}}\n---\n\
                    time_limit: 1.5h\ntrain: {model: yolov8n.pt, pretrained: false, data: /d}\n";
        let error = parse("job.yaml", &text.replace("pretrained: false, ", "")).unwrap_err();
        assert_eq!(error.details.len(), 1, "{error:?}");
        assert!(
            error.details[0].starts_with("document 3, line 17: train.model: is `yolov8n.pt`"),
            "{error:?}"
        );
        // From scratch, as by flags: weights of that name need not be there.
        let documents = parse("job.yaml", text).unwrap();
        let limits = documents.iter().map(|one| one.spec.time_limit.as_ref().unwrap().seconds);
        assert_eq!(limits.collect::<Vec<_>>(), [5400; 3]);
        let first = &documents[0].spec;
        let labels = ["fold", "ok", "7"].map(|key| first.labels[key].as_str());
        assert_eq!((first.name.as_str(), labels), ("1.10", ["03", "True", "x"]));
        let resources = first.resources.clone().unwrap();
        assert_eq!(
            (resources.device.as_deref(), &resources.gpu_models[..]),
            (Some("gpu"), &["4090".to_owned()][..])
        );
        let train = first.train.clone().unwrap();
        assert_eq!((train.model.as_str(), train.pretrained.as_deref()), ("yolov8s", Some("/w/yolov8s.pt")));
        assert_eq!((train.batch, train.imgsz, train.amp), (Some(-1.0), Some(640), Some(false)));
        assert_eq!((train.cache.as_deref(), train.optimizer.as_deref()), (Some("ram"), Some("AdamW")));
        assert_eq!(documents[1].spec.train.as_ref().unwrap().cos_lr, Some(false));
        let third = documents[2].spec.train.as_ref().unwrap();
        assert_eq!((third.model.as_str(), third.pretrained.as_deref()), ("yolov8n", Some("")));
    }

    #[test]
    fn what_stands_in_the_wrong_place_is_told_the_right_one_with_its_line() {
        let text = "name: a\nepochs: 3\ndevice: 0\ntrain:\n  model: yolov8n\n  data: /d\n  priority: 2\n  \
                    imgsz: [640, 480]\n  time: soon\ntime_limit: soon\nlabels: {a: [1]}\n";
        let error = parse("job.yaml", text).unwrap_err();
        let wanted = [
            "document 1, line 2: epochs: stands in the wrong place; write it in `train:`",
            "document 1, line 3: device: stands in the wrong place; write it in `resources:`",
            "document 1, line 7: train.priority: stands in the wrong place; write it at the top, beside `train:`",
            "document 1, line 8: train.imgsz: is 640 and 480; training images are square: write 640",
            "document 1, line 9: train.time: is `soon`",
            "document 1, line 10: time_limit: `soon` is not a span of time",
            "document 1, line 11: labels.a: is a list; write one text",
        ];
        for wanted in wanted {
            assert!(
                error.details.iter().any(|detail| detail.starts_with(wanted)),
                "{wanted} is not in {error:#?}"
            );
        }
        assert_eq!(error.details.len(), wanted.len(), "{error:#?}");
    }

    #[test]
    fn empty_labels_sizes_and_values_of_a_wrong_type_say_what_to_write() {
        let text =
            "train: {model: yolov8n, data: /d}\nlabels: {a: null, b: }\nresources: {min_vram_mib: 12GB}\n";
        let documents = parse("job.yaml", text).unwrap();
        let spec = &documents[0].spec;
        assert_eq!([&spec.labels["a"], &spec.labels["b"]], ["", ""]);
        assert_eq!(spec.resources.as_ref().unwrap().min_vram_mib, 12288);
        let text = "priority: high\ntrain: {model: yolov8n, data: /d, lr0: '0,01', epochs: few}\nresources: {min_vram_mib: big}\n";
        let mut details = parse("job.yaml", text).unwrap_err().details;
        details.sort();
        assert_eq!(
            details,
            [
                "document 1, line 1: priority: is `high`; write a whole number",
                "document 1, line 2: train.epochs: is `few`; write a whole number from 0",
                "document 1, line 2: train.lr0: is `0,01`; write a number, with a point as in 0.01",
                "document 1, line 3: resources.min_vram_mib: is `big`; write a whole number from 0",
            ]
        );
    }

    #[test]
    fn a_file_that_is_no_list_of_jobs_is_refused() {
        for wrong in ["", "---\n---\n", "just text", "- 1\n", "train: [", "train: 3", "\tx"] {
            assert_eq!(parse("job.yaml", wrong).unwrap_err().exit.code(), 2, "{wrong:?}");
        }
    }
}

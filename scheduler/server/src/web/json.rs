//! Messages as proto3 JSON: lowerCamelCase names, of which the proto's own are taken, too; enums by name; 64-bit integers
//! as strings.

use prost::Message as _;
use prost_reflect::{DeserializeOptions, DynamicMessage, MessageDescriptor};
use serde_json::Value;
use serde_path_to_error::{Deserializer, Segment, Track};

use super::json_faults;

/// What is wrong with a message, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    /// A path of names, such as `spec.train.epochs`; empty where the JSON itself is broken.
    pub field: String,
    pub text: String,
}

/// A message out of JSON, encoded. Nothing at all is a message without fields.
///
/// # Errors
/// It is no JSON, or no such message; each field that is wrong is named.
pub fn encode(descriptor: &MessageDescriptor, json: &[u8]) -> Result<Vec<u8>, Vec<Wrong>> {
    if json.trim_ascii().is_empty() {
        return Ok(Vec::new());
    }
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let mut track = Track::new();
    let tracked = Deserializer::new(&mut deserializer, &mut track);
    let options = DeserializeOptions::new().deny_unknown_fields(true);
    let read = DynamicMessage::deserialize_with_options(descriptor.clone(), tracked, &options);
    let message = read.map_err(|error| faults(descriptor, json, &error, &track.path()))?;
    deserializer.end().map_err(|error| vec![broken(&error)])?;
    Ok(message.encode_to_vec())
}

/// What is wrong with JSON that is no such message. A path is where the parser gave up.
fn faults(
    descriptor: &MessageDescriptor,
    json: &[u8],
    error: &serde_json::Error,
    path: &serde_path_to_error::Path,
) -> Vec<Wrong> {
    if !error.is_data() {
        return vec![broken(error)];
    }
    let found = match serde_json::from_slice(json) {
        Ok(Value::Object(fields)) => json_faults::find(descriptor, &fields),
        Ok(other) => {
            let text =
                format!("is no JSON of this message: it is {}; give an object", json_faults::shown(&other));
            vec![Wrong { field: String::new(), text }]
        }
        // The parser has taken another way through it.
        Err(_) => Vec::new(),
    };
    if !found.is_empty() {
        return found;
    }
    // A field that comes twice, or two of which only one may be given.
    let text = error.to_string();
    let text = text.split(" at line ").next().unwrap_or_default().to_owned();
    let mut field = dotted(path);
    // A field that may be unset is a oneof of its own.
    if let Some(name) = text.strip_prefix("multiple fields provided for oneof '_") {
        join(&mut field, name.trim_end_matches('\''));
        return vec![Wrong { field, text: "is given twice; give it once".to_owned() }];
    }
    if field.is_empty() {
        return vec![Wrong { field, text: format!("is no JSON of this message: {text}") }];
    }
    vec![Wrong { field, text }]
}

/// No JSON at all, which whoever wrote it finds by line and column.
fn broken(error: &serde_json::Error) -> Wrong {
    Wrong { field: String::new(), text: format!("is no JSON of this message: {error}") }
}

/// An encoded message as JSON; `None` where the bytes are none.
pub fn decode(descriptor: MessageDescriptor, message: &[u8]) -> Option<Vec<u8>> {
    let message = DynamicMessage::decode(descriptor, message).ok()?;
    serde_json::to_vec(&message).ok()
}

/// Names by dots, places by brackets.
fn dotted(path: &serde_path_to_error::Path) -> String {
    let mut text = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => text.push_str(&format!("[{index}]")),
            Segment::Map { key } => join(&mut text, key),
            Segment::Enum { variant } => join(&mut text, variant),
            Segment::Unknown => {}
        }
    }
    text
}

fn join(path: &mut String, name: &str) {
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(name);
}

#[cfg(test)]
mod tests {
    use trainyard_proto::pb;

    use super::*;
    use crate::web::descriptors;

    fn submission() -> MessageDescriptor {
        descriptors::message("trainyard.v1.SubmitJobRequest").unwrap()
    }

    #[test]
    fn both_spellings_of_a_name_are_taken_and_camels_are_written() {
        for text in
            [r#"{"requestId":"a","spec":{"maxRetries":2}}"#, r#"{"request_id":"a","spec":{"max_retries":2}}"#]
        {
            let bytes = encode(&submission(), text.as_bytes()).unwrap();
            let message = pb::SubmitJobRequest::decode(bytes.as_slice()).unwrap();
            assert_eq!((message.request_id.as_str(), message.spec.unwrap().max_retries), ("a", Some(2)));
            let json = String::from_utf8(decode(submission(), &bytes).unwrap()).unwrap();
            assert_eq!(json, r#"{"requestId":"a","spec":{"maxRetries":2}}"#);
        }
        assert_eq!(encode(&submission(), b" \n"), Ok(Vec::new()));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let table = [
            (r#"{"spec":{"train":{"epochs":"many"}}}"#, "spec.train.epochs"),
            (r#"{"spec":{"train":{"epoch":3}}}"#, "spec.train.epoch"),
            (r#"{"spec":{"resources":{"gpuModels":["a",3]}}}"#, "spec.resources.gpu_models[1]"),
            (r#"{"spec":{"maxRetries":1,"maxRetries":2}}"#, "spec.max_retries"),
            (r#"{"nothing":1}"#, "nothing"),
            (r#"{"spec":"#, ""),
            ("[]", ""),
            ("{} {}", ""),
        ];
        for (text, field) in table {
            let wrong = encode(&submission(), text.as_bytes()).unwrap_err();
            assert_eq!((wrong.len(), wrong[0].field.as_str()), (1, field), "{text}: {wrong:?}");
        }
    }
}

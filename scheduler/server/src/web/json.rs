//! Messages as proto3 JSON: lowerCamelCase names, of which the proto's own are taken, too; enums by name; 64-bit integers
//! as strings.

use prost::Message as _;
use prost_reflect::{DeserializeOptions, DynamicMessage, MessageDescriptor};
use serde_path_to_error::{Deserializer, Segment, Track};

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
/// It is no JSON, or no such message; the field is named.
pub fn encode(descriptor: MessageDescriptor, json: &[u8]) -> Result<Vec<u8>, Wrong> {
    if json.trim_ascii().is_empty() {
        return Ok(Vec::new());
    }
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let mut track = Track::new();
    let tracked = Deserializer::new(&mut deserializer, &mut track);
    let options = DeserializeOptions::new().deny_unknown_fields(true);
    let read = DynamicMessage::deserialize_with_options(descriptor, tracked, &options);
    let message = read.map_err(|error| {
        let field = if error.is_data() { dotted(&track.path()) } else { String::new() };
        wrong(field, &error.to_string())
    })?;
    deserializer.end().map_err(|error| wrong(String::new(), &error.to_string()))?;
    Ok(message.encode_to_vec())
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

/// In our words: a field that is not there is named like one that is wrong.
fn wrong(mut field: String, error: &str) -> Wrong {
    let unknown = error.strip_prefix("unrecognized field name '").and_then(|rest| rest.split_once('\''));
    if let Some((name, _)) = unknown {
        // The path has the name already where its value was looked at.
        if field != name && !field.ends_with(&format!(".{name}")) {
            join(&mut field, name);
        }
        let text = "is no field of this message; look at its description by reflection, or in the reference";
        return Wrong { field, text: text.to_owned() };
    }
    let text =
        if field.is_empty() { format!("is no JSON of this message: {error}") } else { error.to_owned() };
    Wrong { field, text }
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
            let bytes = encode(submission(), text.as_bytes()).unwrap();
            let message = pb::SubmitJobRequest::decode(bytes.as_slice()).unwrap();
            assert_eq!((message.request_id.as_str(), message.spec.unwrap().max_retries), ("a", Some(2)));
            let json = String::from_utf8(decode(submission(), &bytes).unwrap()).unwrap();
            assert_eq!(json, r#"{"requestId":"a","spec":{"maxRetries":2}}"#);
        }
        assert_eq!(encode(submission(), b" \n"), Ok(Vec::new()));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let table = [
            (r#"{"spec":{"train":{"epochs":"many"}}}"#, "spec.train.epochs"),
            (r#"{"spec":{"train":{"epoch":3}}}"#, "spec.train.epoch"),
            (r#"{"spec":{"resources":{"gpuModels":["a",3]}}}"#, "spec.resources.gpuModels[1]"),
            (r#"{"nothing":1}"#, "nothing"),
            (r#"{"spec":"#, ""),
            ("[]", ""),
            ("{} {}", ""),
        ];
        for (text, field) in table {
            let wrong = encode(submission(), text.as_bytes()).unwrap_err();
            assert_eq!(wrong.field, field, "{text}: {}", wrong.text);
        }
    }
}

//! Messages of the wire as proto3 JSON: lowerCamelCase names, enums by name, 64-bit integers as
//! strings, RFC 3339 times.

use std::sync::LazyLock;

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, SerializeOptions};
use serde_json::Value;
use trainyard_proto::pb;

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(pb::DESCRIPTORS).expect("the descriptors were written by the build of this crate")
});

/// A message's descriptor by its name inside `trainyard.v1`. `None` for a name that is not there.
pub fn descriptor(name: &str) -> Option<MessageDescriptor> {
    POOL.get_message_by_name(&format!("trainyard.v1.{name}"))
}

/// `message`, which must be the message called `name`, as proto3 JSON. Fields with default values
/// are written, so that what a script reads is there whatever the value; keys are sorted.
pub fn to_json<M: Message>(name: &str, message: &M) -> Value {
    let descriptor = descriptor(name).expect("callers name messages of trainyard.v1");
    let dynamic = DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice())
        .expect("a message decodes as what it was encoded from");
    let options = SerializeOptions::new().skip_default_fields(false);
    dynamic
        .serialize_with_options(serde_json::value::Serializer, &options)
        .expect("a JSON value can hold every message")
}

#[cfg(test)]
mod tests {
    use prost_types::{Duration, Timestamp};

    use super::*;

    #[test]
    fn json_is_what_proto3_says() {
        let job = pb::Job {
            id: "019a".into(),
            state: pb::JobState::Running.into(),
            create_time: Some(Timestamp { seconds: 1_700_000_000, nanos: 5_000_000 }),
            spec: Some(pb::JobSpec {
                train: Some(pb::TrainSpec { lr0: Some(0.0), seed: Some(1 << 53), ..Default::default() }),
                ..Default::default()
            }),
            progress: Some(pb::Progress {
                eta: Some(Duration { seconds: 12, nanos: 500_000_000 }),
                ..Default::default()
            }),
            ..Default::default()
        };
        let json = to_json("Job", &job);
        assert_eq!(json["state"], "RUNNING");
        assert_eq!(json["createTime"], "2023-11-14T22:13:20.005Z");
        assert_eq!(json["progress"]["eta"], "12.500s");
        assert_eq!(json["spec"]["train"]["seed"], "9007199254740992");
        assert_eq!(json["spec"]["train"]["lr0"], 0.0);
        assert_eq!(json["attempts"], Value::Array(Vec::new()));
        assert_eq!(json.get("endTime"), None);
        assert_eq!(json["spec"]["train"].get("epochs"), None);
    }
}

//! What the methods take and answer, and what errors may carry, as the build described it.

use std::sync::LazyLock;

use axum::response::Response;
use prost_reflect::{DescriptorPool, MessageDescriptor, MethodDescriptor};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use trainyard_proto::pb;

use crate::refusal::details;

/// What the path of each method begins with.
pub const PATH_START: &str = "/trainyard.v1.";

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    let mut pool = DescriptorPool::decode(pb::DESCRIPTORS).expect("the build wrote these descriptors");
    pool.decode_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
        .expect("the crate's descriptors are whole");
    pool
});

/// The method of a path such as `/trainyard.v1.JobService/ListJobs`.
pub fn method(path: &str) -> Option<MethodDescriptor> {
    let (service, name) = path.strip_prefix('/')?.split_once('/')?;
    let service = POOL.get_service_by_name(service)?;
    service.methods().find(|method| method.name() == name)
}

/// The refusal of a call of a method that is none.
pub fn unknown_method(path: &str) -> Status {
    let called = path.strip_prefix(PATH_START).unwrap_or(path);
    let text =
        format!("`{called}` is no method of this scheduler; its reflection and its reference list all");
    Status::with_error_details(Code::Unimplemented, text, details("UNIMPLEMENTED", []))
}

/// Whether an answer of gRPC says that there is no such method.
pub fn is_unimplemented(answer: &Response) -> bool {
    Status::from_header_map(answer.headers()).is_some_and(|status| status.code() == Code::Unimplemented)
}

/// A message by the last part of its type's address.
pub fn message(type_url: &str) -> Option<MessageDescriptor> {
    POOL.get_message_by_name(type_url.rsplit('/').next()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_and_the_details_of_errors_are_known() {
        assert_eq!(method("/trainyard.v1.JobService/GetJob").unwrap().input().name(), "GetJobRequest");
        assert!(method("/trainyard.v1.JobService/Nothing").is_none());
        assert!(method("/").is_none());
        assert!(message("type.googleapis.com/google.rpc.BadRequest").is_some());
    }
}

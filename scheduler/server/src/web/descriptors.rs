//! What the methods take and answer, and what errors may carry, as the build described it.

use std::sync::LazyLock;

use prost_reflect::{DescriptorPool, MessageDescriptor, MethodDescriptor};
use trainyard_proto::pb;

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

//! The Envoy descriptors: what the walks over encoded messages are guided by.

use std::sync::LazyLock;

use prost_reflect::{DescriptorPool, FieldDescriptor, Kind, MessageDescriptor};

/// Deepest nesting of messages that a walk follows, `Any` included; the limit of protobuf's own decoders.
pub(super) const MAX_DEPTH: usize = 100;

/// `google.protobuf.Any`, the door in every walk through which another type comes.
pub const ANY: &str = "google.protobuf.Any";

/// The descriptors as they are stored, a `FileDescriptorSet`.
pub const BYTES: &[u8] = include_bytes!("../../proto/envoy.binpb");

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    // Cannot fail: the bytes are part of the binary, and a test decodes them.
    DescriptorPool::decode(BYTES).unwrap_or_default()
});

/// Descriptors of every Envoy message that we write, with the options that carry validation rules
/// (`validate.rules`) and mark secrets (`udpa.annotations.sensitive`). Made by `scripts/descriptors.sh`.
pub fn pool() -> &'static DescriptorPool {
    &POOL
}

/// The full name in a type URL: what follows its last slash.
pub fn message_name(type_url: &str) -> &str {
    type_url.rsplit_once('/').map_or(type_url, |(_, name)| name)
}

/// The message of a field, or of a map field's values.
pub(super) fn message_of(field: &FieldDescriptor) -> Option<MessageDescriptor> {
    match field.kind() {
        Kind::Message(entry) if field.is_map() => match entry.map_entry_value_field().kind() {
            Kind::Message(value) => Some(value),
            _ => None,
        },
        Kind::Message(message) => Some(message),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xds::ResourceType;

    #[test]
    fn the_pool_holds_every_type_that_we_serve() {
        for kind in ResourceType::ALL {
            assert!(pool().get_message_by_name(message_name(kind.url())).is_some(), "{kind:?}");
        }
        for name in ["validate.rules", "udpa.annotations.sensitive"] {
            assert!(pool().get_extension_by_name(name).is_some(), "{name}");
        }
    }
}

//! The protocol's words: types, versions, names, resources; and the walks over descriptors.

mod resource;

pub use resource::{Resource, ResourceType, Source, Version};

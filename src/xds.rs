//! The protocol's words: types, versions, names, resources; and the walks over descriptors.

mod resource;
mod seq;
mod subscription;

pub use resource::{Resource, ResourceType, Source, Version};
pub use seq::Seq;
pub use subscription::Subscription;

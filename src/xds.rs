//! The protocol's words: types, versions, names, resources; and the walks over descriptors.

pub mod canonical;
pub mod descriptor;
pub mod json;
pub mod name;
pub mod redact;
pub mod references;
mod names;
mod resource;
pub mod validate;
mod seq;
mod subscription;
mod walk;

pub use names::Names;
pub use resource::{
    ANY_SCOPE, NeedAt, PerType, Removal, Resource, ResourceType, ServiceNeed, Source, TTL_MIN, Version,
};
pub use seq::Seq;
pub use subscription::Subscription;

//! Tidegate: the control plane of a global edge.

pub mod compile;
pub mod manifest;
pub mod model;
pub mod rpc;
pub mod store;
pub mod xds;

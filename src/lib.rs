//! Tidegate: the control plane of a global edge.

pub mod compile;
pub mod feedback;
pub mod identity;
pub mod model;
pub mod rpc;
pub mod serve;
pub mod snapshot;
pub mod store;
pub mod xds;

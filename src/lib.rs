//! Tidegate: the control plane of a global edge.

pub mod bootstrap;
pub mod certs;
pub mod compile;
pub mod model;
pub mod rpc;
pub mod store;
pub mod xds;

//! Tidegate: the control plane of a global edge.

pub mod bootstrap;
pub mod certs;
pub mod cli;
pub mod catalog;
pub mod compile;
pub mod feedback;
pub mod identity;
pub mod model;
pub mod rpc;
pub mod serve;
pub mod snapshot;
pub mod store;
pub mod telemetry;
pub mod xds;

#[cfg(test)]
mod tidy;

//! Tidegate: the control plane of a global edge.

// Words.
pub mod model;
pub mod manifest;
pub mod xds;
pub mod identity;
pub mod rpc;
// Line.
pub mod store;
pub mod catalog;
pub mod compile;
pub mod snapshot;
pub mod feedback;
pub mod serve;
pub mod pipeline;
// Judgement.
pub mod admission;
pub mod status;
// Rim.
pub mod api;
pub mod bootstrap;
pub mod certs;
pub mod cli;
pub mod app;
pub mod demo;
pub mod telemetry;
#[cfg(test)]
mod tidy;

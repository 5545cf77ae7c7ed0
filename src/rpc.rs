//! Generated code of `proto/`: Tidegate's own gRPC API.
#![allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, clippy::restriction, reason = "generated")]

tonic::include_proto!("tidegate.v1");

/// The descriptors of this API.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/tidegate.binpb"));

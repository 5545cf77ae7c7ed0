//! Generated code of `proto/`: Tidegate's own gRPC API.
#![allow(missing_docs, unreachable_pub, clippy::all, reason = "generated")]

tonic::include_proto!("tidegate.v1");

//! The tools of the end-to-end tests: child processes that die with their handle, etcd, Envoy, gRPC, Tidegate, back ends,
//! a client and a load generator. Nothing here waits without a deadline, and nothing listens outside 127.0.0.0/8.
#![allow(dead_code, reason = "a tool box: not every tool is in use at every time")]
#![allow(unused_imports, reason = "as above: the names of the tool box")]

mod addresses;
mod backend;
mod client;
mod cluster;
mod envoy;
mod etcd;
mod grpc;
mod link;
mod load;
mod process;
mod tidegate;

use std::sync::LazyLock;

use tokio::runtime::Runtime;

pub(crate) use addresses::Addresses;
pub(crate) use backend::{Backend, Received};
pub(crate) use client::{Connection, Request, Response, Tls};
pub(crate) use cluster::Cluster;
pub(crate) use envoy::Envoy;
pub(crate) use etcd::Etcd;
pub(crate) use grpc::{GrpcClient, GrpcService};
pub(crate) use link::Link;
pub(crate) use load::{Load, Report, Running};
pub(crate) use process::{Process, wait_for};
pub(crate) use tidegate::{Output, Tidegate, tidegate};

/// What clients and load generators of all tests run on. Tests themselves are plain blocking functions.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime starts")
});

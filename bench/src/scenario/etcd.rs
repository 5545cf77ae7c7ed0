//! An etcd of a run, and puts into it: as an operator types them, and without the start of a program.

use std::{path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use tokio::runtime::Runtime;
use tonic::{client::Grpc, codegen::http::uri::PathAndQuery, transport::Channel};
use tonic_prost::ProstCodec;

use super::{
    process::{Core, Process, free_port, wait_for},
    tidegate::within,
};

#[derive(Clone, PartialEq, prost::Message)]
struct PutRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PutResponse {}

/// An etcd of this run.
pub struct Etcd {
    _process: Process,
    pub url: String,
}

impl Etcd {
    /// Starts it in `dir`.
    ///
    /// # Errors
    /// It does not answer in time.
    pub fn start(core: Core, dir: &Path) -> Result<Self> {
        let data = dir.join("etcd");
        if data.exists() {
            std::fs::remove_dir_all(&data)?;
        }
        let (url, peer) = (format!("http://{}", free_port()?), format!("http://{}", free_port()?));
        let data = data.display().to_string();
        let words = ["etcd", "--data-dir", &data, "--listen-client-urls", &url, "--advertise-client-urls", &url];
        let peers = ["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer];
        let cluster = ["--initial-cluster".to_owned(), format!("default={peer}")];
        let words = words.iter().chain(&peers).map(|word| (*word).to_owned()).chain(cluster);
        let mut process = Process::start("etcd", core, dir, &words.collect::<Vec<_>>())?;
        wait_for("etcd answers", || {
            process.alive()?;
            Ok(etcdctl(core, &url, "/ready", "1").is_ok())
        })?;
        Ok(Self { _process: process, url })
    }
}

/// `etcdctl put`.
///
/// # Errors
/// In its words.
pub fn etcdctl(core: Core, url: &str, key: &str, value: &str) -> Result<()> {
    let mut command = Command::new("taskset");
    command.arg("-c").arg(core.0.to_string()).args(["etcdctl", "--endpoints", url, "put", key, value]);
    let output = command.env("ETCDCTL_API", "3").output().context("cannot run etcdctl")?;
    ensure!(output.status.success(), "etcdctl: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// A connection to etcd that stands.
pub struct Connected {
    runtime: Runtime,
    grpc: Grpc<Channel>,
}

impl Connected {
    /// Connects.
    ///
    /// # Errors
    /// Nothing answers there.
    pub fn to(url: &str) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let channel = runtime.block_on(Channel::from_shared(url.to_owned())?.connect())?;
        Ok(Self { runtime, grpc: Grpc::new(channel) })
    }

    /// What `etcdctl put` asks etcd for.
    ///
    /// # Errors
    /// etcd refuses it, or does not answer.
    pub fn put(&mut self, key: &str, value: &str) -> Result<()> {
        let request = PutRequest { key: key.into(), value: value.into() };
        let path = PathAndQuery::from_static("/etcdserverpb.KV/Put");
        let grpc = &mut self.grpc;
        within(&self.runtime, async {
            grpc.ready().await?;
            let codec = ProstCodec::<PutRequest, PutResponse>::default();
            grpc.unary(tonic::Request::new(request), path, codec).await?;
            Ok(())
        })
    }
}

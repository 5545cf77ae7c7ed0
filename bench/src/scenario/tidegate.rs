//! Tidegate's objects and changes, through its gRPC API, or through etcd; and an etcd to do that with.

use std::{
    fmt::Write as _,
    io::{Read, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use tokio::{runtime::Runtime, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, client::Grpc, codegen::http::uri::PathAndQuery, transport::Channel};
use tonic_prost::ProstCodec;

use super::{
    process::{Core, LOAD, Process},
    server::Change,
};
use crate::{clock, stamp};

/// Endpoints of each service.
const ENDPOINTS: usize = 20;
/// Manifests of one request.
const BATCH: usize = 200;
/// For one call of the API.
const CALL: Duration = Duration::from_secs(60);

#[derive(Clone, PartialEq, prost::Message)]
struct Source {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    text: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ApplyRequest {
    #[prost(message, repeated, tag = "1")]
    sources: Vec<Source>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Fault {
    #[prost(uint32, tag = "2")]
    line: u32,
    #[prost(string, tag = "4")]
    message: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ApplyResponse {
    #[prost(message, repeated, tag = "2")]
    faults: Vec<Fault>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RegisterRequest {
    #[prost(string, tag = "1")]
    namespace: String,
    #[prost(string, tag = "2")]
    service: String,
    #[prost(string, tag = "3")]
    site: String,
    #[prost(string, tag = "4")]
    id: String,
    #[prost(string, tag = "5")]
    address: String,
    #[prost(uint32, tag = "6")]
    weight: u32,
    #[prost(uint32, tag = "7")]
    ttl_seconds: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RegisterResponse {}

/// The core site and the services with their endpoints.
fn manifests(count: usize) -> Vec<String> {
    let mut all = vec![
        "apiVersion: tidegate.dev/v1alpha1
kind: Site
metadata: {name: core1}
spec: {role: core, region: eu, zone: fra, coordinates: {latitude: 50.1, longitude: 8.7}, gateways: ['127.0.1.1:15443']}
"
        .to_owned(),
    ];
    for index in 0..count {
        all.push(service(index, 1_024));
        let mut set = format!(
            "apiVersion: tidegate.dev/v1alpha1
kind: EndpointSet
metadata: {{name: s{index:05}-core1, namespace: bench}}
spec:
  service: s{index:05}
  site: core1
  endpoints:
"
        );
        for number in 0..ENDPOINTS {
            let _ = writeln!(set, "  - address: 10.{}.{}.{}:8080", index >> 8, index & 255, number + 1);
        }
        all.push(set);
    }
    all
}

fn service(index: usize, limit: u32) -> String {
    format!(
        "apiVersion: tidegate.dev/v1alpha1
kind: Service
metadata: {{name: s{index:05}, namespace: bench}}
spec:
  ports: [{{port: 80}}]
  circuitBreakers: {{maxRequests: {limit}}}
"
    )
}

/// A stream that keeps an endpoint registered, and changes it.
struct Registration {
    requests: mpsc::Sender<RegisterRequest>,
    answers: Streaming<RegisterResponse>,
}

/// The hand on a running Tidegate.
pub struct Driver {
    runtime: Runtime,
    grpc: Grpc<Channel>,
    registration: Option<Registration>,
    etcd: Option<String>,
}

impl Driver {
    /// Waits until it is ready.
    ///
    /// # Errors
    /// It does not get ready in time.
    pub fn connect(api: SocketAddr, http: SocketAddr, etcd: Option<String>) -> Result<Self> {
        wait_ready(http)?;
        // A thread of its own: the connection answers PINGs while nobody calls.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let channel = runtime.block_on(Channel::from_shared(format!("http://{api}"))?.connect())?;
        let grpc = Grpc::new(channel).max_decoding_message_size(64 << 20);
        Ok(Self { runtime, grpc, registration: None, etcd })
    }

    /// Applies the data set.
    ///
    /// # Errors
    /// It is refused.
    pub fn load(&mut self, count: usize) -> Result<()> {
        for batch in manifests(count).chunks(BATCH) {
            self.apply(batch.join("---\n"))?;
        }
        Ok(())
    }

    fn apply(&mut self, text: String) -> Result<()> {
        let request = ApplyRequest { sources: vec![Source { name: "-".to_owned(), text }] };
        let path = PathAndQuery::from_static("/tidegate.v1.Operator/Apply");
        let grpc = &mut self.grpc;
        let response = within(&self.runtime, async {
            grpc.ready().await?;
            let codec = ProstCodec::<ApplyRequest, ApplyResponse>::default();
            Ok(grpc.unary(tonic::Request::new(request), path, codec).await?.into_inner())
        })?;
        ensure!(response.faults.is_empty(), "refused: {:?}", response.faults.first());
        Ok(())
    }

    /// Stamps and changes resource number `index`.
    ///
    /// # Errors
    /// In words.
    pub fn change(&mut self, change: Change, index: usize) -> Result<()> {
        if change == Change::Cluster {
            return self.apply(service(index, stamp::to_limit(clock::now())));
        }
        if let Some(url) = &self.etcd {
            let key = format!("/tidegate/v1/endpoints/core1/bench/s{index:05}/stamp");
            return put(url, &key, &format!("{{\"address\":\"{}\"}}", stamp::to_address(clock::now())));
        }
        if self.registration.is_none() {
            self.registration = Some(self.register(request(index))?);
        }
        let Some(Registration { requests, answers }) = &mut self.registration else { bail!("no registration") };
        within(&self.runtime, async {
            requests.send(request(index)).await?;
            answers.message().await?.context("the registration ended")?;
            Ok(())
        })
    }

    fn register(&mut self, first: RegisterRequest) -> Result<Registration> {
        let (requests, queue) = mpsc::channel(4);
        let path = PathAndQuery::from_static("/tidegate.v1.Operator/Register");
        let grpc = &mut self.grpc;
        let answers = within(&self.runtime, async {
            requests.send(first).await?;
            grpc.ready().await?;
            let codec = ProstCodec::<RegisterRequest, RegisterResponse>::default();
            let request = tonic::Request::new(ReceiverStream::new(queue));
            let mut answers = grpc.streaming(request, path, codec).await?.into_inner();
            answers.message().await?;
            Ok(answers)
        })?;
        Ok(Registration { requests, answers })
    }
}

/// Waits for a call, but not without end.
fn within<T>(runtime: &Runtime, call: impl Future<Output = Result<T>>) -> Result<T> {
    runtime.block_on(async { tokio::time::timeout(CALL, call).await.context("the API does not answer")? })
}

fn request(index: usize) -> RegisterRequest {
    RegisterRequest {
        namespace: "bench".to_owned(),
        service: format!("s{index:05}"),
        site: "core1".to_owned(),
        id: "stamp".to_owned(),
        address: stamp::to_address(clock::now()).to_string(),
        weight: 1,
        ttl_seconds: 300,
    }
}

/// An etcd of this run.
pub struct Etcd {
    _process: Process,
    pub url: String,
}

impl Etcd {
    /// Starts it in `dir`, on the generator's core, so that the server's CPU stays its own.
    ///
    /// # Errors
    /// It does not answer in time.
    pub fn start(dir: &Path) -> Result<Self> {
        Self::start_on(LOAD, dir)
    }

    fn start_on(core: Core, dir: &Path) -> Result<Self> {
        let data = dir.join("etcd");
        if data.exists() {
            std::fs::remove_dir_all(&data)?;
        }
        let free = || anyhow::Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?);
        let (url, peer) = (format!("http://{}", free()?), format!("http://{}", free()?));
        let data = data.display().to_string();
        let words = ["etcd", "--data-dir", &data, "--listen-client-urls", &url, "--advertise-client-urls", &url];
        let peers = ["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer];
        let cluster = ["--initial-cluster".to_owned(), format!("default={peer}")];
        let words = words.iter().chain(&peers).map(|word| (*word).to_owned()).chain(cluster);
        let process = Process::start("etcd", core, dir, &words.collect::<Vec<_>>())?;
        wait_for("etcd answers", || put(&url, "/ready", "1").is_ok())?;
        Ok(Self { _process: process, url })
    }
}

/// `etcdctl put`.
fn put(url: &str, key: &str, value: &str) -> Result<()> {
    let mut command = Command::new("etcdctl");
    command.env("ETCDCTL_API", "3").args(["--endpoints", url, "put", key, value]);
    let output = command.output().context("cannot run etcdctl")?;
    ensure!(output.status.success(), "etcdctl: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Waits until the Tidegate whose plain port that is is ready.
///
/// # Errors
/// It does not get ready in time.
pub fn wait_ready(http: SocketAddr) -> Result<()> {
    wait_for("tidegate is ready", || page(http, "/readyz").is_ok_and(|text| text.starts_with("HTTP/1.1 200")))
}

fn page(http: SocketAddr, path: &str) -> Result<String> {
    let mut socket = TcpStream::connect(http)?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    write!(socket, "GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    socket.read_to_string(&mut text)?;
    Ok(text)
}

fn wait_for(what: &str, mut ready: impl FnMut() -> bool) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(30);
    while Instant::now() < end {
        if ready() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    bail!("waited 30 s in vain: {what}")
}

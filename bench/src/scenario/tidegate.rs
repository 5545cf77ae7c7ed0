//! Tidegate's objects and changes, through its gRPC API, or through etcd.

use std::{
    fmt::Write as _,
    io::{Read, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use tokio::{runtime::Runtime, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, client::Grpc, codegen::http::uri::PathAndQuery, transport::Channel};
use tonic_prost::ProstCodec;

use super::{etcd::etcdctl, process::LOAD, server::Change};
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
    /// On one that is ready; endpoints are changed in the etcd at that URL, if there is one.
    ///
    /// # Errors
    /// It does not answer.
    pub fn connect(api: SocketAddr, etcd: Option<String>) -> Result<Self> {
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

    /// Applies manifests.
    ///
    /// # Errors
    /// They are refused.
    pub fn apply(&mut self, text: String) -> Result<()> {
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
            return etcdctl(LOAD, url, &key, &endpoint(stamp::to_address(clock::now()).into()));
        }
        if self.registration.is_none() {
            self.register(&format!("s{index:05}"), "stamp", stamp::to_address(clock::now()).into())?;
        }
        self.register(&format!("s{index:05}"), "stamp", stamp::to_address(clock::now()).into())
    }

    /// Says where an endpoint of a service is, on one stream that goes on.
    ///
    /// # Errors
    /// In words.
    pub fn register(&mut self, service: &str, id: &str, address: SocketAddr) -> Result<()> {
        let request = RegisterRequest {
            namespace: "bench".to_owned(),
            service: service.to_owned(),
            site: "core1".to_owned(),
            id: id.to_owned(),
            address: address.to_string(),
            weight: 1,
            ttl_seconds: 300,
        };
        let Some(Registration { requests, answers }) = &mut self.registration else {
            self.registration = Some(self.registered(request)?);
            return Ok(());
        };
        within(&self.runtime, async {
            requests.send(request).await?;
            answers.message().await?.context("the registration ended")?;
            Ok(())
        })
    }

    fn registered(&mut self, first: RegisterRequest) -> Result<Registration> {
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
///
/// # Errors
/// Its own, or that it does not end.
pub fn within<T>(runtime: &Runtime, call: impl Future<Output = Result<T>>) -> Result<T> {
    runtime.block_on(async { tokio::time::timeout(CALL, call).await.context("the API does not answer")? })
}

/// What stands under the key of a live endpoint.
pub fn endpoint(address: SocketAddr) -> String {
    format!("{{\"address\":\"{address}\"}}")
}

/// A page of a Tidegate's plain port.
///
/// # Errors
/// It does not answer.
pub fn page(http: SocketAddr, path: &str) -> Result<String> {
    let mut socket = TcpStream::connect(http)?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    write!(socket, "GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    socket.read_to_string(&mut text)?;
    Ok(text)
}

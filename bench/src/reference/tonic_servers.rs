//! Two servers as they are usually written, on tonic, with typed resources that are encoded for each stream.
//!
//! *naive* keeps no versions: a change is sent to each stream that asked for its type. *baseline* answers as
//! rust-control-plane does (git 6d82ddf; its releases have no delta): one snapshot behind one async mutex, a watch per
//! stream and type that one response uses up, a new map of names to versions for each of them at each change and again
//! at each ACK, all of it compared with what the stream has. Versions are 64 characters, as its SHA-256 are in hex.

use std::{
    collections::{HashMap, HashSet},
    io::BufRead,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
};

use anyhow::{Context, Result};
use envoy_types::pb::{
    envoy::service::discovery::v3::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
        aggregated_discovery_service_server::{AggregatedDiscoveryService, AggregatedDiscoveryServiceServer},
    },
    google::protobuf::Any,
};
use prost::Message;
use tokio::sync::{Mutex, mpsc};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming};

use super::{Change, Data};
use crate::stamp;

/// Responses that may wait per stream.
const QUEUE: usize = 16;

type Sender = mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>;

pub(super) fn serve(address: SocketAddr, data: Data, baseline: bool) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let hub = Arc::new(Mutex::new(Hub::new(data, baseline)));
        let service = AggregatedDiscoveryServiceServer::new(Service { hub: Arc::clone(&hub) });
        let (lines_in, mut lines) = mpsc::channel(1);
        std::thread::spawn(move || {
            for line in std::io::stdin().lock().lines().map_while(Result::ok) {
                if lines_in.blocking_send(line).is_err() {
                    break;
                }
            }
        });
        let listener = tokio::net::TcpListener::bind(address).await?;
        let incoming = tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
        let server = tonic::transport::Server::builder();
        let mut server = server;
        let serving = server
            .add_service(service.max_decoding_message_size(16 << 20).max_encoding_message_size(usize::MAX))
            .serve_with_incoming(incoming);
        println!("ready");
        tokio::pin!(serving);
        loop {
            tokio::select! {
                served = &mut serving => return served.context("the server ended"),
                line = lines.recv() => match line {
                    None => return Ok(()),
                    Some(line) => {
                        hub.lock().await.change(&line).await?;
                        println!("done");
                    }
                },
            }
        }
    })
}

/// What one stream asks for of one type.
struct Watch {
    sender: Sender,
    /// None: all.
    names: Option<HashSet<String>>,
    /// What it has: only with versions.
    known: HashMap<String, String>,
    /// A response is out, and its ACK has not come.
    used: bool,
}

struct Hub {
    data: Data,
    versions: [HashMap<String, String>; 2],
    watches: HashMap<(u64, bool), Watch>,
    baseline: bool,
    streams: u64,
    nonce: u64,
}

fn version(number: u64) -> String {
    format!("{number:064x}")
}

impl Hub {
    fn new(data: Data, baseline: bool) -> Self {
        let of = |names: Vec<&String>| names.into_iter().map(|name| (name.clone(), version(1))).collect();
        let clusters = of(data.clusters.iter().map(|(name, _)| name).collect());
        let endpoints = of(data.endpoints.iter().map(|(name, _)| name).collect());
        Self { data, versions: [clusters, endpoints], watches: HashMap::new(), baseline, streams: 0, nonce: 0 }
    }

    async fn change(&mut self, line: &str) -> Result<()> {
        let Change { cluster, index } = self.data.change(line)?;
        let name = if cluster { &self.data.clusters[index].0 } else { &self.data.endpoints[index].0 }.clone();
        self.versions[usize::from(!cluster)].insert(name.clone(), version(self.data.version));
        let mut keys: Vec<(u64, bool)> = self.watches.keys().copied().filter(|(_, of)| *of == cluster).collect();
        keys.sort_unstable();
        for key in keys {
            if self.baseline {
                self.respond(key).await;
            } else {
                self.push(key, std::slice::from_ref(&name)).await;
            }
        }
        Ok(())
    }

    fn resource(&self, cluster: bool, name: &str) -> Option<Resource> {
        let value = if cluster {
            let at = self.data.clusters.binary_search_by(|(n, _)| n.as_str().cmp(name)).ok()?;
            self.data.clusters[at].1.encode_to_vec()
        } else {
            let at = self.data.endpoints.binary_search_by(|(n, _)| n.as_str().cmp(name)).ok()?;
            self.data.endpoints[at].1.encode_to_vec()
        };
        let url = if cluster { stamp::CLUSTER } else { stamp::ENDPOINTS };
        Some(Resource {
            name: name.to_owned(),
            version: self.versions[usize::from(!cluster)].get(name).cloned().unwrap_or_default(),
            resource: Some(Any { type_url: url.to_owned(), value }),
            ..Default::default()
        })
    }

    /// Encodes these for one stream, and sends them: under the lock, as in the original.
    async fn push(&mut self, key: (u64, bool), names: &[String]) {
        let Some(watch) = self.watches.get(&key) else { return };
        let wanted = |name: &&String| watch.names.as_ref().is_none_or(|wanted| wanted.contains(*name));
        let resources: Vec<Resource> = names.iter().filter(wanted).filter_map(|n| self.resource(key.1, n)).collect();
        if resources.is_empty() {
            return;
        }
        self.nonce += 1;
        let response = DeltaDiscoveryResponse {
            system_version_info: self.data.version.to_string(),
            resources,
            type_url: if key.1 { stamp::CLUSTER } else { stamp::ENDPOINTS }.to_owned(),
            nonce: self.nonce.to_string(),
            ..Default::default()
        };
        let sender = watch.sender.clone();
        if sender.send(Ok(response)).await.is_err() {
            self.watches.remove(&key);
        }
    }

    /// Compares all that there is with all that the stream has.
    async fn respond(&mut self, key: (u64, bool)) {
        let versions = &self.versions[usize::from(!key.1)];
        let Some(watch) = self.watches.get_mut(&key).filter(|watch| !watch.used) else { return };
        let mut next = HashMap::new();
        let mut changed = Vec::new();
        for (name, version) in versions {
            if watch.names.as_ref().is_none_or(|names| names.contains(name)) {
                next.insert(name.clone(), version.clone());
                if watch.known.get(name) != Some(version) {
                    changed.push(name.clone());
                }
            }
        }
        let removed = watch.known.keys().filter(|name| !versions.contains_key(*name)).count();
        if changed.is_empty() && removed == 0 {
            return;
        }
        watch.known = next;
        watch.used = true;
        self.push(key, &changed).await;
    }

    async fn request(&mut self, id: u64, request: DeltaDiscoveryRequest, sender: &Sender) {
        let key = (id, request.type_url == stamp::CLUSTER);
        if !request.response_nonce.is_empty() {
            if let Some(watch) = self.watches.get_mut(&key) {
                watch.used = false;
            }
            if self.baseline {
                self.respond(key).await;
            }
            return;
        }
        let names: HashSet<String> = request.resource_names_subscribe.into_iter().collect();
        let names = (!names.is_empty()).then_some(names);
        let known = request.initial_resource_versions;
        let watch = Watch { sender: sender.clone(), names, known, used: false };
        self.watches.insert(key, watch);
        if self.baseline {
            self.respond(key).await;
        } else {
            let all: Vec<String> = if key.1 {
                self.data.clusters.iter().map(|(name, _)| name.clone()).collect()
            } else {
                self.data.endpoints.iter().map(|(name, _)| name.clone()).collect()
            };
            self.push(key, &all).await;
        }
    }
}

struct Service {
    hub: Arc<Mutex<Hub>>,
}

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for Service {
    type StreamAggregatedResourcesStream = Responses<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;

    async fn stream_aggregated_resources(
        &self,
        _: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("delta only"))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let hub = Arc::clone(&self.hub);
        let mut requests = request.into_inner();
        let (sender, responses) = mpsc::channel(QUEUE);
        #[expect(clippy::disallowed_methods, reason = "it ends with its stream, and the process with its input")]
        tokio::spawn(async move {
            let id = {
                let mut hub = hub.lock().await;
                hub.streams += 1;
                hub.streams
            };
            while let Ok(Some(request)) = requests.message().await {
                hub.lock().await.request(id, request, &sender).await;
            }
            let mut hub = hub.lock().await;
            hub.watches.remove(&(id, true));
            hub.watches.remove(&(id, false));
        });
        Ok(Response::new(ReceiverStream::new(responses)))
    }
}

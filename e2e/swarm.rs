//! Many proxies without their Envoys: delta streams, a hundred to a connection, that acknowledge whatever comes.

use std::{net::SocketAddr, time::Duration};

use envoy_types::pb::envoy::{
    config::core::v3::{Locality, Node},
    service::discovery::v3::{
        DeltaDiscoveryRequest, aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
    },
};
use tidegate::xds::ResourceType;
use tokio::{runtime::Runtime, sync::mpsc, task::JoinSet};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

/// Streams of one HTTP/2 connection, as many as the control plane allows.
const PER_CONNECTION: usize = 100;

/// Proxies of one site, connected until this is dropped.
pub(crate) struct Swarm {
    runtime: Runtime,
}

impl Swarm {
    /// Nobody yet.
    pub(crate) fn new() -> Self {
        Self { runtime: tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap() }
    }

    /// Connects `count` proxies of `site`, named `PREFIX-00000` and so on; a stream that ends is opened again.
    pub(crate) fn join(&self, server: SocketAddr, site: &str, prefix: &str, count: usize) {
        for first in (0..count).step_by(PER_CONNECTION) {
            let names: Vec<String> =
                (first..count.min(first + PER_CONNECTION)).map(|n| format!("{prefix}-{n:05}")).collect();
            let site = site.to_owned();
            // The runtime is this value's own, and ends with it.
            drop(self.runtime.spawn(async move {
                let channel = Endpoint::from_shared(format!("http://{server}")).unwrap().connect_lazy();
                let mut streams = JoinSet::new();
                for name in names {
                    let locality = Some(Locality { sub_zone: site.clone(), ..Locality::default() });
                    let node = Node { id: name, locality, ..Node::default() };
                    streams.spawn(proxy(channel.clone(), node));
                }
                streams.join_all().await;
            }));
        }
    }
}

async fn proxy(channel: Channel, node: Node) {
    loop {
        // What it comes to does not matter: it is opened again.
        let _ = stream(channel.clone(), node.clone()).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

async fn stream(channel: Channel, node: Node) -> Result<(), tonic::Status> {
    let (requests, outgoing) = mpsc::channel(64);
    let ask = |kind: ResourceType, names: Vec<String>| DeltaDiscoveryRequest {
        type_url: kind.url().to_owned(),
        resource_names_subscribe: names,
        ..DeltaDiscoveryRequest::default()
    };
    let gone = |_| tonic::Status::cancelled("the stream has ended");
    let first = DeltaDiscoveryRequest { node: Some(node), ..ask(ResourceType::Cluster, Vec::new()) };
    requests.send(first).await.map_err(gone)?;
    requests.send(ask(ResourceType::Listener, Vec::new())).await.map_err(gone)?;
    requests.send(ask(ResourceType::Route, vec!["http/8080".to_owned()])).await.map_err(gone)?;
    let mut client = AggregatedDiscoveryServiceClient::new(channel);
    let mut incoming = client.delta_aggregated_resources(ReceiverStream::new(outgoing)).await?.into_inner();
    while let Some(response) = incoming.message().await? {
        let kind = ResourceType::from_url(&response.type_url);
        let names = response.resources.iter().map(|resource| resource.name.clone()).collect();
        let ack = DeltaDiscoveryRequest {
            type_url: response.type_url,
            response_nonce: response.nonce,
            ..DeltaDiscoveryRequest::default()
        };
        requests.send(ack).await.map_err(gone)?;
        if kind == Some(ResourceType::Cluster) {
            requests.send(ask(ResourceType::Endpoints, names)).await.map_err(gone)?;
        }
    }
    Ok(())
}

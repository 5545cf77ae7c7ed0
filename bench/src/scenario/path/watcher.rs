//! A delta xDS client that follows one assignment, and says when it was told of an address.

use std::{
    net::SocketAddr,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use envoy_types::pb::envoy::{
    config::{
        core::v3::{Locality, Node, address::Address, socket_address::PortSpecifier},
        endpoint::v3::{ClusterLoadAssignment, lb_endpoint::HostIdentifier},
    },
    service::discovery::v3::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse,
        aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
    },
};
use prost::Message;
use tokio::{runtime::Runtime, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;

use crate::{clock, stamp::ENDPOINTS};

/// For a change to come.
const LIMIT: Duration = Duration::from_secs(30);

/// When a response came, and the ports of the assignment's endpoints in it.
type Told = (u64, Vec<u32>);

/// The client; it ends with this.
pub struct Watcher {
    told: Receiver<Told>,
    _runtime: Runtime,
}

impl Watcher {
    /// Asks for the assignment `name` of a site, as an Envoy does.
    ///
    /// # Errors
    /// The control plane does not answer.
    pub fn start(xds: SocketAddr, site: &str, name: &str) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let (tell, told) = sync_channel(1_024);
        let locality = Locality { sub_zone: site.to_owned(), ..Locality::default() };
        let node = Node {
            id: "watcher".to_owned(),
            cluster: "core".to_owned(),
            locality: Some(locality),
            user_agent_name: "envoy".to_owned(),
            ..Node::default()
        };
        let first = DeltaDiscoveryRequest {
            node: Some(node),
            type_url: ENDPOINTS.to_owned(),
            resource_names_subscribe: vec![name.to_owned()],
            ..DeltaDiscoveryRequest::default()
        };
        let channel = runtime
            .block_on(tonic::transport::Channel::from_shared(format!("http://{xds}"))?.connect())
            .context("the watcher cannot connect")?;
        runtime.spawn(async move {
            // Whoever waits for it learns that it has ended.
            drop(follow(AggregatedDiscoveryServiceClient::new(channel), first, tell).await);
        });
        Ok(Self { told, _runtime: runtime })
    }

    /// When it was told that `address` alone is the assignment; what came before is forgotten.
    ///
    /// # Errors
    /// It was not in time.
    pub fn told(&mut self, address: SocketAddr) -> Result<u64> {
        let end = Instant::now() + LIMIT;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let (at, ports) = self.told.recv_timeout(left).context("the watcher was not told of the change")?;
            if ports == [u32::from(address.port())] {
                return Ok(at);
            }
        }
    }
}

async fn follow(
    mut client: AggregatedDiscoveryServiceClient<tonic::transport::Channel>,
    first: DeltaDiscoveryRequest,
    tell: SyncSender<Told>,
) -> Result<()> {
    let (requests, queue) = mpsc::channel(4);
    requests.send(first).await?;
    let mut responses = client.delta_aggregated_resources(ReceiverStream::new(queue)).await?.into_inner();
    while let Some(response) = responses.message().await? {
        tell.try_send((clock::now(), ports(&response)?))?;
        let ack = DeltaDiscoveryRequest {
            type_url: response.type_url,
            response_nonce: response.nonce,
            ..DeltaDiscoveryRequest::default()
        };
        requests.send(ack).await?;
    }
    Ok(())
}

fn ports(response: &DeltaDiscoveryResponse) -> Result<Vec<u32>> {
    let mut ports = Vec::new();
    for any in response.resources.iter().filter_map(|resource| resource.resource.as_ref()) {
        let assignment = ClusterLoadAssignment::decode(any.value.as_slice())?;
        for endpoint in assignment.endpoints.into_iter().flat_map(|locality| locality.lb_endpoints) {
            let Some(HostIdentifier::Endpoint(endpoint)) = endpoint.host_identifier else { continue };
            let Some(Address::SocketAddress(socket)) = endpoint.address.and_then(|address| address.address) else {
                continue;
            };
            if let Some(PortSpecifier::PortValue(port)) = socket.port_specifier {
                ports.push(port);
            }
        }
    }
    Ok(ports)
}

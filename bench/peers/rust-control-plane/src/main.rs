//! An ADS server in state of the world on rust-control-plane as the crate registry has it: its cache, its service.
//!
//! `snapshot ADDRESS FILE`: FILE holds the resources (see bench/src/resources.rs). A line `cds INDEX` on standard input
//! stamps a cluster (see bench/src/stamp.rs), publishes it and is answered `done`.
//!
//! The cache keeps a snapshot for each node, by the node's id: it has no word for "all". Nodes must not share an id
//! either, since the service then cancels watches of others: it cancels by a place that has been given away since. So
//! the cheapest call is a `set_snapshot` for each node, and it takes its snapshot by value. That holds clusters only,
//! since the clients ask for nothing else.

use std::{collections::HashSet, io::BufRead, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use anyhow::{Context, Result, anyhow, bail, ensure};
use data_plane_api::{
    envoy::{
        config::cluster::v3::Cluster,
        service::discovery::v3::aggregated_discovery_service_server::AggregatedDiscoveryServiceServer,
    },
    google::protobuf::UInt32Value,
};
use prost::Message;
use rust_control_plane::{
    cache::Cache,
    service::common::Service,
    snapshot::{Resource, Resources, Snapshot, type_url::CLUSTER},
};
use rustix::time::{ClockId, clock_gettime};
use tokio::{net::TcpSocket, sync::mpsc, time::MissedTickBehavior};
use tonic::transport::server::{Server, TcpIncoming};

/// Between two looks at who has come: the cache tells nobody.
const LOOK: Duration = Duration::from_millis(100);

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [mode, address, file] = words.as_slice() else { bail!("snapshot ADDRESS FILE expected") };
    ensure!(mode == "snapshot", "{mode:?} is not snapshot");
    let address = address.parse().with_context(|| format!("{address:?} is no IP:port"))?;
    let fleet = Fleet::read(Path::new(file))?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(serve(address, fleet))
}

async fn serve(address: SocketAddr, mut fleet: Fleet) -> Result<()> {
    let service = AggregatedDiscoveryServiceServer::new(Service::new(Arc::clone(&fleet.cache)));
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.bind(address)?;
    // The usual 128 are full while it welcomes nodes: who finds no place waits for seconds before it tries again.
    let listener = socket.listen(4_096)?;
    let incoming = TcpIncoming::from_listener(listener, true, None).map_err(|error| anyhow!(error))?;
    let serving = Server::builder().add_service(service).serve_with_incoming(incoming);
    tokio::pin!(serving);
    let (lines_in, mut lines) = mpsc::channel(1);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if lines_in.blocking_send(line).is_err() {
                break;
            }
        }
    });
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    println!("ready");
    loop {
        tokio::select! {
            served = &mut serving => return served.context("the server ended"),
            _ = look.tick() => fleet.welcome().await,
            line = lines.recv() => match line {
                None => return Ok(()),
                Some(line) => {
                    fleet.change(&line).await?;
                    println!("done");
                }
            },
        }
    }
}

/// What is served, and to whom.
struct Fleet {
    cache: Arc<Cache>,
    clusters: Resources,
    names: Vec<String>,
    version: u64,
    nodes: HashSet<String>,
}

impl Fleet {
    fn read(file: &Path) -> Result<Self> {
        let all = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        let mut rest = all.as_slice();
        let mut part = || {
            let (length, more) = rest.split_first_chunk::<4>()?;
            let (part, more) = more.split_at_checked(u32::from_be_bytes(*length) as usize)?;
            rest = more;
            Some(part)
        };
        let (mut clusters, mut names) = (Resources::new("1".to_owned()), Vec::new());
        while let (Some(url), Some(name), Some(bytes)) = (part(), part(), part()) {
            if url == CLUSTER.as_bytes() {
                let name = String::from_utf8(name.to_vec())?;
                clusters.items.insert(name.clone(), Resource::Cluster(Cluster::decode(bytes)?));
                names.push(name);
            }
        }
        Ok(Self { cache: Arc::new(Cache::new(false)), clusters, names, version: 1, nodes: HashSet::new() })
    }

    /// Gives a snapshot to the nodes that wait for their first one.
    async fn welcome(&mut self) {
        for node in self.cache.node_status().await.into_keys() {
            if self.nodes.insert(node.clone()) {
                self.publish(&node).await;
            }
        }
    }

    async fn publish(&self, node: &str) {
        let mut snapshot = Snapshot::new();
        snapshot.insert(CLUSTER.to_owned(), self.clusters.clone());
        self.cache.set_snapshot(node, snapshot).await;
        // Whoever has its response need not wait until all others have theirs.
        tokio::task::yield_now().await;
    }

    async fn change(&mut self, line: &str) -> Result<()> {
        let index: usize = line.strip_prefix("cds ").context("cds INDEX expected")?.trim().parse()?;
        let name = self.names.get(index).with_context(|| format!("there is no cluster {index}"))?;
        let thresholds = match self.clusters.items.get_mut(name) {
            Some(Resource::Cluster(cluster)) => {
                cluster.circuit_breakers.as_mut().and_then(|breakers| breakers.thresholds.first_mut())
            }
            _ => None,
        };
        thresholds.context("a cluster without thresholds")?.max_requests = Some(UInt32Value { value: stamp() });
        self.version += 1;
        self.clusters.version = self.version.to_string();
        for node in &self.nodes {
            self.publish(node).await;
        }
        Ok(())
    }
}

/// The time, as a cluster carries it.
fn stamp() -> u32 {
    let at = clock_gettime(ClockId::Monotonic);
    let nanoseconds = at.tv_sec.unsigned_abs() * 1_000_000_000 + at.tv_nsec.unsigned_abs();
    (nanoseconds >> 10) as u32 & ((1 << 30) - 1) | 1 << 30
}

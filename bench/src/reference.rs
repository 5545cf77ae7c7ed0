//! Servers to compare with: the floor under every server, and what is usually built.

mod floor;
mod tonic_servers;

use std::{net::SocketAddr, path::Path};

use anyhow::{Context, Result, bail};
use envoy_types::pb::envoy::config::{cluster::v3::Cluster, endpoint::v3::ClusterLoadAssignment};
use prost::Message;

use crate::{clock, resources, stamp};

/// `MODE ADDRESS FILE`: serves the resources of the file until standard input ends. A line `cds INDEX` or `eds INDEX`
/// stamps a resource, publishes it and is answered `done`.
///
/// # Errors
/// In words.
pub fn run(words: &[String]) -> Result<()> {
    let [mode, address, file] = words else { bail!("MODE ADDRESS FILE expected") };
    let address: SocketAddr = address.parse().with_context(|| format!("{address:?} is no IP:port"))?;
    let data = Data::read(Path::new(file))?;
    match mode.as_str() {
        "floor" => floor::serve(address, data),
        "naive" => tonic_servers::serve(address, data, false),
        "baseline" => tonic_servers::serve(address, data, true),
        _ => bail!("{mode:?} is floor, naive or baseline"),
    }
}

/// What is served: clusters, and assignments.
#[derive(Clone, Debug)]
struct Data {
    clusters: Vec<(String, Cluster)>,
    endpoints: Vec<(String, ClusterLoadAssignment)>,
    /// Of what was changed last.
    version: u64,
}

/// Which resource an order names.
#[derive(Clone, Copy, Debug)]
struct Change {
    cluster: bool,
    index: usize,
}

impl Data {
    fn read(file: &Path) -> Result<Self> {
        let mut data = Self { clusters: Vec::new(), endpoints: Vec::new(), version: 1 };
        for resource in resources::read(file)? {
            if resource.url == stamp::CLUSTER {
                data.clusters.push((resource.name, Cluster::decode(resource.bytes.as_slice())?));
            } else {
                data.endpoints.push((resource.name, ClusterLoadAssignment::decode(resource.bytes.as_slice())?));
            }
        }
        Ok(data)
    }

    /// Obeys a line.
    fn change(&mut self, line: &str) -> Result<Change> {
        let (kind, index) = line.trim().split_once(' ').context("KIND INDEX expected")?;
        let change = Change { cluster: kind == "cds", index: index.parse()? };
        let none = || format!("there is no resource {index}");
        if change.cluster {
            stamp::stamp_cluster(&mut self.clusters.get_mut(change.index).with_context(none)?.1, clock::now());
        } else {
            stamp::stamp_endpoints(&mut self.endpoints.get_mut(change.index).with_context(none)?.1, clock::now());
        }
        self.version += 1;
        Ok(change)
    }
}

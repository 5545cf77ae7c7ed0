//! `EnvoyResource`: the escape hatch.

use std::{collections::BTreeSet, fmt, net::IpAddr, time::Duration};

use bytes::Bytes;

use super::{LabelSelector, Role};

/// Name of the static cluster of our bootstraps that leads to the control plane.
pub const XDS_CLUSTER: &str = "xds_cluster";

/// The header that carries a service across the backbone (design: "Edge and core").
pub const SERVICE_HEADER: &str = "x-tidegate-service";

/// A resource in Envoy's own words, served as it stands to the sites that it chooses. It belongs to no namespace: it
/// is the operator's, and no grant bounds what it may name.
#[derive(Clone, PartialEq, Eq)]
pub struct EnvoyResourceSpec {
    /// Its type URL.
    pub type_url: String,
    /// Its name on the wire.
    pub name: String,
    /// The encoded message, canonical. May hold secrets.
    pub payload: Bytes,
    /// It holds a secret or asks for one: only proven proxies are served it.
    pub confidential: bool,
    /// What a listener binds.
    pub binds: Vec<(IpAddr, u16)>,
    /// The roles of the sites that it is served at; at least one.
    pub roles: BTreeSet<Role>,
    /// Which of those sites; `None`: every one.
    pub sites: Option<LabelSelector>,
    /// How long a proxy keeps it that hears nothing of it; `None`: for good.
    pub ttl: Option<Duration>,
}

impl fmt::Debug for EnvoyResourceSpec {
    /// Never the payload: it may hold a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}, {} bytes, at {:?} {:?}", self.type_url, self.name, self.payload.len(), self.roles, self.sites)
    }
}

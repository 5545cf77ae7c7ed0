//! Which Gateways stand at a site, which of their listeners share a port, and which of those go on in a conflict.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    catalog::Stored,
    compile::reader::Reader,
    model::{GatewaySpec, Kind, Listener, ListenerProtocol, Role, SiteSpec, VirtualHosts},
};

/// The one `gatewayClassName` that is ours.
pub const GATEWAY_CLASS: &str = "tidegate";

/// One listener of one Gateway.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bound<'a> {
    pub(crate) gateway: &'a Stored,
    pub(crate) listener: &'a Listener,
}

impl<'a> Bound<'a> {
    /// Its host name; `*` when it has none.
    pub(crate) fn hostname(&self) -> &'a str {
        self.listener.hostname.as_deref().unwrap_or("*")
    }

    /// Whether it terminates TLS.
    pub(crate) fn https(&self) -> bool {
        matches!(self.listener.protocol, ListenerProtocol::Https { .. })
    }
}

/// Why a listener is not served (Gateway API, `ListenerConditionConflicted`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Conflict {
    /// A Gateway that goes before it speaks another protocol on the port.
    Protocol,
    /// A listener that goes before it has the host name.
    Hostname,
}

impl Conflict {
    /// Gateway API's reason.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Protocol => "ProtocolConflict",
            Self::Hostname => "HostnameConflict",
        }
    }
}

/// Every listener on one port of the Gateways that share it.
#[derive(Debug, Default)]
pub(crate) struct Port<'a> {
    /// Those that go on; no two have a host name in common, and all speak HTTP, or all HTTPS.
    pub(crate) serving: Vec<Bound<'a>>,
    /// Those that do not, with the listener to which they lost.
    pub(crate) conflicted: Vec<(Bound<'a>, Conflict, Bound<'a>)>,
}

impl<'a> Port<'a> {
    /// Whether the port speaks TLS.
    pub(crate) fn https(&self) -> bool {
        self.serving.first().is_some_and(Bound::https)
    }

    /// The listener to which `hostname` belongs: the most specific one that names all of its hosts (listener
    /// isolation, Gateway API's GEP-1713 rules).
    pub(crate) fn owner(&self, hostname: &str) -> Option<usize> {
        super::hostname::widening(hostname)
            .iter()
            .find_map(|wide| self.serving.iter().position(|bound| bound.hostname() == wide))
    }
}

/// The listeners on `port` of `gateways`. Of two that are in
/// conflict the one with an accepted copy goes on, so that a raw write cannot take a listener from anyone; then the
/// oldest, then by name, then as listed in it.
pub(crate) fn port<'a>(gateways: &BTreeSet<(String, String)>, port: u16, reader: &Reader<'a>) -> Port<'a> {
    let mut found: Vec<(&Stored, &GatewaySpec)> = gateways
        .iter()
        .filter_map(|(namespace, name)| reader.gateway(namespace, name))
        .filter(|(_, spec)| spec.class == GATEWAY_CLASS)
        .collect();
    found.sort_by_key(|(stored, _)| (!stored.accepted, stored.create_revision, &stored.reference));
    let mut result = Port::default();
    for (gateway, spec) in found {
        for listener in spec.listeners.iter().filter(|listener| listener.port == port) {
            let bound = Bound { gateway, listener };
            let protocol = result.serving.iter().find(|other| other.https() != bound.https());
            let hostname = result.serving.iter().find(|other| other.hostname() == bound.hostname());
            match (protocol, hostname) {
                (Some(winner), _) => result.conflicted.push((bound, Conflict::Protocol, *winner)),
                (None, Some(winner)) => result.conflicted.push((bound, Conflict::Hostname, *winner)),
                (None, None) => result.serving.push(bound),
            }
        }
    }
    result
}

/// Whether a Gateway stands at a Site: an edge in service that its selector matches.
pub(crate) fn stands_at(gateway: &GatewaySpec, site: &Stored, spec: &SiteSpec) -> bool {
    spec.role == Role::Edge
        && super::backbone::in_service(spec)
        && gateway.class == GATEWAY_CLASS
        && gateway.sites.as_ref().is_none_or(|selector| selector.matches(&site.object.metadata.labels))
}

/// Whether the virtual hosts of a port are streamed: all Gateways that share it say so.
pub(crate) fn streamed(gateways: &BTreeSet<(String, String)>, reader: &Reader) -> bool {
    let mut said = gateways.iter().filter_map(|(namespace, name)| reader.gateway(namespace, name));
    said.all(|(_, spec)| spec.virtual_hosts == VirtualHosts::Streamed)
}

/// The ports of a site, each with the (namespace, name) of the Gateways that share it.
pub(crate) fn ports_at(site: &Stored, spec: &SiteSpec, reader: &Reader) -> BTreeMap<u16, BTreeSet<(String, String)>> {
    let mut ports: BTreeMap<u16, BTreeSet<(String, String)>> = BTreeMap::new();
    for gateway in reader.all(Kind::Gateway) {
        let Some(gateway_spec) = gateway.gateway().filter(|g| stands_at(g, site, spec)) else { continue };
        for listener in &gateway_spec.listeners {
            let name = (gateway.reference.namespace.clone(), gateway.reference.name.clone());
            ports.entry(listener.port).or_default().insert(name);
        }
    }
    ports
}

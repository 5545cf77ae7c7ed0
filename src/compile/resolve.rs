//! What the objects mean for an audience, by Gateway API v1.6: pure functions from what a [`Reader`] sees to plans.
//!
//! References and conflicts are judged here, each time anew: a bad reference costs its own share of traffic, a
//! conflict the younger listener, and nothing else.

mod attach;
mod backbone;
mod clients;
mod hostname;
mod ports;
pub mod problems;
mod raw;
mod references;
mod routes;
pub mod status;
#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use crate::{
    model::{CertificateSpec, Kind, ListenerProtocol, ObjectRef, Role, Scope},
    xds::ResourceType,
};

use super::{
    names::Unit,
    plan::{
        ApiListenerPlan, ApiRoutePlan, ChainPlan, ClientEndpointsPlan, CoreListenerPlan, EndpointsPlan, GroupPlan,
        ListenerPlan, ListenerShape, RouteConfigurationPlan, ServiceClusterPlan, VirtualHostPlan,
    },
    reader::Reader,
};

pub use backbone::{core_listener, endpoints, group, service_cluster};
pub use clients::{api_listener, api_route, client_cluster, client_endpoints};
pub use ports::GATEWAY_CLASS;
pub use raw::{RawPlan, raw};
pub(crate) use {
    backbone::in_service,
    clients::{called_from, calls},
    ports::{Port, port, ports_at, streamed},
    raw::raw_at,
    routes::groups,
};

/// Name of the listener and the route configuration of every core.
pub const BACKBONE: &str = "backbone";

/// What the names of route configurations begin with whose virtual hosts are streamed.
pub const STREAMED: &str = "streamed/";

/// What one resource says, whatever its type.
#[derive(Clone, Debug, PartialEq)]
pub enum Plan {
    /// LDS at an edge.
    Listener(ListenerPlan),
    /// LDS at a core.
    CoreListener(CoreListenerPlan),
    /// RDS at an edge.
    RouteConfiguration(RouteConfigurationPlan),
    /// RDS at a core: the one route configuration, which depends on no object.
    CoreRoutes,
    /// CDS and EDS at an edge.
    Group(GroupPlan),
    /// CDS at a core.
    Service(Box<ServiceClusterPlan>),
    /// EDS at a core.
    Endpoints(EndpointsPlan),
    /// SDS.
    Secret(SecretPlan),
    /// Any type, as it is written.
    Raw(Box<RawPlan>),
    /// LDS of gRPC clients.
    ApiListener(ApiListenerPlan),
    /// RDS of gRPC clients.
    ApiRoute(ApiRoutePlan),
    /// CDS of gRPC clients.
    ClientService(Box<ServiceClusterPlan>),
    /// EDS of gRPC clients.
    ClientEndpoints(ClientEndpointsPlan),
}

/// A server certificate for edges.
#[derive(Clone, Debug, PartialEq)]
pub struct SecretPlan {
    /// `<namespace>/<certificate>`.
    pub name: String,
    /// The Certificate.
    pub source: ObjectRef,
    /// What it says.
    pub spec: CertificateSpec,
}

/// What a unit says; `None`: it does not exist.
pub fn plan(unit: &Unit, reader: &Reader) -> Option<Plan> {
    let name = unit.name.as_ref();
    match (unit.kind, &unit.scope) {
        (kind, Scope::Raw(object)) => raw(kind, name, object, reader).map(|plan| Plan::Raw(Box::new(plan))),
        (ResourceType::Listener, Scope::Role(Role::Grpc)) => api_listener(name, reader).map(Plan::ApiListener),
        (ResourceType::Route, Scope::Role(Role::Grpc)) => api_route(name, reader).map(Plan::ApiRoute),
        (ResourceType::Cluster, Scope::Role(Role::Grpc)) => {
            client_cluster(name, reader).map(|plan| Plan::ClientService(Box::new(plan)))
        }
        (ResourceType::Endpoints, Scope::Clients(site)) => {
            client_endpoints(name, site, reader).map(Plan::ClientEndpoints)
        }
        (ResourceType::Listener, Scope::Site(site)) => core_listener(site, reader).map(Plan::CoreListener),
        (ResourceType::Listener, scope) => listener(scope, reader).map(Plan::Listener),
        (ResourceType::Route, Scope::Role(_)) => (name == BACKBONE).then_some(Plan::CoreRoutes),
        (ResourceType::Route, scope) => route_configuration(name, scope, reader).map(Plan::RouteConfiguration),
        (ResourceType::Cluster, Scope::Role(_)) => {
            service_cluster(name, reader).map(|plan| Plan::Service(Box::new(plan)))
        }
        (ResourceType::Cluster, Scope::Site(site)) => Some(Plan::Group(group(name, site, reader))),
        (ResourceType::Endpoints, Scope::Site(site)) if name.starts_with("backbone/-/") => {
            Some(Plan::Group(group(name, site, reader)))
        }
        (ResourceType::Endpoints, Scope::Site(site)) => endpoints(name, site, reader).map(Plan::Endpoints),
        (ResourceType::Secret, _) => secret(name, reader).map(Plan::Secret),
        (ResourceType::Cluster | ResourceType::Endpoints, _) => None,
        // Nothing is generated of these.
        (
            ResourceType::Extension | ResourceType::ScopedRoute | ResourceType::VirtualHost | ResourceType::Runtime,
            _,
        ) => None,
    }
}

/// The Secret `<namespace>/<certificate>`; `None`: there is no such Certificate.
pub fn secret(name: &str, reader: &Reader) -> Option<SecretPlan> {
    let (namespace, certificate) = name.split_once('/')?;
    let (stored, spec) = reader.certificate(namespace, certificate)?;
    Some(SecretPlan { name: name.to_owned(), source: (*stored.reference).clone(), spec: spec.clone() })
}

/// The edge listener of a [`Scope::Gateways`]; `None`: nothing is served on the port (no listener, or only HTTPS ones
/// without a valid certificate).
pub fn listener(scope: &Scope, reader: &Reader) -> Option<ListenerPlan> {
    let Scope::Gateways { bind, port: number, gateways, streamed } = scope else { return None };
    let bind: IpAddr = bind.parse().ok()?;
    let port = port(gateways, *number, reader);
    let mut sources: Vec<ObjectRef> = port.serving.iter().map(|bound| (*bound.gateway.reference).clone()).collect();
    let shape = if port.https() {
        let chains = chains(*number, *streamed, &port, reader);
        let secrets = chains.iter().flat_map(|(_, chain)| &chain.secrets).filter_map(|name| name.split_once('/'));
        sources.extend(secrets.map(|(namespace, name)| ObjectRef::new(Kind::Certificate, namespace, name)));
        ListenerShape::Https { chains: chains.into_iter().map(|(_, chain)| chain).collect() }
    } else {
        ListenerShape::Http { route_configuration: routes_name(*streamed, &format!("http/{number}")) }
    };
    let empty = match &shape {
        ListenerShape::Http { .. } => port.serving.is_empty(),
        ListenerShape::Https { chains } => chains.is_empty(),
    };
    sources.sort();
    sources.dedup();
    (!empty).then(|| ListenerPlan { name: format!("gateway/{number}"), bind, port: *number, shape, sources })
}

/// The TLS chains of a port, each with the place of its listener; a listener without a valid certificate has none.
pub(crate) fn chains(number: u16, streamed: bool, port: &Port, reader: &Reader) -> Vec<(usize, ChainPlan)> {
    let mut chains: Vec<(usize, ChainPlan)> = port
        .serving
        .iter()
        .enumerate()
        .filter_map(|(index, bound)| {
            let plan = ChainPlan {
                hostname: bound.listener.hostname.clone(),
                secrets: secrets(bound, reader),
                route_configuration: routes_name(streamed, &format!("https/{number}/{}", bound.hostname())),
            };
            (!plan.secrets.is_empty()).then_some((index, plan))
        })
        .collect();
    chains.sort_by(|(_, a), (_, b)| (a.hostname.is_none(), &a.hostname).cmp(&(b.hostname.is_none(), &b.hostname)));
    chains
}

/// The Secrets of a listener's valid certificates, in its own order.
fn secrets(bound: &ports::Bound, reader: &Reader) -> Vec<String> {
    let ListenerProtocol::Https { certificates } = &bound.listener.protocol else { return Vec::new() };
    let mut secrets: Vec<String> = Vec::new();
    for certificate in certificates {
        match references::certificate(&bound.gateway.reference, certificate, reader) {
            Ok(secret) if !secrets.contains(&secret) => secrets.push(secret),
            _ => {}
        }
    }
    secrets
}

/// The name of a route configuration; of those two that a port may have, one with its virtual hosts and one to which
/// they are streamed, never one takes the other's place: a listener goes over when it has all of the new one.
pub(crate) fn routes_name(streamed: bool, name: &str) -> String {
    if streamed { format!("{STREAMED}{name}") } else { name.to_owned() }
}

/// The part of a port that a route configuration of a [`Scope::Gateways`] is for: all of it, or one TLS chain.
struct Part<'a> {
    port: Port<'a>,
    chain: Option<usize>,
}

/// By name: `http/<port>` or `https/<port>/<hostname or *>`, behind [`STREAMED`] where virtual hosts are streamed.
fn part<'a>(name: &str, scope: &Scope, reader: &Reader<'a>) -> Option<Part<'a>> {
    let Scope::Gateways { port: number, gateways, streamed, .. } = scope else { return None };
    let name = if *streamed { name.strip_prefix(STREAMED)? } else { name };
    let port = port(gateways, *number, reader);
    let chain = if port.https() {
        let hostname = name.strip_prefix(&format!("https/{number}/"))?;
        Some(port.serving.iter().position(|bound| bound.hostname() == hostname)?)
    } else {
        (!port.serving.is_empty() && name == format!("http/{number}")).then_some(())?;
        None
    };
    Some(Part { port, chain })
}

/// The domains that a route configuration may have virtual hosts for, a few too many; `None`: there is no such route
/// configuration, since no listener of the port uses it.
pub fn domains(name: &str, scope: &Scope, reader: &Reader) -> Option<BTreeSet<Arc<str>>> {
    let Part { port, chain } = part(name, scope, reader)?;
    let secrets = |index: usize| port.serving.get(index).is_some_and(|bound| !secrets(bound, reader).is_empty());
    chain.is_none_or(secrets).then(|| routes::domains(&port, chain, reader))
}

/// One virtual host of a route configuration, by its domain.
pub fn virtual_host(name: &str, scope: &Scope, domain: &str, reader: &Reader) -> Option<VirtualHostPlan> {
    let Part { port, chain } = part(name, scope, reader)?;
    routes::host(&port, chain, domain, reader)
}

/// A route configuration with all its virtual hosts.
pub fn route_configuration(name: &str, scope: &Scope, reader: &Reader) -> Option<RouteConfigurationPlan> {
    let domains = domains(name, scope, reader)?;
    let hosts = domains.iter().filter_map(|domain| virtual_host(name, scope, domain, reader)).collect();
    Some(RouteConfigurationPlan { name: name.to_owned(), hosts })
}

//! Plans → xDS resources: decides nothing about objects, only how Envoy is told.

mod backbone;
mod clients;
mod cluster;
mod endpoints;
mod headers;
mod http;
mod listener;
mod path;
mod route;
mod secret;
mod sources;
mod tls;
mod wire;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use bytes::Bytes;
use prost::{Message, Name};

pub use backbone::{core_listener, core_route_configuration};
pub use clients::{api_listener, api_route, client_cluster, client_endpoints};
pub use cluster::{group_cluster, service_cluster};
pub use endpoints::{group_endpoints, service_endpoints};
pub use listener::edge_listener;
pub use route::{
    Entry, VIRTUAL_HOST, VirtualHostBytes, route_configuration, streamed_host, streamed_route_configuration,
    virtual_host,
};
pub use secret::secret;

use crate::{
    model::ObjectRef,
    xds::{Resource, ResourceType, Source, canonical::canonical},
};

/// The header that carries a service across the backbone (design: "Edge and core").
pub const SERVICE_HEADER: &str = "x-tidegate-service";
/// The header by which a core gateway says that nothing has reached a back end.
pub const REFUSED_HEADER: &str = "x-tidegate-refused";
/// Path of the edges' checks of core gateways; told from users' requests by the absent [`SERVICE_HEADER`].
pub const HEALTH_PATH: &str = "/.tidegate/health";
/// Name of a core's listener and of its route configuration.
pub const BACKBONE: &str = "backbone";

/// Names of other resources, by type.
type Names = Vec<(ResourceType, Arc<str>)>;

/// Makes the bytes of `message` canonical: the one place where that happens.
fn encode<M: Message + Name>(message: &M) -> Bytes {
    canonical(&M::full_name(), Bytes::from(message.encode_to_vec()))
}

/// The last step of every resource that comes from one message; sorts what others rely on being sorted.
fn finish<M: Message + Name>(
    kind: ResourceType,
    name: &str,
    message: &M,
    children: Names,
    requires: Names,
    sources: Contributions<'_>,
) -> Resource {
    assemble(kind, name, encode(message), children, requires, sources)
}

/// As [`finish`], from bytes that are canonical already.
fn assemble(
    kind: ResourceType,
    name: &str,
    payload: Bytes,
    mut children: Names,
    mut requires: Names,
    contributions: Contributions<'_>,
) -> Resource {
    children.sort();
    children.dedup();
    requires.sort();
    requires.dedup();
    let mut resource = Resource::new(kind, name, payload);
    resource.children = children;
    resource.requires = requires;
    resource.sources = match contributions {
        Contributions::Each(sources) => sources,
        Contributions::Whole(objects) => sources::whole(kind, objects, &resource.payload),
    };
    resource
}

/// Where a resource's contributions come from.
enum Contributions<'a> {
    /// Each object has its own.
    Each(Vec<Source>),
    /// Any change of the resource counts as one of each of these objects.
    Whole(&'a [ObjectRef]),
}

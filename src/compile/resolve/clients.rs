//! gRPC clients at a core site: which service ports they can call, by which names, and where those are.
//!
//! A client calls `xds:///<service>.<namespace>:<port>`, or without the port where a service has one that it can call:
//! one that speaks HTTP/2. It goes to endpoints directly, as a gateway of its site does: to those of its own site, and
//! to those of the other core sites of its region when its own has none that works.

use std::collections::BTreeSet;

use super::{backbone, endpoints, in_service};
use crate::{
    compile::{
        plan::{ApiListenerPlan, ApiRoutePlan, ClientEndpointsPlan, EndpointsPlan, ServiceClusterPlan},
        reader::{Found, Reader},
    },
    model::{AppProtocol, Kind, ObjectRef, Role, ServicePort, ServiceSpec},
};

/// Those of a service's ports that gRPC can call.
fn callable(ports: &[ServicePort]) -> impl Iterator<Item = &ServicePort> {
    ports.iter().filter(|port| port.app_protocol == AppProtocol::H2c)
}

/// The core sites that serve a client of `site`, itself first.
fn places(site: &str, reader: &Reader) -> Vec<String> {
    let Some((_, own)) = reader.site(site) else { return Vec::new() };
    let near = reader.all(Kind::Site).filter(|stored| {
        let place = stored.site().filter(|place| place.role == Role::Core && in_service(place));
        stored.reference.name != site && place.is_some_and(|place| place.region == own.region)
    });
    std::iter::once(site.to_owned()).chain(near.map(|stored| stored.reference.name.clone())).collect()
}

/// The Services that stand where clients of `site` go to.
pub(crate) fn called_from(site: &str, reader: &Reader) -> BTreeSet<ObjectRef> {
    let sets = places(site, reader).into_iter().flat_map(|place| {
        let sets = reader.placements(&ObjectRef::new(Kind::Site, "", &place));
        sets.map(|set| ObjectRef::new(Kind::Service, &set.set.namespace, set.service))
    });
    sets.collect()
}

/// The clusters of a Service that gRPC can call, each with the names of its API listeners, the one with the port first.
pub(crate) fn calls(service: &ObjectRef, reader: &Reader) -> Vec<(String, Vec<String>)> {
    let ports = reader.ports(service).unwrap_or_default();
    let (namespace, name) = (&*service.namespace, &*service.name);
    let only = callable(ports).count() == 1;
    let call = |port: &ServicePort| {
        let short = format!("{name}.{namespace}");
        let mut listeners = vec![route_configuration(namespace, name, port.port)];
        listeners.extend(only.then_some(short));
        (cluster(namespace, name, port.port), listeners)
    };
    callable(ports).map(call).collect()
}

fn cluster(namespace: &str, service: &str, port: u16) -> String {
    format!("{namespace}/{service}:{port}")
}

/// Its name is that of the listener that says the port.
fn route_configuration(namespace: &str, service: &str, port: u16) -> String {
    format!("{service}.{namespace}:{port}")
}

/// The service port that a name leads to, with or without a port in it.
fn called<'a>(name: &'a str, reader: &Reader<'a>) -> Option<(Found<'a, ServiceSpec>, &'a ServicePort)> {
    let (host, number) = match name.rsplit_once(':') {
        Some((host, number)) => (host, Some(number.parse::<u16>().ok()?)),
        None => (name, None),
    };
    // A namespace is one label, a service may be several.
    let (service, namespace) = host.rsplit_once('.')?;
    let found = reader.service(namespace, service)?;
    let mut ports = callable(&found.1.ports).filter(|port| number.is_none_or(|number| port.port == number));
    match (ports.next(), ports.next()) {
        (Some(port), None) => Some((found, port)),
        _ => None,
    }
}

/// The API listener `name`; `None`: it leads to no port that gRPC can call, or to several.
pub fn api_listener(name: &str, reader: &Reader) -> Option<ApiListenerPlan> {
    let ((stored, _), port) = called(name, reader)?;
    let service = &stored.reference;
    Some(ApiListenerPlan {
        name: name.to_owned(),
        route_configuration: route_configuration(&service.namespace, &service.name, port.port),
        source: (**service).clone(),
    })
}

/// The route configuration `<service>.<namespace>:<port>`.
pub fn api_route(name: &str, reader: &Reader) -> Option<ApiRoutePlan> {
    let ((stored, spec), port) = called(name, reader)?;
    let service = &stored.reference;
    Some(ApiRoutePlan {
        name: name.to_owned(),
        cluster: cluster(&service.namespace, &service.name, port.port),
        request_timeout: spec.request_timeout.filter(|timeout| !timeout.is_zero()),
        source: (**service).clone(),
    })
}

/// The cluster of a service port for gRPC clients anywhere; `None`: there is none, or it speaks HTTP/1.
pub fn client_cluster(name: &str, reader: &Reader) -> Option<ServiceClusterPlan> {
    backbone::service_cluster(name, reader).filter(|plan| plan.port.app_protocol == AppProtocol::H2c)
}

/// The endpoints of the service port `name` for the gRPC clients of a site; `None`: no EndpointSet in its region. An
/// address that stands at two sites counts at the nearer one: gRPC refuses an assignment that names it twice.
pub fn client_endpoints(name: &str, site: &str, reader: &Reader) -> Option<ClientEndpointsPlan> {
    let mut seen = BTreeSet::new();
    let mut sources = Vec::new();
    let mut priorities: [Vec<EndpointsPlan>; 2] = Default::default();
    for place in places(site, reader) {
        let Some(mut plan) = endpoints(name, &place, reader) else { continue };
        plan.endpoints.retain(|(address, _)| seen.insert(*address));
        sources.append(&mut plan.sources);
        if !plan.endpoints.is_empty() {
            let [own, near] = &mut priorities;
            if place == site { own.push(plan) } else { near.push(plan) }
        }
    }
    if sources.is_empty() {
        return None;
    }
    // gRPC refuses priorities with a gap between them.
    let priorities = priorities.into_iter().filter(|places| !places.is_empty()).collect();
    Some(ClientEndpointsPlan { name: name.to_owned(), priorities, sources })
}

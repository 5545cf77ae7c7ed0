//! Which routes attach to which listeners, and with which host names (Gateway API: `parentRefs`, `allowedRoutes`,
//! `hostnames`).

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    compile::reader::{Attaching, Found, Reader},
    model::{AllowedKinds, AllowedNamespaces, HttpRouteSpec, Kind, Listener, ObjectRef, ParentRef},
};

use super::{hostname, ports::Bound};

/// Whether a parentRef that names the Gateway means this listener of it.
pub(crate) fn means(parent: &ParentRef, listener: &Listener) -> bool {
    parent.section_name.as_ref().is_none_or(|section| *section == listener.name)
        && parent.port.is_none_or(|port| port == listener.port)
}

/// Whether the listener lets HTTPRoutes of a namespace attach.
pub(crate) fn allows(bound: &Bound, namespace: &str, reader: &Reader) -> bool {
    bound.listener.allowed_kinds == AllowedKinds::HttpRoute
        && match &bound.listener.allowed_namespaces {
            AllowedNamespaces::All => true,
            AllowedNamespaces::Same => bound.gateway.reference.namespace == namespace,
            AllowedNamespaces::Selector(selector) => selector.matches(&namespace_labels(namespace, reader)),
        }
}

/// A namespace exists without an object; `kubernetes.io/metadata.name` is implied.
fn namespace_labels(namespace: &str, reader: &Reader) -> BTreeMap<String, String> {
    let stored = reader.object(&ObjectRef::new(Kind::Namespace, "", namespace));
    let mut labels = stored.map(|stored| stored.object.metadata.labels.clone()).unwrap_or_default();
    labels.insert("kubernetes.io/metadata.name".into(), namespace.to_owned());
    labels
}

/// The host names of a route on a listener, without duplicates; none: it does not attach.
pub(crate) fn hostnames<'a>(listener: &'a str, route: &'a HttpRouteSpec) -> Vec<&'a str> {
    if route.hostnames.is_empty() {
        return vec![listener];
    }
    let mut names: Vec<&str> =
        route.hostnames.iter().filter_map(|name| hostname::intersection(listener, name)).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// The routes that attach to a listener, by namespace and name.
pub(crate) fn attached<'a>(bound: &Bound<'a>, reader: &Reader<'a>) -> Vec<Found<'a, HttpRouteSpec>> {
    reader
        .routes_of(&bound.gateway.reference)
        .filter(|(route, spec)| attaches(bound, &route.reference.namespace, &spec.parents, reader))
        .filter(|(_, spec)| !hostnames(bound.hostname(), spec).is_empty())
        .collect()
}

/// Whether routes of this namespace with these parentRefs attach, apart from their host names.
fn attaches(bound: &Bound, namespace: &str, parents: &[ParentRef], reader: &Reader) -> bool {
    let gateway = &bound.gateway.reference;
    let names = |parent: &ParentRef| {
        parent.namespace == gateway.namespace && parent.name == gateway.name && means(parent, bound.listener)
    };
    parents.iter().any(names) && allows(bound, namespace, reader)
}

/// The host names under which routes attach to a listener. Looks at no more of a route than where it attaches.
pub(crate) fn names<'a>(bound: &Bound<'a>, reader: &Reader<'a>) -> BTreeSet<&'a str> {
    let mut names = BTreeSet::new();
    for (written, Attaching { namespace, parents }) in reader.hostnames(&bound.gateway.reference) {
        let written = if written.is_empty() { bound.hostname() } else { written };
        let Some(name) = hostname::intersection(bound.hostname(), written) else { continue };
        if !names.contains(name) && attaches(bound, namespace, parents, reader) {
            names.insert(name);
        }
    }
    names
}

/// The routes that attach to a listener under this host name, by namespace and name. Looks at no others.
pub(crate) fn attached_as<'a>(
    bound: &Bound<'a>,
    name: &str,
    reader: &Reader<'a>,
) -> BTreeMap<&'a ObjectRef, Found<'a, HttpRouteSpec>> {
    let gateway = &bound.gateway.reference;
    let mut written: Vec<String> = Vec::new();
    if hostname::covers(bound.hostname(), name) {
        written.push(name.to_owned());
    }
    if name == bound.hostname() {
        // What is less specific than the listener attaches under the listener's name, as does what names no host.
        written.extend(hostname::widening(name).into_iter().skip(1));
        written.push(String::new());
    }
    let routes = written.iter().flat_map(|written| reader.routes_on(gateway, written));
    let routes = routes
        .filter(|(route, spec)| attaches(bound, &route.reference.namespace, &spec.parents, reader))
        .map(|(route, spec)| (&*route.reference, (route, spec)));
    routes.collect()
}

//! Which routes attach to which listeners, and with which host names (Gateway API: `parentRefs`, `allowedRoutes`,
//! `hostnames`).

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    catalog::Stored,
    compile::reader::{Found, Reader},
    model::{AllowedKinds, AllowedNamespaces, HttpRouteSpec, Kind, Listener, ObjectRef, ParentRef},
};

use super::{hostname, ports::Bound};

/// A route that attaches to a listener.
#[derive(Clone, Debug)]
pub(crate) struct Attached<'a> {
    pub(crate) route: &'a Stored,
    pub(crate) spec: &'a HttpRouteSpec,
    /// Its host names there; at least one, `*` for all.
    pub(crate) hostnames: Vec<&'a str>,
}

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
pub(crate) fn attached<'a>(bound: &Bound<'a>, reader: &Reader<'a>) -> Vec<Attached<'a>> {
    reader.routes_of(&bound.gateway.reference).filter_map(|found| attach(bound, found, reader)).collect()
}

/// Those of them that answer for `domain`, a host name of the listener: its own, and the less specific ones to which a
/// request falls through. It looks at no other routes.
pub(crate) fn attached_for<'a>(bound: &Bound<'a>, domain: &str, reader: &Reader<'a>) -> Vec<Attached<'a>> {
    let gateway = &bound.gateway.reference;
    // Routes that name more than the listener's hosts answer for all of those.
    let own = hostname::widening(domain).into_iter().filter(|name| hostname::covers(bound.hostname(), name));
    let names: BTreeSet<String> = own.chain(hostname::widening(bound.hostname())).collect();
    let found = names.iter().flat_map(|name| reader.routes_for(gateway, name));
    let by_name: BTreeMap<_, _> = found.map(|(route, spec)| (&route.reference, (route, spec))).collect();
    by_name.into_values().filter_map(|found| attach(bound, found, reader)).collect()
}

fn attach<'a>(bound: &Bound<'a>, (route, spec): Found<'a, HttpRouteSpec>, reader: &Reader<'a>) -> Option<Attached<'a>> {
    let gateway = &bound.gateway.reference;
    let named = spec.parents.iter().any(|parent| {
        parent.namespace == gateway.namespace && parent.name == gateway.name && means(parent, bound.listener)
    });
    let hostnames = if named && allows(bound, &route.reference.namespace, reader) {
        hostnames(bound.hostname(), spec)
    } else {
        Vec::new()
    };
    (!hostnames.is_empty()).then_some(Attached { route, spec, hostnames })
}

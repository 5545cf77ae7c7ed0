//! Everything that an audience has: which resources, by type and name, and the scope that each is compiled in.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    catalog::Stored,
    model::{Audience, Kind, ObjectRef, Role, Scope, SiteSpec},
    xds::ResourceType,
};

use super::{reader::Reader, resolve};

/// One resource of an audience; equal units are compiled once, whoever has them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Unit {
    /// Its type.
    pub kind: ResourceType,
    /// Its name.
    pub name: Arc<str>,
    /// What of the audience it reads.
    pub scope: Scope,
}

impl Unit {
    /// A route configuration whose virtual hosts are compiled each alone.
    pub fn has_hosts(&self) -> bool {
        self.kind == ResourceType::Route && matches!(self.scope, Scope::Gateways { .. })
    }

    /// Its virtual hosts are resources of their own.
    pub fn streams(&self) -> bool {
        self.has_hosts() && matches!(self.scope, Scope::Gateways { streamed: true, .. })
    }
}

/// Everything that an audience has, sorted, each once. `None`: its Site is unknown, being deleted or of another role;
/// its proxies are answered with silence, never with an empty set and never with removals.
///
/// A gRPC client has, for each service port that it can call, all from the API listener to the load assignment.
///
/// An unproven audience has neither Secrets nor what hangs on them (HTTPS listeners, their route configurations and
/// groups). A core that lists no gateways has its services, but no listener and no route configuration: no edge can
/// reach it.
///
/// At an edge this looks at every rule of every route that attaches there, since the groups follow from them.
pub fn names(audience: &Audience, reader: &Reader) -> Option<Vec<Unit>> {
    let mut units: BTreeSet<Unit> = roots(audience, reader)?.into_iter().collect();
    if audience.role == Role::Edge {
        let (site, spec) = reader.site(&audience.site)?;
        units.extend(groups(site, spec, audience, reader));
    }
    Some(units.into_iter().collect())
}

/// As [`names`], but for what the route configurations of an edge lead to: the groups that their virtual hosts name.
pub fn roots(audience: &Audience, reader: &Reader) -> Option<Vec<Unit>> {
    let (site, spec) = reader.site(&audience.site)?;
    if spec.role != audience.role.of_site() || !resolve::in_service(spec) {
        return None;
    }
    let units = match audience.role {
        Role::Edge => edge(site, spec, audience, reader),
        Role::Core => core(&audience.site, reader),
        Role::Grpc => clients(&audience.site, reader),
    };
    Some(units.into_iter().collect())
}

fn edge(site: &Stored, spec: &SiteSpec, audience: &Audience, reader: &Reader) -> BTreeSet<Unit> {
    let mut units = BTreeSet::new();
    let bind: Arc<str> = spec.bind_address.to_string().into();
    for (number, gateways) in resolve::ports_at(site, spec, reader) {
        let port = resolve::port(&gateways, number, reader);
        let streamed = audience.delta && resolve::streamed(&gateways, reader);
        let scope = Scope::Gateways { bind: bind.clone(), port: number, gateways: Arc::new(gateways), streamed };
        let mut unit = |kind, name: &str, scope: &Scope| {
            units.insert(Unit { kind, name: name.into(), scope: scope.clone() });
        };
        let mut serves = !port.serving.is_empty();
        if port.https() {
            let chains = if audience.proven { resolve::chains(number, streamed, &port, reader) } else { Vec::new() };
            for (_, chain) in &chains {
                unit(ResourceType::Route, &chain.route_configuration, &scope);
                chain.secrets.iter().for_each(|secret| unit(ResourceType::Secret, secret, &Scope::Global));
            }
            serves = !chains.is_empty();
        } else if serves {
            unit(ResourceType::Route, &resolve::routes_name(streamed, &format!("http/{number}")), &scope);
        }
        if serves {
            unit(ResourceType::Listener, &format!("gateway/{number}"), &scope);
        }
    }
    units
}

/// What gRPC clients of a core site have: never a Secret, for they take certificates from files.
fn clients(site: &Arc<str>, reader: &Reader) -> BTreeSet<Unit> {
    let mut units = BTreeSet::new();
    let everywhere = Scope::Role(Role::Grpc);
    for (cluster, listeners) in resolve::calls(site, reader) {
        let mut unit = |kind, name: &str, scope: &Scope| {
            units.insert(Unit { kind, name: name.into(), scope: scope.clone() });
        };
        listeners.iter().for_each(|name| unit(ResourceType::Listener, name, &everywhere));
        listeners.iter().take(1).for_each(|name| unit(ResourceType::Route, name, &everywhere));
        unit(ResourceType::Cluster, &cluster, &everywhere);
        unit(ResourceType::Endpoints, &cluster, &Scope::Clients(site.clone()));
    }
    units
}

fn groups(site: &Stored, spec: &SiteSpec, audience: &Audience, reader: &Reader) -> BTreeSet<Unit> {
    let mut groups: BTreeSet<String> = BTreeSet::new();
    for (number, gateways) in resolve::ports_at(site, spec, reader) {
        let port = resolve::port(&gateways, number, reader);
        let chains = || resolve::chains(number, false, &port, reader).into_iter().map(|(index, _)| index).collect();
        let serving: Vec<usize> = match (port.https(), audience.proven) {
            (false, _) => (0..port.serving.len()).collect(),
            (true, true) => chains(),
            (true, false) => Vec::new(),
        };
        groups.extend(resolve::groups(&port, &serving, reader));
    }
    let here = Scope::Site(Arc::clone(&audience.site));
    let unit = |kind, group: &str| Unit { kind, name: group.into(), scope: here.clone() };
    groups.iter().flat_map(|g| [ResourceType::Cluster, ResourceType::Endpoints].map(|kind| unit(kind, g))).collect()
}

fn core(site: &Arc<str>, reader: &Reader) -> BTreeSet<Unit> {
    let mut units = BTreeSet::new();
    let here = Scope::Site(site.clone());
    let role = Scope::Role(Role::Core);
    if resolve::core_listener(site, reader).is_some() {
        let name: Arc<str> = resolve::BACKBONE.into();
        units.insert(Unit { kind: ResourceType::Listener, name: name.clone(), scope: here.clone() });
        units.insert(Unit { kind: ResourceType::Route, name, scope: role.clone() });
    }
    for set in reader.referrers(&ObjectRef::new(Kind::Site, "", site)) {
        let namespace = &set.reference.namespace;
        let Some((service, spec)) = set.endpoint_set().and_then(|set| reader.service(namespace, &set.service)) else {
            continue;
        };
        for port in &spec.ports {
            let name: Arc<str> = format!("{namespace}/{}:{}", service.reference.name, port.port).into();
            units.insert(Unit { kind: ResourceType::Cluster, name: name.clone(), scope: role.clone() });
            units.insert(Unit { kind: ResourceType::Endpoints, name, scope: here.clone() });
        }
    }
    units
}

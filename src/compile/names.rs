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
/// groups), nor EnvoyResources that hold or ask for one. A core that lists no gateways has its services, but no listener
/// and no route configuration: no edge can reach it.
///
/// At an edge this looks at every rule of every route that attaches there, since the groups follow from them.
pub fn names(audience: &Audience, reader: &Reader) -> Option<Vec<Unit>> {
    let Roots { mut units, services } = roots(audience, reader)?;
    units.extend(services.iter().flat_map(|service| of_service(audience, service, reader)));
    if audience.role == Role::Edge {
        let (site, spec) = reader.site(&audience.site)?;
        units.extend(groups(site, spec, audience, reader));
    }
    Some(units.into_iter().collect())
}

/// What an audience has by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roots {
    /// At an edge, all that its listeners need; at a core, what makes its backbone listener; nothing for gRPC clients.
    pub units: BTreeSet<Unit>,
    /// The Services that stand at a core, or that its gRPC clients may call; what it has of each says [`of_service`].
    pub services: BTreeSet<ObjectRef>,
}

/// As [`names`], but for what the route configurations of an edge lead to, the groups that their virtual hosts name,
/// and for what a core or a gRPC client has of each Service.
pub fn roots(audience: &Audience, reader: &Reader) -> Option<Roots> {
    let (site, spec) = reader.site(&audience.site)?;
    if spec.role != audience.role.of_site() || !resolve::in_service(spec) {
        return None;
    }
    let mut roots = match audience.role {
        Role::Edge => Roots { units: edge(site, spec, audience, reader), services: BTreeSet::new() },
        Role::Core => core(&audience.site, reader),
        Role::Grpc => Roots { units: BTreeSet::new(), services: resolve::called_from(&audience.site, reader) },
    };
    // What is written for the proxies of a core is nothing to its gRPC clients.
    if audience.role == spec.role {
        let raw = raw(site, spec, audience.proven, &roots.units, reader);
        roots.units.extend(raw);
    }
    Some(roots)
}

/// What a core, or a gRPC client, has of one of its [`Roots::services`].
pub fn of_service(audience: &Audience, service: &ObjectRef, reader: &Reader) -> BTreeSet<Unit> {
    match audience.role {
        Role::Edge => BTreeSet::new(),
        Role::Core => standing(audience, service, reader),
        Role::Grpc => called(audience, service, reader),
    }
}

fn standing(audience: &Audience, service: &ObjectRef, reader: &Reader) -> BTreeSet<Unit> {
    let ports = reader.ports(service).unwrap_or_default().iter();
    let units = ports.flat_map(|port| {
        let name: Arc<str> = format!("{}/{}:{}", service.namespace, service.name, port.port).into();
        let cluster = Unit { kind: ResourceType::Cluster, name: name.clone(), scope: Scope::Role(Role::Core) };
        [cluster, Unit { kind: ResourceType::Endpoints, name, scope: Scope::Site(audience.site.clone()) }]
    });
    units.collect()
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

/// The EnvoyResources of a site, beside what is `generated` and never in its place.
fn raw(site: &Stored, spec: &SiteSpec, proven: bool, generated: &BTreeSet<Unit>, reader: &Reader) -> Vec<Unit> {
    let standing = resolve::raw_at(site, spec, reader);
    if standing.is_empty() {
        return Vec::new();
    }
    // Names of groups and of what a Service brings are reserved.
    let taken: BTreeSet<(ResourceType, &str)> = generated.iter().map(|unit| (unit.kind, &*unit.name)).collect();
    let served = standing.into_iter().filter(|one| one.lost.is_none() && (proven || !one.spec.confidential));
    served
        .filter(|one| !taken.contains(&(one.kind, one.spec.name.as_str())))
        .map(|one| Unit {
            kind: one.kind,
            name: one.spec.name.as_str().into(),
            scope: Scope::Raw(one.stored.reference.name.as_str().into()),
        })
        .collect()
}

/// Never a Secret: gRPC clients take certificates from files.
fn called(audience: &Audience, service: &ObjectRef, reader: &Reader) -> BTreeSet<Unit> {
    let mut units = BTreeSet::new();
    let everywhere = Scope::Role(Role::Grpc);
    for (cluster, listeners) in resolve::calls(service, reader) {
        let mut unit = |kind, name: &str, scope: &Scope| {
            units.insert(Unit { kind, name: name.into(), scope: scope.clone() });
        };
        listeners.iter().for_each(|name| unit(ResourceType::Listener, name, &everywhere));
        listeners.iter().take(1).for_each(|name| unit(ResourceType::Route, name, &everywhere));
        unit(ResourceType::Cluster, &cluster, &everywhere);
        unit(ResourceType::Endpoints, &cluster, &Scope::Clients(audience.site.clone()));
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

fn core(site: &Arc<str>, reader: &Reader) -> Roots {
    let mut units = BTreeSet::new();
    if resolve::core_listener(site, reader).is_some() {
        let name: Arc<str> = resolve::BACKBONE.into();
        units.insert(Unit { kind: ResourceType::Listener, name: name.clone(), scope: Scope::Site(site.clone()) });
        units.insert(Unit { kind: ResourceType::Route, name, scope: Scope::Role(Role::Core) });
    }
    let sets = reader.placements(&ObjectRef::new(Kind::Site, "", site));
    let services = sets.map(|set| ObjectRef::new(Kind::Service, &set.set.namespace, set.service)).collect();
    Roots { units, services }
}

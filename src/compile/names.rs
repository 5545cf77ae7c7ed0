//! Everything that an audience has: which resources, by type and name, and the scope that each is compiled in.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    catalog::Stored,
    model::{Audience, Kind, ObjectRef, Role, Scope, SiteSpec},
    xds::ResourceType,
};

use super::{
    reader::Reader,
    resolve::{self, Plan},
};

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
    /// Whether it is put together from virtual hosts that are compiled one by one.
    pub fn by_host(&self) -> bool {
        self.kind == ResourceType::Route && matches!(self.scope, Scope::Gateways { .. })
    }
}

/// Everything that an audience has, sorted, each once. `None`: its Site is unknown, being deleted or of another role;
/// its proxies are answered with silence, never with an empty set and never with removals.
///
/// An unproven audience has neither Secrets nor what hangs on them (HTTPS listeners, their route configurations and
/// groups). A core that lists no gateways has its services, but no listener and no route configuration: no edge can
/// reach it.
///
/// At an edge this looks at every rule of every route that attaches there, since the groups follow from them; who
/// compiles them anyway asks for [`own`], and takes the rest from what came of it by [`brought`].
pub fn names(audience: &Audience, reader: &Reader) -> Option<Vec<Unit>> {
    let Own { mut units, services } = own(audience, reader)?;
    units.extend(services.iter().flat_map(|service| of_service(audience, service, reader)));
    let mut needs: BTreeSet<(ResourceType, Arc<str>)> = BTreeSet::new();
    for unit in units.iter().filter(|unit| matches!(unit.scope, Scope::Gateways { .. })) {
        match resolve::plan(unit, reader) {
            Some(Plan::RouteConfiguration(plan)) => {
                needs.extend(
                    resolve::groups(&plan.hosts).into_iter().map(|group| (ResourceType::Cluster, group.into())),
                );
            }
            Some(Plan::Listener(plan)) => {
                needs.extend(plan.secrets().map(|secret| (ResourceType::Secret, secret.into())));
            }
            _ => {}
        }
    }
    units.extend(needs.iter().flat_map(|need| brought(audience, need)));
    Some(units.into_iter().collect())
}

/// What an audience has by itself, and not because something that it has needs it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Own {
    /// At an edge, listeners and route configurations; at a core, those of the backbone.
    pub units: BTreeSet<Unit>,
    /// The Services that stand at a core; what it has of each says [`of_service`].
    pub services: BTreeSet<ObjectRef>,
}

/// As [`names`], but for what an edge's listeners and route configurations need, and what a core has of each Service.
pub fn own(audience: &Audience, reader: &Reader) -> Option<Own> {
    let (site, spec) = reader.site(&audience.site)?;
    if spec.role != audience.role || !resolve::in_service(spec) {
        return None;
    }
    Some(match audience.role {
        Role::Edge => Own { units: edge(site, spec, audience.proven, reader), services: BTreeSet::new() },
        Role::Core => core(&audience.site, reader),
    })
}

/// What a core has of a Service that stands there.
pub fn of_service(audience: &Audience, service: &ObjectRef, reader: &Reader) -> BTreeSet<Unit> {
    let ports = reader.ports(service).unwrap_or_default().iter();
    let units = ports.flat_map(|port| {
        let name: Arc<str> = format!("{}/{}:{}", service.namespace, service.name, port.port).into();
        let cluster = Unit { kind: ResourceType::Cluster, name: name.clone(), scope: Scope::Role(Role::Core) };
        [cluster, Unit { kind: ResourceType::Endpoints, name, scope: Scope::Site(audience.site.clone()) }]
    });
    units.collect()
}

/// The units that a listener or a route configuration in need of one brings to an edge: groups, with their load
/// assignments, and Secrets, which go to those alone who proved who they are.
pub fn brought(audience: &Audience, (kind, name): &(ResourceType, Arc<str>)) -> Vec<Unit> {
    let unit = |kind, scope: &Scope| Unit { kind, name: Arc::clone(name), scope: scope.clone() };
    let here = Scope::Site(Arc::clone(&audience.site));
    match kind {
        ResourceType::Cluster => [ResourceType::Cluster, ResourceType::Endpoints].map(|k| unit(k, &here)).into(),
        ResourceType::Secret if audience.proven => vec![unit(*kind, &Scope::Global)],
        _ => Vec::new(),
    }
}

fn edge(site: &Stored, spec: &SiteSpec, proven: bool, reader: &Reader) -> BTreeSet<Unit> {
    let mut units = BTreeSet::new();
    let bind: Arc<str> = spec.bind_address.to_string().into();
    for (number, gateways) in resolve::ports_at(site, spec, reader) {
        let port = resolve::port(&gateways, number, reader);
        let scope = Scope::Gateways { bind: bind.clone(), port: number, gateways: Arc::new(gateways) };
        let mut unit = |kind, name: &str| {
            units.insert(Unit { kind, name: name.into(), scope: scope.clone() });
        };
        let mut serving = !port.serving.is_empty();
        if port.https() {
            let chains = if proven { resolve::chains(number, &port, reader) } else { Vec::new() };
            chains.iter().for_each(|(_, chain)| unit(ResourceType::Route, &chain.route_configuration));
            serving = !chains.is_empty();
        } else if serving {
            unit(ResourceType::Route, &format!("http/{number}"));
        }
        if serving {
            unit(ResourceType::Listener, &format!("gateway/{number}"));
        }
    }
    units
}

fn core(site: &Arc<str>, reader: &Reader) -> Own {
    let mut units = BTreeSet::new();
    if resolve::core_listener(site, reader).is_some() {
        let name: Arc<str> = resolve::BACKBONE.into();
        units.insert(Unit { kind: ResourceType::Listener, name: name.clone(), scope: Scope::Site(site.clone()) });
        units.insert(Unit { kind: ResourceType::Route, name, scope: Scope::Role(Role::Core) });
    }
    let sets = reader.placements(&ObjectRef::new(Kind::Site, "", site));
    let services = sets.map(|set| ObjectRef::new(Kind::Service, &set.set.namespace, set.service)).collect();
    Own { units, services }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_that_a_listener_needs_goes_to_nobody_unproven() {
        let need = (ResourceType::Secret, Arc::from("a/c"));
        let audience = |proven| Audience { site: "e1".into(), role: Role::Edge, proven, cohort: "".into() };
        assert_eq!(brought(&audience(true), &need).len(), 1);
        assert_eq!(brought(&audience(false), &need), []);
    }
}

//! What is wrong between the objects, in words for their owners: references, conflicts, what is not served.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    catalog::Stored,
    compile::reader::Reader,
    model::{
        AllowedKinds, EndpointSetSpec, GatewaySpec, HttpRouteSpec, Kind, ObjectRef, Problem, Role, Severity, SiteSpec,
        Spec, VirtualHosts,
    },
};

use super::{
    ports::{Bound, GATEWAY_CLASS, ports_at, stands_at, streamed},
    references,
    routes::mirrors,
    status::{Conflicts, bad_certificates, bad_references, refusal},
};

/// The backbone groups to which the routes lead that a Gateway takes, each with how many of them.
pub type Groups = BTreeMap<ObjectRef, BTreeMap<Arc<str>, usize>>;

/// Where a route leads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leads {
    /// The Gateways that take it.
    pub from: BTreeSet<ObjectRef>,
    /// The groups of its back ends and mirrors.
    pub to: BTreeSet<Arc<str>>,
}

/// What is wrong with one object, given what all together make of it. Single keys have their problems in `catalog`.
pub fn of(stored: &Stored, conflicts: &Conflicts, groups: &Groups, reader: &Reader) -> Vec<Problem> {
    let mut found = Vec::new();
    let mut add = |severity, reason: &str, message: String| {
        found.push(Problem {
            object: Some((*stored.reference).clone()),
            key: stored.key.clone(),
            severity,
            reason: reason.to_owned(),
            message,
            revision: stored.mod_revision,
        });
    };
    match &stored.object.spec {
        Spec::HttpRoute(spec) => route(stored, spec, conflicts, reader, &mut add),
        Spec::Gateway(spec) if spec.class == GATEWAY_CLASS => gateway(stored, spec, conflicts, reader, &mut add),
        Spec::EndpointSet(spec) => endpoint_set(stored, spec, reader, &mut add),
        Spec::Site(spec) => site(stored, spec, groups, reader, &mut add),
        Spec::EnvoyResource(spec) => super::raw::problems(stored, spec, reader, &mut add),
        // The rest refers to nothing, and a Gateway of a foreign class is somebody else's.
        _ => {}
    }
    found
}

/// Where an object leads; only HTTPRoutes lead anywhere.
pub fn leads(stored: &Stored, conflicts: &Conflicts, reader: &Reader) -> Leads {
    let Some(spec) = stored.http_route() else { return Leads::default() };
    let taken = spec.parents.iter().filter(|parent| {
        let found = reader.gateway(&parent.namespace, &parent.name);
        found.is_some_and(|(_, gateway)| gateway.class == GATEWAY_CLASS)
            && refusal(stored, spec, parent, conflicts, reader).is_none()
    });
    let from = taken.map(|parent| ObjectRef::new(Kind::Gateway, &parent.namespace, &parent.name)).collect();
    let backends = spec
        .rules
        .iter()
        .flat_map(|rule| rule.backends.iter().filter(|backend| backend.weight > 0).chain(mirrors(rule)));
    let targets = backends.filter_map(|backend| references::backend(&stored.reference, backend, reader).ok());
    Leads { from, to: targets.map(|target| target.group.into()).collect() }
}

type Add<'a> = dyn FnMut(Severity, &str, String) + 'a;

fn route(stored: &Stored, spec: &HttpRouteSpec, conflicts: &Conflicts, reader: &Reader, add: &mut Add<'_>) {
    for parent in &spec.parents {
        let found = reader.gateway(&parent.namespace, &parent.name);
        if found.is_some_and(|(_, gateway)| gateway.class != GATEWAY_CLASS) {
            continue;
        }
        if let Some(refused) = refusal(stored, spec, parent, conflicts, reader) {
            add(Severity::Error, refused.reason, refused.message);
        }
    }
    for bad in bad_references(&stored.reference, spec, reader) {
        add(Severity::Error, bad.reason, bad.message);
    }
}

fn gateway(stored: &Stored, spec: &GatewaySpec, conflicts: &Conflicts, reader: &Reader, add: &mut Add<'_>) {
    for listener in &spec.listeners {
        let place = format!("listener {:?}", listener.name);
        if let Some(lost) = conflicts.of(&stored.reference, &listener.name) {
            add(Severity::Error, "Conflicted", format!("{place}: {}", lost.message(listener.port)));
        }
        for bad in bad_certificates(&Bound { gateway: stored, listener }, reader) {
            add(Severity::Error, bad.reason, format!("{place}: {}", bad.message));
        }
        if listener.allowed_kinds == AllowedKinds::None {
            add(
                Severity::Error,
                "InvalidRouteKinds",
                format!("{place}: only HTTPRoutes are served, and it allows none"),
            );
        }
    }
    if spec.virtual_hosts == VirtualHosts::Streamed
        && let Some((port, site)) = whole_all_the_same(stored, reader)
    {
        let message = format!(
            "virtual hosts of port {port} at Site {site} are served whole: not every Gateway that shares it is annotated \
             tidegate.dev/virtual-hosts: streamed"
        );
        add(Severity::Warning, "VirtualHostsWhole", message);
    }
    let stands = |site: &Stored| site.site().is_some_and(|site_spec| stands_at(spec, site, site_spec));
    if !reader.all(Kind::Site).any(stands) {
        add(Severity::Warning, "NoMatchingSite", "no edge Site is chosen (annotation tidegate.dev/sites)".into());
    }
}

/// A port, and a site, where the Gateway asks in vain for its virtual hosts to be streamed.
fn whole_all_the_same<'a>(gateway: &Stored, reader: &Reader<'a>) -> Option<(u16, &'a str)> {
    let name = (gateway.reference.namespace.clone(), gateway.reference.name.clone());
    reader.all(Kind::Site).find_map(|site| {
        let shared = ports_at(site, site.site()?, reader).into_iter();
        let mut own = shared.filter(|(_, gateways)| gateways.contains(&name));
        let (port, _) = own.find(|(_, gateways)| !streamed(gateways, reader))?;
        Some((port, site.reference.name.as_str()))
    })
}

fn endpoint_set(stored: &Stored, spec: &EndpointSetSpec, reader: &Reader, add: &mut Add<'_>) {
    let service = ObjectRef::new(Kind::Service, &stored.reference.namespace, &spec.service);
    if reader.ports(&service).is_none() {
        let message =
            format!("there is no Service {}/{}; its endpoints are unused", stored.reference.namespace, spec.service);
        add(Severity::Error, "ServiceNotFound", message);
    }
    match reader.role(&spec.site) {
        None => {
            add(Severity::Error, "SiteNotFound", format!("there is no Site {}; its endpoints are unused", spec.site))
        }
        Some(Role::Edge) => {
            let message = format!("Site {} is an edge; endpoints at edges are not used yet", spec.site);
            add(Severity::Warning, "UnusedAtEdge", message);
        }
        Some(Role::Core | Role::Grpc) => {}
    }
}

/// Each group costs an edge connections and active checks of its own.
const MANY_GROUPS: usize = 32;

fn site(stored: &Stored, spec: &SiteSpec, groups: &Groups, reader: &Reader, add: &mut Add<'_>) {
    if spec.role == Role::Core && spec.gateways.is_empty() {
        let message = "a core without gateways cannot be reached from edges; list them in spec.gateways";
        add(Severity::Warning, "NoGateways", message.into());
    }
    let standing =
        reader.all(Kind::Gateway).filter(|gateway| gateway.gateway().is_some_and(|g| stands_at(g, stored, spec)));
    let behind: BTreeSet<&str> =
        standing.filter_map(|gateway| groups.get(&*gateway.reference)).flatten().map(|(group, _)| &**group).collect();
    if behind.len() > MANY_GROUPS {
        let message = format!(
            "its routes lead to {} backbone groups, more than {MANY_GROUPS}; let services share the same core sites",
            behind.len()
        );
        add(Severity::Warning, "TooManyGroups", message);
    }
}

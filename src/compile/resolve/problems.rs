//! What is wrong between the objects, in words for their owners: references, conflicts, what is not served.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    catalog::{Configuration, Runtime, Stored},
    compile::reader::Reader,
    model::{
        AllowedKinds, EndpointSetSpec, GatewaySpec, HttpRouteSpec, Kind, Problem, Role, Severity, SiteSpec, Spec,
        VirtualHosts,
    },
};

use super::{
    ports::{Bound, GATEWAY_CLASS, port, ports_at, stands_at, streamed},
    status::{Conflicts, bad_certificates, bad_references, refusal},
};

/// Every problem of the whole configuration, by object. Single keys have theirs in `catalog`.
pub fn problems(configuration: &Configuration, runtime: &Runtime) -> Vec<Problem> {
    let reader = Reader::new(configuration, runtime);
    let conflicts = Conflicts::find(&reader);
    let mut groups = Groups::new();
    let mut found = Vec::new();
    for stored in configuration.iter() {
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
            Spec::HttpRoute(spec) => route(stored, spec, &conflicts, &reader, &mut add),
            Spec::Gateway(spec) if spec.class == GATEWAY_CLASS => {
                gateway(stored, spec, &conflicts, &reader, &mut add);
            }
            Spec::EndpointSet(spec) => endpoint_set(stored, spec, &reader, &mut add),
            Spec::Site(spec) => site(stored, spec, &mut groups, &reader, &mut add),
            // The rest refers to nothing, and a Gateway of a foreign class is somebody else's.
            _ => {}
        }
    }
    found
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
    if reader.service(&stored.reference.namespace, &spec.service).is_none() {
        let message =
            format!("there is no Service {}/{}; its endpoints are unused", stored.reference.namespace, spec.service);
        add(Severity::Error, "ServiceNotFound", message);
    }
    match reader.site(&spec.site) {
        None => {
            add(Severity::Error, "SiteNotFound", format!("there is no Site {}; its endpoints are unused", spec.site))
        }
        Some((_, site)) if site.role == Role::Edge => {
            let message = format!("Site {} is an edge; endpoints at edges are not used yet", spec.site);
            add(Severity::Warning, "UnusedAtEdge", message);
        }
        Some(_) => {}
    }
}

/// The groups behind each (port, Gateways); most sites have the same ones.
type Groups = BTreeMap<(u16, BTreeSet<(String, String)>), BTreeSet<String>>;

/// Each group costs an edge connections and active checks of its own.
const MANY_GROUPS: usize = 32;

fn site(stored: &Stored, spec: &SiteSpec, known: &mut Groups, reader: &Reader, add: &mut Add<'_>) {
    if spec.role == Role::Core && spec.gateways.is_empty() {
        let message = "a core without gateways cannot be reached from edges; list them in spec.gateways";
        add(Severity::Warning, "NoGateways", message.into());
    }
    let mut groups: BTreeSet<String> = BTreeSet::new();
    for (number, gateways) in ports_at(stored, spec, reader) {
        let behind = known.entry((number, gateways)).or_insert_with_key(|(number, gateways)| {
            let port = port(gateways, *number, reader);
            let all: Vec<usize> = (0..port.serving.len()).collect();
            super::groups(&port, &all, reader)
        });
        groups.extend(behind.iter().cloned());
    }
    if groups.len() > MANY_GROUPS {
        let message = format!(
            "its routes lead to {} backbone groups, more than {MANY_GROUPS}; let services share the same core sites",
            groups.len()
        );
        add(Severity::Warning, "TooManyGroups", message);
    }
}

//! Is this change good? One answer for the API and the command line; pure.
//!
//! A change is refused when what it compiles to would be refused by Envoy. A reference to something that is missing is
//! no reason: objects may come in any order, and the share of traffic answers 500 until the target is there.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use crate::{
    catalog::{Configuration, Runtime},
    compile::{self, Reader, Unit},
    model::{Kind, Object, ObjectRef, Problem, Role, Scope, Severity, Spec, VirtualHosts},
    xds::ResourceType,
};

/// The answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Why the change is refused; empty: it is good.
    pub faults: Vec<(ObjectRef, String)>,
    /// What its author should know all the same.
    pub warnings: Vec<String>,
}

/// Judges `objects` put over `configuration`, and `deletions` taken from it.
pub fn check(configuration: &Configuration, runtime: &Runtime, objects: &[Object], deletions: &[ObjectRef]) -> Verdict {
    let next = configuration.overlay(objects, deletions);
    let named: BTreeSet<ObjectRef> = objects.iter().map(Object::reference).collect();
    let mut verdict = Verdict::default();
    let mut units = BTreeSet::new();
    for object in objects {
        units.extend(units_of(object, &next));
    }
    for unit in units {
        compile_unit(&unit, &next, runtime, &named, &mut verdict);
    }
    for problem in compile::resolve::problems::problems(&next, runtime) {
        let Some(object) = problem.object.filter(|o| named.contains(o)) else { continue };
        verdict.warnings.push(format!("{object}: {}: {}", problem.reason, problem.message));
    }
    verdict.warnings.extend(many_hosts(objects, &next));
    verdict.faults.sort();
    verdict.faults.dedup();
    verdict
}

/// So many virtual hosts are better served one by one.
const MANY_HOSTS: usize = 200;

/// Gateways that the objects concern and that serve many virtual hosts whole.
fn many_hosts(objects: &[Object], next: &Configuration) -> Vec<String> {
    let gateways: BTreeSet<ObjectRef> = objects.iter().flat_map(gateways_of).collect();
    let said = gateways.into_iter().filter_map(|gateway| {
        let spec = next.get(&gateway)?.gateway()?;
        let hosts = next.hosts_of(&gateway).count();
        (spec.virtual_hosts == VirtualHosts::Whole && hosts > MANY_HOSTS).then(|| {
            format!(
                "{gateway}: ManyVirtualHosts: each edit of one of its {hosts} host names sends them all to every edge; \
                 with the annotation tidegate.dev/virtual-hosts: streamed it sends one"
            )
        })
    });
    said.collect()
}

/// The Gateways that an object concerns.
fn gateways_of(object: &Object) -> Vec<ObjectRef> {
    match &object.spec {
        Spec::Gateway(_) => vec![object.reference()],
        Spec::HttpRoute(route) => {
            route.parents.iter().map(|p| ObjectRef::new(Kind::Gateway, &p.namespace, &p.name)).collect()
        }
        _ => Vec::new(),
    }
}

fn compile_unit(
    unit: &Unit,
    next: &Configuration,
    runtime: &Runtime,
    named: &BTreeSet<ObjectRef>,
    verdict: &mut Verdict,
) {
    let reader = Reader::new(next, runtime);
    let outcome = compile::compile(unit, &reader);
    verdict.faults.extend(blame(unit, next, runtime, named, outcome.problems));
    // What a listener brings is found through the listener, so that its names are spelled in one place.
    let routes = outcome.resource.iter().filter(|r| r.kind == ResourceType::Listener).flat_map(|r| &r.requires);
    for (kind, name) in routes.filter(|(kind, _)| *kind == ResourceType::Route) {
        if matches!(unit.scope, Scope::Gateways { .. }) {
            let route = Unit { kind: *kind, name: name.clone(), scope: unit.scope.clone() };
            compile_unit(&route, next, runtime, named, verdict);
        }
    }
}

/// Whose fault it is that a unit fails its check: of the changed objects that are in it, those with which it fails
/// though no other route is there; when there is none, and it does not fail without them, all of them.
fn blame(
    unit: &Unit,
    next: &Configuration,
    runtime: &Runtime,
    named: &BTreeSet<ObjectRef>,
    problems: Vec<Problem>,
) -> Vec<(ObjectRef, String)> {
    let errors = problems.into_iter().filter(|p| p.severity == Severity::Error);
    // A fault of the compiler names nobody; it is still a reason to store nothing that brings it about.
    let object = |p: &Problem| p.object.clone().or_else(|| named.first().cloned());
    let errors: Vec<(ObjectRef, String)> = errors.filter_map(|p| Some((object(&p)?, p.message))).collect();
    let without = |gone: &dyn Fn(&ObjectRef) -> bool| -> Vec<Problem> {
        let routes = errors.iter().map(|(object, _)| object).filter(|o| o.kind == Kind::HttpRoute && gone(o));
        let rest = next.overlay(&[], &routes.cloned().collect::<Vec<_>>());
        let reader = Reader::new(&rest, runtime);
        compile::compile(unit, &reader).problems
    };
    let suspects: Vec<&(ObjectRef, String)> = errors.iter().filter(|(object, _)| named.contains(object)).collect();
    if suspects.is_empty() {
        return Vec::new();
    }
    let mut guilty = Vec::new();
    for (object, _) in &suspects {
        let alone = without(&|other| other != object).into_iter();
        let own = alone.filter(|p| p.severity == Severity::Error && p.object.as_ref() == Some(object));
        guilty.extend(own.map(|p| (object.clone(), p.message)));
    }
    if guilty.is_empty() && without(&|object| named.contains(object)).is_empty() {
        guilty = suspects.into_iter().cloned().collect();
    }
    guilty
}

/// The units that carry `object`, for an edge that has only the Gateways concerned.
fn units_of(object: &Object, next: &Configuration) -> Vec<Unit> {
    let reference = object.reference();
    match &object.spec {
        Spec::Service(service) => service
            .ports
            .iter()
            .flat_map(|port| {
                let name = format!("{}/{}:{}", reference.namespace, reference.name, port.port);
                // A gRPC client has none where the port does not speak HTTP/2.
                [Role::Core, Role::Grpc].map(|role| Unit {
                    kind: ResourceType::Cluster,
                    name: name.as_str().into(),
                    scope: Scope::Role(role),
                })
            })
            .collect(),
        Spec::Certificate(_) => {
            let name = format!("{}/{}", reference.namespace, reference.name).into();
            vec![Unit { kind: ResourceType::Secret, name, scope: Scope::Global }]
        }
        Spec::Site(site) if site.role == Role::Core => {
            let scope = Scope::Site(reference.name.as_str().into());
            vec![Unit { kind: ResourceType::Listener, name: "backbone".into(), scope }]
        }
        Spec::Gateway(_) | Spec::HttpRoute(_) => {
            gateways_of(object).iter().flat_map(|gateway| gateway_units(gateway, next)).collect()
        }
        _ => Vec::new(),
    }
}

fn gateway_units(gateway: &ObjectRef, next: &Configuration) -> Vec<Unit> {
    let Some(spec) = next.get(gateway).and_then(|stored| stored.gateway()) else { return Vec::new() };
    let ports: BTreeSet<u16> = spec.listeners.iter().map(|l| l.port).collect();
    let gateways = std::sync::Arc::new(BTreeSet::from([(gateway.namespace.clone(), gateway.name.clone())]));
    ports
        .into_iter()
        .map(|port| Unit {
            kind: ResourceType::Listener,
            name: format!("gateway/{port}").into(),
            scope: Scope::Gateways { bind: "0.0.0.0".into(), port, gateways: gateways.clone(), streamed: false },
        })
        .collect()
}

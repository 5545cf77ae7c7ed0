//! Objects → xDS, pure: `resolve` decides what the objects mean for an audience, `emit` writes it in Envoy's words.
//! No I/O, no clocks; the same input gives the same bytes on every replica.

pub mod emit;
mod fallback;
pub mod names;
pub mod plan;
pub mod reader;
pub mod resolve;

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
};

pub use fallback::{Served, serve};
pub use names::{Unit, names};
pub use reader::Reader;

use crate::{
    model::{Problem, Revision, Scope, Severity},
    xds::{Resource, ResourceType, descriptor, validate::validate},
};
use plan::VirtualHostPlan;
use resolve::Plan;

/// What becomes of a unit that fails its check.
const LEFT_OUT: &str = "is left out";

/// How many broken rules of one resource are told.
const VIOLATIONS_MAX: usize = 5;

/// What compiling a unit gave.
#[derive(Debug, Default)]
pub struct Outcome {
    /// `None`: the name does not exist, or its resource failed the check.
    pub resource: Option<Resource>,
    /// The failed checks, one for each source.
    pub problems: Vec<Problem>,
}

/// Virtual hosts already encoded, by unit and name: an edit of one route encodes one host.
#[derive(Debug, Default)]
pub struct HostCache {
    hosts: HashMap<Unit, HashMap<String, (VirtualHostPlan, emit::VirtualHostBytes)>>,
}

impl HostCache {
    /// Drops what belongs to a unit that nobody has any more.
    pub fn forget(&mut self, unit: &Unit) {
        self.hosts.remove(unit);
    }

    fn encode(&mut self, unit: &Unit, hosts: Vec<VirtualHostPlan>, entry: emit::Entry) -> Vec<emit::VirtualHostBytes> {
        let mut old = self.hosts.remove(unit).unwrap_or_default();
        let mut new = HashMap::with_capacity(hosts.len());
        let mut encoded = Vec::with_capacity(hosts.len());
        for plan in hosts {
            let bytes = match old.remove(&plan.name) {
                Some((known, bytes)) if known == plan => bytes,
                _ => emit::virtual_host(&plan, entry),
            };
            encoded.push(bytes.clone());
            new.insert(plan.name.clone(), (plan, bytes));
        }
        self.hosts.insert(unit.clone(), new);
        encoded
    }
}

/// Compiles one unit, and checks what came out against the validation rules of Envoy's protos (load assignments are
/// valid by construction). A panic costs this unit, not the process: it is told as a problem of the unit.
pub fn compile(unit: &Unit, reader: &Reader<'_>, hosts: &mut HostCache) -> Outcome {
    let Ok(built) = catch_unwind(AssertUnwindSafe(|| build(unit, reader, hosts))) else {
        let what = "a fault of the compiler; report it with the objects that it names";
        return Outcome { resource: None, problems: vec![problem(unit, None, what)] };
    };
    let Some(resource) = built else { return Outcome::default() };
    if unit.kind == ResourceType::Endpoints {
        return Outcome { resource: Some(resource), problems: Vec::new() };
    }
    let violations = validate(descriptor::message_name(unit.kind.url()), &resource.payload);
    if violations.is_empty() {
        return Outcome { resource: Some(resource), problems: Vec::new() };
    }
    let rules: Vec<String> = violations.iter().take(VIOLATIONS_MAX).map(ToString::to_string).collect();
    let what = format!("Envoy would refuse it: {}", rules.join("; "));
    let problems = resource.sources.iter().map(|s| problem(unit, Some(&s.object), &what)).collect();
    Outcome { resource: None, problems }
}

fn problem(unit: &Unit, object: Option<&crate::model::ObjectRef>, what: &str) -> Problem {
    Problem {
        object: object.cloned(),
        key: String::new(),
        severity: Severity::Error,
        reason: "Invalid".into(),
        message: format!("{} {} {LEFT_OUT}: {what}", unit.kind.short(), unit.name),
        revision: Revision(0),
    }
}

fn build(unit: &Unit, reader: &Reader<'_>, hosts: &mut HostCache) -> Option<Resource> {
    let name = unit.name.as_ref();
    Some(match resolve::plan(unit, reader)? {
        Plan::Listener(plan) => emit::edge_listener(&plan),
        Plan::CoreListener(plan) => emit::core_listener(&plan),
        Plan::RouteConfiguration(plan) => {
            let Scope::Gateways { port, .. } = unit.scope else { return None };
            let entry = emit::Entry { port, tls: name.starts_with("https/") };
            emit::route_configuration(name, &hosts.encode(unit, plan.hosts, entry))
        }
        Plan::CoreRoutes => emit::core_route_configuration(),
        Plan::Group(plan) if unit.kind == ResourceType::Cluster => {
            emit::group_cluster(&plan, &reader.fleet().trust_domain)
        }
        Plan::Group(plan) => emit::group_endpoints(&plan),
        Plan::Service(plan) => emit::service_cluster(&plan),
        Plan::Endpoints(plan) => emit::service_endpoints(&plan),
        Plan::Raw(plan) => emit::raw(unit.kind, &plan),
        Plan::Secret(secret) => emit::secret(name, &secret.spec, &secret.source),
    })
}

//! Objects → xDS, pure: `resolve` decides what the objects mean for an audience, `emit` writes it in Envoy's words.
//! No I/O, no clocks; the same input gives the same bytes on every replica.

pub mod dependents;
pub mod emit;
mod fallback;
mod judge;
pub mod names;
pub mod plan;
pub mod reader;
pub mod resolve;

use std::{
    collections::BTreeSet,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use bytes::Bytes;

pub use emit::{VirtualHostBytes, streamed_host};
pub use fallback::{Served, fell_back, guilty, locate, serve};
pub use judge::{Judge, Judgement, problems_of};
pub use names::{Roots, Unit, names, of_service, roots};
pub use reader::Reader;

use crate::{
    model::{Problem, Revision, Scope, Severity},
    xds::{Resource, ResourceType, Source, descriptor, validate::validate},
};
use resolve::Plan;

/// What becomes of a unit that fails its check.
const LEFT_OUT: &str = "is left out";

const FAULT: &str = "a fault of the compiler; report it with the objects that it names";

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

/// What compiling a virtual host gave.
#[derive(Debug, Default)]
pub struct HostOutcome {
    /// `None`: nobody names the domain, or it failed the check.
    pub host: Option<VirtualHostBytes>,
    /// The failed check, once for each source.
    pub problems: Vec<Problem>,
}

/// Compiles one unit, and checks what came out against the validation rules of Envoy's protos (load assignments are
/// valid by construction). A panic costs this unit, not the process: it is told as a problem of the unit.
pub fn compile(unit: &Unit, reader: &Reader<'_>) -> Outcome {
    if unit.has_hosts() {
        return whole(unit, reader);
    }
    let Ok(built) = catch_unwind(AssertUnwindSafe(|| build(unit, reader))) else {
        return Outcome { resource: None, problems: vec![problem(&shown(unit), None, FAULT)] };
    };
    let Some(resource) = built else { return Outcome::default() };
    if unit.kind == ResourceType::Endpoints {
        return Outcome { resource: Some(resource), problems: Vec::new() };
    }
    let problems = check(descriptor::message_name(unit.kind.url()), &resource.payload, &shown(unit), &resource.sources);
    Outcome { resource: problems.is_empty().then_some(resource), problems }
}

/// The domains for which a route configuration with virtual hosts of its own may have one, a few too many; `None`: it
/// does not exist.
pub fn domains(unit: &Unit, reader: &Reader<'_>) -> Option<BTreeSet<Arc<str>>> {
    // A fault here is one of each host too, and told there.
    catch_unwind(AssertUnwindSafe(|| resolve::domains(&unit.name, &unit.scope, reader))).ok().flatten()
}

/// Compiles the virtual host of one domain of a route configuration, and checks it, as [`compile`] does a unit.
pub fn host(unit: &Unit, domain: &str, reader: &Reader<'_>) -> HostOutcome {
    let what = format!("virtual host {domain} of {}", shown(unit));
    let Ok(built) = catch_unwind(AssertUnwindSafe(|| build_host(unit, domain, reader))) else {
        return HostOutcome { host: None, problems: vec![problem(&what, None, FAULT)] };
    };
    let Some(host) = built else { return HostOutcome::default() };
    let problems = check(emit::VIRTUAL_HOST, &host.bytes, &what, &host.sources);
    HostOutcome { host: problems.is_empty().then_some(host), problems }
}

fn build_host(unit: &Unit, domain: &str, reader: &Reader<'_>) -> Option<VirtualHostBytes> {
    let Scope::Gateways { port, streamed, .. } = unit.scope else { return None };
    let mut plan = resolve::virtual_host(&unit.name, &unit.scope, domain, reader)?;
    if streamed {
        // By which Envoy finds its route configuration too.
        plan.name = format!("{}/{domain}", unit.name);
    }
    let name = unit.name.strip_prefix(resolve::STREAMED).unwrap_or(&unit.name);
    Some(emit::virtual_host(&plan, emit::Entry { port, tls: name.starts_with("https/") }))
}

/// A route configuration with these virtual hosts, each of them checked.
pub fn routes<'a>(unit: &Unit, hosts: impl Iterator<Item = &'a VirtualHostBytes> + Clone) -> Resource {
    emit::route_configuration(&unit.name, hosts)
}

/// A route configuration whose virtual hosts come by themselves, and what those require.
pub fn streaming<'a>(unit: &Unit, requires: impl Iterator<Item = &'a (ResourceType, Arc<str>)>) -> Resource {
    emit::streamed_route_configuration(&unit.name, requires)
}

/// A route configuration with those of its hosts that pass.
fn whole(unit: &Unit, reader: &Reader<'_>) -> Outcome {
    let Some(domains) = domains(unit, reader) else { return Outcome::default() };
    let outcomes: Vec<HostOutcome> = domains.iter().map(|domain| host(unit, domain, reader)).collect();
    let hosts = outcomes.iter().filter_map(|outcome| outcome.host.as_ref());
    let resource = match unit.streams() {
        true => streaming(unit, hosts.flat_map(|host| &host.requires)),
        false => routes(unit, hosts),
    };
    Outcome { resource: Some(resource), problems: outcomes.into_iter().flat_map(|outcome| outcome.problems).collect() }
}

/// One problem for each source of a message that Envoy would refuse.
fn check(message: &str, bytes: &Bytes, what: &str, sources: &[Source]) -> Vec<Problem> {
    let violations = validate(message, bytes);
    if violations.is_empty() {
        return Vec::new();
    }
    let rules: Vec<String> = violations.iter().take(VIOLATIONS_MAX).map(ToString::to_string).collect();
    let why = format!("Envoy would refuse it: {}", rules.join("; "));
    sources.iter().map(|source| problem(what, Some(&source.object), &why)).collect()
}

fn shown(unit: &Unit) -> String {
    format!("{} {}", unit.kind.short(), unit.name)
}

fn problem(unit: &str, object: Option<&crate::model::ObjectRef>, what: &str) -> Problem {
    Problem {
        object: object.cloned(),
        key: String::new(),
        severity: Severity::Error,
        reason: "Invalid".into(),
        message: format!("{unit} {LEFT_OUT}: {what}"),
        revision: Revision(0),
    }
}

fn build(unit: &Unit, reader: &Reader<'_>) -> Option<Resource> {
    let name = unit.name.as_ref();
    Some(match resolve::plan(unit, reader)? {
        Plan::Listener(plan) => emit::edge_listener(&plan),
        Plan::CoreListener(plan) => emit::core_listener(&plan),
        // Compiled host by host.
        Plan::RouteConfiguration(_) => return None,
        Plan::CoreRoutes => emit::core_route_configuration(),
        Plan::Group(plan) if unit.kind == ResourceType::Cluster => {
            emit::group_cluster(&plan, &reader.fleet().trust_domain)
        }
        Plan::Group(plan) => emit::group_endpoints(&plan),
        Plan::Service(plan) => emit::service_cluster(&plan),
        Plan::Endpoints(plan) => emit::service_endpoints(&plan),
        Plan::Raw(plan) => emit::raw(unit.kind, &plan),
        Plan::ApiListener(plan) => emit::api_listener(&plan),
        Plan::ApiRoute(plan) => emit::api_route(&plan),
        Plan::ClientService(plan) => emit::client_cluster(&plan),
        Plan::ClientEndpoints(plan) => emit::client_endpoints(&plan),
        Plan::Secret(secret) => emit::secret(name, &secret.spec, &secret.source),
    })
}

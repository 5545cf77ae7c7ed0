//! Objects → xDS, pure: `resolve` decides what the objects mean for an audience, `emit` writes it in Envoy's words.
//! No I/O, no clocks; the same input gives the same bytes on every replica.

pub mod dependents;
pub mod emit;
mod fallback;
mod hosts;
mod judge;
pub mod names;
pub mod plan;
pub mod reader;
pub mod resolve;
mod spread;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

pub use fallback::{Served, serve};
pub use hosts::{HostCache, HostReads};
pub use judge::{Judge, Judgement, problems_of};
pub use names::{Own, Unit, brought, names, of_service, own};
pub use reader::Reader;
pub use spread::spread;

use crate::{
    model::{ObjectRef, Problem, Revision, Severity},
    xds::{
        Resource, ResourceType, descriptor,
        validate::{Violation, validate},
    },
};
use resolve::Plan;

/// What becomes of a unit that fails its check.
const LEFT_OUT: &str = "is left out";

/// What a panic is called.
const FAULT: &str = "a fault of the compiler; report it with the objects that it names";

/// How many broken rules of one resource are told.
const VIOLATIONS_MAX: usize = 5;

/// What compiling a unit gave.
#[derive(Debug, Default)]
pub struct Outcome {
    /// `None`: the name does not exist, or its resource failed the check.
    pub resource: Option<Arc<Resource>>,
    /// The failed checks, one for each source.
    pub problems: Vec<Problem>,
}

/// Compiles one unit, and checks what came out against the validation rules of Envoy's protos (load assignments are
/// valid by construction). A panic costs this unit, not the process: it is told as a problem of the unit.
pub fn compile(unit: &Unit, reader: &Reader<'_>, hosts: &mut HostCache) -> Outcome {
    let Ok(built) = catch_unwind(AssertUnwindSafe(|| build(unit, reader, hosts))) else {
        return Outcome { resource: None, problems: vec![problem(unit, None, FAULT)] };
    };
    match built {
        None => Outcome::default(),
        Some(Built::Checked(resource)) => Outcome { resource: Some(resource), problems: Vec::new() },
        Some(Built::Failed(faults)) => {
            let told = |(object, what): (Option<ObjectRef>, String)| problem(unit, object.as_ref(), &what);
            Outcome { resource: None, problems: faults.into_iter().map(told).collect() }
        }
        Some(Built::Unchecked(resource)) => match check(&resource) {
            None => Outcome { resource: Some(Arc::new(resource)), problems: Vec::new() },
            Some(what) => {
                let problems = resource.sources.iter().map(|s| problem(unit, Some(&s.object), &what)).collect();
                Outcome { resource: None, problems }
            }
        },
    }
}

/// A resource, and whether anything of it has yet to be checked.
enum Built {
    Unchecked(Resource),
    Checked(Arc<Resource>),
    /// What is wrong, and with whom; nobody: the compiler.
    Failed(Vec<(Option<ObjectRef>, String)>),
}

fn check(resource: &Resource) -> Option<String> {
    if resource.kind == ResourceType::Endpoints {
        return None;
    }
    refused(&validate(descriptor::message_name(resource.kind.url()), &resource.payload))
}

/// The broken rules in words; `None`: there is none.
fn refused(violations: &[Violation]) -> Option<String> {
    let rules: Vec<String> = violations.iter().take(VIOLATIONS_MAX).map(ToString::to_string).collect();
    (!rules.is_empty()).then(|| format!("Envoy would refuse it: {}", rules.join("; ")))
}

fn problem(unit: &Unit, object: Option<&ObjectRef>, what: &str) -> Problem {
    Problem {
        object: object.cloned(),
        key: String::new(),
        severity: Severity::Error,
        reason: "Invalid".into(),
        message: format!("{} {} {LEFT_OUT}: {what}", unit.kind.short(), unit.name),
        revision: Revision(0),
    }
}

fn build(unit: &Unit, reader: &Reader<'_>, hosts: &mut HostCache) -> Option<Built> {
    let name = unit.name.as_ref();
    if unit.by_host() {
        let table = resolve::table(name, &unit.scope, reader)?;
        return Some(hosts.compile(unit, &table, reader));
    }
    Some(Built::Unchecked(match resolve::plan(unit, reader)? {
        Plan::Listener(plan) => emit::edge_listener(&plan),
        Plan::CoreListener(plan) => emit::core_listener(&plan),
        Plan::RouteConfiguration(_) => return None,
        Plan::CoreRoutes => emit::core_route_configuration(),
        Plan::Group(plan) if unit.kind == ResourceType::Cluster => {
            emit::group_cluster(&plan, &reader.fleet().trust_domain)
        }
        Plan::Group(plan) => emit::group_endpoints(&plan),
        Plan::Service(plan) => emit::service_cluster(&plan),
        Plan::Endpoints(plan) => emit::service_endpoints(&plan),
        Plan::Secret(secret) => emit::secret(name, &secret.spec, &secret.source),
    }))
}

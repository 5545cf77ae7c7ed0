//! What is served of a unit that fails its check: the same unit, compiled from what was accepted last of its sources.
//! It alone: its neighbours are served as the objects stand, and what it names of them must be there.

use std::{collections::BTreeSet, sync::Arc};

use super::{LEFT_OUT, Outcome, Reader, Unit, compile, resolve};
use crate::{
    catalog::{Configuration, Read, Runtime},
    model::{ObjectRef, Problem, Scope},
    xds::{Resource, ResourceType},
};

/// What became of a unit.
#[derive(Debug, Default)]
pub struct Served {
    /// The resource that is served, and what is wrong with the sources.
    pub outcome: Outcome,
    /// All that was looked at.
    pub reads: BTreeSet<Read>,
    /// What a resource that is served as it was accepted last needs, and nobody may name else: groups and Secrets.
    pub brings: BTreeSet<(ResourceType, Arc<str>)>,
}

/// Compiles a unit; where it fails its check, once more, from the accepted copies of its sources. If that fails too, it
/// is left out.
///
/// Route configurations of virtual hosts are compiled host by host instead: see [`fell_back`].
pub fn serve(unit: &Unit, configuration: &Configuration, runtime: &Runtime) -> Served {
    let reader = Reader::new(configuration, runtime);
    let mut outcome = compile(unit, &reader);
    let mut served = Served { reads: reader.into_reads(), ..Served::default() };
    locate(&mut outcome.problems, configuration);
    if let Some((accepted, _)) = fell_back(&outcome.problems, configuration) {
        outcome = again(unit, configuration, &accepted, runtime, outcome, &mut served);
    }
    Served { outcome, ..served }
}

/// Notes where the objects of failed checks are stored.
pub fn locate(problems: &mut [Problem], configuration: &Configuration) {
    for problem in problems {
        let stored = problem.object.as_ref().and_then(|object| configuration.get(object));
        problem.key = stored.map(|stored| stored.key.clone()).unwrap_or_default();
    }
}

/// The configuration with the sources of what failed its check as they were accepted last, and what is read differently
/// there; `None` where that changes nothing. A compiler that failed names no sources: then it may have been any object.
pub fn fell_back(problems: &[Problem], configuration: &Configuration) -> Option<(Configuration, BTreeSet<Read>)> {
    if problems.iter().all(|problem| problem.object.is_some()) {
        configuration.as_accepted(problems.iter().filter_map(|problem| problem.object.as_ref()))
    } else {
        configuration.as_accepted(configuration.iter().map(|stored| &*stored.reference))
    }
}

/// What is wrong with something that passes as it was accepted last, in which it may not be `there`: who is served so
/// himself is not at fault.
pub fn guilty(mut problems: Vec<Problem>, there: bool, configuration: &Configuration) -> Vec<Problem> {
    let guilty = |object: &ObjectRef| configuration.get(object).is_none_or(|stored| !stored.as_accepted());
    problems.retain(|problem| problem.object.as_ref().is_none_or(guilty));
    for problem in problems.iter_mut().filter(|_| there) {
        problem.message = problem.message.replacen(LEFT_OUT, "is served as it was accepted last", 1);
    }
    problems
}

fn again(
    unit: &Unit,
    configuration: &Configuration,
    accepted: &Configuration,
    runtime: &Runtime,
    failed: Outcome,
    served: &mut Served,
) -> Outcome {
    let reader = Reader::new(accepted, runtime);
    let second = compile(unit, &reader);
    served.reads.append(&mut reader.into_reads());
    let reader = Reader::new(configuration, runtime);
    let resource = second.resource.filter(|resource| routed(unit, resource, &reader));
    served.reads.append(&mut reader.into_reads());
    let Some(resource) = resource else { return failed };
    if matches!(unit.scope, Scope::Gateways { .. }) {
        let needs = resource.requires.iter().chain(&resource.children);
        served.brings.extend(needs.filter(|(kind, _)| *kind != ResourceType::Route).cloned());
    }
    Outcome { resource: Some(resource), problems: guilty(failed.problems, true, configuration) }
}

/// Whether the route configurations that an edge listener names are there as the objects stand: a listener without them
/// would hold up the proxy.
fn routed(unit: &Unit, resource: &Resource, reader: &Reader<'_>) -> bool {
    let mut routes = resource.requires.iter().filter(|(kind, _)| *kind == ResourceType::Route);
    unit.kind != ResourceType::Listener
        || !matches!(unit.scope, Scope::Gateways { .. })
        || routes.all(|(kind, name)| {
            debug_assert_eq!(*kind, ResourceType::Route);
            resolve::domains(name, &unit.scope, reader).is_some()
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::testing::*;

    #[test]
    fn a_listener_is_served_as_accepted_only_with_route_configurations_that_are_there() {
        let world = World::of([gateway("a/g", vec![http(80, None)])]);
        let reader = Reader::new(world.catalog.configuration(), world.catalog.runtime());
        let scope = Scope::Gateways {
            bind: "0.0.0.0".into(),
            port: 80,
            gateways: Arc::new([("a".to_owned(), "g".to_owned())].into()),
            streamed: false,
        };
        let unit = Unit { kind: ResourceType::Listener, name: "gateway/80".into(), scope };
        let compiled = compile(&unit, &reader).resource.unwrap();
        assert!(routed(&unit, &compiled, &reader));
        let gone = Resource { requires: vec![(ResourceType::Route, "https/80/*".into())], ..compiled };
        assert!(!routed(&unit, &gone, &reader));
        assert!(routed(&Unit { kind: ResourceType::Route, ..unit }, &gone, &reader), "of listeners alone");
    }
}

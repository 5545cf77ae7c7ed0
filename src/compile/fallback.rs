//! What is served of a unit that fails its check: the same unit, compiled from what was accepted last of its sources.
//! It alone: its neighbours are served as the objects stand, and what it names of them must be there.

use std::collections::BTreeSet;

use super::{HostCache, LEFT_OUT, Outcome, Reader, Unit, compile, resolve};
use crate::{
    catalog::{Configuration, Read, Runtime},
    model::{ObjectRef, Scope},
    xds::{Resource, ResourceType},
};

/// What became of a unit.
#[derive(Debug, Default)]
pub struct Served {
    /// The resource that is served, and what is wrong with the sources.
    pub outcome: Outcome,
    /// All that was looked at, but for what is kept by host.
    pub reads: BTreeSet<Read>,
}

/// Compiles a unit; where it fails its check, once more, from the accepted copies of its sources. If that fails too, it
/// is left out.
pub fn serve(unit: &Unit, configuration: &Configuration, runtime: &Runtime, hosts: &mut HostCache) -> Served {
    let reader = Reader::new(configuration, runtime);
    let mut outcome = compile(unit, &reader, hosts);
    let mut served = Served { reads: reader.into_reads(), ..Served::default() };
    if !outcome.problems.is_empty() {
        for problem in &mut outcome.problems {
            let stored = problem.object.as_ref().and_then(|object| configuration.get(object));
            problem.key = stored.map(|stored| stored.key.clone()).unwrap_or_default();
        }
        if let Some(accepted) = as_accepted(configuration, &outcome) {
            outcome = again(unit, configuration, &accepted, runtime, outcome, &mut served);
        }
    }
    Served { outcome, ..served }
}

/// The configuration with the sources of a failed resource as they were accepted last. A compiler that failed names no
/// sources: then it may have been any object.
fn as_accepted(configuration: &Configuration, failed: &Outcome) -> Option<Configuration> {
    if failed.problems.iter().all(|problem| problem.object.is_some()) {
        configuration.as_accepted(failed.problems.iter().filter_map(|problem| problem.object.as_ref()))
    } else {
        configuration.as_accepted(configuration.iter().map(|stored| &*stored.reference))
    }
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
    let mut hosts = HostCache::default();
    let second = compile(unit, &reader, &mut hosts);
    served.reads.append(&mut reader.into_reads());
    served.reads.extend(hosts.take_reads().into_iter().filter_map(|(.., reads)| reads).flatten());
    let reader = Reader::new(configuration, runtime);
    let resource = second.resource.filter(|resource| routed(unit, resource, &reader));
    served.reads.append(&mut reader.into_reads());
    let Some(resource) = resource else { return failed };
    // Who is served as accepted is not at fault.
    let guilty = |object: &ObjectRef| configuration.get(object).is_none_or(|stored| !stored.as_accepted());
    let mut problems = failed.problems;
    problems.retain(|problem| problem.object.as_ref().is_none_or(guilty));
    for problem in &mut problems {
        problem.message = problem.message.replacen(LEFT_OUT, "is served as it was accepted last", 1);
    }
    Outcome { resource: Some(resource), problems }
}

/// Whether the route configurations that an edge listener names are there as the objects stand: a listener without them
/// would hold up the proxy.
fn routed(unit: &Unit, resource: &Resource, reader: &Reader<'_>) -> bool {
    let mut routes = resource.requires.iter().filter(|(kind, _)| *kind == ResourceType::Route);
    unit.kind != ResourceType::Listener
        || !matches!(unit.scope, Scope::Gateways { .. })
        || routes.all(|(_, name)| resolve::table(name, &unit.scope, reader).is_some())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

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
        };
        let unit = Unit { kind: ResourceType::Listener, name: "gateway/80".into(), scope };
        let compiled = compile(&unit, &reader, &mut HostCache::default()).resource.unwrap();
        assert!(routed(&unit, &compiled, &reader));
        let gone =
            Resource { requires: vec![(ResourceType::Route, "https/80/*".into())], ..Resource::clone(&compiled) };
        assert!(!routed(&unit, &gone, &reader));
        assert!(routed(&Unit { kind: ResourceType::Route, ..unit }, &gone, &reader), "of listeners alone");
    }
}

//! The property of host names: whatever stands on a port, a request is answered as a plain reading of Gateway API says.

use proptest::prelude::*;

use super::*;
use crate::{
    catalog::testing::edits::objects,
    compile::resolve::{attach, hostname::covers, port},
    model::*,
};

/// Names before wildcards, then the longer.
fn specificity(hostname: &str) -> (bool, usize) {
    (!hostname.starts_with('*'), hostname.len())
}

/// The most specific of the names that cover a host.
fn best<'a>(names: impl Iterator<Item = &'a str>, host: &str) -> Option<&'a str> {
    names.filter(|name| covers(name, host)).max_by_key(|name| specificity(name))
}

/// What Envoy picks: the virtual host with the most specific domain.
fn answer<'a>(plan: &'a RouteConfigurationPlan, host: &str) -> Option<&'a HostAnswer> {
    let domain = best(plan.hosts.iter().flat_map(|h| &h.domains).map(String::as_str), host)?;
    plan.hosts.iter().find(|h| h.domains.iter().any(|d| d == domain)).map(|h| &h.answer)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_host_is_answered_by_its_most_specific_listener_and_its_routes_by_specificity(
        objects in prop::collection::vec(objects(), 1..40)
    ) {
        let world = objects.into_iter().fold(World::new(), World::with);
        let reader = reader(&world);
        for unit in units_of_edges(&world) {
            let Scope::Gateways { port: number, gateways, .. } = &unit.scope else { continue };
            let Some(plan) = super::super::route_configuration(&unit.name, &unit.scope, &reader) else { continue };
            let port = port(gateways, *number, &reader);
            let name = unit.name.strip_prefix(super::super::STREAMED).unwrap_or(&unit.name);
            let own = name.strip_prefix(&format!("https/{number}/"));
            for host in ["a.x.test", "q.x.test", "z.a.x.test", "x.test", "y.test"] {
                let owner = best(port.serving.iter().map(|bound| bound.hostname()), host);
                let found = answer(&plan, host);
                let Some(owner) = owner else {
                    prop_assert_eq!(found, None, "{} belongs to no listener", host);
                    continue;
                };
                if own.is_some_and(|own| own != owner) {
                    prop_assert_eq!(found, Some(&HostAnswer::Misdirected), "{} is of {}", host, owner);
                    continue;
                }
                let Some(HostAnswer::Routes(found)) = found else {
                    return Err(TestCaseError::fail(format!("{host} of {owner} is not answered: {found:?}")));
                };
                let bound = port.serving.iter().find(|bound| bound.hostname() == owner).unwrap();
                let expected: std::collections::BTreeMap<ObjectRef, (bool, usize)> = attach::attached(bound, &reader)
                    .into_iter()
                    .filter_map(|a| Some(((*a.route.reference).clone(), specificity(best(a.hostnames.into_iter(), host)?))))
                    .collect();
                let sources: BTreeSet<&ObjectRef> = found.iter().map(|route| &route.source).collect();
                prop_assert_eq!(sources, expected.keys().collect::<BTreeSet<_>>(), "routes of {} on {}", host, owner);
                let tiers: Vec<_> = found.iter().map(|route| expected[&route.source]).collect();
                prop_assert!(tiers.is_sorted_by(|a, b| a >= b), "{host}: {tiers:?}");
            }
        }
    }
}

fn units_of_edges(world: &World) -> Vec<Unit> {
    let names = ["e1", "e2", "c1", "c2"].map(|site| names(&audience(site, Role::Edge, true), &reader(world)));
    names.into_iter().flatten().flatten().filter(|unit| unit.kind == crate::xds::ResourceType::Route).collect()
}

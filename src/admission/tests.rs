//! What is refused, what is only said, and whose fault it is.

use std::time::Duration;

use super::*;
use crate::{
    catalog::testing::*,
    model::{Filter, HeaderChange, PathMatch, RouteRule},
};

/// Objects that some are put over.
fn world() -> World {
    World::of([
        edge("e1"),
        core("c1"),
        service("a/s", &[80]),
        set("a/s", "c1"),
        gateway("a/g", vec![http(80, None)]),
        route("a/r", "a/g").rule(to("a/s", 80)),
    ])
}

fn judged(world: &World, objects: &[Object], deletions: &[ObjectRef]) -> Verdict {
    check(world.catalog.configuration(), world.catalog.runtime(), objects, deletions)
}

/// Envoy takes a cluster without time to connect for a mistake (`connect_timeout: {gt: {}}`).
fn hasty(name: &str) -> Object {
    service(name, &[80]).service(|spec| spec.connect_timeout = Duration::ZERO)
}

/// A header name that Envoy refuses (`well_known_regex: HTTP_HEADER_NAME`).
fn broken(name: &str) -> Object {
    let change = HeaderChange { set: vec![("two\nlines".into(), "x".into())], ..HeaderChange::default() };
    let filters = vec![Filter::RequestHeaders(change)];
    route(name, "a/g").rule(RouteRule { filters, ..to("a/s", 80) })
}

/// The objects at fault.
fn at_fault(verdict: &Verdict) -> Vec<String> {
    verdict.faults.iter().map(|(object, _)| format!("{}/{}", object.namespace, object.name)).collect()
}

#[test]
fn what_envoy_would_refuse_is_refused_with_its_rule_and_the_object() {
    for (bad, field) in [(hasty("a/t"), "connectTimeout"), (broken("a/q"), "key")] {
        let verdict = judged(&world(), std::slice::from_ref(&bad), &[]);
        let [(object, message)] = verdict.faults.as_slice() else { panic!("{bad:?}: {verdict:?}") };
        assert_eq!(*object, bad.reference());
        assert!(message.contains("Envoy would refuse it") && message.contains(field), "{message}");
    }
}

#[test]
fn a_fault_is_found_at_a_gateway_that_stands_at_no_site_yet() {
    let world = World::of([service("a/s", &[80])]);
    let objects = [gateway("a/g", vec![http(80, None)]), broken("a/q")];
    assert_eq!(at_fault(&judged(&world, &objects, &[])), ["a/q"]);
}

#[test]
fn a_reference_to_nothing_is_a_warning() {
    let world = World::new();
    let verdict = judged(&world, &[route("a/r", "a/g").rule(to("a/s", 80)), set("a/s", "c1")], &[]);
    assert_eq!(verdict.faults, []);
    assert!(verdict.warnings.iter().any(|warning| warning.contains("a/r")), "{:?}", verdict.warnings);
    let world = world.with(gateway("a/g", vec![http(80, None)])).with(edge("e1"));
    let verdict = judged(&world, &[route("a/r", "a/g").rule(to("a/s", 80))], &[]);
    assert_eq!(verdict.faults, []);
    assert!(verdict.warnings.iter().any(|warning| warning.contains("a/s")), "{:?}", verdict.warnings);
}

#[test]
fn good_objects_pass_without_a_word() {
    let object = route("a/q", "a/g").hosts(&["q.test"]).rule(rule("q", PathMatch::Exact("/q".into())));
    let object = object.route(|spec| spec.rules[0].backends = vec![backend("a/s", 80)]);
    assert_eq!(judged(&world(), &[object], &[]), Verdict::default());
}

#[test]
fn a_change_that_does_not_touch_the_faulty_object_passes() {
    let world = world().with(hasty("a/t")).with(broken("a/q"));
    assert_eq!(judged(&world, &[service("a/u", &[80])], &[]).faults, []);
    let other = route("a/p", "a/g").hosts(&["p.test"]).rule(to("a/s", 80));
    assert_eq!(judged(&world, std::slice::from_ref(&other), &[]).faults, []);
    assert_eq!(judged(&world, &[], &[other.reference()]).faults, []);
}

#[test]
fn a_faulty_object_is_refused_beside_another_faulty_one_and_alone_of_a_change() {
    let stored = world().with(broken("a/q"));
    assert_eq!(at_fault(&judged(&stored, &[broken("a/p")], &[])), ["a/p"]);
    assert_eq!(at_fault(&judged(&stored, &[broken("a/q")], &[])), ["a/q"]);
    let good = route("a/p", "a/g").hosts(&["p.test"]).rule(to("a/s", 80));
    assert_eq!(at_fault(&judged(&world(), &[good.clone(), broken("a/q")], &[])), ["a/q"]);
    let mended = route("a/q", "a/g").rule(to("a/s", 80));
    assert_eq!(judged(&stored, &[good, mended], &[]).faults, []);
}

#[test]
fn many_virtual_hosts_are_better_served_one_by_one() {
    let names: Vec<String> = (0..=MANY_HOSTS).map(|number| format!("h{number}.test")).collect();
    let hosts: Vec<&str> = names.iter().map(String::as_str).collect();
    let many = route("a/q", "a/g").hosts(&hosts).rule(to("a/s", 80));
    let said = judged(&world(), std::slice::from_ref(&many), &[]).warnings;
    assert!(matches!(said.as_slice(), [one] if one.contains("ManyVirtualHosts")), "{said:?}");
    let streamed = gateway("a/g", vec![http(80, None)]).gateway(|spec| spec.virtual_hosts = VirtualHosts::Streamed);
    assert_eq!(judged(&world().with(many), &[streamed], &[]).warnings, [] as [&str; 0]);
}

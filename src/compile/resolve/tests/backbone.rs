//! Claims about core sites, groups and endpoints.

use super::*;
use crate::{
    catalog::testing::*,
    compile::{plan::GroupPlan, resolve},
    model::*,
};

fn at(latitude: f64, longitude: f64) -> impl FnOnce(&mut SiteSpec) {
    move |site| site.coordinates = Some(Coordinates { latitude, longitude })
}

/// An edge, these cores, and a route to shop/web with EndpointSets at `sets`.
fn world(cores: &[&str], sets: &[&str]) -> World {
    let mut world = World::of([
        edge("fra").site(at(50.1, 8.7)),
        gateway("infra/gw", vec![http(80, None)]),
        service("shop/web", &[80]),
        route("shop/web", "infra/gw").rule(to("shop/web", 80)),
    ]);
    cores.iter().for_each(|name| drop(world.put(core(name))));
    sets.iter().for_each(|name| drop(world.put(set("shop/web", name))));
    world
}

fn groups(world: &World) -> Vec<String> {
    named(world, "fra", Role::Edge).iter().filter_map(|name| name.strip_prefix("CDS ").map(str::to_owned)).collect()
}

fn distances(plan: &GroupPlan) -> Vec<(&str, Option<u32>)> {
    plan.sites.iter().map(|site| (site.source.name.as_str(), site.km)).collect()
}

#[test]
fn a_group_is_the_core_sites_with_an_endpoint_set() {
    assert_eq!(groups(&world(&["b", "a", "c"], &["b", "a"])), ["backbone/-/a+b"]);
    assert_eq!(groups(&world(&["a"], &[])), ["backbone/-/-"]);
    assert_eq!(groups(&world(&["a"], &["a", "unknown", "fra"])), ["backbone/-/a"]);
    let deleting = core("b").site(|site| site.state = SiteState::Deleting);
    assert_eq!(groups(&world(&["a"], &["a", "b"]).with(deleting)), ["backbone/-/a"]);
}

#[test]
fn groups_come_from_back_ends_and_mirrors_that_are_valid_and_used() {
    let mirror = |name| Filter::Mirror(MirrorFilter { backend: backend(name, 80) });
    let mut mirrored = to("shop/web", 80);
    mirrored.filters = vec![mirror("shop/shadow"), mirror("shop/missing")];
    let world = world(&["a", "b", "c"], &["a"])
        .with(service("shop/shadow", &[80]))
        .with(set("shop/shadow", "b"))
        .with(service("shop/unused", &[80]))
        .with(set("shop/unused", "c"))
        .with(route("shop/web", "infra/gw").rule(mirrored).rule(to("shop/web", 81)));
    assert_eq!(groups(&world), ["backbone/-/a", "backbone/-/b"]);
    let plan = routes(&world, "http/80", &["infra/gw"]);
    let HostAnswer::Routes(routes) = &plan.hosts[0].answer else { panic!("misdirected") };
    assert_eq!(routes[0].mirrors.len(), 1);
    assert_eq!(routes[0].mirrors[0].service, "shop/shadow:80");
    assert_eq!(routes[0].filters, []);
    assert_eq!(routes[1].backends[0].target, None);
}

#[test]
fn the_nearest_core_comes_first_and_those_of_unknown_distance_last() {
    let world = world(&["y", "x"], &[])
        .with(core("ams").site(at(52.4, 4.9)))
        .with(core("nyc").site(at(40.7, -74.0)))
        .with(core("zrh").site(at(52.4, 4.9)));
    let plan = resolve::group("backbone/-/ams+gone+nyc+x+y+zrh", "fra", &reader(&world));
    let expected = [("ams", Some(368)), ("zrh", Some(368)), ("nyc", Some(6198)), ("x", None), ("y", None)];
    let found = distances(&plan);
    assert_eq!(found.iter().map(|(name, _)| *name).collect::<Vec<_>>(), expected.map(|(name, _)| name));
    for ((name, km), (_, about)) in found.iter().zip(expected) {
        assert!(km.unwrap_or(0).abs_diff(about.unwrap_or(0)) <= 10, "{name}: {km:?}");
    }
    let unplaced = resolve::group("backbone/-/ams+nyc", "unknown", &reader(&world));
    assert_eq!(distances(&unplaced), [("ams", None), ("nyc", None)]);
    assert_eq!(resolve::group("backbone/-/-", "fra", &reader(&world)).sites, []);
}

#[test]
fn a_site_may_be_called_whatever_a_name_may_be() {
    for name in ["none", "hash-0123456789abcdef", "backbone"] {
        let world = world(&[name], &[name]).with(service("shop/unplaced", &[80]));
        let world = world.with(route("shop/unplaced", "infra/gw").rule(to("shop/unplaced", 80)));
        let groups = groups(&world);
        let cores: Vec<_> =
            groups.iter().map(|group| resolve::group(group, "fra", &reader(&world)).sites.len()).collect();
        assert_eq!(cores, [0, 1], "{groups:?}");
    }
}

#[test]
fn a_group_of_many_sites_is_named_by_hash_and_found_again() {
    let sites: Vec<String> = (0..30).map(|n| format!("long-site-{n:02}")).collect();
    let names: Vec<&str> = sites.iter().map(String::as_str).collect();
    let world = world(&names, &names);
    let group = groups(&world).remove(0);
    assert!(group.starts_with("backbone/-/hash-") && group.len() < 40, "{group}");
    let plan = resolve::group(&group, "fra", &reader(&world));
    assert_eq!(plan.sites.len(), 30);
    let fewer = groups(&super::backbone::world(&names, &names[1..])).remove(0);
    assert_ne!(group, fewer);
}

#[test]
fn a_core_has_its_listener_and_a_cluster_per_port_of_its_services() {
    let world = World::of([
        core("ams"),
        core("bare").site(|site| site.gateways.clear()),
        service("shop/web", &[80, 81]),
        service("shop/else", &[80]),
        set("shop/web", "ams"),
        set("shop/web", "bare"),
        set("shop/unknown", "ams"),
    ]);
    let services = ["CDS shop/web:80", "CDS shop/web:81", "EDS shop/web:80", "EDS shop/web:81"];
    assert_eq!(named(&world, "bare", Role::Core), services);
    let all = [&services[..], &["LDS backbone", "RDS backbone"]].concat();
    assert_eq!(named(&world, "ams", Role::Core), all);
    let plan = resolve::core_listener("ams", &reader(&world)).unwrap();
    assert_eq!((plan.port, plan.trust_domain.as_str()), (10443, "tidegate.local"));
    assert!(resolve::core_listener("bare", &reader(&world)).is_none());
}

#[test]
fn endpoints_are_static_and_live_ones_of_the_site_each_address_once() {
    let mut world = World::of([
        core("ams"),
        core("fra"),
        service("shop/web", &[80]),
        set("shop/web", "ams").endpoints(&["10.0.0.2:80", "10.0.0.1:80"]),
        set("shop/web", "fra").endpoints(&["10.0.9.9:80"]),
    ]);
    world.live("ams", "shop/web", "a", Some("10.0.0.3:80"));
    world.live("ams", "shop/web", "b", Some("10.0.0.1:80"));
    let plan = resolve::endpoints("shop/web:80", "ams", &reader(&world)).unwrap();
    let addresses: Vec<String> = plan.endpoints.iter().map(|(address, _)| address.to_string()).collect();
    assert_eq!(addresses, ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"]);
    assert_eq!((plan.region.as_str(), plan.site.as_str()), ("region-ams", "ams"));
    assert_eq!(plan.sources, [ObjectRef::new(Kind::EndpointSet, "shop", "web-ams")]);
}

#[test]
fn live_endpoints_count_only_beside_an_endpoint_set() {
    let mut world = World::of([core("ams"), service("shop/web", &[80])]);
    world.live("ams", "shop/web", "a", Some("10.0.0.3:80"));
    assert_eq!(resolve::endpoints("shop/web:80", "ams", &reader(&world)), None);
    world.put(set("shop/web", "ams"));
    assert_eq!(resolve::endpoints("shop/web:80", "ams", &reader(&world)).unwrap().endpoints.len(), 1);
    assert_eq!(resolve::endpoints("shop/web:81", "ams", &reader(&world)), None);
}

#[test]
fn a_port_of_several_has_its_own_number_at_each_endpoint() {
    let mut endpoints = set("shop/web", "ams").endpoints(&["10.0.0.1:8080", "10.0.0.2:8080"]);
    if let Spec::EndpointSet(spec) = &mut endpoints.spec {
        spec.endpoints[0].ports.insert("p81".into(), 9090);
        spec.endpoints[1].weight = 0;
    }
    let world = World::of([core("ams"), service("shop/web", &[80, 81]), endpoints]);
    let found = |name| {
        let plan = resolve::endpoints(name, "ams", &reader(&world)).unwrap();
        plan.endpoints.iter().map(|(address, weight)| format!("{address} {weight}")).collect::<Vec<_>>()
    };
    assert_eq!(found("shop/web:80"), ["10.0.0.1:8080 1", "10.0.0.2:8080 1"]);
    assert_eq!(found("shop/web:81"), ["10.0.0.1:9090 1", "10.0.0.2:8080 1"]);
}

#[test]
fn a_route_says_which_core_must_have_taken_what_before_requests_may_come() {
    // Five objects of the world, two cores, then the sets: at ams as 7, at fra2 as 8.
    let mut world = world(&["ams", "fra2"], &["ams", "fra2"]);
    let compiled = |world: &World| {
        let unit =
            Unit { kind: crate::xds::ResourceType::Route, name: "http/80".into(), scope: scope(80, &["infra/gw"]) };
        let compiled = crate::compile::compile(&unit, &reader(world));
        compiled.resource.expect("a route configuration")
    };
    let needs = |resource: &crate::xds::Resource| {
        let site = |at: &crate::xds::NeedAt| format!("{}@{}", at.site, at.revision);
        let need = |need: &crate::xds::ServiceNeed| {
            let sites: Vec<String> = need.sites.iter().map(site).collect();
            format!("{} in {}: {}", need.service, need.group, sites.join(" "))
        };
        resource.services.iter().map(need).collect::<Vec<_>>()
    };
    let before = compiled(&world);
    assert_eq!(needs(&before), ["shop/web:80 in backbone/-/ams+fra2: ams@7 fra2@8"]);
    // A later write of the service may have brought the port; one of the set brings nothing.
    world.put(set("shop/web", "ams"));
    world.put(service("shop/web", &[80]));
    let after = compiled(&world);
    assert_eq!(needs(&after), ["shop/web:80 in backbone/-/ams+fra2: ams@10 fra2@10"]);
    assert_eq!(before, after, "no edge is told anything because of it");
    assert_eq!(needs(&compiled(&world.with(set("shop/web", "gone")))).len(), 1);
    assert_eq!(needs(&compiled(&self::world(&["ams"], &[]))), ["shop/web:80 in backbone/-/-: "]);
}

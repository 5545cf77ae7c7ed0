//! Claims about gRPC clients at core sites.

use super::*;
use crate::{
    catalog::testing::*,
    compile::{
        compile,
        plan::{ClientEndpointsPlan, EndpointsPlan},
        resolve,
    },
    model::*,
};

/// A service whose ports of these numbers speak HTTP/2, and all others HTTP/1.
fn speaking(name: &str, ports: &[u16], h2c: &[u16]) -> Object {
    service(name, ports).h2c(h2c)
}

fn at(name: &str, address: &str) -> Object {
    set("shop/cart", name).endpoints(&[address])
}

fn world() -> World {
    let core = |name, region: &str| core(name).site(|site| site.region = region.into());
    World::of([core("here", "eu"), core("near", "eu"), core("far", "us"), edge("pop")]).with(speaking(
        "shop/cart",
        &[50051],
        &[50051],
    ))
}

fn has(world: &World, site: &str) -> Vec<String> {
    named(world, site, Role::Grpc)
}

fn place(place: &EndpointsPlan) -> (&str, Vec<String>) {
    (&place.site, place.endpoints.iter().map(|(address, _)| address.to_string()).collect())
}

/// The sites of each priority, with their endpoints.
fn places(plan: &ClientEndpointsPlan) -> Vec<Vec<(&str, Vec<String>)>> {
    plan.priorities.iter().map(|places| places.iter().map(place).collect()).collect()
}

#[test]
fn a_client_has_the_services_of_its_region_that_speak_http_2_and_nothing_else() {
    let world = world()
        .with(at("near", "10.0.0.1:9000"))
        .with(speaking("shop/two", &[1, 2, 3], &[1, 2]))
        .with(set("shop/two", "here"))
        .with(service("shop/web", &[80]))
        .with(set("shop/web", "here"))
        .with(speaking("shop/away", &[50051], &[50051]))
        .with(set("shop/away", "far"));
    let wanted = [
        "CDS shop/cart:50051",
        "CDS shop/two:1",
        "CDS shop/two:2",
        "EDS shop/cart:50051",
        "EDS shop/two:1",
        "EDS shop/two:2",
        "LDS cart.shop",
        "LDS cart.shop:50051",
        "LDS two.shop:1",
        "LDS two.shop:2",
        "RDS cart.shop:50051",
        "RDS two.shop:1",
        "RDS two.shop:2",
    ];
    assert_eq!(has(&world, "here"), wanted);
    let gateway = named(&world, "here", Role::Core);
    assert!(gateway.contains(&"CDS shop/web:80".to_owned()) && gateway.contains(&"LDS backbone".to_owned()));
    assert!(!gateway.iter().any(|name| name.contains("cart")), "{gateway:?}");
    assert_eq!(names(&audience("pop", Role::Grpc, true), &reader(&world)), None, "there are none at edges");
    // Everything that is named compiles: a tree is whole, or not there.
    for unit in units(&world, &audience("here", Role::Grpc, true)) {
        let outcome = compile(&unit, &reader(&world));
        assert!(outcome.resource.is_some_and(|r| r.name == unit.name) && outcome.problems.is_empty(), "{unit:?}");
    }
}

#[test]
fn a_name_leads_to_one_port_or_nowhere() {
    let world = world().with(speaking("shop/two", &[1, 2, 3], &[1, 2])).with(speaking("shop/a.b", &[7, 8], &[8]));
    let leads = |name: &str| resolve::api_route(name, &reader(&world)).map(|plan| plan.cluster);
    assert_eq!(leads("cart.shop").as_deref(), Some("shop/cart:50051"));
    assert_eq!(leads("cart.shop:50051").as_deref(), Some("shop/cart:50051"));
    assert_eq!(leads("a.b.shop").as_deref(), Some("shop/a.b:8"), "a namespace is one label");
    for name in ["two.shop", "two.shop:3", "cart.shop:1", "cart.shop:x", "cart", "", ":", ".shop", "shop.cart"] {
        assert_eq!(leads(name), None, "{name}");
    }
    let listener = resolve::api_listener("cart.shop", &reader(&world)).unwrap();
    assert_eq!(listener.route_configuration, "cart.shop:50051");
}

#[test]
fn endpoints_are_those_of_the_own_site_then_those_of_the_region_each_address_once() {
    let from = |world: &World| resolve::client_endpoints("shop/cart:50051", "here", &reader(world));
    let world = world();
    assert_eq!(from(&world), None);
    let world = world.with(at("far", "10.0.0.3:9000"));
    assert_eq!(from(&world), None, "another region");
    let world = world.with(at("near", "10.0.0.2:9000"));
    assert_eq!(places(&from(&world).unwrap()), [[("near", vec!["10.0.0.2:9000".to_owned()])]]);
    let mut world = world.with(at("here", "10.0.0.1:9000"));
    world.live("near", "shop/cart", "a", Some("10.0.0.1:9000"));
    world.live("near", "shop/cart", "b", Some("10.0.0.4:9000"));
    let own = vec![("here", vec!["10.0.0.1:9000".to_owned()])];
    let near = vec![("near", vec!["10.0.0.2:9000".to_owned(), "10.0.0.4:9000".to_owned()])];
    assert_eq!(places(&from(&world).unwrap()), [own, near.clone()]);
    // Nothing left at the own site: the others come first, without a gap.
    world.put(set("shop/cart", "here").endpoints(&[]));
    world.live("near", "shop/cart", "a", None);
    assert_eq!(places(&from(&world).unwrap()), [near]);
}

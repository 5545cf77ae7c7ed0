//! Claims about references across kinds and namespaces.

use super::*;
use crate::{
    catalog::testing::*,
    compile::{plan::ServiceTarget, resolve::references},
    model::*,
};

fn resolve(world: &World, backend: &BackendRef) -> Result<ServiceTarget, &'static str> {
    let route = ObjectRef::new(Kind::HttpRoute, "shop", "web");
    references::backend(&route, backend, &reader(world)).map_err(|bad| bad.reason)
}

#[test]
fn a_valid_back_end_says_what_an_edge_needs_to_know() {
    let world = World::of([
        core("ams"),
        service("shop/web", &[80]).service(|spec| spec.traffic_class = TrafficClass::Api),
        set("shop/web", "ams"),
    ]);
    let target = resolve(&world, &backend("shop/web", 80)).unwrap();
    assert_eq!(target.service, "shop/web:80");
    assert_eq!(target.group, "backbone/-/ams");
    assert_eq!(target.traffic_class, TrafficClass::Api);
    assert_eq!(target.source, ObjectRef::new(Kind::Service, "shop", "web"));
}

#[test]
fn an_invalid_back_end_has_gateway_apis_reason() {
    let world = World::of([
        service("shop/web", &[80]),
        service("shop/h2c", &[80]).service(|spec| spec.ports[0].app_protocol = AppProtocol::H2c),
        service("other/web", &[80]),
    ]);
    for (backend, reason) in [
        (backend("shop/missing", 80), "BackendNotFound"),
        (backend("shop/web", 81), "BackendNotFound"),
        (BackendRef { port: None, ..backend("shop/web", 80) }, "BackendNotFound"),
        (BackendRef { foreign_kind: Some("x/Widget".into()), ..backend("shop/web", 80) }, "InvalidKind"),
        (backend("other/web", 80), "RefNotPermitted"),
        (backend("other/missing", 80), "RefNotPermitted"),
        (backend("shop/h2c", 80), "UnsupportedProtocol"),
    ] {
        assert_eq!(resolve(&world, &backend), Err(reason), "{backend:?}");
    }
}

#[test]
fn a_grant_permits_exactly_what_it_names() {
    let world = || World::of([service("other/web", &[80])]);
    for (grant, permitted) in [
        (grant("other", (Kind::HttpRoute, "shop"), "Service", None), true),
        (grant("other", (Kind::HttpRoute, "shop"), "Service", Some("web")), true),
        (grant("other", (Kind::HttpRoute, "shop"), "Service", Some("api")), false),
        (grant("other", (Kind::HttpRoute, "else"), "Service", None), false),
        (grant("other", (Kind::Gateway, "shop"), "Service", None), false),
        (grant("other", (Kind::HttpRoute, "shop"), "Secret", None), false),
        (grant("shop", (Kind::HttpRoute, "shop"), "Service", None), false),
    ] {
        let found = resolve(&world().with(grant.clone()), &backend("other/web", 80));
        assert_eq!(found.is_ok(), permitted, "{grant:?}");
    }
}

#[test]
fn a_bad_share_stays_in_its_place_with_its_weight() {
    let mut shares = to("shop/web", 80);
    shares.backends = vec![
        BackendRef { weight: 3, ..backend("shop/web", 80) },
        BackendRef { weight: 7, ..backend("shop/missing", 80) },
        BackendRef { weight: 0, ..backend("shop/web", 80) },
    ];
    let set = HeaderChange { set: vec![("a".into(), "1".into())], ..HeaderChange::default() };
    shares.backends[0].filters = vec![Filter::ResponseHeaders(set.clone())];
    let world = World::of([
        service("shop/web", &[80]),
        gateway("infra/gw", vec![http(80, None)]),
        route("shop/web", "infra/gw").rule(shares),
    ]);
    let plan = routes(&world, "http/80", &["infra/gw"]);
    let HostAnswer::Routes(routes) = &plan.hosts[0].answer else { panic!("misdirected") };
    let shares: Vec<_> = routes[0].backends.iter().map(|b| (b.weight, b.target.is_some())).collect();
    assert_eq!(shares, [(3, true), (7, false), (0, true)]);
    assert_eq!(routes[0].backends[0].response_headers, [set]);
    assert_eq!(routes[0].backends[0].request_headers, []);
}

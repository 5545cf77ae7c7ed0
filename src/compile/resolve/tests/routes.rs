//! Claims about attachment, host names and precedence.

use super::*;
use crate::{catalog::testing::*, model::*, store::KeyValue};

fn prefix(path: &str) -> PathMatch {
    PathMatch::Prefix(path.into())
}

fn exact(path: &str) -> PathMatch {
    PathMatch::Exact(path.into())
}

fn regex(path: &str) -> PathMatch {
    PathMatch::Regex(path.into())
}

fn with(mut rule: RouteRule, change: impl FnOnce(&mut RouteMatch)) -> RouteRule {
    change(&mut rule.matches[0]);
    rule
}

fn header(name: &str) -> HeaderMatch {
    HeaderMatch { name: name.into(), value: StringMatch::Exact("1".into()) }
}

#[test]
fn a_route_without_hosts_takes_its_listeners() {
    let world = World::of([
        gateway("infra/gw", vec![http(80, Some("*.example"))]),
        route("shop/web", "infra/gw").rule(rule("a", prefix("/"))),
    ]);
    assert_eq!(spelled(&routes(&world, "http/80", &["infra/gw"])), ["*.example: a"]);
}

#[test]
fn a_listener_without_routes_answers_nothing() {
    let world = World::of([gateway("infra/gw", vec![http(80, None)])]);
    assert_eq!(spelled(&routes(&world, "http/80", &["infra/gw"])), ["*: "]);
}

#[test]
fn hosts_of_route_and_listener_are_intersected() {
    let world = World::of([
        gateway("infra/gw", vec![http(80, Some("*.example"))]),
        route("shop/web", "infra/gw")
            .hosts(&["shop.example", "*.deep.example", "example", "other.test"])
            .rule(rule("a", prefix("/"))),
        route("shop/wide", "infra/gw").hosts(&["*"]).rule(rule("b", prefix("/"))),
    ]);
    let plan = routes(&world, "http/80", &["infra/gw"]);
    assert_eq!(spelled(&plan), ["*.deep.example: a b", "*.example: b", "shop.example: a b"]);
}

#[test]
fn matches_go_by_exact_then_regex_then_longest_prefix_then_method_headers_query() {
    let world = World::of([
        gateway("infra/gw", vec![http(80, None)]),
        route("shop/web", "infra/gw")
            .rule(rule("regex", regex("/a.*")))
            .rule(rule("short", prefix("/")))
            .rule(rule("long", prefix("/abc")))
            .rule(rule("exact", exact("/abc")))
            .rule(with(rule("query", prefix("/abc")), |m| m.query_params.push(header("q"))))
            .rule(with(rule("header", prefix("/abc")), |m| m.headers.push(header("h"))))
            .rule(with(rule("headers", prefix("/abc")), |m| m.headers = vec![header("h"), header("i")]))
            .rule(with(rule("method", prefix("/abc")), |m| m.method = Some("GET".into()))),
    ]);
    let plan = routes(&world, "http/80", &["infra/gw"]);
    assert_eq!(spelled(&plan), ["*: exact regex method headers header query long short"]);
}

#[test]
fn ties_go_to_the_older_route_however_lately_it_was_written_then_by_rule() {
    let old = || route("z/old", "infra/gw").rule(rule("z1", prefix("/"))).rule(rule("z2", prefix("/")));
    let new = route("a/new", "infra/gw").rule(rule("a1", prefix("/")));
    let world = World::of([gateway("infra/gw", vec![http(80, None)]), old(), new, old().label("written", "again")]);
    assert_eq!(spelled(&routes(&world, "http/80", &["infra/gw"])), ["*: z1 z2 a1"]);
}

#[test]
fn ties_of_one_age_go_by_namespace_and_name() {
    let world = World::of([gateway("infra/gw", vec![http(80, None)])]);
    let mut listing = world.listing();
    for name in ["b/a", "a/b", "a/a"] {
        let object = route(name, "infra/gw").rule(rule(name, prefix("/")));
        let key = Keyspace::default().format(&StoreKey::Object(object.reference()));
        let (create_revision, mod_revision) = (Revision(9), Revision(9));
        listing.entries.push(KeyValue { key, value: value(object), create_revision, mod_revision });
    }
    let mut world = world;
    world.catalog.reset(&listing);
    assert_eq!(spelled(&routes(&world, "http/80", &["infra/gw"])), ["*: a/a a/b b/a"]);
}

#[test]
fn each_match_of_a_rule_is_a_route_in_its_own_place() {
    let mut twice = rule("twice", exact("/a"));
    twice.matches.push(twice.matches[0].clone());
    twice.matches[1].path = prefix("/");
    let world = World::of([
        gateway("infra/gw", vec![http(80, None)]),
        route("shop/web", "infra/gw").rule(twice).rule(rule("long", prefix("/long"))),
    ]);
    assert_eq!(spelled(&routes(&world, "http/80", &["infra/gw"])), ["*: twice long twice"]);
}

#[test]
fn a_host_falls_through_to_less_specific_hosts_behind_its_own() {
    let world = World::of([
        gateway("infra/gw", vec![http(80, None)]),
        route("shop/all", "infra/gw").rule(rule("all", exact("/x"))),
        route("shop/wild", "infra/gw").hosts(&["*.example"]).rule(rule("wild", exact("/x"))),
        route("shop/own", "infra/gw").hosts(&["a.example", "*.example"]).rule(rule("own", prefix("/"))),
    ]);
    assert_eq!(
        spelled(&routes(&world, "http/80", &["infra/gw"])),
        ["*: all", "*.example: wild own all", "a.example: own wild all"]
    );
}

#[test]
fn a_request_belongs_to_the_most_specific_listener_only() {
    let section = |name: &'static str| move |parent: &mut ParentRef| parent.section_name = Some(name.into());
    let world = World::of([
        gateway("infra/gw", vec![http(80, None), http(80, Some("*.example")), http(80, Some("a.example"))]),
        // Its name and wildcard lie within *.example, to which it does not attach.
        route("shop/all", "infra/gw")
            .parent(section("80-all"))
            .hosts(&["b.example", "*.c.example", "other.test"])
            .rule(rule("all", prefix("/"))),
        route("shop/wild", "infra/gw").parent(section("80-example")).rule(rule("wild", prefix("/"))),
    ]);
    assert_eq!(
        spelled(&routes(&world, "http/80", &["infra/gw"])),
        ["*: ", "*.example: wild", "a.example: ", "other.test: all"]
    );
}

#[test]
fn in_a_tls_chain_the_hosts_of_other_listeners_are_misdirected() {
    let world = World::of([
        certificate("infra/c"),
        gateway("infra/gw", vec![https(443, Some("a.example"), "infra/c"), https(443, Some("*.example"), "infra/c")]),
        route("shop/web", "infra/gw").hosts(&["a.example", "b.example"]).rule(rule("web", prefix("/"))),
    ]);
    assert_eq!(
        spelled(&routes(&world, "https/443/*.example", &["infra/gw"])),
        ["*.example: ", "a.example: 421", "b.example: web"]
    );
    assert_eq!(spelled(&routes(&world, "https/443/a.example", &["infra/gw"])), ["*.example: 421", "a.example: web"]);
    assert!(super::super::route_configuration("https/443/*", &scope(443, &["infra/gw"]), &reader(&world)).is_none());
}

#[test]
fn a_parent_ref_may_name_a_section_or_a_port() {
    let listeners = || vec![http(80, None), http(8080, None)];
    for (change, expected) in [
        (ParentRef { namespace: "infra".into(), name: "gw".into(), section_name: None, port: Some(8080) }, "8080"),
        (
            ParentRef { namespace: "infra".into(), name: "gw".into(), section_name: Some("80-all".into()), port: None },
            "80",
        ),
    ] {
        let world = World::of([
            gateway("infra/gw", listeners()),
            route("shop/web", "infra/gw").parent(|parent| *parent = change.clone()).rule(rule("a", prefix("/"))),
        ]);
        for port in ["80", "8080"] {
            let answer = if port == expected { "*: a" } else { "*: " };
            assert_eq!(spelled(&routes(&world, &format!("http/{port}"), &["infra/gw"])), [answer], "{port}");
        }
    }
}

#[test]
fn listeners_decide_whose_routes_attach() {
    let listener = |allowed_namespaces| Listener { allowed_namespaces, ..http(80, None) };
    let team =
        LabelSelector { match_labels: [("team".to_owned(), "shop".to_owned())].into(), match_expressions: Vec::new() };
    let by_name = LabelSelector {
        match_labels: [("kubernetes.io/metadata.name".to_owned(), "bare".to_owned())].into(),
        match_expressions: Vec::new(),
    };
    for (allowed, expected) in [
        (AllowedNamespaces::All, "*: infra shop bare"),
        (AllowedNamespaces::Same, "*: infra"),
        (AllowedNamespaces::Selector(team), "*: shop"),
        (AllowedNamespaces::Selector(by_name), "*: bare"),
        (AllowedNamespaces::Selector(LabelSelector::default()), "*: infra shop bare"),
    ] {
        let mut world =
            World::of([namespace("shop").label("team", "shop"), gateway("infra/gw", vec![listener(allowed)])]);
        for name in ["infra", "shop", "bare"] {
            world.put(route(&format!("{name}/web"), "infra/gw").rule(rule(name, prefix("/"))));
        }
        assert_eq!(spelled(&routes(&world, "http/80", &["infra/gw"])), [expected]);
    }
    let none = Listener { allowed_kinds: AllowedKinds::None, ..http(80, None) };
    let world =
        World::of([gateway("infra/gw", vec![none]), route("infra/web", "infra/gw").rule(rule("a", prefix("/")))]);
    assert_eq!(spelled(&routes(&world, "http/80", &["infra/gw"])), ["*: "]);
}

#[test]
fn gateways_of_one_port_share_its_route_configuration() {
    let world = World::of([
        gateway("a/gw", vec![http(80, Some("a.example"))]),
        gateway("b/gw", vec![http(80, Some("b.example"))]),
        route("a/web", "a/gw").rule(rule("a", prefix("/"))),
        route("b/web", "b/gw").rule(rule("b", prefix("/"))),
    ]);
    assert_eq!(spelled(&routes(&world, "http/80", &["a/gw", "b/gw"])), ["a.example: a", "b.example: b"]);
}

#[test]
fn a_contribution_follows_the_rule_and_nothing_else() {
    let world = |old: bool, path| {
        let mut world = World::of([gateway("infra/gw", vec![http(80, None)])]);
        if old {
            world.put(service("shop/unrelated", &[80]));
        }
        world.with(route("shop/web", "infra/gw").rule(rule("a", prefix(path))))
    };
    let contribution = |world: &World| match &routes(world, "http/80", &["infra/gw"]).hosts[0].answer {
        HostAnswer::Routes(routes) => routes[0].contribution,
        HostAnswer::Misdirected => panic!("misdirected"),
    };
    assert_eq!(contribution(&world(false, "/")), contribution(&world(true, "/")));
    assert_ne!(contribution(&world(false, "/")), contribution(&world(false, "/b")));
}

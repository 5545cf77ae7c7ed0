//! Claims about Gateways, sites, ports, certificates and conflicts.

use super::*;
use crate::{
    catalog::testing::*,
    compile::plan::{ChainPlan, ListenerPlan, ListenerShape},
    model::*,
};

fn listener(world: &World, port: u16, gateways: &[&str]) -> Option<ListenerPlan> {
    super::super::listener(&scope(port, gateways), &reader(world))
}

fn chains(world: &World, gateways: &[&str]) -> Vec<ChainPlan> {
    match listener(world, 443, gateways).map(|plan| plan.shape) {
        Some(ListenerShape::Https { chains }) => chains,
        _ => Vec::new(),
    }
}

#[test]
fn a_gateway_stands_where_its_selector_matches() {
    let selector = LabelSelector { match_labels: [("tier".to_owned(), "a".to_owned())].into(), ..Default::default() };
    let world = World::of([
        edge("near").label("tier", "a"),
        edge("far"),
        gateway("infra/some", vec![http(80, None)]).gateway(|spec| spec.sites = Some(selector)),
        gateway("infra/all", vec![http(81, None)]),
        gateway("infra/foreign", vec![http(82, None)]).gateway(|spec| spec.class = "other".into()),
    ]);
    let two = ["LDS gateway/80", "LDS gateway/81", "RDS http/80", "RDS http/81"];
    assert_eq!(named(&world, "near", Role::Edge), two);
    assert_eq!(named(&world, "far", Role::Edge), ["LDS gateway/81", "RDS http/81"]);
}

#[test]
fn unknown_deleting_and_mistaken_sites_are_answered_with_silence() {
    let world = World::of([edge("fra"), edge("gone").site(|site| site.state = SiteState::Deleting)]);
    for (site, role, answer) in [
        ("fra", Role::Edge, Some(Vec::new())),
        ("fra", Role::Core, None),
        ("gone", Role::Edge, None),
        ("unknown", Role::Edge, None),
    ] {
        assert_eq!(names(&audience(site, role, true), &reader(&world)), answer, "{site}");
    }
}

#[test]
fn secrets_and_what_hangs_on_them_go_to_the_proven_only() {
    let world = World::of([
        edge("fra"),
        core("ams"),
        service("shop/web", &[80]),
        set("shop/web", "ams"),
        certificate("infra/used"),
        certificate("infra/unused"),
        gateway("infra/gw", vec![https(443, None, "infra/used")]),
        route("shop/web", "infra/gw").rule(to("shop/web", 80)),
    ]);
    assert_eq!(
        named(&world, "fra", Role::Edge),
        ["CDS backbone/-/ams", "EDS backbone/-/ams", "SDS infra/used", "LDS gateway/443", "RDS https/443/*"]
    );
    assert_eq!(units(&world, &audience("fra", Role::Edge, false)), []);
}

#[test]
fn equal_sets_of_gateways_share_a_scope_across_sites() {
    let world = World::of([edge("fra"), edge("lon"), gateway("infra/gw", vec![http(80, None)])]);
    let at = |site| units(&world, &audience(site, Role::Edge, true));
    assert_eq!(at("fra"), at("lon"));
    assert_eq!(at("fra")[0].scope, scope(80, &["infra/gw"]));
}

#[test]
fn chains_are_sorted_by_host_with_the_open_one_last() {
    let world = World::of([
        certificate("infra/c"),
        gateway(
            "infra/gw",
            vec![
                https(443, None, "infra/c"),
                https(443, Some("b.example"), "infra/c"),
                https(443, Some("*.example"), "infra/c"),
            ],
        ),
    ]);
    let chains = chains(&world, &["infra/gw"]);
    let hosts: Vec<_> = chains.iter().map(|chain| chain.hostname.as_deref().unwrap_or("-")).collect();
    assert_eq!(hosts, ["*.example", "b.example", "-"]);
    assert_eq!(chains[2].route_configuration, "https/443/*");
    assert_eq!(chains[2].secrets, ["infra/c"]);
}

#[test]
fn a_listener_without_a_valid_certificate_has_no_chain_and_harms_no_other() {
    let mut world = World::of([
        edge("fra"),
        certificate("infra/c"),
        certificate("vault/c"),
        gateway(
            "infra/gw",
            vec![
                https(443, Some("a.example"), "infra/c"),
                https(443, Some("b.example"), "infra/missing"),
                https(443, Some("c.example"), "vault/c"),
            ],
        ),
    ]);
    let hosts = |world: &World| -> Vec<String> {
        chains(world, &["infra/gw"]).into_iter().filter_map(|chain| chain.hostname).collect()
    };
    assert_eq!(hosts(&world), ["a.example"]);
    world.put(grant("vault", (Kind::Gateway, "infra"), "Secret", Some("c")));
    assert_eq!(hosts(&world), ["a.example", "c.example"]);
    world.remove(&ObjectRef::new(Kind::Certificate, "infra", "c"));
    world.remove(&ObjectRef::new(Kind::Certificate, "vault", "c"));
    assert!(listener(&world, 443, &["infra/gw"]).is_none());
    assert_eq!(named(&world, "fra", Role::Edge), [] as [&str; 0]);
}

#[test]
fn the_older_gateway_goes_on_in_a_conflict_of_hosts() {
    let world = World::of([
        gateway("z/old", vec![http(80, Some("a.example"))]),
        gateway("a/new", vec![http(80, Some("a.example")), http(80, Some("b.example"))]),
        route("z/r", "z/old").rule(to("z/s", 80)),
        route("a/r", "a/new").rule(to("a/s", 80)).rule(to("a/s", 80)),
    ]);
    let plan = routes(&world, "http/80", &["z/old", "a/new"]);
    assert_eq!(spelled(&plan), ["a.example: to", "b.example: to to"]);
}

#[test]
fn an_accepted_gateway_goes_before_an_older_one_that_came_past_admission() {
    let mut world = World::of([gateway("z/raw", vec![http(80, None)])]);
    world.apply(gateway("z/old", vec![http(80, Some("a.example"))]));
    world.apply(gateway("a/new", vec![http(80, Some("a.example"))]));
    world.put(certificate("z/c"));
    world.put(gateway("z/raw", vec![https(80, None, "z/c"), https(80, Some("a.example"), "z/c")]));
    for (name, gateway) in [("r", "z/raw"), ("o", "z/old"), ("n", "a/new")] {
        world.put(route(&format!("z/{name}"), gateway).rule(rule(name, PathMatch::Prefix("/".into()))));
    }
    let all = ["z/raw", "z/old", "a/new"];
    assert_eq!(spelled(&routes(&world, "http/80", &all)), ["a.example: o"], "the oldest of the accepted");
    world.agree();
    assert!(listener(&world, 80, &all).is_some_and(|plan| matches!(plan.shape, ListenerShape::Https { .. })));
}

#[test]
fn the_older_gateway_decides_the_protocol_of_a_port() {
    let world = World::of([
        certificate("infra/c"),
        gateway("infra/old", vec![https(443, None, "infra/c")]),
        gateway("infra/new", vec![http(443, Some("a.example"))]),
    ]);
    assert_eq!(chains(&world, &["infra/new", "infra/old"]).len(), 1);
    assert!(matches!(
        listener(&world, 443, &["infra/new"]).unwrap().shape,
        ListenerShape::Http { route_configuration } if route_configuration == "http/443"
    ));
}

#[test]
fn a_listener_names_its_gateways_and_certificates() {
    let world = World::of([certificate("infra/c"), gateway("infra/gw", vec![https(443, None, "infra/c")])]);
    let plan = listener(&world, 443, &["infra/gw"]).unwrap();
    let certificate = ObjectRef::new(Kind::Certificate, "infra", "c");
    assert_eq!(plan.sources, [certificate, ObjectRef::new(Kind::Gateway, "infra", "gw")]);
    assert_eq!((plan.name.as_str(), plan.port), ("gateway/443", 443));
}

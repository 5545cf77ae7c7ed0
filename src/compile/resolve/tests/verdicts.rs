//! Claims about problems and Gateway API statuses.

use super::*;
use crate::{
    catalog::testing::*,
    compile::{
        judge::Judgement,
        resolve::status::{Condition, Conflicts, gateway_listeners, route_parents},
    },
    model::*,
};

fn problems(world: &World) -> Vec<Problem> {
    let judgement = Judgement::of(world.catalog.configuration(), world.catalog.runtime());
    judgement.problems.values().flat_map(|found| found.iter()).cloned().collect()
}

/// Each problem as `object: reason`.
fn found(world: &World) -> Vec<String> {
    let all = problems(world);
    assert!(all.iter().all(|problem| problem.key.starts_with("/tidegate/v1/objects/") && problem.revision.0 > 0));
    all.iter().map(|problem| format!("{}: {}", problem.object.clone().unwrap(), problem.reason)).collect()
}

fn spell(conditions: &[Condition]) -> Vec<String> {
    conditions.iter().map(|c| format!("{}={} {}", c.kind, c.status, c.reason)).collect()
}

fn stored<'a>(world: &'a World, kind: Kind, name: &str) -> &'a crate::catalog::Stored {
    let (namespace, name) = name.split_once('/').unwrap();
    world.catalog.configuration().get(&ObjectRef::new(kind, namespace, name)).unwrap()
}

/// The first parent's conditions.
fn verdict(world: &World, route: &str) -> Vec<String> {
    let reader = reader(world);
    let parents = route_parents(stored(world, Kind::HttpRoute, route), &Conflicts::find(&reader), &reader);
    parents.first().map(|parent| spell(&parent.conditions)).unwrap_or_default()
}

/// Each listener as `name attached: conditions`.
fn listeners(world: &World, gateway: &str) -> Vec<String> {
    let reader = reader(world);
    gateway_listeners(stored(world, Kind::Gateway, gateway), &Conflicts::find(&reader), &reader)
        .iter()
        .map(|l| format!("{} {}: {}", l.name, l.attached_routes, spell(&l.conditions).join(", ")))
        .collect()
}

#[test]
fn a_healthy_world_has_no_problems() {
    let world = World::of([
        edge("fra"),
        core("ams"),
        service("shop/web", &[80]),
        set("shop/web", "ams"),
        certificate("infra/c"),
        gateway("infra/gw", vec![http(80, None), https(443, None, "infra/c")]),
        route("shop/web", "infra/gw").rule(to("shop/web", 80)),
    ]);
    assert_eq!(found(&world), [] as [&str; 0]);
    assert_eq!(verdict(&world, "shop/web"), ["Accepted=true Accepted", "ResolvedRefs=true ResolvedRefs"]);
    let fine = "Accepted=true Accepted, Conflicted=false NoConflicts, ResolvedRefs=true ResolvedRefs";
    assert_eq!(listeners(&world, "infra/gw"), [format!("80-all 1: {fine}"), format!("443-all 1: {fine}")]);
}

#[test]
fn a_route_that_nobody_takes_is_told_why() {
    let same = Listener { allowed_namespaces: AllowedNamespaces::Same, ..http(81, None) };
    let mut world = World::of([
        edge("fra"),
        gateway("infra/gw", vec![http(80, Some("a.example")), same]),
        gateway("infra/foreign", vec![http(80, None)]).gateway(|spec| spec.class = "other".into()),
    ]);
    for (object, reason) in [
        (route("shop/web", "infra/missing"), Some("NoMatchingParent")),
        (route("shop/web", "infra/gw").parent(|p| p.section_name = Some("x".into())), Some("NoMatchingParent")),
        (route("shop/web", "infra/gw").parent(|p| p.port = Some(82)), Some("NoMatchingParent")),
        (route("shop/web", "infra/gw").parent(|p| p.port = Some(81)), Some("NotAllowedByListeners")),
        (route("shop/web", "infra/gw").hosts(&["b.example"]), Some("NoMatchingListenerHostname")),
        (route("shop/web", "infra/gw"), None),
        (route("shop/web", "infra/foreign"), None),
    ] {
        world.put(object);
        let expected: Vec<String> = reason.iter().map(|reason| format!("HTTPRoute shop/web: {reason}")).collect();
        assert_eq!(found(&world), expected);
        let accepted = verdict(&world, "shop/web");
        if let Some(reason) = reason {
            assert_eq!(accepted[0], format!("Accepted=false {reason}"));
        }
    }
    assert_eq!(verdict(&world, "shop/web"), [] as [&str; 0], "a foreign class is somebody else's to answer for");
}

#[test]
fn each_bad_reference_is_a_problem_with_its_place() {
    let mut bad = to("shop/missing", 80);
    bad.name = None;
    bad.filters = vec![Filter::Mirror(MirrorFilter { backend: backend("vault/web", 80) })];
    let world =
        World::of([edge("fra"), gateway("infra/gw", vec![http(80, None)]), route("shop/web", "infra/gw").rule(bad)]);
    assert_eq!(found(&world), ["HTTPRoute shop/web: BackendNotFound", "HTTPRoute shop/web: RefNotPermitted"]);
    let all = problems(&world);
    assert!(all[0].message.starts_with("rule-0, backendRefs[0]: there is no Service shop/missing"), "{all:?}");
    assert!(all[1].message.starts_with("rule-0, mirror: "), "{all:?}");
    assert_eq!(verdict(&world, "shop/web"), ["Accepted=true Accepted", "ResolvedRefs=false BackendNotFound"]);
}

#[test]
fn a_conflict_is_the_younger_listeners_problem_where_both_stand() {
    let only_lon = LabelSelector { match_labels: [("at".to_owned(), "lon".to_owned())].into(), ..Default::default() };
    let mut world = World::of([
        edge("fra"),
        edge("lon").label("at", "lon"),
        gateway("infra/old", vec![http(80, Some("a.example"))]),
        gateway("infra/new", vec![http(80, Some("a.example"))]),
        route("shop/web", "infra/new"),
    ]);
    assert_eq!(
        found(&world),
        ["Gateway infra/new: Conflicted", "HTTPRoute shop/web: NoMatchingParent"],
        "a route of a listener that is served nowhere is not live, and says so"
    );
    let lost = "80-a.example 0: Accepted=false HostnameConflict, Conflicted=true HostnameConflict, \
                ResolvedRefs=true ResolvedRefs";
    assert_eq!(listeners(&world, "infra/new"), [lost]);
    let served = gateway("infra/old", vec![http(80, Some("a.example"))]).gateway(|spec| spec.sites = Some(only_lon));
    world.put(served);
    assert_eq!(found(&world), ["Gateway infra/new: Conflicted"]);
    let all = problems(&world);
    assert!(all[0].message.contains("not served at lon: "), "{}", all[0].message);
    world.put(gateway("infra/old", vec![http(81, None)]));
    assert_eq!(found(&world), [] as [&str; 0]);
}

#[test]
fn bad_certificates_kinds_and_selectors_are_the_gateways_problems() {
    let nowhere = LabelSelector { match_labels: [("a".to_owned(), "b".to_owned())].into(), ..Default::default() };
    let none = Listener { allowed_kinds: AllowedKinds::None, ..http(80, None) };
    let listeners_of = vec![https(443, None, "infra/missing"), https(444, None, "vault/c"), none];
    let world = World::of([edge("fra"), gateway("infra/gw", listeners_of).gateway(|spec| spec.sites = Some(nowhere))]);
    assert_eq!(
        found(&world),
        ["InvalidCertificateRef", "RefNotPermitted", "InvalidRouteKinds", "NoMatchingSite"]
            .map(|reason| format!("Gateway infra/gw: {reason}"))
    );
    let reasons: Vec<String> =
        listeners(&world, "infra/gw").iter().map(|l| l.rsplit(", ").next().unwrap().to_owned()).collect();
    assert_eq!(
        reasons,
        ["InvalidCertificateRef", "RefNotPermitted", "InvalidRouteKinds"]
            .map(|reason| format!("ResolvedRefs=false {reason}"))
    );
}

#[test]
fn endpoint_sets_that_lead_nowhere_are_named() {
    let world = World::of([
        edge("fra"),
        core("ams").site(|site| site.gateways.clear()),
        service("shop/web", &[80]),
        set("shop/unknown", "ams"),
        set("shop/web", "fra"),
        set("shop/web", "missing"),
    ]);
    assert_eq!(
        found(&world),
        [
            "Site ams: NoGateways",
            "EndpointSet shop/unknown-ams: ServiceNotFound",
            "EndpointSet shop/web-fra: UnusedAtEdge",
            "EndpointSet shop/web-missing: SiteNotFound",
        ]
    );
}

#[test]
fn an_edge_with_more_than_32_groups_is_warned_of() {
    let mut world = World::of([edge("fra"), gateway("infra/gw", vec![http(80, None)])]);
    for n in 0..33 {
        let (core_site, name) = (format!("c{n}"), format!("shop/s{n}"));
        assert_eq!(found(&world), [] as [&str; 0], "{n}");
        for object in [core(&core_site), service(&name, &[80]), set(&name, &core_site)] {
            world.put(object);
        }
        world.put(route(&name, "infra/gw").rule(to(&name, 80)));
    }
    assert_eq!(found(&world), ["Site fra: TooManyGroups"]);
}

#[test]
fn a_gateway_that_shares_a_port_with_one_whose_hosts_are_whole_is_told_so() {
    let streamed = |name: &str, port, host| {
        gateway(name, vec![http(port, Some(host))]).gateway(|spec| spec.virtual_hosts = VirtualHosts::Streamed)
    };
    let world = World::of([edge("fra"), streamed("infra/a", 80, "a.test"), streamed("infra/b", 80, "b.test")]);
    assert_eq!(found(&world), [] as [&str; 0]);
    let world = world.with(gateway("infra/c", vec![http(80, Some("c.test"))])).with(streamed("infra/d", 81, "d.test"));
    assert_eq!(found(&world), ["Gateway infra/a: VirtualHostsWhole", "Gateway infra/b: VirtualHostsWhole"]);
}

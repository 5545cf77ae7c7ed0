//! Claims about EnvoyResources: where they stand, who wins a name or an address, who is served a secret.

use super::*;
use crate::{catalog::testing::*, compile::judge::Judgement, model::*, xds::ResourceType};

fn problems(world: &World) -> Vec<String> {
    let judgement = Judgement::of(world.catalog.configuration(), world.catalog.runtime());
    let found: Vec<_> = judgement.problems.values().flat_map(|found| found.iter()).cloned().collect();
    let raw = found.into_iter().filter(|p| p.object.as_ref().is_some_and(|o| o.kind == Kind::EnvoyResource));
    raw.map(|p| format!("{}: {}: {}", p.object.unwrap().name, p.reason, p.message)).collect()
}

#[test]
fn it_stands_where_its_roles_and_selector_say() {
    let eu = LabelSelector { match_labels: [("region".to_owned(), "eu".to_owned())].into(), ..Default::default() };
    let world = World::of([
        edge("fra").label("region", "eu"),
        edge("nyc"),
        core("ams").label("region", "eu"),
        raw("a", ResourceType::Cluster, "everywhere").raw(|spec| spec.roles = [Role::Edge, Role::Core].into()),
        raw("b", ResourceType::Runtime, "eu").raw(|spec| spec.sites = Some(eu.clone())),
        raw("c", ResourceType::Route, "nowhere").raw(|spec| {
            spec.sites = Some(LabelSelector { match_labels: [("no".to_owned(), "no".to_owned())].into(), ..eu });
        }),
    ]);
    assert_eq!(named(&world, "fra", Role::Edge), ["CDS everywhere", "RTDS eu"]);
    assert_eq!(named(&world, "nyc", Role::Edge), ["CDS everywhere"]);
    assert_eq!(named(&world, "ams", Role::Core), ["CDS everywhere", "LDS backbone", "RDS backbone"]);
    assert_eq!(problems(&world), ["c: NoMatchingSite: no Site in service is chosen (spec.roles, spec.sites)"]);
}

#[test]
fn a_time_to_live_goes_with_the_resource_and_another_one_is_another_version() {
    let compiled = |ttl: Option<u64>| {
        let ttl = ttl.map(std::time::Duration::from_secs);
        let world = World::of([edge("fra"), raw("a", ResourceType::Cluster, "c").raw(|spec| spec.ttl = ttl)]);
        let [unit] = units(&world, &audience("fra", Role::Edge, true)).try_into().unwrap();
        let resource = crate::compile::compile(&unit, &reader(&world)).resource.unwrap();
        assert_eq!(resource.ttl, ttl);
        resource
    };
    let [never, minute, hour] = [None, Some(60), Some(3600)].map(compiled);
    assert!(never.payload == minute.payload && minute.payload == hour.payload);
    assert!(never.version != minute.version && minute.version != hour.version);
}

#[test]
fn of_two_of_one_name_the_oldest_is_served_and_the_other_has_a_problem() {
    let mut world = World::of([edge("fra"), raw("z", ResourceType::Cluster, "c")]);
    world.put(raw("a", ResourceType::Cluster, "c"));
    let units = units(&world, &audience("fra", Role::Edge, true));
    assert_eq!(units.iter().map(|u| u.scope.clone()).collect::<Vec<_>>(), [Scope::Raw("z".into())]);
    let told = problems(&world);
    assert_eq!(told.len(), 1);
    assert!(told[0].starts_with("a: Conflicted: not served at fra: EnvoyResource z, which goes before it"), "{told:?}");
}

#[test]
fn it_takes_no_address_from_a_listener_that_is_generated_or_older() {
    let bound = |name: &str, at: &str| {
        let at: std::net::SocketAddr = at.parse().unwrap();
        raw(name, ResourceType::Listener, name).raw(|spec| spec.binds = vec![(at.ip(), at.port())])
    };
    let world = World::of([
        edge("fra"),
        gateway("infra/gw", vec![http(80, None)]),
        bound("taken", "127.0.0.1:80"),
        bound("first", "127.0.0.1:81"),
        bound("second", "0.0.0.0:81"),
        bound("beside", "127.0.0.2:82"),
        bound("other", "127.0.0.3:82"),
    ]);
    let served = ["LDS beside", "LDS first", "LDS gateway/80", "LDS other", "RDS http/80"];
    assert_eq!(named(&world, "fra", Role::Edge), served);
    let told = problems(&world);
    assert!(told[0].contains("EnvoyResource first listens on 127.0.0.1:81"), "{told:?}");
    assert!(told[1].contains("Gateway infra/gw listens on 0.0.0.0:80"), "{told:?}");
}

#[test]
fn what_is_confidential_goes_to_the_proven_only() {
    let world = World::of([
        edge("fra"),
        raw("s", ResourceType::Secret, "s").raw(|spec| spec.confidential = true),
        raw("c", ResourceType::Cluster, "c"),
    ]);
    assert_eq!(named(&world, "fra", Role::Edge), ["CDS c", "SDS s"]);
    let unproven = units(&world, &audience("fra", Role::Edge, false));
    assert_eq!(unproven.iter().map(|u| &*u.name).collect::<Vec<_>>(), ["c"]);
}

#[test]
fn it_is_compiled_as_it_is_written_with_what_it_names() {
    use crate::compile::compile;
    let name = "envoy.config.route.v3.ScopedRouteConfiguration";
    let json =
        serde_json::json!({"name": "s", "routeConfigurationName": "r", "key": {"fragments": [{"stringKey": "k"}]}});
    let payload: bytes::Bytes = crate::xds::json::from_json(name, &json).unwrap().into();
    let world =
        World::of([edge("fra"), raw("x", ResourceType::ScopedRoute, "s").raw(|spec| spec.payload = payload.clone())]);
    let unit = units(&world, &audience("fra", Role::Edge, true)).remove(0);
    let resource = compile(&unit, &reader(&world)).resource.unwrap();
    assert_eq!((&resource.payload, &*resource.name), (&payload, "s"));
    assert_eq!(resource.requires, [(ResourceType::Route, "r".into())]);
    assert_eq!(resource.sources[0].object.to_string(), "EnvoyResource x");
    let gone = Unit { name: "other".into(), ..unit };
    assert!(compile(&gone, &reader(&world)).resource.is_none());
}

//! Rules of the protocol that need no story: one test each, by their number in `docs/protocol.md`.

use std::collections::BTreeSet;

use super::*;

fn eds(name: &str, payload: &'static str) -> Resource {
    resource(Endpoints, name, payload)
}

/// A world with assignments `a` and `b`.
fn two() -> World {
    World::new(vec![eds("a", "1"), eds("b", "1")])
}

/// 16, 31 of the corner cases
#[test]
fn nonces_are_never_empty_and_come_once_in_a_stream_whatever_the_type_and_the_version() {
    let mut world = World::new(vec![cluster("a", "1"), eds("a", "1")]);
    let mut seen = BTreeSet::new();
    for payload in ["2", "1", "2", "1"] {
        for (kind, ask) in [(Cluster, &[][..]), (Endpoints, &["a"][..])] {
            world.publish(vec![cluster("a", payload), eds("a", payload)], &[]);
            world.request(kind, ask, 0, None);
            while let Some(response) = world.poll() {
                assert!(response.nonce != 0 && seen.insert(response.nonce));
                let ask: &[&str] = if response.kind == Cluster { &[] } else { &["a"] };
                world.request(response.kind, ask, response.nonce, None);
            }
        }
    }
    assert!(seen.len() >= 4);
}

/// 17
#[test]
fn the_version_of_a_type_changes_with_any_of_its_resources_and_with_no_other_type() {
    let mut world = World::new(vec![cluster("a", "1"), cluster("b", "1"), eds("a", "1")]);
    let first = world.takes(Cluster, &[], &["a", "b"]).version;
    world.takes(Endpoints, &["a"], &["a"]);
    world.publish(vec![eds("a", "2")], &[]);
    world.sent(Endpoints, &["a"]);
    world.quiet();
    world.publish(vec![cluster("b", "2")], &[]);
    let changed = world.sent(Cluster, &["a", "b"]);
    assert_ne!(changed.version, first);
    world.request(Cluster, &[], changed.nonce, None);
    world.publish(vec![cluster("b", "1")], &[]);
    assert_eq!(world.sent(Cluster, &["a", "b"]).version, first, "equal content, equal version: on every replica");
}

/// 18, 7
#[test]
fn an_answer_is_told_by_nonce_and_error_and_never_by_the_version_that_it_says() {
    for version in ["", "0", "ffffffffffffffff", "something else"] {
        let mut world = two();
        world.request(Endpoints, &["a"], 0, None);
        let response = world.sent(Endpoints, &["a"]);
        let nonce = format!("{:x}", response.nonce);
        let (url, names, version) = (Endpoints.url().into(), vec!["a".to_owned()], version.to_owned());
        let request = Request { url, names, version, nonce, error: None };
        world.session.on_request(&request, &world.reader.view().read(), world.now).unwrap();
        world.quiet();
        let reports = world.session.reports();
        let (_, state) = reports.iter().find(|(kind, _)| *kind == Endpoints).unwrap();
        let seq = world.reader.view().read().seq();
        assert_eq!(state.acked("a", seq), feedback::Acked::Acked, "{:?}", request.version);
    }
}

/// 20, 13 of the corner cases: names take effect with the next answer, however fast content changes.
#[test]
fn one_response_of_a_type_is_out_and_the_newest_content_and_names_gather_behind_it() {
    let mut world = two();
    world.request(Endpoints, &["a"], 0, None);
    let mut response = world.sent(Endpoints, &["a"]);
    for payload in ["2", "3", "4"] {
        world.publish(vec![eds("a", payload)], &[]);
        world.quiet();
    }
    world.request(Endpoints, &["a", "b"], response.nonce, None);
    response = world.sent(Endpoints, &["a", "b"]);
    assert_eq!(response.resources[0].payload, "4");
    world.request(Endpoints, &["a", "b"], response.nonce, None);
    world.quiet();
}

/// 22, 14 of the corner cases
#[test]
fn a_second_request_without_a_nonce_replaces_the_first_though_a_response_is_on_its_way() {
    let mut world = two();
    world.request(Endpoints, &["a"], 0, None);
    let response = world.sent(Endpoints, &["a"]);
    world.request(Endpoints, &["a", "b"], 0, None);
    world.request(Endpoints, &["a", "b"], response.nonce, None);
    let mut got = BTreeSet::new();
    while let Some(response) = world.poll() {
        got.extend(response.resources.iter().map(|r| r.name.to_string()));
        world.request(Endpoints, &["a", "b"], response.nonce, None);
        assert!(got.len() < 10);
    }
    assert!(got.contains("b"), "{got:?}");
}

/// 23, 24
#[test]
fn only_the_last_of_several_requests_is_answered_and_an_acknowledgement_is_not() {
    let mut world = two();
    world.request(Endpoints, &["a"], 0, None);
    world.request(Endpoints, &["a", "b"], 0, None);
    world.request(Endpoints, &["b"], 0, None);
    let response = world.sent(Endpoints, &["b"]);
    world.quiet();
    world.request(Endpoints, &["b"], response.nonce, None);
    world.quiet();
    world.request(Endpoints, &["b"], response.nonce, None);
    world.quiet();
}

/// 25, 16 of the corner cases
#[test]
fn a_refusal_may_change_the_names_and_its_content_does_not_come_again() {
    let mut world = two();
    world.request(Endpoints, &["a"], 0, None);
    let refused = world.sent(Endpoints, &["a"]);
    world.request(Endpoints, &["a", "b"], refused.nonce, Some("a is bad"));
    let response = world.sent(Endpoints, &["b"]);
    world.request(Endpoints, &["a", "b"], response.nonce, None);
    for _ in 0..10 {
        world.pass(Duration::from_secs(10));
        world.quiet();
    }
    world.publish(vec![eds("a", "2")], &[]);
    world.sent(Endpoints, &["a"]);
}

/// 28, 8 of the corner cases
#[test]
fn a_name_dropped_and_asked_for_again_is_sent_again_at_the_same_version() {
    for kind in [Endpoints, Route, Secret] {
        let mut world = World::new(vec![resource(kind, "a", "1"), resource(kind, "b", "1")]);
        let first = world.takes(kind, &["a", "b"], &["a", "b"]);
        world.request(kind, &["b"], first.nonce, None);
        world.request(kind, &["a", "b"], first.nonce, None);
        world.sent(kind, &["a"]);
    }
    for kind in [Cluster, Listener] {
        let mut world = World::new(vec![resource(kind, "a", "1"), resource(kind, "b", "1")]);
        let first = world.takes(kind, &["a", "b"], &["a", "b"]);
        world.request(kind, &["b"], first.nonce, None);
        let second = world.sent(kind, &["b"]);
        world.request(kind, &["a", "b"], second.nonce, None);
        world.sent(kind, &["a", "b"]);
    }
}

/// 28 of the corner cases
#[test]
fn names_that_are_all_dropped_and_asked_for_again_go_on_as_before() {
    let mut world = two();
    let first = world.takes(Endpoints, &["a"], &["a"]);
    world.request(Endpoints, &[], first.nonce, None);
    world.publish(vec![eds("a", "2")], &[]);
    world.quiet();
    world.request(Endpoints, &["a"], first.nonce, None);
    let next = world.sent(Endpoints, &["a"]);
    world.request(Endpoints, &["a"], next.nonce, None);
    world.publish(vec![eds("a", "3")], &[]);
    world.sent(Endpoints, &["a"]);
}

/// 32, 17 of the corner cases
#[test]
fn named_clusters_come_as_far_as_they_exist_always_all_of_them_and_do_not_loop() {
    let mut world = World::new(vec![resource(Cluster, "a", "1"), resource(Cluster, "b", "1")]);
    world.takes(Cluster, &["a", "b", "missing"], &["a", "b"]);
    world.quiet();
    world.publish(vec![resource(Cluster, "b", "2"), resource(Cluster, "other", "1")], &[]);
    let response = world.sent(Cluster, &["a", "b"]);
    world.request(Cluster, &["a", "b", "missing"], response.nonce, None);
    world.quiet();
    world.publish(vec![resource(Cluster, "missing", "1")], &[]);
    world.sent(Cluster, &["a", "b", "missing"]);
}

/// 34, 5 and 6 of the corner cases
#[test]
fn neither_a_missing_name_nor_one_that_nobody_asked_for_holds_anything_up() {
    let mut world = World::new(vec![eds("b", "1")]);
    world.publish(vec![eds("b", "2"), eds("y", "1")], &[]);
    world.takes(Endpoints, &["a", "b"], &["b"]);
    world.publish(vec![eds("a", "1")], &[]);
    world.sent(Endpoints, &["a"]);
}

/// 37
#[test]
fn a_route_configuration_does_not_follow_its_listener() {
    let mut world = World::new(vec![naming(Listener, "l", "1", &[]), resource(Route, "r", "1")]);
    world.takes(Listener, &[], &["l"]);
    world.takes(Route, &["r"], &["r"]);
    world.publish(vec![naming(Listener, "l", "2", &[])], &[]);
    world.sent(Listener, &["l"]);
    world.quiet();
}

/// 38
#[test]
fn a_name_that_is_asked_for_twice_comes_once() {
    let mut world = two();
    world.request(Endpoints, &["a", "a"], 0, None);
    world.sent(Endpoints, &["a"]);
}

/// 50
#[test]
fn an_empty_name_is_a_name_that_does_not_exist() {
    let mut world = World::new(vec![resource(Cluster, "a", "1")]);
    let first = world.takes(Cluster, &[], &["a"]);
    world.request(Cluster, &[""], first.nonce, None);
    world.sent(Cluster, &[]);
}

/// 88
#[test]
fn clusters_that_are_asked_for_beside_the_wildcard_stand_in_every_set() {
    let mut world = World::new(vec![resource(Cluster, "a", "1"), resource(Cluster, "b", "1")]);
    let first = world.takes(Cluster, &["*", "a"], &["a", "b"]);
    assert_eq!(first.resources.len(), 2);
    world.publish(vec![resource(Cluster, "b", "2")], &[]);
    world.sent(Cluster, &["a", "b"]);
}

/// 117
#[test]
fn a_view_that_is_not_ready_sends_no_set_that_could_be_taken_for_deletions() {
    let mut world = two();
    let audience = Audience { site: "new".into(), role: Role::Edge, proven: true, delta: false, cohort: "".into() };
    world.reader = world.views.open(&audience);
    world.request(Cluster, &[], 0, None);
    world.request(Listener, &[], 0, None);
    world.quiet();
    world.publish(vec![cluster("a", "1")], &[]);
    world.sent(Cluster, &["a"]);
}

/// 7 of the corner cases
#[test]
fn a_name_that_comes_goes_and_comes_again_is_sent_each_time_that_it_is_there() {
    let mut world = two();
    world.request(Secret, &["x"], 0, None);
    let missing = world.sent(Secret, &[]);
    assert_eq!(missing.errors, [Absent::of(Secret, "x".into(), true)]);
    world.request(Secret, &["x"], missing.nonce, None);
    world.quiet();
    for payload in ["1", "2"] {
        world.publish(vec![resource(Secret, "x", payload)], &[]);
        let response = world.sent(Secret, &["x"]);
        world.request(Secret, &["x"], response.nonce, None);
        world.publish(vec![], &[(Secret, "x")]);
        world.quiet();
    }
}

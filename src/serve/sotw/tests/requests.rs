//! What a request changes: stale ones, names that come and go, and what is told of names that are not there.

use super::*;
use crate::serve::absent::MOST;

fn eds(name: &str, payload: &'static str) -> Resource {
    resource(Endpoints, name, payload)
}

/// A world with assignments `a` and `b`.
fn two() -> World {
    World::new(vec![eds("a", "1"), eds("b", "1")])
}

fn names_of(errors: &[Absent]) -> Vec<String> {
    errors.iter().map(|error| error.name.to_string()).collect()
}

/// 19
#[test]
fn a_request_with_an_older_nonce_changes_nothing_even_when_no_response_is_on_its_way() {
    let mut world = two();
    let first = world.takes(Endpoints, &["a"], &["a"]);
    world.publish(vec![eds("a", "2")], &[]);
    let second = world.sent(Endpoints, &["a"]);
    world.request(Endpoints, &["a"], second.nonce, None);
    world.request(Endpoints, &["a", "b"], first.nonce, None);
    world.quiet();
    world.request(Endpoints, &["a", "b"], second.nonce, None);
    world.sent(Endpoints, &["b"]);
}

/// 8, 22
#[test]
fn a_request_with_a_foreign_nonce_at_the_start_or_with_none_later_counts() {
    let mut world = two();
    world.request(Endpoints, &["a"], 0xdead, None);
    let first = world.sent(Endpoints, &["a"]);
    world.request(Endpoints, &["a"], first.nonce, None);
    world.request(Endpoints, &["a", "b"], 0, None);
    world.sent(Endpoints, &["b"]);
}

#[test]
fn what_a_stale_request_let_go_of_is_sent_again_by_a_request_that_answers_nothing() {
    let mut world = two();
    let first = world.takes(Endpoints, &["a"], &["a"]);
    world.publish(vec![eds("a", "2")], &[]);
    let second = world.sent(Endpoints, &["a"]);
    world.request(Endpoints, &["a"], second.nonce, None);
    world.request(Endpoints, &["b"], first.nonce, None);
    world.quiet();
    world.request(Endpoints, &["a"], second.nonce, None);
    world.sent(Endpoints, &["a"]);
}

/// O12
#[test]
fn a_type_that_is_dropped_with_an_older_nonce_can_be_asked_for_anew_at_once() {
    let mut world = two();
    let first = world.takes(Endpoints, &["a"], &["a"]);
    world.publish(vec![eds("a", "2")], &[]);
    world.sent(Endpoints, &["a"]);
    world.request(Endpoints, &[], first.nonce, None);
    world.quiet();
    world.request(Endpoints, &["a"], 0, None);
    world.sent(Endpoints, &["a"]);
}

#[test]
fn a_name_that_is_added_is_followed_from_then_on() {
    let mut world = World::new(vec![eds("a", "1")]);
    let first = world.takes(Endpoints, &["a"], &["a"]);
    world.stands();
    world.request(Endpoints, &["a", "b"], first.nonce, None);
    let missing = world.sent(Endpoints, &[]);
    world.request(Endpoints, &["a", "b"], missing.nonce, None);
    world.quiet();
    world.publish(vec![eds("b", "1")], &[]);
    world.sent(Endpoints, &["b"]);
}

#[test]
fn everything_is_answered_even_where_it_is_what_was_asked_for_by_name() {
    let mut world = World::new(vec![resource(Cluster, "a", "1"), resource(Cluster, "b", "1")]);
    let first = world.takes(Cluster, &["a", "b"], &["a", "b"]);
    world.quiet();
    world.request(Cluster, &["*"], first.nonce, None);
    world.sent(Cluster, &["a", "b"]);
}

/// 27
#[test]
fn a_name_that_is_asked_for_beside_everything_is_answered_though_the_client_has_it() {
    let mut world = two();
    let first = world.takes(Endpoints, &["*"], &["a", "b"]);
    world.quiet();
    world.request(Endpoints, &["*", "a"], first.nonce, None);
    world.sent(Endpoints, &["a"]);
}

/// 36
#[test]
fn an_assignment_follows_its_cluster_that_is_asked_for_again_though_it_was_never_dropped() {
    let all = vec![cluster("a", "1"), cluster("b", "1"), eds("a", "1"), eds("b", "1")];
    let mut world = World::of(Role::Grpc, all);
    let first = world.takes(Cluster, &["a", "b"], &["a", "b"]);
    world.takes(Endpoints, &["a", "b"], &["a", "b"]);
    world.quiet();
    world.request(Cluster, &["b"], first.nonce, None);
    let one = world.sent(Cluster, &["b"]);
    world.request(Cluster, &["a", "b"], one.nonce, None);
    world.sent(Cluster, &["a", "b"]);
    world.sent(Endpoints, &["a"]);
}

#[test]
fn a_type_of_which_nothing_is_asked_for_has_no_deadline() {
    let mut world = two();
    world.request(Endpoints, &[], 0, None);
    world.quiet();
    assert_eq!(world.session.next_deadline(), None);
}

#[test]
fn what_is_told_of_a_type_moves_with_each_response_answer_and_publish_and_with_nothing_else() {
    let mut world = two();
    let first = world.takes(Endpoints, &["a"], &["a"]);
    world.quiet();
    let (old, state) = (world.seq(), world.state(Endpoints));
    assert_eq!((state.sent, state.acked, state.set), (old, old, 0));
    assert!(state.pending.is_empty());
    world.request(Endpoints, &["a"], first.nonce, None);
    world.quiet();
    assert!(world.session.reports().is_empty(), "nothing is new");
    world.publish(vec![eds("a", "2")], &[]);
    let second = world.sent(Endpoints, &["a"]);
    let (new, state) = (world.seq(), world.state(Endpoints));
    assert_eq!((state.sent, state.acked, state.set), (new, old, 0));
    assert_eq!(state.acked("a", old), Acked::Pending);
    world.request(Endpoints, &["a"], second.nonce, None);
    assert_eq!(world.state(Endpoints).acked("a", new), Acked::Acked);
    world.quiet();
    world.publish(vec![eds("b", "2")], &[]);
    world.quiet();
    assert_eq!(world.state(Endpoints).acked, world.seq(), "it lacks nothing of that");
}

#[test]
fn a_publish_that_comes_while_a_response_is_out_and_concerns_nobody_is_taken_with_the_answer() {
    let mut world = World::new(vec![cluster("a", "1")]);
    world.request(Cluster, &[], 0, None);
    let response = world.sent(Cluster, &["a"]);
    world.publish(vec![eds("a", "1")], &[]);
    world.request(Cluster, &[], response.nonce, None);
    world.quiet();
    assert!(world.session.complete(&world.reader.view().read(), Some(Cluster)));
}

#[test]
fn a_name_that_is_not_there_and_is_dropped_leaves_nothing_to_do() {
    let mut world = two();
    world.request(Endpoints, &["a", "missing"], 0, None);
    let first = world.sent(Endpoints, &["a"]);
    world.request(Endpoints, &["a"], first.nonce, None);
    world.quiet();
    assert!(world.state(Endpoints).pending.is_empty());
}

/// 107
#[test]
fn a_response_is_as_large_as_it_may_be_and_its_rest_is_pending() {
    let large = |name: &str, size: usize| {
        let of = |len| Resource::new(Endpoints, name, "x".repeat(len).into());
        let more = of(size).body.len() - size;
        of(size - more)
    };
    let ask = ["a", "b", "c", "d"];
    let mut world = World::new(ask.map(|name| eds(name, "1")).into());
    world.takes(Endpoints, &ask, &ask);
    world.quiet();
    let half = [large("a", SPLIT / 2), large("b", SPLIT / 2)];
    assert_eq!(half.iter().map(|resource| resource.body.len()).sum::<usize>(), SPLIT);
    world.publish([&half[..], &[large("c", 2 * SPLIT), eds("d", "2")]].concat(), &[]);
    for names in [&["a", "b"][..], &["c"], &["d"]] {
        let part = world.sent(Endpoints, names);
        world.request(Endpoints, &ask, part.nonce, None);
        let (seq, state) = (world.seq(), world.state(Endpoints));
        let last = names == ["d"];
        assert_eq!(state.acked("d", seq) == Acked::Acked, last);
        assert_eq!(state.acked(names[0], seq), Acked::Acked);
        if !last {
            assert!(!world.session.complete(&world.reader.view().read(), Some(Endpoints)), "the rest is to come");
        }
    }
    world.quiet();
}

#[test]
fn a_name_without_a_resource_is_told_again_when_it_is_asked_for_again_and_as_it_is_written_then() {
    let at = |id: &str| format!("xdstp://h/envoy.config.endpoint.v3.ClusterLoadAssignment/{id}");
    let (glob, normal, other) = (at("f/*"), at("x?a=1&b=2"), at("x?b=2&a=1"));
    let mut world = two();
    let mut nonce = 0;
    for written in [&other, &normal, &other] {
        world.request(Endpoints, &[&glob, written], nonce, None);
        let response = world.sent(Endpoints, &[]);
        assert_eq!(names_of(&response.errors), [glob.as_str(), written.as_str()]);
        nonce = response.nonce;
        world.request(Endpoints, &[&glob, written], nonce, None);
        world.quiet();
        world.request(Endpoints, &[], nonce, None);
        world.quiet();
    }
}

#[test]
fn a_collection_is_told_of_though_nothing_else_that_is_asked_for_changes() {
    let glob = "xdstp://h/envoy.config.endpoint.v3.ClusterLoadAssignment/f/*";
    let mut world = two();
    let mut nonce = world.takes(Endpoints, &["a"], &["a"]).nonce;
    world.quiet();
    for _ in 0..2 {
        world.request(Endpoints, &["a", glob], nonce, None);
        let response = world.sent(Endpoints, &[]);
        assert_eq!(names_of(&response.errors), [glob]);
        nonce = response.nonce;
        world.request(Endpoints, &["a", glob], nonce, None);
        world.quiet();
        world.request(Endpoints, &["a"], nonce, None);
        world.quiet();
    }
}

#[test]
fn a_listener_that_came_and_went_is_told_as_missing_again() {
    let mut world = World::new(vec![resource(Listener, "a", "1")]);
    world.request(Listener, &["a", "x"], 0, None);
    let mut told = Vec::new();
    let mut settle = |world: &mut World| {
        while let Some(response) = world.poll() {
            told.extend(names_of(&response.errors));
            world.request(Listener, &["a", "x"], response.nonce, None);
        }
        told.len()
    };
    assert_eq!(settle(&mut world), 1);
    world.publish(vec![resource(Listener, "a", "2")], &[]);
    assert_eq!(settle(&mut world), 1);
    world.publish(vec![resource(Listener, "x", "1")], &[]);
    assert_eq!(settle(&mut world), 1);
    world.publish(vec![], &[(Listener, "x")]);
    assert_eq!(settle(&mut world), 2);
    assert_eq!(told, ["x", "x"]);
}

#[test]
fn missing_names_are_told_in_parts_until_all_are() {
    let names: Vec<_> = (0..MOST + 5).map(|n| n.to_string()).collect();
    let ask: Vec<_> = names.iter().map(String::as_str).collect();
    let mut world = two();
    world.request(Secret, &ask, 0, None);
    for count in [MOST, 5] {
        let response = world.sent(Secret, &[]);
        assert_eq!(response.errors.len(), count);
        world.request(Secret, &ask, response.nonce, None);
    }
    world.quiet();
}

#[test]
fn a_name_that_something_names_is_to_come_and_not_missing() {
    for kind in [Route, ResourceType::Extension] {
        let listener = Resource { requires: vec![(kind, "x".into())], ..resource(Listener, "l", "1") };
        let mut world = World::new(vec![listener]);
        world.request(kind, &["other", "x"], 0, None);
        assert_eq!(names_of(&world.sent(kind, &[]).errors), ["other"]);
        let other = if kind == Route { ResourceType::Extension } else { Route };
        world.request(other, &["x"], 0, None);
        assert_eq!(names_of(&world.sent(other, &[]).errors), ["x"]);
        // The client has what names it, though that is gone.
        let listener = Resource { requires: vec![(kind, "x".into())], ..resource(Listener, "l", "1") };
        let mut world = World::new(vec![listener]);
        world.takes(Listener, &[], &["l"]);
        world.publish(vec![], &[(Listener, "l")]);
        world.sent(Listener, &[]);
        world.request(kind, &["x"], 0, None);
        world.quiet();
    }
}

#[test]
fn an_assignment_is_to_come_where_its_cluster_is_there_or_still_at_the_client() {
    let mut world = World::new(vec![cluster("a", "1")]);
    world.request(Endpoints, &["a"], 0, None);
    world.quiet();
    let mut world = World::new(vec![cluster("a", "1")]);
    world.takes(Cluster, &[], &["a"]);
    world.publish(vec![], &[(Cluster, "a")]);
    world.request(Endpoints, &["a"], 0, None);
    world.quiet();
}

#[test]
fn a_time_to_live_ends_with_what_it_is_of() {
    use ResourceType::Extension;
    let ttl = Duration::from_secs(30);
    for end in 0..4 {
        let lasting = |payload| resource(Extension, "x", payload).lasting(ttl);
        let mut world = World::new(vec![lasting("1"), resource(Extension, "y", "1")]);
        let first = world.takes(Extension, &["x", "y"], &["x", "y"]);
        world.stands();
        assert!(world.session.next_deadline().is_some());
        match end {
            0 => world.publish(vec![], &[(Extension, "x")]),
            1 | 2 => {
                world.publish(vec![if end == 1 { resource(Extension, "x", "2") } else { lasting("2") }], &[]);
                let next = world.sent(Extension, &["x"]);
                world.request(Extension, &["x", "y"], next.nonce, (end == 2).then_some("no"));
            }
            _ => {
                world.request(Extension, &["y"], first.nonce, None);
                world.stands();
            }
        }
        world.quiet();
        assert_eq!(world.session.next_deadline(), None, "{end}");
    }
}

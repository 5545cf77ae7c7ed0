//! Make before break: what waits for clusters and for how long, and when a cluster may go.

use super::*;

/// Clusters `a` and `b`, and a route that names `b`; the client has all of it and lacks nothing.
fn settled(role: Role) -> World {
    let mut world = World::of(role, vec![cluster("a", "1"), cluster("b", "1"), naming(Route, "r", "1", &["b"])]);
    world.takes(Cluster, &[], &["a", "b"]);
    world.takes(Listener, &[], &[]);
    world.takes(Route, &["r"], &["r"]);
    world.quiet();
    world
}

fn take_route(world: &mut World, upserts: Vec<Resource>) {
    world.publish(upserts, &[]);
    let route = world.sent(Route, &["r"]);
    world.request(Route, &["r"], route.nonce, None);
    world.quiet();
}

#[test]
fn a_wait_for_clusters_begins_anew_with_other_content_and_leaves_nothing_behind() {
    let mut world = settled(Role::Edge);
    world.publish(vec![cluster("c", "1"), naming(Route, "r", "2", &["c"])], &[]);
    world.sent(Cluster, &["a", "b", "c"]);
    world.quiet();
    world.pass(Duration::from_secs(10));
    world.publish(vec![naming(Route, "r", "3", &["c"])], &[]);
    world.quiet();
    world.pass(WARM - Duration::from_millis(1));
    world.quiet();
    assert_eq!(world.state(Route).acked("r", world.seq()), Acked::Pending);
    world.pass(Duration::from_millis(1));
    let route = world.sent(Route, &["r"]);
    world.request(Route, &["r"], route.nonce, None);
    world.quiet();
    assert_eq!((world.state(Route).acked("r", world.seq()), world.state(Route).behind), (Acked::Acked, None));
}

#[test]
fn a_cluster_that_is_not_there_or_not_asked_for_or_refused_is_not_waited_for() {
    let mut world = settled(Role::Edge);
    take_route(&mut world, vec![naming(Route, "r", "2", &["nowhere"])]);
    world.publish(vec![cluster("bad", "1")], &[]);
    let refused = world.sent(Cluster, &["a", "b", "bad"]);
    world.request(Cluster, &[], refused.nonce, Some("no"));
    world.quiet();
    take_route(&mut world, vec![naming(Route, "r", "3", &["bad"])]);
    let mut world = World::new(vec![cluster("a", "1"), cluster("b", "1"), naming(Route, "r", "1", &["a"])]);
    world.takes(Cluster, &["a"], &["a"]);
    world.takes(Route, &["r"], &["r"]);
    take_route(&mut world, vec![naming(Route, "r", "2", &["b"])]);
}

#[test]
fn what_waits_is_told_with_how_far_its_type_had_come_before() {
    let mut world = World::new(vec![cluster("a", "1"), resource(Route, "q", "1"), resource(Route, "r", "1")]);
    world.takes(Cluster, &[], &["a"]);
    world.takes(Route, &["q", "r"], &["q", "r"]);
    world.quiet();
    let old = world.seq();
    world.publish(vec![cluster("b", "1"), resource(Route, "q", "2"), naming(Route, "r", "2", &["b"])], &[]);
    let clusters = world.sent(Cluster, &["a", "b"]);
    let other = world.sent(Route, &["q"]);
    world.request(Route, &["q", "r"], other.nonce, None);
    world.quiet();
    let (new, state) = (world.seq(), world.state(Route));
    assert_eq!((state.acked, state.behind), (new, Some(old)));
    assert_eq!((state.acked("q", new), state.acked("r", new)), (Acked::Acked, Acked::Pending));
    world.request(Cluster, &[], clusters.nonce, None);
    let route = world.sent(Route, &["r"]);
    world.request(Route, &["q", "r"], route.nonce, None);
    world.quiet();
    let state = world.state(Route);
    assert_eq!((state.behind, state.acked("r", new)), (None, Acked::Acked));
}

#[test]
fn what_is_taken_back_removed_or_dropped_before_its_clusters_are_there_waits_no_longer() {
    for end in ["back", "gone", "dropped"] {
        for kind in [Listener, Route] {
            let mut world =
                World::new(vec![cluster("a", "1"), naming(kind, "q", "1", &[]), naming(kind, "r", "1", &[])]);
            world.takes(Cluster, &[], &["a"]);
            let first = world.takes(kind, &["q", "r"], &["q", "r"]);
            world.publish(vec![cluster("b", "1"), naming(kind, "r", "2", &["b"])], &[]);
            world.sent(Cluster, &["a", "b"]);
            world.quiet();
            assert!(world.state(kind).behind.is_some());
            let ask: &[&str] = if end == "dropped" { &["q"] } else { &["q", "r"] };
            match end {
                "back" => world.publish(vec![naming(kind, "r", "1", &[])], &[]),
                "gone" => world.publish(vec![], &[(kind, "r")]),
                _ => world.request(kind, ask, first.nonce, None),
            }
            while let Some(response) = world.poll() {
                assert_eq!(response.kind, kind);
                world.request(kind, ask, response.nonce, None);
            }
            let state = world.state(kind);
            assert_eq!((state.behind, state.pending.len()), (None, 0), "{end} {kind:?}");
        }
    }
}

#[test]
fn a_cluster_that_is_gone_stays_as_long_as_something_that_the_client_has_names_it() {
    let mut world = settled(Role::Edge);
    world.publish(vec![], &[(Cluster, "b")]);
    world.pass(Duration::from_secs(100));
    world.quiet();
    take_route(&mut world, vec![naming(Route, "r", "2", &["a"])]);
    world.pass(LINGER - Duration::from_millis(1));
    world.quiet();
    world.pass(Duration::from_millis(1));
    world.sent(Cluster, &["a"]);
}

#[test]
fn a_cluster_that_is_gone_stays_as_long_as_something_on_its_way_names_it() {
    let mut world = settled(Role::Edge);
    world.publish(vec![naming(Route, "r", "2", &["a"])], &[(Cluster, "a")]);
    let route = world.sent(Route, &["r"]);
    world.pass(Duration::from_secs(100));
    world.quiet();
    world.request(Route, &["r"], route.nonce, None);
    world.pass(Duration::from_secs(100));
    world.quiet();
    take_route(&mut world, vec![naming(Route, "r", "3", &["b"])]);
    world.pass(LINGER);
    world.sent(Cluster, &["b"]);
}

#[test]
fn the_time_to_a_removal_begins_anew_when_the_cluster_was_named_or_there_in_between() {
    for named in [true, false] {
        let mut world = settled(Role::Edge);
        world.publish(vec![], &[(Cluster, "a")]);
        world.quiet();
        world.pass(Duration::from_secs(3));
        if named {
            take_route(&mut world, vec![naming(Route, "r", "2", &["a"])]);
            take_route(&mut world, vec![naming(Route, "r", "3", &["b"])]);
        } else {
            world.publish(vec![cluster("a", "1")], &[]);
            world.quiet();
            world.publish(vec![], &[(Cluster, "a")]);
            world.quiet();
        }
        world.pass(LINGER - Duration::from_millis(1));
        world.quiet();
        world.pass(Duration::from_millis(1));
        world.sent(Cluster, &["b"]);
    }
}

#[test]
fn a_cluster_that_is_gone_leaves_though_other_things_change_all_the_time() {
    let mut world = settled(Role::Edge);
    world.publish(vec![], &[(Cluster, "a")]);
    for payload in ["1", "2", "3", "4", "5"] {
        world.quiet();
        world.pass(Duration::from_secs(1));
        world.publish(vec![resource(Endpoints, "x", payload)], &[]);
    }
    world.sent(Cluster, &["b"]);
}

#[test]
fn a_core_keeps_a_cluster_until_the_edges_have_drained_and_others_need_not() {
    for (role, wait) in [(Role::Core, Duration::from_secs(30)), (Role::Edge, LINGER)] {
        let mut world = settled(role);
        world.sites.drain_time = Duration::from_secs(30);
        world.publish(vec![], &[(Cluster, "a")]);
        world.quiet();
        world.pass(wait - Duration::from_millis(1));
        world.quiet();
        world.pass(Duration::from_millis(1));
        world.sent(Cluster, &["b"]);
    }
}

/// O19
#[test]
fn a_cluster_that_a_changed_listener_reached_stays_while_its_connections_drain() {
    let mut world = World::new(vec![cluster("a", "1"), cluster("b", "1"), naming(Listener, "l", "1", &["a"])]);
    world.takes(Cluster, &[], &["a", "b"]);
    world.takes(Listener, &[], &["l"]);
    let none = world.takes(Route, &["none"], &[]);
    world.request(Route, &["none"], none.nonce, None);
    world.publish(vec![naming(Listener, "l", "2", &["b"])], &[(Cluster, "a")]);
    let listeners = world.sent(Listener, &["l"]);
    world.request(Listener, &[], listeners.nonce, None);
    world.quiet();
    world.pass(CLIENT.drain - Duration::from_millis(1));
    world.quiet();
    world.pass(Duration::from_millis(1));
    world.sent(Cluster, &["b"]);
}

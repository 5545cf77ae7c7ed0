//! Clients that come back, and replicas that may be behind.

use super::*;
use crate::{feedback::ProxyId, serve::doubts::Doubts};

/// Another stream, of a replica that is as new as the client.
fn reconnect(world: &mut World, client: Client) {
    world.session = Session::new(client, world.now);
    world.session.trust(true);
    world.told.clear();
}

#[test]
fn versions_of_sets_tell_names_and_contents_and_their_borders_apart() {
    let of = |set: &[(&str, &'static str)]| {
        let set: Vec<_> = set.iter().map(|(name, payload)| Arc::new(cluster(name, payload))).collect();
        version_of(set.iter())
    };
    let joined = format!("a{}b", cluster("a", "1").version);
    let versions = [
        of(&[]),
        of(&[("a", "1")]),
        of(&[("b", "1")]),
        of(&[("a", "2")]),
        of(&[("a", "1"), ("b", "1")]),
        of(&[(&joined, "1")]),
    ];
    assert_eq!(BTreeSet::from(versions).len(), versions.len());
}

#[test]
fn a_client_that_has_all_counts_as_having_acknowledged_it_and_is_sent_no_equal_set() {
    let mut world = World::new(vec![cluster("a", "1"), cluster("b", "1"), naming(Route, "r", "1", &["a"])]);
    let version = world.takes(Cluster, &[], &["a", "b"]).version.to_string();
    reconnect(&mut world, CLIENT);
    world.report(Cluster, &version, &[]);
    world.quiet();
    let seq = world.seq();
    assert_eq!(world.state(Cluster).acked("a", seq), Acked::Acked);
    assert!(world.session.complete(&world.reader.view().read(), Some(Cluster)));
    world.takes(Route, &["r"], &["r"]);
    world.publish(vec![], &[(Cluster, "a")]);
    world.pass(Duration::from_secs(100));
    world.quiet();
}

#[test]
fn a_client_that_had_nothing_to_acknowledge_holds_removals_for_a_minute() {
    let mut world = World::new(vec![cluster("a", "1")]);
    let version = world.takes(Cluster, &[], &["a"]).version.to_string();
    reconnect(&mut world, CLIENT);
    let begin = world.now;
    world.report(Cluster, &version, &[]);
    world.publish(vec![naming(Route, "r", "1", &[])], &[]);
    world.quiet();
    world.publish(vec![], &[(Cluster, "a")]);
    world.quiet();
    assert_eq!(world.session.next_deadline(), Some(begin + 4 * UNREQUESTED));
    world.pass(4 * UNREQUESTED);
    world.quiet();
    world.pass(LINGER);
    world.sent(Cluster, &[]);
}

#[test]
fn what_a_client_brought_along_and_may_run_out_is_renewed_at_once() {
    let ttl = Duration::from_secs(30);
    for expires in [true, false] {
        let mut world = World::new(vec![resource(Cluster, "a", "1").lasting(ttl), cluster("b", "1")]);
        let version = world.takes(Cluster, &[], &["a", "b"]).version.to_string();
        reconnect(&mut world, Client { expires, ..CLIENT });
        world.report(Cluster, &version, &[]);
        if expires {
            let renewed = world.sent(Cluster, &["a", "b"]);
            assert!(renewed.wraps && renewed.version.to_string() == version);
        } else {
            world.pass(10 * ttl);
            world.quiet();
        }
    }
}

#[test]
fn what_may_run_out_is_renewed_while_its_new_version_waits() {
    use ResourceType::Extension;
    let lasting =
        |payload, clusters: &[&str]| naming(Extension, "e", payload, clusters).lasting(Duration::from_secs(12));
    let mut world = World::new(vec![cluster("a", "1"), lasting("1", &["a"]), resource(Extension, "f", "1")]);
    world.takes(Cluster, &[], &["a"]);
    world.takes(Listener, &[], &[]);
    world.takes(Extension, &["e", "f"], &["e", "f"]);
    world.stands();
    world.publish(vec![cluster("c", "1"), lasting("2", &["c"]), naming(Extension, "f", "2", &["c"])], &[]);
    let clusters = world.sent(Cluster, &["a", "c"]);
    for _ in 0..2 {
        world.quiet();
        world.pass(world.session.next_deadline().unwrap() - world.now);
        let renewed = world.sent(Extension, &["e"]);
        assert_eq!(&*renewed.resources[0].payload, b"1");
        // What lasts is not sent, even if the client let go of it and asks for it again.
        world.request(Extension, &["e"], renewed.nonce - 1, None);
        world.request(Extension, &["e", "f"], renewed.nonce, None);
    }
    world.request(Cluster, &[], clusters.nonce, None);
    assert_eq!(&*world.sent(Extension, &["e", "f"]).resources[0].payload, b"2");
}

#[test]
fn what_was_there_before_the_comparison_stays_while_something_sent_meanwhile_names_it() {
    let mut world = World::new(vec![cluster("a", "1"), cluster("b", "1"), naming(Route, "r", "1", &["a"])]);
    world.report(Cluster, "another", &[]);
    world.request(Listener, &[], 0, None);
    let listeners = world.sent(Listener, &[]);
    world.request(Listener, &[], listeners.nonce, None);
    world.takes(Route, &["r"], &["r"]);
    world.quiet();
    world.publish(vec![naming(Route, "r", "2", &["b"])], &[(Cluster, "a")]);
    world.quiet();
    world.session.trust(true);
    let clusters = world.sent(Cluster, &["a", "b"]);
    world.request(Cluster, &[], clusters.nonce, None);
    let route = world.sent(Route, &["r"]);
    world.request(Route, &["r"], route.nonce, None);
    world.quiet();
    world.pass(LINGER);
    let clusters = world.sent(Cluster, &["b"]);
    world.request(Cluster, &[], clusters.nonce, None);
    // What is gone at last does not come back, whatever names it.
    world.publish(vec![naming(Route, "r", "3", &["a"])], &[]);
    let route = world.sent(Route, &["r"]);
    world.request(Route, &["r"], route.nonce, None);
    world.publish(vec![cluster("c", "1")], &[]);
    world.sent(Cluster, &["b", "c"]);
}

#[test]
fn a_client_that_turns_out_to_have_all_is_given_nothing_that_was_there_before() {
    let mut world = World::new(vec![cluster("b", "1")]);
    let version = world.takes(Cluster, &[], &["b"]).version.to_string();
    world.publish(vec![cluster("a", "1"), naming(Route, "r", "1", &["a"])], &[]);
    world.session = Session::new(CLIENT, world.now);
    world.report(Cluster, &version, &[]);
    world.takes(Route, &["r"], &["r"]);
    world.quiet();
    world.publish(vec![], &[(Cluster, "a")]);
    world.session.trust(true);
    world.quiet();
    world.publish(vec![cluster("c", "1")], &[]);
    world.sent(Cluster, &["b", "c"]);
}

#[test]
fn what_went_before_the_comparison_is_told_as_missing() {
    let mut world = World::new(vec![resource(Route, "x", "1"), resource(Route, "y", "1")]);
    world.report(Route, "another", &["x", "y"]);
    world.quiet();
    world.publish(vec![], &[(Route, "x")]);
    world.session.trust(true);
    assert_eq!(world.sent(Route, &["y"]).errors, [Absent::of(Route, "x".into(), true)]);
}

#[test]
fn a_missing_name_is_told_only_by_a_replica_that_is_as_new_as_the_store() {
    let mut world = World::new(vec![]);
    world.fresh = false;
    world.request(Secret, &["x"], 0, None);
    world.quiet();
    world.fresh = true;
    assert_eq!(world.sent(Secret, &[]).errors, [Absent::of(Secret, "x".into(), true)]);
    let mut world = World::new(vec![]);
    world.session.trust(false);
    world.request(Secret, &["x"], 0, None);
    world.quiet();
}

#[test]
fn a_set_loses_nothing_while_the_replica_is_not_as_new_as_the_store() {
    for stale in [false, true] {
        let mut world = World::new(vec![resource(Listener, "l", "1"), resource(Listener, "m", "1")]);
        world.takes(Listener, &[], &["l", "m"]);
        if stale {
            world.session.trust(false);
        }
        world.fresh = stale;
        world.publish(vec![resource(Listener, "m", "2")], &[(Listener, "l")]);
        let listeners = world.sent(Listener, &["l", "m"]);
        world.request(Listener, &[], listeners.nonce, None);
        world.quiet();
        world.fresh = true;
        if stale {
            world.quiet();
        } else {
            world.sent(Listener, &["m"]);
        }
    }
}

/// Corner case 10: what is good in a refused response is live, and in no version that the client says.
#[test]
fn what_a_client_may_have_taken_in_part_leaves_it_at_its_next_stream() {
    for refuses in [true, false] {
        let doubts = Arc::new(Doubts::default());
        let proxy = ProxyId { site: "fra".into(), node: "e".into() };
        let connect = |world: &mut World, version: &str| {
            world.session = Session::new(CLIENT, world.now).doubting(doubts.of(&proxy, CLIENT.role, CLIENT.proven));
            world.session.trust(true);
            world.report(Cluster, version, &[]);
        };
        let mut world = World::new(vec![cluster("a", "1")]);
        connect(&mut world, "");
        let first = world.sent(Cluster, &["a"]);
        world.request(Cluster, &[], first.nonce, None);
        let version = first.version.to_string();
        connect(&mut world, &version);
        world.quiet();
        world.publish(vec![cluster("bad", "1"), cluster("good", "1")], &[]);
        let next = world.sent(Cluster, &["a", "bad", "good"]);
        if refuses {
            world.request(Cluster, &[], next.nonce, Some("cluster bad: no"));
        }
        world.publish(vec![], &[(Cluster, "bad"), (Cluster, "good")]);
        // A response that is lost with its stream leaves it in doubt.
        connect(&mut world, &version);
        world.sent(Cluster, &["a"]);
        connect(&mut world, &version);
        let again = world.sent(Cluster, &["a"]);
        world.request(Cluster, &[], again.nonce, None);
        connect(&mut world, &version);
        world.quiet();
    }
}

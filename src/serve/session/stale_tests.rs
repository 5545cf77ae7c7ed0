//! Replicas that may be behind: what is compared when, and what one of unknown age leaves alone.

use ResourceType::{Cluster, Endpoints, Listener, Route, Secret};

use super::{world::*, *};

const NOTHING: [&str; 0] = [];

/// A proxy that comes from another stream, and is told nothing yet.
fn moved() -> World {
    let mut world = World::running();
    world.publish(vec![resource(Secret, "s", "1")], &[]);
    world.settle();
    world.reconnect_unsure();
    world
}

#[test]
fn what_a_proxy_reports_is_compared_once_the_view_is_known_to_be_as_new() {
    let mut world = moved();
    world.report(Cluster, &[], &[("a", "0"), ("b", "1")]);
    assert_eq!(world.out(), NOTHING);
    assert!(world.session.unsure());
    // What it does not have cannot go back.
    world.subscribe(Endpoints, &["a"]);
    assert_eq!(world.out(), ["EDS +a"]);
    world.ack(Endpoints);
    assert_eq!(world.after(1000), NOTHING);
    world.session.trust(true);
    assert_eq!(world.out(), ["CDS +a", "EDS +a"]);
    assert!(!world.session.unsure() && !world.session.stale());
    // Known once, for all types: what the proxy has is older than the stream.
    world.report(Listener, &[], &[("l", "0")]);
    assert_eq!(world.out(), ["LDS +l"]);
}

#[test]
fn a_proxy_that_has_nothing_needs_no_confirmation() {
    let mut world = moved();
    world.subscribe(Cluster, &[]);
    assert_eq!(world.out(), ["CDS +a +b"]);
    assert!(!world.session.unsure());
}

#[test]
fn a_stale_replica_sends_what_is_lacking_and_leaves_other_versions_and_names_alone() {
    let mut world = moved();
    world.report(Cluster, &[], &[("a", "9"), ("newer", "1")]);
    world.report(Endpoints, &["a", "newer"], &[("a", "9"), ("newer", "1")]);
    world.report(Listener, &[], &[("newer", "1")]);
    world.report(Route, &["r", "newer"], &[("r", "9")]);
    world.session.trust(false);
    assert!(world.session.stale());
    assert_eq!(world.settle(), ["CDS +b", "LDS +l"]);
    // There may be such a name, for all that is known.
    world.subscribe(Endpoints, &["b", "unheard"]);
    assert_eq!(world.settle(), ["EDS +b"]);
    assert_eq!(world.after(10_000), NOTHING);
}

#[test]
fn a_stale_replica_sends_a_secret_again_in_an_equal_version_only() {
    for (has, sent) in [("1", vec!["SDS +s"]), ("9", vec![])] {
        let mut world = moved();
        world.report(Secret, &["s"], &[("s", has)]);
        world.session.trust(false);
        assert_eq!(world.settle(), sent, "{has}");
        // Nor behind the listener that it belongs to.
        world.subscribe(Listener, &[]);
        let behind = if has == "1" { vec!["LDS +l", "SDS +s"] } else { vec!["LDS +l"] };
        assert_eq!(world.settle(), behind);
    }
}

#[test]
fn a_name_that_is_left_alone_is_sent_when_the_proxy_has_dropped_it() {
    let mut world = moved();
    world.report(Route, &["r"], &[("r", "9")]);
    world.session.trust(false);
    world.subscribe(Route, &["r"]);
    assert_eq!(world.settle(), NOTHING);
    world.unsubscribe(Route, &["r"]);
    world.subscribe(Route, &["r"]);
    assert_eq!(world.settle(), ["RDS +r"]);
}

#[test]
fn a_stream_that_was_compared_by_a_stale_replica_removes_nothing_even_when_that_is_fresh() {
    let mut world = moved();
    world.fresh = false;
    world.report(Cluster, &[], &[("a", "1"), ("b", "1"), ("old", "1")]);
    world.report(Listener, &[], &[("l", "9"), ("old", "1")]);
    world.report(Route, &["r"], &[("r", "1")]);
    world.session.trust(false);
    assert_eq!(world.settle(), NOTHING);
    world.fresh = true;
    world.publish(vec![cluster("a", "2"), lds("2")], &[(Cluster, "b")]);
    // What it has in a version of which nothing is known waits for the comparison on the next stream.
    assert_eq!(world.settle(), ["CDS +a"]);
    assert_eq!(world.after(10_000), NOTHING);
    world.publish(vec![], &[(Listener, "l")]);
    assert_eq!(world.after(10_000), NOTHING);
}

#[test]
fn removals_and_answers_of_absence_stop_while_the_replica_is_not_fresh() {
    let mut world = World::running();
    world.publish(vec![rds("2", &["b"])], &[(Cluster, "a"), (Endpoints, "a")]);
    world.settle();
    world.fresh = false;
    world.subscribe(Endpoints, &["x"]);
    assert_eq!(world.after(1000), NOTHING);
    assert_eq!(world.session.next_deadline(), None, "nothing to wake up for");
    world.publish(vec![cluster("c", "1"), lds("2")], &[(Listener, "gone")]);
    world.publish(vec![resource(Listener, "m", "1")], &[(Listener, "l"), (Route, "r")]);
    assert_eq!(world.settle(), ["CDS +c", "LDS +m"]);
    world.publish(vec![resource(Listener, "m", "2")], &[]);
    assert_eq!(world.settle(), ["LDS +m"]);
    world.fresh = true;
    // The time that the cluster had to wait has passed meanwhile.
    assert_eq!(world.settle(), ["EDS -x", "LDS -l", "CDS -a"]);
    assert_eq!(world.after(1000), NOTHING);
}

#[test]
fn a_listener_that_is_present_again_before_the_replica_is_fresh_is_not_removed() {
    let mut world = World::running();
    world.fresh = false;
    world.publish(vec![], &[(Listener, "l")]);
    assert_eq!(world.settle(), NOTHING);
    world.publish(vec![lds("2")], &[]);
    world.fresh = true;
    assert_eq!(world.settle(), ["LDS +l"]);
}

fn complete(world: &mut World) -> bool {
    world.session.complete(&world.reader.view().read(), None)
}

#[test]
fn a_proxy_is_complete_when_it_has_acknowledged_all_that_belongs_to_it() {
    let mut world = World::running();
    assert!(complete(&mut world));
    world.publish(vec![cluster("a", "2")], &[]);
    world.settle();
    // Between the requests of a reconnect nothing is pending either.
    world.reconnect();
    assert!(!complete(&mut world));
    world.report(Cluster, &[], &[("a", "2"), ("b", "1")]);
    world.report(Endpoints, &["a", "b"], &[("a", "1"), ("b", "1")]);
    assert_eq!(world.out(), NOTHING);
    assert!(!complete(&mut world));
    world.report(Listener, &[], &[("l", "1")]);
    assert_eq!(world.out(), NOTHING);
    assert!(!complete(&mut world));
    world.report(Route, &["r"], &[("r", "0")]);
    assert_eq!(world.out(), ["RDS +r"]);
    assert!(!complete(&mut world));
    world.nack(Route, "no good");
    world.out();
    assert!(complete(&mut world), "what it refuses is told apart");
}

#[test]
fn a_proxy_becomes_complete_though_something_new_is_always_on_its_way() {
    let mut world = World::running();
    world.reconnect();
    world.subscribe(Cluster, &[]);
    world.subscribe(Listener, &[]);
    assert_eq!(world.out(), ["CDS +a +b"]);
    assert!(!complete(&mut world));
    world.publish(vec![eds("a", "2"), cluster("c", "1"), eds("c", "1")], &[]);
    world.subscribe(Endpoints, &["a", "b"]);
    assert_eq!(world.out(), ["CDS +c", "EDS +a +b"]);
    world.ack(Cluster);
    world.ack(Endpoints);
    assert_eq!(world.out(), ["LDS +l"]);
    world.ack(Listener);
    world.subscribe(Secret, &["s"]);
    assert!(!complete(&mut world), "the listener's routes are not asked for");
    world.subscribe(Route, &["r"]);
    world.publish(vec![eds("a", "3"), rds("2", &["a"])], &[]);
    world.out();
    assert!(!complete(&mut world), "they are not acknowledged");
    world.ack(Secret);
    world.ack(Route);
    world.publish(vec![eds("a", "4"), rds("3", &["a"])], &[]);
    world.out();
    // The new cluster and the newest endpoints and routes are in flight all the time.
    assert!(complete(&mut world));
}

#[test]
fn a_proxy_with_versions_of_which_nothing_is_known_is_not_complete() {
    let mut world = moved();
    for kind in [Cluster, Listener] {
        world.subscribe(kind, &[]);
    }
    world.settle();
    world.subscribe(Endpoints, &["a", "b"]);
    world.subscribe(Secret, &["s"]);
    world.settle();
    world.report(Route, &["r"], &[("r", "9")]);
    world.settle();
    assert!(!complete(&mut world));
    world.session.trust(false);
    world.settle();
    assert!(!complete(&mut world));
}

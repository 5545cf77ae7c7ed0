//! What a cursor speaks for and what it does not: responses in parts, names that stand beside it, what follows a parent,
//! and what streams share.

use std::sync::Arc;

use ResourceType::{Cluster, Endpoints, Listener, Route, Runtime, VirtualHost};

use super::{world::*, *};
use crate::{feedback::Acked, xds::Resource};

const NOTHING: [&str; 0] = [];

/// Two of them are too big for one response.
fn big(kind: ResourceType, name: &str, salt: &str) -> Resource {
    resource(kind, name, &salt.repeat(700_000))
}

fn pending(world: &mut World, kind: ResourceType) -> Vec<String> {
    let reports = world.session.reports();
    let (_, state) = reports.iter().find(|(of, _)| *of == kind).expect("something new");
    state.pending.iter().map(ToString::to_string).collect()
}

#[test]
fn nothing_new_is_told_of_a_stream_to_which_nothing_happens() {
    let mut world = World::running();
    assert!(!world.session.reports().is_empty());
    assert_eq!(world.after(10), NOTHING);
    assert!(world.session.reports().is_empty());
}

#[test]
fn a_response_in_parts_is_taken_with_its_last_one() {
    let mut world = World::new();
    world.publish(vec![big(Endpoints, "a", "1"), big(Endpoints, "b", "1")], &[]);
    world.subscribe(Endpoints, &["a", "b"]);
    assert_eq!(world.out(), ["EDS +a"]);
    world.ack(Endpoints);
    assert_eq!(world.acked(Endpoints, "b"), Acked::Pending);
    assert_eq!(world.out(), ["EDS +b"]);
    world.ack(Endpoints);
    assert_eq!(world.acked(Endpoints, "b"), Acked::Acked);
}

#[test]
fn an_assignment_in_an_earlier_part_follows_its_cluster_behind_the_last_one_and_is_told_as_pending() {
    let mut world = World::new();
    world.publish(vec![cluster("a", "1"), big(Endpoints, "a", "1"), big(Endpoints, "b", "1")], &[]);
    world.subscribe(Cluster, &[]);
    world.settle();
    world.subscribe(Endpoints, &["a", "b"]);
    assert_eq!(world.out(), ["EDS +a"]);
    world.session.reports();
    world.subscribe(Cluster, &["a"]);
    assert_eq!(world.out(), ["CDS +a"]);
    assert_eq!(pending(&mut world, Endpoints), ["a"]);
    world.ack(Endpoints);
    assert_eq!(world.out(), ["EDS +b"]);
    world.ack(Endpoints);
    assert_eq!(world.out(), ["EDS +a"]);
}

/// O28: an Envoy goes on after the first part.
#[test]
fn a_response_of_one_streams_own_is_whole_if_it_is_the_first_of_a_wildcard_or_brings_hosts() {
    let mut world = World::new();
    let listener = Resource { requires: vec![(Route, "r".into())], ..big(Listener, "l", "1") };
    world.publish(vec![cluster("a", "1"), rds("1", &["a"]), listener, big(Listener, "m", "1")], &[]);
    world.subscribe(Cluster, &[]);
    world.subscribe(Listener, &[]);
    assert_eq!(world.out(), ["CDS +a"]);
    world.ack(Cluster);
    assert_eq!(world.settle(), ["LDS +l +m"]);
    world.subscribe(Listener, &["l", "m"]);
    assert_eq!(world.settle(), ["LDS +l", "LDS +m"]);
    world.publish(vec![big(VirtualHost, "r/x", "1"), big(VirtualHost, "r/y", "1")], &[]);
    world.subscribe(VirtualHost, &[]);
    world.settle();
    world.subscribe(VirtualHost, &["r/x", "r/y"]);
    assert_eq!(world.settle(), ["VHDS +r/x +r/y"]);
}

#[test]
fn what_goes_before_the_first_response_is_not_called_removed_in_it() {
    for fresh in [true, false] {
        let mut world = World::new();
        world.publish(vec![cluster("a", "1"), lds("1"), rds("1", &["a"]), resource(Listener, "m", "1")], &[]);
        world.subscribe(Cluster, &[]);
        world.subscribe(Listener, &[]);
        assert_eq!(world.out(), ["CDS +a"], "the first response is whole, and waits for its slowest listener");
        world.fresh = fresh;
        world.publish(vec![], &[(Listener, "m")]);
        assert_eq!(world.out(), NOTHING);
        world.fresh = true;
        world.ack(Cluster);
        assert_eq!(world.out(), ["LDS +l"]);
    }
    let at = |id: &str| format!("xdstp://h/envoy.config.route.v3.RouteConfiguration/{id}");
    let mut world = World::new();
    world.publish(vec![cluster("a", "1"), resource(Route, &at("1"), "1"), resource(Route, &at("2"), "1")], &[]);
    world.subscribe(Cluster, &[]);
    world.subscribe(Route, &[&at("*")]);
    assert!(world.poll().is_some_and(|send| send.kind == Some(Cluster)));
    world.publish(vec![], &[(Route, &at("1"))]);
    assert_eq!(world.out(), [format!("RDS +{}", at("2"))]);
}

#[test]
fn a_route_that_goes_is_not_called_removed_beside_an_answer() {
    let mut world = World::running();
    world.publish(vec![resource(Route, "other", "1")], &[]);
    world.subscribe(Route, &["other"]);
    world.settle();
    world.publish(vec![], &[(Route, "r")]);
    world.subscribe(Route, &["other"]);
    assert_eq!(world.settle(), ["RDS +other"]);
}

#[test]
fn a_layer_that_goes_while_the_set_grows_is_removed() {
    let mut world = World::new();
    world.publish(vec![resource(Runtime, "rt", "1")], &[]);
    world.subscribe(Runtime, &["rt"]);
    assert_eq!(world.settle(), ["RTDS +rt"]);
    world.subscribe(Runtime, &["more"]);
    assert_eq!(world.settle(), ["RTDS -more"]);
    world.publish(vec![], &[(Runtime, "rt")]);
    assert_eq!(world.settle(), ["RTDS -rt"]);
}

#[test]
fn a_missing_route_is_called_absent_behind_the_removal_of_the_listener_that_named_it() {
    let glob = "xdstp://h/envoy.config.route.v3.RouteConfiguration/*";
    let mut world = World::running();
    world.publish(vec![lds("2")], &[]);
    assert_eq!(world.out(), ["LDS +l"]);
    world.publish(vec![], &[(Listener, "l"), (Route, "r")]);
    world.subscribe(Route, &["r", glob]);
    assert_eq!(world.out(), [format!("RDS -{glob}")], "no listener names a collection");
    world.ack(Route);
    world.ack(Listener);
    assert_eq!(world.out(), ["LDS -l", "RDS -r"]);
}

#[test]
fn a_refused_assignment_is_not_sent_again_because_its_cluster_is() {
    let mut world = World::running();
    world.publish(vec![eds("a", "2")], &[]);
    assert_eq!(world.out(), ["EDS +a"]);
    world.nack(Endpoints, "no good");
    world.publish(vec![cluster("a", "2")], &[]);
    assert_eq!(world.settle(), ["CDS +a"]);
    world.publish(vec![cluster("a", "3"), eds("b", "2")], &[]);
    assert_eq!(world.settle(), ["CDS +a", "EDS +b"]);
    world.subscribe(Cluster, &["a"]);
    assert_eq!(world.settle(), ["CDS +a"]);
}

#[test]
fn a_refusal_is_forgotten_with_its_name_and_the_same_content_may_come_again() {
    let mut world = World::running();
    world.publish(vec![eds("a", "2"), lds("2")], &[]);
    assert_eq!(world.out(), ["EDS +a", "LDS +l"]);
    world.nack(Endpoints, "no good");
    world.nack(Listener, "no good");
    world.publish(vec![], &[(Endpoints, "a"), (Listener, "l")]);
    assert_eq!(world.settle(), ["LDS -l"]);
    world.publish(vec![eds("a", "2"), lds("2")], &[]);
    assert_eq!(world.settle(), ["EDS +a", "LDS +l"]);
}

#[test]
fn suspects_of_a_refusal_wait_until_nothing_else_is_to_be_sent() {
    let mut world = World::running();
    world.publish(vec![eds("a", "2"), eds("b", "2"), eds("c", "1")], &[]);
    assert_eq!(world.out(), ["EDS +a +b"]);
    world.nack(Endpoints, "one of them is no good");
    world.subscribe(Endpoints, &["c"]);
    assert_eq!(world.settle(), ["EDS +c", "EDS +a", "EDS +b"]);
}

/// Its provider is one that begins with it.
#[test]
fn a_child_that_is_asked_for_after_its_parent_was_sent_comes_though_the_proxy_reports_it() {
    let has = [("a", "1"), ("b", "1")];
    let mut world = World::running();
    world.reconnect();
    world.report(Cluster, &[], &[("a", "0"), ("b", "1")]);
    assert_eq!(world.settle(), ["CDS +a"]);
    world.report(Endpoints, &["a", "b"], &has);
    assert_eq!(world.settle(), ["EDS +a"]);
    world.reconnect();
    world.subscribe(Cluster, &[]);
    assert_eq!(world.settle(), ["CDS +a +b"]);
    world.report(Endpoints, &["a", "b"], &has);
    assert_eq!(world.settle(), ["EDS +a +b"]);
    // Or before, but is not compared yet.
    world.reconnect_unsure();
    world.report(Endpoints, &["a", "b"], &has);
    assert_eq!(world.settle(), NOTHING);
    world.subscribe(Cluster, &[]);
    assert_eq!(world.settle(), ["CDS +a +b"]);
    world.session.trust(true);
    assert_eq!(world.settle(), ["EDS +a +b"]);
}

/// What two streams are sent for a change that asked for the same, and whether as one frame.
fn shared(
    world: &mut World,
    ask: impl Fn(&mut World),
    change: (Vec<Resource>, &[(ResourceType, &str)]),
) -> Vec<(ResourceType, bool)> {
    let fanouts = Arc::clone(&world.session.fanouts);
    let both = [0, 1].map(|_| {
        world.open.clear();
        world.session = Session::new(Arc::clone(&fanouts), client(Role::Edge), world.now);
        ask(world);
        std::mem::replace(&mut world.session, session(Role::Edge, world.now))
    });
    world.publish(change.0, change.1);
    let [one, two] = both.map(|stream| {
        world.session = stream;
        let sent = std::iter::from_fn(|| world.poll()).collect::<Vec<_>>();
        let asks = world.session.all().next().map(|state| Arc::clone(&state.subscription));
        (sent, asks, std::mem::replace(&mut world.session, session(Role::Edge, world.now)))
    });
    assert!(one.1.zip(two.1).is_some_and(|(one, two)| Arc::ptr_eq(&one, &two)), "the names are kept once");
    let frames = one.0.into_iter().zip(two.0);
    frames.map(|(one, two)| (one.kind.unwrap(), Arc::ptr_eq(&one.frame, &two.frame))).collect()
}

#[test]
fn what_follows_its_parent_as_a_change_comes_in_the_frame_that_all_get() {
    let mut world = World::running();
    let ask = |world: &mut World| {
        world.subscribe(Cluster, &[]);
        world.settle();
        world.subscribe(Endpoints, &["a", "b"]);
        world.settle();
    };
    let sent = shared(&mut world, ask, (vec![cluster("a", "2"), eds("a", "2")], &[]));
    assert_eq!(sent, [(Cluster, true), (Endpoints, true)]);
}

#[test]
fn an_assignment_that_was_absent_comes_in_the_frame_that_all_get() {
    let mut world = World::running();
    let ask = |world: &mut World| {
        world.subscribe(Endpoints, &["a", "x"]);
        assert_eq!(world.settle(), ["EDS +a -x"]);
    };
    assert_eq!(shared(&mut world, ask, (vec![eds("x", "1")], &[])), [(Endpoints, true)]);
}

#[test]
fn what_goes_goes_in_the_frame_that_all_get_who_call_it_the_same() {
    let mut world = World::running();
    let glob = "xdstp://h/envoy.config.listener.v3.Listener/*?b=2&a=1";
    for names in [&["l"][..], &["l", glob]] {
        let ask = |world: &mut World| {
            world.subscribe(Listener, names);
            world.settle();
            world.after(2);
        };
        let gone = shared(&mut world, ask, (vec![], &[(Listener, "l")]));
        assert_eq!(gone, [(Listener, true)], "{names:?}");
        world.publish(vec![lds("1")], &[]);
    }
}

//! What a proxy brings along from another stream, compared with the view; and what is told of what it has.

use std::{collections::BTreeSet, sync::Arc};

use ResourceType::{Cluster, Endpoints, Listener, Route};

use super::{world::*, *};
use crate::{
    feedback::{ProxyId, TypeState},
    model::Role,
    serve::doubts::Doubts,
};

const NOTHING: [&str; 0] = [];

fn told(world: &mut World, kind: ResourceType) -> Option<TypeState> {
    world.session.reports().into_iter().find(|(of, _)| *of == kind).map(|(_, state)| state)
}

/// Envoy keeps a route configuration that it is told to be absent.
#[test]
fn a_route_that_the_proxy_has_and_the_view_lacks_is_an_update_when_it_appears_and_any_other_is_new() {
    for (has, waits) in [(&[("r", "1"), ("x", "1")][..], true), (&[("r", "1")], false)] {
        let mut world = World::running();
        world.reconnect();
        world.report(Cluster, &[], &[("a", "1"), ("b", "1")]);
        world.report(Route, &["r", "x"], has);
        assert_eq!(world.settle(), ["RDS -x"]);
        let mut route = resource(Route, "x", "1");
        route.requires = vec![(Cluster, "c".into())];
        world.publish(vec![cluster("c", "1"), route], &[]);
        assert_eq!(world.out(), if waits { vec!["CDS +c"] } else { vec!["CDS +c", "RDS +x"] });
        world.ack(Cluster);
        assert_eq!(world.out().len(), usize::from(waits));
    }
}

#[test]
fn a_name_alone_is_compared_with_the_view_wherever_it_stands_there() {
    for (name, has) in [("a", "1"), ("b", "1"), ("b", "0"), ("c", "1")] {
        let mut world = World::running();
        world.publish(vec![cluster("c", "1")], &[]);
        world.reconnect();
        world.report(Cluster, &[name], &[(name, has)]);
        let expected = if has == "1" { vec![] } else { vec![format!("CDS +{name}")] };
        assert_eq!(world.settle(), expected, "{name}");
    }
}

#[test]
fn nothing_is_removed_that_the_stream_does_not_ask_for_though_the_proxy_may_have_it() {
    let doubts = Arc::new(Doubts::default());
    let proxy = ProxyId { site: "fra".into(), node: "e".into() };
    doubts.of(&proxy, Role::Edge, true).set(Cluster, &BTreeSet::from([Arc::from("gone")]));
    for (asked, sent) in [("a", NOTHING.to_vec()), ("*", vec!["CDS -gone"])] {
        let mut world = World::running();
        world.reconnect();
        world.session.doubt = Some(doubts.of(&proxy, Role::Edge, true));
        world.report(Cluster, &[asked], &[("a", "1"), ("b", "1")]);
        world.settle();
        assert_eq!(world.after(1000), sent, "{asked}");
    }
}

#[test]
fn a_cluster_that_is_gone_goes_in_its_order_also_if_it_is_asked_for_by_name_beside_the_wildcard() {
    let mut world = World::running();
    world.reconnect();
    world.report(Cluster, &["*", "x"], &[("a", "1"), ("b", "1"), ("x", "1")]);
    world.report(Listener, &[], &[("l", "1")]);
    world.report(Route, &["r"], &[("r", "1")]);
    assert_eq!(world.settle(), NOTHING);
    assert_eq!(world.after(4), NOTHING);
    assert_eq!(world.after(1), ["CDS -x"]);
}

#[test]
fn a_collection_or_wildcard_of_a_type_that_is_never_removed_is_told_what_is_gone() {
    let at = |id: &str| format!("xdstp://h/envoy.config.route.v3.RouteConfiguration/{id}");
    for asked in [&at("f/*"), "*"] {
        let mut world = World::running();
        world.publish(vec![resource(Route, &at("f/1"), "1")], &[]);
        world.reconnect();
        world.report(Route, &[asked], &[("r", "1"), (&at("f/1"), "1"), (&at("f/2"), "1")]);
        assert_eq!(world.settle(), [format!("RDS -{}", at("f/2"))], "{asked}");
        world.publish(vec![], &[(Route, &at("f/1"))]);
        assert_eq!(world.settle(), [format!("RDS -{}", at("f/1"))], "as one that goes later");
    }
}

/// Connections of the listener as the proxy had it may still drain.
#[test]
fn a_listener_in_another_version_keeps_the_clusters_that_are_gone_for_the_drain_time() {
    let mut world = World::running();
    world.reconnect();
    world.report(Cluster, &[], &[("a", "1"), ("b", "1"), ("old", "1")]);
    world.report(Listener, &[], &[("l", "0")]);
    world.report(Route, &["r"], &[("r", "1")]);
    assert_eq!(world.settle(), ["LDS +l"]);
    assert_eq!(world.after(599), NOTHING);
    assert_eq!(world.after(1), ["CDS -old"]);
}

#[test]
fn a_wildcard_that_comes_before_the_comparison_is_compared_too() {
    let mut world = World::running();
    world.reconnect_unsure();
    world.report(Cluster, &["a"], &[("a", "1")]);
    world.subscribe(Cluster, &["*"]);
    assert_eq!(world.out(), NOTHING);
    world.session.trust(true);
    assert_eq!(world.out(), ["CDS +b"]);
}

#[test]
fn a_name_that_a_stale_replica_leaves_alone_does_not_keep_the_stream_awake() {
    let mut world = World::running();
    world.reconnect_unsure();
    world.report(Route, &["r"], &[("r", "9")]);
    world.session.trust(false);
    assert_eq!(world.settle(), NOTHING);
    assert_eq!(world.after(1), NOTHING);
    assert!(world.session.follows().is_some());
}

#[test]
fn what_a_proxy_has_is_told_once_it_is_compared_and_then_not_again() {
    let mut world = World::running();
    world.reconnect_unsure();
    world.report(Route, &["r"], &[("r", "1")]);
    assert_eq!(world.out(), NOTHING);
    assert_eq!(told(&mut world, Route).unwrap().acked, Seq(0));
    world.session.trust(true);
    assert_eq!(world.out(), NOTHING);
    assert_eq!(told(&mut world, Route).unwrap().acked, world.reader.view().read().seq());
    assert_eq!(told(&mut world, Route), None);
}

#[test]
fn what_is_on_its_way_is_told_before_it_is_answered() {
    let mut world = World::running();
    let before = told(&mut world, Endpoints).unwrap();
    world.publish(vec![eds("a", "2")], &[]);
    assert_eq!(world.out(), ["EDS +a"]);
    let after = told(&mut world, Endpoints).unwrap();
    assert_eq!((after.sent, after.acked), (world.reader.view().read().seq(), before.acked));
}

#[test]
fn what_is_not_asked_for_any_more_is_told_though_nothing_is_sent() {
    let mut world = World::running();
    told(&mut world, Endpoints);
    world.unsubscribe(Endpoints, &["b"]);
    assert_eq!(world.out(), NOTHING);
    let asked = told(&mut world, Endpoints).unwrap().subscription;
    assert!(asked.contains("a") && !asked.contains("b"));
}

#[test]
fn a_stream_has_all_of_a_moment_when_what_is_held_back_since_then_was_taken_then() {
    let mut world = World::running();
    let before = world.reader.view().read().seq();
    world.publish(vec![cluster("c", "1"), rds("2", &["c"])], &[]);
    assert_eq!(world.out(), ["CDS +c"]);
    let routes = world.session.kind(Route).unwrap();
    assert!(routes.has(before) && !routes.has(Seq(before.0 + 1)));
}

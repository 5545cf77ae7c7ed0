//! Subscriptions that change while a stream runs.

use std::sync::Arc;

use ResourceType::{Cluster, Endpoints, Listener, Route, Runtime};

use crate::{
    serve::session::{Request, Seq, world::*},
    xds::{Resource, ResourceType},
};

const NOTHING: [&str; 0] = [];

fn listener(id: &str) -> String {
    format!("xdstp://h/envoy.config.listener.v3.Listener/{id}")
}

fn routes(id: &str, payload: &str, clusters: &[&str]) -> Resource {
    let name = format!("xdstp://h/envoy.config.route.v3.RouteConfiguration/{id}");
    Resource { requires: rds(payload, clusters).requires, ..resource(Route, &name, payload) }
}

/// Asks for names and lets go of them in one request, which is not the first.
fn at_once(world: &mut World, kind: ResourceType, names: &[&str]) {
    world.request(kind, Request { subscribe: owned(names), unsubscribe: owned(names), ..Request::default() });
}

/// A stream that is in the group of those that ask for cluster `a` by name.
fn grouped() -> World {
    let mut world = World::new();
    world.publish(vec![resource(Cluster, "a", "1"), resource(Cluster, "b", "1")], &[]);
    world.subscribe(Cluster, &["a"]);
    world.settle();
    world.after(1);
    world
}

#[test]
fn after_the_wildcard_comes_whatever_is_published_and_not_what_was_asked_for_before() {
    let mut world = grouped();
    world.subscribe(Cluster, &["*"]);
    assert_eq!(world.settle(), ["CDS +a +b"]);
    world.publish(vec![resource(Cluster, "c", "1")], &[]);
    assert_eq!(world.settle(), ["CDS +c"]);
}

#[test]
fn a_wildcard_or_collection_that_ends_in_its_own_request_is_not_answered() {
    let mut world = grouped();
    at_once(&mut world, Cluster, &["*"]);
    assert_eq!(world.settle(), ["CDS +a"], "which is asked for by name");
    let mut world = World::new();
    world.publish(vec![], &[]);
    world.subscribe(Cluster, &["a"]);
    assert_eq!(world.settle(), ["CDS -a"]);
    at_once(&mut world, Cluster, &["*"]);
    assert_eq!(world.settle(), NOTHING);
    world.publish(vec![resource(Listener, &listener("f/1"), "1"), resource(Listener, "l", "1")], &[]);
    world.subscribe(Listener, &["l"]);
    assert_eq!(world.settle(), ["LDS +l"]);
    at_once(&mut world, Listener, &[&listener("f/*")]);
    assert_eq!(world.settle(), NOTHING);
}

#[test]
fn a_collection_that_is_asked_for_later_is_answered_though_it_is_empty() {
    let mut world = World::running();
    let (glob, member) = (listener("f/*"), listener("f/1"));
    world.subscribe(Listener, &[&glob]);
    assert_eq!(world.settle(), [format!("LDS -{glob}")]);
    world.publish(vec![resource(Listener, &member, "1")], &[]);
    assert_eq!(world.settle(), [format!("LDS +{member}")]);
}

#[test]
fn of_a_collection_that_is_asked_for_later_the_new_members_are_new_and_those_that_are_there_are_not() {
    let mut world = World::new();
    let [one, two, three] = ["f/1", "f/2", "f/3"].map(|id| routes(id, "1", &[]).name);
    world.publish(vec![routes("f/1", "1", &[])], &[]);
    world.publish(vec![routes("f/2", "1", &[])], &[]);
    let created = world.reader.view().read().seq();
    world.publish(vec![resource(Cluster, "a", "1")], &[]);
    world.subscribe(Cluster, &[]);
    world.subscribe(Route, &[&one]);
    world.settle();
    world.after(1);
    let news = vec![resource(Cluster, "c", "1"), routes("f/1", "2", &["c"]), routes("f/2", "2", &["c"])];
    world.publish(news, &[]);
    assert_eq!(world.out(), ["CDS +c"]);
    world.subscribe(Route, &["xdstp://h/envoy.config.route.v3.RouteConfiguration/f/*"]);
    assert_eq!(world.out(), [format!("RDS +{two}")], "an update waits for the cluster");
    let reports = world.session.reports();
    let (_, told) = reports.iter().find(|(kind, _)| *kind == Route).unwrap();
    assert_eq!(told.behind, Some(Seq(created.0 - 1)), "nothing of the new one is taken");
    world.ack(Route);
    world.ack(Cluster);
    assert_eq!(world.settle(), [format!("RDS +{one}")]);
    world.publish(vec![routes("f/3", "1", &[])], &[]);
    assert_eq!(world.settle(), [format!("RDS +{three}")]);
}

#[test]
fn the_rest_of_a_response_that_was_split_is_not_sent_when_nothing_is_asked_for_any_more() {
    let mut world = World::new();
    world.publish(["a", "b"].map(|name| eds(name, &"x".repeat(700_000))).to_vec(), &[]);
    world.subscribe(Endpoints, &["a", "b"]);
    assert_eq!(world.out(), ["EDS +a"]);
    world.unsubscribe(Endpoints, &["a", "b"]);
    assert_eq!(world.settle(), NOTHING);
    world.subscribe(Endpoints, &["b"]);
    assert_eq!(world.settle(), ["EDS +b"]);
}

#[test]
fn a_name_is_answered_in_the_spelling_in_which_it_was_asked_for_last() {
    let mut world = World::running();
    let [odd, normal] = ["no?b=2&a=1", "no?a=1&b=2"].map(listener);
    world.subscribe(Endpoints, &[&odd]);
    assert_eq!(world.settle(), [format!("EDS -{odd}")]);
    world.subscribe(Endpoints, &[&normal]);
    assert_eq!(world.settle(), [format!("EDS -{normal}")]);
    world.subscribe(Endpoints, &[&odd]);
    world.unsubscribe(Endpoints, &[&odd]);
    assert!(world.session.kinds.get(Endpoints).as_ref().unwrap().spelled.is_empty());
}

#[test]
fn what_goes_is_called_as_it_was_asked_for() {
    for kind in [Listener, Runtime] {
        let at = |id: &str| format!("xdstp://h/{}/{id}", kind.url().trim_start_matches("type.googleapis.com/"));
        let [odd, normal] = ["x?b=2&a=1", "x?a=1&b=2"].map(at);
        let mut world = World::new();
        world.publish(vec![resource(kind, &normal, "1"), resource(kind, "plain", "1")], &[]);
        world.subscribe(kind, &[&odd, "plain"]);
        world.settle();
        world.after(2);
        world.publish(vec![], &[(kind, &normal), (kind, "plain")]);
        assert_eq!(world.out(), [format!("{} -plain -{odd}", kind.short())]);
    }
}

#[test]
fn strangers_are_names_to_be_answered_that_neither_the_view_nor_the_subscription_has() {
    let mut world = World::running();
    world.publish(vec![], &[(Cluster, "b")]);
    world.out();
    world.subscribe(Cluster, &["asked"]);
    world.unsubscribe(Cluster, &["a", "stranger"]);
    let state = world.session.kinds.get(Cluster).as_ref().unwrap();
    let exceptions: Vec<_> = state.exceptions.keys().map(Arc::to_string).collect();
    assert_eq!(exceptions, ["a", "asked", "b", "stranger"]);
    assert_eq!(state.strangers(&world.reader.view().read()), 1);
}

//! Refusals: since when, what else stood in the response, and what the proxy may have taken all the same.

use std::{collections::BTreeSet, sync::Arc};

use ResourceType::{Cluster, Endpoints, Listener, Route, Runtime};

use super::{world::*, *};
use crate::{feedback::ProxyId, model::Role, serve::doubts::Doubts};

const NOTHING: [&str; 0] = [];

/// Since when `r` is refused, as it is told, and when its content was published.
fn refused(world: &mut World) -> (Seq, Seq) {
    let reports: BTreeMap<_, _> = world.session.reports().into_iter().collect();
    (reports[&Route].parked["r"].since, world.reader.view().read().get(Route, "r").unwrap().content)
}

#[test]
fn a_refusal_is_of_the_content_that_was_sent_whatever_is_published_before_its_answer() {
    let mut world = World::running();
    world.publish(vec![rds("2", &["b"])], &[]);
    world.out();
    world.publish(vec![cluster("b", "2")], &[]);
    world.nack(Route, "no good");
    let (since, content) = refused(&mut world);
    assert_eq!(since, content);
    assert!(content < world.reader.view().read().seq());
}

#[test]
fn refusals_of_a_name_are_counted_anew_when_it_was_not_asked_for_meanwhile() {
    let mut world = World::running();
    world.publish(vec![rds("2", &["b"])], &[]);
    world.out();
    world.nack(Route, "no good");
    let (before, _) = refused(&mut world);
    world.unsubscribe(Route, &["r"]);
    world.publish(vec![rds("3", &["b"])], &[]);
    world.subscribe(Route, &["r"]);
    assert_eq!(world.out(), ["RDS +r"]);
    world.nack(Route, "no good");
    let (since, content) = refused(&mut world);
    assert_eq!(since, content);
    assert!(since > before);
}

#[test]
fn what_went_in_a_response_that_was_refused_for_something_else_is_removed_again() {
    let mut world = World::running();
    world.publish(vec![resource(Listener, "m", "1")], &[(Listener, "l")]);
    assert_eq!(world.out(), ["LDS +m -l"]);
    world.nack(Listener, "m: no good");
    assert_eq!(world.settle(), ["LDS -l"]);
    world.publish(vec![resource(Runtime, "one", "1"), resource(Runtime, "two", "1")], &[]);
    world.subscribe(Runtime, &["one", "two"]);
    world.settle();
    world.publish(vec![resource(Runtime, "one", "2")], &[(Runtime, "two")]);
    assert_eq!(world.out(), ["RTDS +one -two"]);
    world.nack(Runtime, "one: no good");
    assert_eq!(world.settle(), ["RTDS -two"]);
}

#[test]
fn an_absent_name_of_a_refused_response_is_answered_when_it_is_asked_for_again() {
    let mut world = World::running();
    world.publish(vec![eds("y", "1")], &[]);
    world.subscribe(Endpoints, &["x", "y"]);
    assert_eq!(world.out(), ["EDS +y -x"]);
    world.nack(Endpoints, "y: no good");
    assert_eq!(world.settle(), NOTHING);
    world.subscribe(Endpoints, &["x"]);
    assert_eq!(world.settle(), ["EDS -x"]);
}

#[test]
fn a_refusal_of_what_a_later_response_replaces_leaves_the_judgement_to_the_answer_to_that() {
    let mut world = World::running();
    for (name, payload) in [("a", "2"), ("b", "2"), ("a", "3")] {
        world.publish(vec![resource(Cluster, name, payload)], &[]);
        assert_eq!(world.out(), [format!("CDS +{name}")]);
    }
    let parked = |world: &mut World| {
        let reports: BTreeMap<_, _> = world.session.reports().into_iter().collect();
        reports[&Cluster].parked.keys().map(ToString::to_string).collect::<Vec<_>>()
    };
    world.nack(Cluster, "no");
    assert_eq!(parked(&mut world), NOTHING);
    world.nack(Cluster, "no");
    assert_eq!(parked(&mut world), ["b"]);
    assert_eq!(world.settle(), NOTHING);
    world.ack(Cluster);
    assert_eq!(parked(&mut world), ["b"]);
}

#[test]
fn a_removal_that_is_refused_is_not_tried_again() {
    let mut world = World::running();
    world.publish(vec![], &[(Listener, "l")]);
    assert_eq!(world.out(), ["LDS -l"]);
    world.nack(Listener, "it is mine");
    assert_eq!(world.settle(), NOTHING);
}

#[test]
fn in_doubt_is_what_stood_with_others_in_a_refused_response_until_its_own_answer() {
    let doubts = Arc::new(Doubts::default());
    let proxy = ProxyId { site: "fra".into(), node: "e".into() };
    let mut world = World::running();
    world.session.doubt = Some(doubts.of(&proxy, Role::Edge, true));
    let doubted = |kind| doubts.of(&proxy, Role::Edge, true).names(kind);
    let names = |names: &[&str]| names.iter().map(|name| Arc::from(*name)).collect::<BTreeSet<Arc<str>>>();
    world.publish(vec![resource(Cluster, "bad", "1"), resource(Cluster, "good", "1")], &[]);
    assert_eq!(world.out(), ["CDS +bad +good"]);
    world.nack(Cluster, "bad: no");
    assert_eq!(doubted(Cluster), names(&["bad", "good"]));
    assert_eq!(world.out(), ["CDS +good", "CDS +bad"]);
    world.ack(Cluster);
    assert_eq!(doubted(Cluster), names(&["bad"]));
    world.nack(Cluster, "bad: no");
    assert_eq!(doubted(Cluster), names(&[]), "refused alone, it is not there");
    // Of types that are asked for by name nothing stays at a proxy that does not ask for it.
    world.publish(vec![eds("x", "1"), eds("y", "1")], &[]);
    world.subscribe(Endpoints, &["x", "y"]);
    assert_eq!(world.out(), ["EDS +x +y"]);
    world.nack(Endpoints, "x: no");
    assert_eq!(doubted(Endpoints), names(&[]));
}

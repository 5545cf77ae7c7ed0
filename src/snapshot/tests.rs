//! Claims about publishes, tombstones, the log and interest.

mod waiting;

use std::{sync::Arc, time::Duration};

use super::*;
use crate::{
    model::{Kind, ObjectRef, Role},
    xds::{ANY_SCOPE, ServiceNeed, Source},
};

fn audience() -> Audience {
    Audience { site: "fra".into(), role: Role::Edge, proven: true, cohort: "".into(), delta: true }
}

fn resource(kind: ResourceType, name: &str, payload: &'static str) -> Resource {
    Resource::new(kind, name, payload.as_bytes().into())
}

fn up(resources: Vec<Resource>) -> Publish {
    Publish { upserts: resources.into_iter().map(Arc::new).collect(), removals: vec![] }
}

fn down(kind: ResourceType, name: &str) -> Publish {
    Publish { upserts: vec![], removals: vec![(kind, name.into())] }
}

fn names(content: &Content, kind: ResourceType, from: u64) -> Vec<String> {
    content.changed(kind, Seq(from)).iter().map(ToString::to_string).collect()
}

use ResourceType::{Cluster, Endpoints, Extension, Listener, Route, ScopedRoute, Secret};

#[test]
fn a_view_is_pending_until_its_first_publish_and_equal_versions_change_nothing() {
    let views = Views::default();
    let reader = views.open(&audience());
    let view = reader.view();
    assert!(!view.read().ready());
    let mut woken = view.subscribe();
    view.publish(Seq(1), Revision(7), Publish::default());
    assert!(view.read().ready() && woken.has_changed().unwrap());
    view.publish(Seq(2), Revision(8), up(vec![resource(Cluster, "a", "1")]));
    woken.mark_unchanged();
    view.publish(Seq(3), Revision(9), up(vec![resource(Cluster, "a", "1")]));
    assert!(!woken.has_changed().unwrap());
    assert_eq!((view.revision(), view.read().get(Cluster, "a").unwrap().seq), (Revision(9), Seq(2)));
}

#[test]
fn a_changed_parent_logs_its_children_again() {
    let views = Views::default();
    let reader = views.open(&audience());
    let view = reader.view();
    let cluster = |payload| {
        let mut c = resource(Cluster, "a", payload);
        c.children = vec![(Endpoints, "a".into())];
        c
    };
    view.publish(Seq(1), Revision(1), up(vec![cluster("1"), resource(Endpoints, "a", "e")]));
    view.publish(Seq(2), Revision(2), up(vec![cluster("2")]));
    let content = view.read();
    assert_eq!(names(&content, Endpoints, 1), ["a"]);
    let entry = content.get(Endpoints, "a").unwrap();
    assert_eq!((entry.seq, entry.content, entry.created), (Seq(2), Seq(1), Seq(1)));
}

#[test]
fn a_cluster_that_a_changed_listener_reached_leaves_a_draining_tombstone() {
    let views = Views::default();
    let reader = views.open(&audience());
    let view = reader.view();
    let mut listener = resource(Listener, "l", "1");
    listener.requires = vec![(Route, "r".into())];
    let mut route = resource(Route, "r", "1");
    route.requires = vec![(Cluster, "a".into())];
    let clusters = vec![resource(Cluster, "a", "1"), resource(Cluster, "b", "1")];
    view.publish(Seq(1), Revision(1), up([clusters, vec![listener, route]].concat()));
    view.publish(Seq(2), Revision(2), up(vec![resource(Listener, "l", "2")]));
    view.publish(Seq(3), Revision(3), down(Cluster, "a"));
    view.publish(Seq(4), Revision(4), down(Cluster, "b"));
    let tombstone = |seq, drain| Some(Tombstone { seq: Seq(seq), created: Seq(1), drain, revision: Revision(seq) });
    assert_eq!(view.read().tombstone(Cluster, "a"), tombstone(3, true));
    assert_eq!(view.read().tombstone(Cluster, "b"), tombstone(4, false));
}

#[test]
fn what_a_listener_reaches_is_found_through_all_scopes_and_a_ring_of_names_is_followed_once() {
    let views = Views::default();
    let reader = views.open(&audience());
    let view = reader.view();
    let naming = |kind, name, requires: &[(ResourceType, &str)]| {
        let requires = requires.iter().map(|(kind, name)| (*kind, (*name).into())).collect();
        Resource { requires, ..resource(kind, name, "1") }
    };
    let listener = naming(Listener, "l", &[(Extension, "x"), (ScopedRoute, ANY_SCOPE)]);
    let all = vec![
        naming(Extension, "x", &[(Cluster, "a"), (Extension, "x")]),
        naming(ScopedRoute, "one", &[(Route, "r")]),
        naming(Route, "r", &[(Cluster, "b"), (Listener, "l")]),
        listener.clone(),
    ];
    view.publish(Seq(1), Revision(1), up(all));
    let mut reached = Vec::new();
    view.read().reach(&listener, &mut |cluster| reached.push(cluster.to_string()));
    assert_eq!(reached, ["a", "b"]);
}

#[test]
fn a_name_present_again_voids_its_tombstone_and_is_new() {
    let views = Views::default();
    let reader = views.open(&audience());
    let view = reader.view();
    view.publish(Seq(1), Revision(1), up(vec![resource(Cluster, "a", "1")]));
    view.publish(Seq(2), Revision(2), down(Cluster, "a"));
    assert_eq!(view.read().gone(Cluster, Seq(1)).count(), 1);
    view.publish(Seq(3), Revision(3), up(vec![resource(Cluster, "a", "1")]));
    assert_eq!(view.read().gone(Cluster, Seq(0)).count(), 0);
    assert_eq!(view.read().get(Cluster, "a").unwrap().created, Seq(3));
}

#[test]
fn tombstones_stay_until_every_stream_has_passed_them() {
    let views = Views::default();
    let (slow, fast) = (views.open(&audience()), views.open(&audience()));
    let view = slow.view();
    view.publish(Seq(1), Revision(1), up(vec![resource(Cluster, "a", "1")]));
    view.publish(Seq(2), Revision(2), down(Cluster, "a"));
    fast.pass(Seq(2));
    view.publish(Seq(3), Revision(3), Publish::default());
    assert!(view.read().tombstone(Cluster, "a").is_some());
    slow.pass(Seq(2));
    view.publish(Seq(4), Revision(4), Publish::default());
    assert!(view.read().tombstone(Cluster, "a").is_none());
}

#[test]
fn a_cursor_older_than_the_log_is_answered_by_a_scan() {
    let views = Views::default();
    let reader = views.open(&audience());
    let view = reader.view();
    view.publish(Seq(1), Revision(1), up(vec![resource(Cluster, "first", "1"), resource(Cluster, "old", "1")]));
    for i in 0..5000_u64 {
        let payload = i.to_string().into_bytes();
        let one = Resource::new(Cluster, "first", payload.into());
        view.publish(Seq(2 + i), Revision(1), up(vec![one]));
    }
    let content = view.read();
    assert_eq!(names(&content, Cluster, 1), ["first"]);
    assert_eq!(names(&content, Cluster, 0), ["first", "old"]);
    assert_eq!(names(&content, Cluster, 5000), ["first"]);
    assert!(names(&content, Cluster, 5001).is_empty());
}

#[test]
fn an_unproven_audience_sees_no_secret() {
    let views = Views::default();
    let reader = views.open(&Audience { proven: false, ..audience() });
    reader.view().publish(Seq(1), Revision(1), up(vec![resource(Secret, "s", "key")]));
    assert!(reader.view().read().get(Secret, "s").is_none());
}

#[tokio::test]
async fn opening_a_view_asks_for_it_once_and_an_idle_one_is_closed() {
    let views = Views::default();
    let reader = views.open(&audience());
    let _second = views.open(&audience());
    assert_eq!(views.interest().await, [audience()]);
    let now = Instant::now();
    assert!(views.idle(now + Duration::from_secs(3600)).is_empty());
    drop((reader, _second));
    assert!(views.idle(now).is_empty());
    assert!(views.idle(now + Duration::from_secs(599)).is_empty());
    drop(views.open(&audience()));
    assert!(views.idle(now + Duration::from_secs(600)).is_empty(), "somebody read it meanwhile");
    assert!(views.idle(now + Duration::from_secs(1199)).is_empty());
    assert_eq!(views.idle(now + Duration::from_secs(1200)), [audience()]);
    assert!(views.get(&audience()).is_none());
}

/// A resource of these Services, each with what it contributes.
fn made_of(kind: ResourceType, name: &str, payload: &'static str, sources: &[(&str, u64)]) -> Resource {
    let source = |(name, contribution): &(&str, u64)| Source { object: service(name), contribution: *contribution };
    let mut sources: Vec<Source> = sources.iter().map(source).collect();
    sources.sort();
    Resource { sources, ..resource(kind, name, payload) }
}

fn service(name: &str) -> ObjectRef {
    ObjectRef::new(Kind::Service, "a", name)
}

/// Each carrier of a Service as `CDS name`, when the Service last contributed to it, and when its content changed.
fn carriers(view: &View, of: &str) -> Vec<(String, u64, u64)> {
    let content = view.read();
    let told = |(name, entry, contributed): (&Arc<str>, &Entry, Seq)| {
        (format!("{} {name}", entry.resource.kind.short()), contributed.0, entry.content.0)
    };
    content.carriers(&service(of)).map(told).collect()
}

#[test]
fn an_object_is_carried_by_all_that_came_from_it_until_that_goes_or_comes_from_others() {
    let views = Views::default();
    let reader = views.open(&audience());
    let view = reader.view();
    let cluster = made_of(Cluster, "c", "1", &[("s", 1)]);
    view.publish(Seq(1), Revision(1), up(vec![cluster, made_of(Route, "r", "1", &[("s", 1), ("t", 1)])]));
    assert_eq!(carriers(view, "s"), [("CDS c".to_owned(), 1, 1), ("RDS r".to_owned(), 1, 1)]);
    assert_eq!(carriers(view, "t"), [("RDS r".to_owned(), 1, 1)]);
    assert_eq!(carriers(view, "stranger"), []);
    view.publish(Seq(2), Revision(2), up(vec![made_of(Route, "r", "2", &[("t", 1)])]));
    assert_eq!(carriers(view, "s"), [("CDS c".to_owned(), 1, 1)]);
    view.publish(Seq(3), Revision(3), down(Cluster, "c"));
    assert_eq!(carriers(view, "s"), []);
}

#[test]
fn only_who_says_something_new_contributed_to_a_change() {
    let views = Views::default();
    let reader = views.open(&audience());
    let view = reader.view();
    view.publish(Seq(1), Revision(1), up(vec![made_of(Route, "r", "1", &[("s", 1), ("t", 1)])]));
    // `t` changes, `u` joins before it, `s` stays as it was.
    view.publish(Seq(2), Revision(2), up(vec![made_of(Route, "r", "2", &[("s", 1), ("u", 7), ("t", 2)])]));
    let contributed = |of| carriers(view, of).first().map(|(_, contributed, content)| (*contributed, *content));
    assert_eq!(contributed("s"), Some((1, 2)));
    assert_eq!(contributed("t"), Some((2, 2)));
    assert_eq!(contributed("u"), Some((2, 2)));
    // Who leaves changes the content, and nobody who stays is to blame for it.
    view.publish(Seq(3), Revision(3), up(vec![made_of(Route, "r", "3", &[("s", 1), ("t", 2)])]));
    assert_eq!((contributed("s"), contributed("t"), contributed("u")), (Some((1, 3)), Some((2, 3)), None));
    // Who comes back is new again.
    view.publish(Seq(4), Revision(4), up(vec![made_of(Route, "r", "2", &[("s", 1), ("u", 7), ("t", 2)])]));
    assert_eq!((contributed("t"), contributed("u")), (Some((2, 4)), Some((4, 4))));
}

#[test]
fn equal_bytes_from_other_objects_are_not_sent_again_but_carry_them() {
    let views = Views::default();
    let reader = views.open(&audience());
    let view = reader.view();
    view.publish(Seq(1), Revision(1), up(vec![made_of(Cluster, "c", "1", &[("s", 1)])]));
    view.publish(Seq(2), Revision(2), up(vec![made_of(Cluster, "c", "1", &[("t", 1)])]));
    assert!(names(&view.read(), Cluster, 1).is_empty());
    assert_eq!(carriers(view, "s"), []);
    assert_eq!(carriers(view, "t"), [("CDS c".to_owned(), 2, 1)]);
}

#[test]
fn what_was_acknowledged_covers_every_publish_that_changed_nothing_since() {
    let views = Views::default();
    let reader = views.open(&audience());
    let view = reader.view();
    let at = |revision, configuration| Origin { revision: Revision(revision), configuration: Revision(configuration) };
    view.publish(Seq(1), at(10, 10), up(vec![resource(Cluster, "a", "1")]));
    view.publish(Seq(2), at(20, 20), up(vec![resource(Cluster, "a", "1")]));
    view.publish(Seq(3), at(30, 30), up(vec![resource(Cluster, "a", "2")]));
    // An endpoint that came, and what the fleet writes about itself, are no configuration.
    view.publish(Seq(4), at(40, 30), up(vec![resource(Endpoints, "a", "1")]));
    view.publish(Seq(5), at(50, 30), Publish::default());
    let content = view.read();
    let covers = [0, 1, 2, 3, 4, 9].map(|seq| content.covers(Seq(seq)).0);
    assert_eq!(covers, [0, 20, 20, 30, 30, 30]);
    assert_eq!(content.revision(), Revision(50));
}

#[test]
fn whoever_is_further_behind_than_is_remembered_has_come_nowhere() {
    let views = Views::default();
    let reader = views.open(&audience());
    let view = reader.view();
    let payloads: [&str; 2] = ["1", "2"];
    for seq in 1..=1500 {
        view.publish(Seq(seq), Revision(seq), up(vec![resource(Cluster, "a", payloads[seq as usize % 2])]));
    }
    let covers = [3, 475, 476, 1000, 1500].map(|seq| view.read().covers(Seq(seq)).0);
    assert_eq!(covers, [0, 0, 476, 1000, 1500]);
}

#[test]
fn a_service_is_named_since_the_publish_that_brought_it_into_its_group() {
    let views = Views::default();
    let reader = views.open(&audience());
    let view = reader.view();
    let route = |payload, services: &[(&str, &str)]| {
        let need = |(service, group): &(&str, &str)| ServiceNeed {
            service: (*service).into(),
            group: (*group).into(),
            sites: Vec::new(),
        };
        let mut route = resource(Route, "r", payload);
        route.services = services.iter().map(need).collect();
        route
    };
    let since = || view.read().get(Route, "r").unwrap().needs().map(|(_, since)| since.0).collect::<Vec<_>>();
    view.publish(Seq(1), Revision(1), up(vec![route("1", &[("a", "g")])]));
    view.publish(Seq(2), Revision(2), up(vec![route("2", &[("a", "g"), ("b", "g")])]));
    assert_eq!(since(), [1, 2]);
    view.publish(Seq(3), Revision(3), up(vec![route("3", &[("a", "h"), ("b", "g")])]));
    assert_eq!(since(), [3, 2]);
    view.publish(Seq(4), Revision(4), up(vec![route("4", &[("b", "g")])]));
    view.publish(Seq(5), Revision(5), up(vec![route("5", &[("a", "h"), ("b", "g")])]));
    assert_eq!(since(), [5, 2]);
}

#[tokio::test]
async fn one_probe_answers_all_that_asked_before_it_began_and_nobody_who_asked_later() {
    let views = Views::default();
    let (one, two) = (views.confirm(), views.confirm());
    let probe = views.probe().await;
    let late = views.confirm();
    tokio::pin!(late);
    views.confirmed(probe, true);
    assert!(one.await && two.await);
    let soon = tokio::time::timeout(Duration::from_millis(1), &mut late).await;
    assert!(soon.is_err(), "the probe began before the question");
    let next = views.probe().await;
    assert_eq!(next, probe + 1);
    views.confirmed(next, false);
    assert!(!late.await);
    let nobody = tokio::time::timeout(Duration::from_millis(1), views.probe()).await;
    assert!(nobody.is_err(), "nobody asks");
    let lost = views.confirm();
    drop(views);
    assert!(!lost.await);
}

//! Rules of the protocol as tables: what is asked, published and answered, and what goes out then.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ResourceType::{Cluster, Endpoints, Extension, Listener, Route, Runtime, ScopedRoute, Secret, VirtualHost};

use super::{world::*, *};
use crate::{
    feedback::Acked,
    xds::{ANY_SCOPE, Resource},
};

const NOTHING: [&str; 0] = [];

#[test]
fn a_pending_view_answers_every_question_with_silence() {
    let mut world = World::new();
    world.subscribe(Cluster, &[]);
    world.subscribe(Endpoints, &["a", "x"]);
    assert_eq!(world.out(), NOTHING);
    world.publish(vec![cluster("a", "1"), eds("a", "1")], &[]);
    assert_eq!(world.out(), ["CDS +a", "EDS +a -x"]);
}

#[test]
fn the_first_wildcard_is_answered_even_if_empty_and_an_empty_named_list_is_not() {
    let mut world = World::new();
    world.publish(vec![], &[]);
    for kind in ResourceType::ALL {
        world.subscribe(kind, &[]);
    }
    assert_eq!(world.out(), ["CDS", "LDS", "SRDS", "VHDS"]);
    world.publish(vec![cluster("a", "1"), eds("a", "1")], &[]);
    world.ack(Cluster);
    assert_eq!(world.out(), ["CDS +a"]);
}

#[test]
fn a_new_cluster_comes_first_its_endpoints_at_once_and_its_route_after_the_ack() {
    let mut world = World::running();
    world.publish(vec![cluster("c", "1"), eds("c", "1"), rds("2", &["c"])], &[]);
    assert_eq!(world.out(), ["CDS +c"]);
    world.subscribe(Endpoints, &["c"]);
    assert_eq!(world.out(), ["EDS +c"]);
    world.ack(Endpoints);
    assert_eq!(world.out(), NOTHING);
    world.ack(Cluster);
    assert_eq!(world.out(), ["RDS +r"]);
}

#[test]
fn a_route_waits_at_most_fifteen_seconds_and_others_do_not_wait_with_it() {
    let mut world = World::running();
    world.publish(vec![resource(Route, "other", "1")], &[]);
    world.subscribe(Route, &["other"]);
    world.settle();
    world.publish(vec![cluster("c", "1"), rds("2", &["c"]), resource(Route, "other", "2")], &[]);
    assert_eq!(world.out(), ["CDS +c", "RDS +other"]);
    world.ack(Route);
    assert_eq!(world.after(14), NOTHING);
    assert!(world.session.next_deadline().is_some_and(|d| d <= world.now + Duration::from_secs(1)));
    assert_eq!(world.after(1), ["RDS +r"]);
}

#[test]
fn a_changed_cluster_that_the_stream_has_gates_nothing_and_brings_its_endpoints() {
    let mut world = World::running();
    world.publish(vec![cluster("a", "2"), rds("2", &["a"])], &[]);
    assert_eq!(world.out(), ["CDS +a", "EDS +a", "RDS +r"]);
}

#[test]
fn a_cluster_that_names_a_new_one_waits_for_it() {
    let aggregate = |payload: &str, of: &str| {
        let mut aggregate = resource(Cluster, "all", payload);
        aggregate.requires = vec![(Cluster, of.into())];
        aggregate
    };
    let mut world = World::running();
    world.publish(vec![aggregate("1", "a")], &[]);
    world.settle();
    world.publish(vec![aggregate("2", "c"), cluster("c", "1")], &[]);
    assert_eq!(world.out(), ["CDS +c"]);
    world.ack(Cluster);
    assert_eq!(world.out(), ["CDS +all"]);
}

#[test]
fn a_route_that_the_stream_lacks_is_never_delayed_but_its_listener_is() {
    let mut world = World::running();
    let mut listener = lds("2");
    listener.requires.push((Route, "new".into()));
    let mut route = resource(Route, "new", "1");
    route.requires = vec![(Cluster, "c".into())];
    world.publish(vec![cluster("c", "1"), listener, route], &[]);
    assert_eq!(world.out(), ["CDS +c"]);
    world.subscribe(Route, &["new"]);
    assert_eq!(world.out(), ["RDS +new"]);
    world.ack(Cluster);
    assert_eq!(world.out(), ["LDS +l"]);
}

#[test]
fn a_stream_without_clusters_has_no_gate() {
    let mut world = World::new();
    world.publish(vec![rds("1", &["a"])], &[]);
    world.subscribe(Route, &["r"]);
    world.settle();
    world.publish(vec![cluster("c", "1"), rds("2", &["c"])], &[]);
    assert_eq!(world.out(), ["RDS +r"]);
}

#[test]
fn a_removed_cluster_goes_five_seconds_after_routes_are_acknowledged() {
    let mut world = World::running();
    world.publish(vec![rds("2", &["b"])], &[(Cluster, "a"), (Endpoints, "a")]);
    assert_eq!(world.out(), ["RDS +r"]);
    assert_eq!(world.after(30), NOTHING);
    world.ack(Route);
    assert_eq!(world.out(), NOTHING);
    assert_eq!(world.after(4), NOTHING);
    assert_eq!(world.after(1), ["CDS -a"]);
    world.ack(Cluster);
    assert_eq!(world.after(1000), NOTHING);
}

#[test]
fn sixty_seconds_of_silence_hold_no_removal_up() {
    let mut world = World::running();
    world.publish(vec![rds("2", &["b"])], &[(Cluster, "a"), (Endpoints, "a")]);
    assert_eq!(world.out(), ["RDS +r"]);
    assert_eq!(world.after(60), NOTHING);
    assert_eq!(world.after(5), ["CDS -a"]);
}

#[test]
fn a_cluster_of_a_changed_listener_waits_for_the_drain_time() {
    let mut world = World::running();
    world.publish(vec![lds("2")], &[]);
    world.settle();
    world.publish(vec![rds("2", &["b"])], &[(Cluster, "a"), (Endpoints, "a")]);
    world.settle();
    assert_eq!(world.after(599), NOTHING);
    assert_eq!(world.after(1), ["CDS -a"]);
}

#[test]
fn a_cluster_that_is_present_again_is_not_removed() {
    let mut world = World::running();
    world.publish(vec![rds("2", &["b"])], &[(Cluster, "a"), (Endpoints, "a")]);
    world.settle();
    world.publish(vec![cluster("a", "1"), eds("a", "1")], &[]);
    assert_eq!(world.settle(), ["CDS +a", "EDS +a"]);
    assert_eq!(world.after(1000), NOTHING);
}

#[test]
fn a_cluster_that_went_and_came_again_is_waited_for_as_a_new_one() {
    let mut world = World::running();
    world.publish(vec![rds("2", &["b"])], &[(Cluster, "a"), (Endpoints, "a")]);
    world.settle();
    world.publish(vec![cluster("a", "1"), eds("a", "1"), rds("3", &["a"])], &[]);
    assert_eq!(world.out(), ["CDS +a", "EDS +a"]);
    world.ack(Cluster);
    assert_eq!(world.out(), ["RDS +r"]);
}

#[test]
fn types_that_are_never_requested_hold_removals_for_fifteen_seconds_after_the_first_ack() {
    let mut world = World::new();
    world.publish(vec![cluster("a", "1")], &[]);
    world.subscribe(Cluster, &[]);
    world.settle();
    world.publish(vec![], &[(Cluster, "a")]);
    assert_eq!(world.out(), NOTHING);
    assert_eq!(world.after(15), NOTHING);
    assert_eq!(world.after(5), ["CDS -a"]);
}

#[test]
fn a_parked_route_holds_cluster_removals_without_limit() {
    let mut world = World::running();
    world.publish(vec![rds("2", &["b"])], &[(Cluster, "a"), (Endpoints, "a")]);
    world.out();
    world.nack(Route, "no good");
    assert_eq!(world.after(10_000), NOTHING);
    world.publish(vec![rds("3", &["b"])], &[]);
    assert_eq!(world.settle(), ["RDS +r"]);
    assert_eq!(world.after(5), ["CDS -a"]);
}

/// Whoever broke it is to be named, not only whoever changed something last.
#[test]
fn a_second_refusal_is_counted_from_the_first_and_an_acknowledgement_ends_the_count() {
    let mut world = World::running();
    let refuse = |world: &mut World, version: &str| {
        world.publish(vec![rds(version, &["b"])], &[]);
        world.out();
        world.nack(Route, "no good");
        let reports: BTreeMap<_, _> = world.session.reports().into_iter().collect();
        let content = world.reader.view().read().get(Route, "r").unwrap().content;
        (reports[&Route].parked["r"].since, content)
    };
    let (since, content) = refuse(&mut world, "2");
    assert_eq!(since, content);
    let (again, later) = refuse(&mut world, "3");
    assert_eq!(again, since);
    assert!(later > since);
    world.publish(vec![rds("4", &["b"])], &[]);
    world.settle();
    let (anew, content) = refuse(&mut world, "5");
    assert_eq!(anew, content);
}

#[test]
fn listeners_go_at_once_and_routes_and_endpoints_never() {
    let mut world = World::running();
    world.publish(vec![], &[(Listener, "l"), (Route, "r"), (Endpoints, "b")]);
    assert_eq!(world.settle(), ["LDS -l"]);
    assert_eq!(world.after(1000), NOTHING);
}

#[test]
fn culprits_named_in_the_error_go_alone_and_the_rest_together() {
    let mut world = World::running();
    world.publish(vec![cluster("a", "2"), cluster("b", "2"), cluster("c", "1")], &[]);
    world.out();
    world.nack(Cluster, "Error adding/updating cluster(s) b: no");
    assert_eq!(world.out(), ["CDS +a +c", "CDS +b", "EDS +a +b"].map(String::from)[..2].to_vec());
    world.ack(Cluster);
    world.nack(Cluster, "Error adding/updating cluster(s) b: no");
    world.open.remove(&Endpoints);
    assert_eq!(world.after(1000), NOTHING);
    let reports: BTreeMap<_, _> = world.session.reports().into_iter().collect();
    let state = &reports[&Cluster];
    assert!(matches!(state.acked("b", Seq(2)), Acked::Refused(text) if text.ends_with("b: no")));
    assert_eq!(state.acked("a", Seq(2)), Acked::Acked);
    world.publish(vec![cluster("a", "3")], &[]);
    assert_eq!(world.out()[0], "CDS +a");
    world.publish(vec![cluster("b", "3")], &[]);
    assert_eq!(world.out()[0], "CDS +b");
}

#[test]
fn without_a_named_culprit_halves_are_tried_until_one_is_parked() {
    let mut world = World::new();
    world.publish(["a", "b", "c", "d"].map(|n| resource(Secret, n, "1")).to_vec(), &[]);
    world.subscribe(Secret, &["a", "b", "c", "d"]);
    let mut sent = Vec::new();
    while let Some(send) = world.poll() {
        let names: Vec<String> = send.frame.resources.iter().map(|r| r.name.to_string()).collect();
        let bad = names.iter().any(|n| n == "c");
        sent.push(names.concat());
        if bad {
            world.nack(Secret, "bad key")
        } else {
            world.ack(Secret)
        }
        assert!(sent.len() < 10, "{sent:?}");
    }
    assert_eq!(sent, ["abcd", "ab", "cd", "c", "d"]);
}

#[test]
fn a_new_cluster_that_is_refused_counts_as_absent() {
    let mut world = World::running();
    world.publish(vec![cluster("c", "1")], &[]);
    world.out();
    world.nack(Cluster, "bad");
    world.publish(vec![rds("2", &["c"])], &[]);
    assert_eq!(world.after(1), NOTHING);
    world.publish(vec![cluster("c", "2")], &[]);
    assert_eq!(world.out(), ["CDS +c"]);
    world.ack(Cluster);
    assert_eq!(world.out(), ["RDS +r"]);
}

#[test]
fn a_reconnect_is_sent_what_differs_and_told_what_is_gone() {
    let mut world = World::running();
    world.reconnect();
    world.report(Cluster, &[], &[("a", "1"), ("b", "0"), ("old", "1")]);
    world.report(Endpoints, &["a", "b"], &[("a", "1"), ("b", "1")]);
    world.report(Listener, &[], &[("l", "1"), ("gone", "1")]);
    world.report(Route, &["r"], &[("r", "1")]);
    assert_eq!(world.settle(), ["CDS +b", "EDS +b", "LDS -gone"]);
    // A listener went, so connections may drain.
    assert_eq!(world.after(599), NOTHING);
    assert_eq!(world.after(1), ["CDS -old"]);
}

#[test]
fn a_reconnect_with_equal_versions_is_silent_but_for_secrets() {
    let mut world = World::running();
    world.publish(vec![resource(Secret, "s", "1")], &[]);
    world.settle();
    world.reconnect();
    world.report(Cluster, &[], &[("a", "1"), ("b", "1")]);
    world.report(Listener, &[], &[("l", "1")]);
    world.report(Secret, &["s"], &[("s", "1")]);
    assert_eq!(world.settle(), ["SDS +s"]);
}

#[test]
fn endpoints_asked_for_before_clusters_are_sent_again_behind_a_changed_cluster() {
    let mut world = World::running();
    world.reconnect();
    world.report(Endpoints, &["a"], &[("a", "1")]);
    assert_eq!(world.out(), NOTHING);
    world.report(Cluster, &[], &[("a", "0"), ("b", "1")]);
    assert_eq!(world.out(), ["CDS +a", "EDS +a"]);
}

#[test]
fn a_cluster_reported_at_any_version_is_not_new() {
    let mut world = World::running();
    world.reconnect();
    world.report(Cluster, &[], &[("a", "0"), ("b", "1")]);
    world.report(Route, &["r"], &[("r", "0")]);
    assert_eq!(world.out(), ["CDS +a", "RDS +r"]);
}

#[test]
fn secrets_follow_their_listener() {
    let mut world = World::running();
    world.publish(vec![resource(Secret, "s", "1")], &[]);
    world.subscribe(Secret, &["s"]);
    world.settle();
    world.publish(vec![lds("2")], &[]);
    assert_eq!(world.settle(), ["LDS +l", "SDS +s"]);
}

#[test]
fn every_subscribed_name_is_answered_and_created_ones_follow() {
    let mut world = World::running();
    world.subscribe(Endpoints, &["x"]);
    assert_eq!(world.settle(), ["EDS -x"]);
    world.publish(vec![eds("x", "1")], &[]);
    assert_eq!(world.settle(), ["EDS +x"]);
    world.subscribe(Endpoints, &["x"]);
    assert_eq!(world.settle(), ["EDS +x"]);
}

#[test]
fn endpoints_of_a_cluster_that_the_proxy_has_are_not_called_absent() {
    let mut world = World::running();
    world.publish(vec![cluster("c", "1")], &[]);
    world.settle();
    world.subscribe(Endpoints, &["c"]);
    assert_eq!(world.settle(), NOTHING);
    world.publish(vec![eds("c", "1")], &[]);
    assert_eq!(world.settle(), ["EDS +c"]);
}

#[test]
fn an_empty_first_list_of_a_grpc_client_is_nothing() {
    let mut world = World::of(Role::Grpc);
    world.publish(vec![cluster("a", "1")], &[]);
    world.subscribe(Cluster, &[]);
    assert_eq!(world.out(), NOTHING);
    world.subscribe(Cluster, &["a"]);
    assert_eq!(world.out(), ["CDS +a"]);
}

#[test]
fn wildcard_and_names_live_side_by_side() {
    let mut world = World::running();
    world.subscribe(Cluster, &["a"]);
    assert_eq!(world.settle(), ["CDS +a", "EDS +a"]);
    world.unsubscribe(Cluster, &["a", "x"]);
    assert_eq!(world.settle(), ["CDS +a -x", "EDS +a"]);
    world.subscribe(Cluster, &["b"]);
    world.settle();
    world.unsubscribe(Cluster, &["*"]);
    world.publish(vec![cluster("a", "2"), cluster("b", "2")], &[]);
    assert_eq!(world.settle(), ["CDS +b", "EDS +a +b"]);
    world.subscribe(Cluster, &["*"]);
    assert_eq!(world.settle()[0], "CDS +a +b");
}

#[test]
fn subscribing_and_unsubscribing_the_wildcard_in_one_request_is_no_wildcard() {
    let mut world = World::new();
    world.publish(vec![cluster("a", "1")], &[]);
    let request = Request { subscribe: owned(&["*"]), unsubscribe: owned(&["*"]), ..Request::default() };
    world.request(Cluster, request);
    assert_eq!(world.out(), NOTHING);
}

#[test]
fn a_stale_nonce_acknowledges_nothing_and_changes_subscriptions_all_the_same() {
    let mut world = World::running();
    world.publish(vec![cluster("a", "2")], &[]);
    world.out();
    let request = Request { nonce: "ffffffffff".into(), subscribe: owned(&["b"]), ..Request::default() };
    world.request(Cluster, request);
    assert_eq!(world.out(), ["CDS +b"]);
    let reports: BTreeMap<_, _> = world.session.reports().into_iter().collect();
    assert_eq!(reports[&Cluster].acked("a", Seq(2)), Acked::Pending);
}

#[test]
fn four_cds_responses_and_one_of_others_are_in_flight_and_the_newest_value_wins() {
    let mut world = World::running();
    for payload in ["2", "3", "4", "5", "6", "7"] {
        world.publish(vec![cluster("a", payload), eds("a", payload)], &[]);
        world.out();
    }
    assert_eq!((world.open[&Cluster].len(), world.open[&Endpoints].len()), (4, 1));
    world.ack(Cluster);
    assert_eq!(world.out(), ["CDS +a"]);
    world.ack(Endpoints);
    let send = world.poll().unwrap();
    assert_eq!(send.frame.resources[0].payload, "7");
}

#[test]
fn a_dropped_subscription_frees_its_slot() {
    let mut world = World::running();
    world.publish(vec![eds("a", "2")], &[]);
    assert_eq!(world.out(), ["EDS +a"]);
    world.unsubscribe(Endpoints, &["a", "b"]);
    world.subscribe(Endpoints, &["b"]);
    assert_eq!(world.out(), ["EDS +b"]);
}

#[test]
fn the_first_cds_response_is_whole_and_later_ones_are_split() {
    let mut world = World::new();
    let big = |n: &str, salt: &str| resource(Cluster, n, &salt.repeat(700_000));
    world.publish(vec![big("a", "1"), big("b", "1")], &[]);
    world.subscribe(Cluster, &[]);
    assert_eq!(world.settle(), ["CDS +a +b"]);
    world.publish(vec![big("a", "2"), big("b", "2")], &[]);
    assert_eq!(world.settle(), ["CDS +a", "CDS +b"]);
}

#[test]
fn unknown_types_are_absent_and_cost_nobody_else_anything() {
    let mut world = World::running();
    let request = Request { url: "type.googleapis.com/x.Y".into(), subscribe: owned(&["a"]), ..Request::default() };
    world.session.on_request(request, &world.reader.view().read(), world.now).unwrap();
    assert_eq!(world.out(), ["type.googleapis.com/x.Y -a"]);
    let nothing = Request { url: "type.googleapis.com/x.Y".into(), ..Request::default() };
    world.session.on_request(nothing, &world.reader.view().read(), world.now).unwrap();
    assert_eq!(world.out(), NOTHING, "who asks for nothing is told nothing");
    let none = world.session.on_request(Request::default(), &world.reader.view().read(), world.now);
    assert_eq!(none, Err(Violation::NoType));
    let long = Request { url: Cluster.url().into(), subscribe: vec!["x".repeat(513)], ..Request::default() };
    assert_eq!(world.session.on_request(long, &world.reader.view().read(), world.now), Err(Violation::LongName));
}

#[test]
fn streams_that_ask_for_the_same_share_a_frame_unless_an_exception_is_in_the_way() {
    let mut world = World::running();
    let shared = Arc::clone(&world.session.fanouts);
    let mut other = Session::new(shared, client(Role::Edge), world.now);
    for kind in [Cluster, Listener] {
        let request = Request { url: kind.url().into(), ..Request::default() };
        other.on_request(request, &world.reader.view().read(), world.now).unwrap();
    }
    let mut all = |world: &World| {
        let content = world.reader.view().read();
        let (sites, watermarks) = (Sites::default(), Watermarks::new());
        let moment = Moment { now: world.now, fresh: true, sites: &sites, watermarks: &watermarks };
        std::iter::from_fn(|| other.poll(&content, &moment)).map(|s| s.frame).collect::<Vec<_>>()
    };
    all(&world);
    world.publish(vec![cluster("a", "2")], &[]);
    let (mine, others) = (world.poll().unwrap().frame, all(&world));
    assert!(others.iter().any(|f| Arc::ptr_eq(f, &mine)));
    assert!(std::ptr::eq(mine.bytes().as_ptr(), others[0].bytes().as_ptr()));
}

#[test]
fn the_last_suspect_of_a_refused_response_is_tried_alone_before_it_is_parked() {
    let mut world = World::running();
    world.publish(vec![resource(Route, "bad", "1"), rds("2", &["a"])], &[]);
    world.subscribe(Route, &["bad"]);
    assert_eq!(world.out(), ["RDS +bad +r"]);
    world.unsubscribe(Route, &["bad"]);
    world.nack(Route, "something is wrong");
    assert_eq!(world.settle(), ["RDS +r"]);
}

#[test]
fn a_route_that_went_and_came_again_is_gated_for_whoever_still_has_it() {
    let mut world = World::running();
    world.publish(vec![], &[(Route, "r")]);
    world.settle();
    world.publish(vec![cluster("c", "1"), rds("2", &["c"])], &[]);
    assert_eq!(world.out(), ["CDS +c"]);
    world.ack(Cluster);
    assert_eq!(world.out(), ["RDS +r"]);
}

#[test]
fn a_route_that_was_answered_as_absent_is_not_delayed_when_it_appears() {
    let mut world = World::running();
    world.subscribe(Route, &["new"]);
    assert_eq!(world.settle(), ["RDS -new"]);
    let mut route = resource(Route, "new", "1");
    route.requires = vec![(Cluster, "c".into())];
    world.publish(vec![cluster("c", "1"), route], &[]);
    assert_eq!(world.out(), ["CDS +c", "RDS +new"]);
}

#[test]
fn a_route_that_names_yet_another_new_cluster_waits_for_that_too() {
    let mut world = World::running();
    world.publish(vec![cluster("c", "1")], &[]);
    world.out();
    world.nack(Cluster, "bad");
    world.publish(vec![rds("2", &["c"])], &[]);
    assert_eq!(world.after(0), NOTHING);
    world.now += Duration::from_secs(15);
    world.publish(vec![cluster("d", "1"), rds("3", &["c", "d"])], &[]);
    assert_eq!(world.out(), ["CDS +d"]);
    world.ack(Cluster);
    // The refused one is waited for no longer than before it was joined.
    assert_eq!(world.after(15), ["RDS +r"]);
}

#[test]
fn a_route_that_could_not_be_compiled_holds_what_it_named_until_it_is_back() {
    let mut world = World::running();
    world.publish(vec![], &[(Route, "r"), (Cluster, "a"), (Endpoints, "a")]);
    assert_eq!(world.settle(), NOTHING);
    assert_eq!(world.after(10_000), NOTHING);
    world.publish(vec![rds("2", &["b"])], &[]);
    assert_eq!(world.settle(), ["RDS +r"]);
    assert_eq!(world.after(5), ["CDS -a"]);
}

#[test]
fn a_lost_route_that_nobody_has_or_no_listener_names_holds_nothing() {
    let mut world = World::running();
    world.publish(vec![], &[(Listener, "l"), (Route, "r"), (Cluster, "a"), (Endpoints, "a")]);
    assert_eq!(world.settle(), ["LDS -l"]);
    // Its connections drain.
    assert_eq!(world.after(599), NOTHING);
    assert_eq!(world.after(1), ["CDS -a"]);
}

#[test]
fn a_proxy_that_never_answers_anything_holds_removals_for_sixty_seconds() {
    let mut world = World::new();
    world.publish(vec![cluster("a", "1")], &[]);
    world.subscribe(Cluster, &[]);
    world.out();
    world.publish(vec![], &[(Cluster, "a")]);
    assert_eq!(world.out(), NOTHING);
    assert_eq!(world.after(64), NOTHING);
    assert_eq!(world.after(1), ["CDS -a"]);
}

#[test]
fn a_cluster_of_a_listener_that_changed_waits_for_the_drain_time_at_a_reconnect_too() {
    let mut world = World::running();
    world.publish(vec![lds("2"), rds("2", &["b"])], &[(Cluster, "a"), (Endpoints, "a")]);
    world.reconnect();
    world.report(Cluster, &[], &[("a", "1"), ("b", "1")]);
    world.report(Endpoints, &["a", "b"], &[("a", "1"), ("b", "1")]);
    world.report(Listener, &[], &[("l", "2")]);
    world.report(Route, &["r"], &[("r", "2")]);
    assert_eq!(world.settle(), NOTHING);
    assert_eq!(world.after(599), NOTHING);
    assert_eq!(world.after(1), ["CDS -a", "EDS -a"]);
}

fn scope(payload: &str) -> Resource {
    let mut scope = resource(ScopedRoute, "scope", payload);
    scope.requires = vec![(Route, "r".into())];
    scope
}

/// A listener with scopes and a filter of its own.
fn scoped(payload: &str) -> Resource {
    let mut listener = resource(Listener, "l", payload);
    listener.requires = vec![(Extension, "x".into()), (ScopedRoute, ANY_SCOPE.into())];
    listener.children = vec![(Extension, "x".into())];
    listener
}

fn scoped_world() -> World {
    let mut world = World::new();
    let rest = [resource(Extension, "x", "1"), resource(VirtualHost, "r/h", "1"), resource(Runtime, "rt", "1")];
    let mut all = vec![cluster("a", "1"), eds("a", "1"), scoped("1"), scope("1"), rds("1", &["a"])];
    all.extend(rest);
    world.publish(all, &[]);
    world.subscribe(Cluster, &[]);
    world.subscribe(ScopedRoute, &[]);
    world.subscribe(Listener, &[]);
    for (kind, name) in [(Runtime, "rt"), (VirtualHost, "r/h"), (Extension, "x"), (Route, "r"), (Endpoints, "a")] {
        world.subscribe(kind, &[name]);
    }
    world
}

#[test]
fn all_nine_types_go_out_in_order() {
    let mut world = scoped_world();
    let sent: Vec<_> = world.settle();
    let sent: Vec<_> = sent.iter().map(String::as_str).collect();
    let order = ["CDS +a", "EDS +a", "ECDS +x", "RDS +r", "VHDS +r/h", "RTDS +rt", "LDS +l", "ECDS +x", "SRDS +scope"];
    assert_eq!(sent, order, "what names a new cluster waits for its acknowledgement");
    world.publish(
        vec![
            scoped("2"),
            resource(Extension, "x", "2"),
            scope("2"),
            rds("2", &["a"]),
            resource(VirtualHost, "r/h", "2"),
        ],
        &[],
    );
    assert_eq!(world.out(), ["LDS +l", "ECDS +x", "SRDS +scope", "RDS +r", "VHDS +r/h"]);
}

#[test]
fn a_filter_follows_the_listener_that_names_it() {
    let mut world = scoped_world();
    world.settle();
    world.publish(vec![scoped("2")], &[]);
    assert_eq!(world.out(), ["LDS +l", "ECDS +x"]);
}

/// O21: the filter may begin a provider of its own.
#[test]
fn secrets_follow_the_filter_that_names_them() {
    let mut world = scoped_world();
    let filter = |payload: &str| {
        let mut filter = resource(Extension, "x", payload);
        filter.children = vec![(Secret, "token".into())];
        filter
    };
    world.publish(vec![filter("2"), resource(Secret, "token", "1")], &[]);
    world.subscribe(Secret, &["token"]);
    world.settle();
    world.publish(vec![filter("3")], &[]);
    assert_eq!(world.settle(), ["ECDS +x", "SDS +token"]);
}

#[test]
fn a_scope_waits_for_the_clusters_that_it_brings_and_not_the_listener_that_is_there() {
    let mut world = scoped_world();
    world.settle();
    let late = Resource { name: "late".into(), ..rds("1", &["c"]) };
    let mut brings = resource(ScopedRoute, "more", "1");
    brings.requires = vec![(Route, "late".into())];
    world.publish(vec![cluster("c", "1"), eds("c", "1"), late, brings], &[]);
    assert_eq!(world.out(), ["CDS +c"]);
    world.ack(Cluster);
    assert_eq!(world.out(), ["SRDS +more"]);
}

#[test]
fn scopes_hosts_and_runtime_layers_leave_at_once_and_a_filter_never_under_its_listener() {
    let mut world = scoped_world();
    world.settle();
    let gone = [(ScopedRoute, "scope"), (VirtualHost, "r/h"), (Runtime, "rt"), (Extension, "x")];
    world.publish(vec![], &gone);
    assert_eq!(world.settle(), ["SRDS -scope", "VHDS -r/h", "RTDS -rt"]);
    world.subscribe(Extension, &["x"]);
    assert_eq!(world.out(), NOTHING, "the listener still names it: it is to come");
    world.publish(vec![], &[(Listener, "l")]);
    assert_eq!(world.settle(), ["LDS -l", "ECDS -x"]);
}

#[test]
fn a_cluster_stays_while_a_scope_that_leads_to_it_is_not_acknowledged() {
    let mut world = scoped_world();
    world.settle();
    world.publish(vec![rds("2", &[])], &[(ScopedRoute, "scope"), (Cluster, "a"), (Endpoints, "a")]);
    assert_eq!(world.out(), ["SRDS -scope", "RDS +r"]);
    world.ack(Route);
    assert_eq!(world.after(30), NOTHING);
    world.ack(ScopedRoute);
    assert_eq!(world.out(), NOTHING);
    assert_eq!(world.after(5), ["CDS -a"]);
}

//! Rules of the protocol that need no story: one test each, by their number in `docs/protocol.md`.

use ResourceType::{Cluster, Endpoints, Listener, Route, Secret, VirtualHost};
use proptest::prelude::*;
use std::collections::BTreeSet;

use super::{world::*, *};
use crate::feedback::Acked;

const NOTHING: [&str; 0] = [];

/// A request with the nonce of the oldest response of the type that is not answered.
fn with_nonce(world: &mut World, kind: ResourceType, request: Request) {
    let nonce = world.open.get_mut(&kind).expect("a response").remove(0);
    world.request(kind, Request { nonce: format!("{nonce:x}"), ..request });
}

/// 2
#[test]
fn types_on_a_stream_have_nonces_and_subscriptions_of_their_own() {
    let mut world = World::running();
    world.publish(vec![eds("a", "2"), rds("2", &["a"])], &[]);
    assert_eq!(world.out(), ["EDS +a", "RDS +r"]);
    // The nonce of one type says nothing about another.
    let nonce = world.open[&Endpoints][0];
    world.answer(Route, nonce, None);
    assert_eq!(world.acked(Route, "r"), Acked::Pending);
    world.unsubscribe(Route, &["r"]);
    world.ack(Endpoints);
    world.publish(vec![eds("a", "3"), rds("3", &["a"])], &[]);
    assert_eq!(world.out(), ["EDS +a"]);
}

/// 8, 12 of the corner cases
#[test]
fn a_first_request_with_the_nonce_of_another_stream_is_answered_as_a_first_one() {
    let mut world = World::new();
    world.publish(vec![cluster("a", "1"), eds("a", "1")], &[]);
    world.request(Cluster, Request { nonce: "deadbeef".into(), ..Request::default() });
    world.request(Endpoints, Request { nonce: "no number".into(), subscribe: owned(&["a"]), ..Request::default() });
    assert_eq!(world.out(), ["CDS +a", "EDS +a"]);
}

/// 28
#[test]
fn a_name_dropped_and_asked_for_again_is_sent_again_at_the_same_version() {
    let mut world = World::running();
    world.publish(vec![resource(Secret, "s", "1")], &[]);
    world.subscribe(Secret, &["s"]);
    world.settle();
    for (kind, name, line) in [(Endpoints, "a", "EDS +a"), (Route, "r", "RDS +r"), (Secret, "s", "SDS +s")] {
        world.unsubscribe(kind, &[name]);
        assert_eq!(world.settle(), NOTHING);
        world.subscribe(kind, &[name]);
        assert_eq!(world.settle(), [line]);
        // Both in one request are what stands last.
        let both = Request { subscribe: owned(&[name]), unsubscribe: owned(&[name]), ..Request::default() };
        world.request(kind, both);
        assert_eq!(world.settle(), NOTHING);
        world.subscribe(kind, &[name]);
        assert_eq!(world.settle(), [line]);
    }
}

/// 37
#[test]
fn a_route_configuration_does_not_follow_its_listener() {
    let mut world = World::running();
    world.publish(vec![lds("2")], &[]);
    assert_eq!(world.settle(), ["LDS +l"]);
}

/// 38
#[test]
fn a_name_that_is_asked_for_twice_comes_once() {
    let mut world = World::running();
    world.subscribe(Endpoints, &["a", "a", "x", "x"]);
    assert_eq!(world.settle(), ["EDS +a -x"]);
}

/// 43, 48
#[test]
fn the_wildcard_outlives_names_and_ends_by_its_own_word_removing_nothing() {
    let mut world = World::new();
    world.publish(vec![resource(Cluster, "a", "1"), resource(Cluster, "b", "1")], &[]);
    world.subscribe(Cluster, &[]);
    assert_eq!(world.settle(), ["CDS +a +b"]);
    world.subscribe(Cluster, &["a"]);
    assert_eq!(world.settle(), ["CDS +a"]);
    world.publish(vec![resource(Cluster, "b", "2")], &[]);
    assert_eq!(world.settle(), ["CDS +b"]);
    world.unsubscribe(Cluster, &["*"]);
    assert_eq!(world.settle(), NOTHING);
    world.publish(vec![resource(Cluster, "a", "3"), resource(Cluster, "b", "3")], &[]);
    assert_eq!(world.settle(), ["CDS +a"]);
    world.unsubscribe(Cluster, &["a"]);
    world.publish(vec![resource(Cluster, "a", "4")], &[(Cluster, "b")]);
    assert_eq!(world.settle(), NOTHING);
    assert_eq!(world.after(10_000), NOTHING);
}

/// 44, 61
#[test]
fn a_first_request_that_only_unsubscribes_asks_for_nothing() {
    let mut world = World::new();
    world.publish(vec![resource(Cluster, "a", "1")], &[]);
    world.unsubscribe(Cluster, &["phantom"]);
    assert_eq!(world.settle(), NOTHING);
    world.unsubscribe(Endpoints, &["phantom"]);
    assert_eq!(world.settle(), NOTHING);
    // Nor is an empty request a wildcard later.
    world.request(Cluster, Request::default());
    assert_eq!(world.settle(), NOTHING);
}

/// 50
#[test]
fn an_empty_name_is_a_name_that_does_not_exist() {
    let mut world = World::new();
    world.publish(vec![resource(Cluster, "a", "1")], &[]);
    world.subscribe(Cluster, &[""]);
    assert_eq!(world.settle(), ["CDS -"]);
}

/// 49
#[test]
fn a_wildcard_that_is_asked_for_anew_is_answered_whole_whatever_was_sent_before() {
    let mut world = World::new();
    world.publish(vec![resource(Cluster, "a", "1"), resource(Cluster, "b", "1")], &[]);
    world.subscribe(Cluster, &["a"]);
    assert_eq!(world.settle(), ["CDS +a"]);
    world.subscribe(Cluster, &["*"]);
    assert_eq!(world.settle(), ["CDS +a +b"]);
    // An empty set is answered too: the client waits for a word.
    let mut world = World::new();
    world.publish(vec![], &[]);
    world.subscribe(Cluster, &["a"]);
    assert_eq!(world.settle(), ["CDS -a"]);
    world.subscribe(Cluster, &["*"]);
    assert_eq!(world.settle(), ["CDS"]);
}

/// 53
#[test]
fn a_name_that_is_reported_and_not_asked_for_is_not_tracked() {
    let mut world = World::running();
    world.reconnect();
    world.report(Endpoints, &["a"], &[("a", "1"), ("b", "0"), ("gone", "1")]);
    assert_eq!(world.settle(), NOTHING);
    world.publish(vec![eds("a", "2"), eds("b", "2")], &[]);
    assert_eq!(world.settle(), ["EDS +a"]);
}

/// 55, 11 of the corner cases
#[test]
fn a_version_that_nobody_here_issued_is_another_version_and_no_newer_one() {
    for version in ["", "0", "ffffffffffffffff", "2026-11-25T00:00:00Z/7", "not a version at all"] {
        let mut world = World::running();
        world.reconnect();
        let initial = [("a".to_owned(), version.to_owned())].into_iter().collect();
        world.request(Endpoints, Request { subscribe: owned(&["a"]), initial, ..Request::default() });
        assert_eq!(world.settle(), ["EDS +a"], "{version:?}");
    }
}

/// 56
#[test]
fn versions_that_are_reported_later_than_in_the_first_request_are_ignored() {
    let mut world = World::running();
    world.publish(vec![eds("c", "1")], &[]);
    world.report(Endpoints, &["c"], &[("c", "1"), ("a", "0")]);
    assert_eq!(world.settle(), ["EDS +c"]);
}

/// 59, 60
#[test]
fn one_request_may_acknowledge_or_refuse_and_subscribe_and_unsubscribe() {
    let mut world = World::running();
    world.publish(vec![eds("a", "2"), eds("c", "1"), eds("d", "1")], &[]);
    assert_eq!(world.out(), ["EDS +a"]);
    let names = Request { subscribe: owned(&["c", "d"]), unsubscribe: owned(&["b", "d"]), ..Request::default() };
    with_nonce(&mut world, Endpoints, names);
    assert_eq!(world.out(), ["EDS +c"], "what stands in both lists is not asked for");
    assert_eq!(world.acked(Endpoints, "a"), Acked::Acked);
    let names = Request {
        subscribe: owned(&["d"]),
        unsubscribe: owned(&["c"]),
        error: Some("no such thing".into()),
        ..Request::default()
    };
    with_nonce(&mut world, Endpoints, names);
    assert_eq!(world.settle(), ["EDS +d"], "the refused name is not asked for any more");
    world.publish(vec![eds("b", "2"), eds("c", "2")], &[]);
    assert_eq!(world.settle(), NOTHING);
}

/// 63
#[test]
fn a_removal_is_said_once_and_not_of_what_was_never_sent() {
    let mut world = World::running();
    world.publish(vec![resource(Listener, "m", "1")], &[]);
    world.publish(vec![], &[(Listener, "m")]);
    assert_eq!(world.settle().iter().filter(|line| line.contains("+m")).count(), 0);
    world.publish(vec![], &[(Listener, "l")]);
    assert_eq!(world.settle(), ["LDS -l"]);
    world.publish(vec![cluster("a", "2")], &[]);
    assert_eq!(world.settle(), ["CDS +a", "EDS +a"]);
}

/// 64, 65
#[test]
fn what_goes_and_comes_between_two_looks_is_an_update_alone() {
    let mut world = World::running();
    world.publish(vec![], &[(Listener, "l"), (Endpoints, "a")]);
    world.publish(vec![lds("2"), eds("a", "2")], &[]);
    assert_eq!(world.settle(), ["EDS +a", "LDS +l"]);
}

/// 67
#[test]
fn what_was_sent_is_not_sent_again_while_its_answer_is_out() {
    let mut world = World::running();
    world.publish(vec![cluster("a", "2")], &[]);
    assert_eq!(world.out()[0], "CDS +a");
    world.publish(vec![cluster("b", "2")], &[]);
    assert_eq!(world.out()[0], "CDS +b", "without the other");
}

/// 69
#[test]
fn a_later_refusal_takes_no_earlier_acknowledgement_back() {
    let mut world = World::running();
    world.publish(vec![cluster("a", "2")], &[]);
    world.out();
    world.publish(vec![cluster("b", "2")], &[]);
    world.out();
    world.ack(Cluster);
    world.nack(Cluster, "Error adding/updating cluster(s) b: no");
    assert_eq!(world.acked(Cluster, "a"), Acked::Acked);
    world.settle();
    assert!(matches!(world.session.kind(Cluster).unwrap().exceptions.get("b"), Some(kind::Exception::Parked { .. })));
    assert_eq!(world.settle(), NOTHING);
}

/// 70, 10 of the corner cases: what is good in a refused response goes again, alone, so that the proxy has a version of
/// it to report when it comes back.
#[test]
fn what_was_good_in_a_refused_response_is_sent_again_and_is_gone_when_it_went() {
    let mut world = World::running();
    world.publish(vec![cluster("bad", "1"), cluster("good", "1")], &[]);
    assert_eq!(world.out(), ["CDS +bad +good"]);
    world.nack(Cluster, "Error adding/updating cluster(s) bad: no");
    assert_eq!(world.out(), ["CDS +good", "CDS +bad"]);
    world.ack(Cluster);
    world.nack(Cluster, "Error adding/updating cluster(s) bad: no");
    world.publish(vec![], &[(Cluster, "good")]);
    world.reconnect();
    world.report(Cluster, &[], &[("a", "1"), ("b", "1"), ("good", "1")]);
    world.report(Listener, &[], &[("l", "1")]);
    world.report(Route, &["r"], &[("r", "1")]);
    assert_eq!(world.settle(), ["CDS +bad"]);
    assert_eq!(world.after(5), ["CDS -good"]);
}

/// 73
#[test]
fn a_version_says_what_the_content_is_and_nothing_else() {
    let one = resource(Cluster, "a", "content");
    assert_eq!(one.version, resource(Cluster, "b", "content").version);
    assert_ne!(one.version, resource(Cluster, "a", "content.").version);
    assert_eq!(one.version.to_string().len(), 16);
    let mut world = World::running();
    // Equal content that is published again is no change.
    world.publish(vec![cluster("a", "1"), eds("a", "1"), lds("1"), rds("1", &["a"])], &[]);
    assert_eq!(world.settle(), NOTHING);
}

/// 83, 26 of the corner cases
#[test]
fn what_is_asked_for_without_its_parent_is_answered_as_absent_and_does_not_loop() {
    let mut world = World::running();
    world.reconnect();
    world.report(Cluster, &[], &[("a", "1"), ("b", "1")]);
    world.report(Listener, &[], &[("l", "1")]);
    world.report(Endpoints, &["a", "orphan"], &[("a", "1"), ("orphan", "1")]);
    world.report(Route, &["r", "orphan"], &[("r", "1"), ("orphan", "1")]);
    assert_eq!(world.settle(), ["EDS -orphan", "RDS -orphan"]);
    assert_eq!(world.after(10_000), NOTHING);
}

/// 84
#[test]
fn one_changed_cluster_among_many_is_one_resource_and_its_assignment() {
    let mut world = World::new();
    let names: Vec<String> = (0..500).map(|n| format!("c{n}")).collect();
    world.publish(names.iter().flat_map(|n| [cluster(n, "1"), eds(n, "1")]).collect(), &[]);
    world.subscribe(Cluster, &[]);
    world.settle();
    world.subscribe(Endpoints, &names.iter().map(String::as_str).collect::<Vec<_>>());
    world.settle();
    world.publish(vec![cluster("c7", "2")], &[]);
    assert_eq!(world.settle(), ["CDS +c7", "EDS +c7"]);
}

/// A route configuration whose hosts come one by one, and a proxy that asks for hosts.
fn hosted() -> World {
    let mut world = World::running();
    world.subscribe(VirtualHost, &[]);
    world.settle();
    world.publish(vec![rds("2", &["a"]), resource(VirtualHost, "r/*.example", "1")], &[]);
    assert_eq!(world.settle(), ["RDS +r", "VHDS +r/*.example"]);
    world
}

/// The names and aliases of a response, as a client reads them.
fn aliases(send: &Send) -> Vec<(String, Vec<String>, bool)> {
    use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryResponse;
    let response: DeltaDiscoveryResponse = prost::Message::decode(&send.frame.bytes()[5..]).unwrap();
    response.resources.into_iter().map(|r| (r.name, r.aliases, r.resource.is_some())).collect()
}

/// 85: the first request is empty and means all hosts.
#[test]
fn virtual_hosts_are_asked_for_by_an_empty_list_and_come_behind_their_route_configuration() {
    let mut world = hosted();
    world.publish(vec![resource(VirtualHost, "r/*.example", "2")], &[]);
    assert_eq!(world.settle(), ["VHDS +r/*.example"]);
    world.publish(vec![rds("3", &["a"])], &[]);
    assert_eq!(world.settle(), ["RDS +r"], "its hosts are there");
}

/// 71, 85
#[test]
fn a_host_that_is_asked_for_on_demand_is_answered_with_that_name_as_an_alias_be_there_one_or_not() {
    let mut world = hosted();
    world.subscribe(VirtualHost, &["r/a.example"]);
    let send = world.poll().expect("an answer");
    assert_eq!(aliases(&send), [("r/*.example".into(), vec!["r/a.example".into()], true)]);
    world.ack(VirtualHost);
    world.subscribe(VirtualHost, &["r/nothing"]);
    let send = world.poll().expect("an answer");
    assert_eq!(aliases(&send), [("r/nothing".into(), vec!["r/nothing".into()], false)]);
    assert!(send.frame.removed.is_empty(), "that is no answer to an Envoy");
    world.ack(VirtualHost);
    assert_eq!(world.settle(), NOTHING);
}

/// 38: an Envoy refuses a response in which a name stands twice.
#[test]
fn two_hosts_that_one_answers_for_are_answered_without_its_name_twice() {
    let mut world = hosted();
    let asked = ["r/a.example", "r/b.example", "r/nothing"];
    world.subscribe(VirtualHost, &asked);
    let mut told = BTreeSet::new();
    while let Some(send) = world.poll() {
        let resources = aliases(&send);
        let names: BTreeSet<_> = resources.iter().map(|(name, ..)| name.clone()).collect();
        assert_eq!(names.len(), resources.len(), "{resources:?}");
        told.extend(resources.into_iter().flat_map(|(_, aliases, _)| aliases));
        world.ack(VirtualHost);
    }
    assert_eq!(told, asked.map(str::to_owned).into());
}

/// 64
#[test]
fn a_host_that_goes_while_it_is_asked_for_is_removed_and_then_answered() {
    let mut world = hosted();
    world.publish(vec![resource(VirtualHost, "r/b.example", "1")], &[]);
    world.settle();
    world.publish(vec![], &[(VirtualHost, "r/b.example"), (VirtualHost, "r/*.example")]);
    world.subscribe(VirtualHost, &["r/b.example"]);
    assert_eq!(world.out(), ["VHDS -r/*.example -r/b.example"]);
    world.ack(VirtualHost);
    let send = world.poll().expect("an answer");
    assert_eq!(aliases(&send), [("r/b.example".into(), vec!["r/b.example".into()], false)]);
}

/// 111
#[test]
fn a_proxy_that_acknowledges_late_is_waited_for_and_served() {
    let mut world = World::running();
    world.publish(vec![cluster("a", "2")], &[]);
    assert_eq!(world.out(), ["CDS +a", "EDS +a"]);
    assert_eq!(world.after(100_000), NOTHING);
    world.ack(Cluster);
    world.ack(Endpoints);
    assert_eq!(world.acked(Cluster, "a"), Acked::Acked);
    world.publish(vec![cluster("a", "3")], &[]);
    assert_eq!(world.out(), ["CDS +a", "EDS +a"]);
}

/// 5 and 6 of the corner cases
#[test]
fn a_name_that_the_view_lacks_holds_up_no_other_and_comes_when_it_is_there() {
    let mut world = World::new();
    world.publish(vec![eds("b", "1")], &[]);
    world.publish(vec![eds("b", "2"), eds("y", "1")], &[]);
    world.subscribe(Endpoints, &["a", "b"]);
    assert_eq!(world.settle(), ["EDS +b -a"]);
    world.publish(vec![eds("b", "3")], &[]);
    assert_eq!(world.settle(), ["EDS +b"]);
    world.publish(vec![eds("a", "1")], &[]);
    assert_eq!(world.settle(), ["EDS +a"]);
}

/// 24 of the corner cases
#[test]
fn an_absent_name_is_not_forgotten_for_another_that_is_asked_for_later() {
    let mut world = World::running();
    world.subscribe(Secret, &["one"]);
    assert_eq!(world.settle(), ["SDS -one"]);
    world.subscribe(Secret, &["two"]);
    assert_eq!(world.settle(), ["SDS -two"]);
    world.publish(vec![resource(Secret, "one", "1"), resource(Secret, "two", "1")], &[]);
    assert_eq!(world.settle(), ["SDS +one +two"]);
}

/// 19 of the corner cases
#[test]
fn what_is_unsubscribed_while_it_waits_for_its_turn_is_not_sent() {
    let mut world = World::running();
    world.publish(vec![eds("a", "2")], &[]);
    assert_eq!(world.out(), ["EDS +a"]);
    world.publish(vec![eds("a", "3"), eds("b", "2")], &[]);
    assert_eq!(world.out(), NOTHING);
    world.unsubscribe(Endpoints, &["b"]);
    world.ack(Endpoints);
    assert_eq!(world.out(), ["EDS +a"]);
}

/// 16 of the corner cases
#[test]
fn a_client_that_refuses_everything_is_sent_each_content_once_alone_and_then_nothing() {
    let mut world = World::running();
    let mut sent = 0;
    for content in 2..5 {
        world.publish(vec![cluster("a", &content.to_string())], &[]);
        for _ in 0..20 {
            let out = world.out();
            sent += out.iter().filter(|line| line.starts_with("CDS")).count();
            for (kind, nonces) in std::mem::take(&mut world.open) {
                let error = (kind == Cluster).then_some("never");
                nonces.into_iter().for_each(|nonce| world.answer(kind, nonce, error));
            }
            world.now += Duration::from_secs(10);
        }
    }
    assert_eq!(sent, 3);
}

/// 28 of the corner cases
#[test]
fn assignments_that_are_all_dropped_and_asked_for_again_go_on_as_before() {
    let mut world = World::running();
    world.publish(vec![eds("a", "2")], &[]);
    assert_eq!(world.out(), ["EDS +a"]);
    world.unsubscribe(Endpoints, &["a", "b"]);
    world.publish(vec![eds("a", "3")], &[]);
    assert_eq!(world.out(), NOTHING);
    // The answer to what was dropped comes late.
    world.ack(Endpoints);
    world.subscribe(Endpoints, &["a"]);
    assert_eq!(world.settle(), ["EDS +a"]);
    world.publish(vec![eds("a", "4")], &[]);
    assert_eq!(world.settle(), ["EDS +a"]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    /// 75, 18 of the corner cases: whatever changes at once, in whatever state the answers are.
    #[test]
    fn everything_at_once_goes_out_in_make_before_break_order(
        changes in prop::collection::vec(0_usize..5, 1..6),
        answered in any::<bool>(),
    ) {
        let order = |line: &String| ["CDS", "EDS", "LDS", "SDS", "RDS"].iter().position(|kind| line.starts_with(kind));
        let mut world = World::running();
        world.publish(vec![resource(Secret, "s", "1")], &[]);
        world.subscribe(Secret, &["s"]);
        world.settle();
        if !answered {
            world.publish(vec![cluster("b", "0"), eds("b", "0")], &[]);
            world.out();
        }
        let change = |what: &usize| match what {
            0 => cluster("a", "2"),
            1 => eds("a", "2"),
            2 => lds("2"),
            3 => resource(Secret, "s", "2"),
            _ => rds("2", &["a"]),
        };
        world.publish(changes.iter().map(change).collect(), &[]);
        let out = world.out();
        let places: Vec<_> = out.iter().map(order).collect();
        prop_assert!(places.is_sorted(), "{out:?}");
    }

    /// 57, 31 of the corner cases: also across types, frames of one stream and frames that streams share.
    #[test]
    fn no_nonce_comes_twice_on_a_stream(contents in prop::collection::vec(0_u8..3, 1..20)) {
        let mut world = World::running();
        let mut seen = BTreeSet::new();
        for content in contents {
            world.publish(vec![cluster("a", &content.to_string()), rds(&content.to_string(), &["a"])], &[]);
            while let Some(send) = world.poll() {
                prop_assert!(send.frame.nonce != 0 && seen.insert(send.frame.nonce));
                world.answer(send.kind.unwrap(), send.frame.nonce, None);
            }
        }
    }
}

//! Claims about times to live, resource errors, collections, and what a proxy may have half accepted.

use std::{sync::Arc, time::Duration};

use ResourceType::{Cluster, Endpoints, Listener, Route, Secret, VirtualHost};

use super::{world::*, *};
use crate::{
    feedback::ProxyId,
    model::Role,
    serve::{
        absent::{MOST, Why},
        doubts::Doubts,
    },
    xds::{Resource, name::Fault},
};

const NOTHING: [&str; 0] = [];
const TTL: Duration = Duration::from_secs(30);

fn lasting(name: &str, payload: &str) -> Resource {
    eds(name, payload).lasting(TTL)
}

/// A stream that has an assignment with a time to live.
fn living() -> World {
    let mut world = World::new();
    world.publish(vec![lasting("a", "1"), eds("b", "1")], &[]);
    world.subscribe(Endpoints, &["a", "b"]);
    assert_eq!(world.settle(), ["EDS +a +b"]);
    world
}

/// What goes out when it is due: whether in full, by its payload.
fn next(world: &mut World) -> (Vec<String>, Vec<usize>) {
    let before = world.now;
    // A subscription that has stood for a while is a deadline of its own, at which nothing is sent.
    let send = (0..3).find_map(|_| {
        world.now = world.session.next_deadline().expect("something is due");
        world.poll()
    });
    let send = send.expect("a response");
    assert!(world.now > before && world.now < before + TTL / 2, "before half of the time to live");
    assert_eq!(world.out(), NOTHING);
    let names = send.frame.resources.iter().map(|r| r.name.to_string()).collect();
    (names, send.frame.resources.iter().map(|r| r.payload.len()).collect())
}

#[test]
fn what_has_a_time_to_live_is_renewed_by_name_and_version_alone() {
    let mut world = living();
    let version = lasting("a", "1").version;
    for _ in 0..5 {
        assert_eq!(world.out(), NOTHING);
        let deadline = world.session.next_deadline().unwrap();
        assert!(deadline < world.now + TTL / 2);
        world.now = deadline;
        let send = world.poll().unwrap();
        let [beat] = send.frame.resources.as_slice() else { panic!("{send:?}") };
        assert_eq!((&*beat.name, beat.version, beat.ttl, beat.payload.len()), ("a", version, Some(TTL), 0));
        assert!(!world.session.kind(Endpoints).unwrap().has(Seq(u64::MAX)), "its answer is awaited");
        world.ack(Endpoints);
    }
    // A change comes in full, and counts as a renewal.
    world.publish(vec![lasting("a", "2")], &[]);
    let send = world.poll().unwrap();
    assert_eq!(send.frame.resources[0].payload, "2");
    world.ack(Endpoints);
    assert_eq!(world.out(), NOTHING);
    assert_eq!(next(&mut world), (vec!["a".into()], vec![0]));
}

#[test]
fn a_client_that_does_not_know_times_to_live_is_sent_none_and_no_heartbeat() {
    let mut world = World::new();
    let deaf = Client { expires: false, ..client(Role::Edge) };
    world.session = Session::new(Arc::new(Fanouts::new("test".into())), deaf, world.now);
    world.publish(vec![lasting("a", "1")], &[]);
    world.subscribe(Endpoints, &["a"]);
    let send = world.poll().unwrap();
    assert_eq!(send.frame.resources[0].body, lasting("a", "1").body);
    assert_ne!(lasting("a", "1").body, lasting("a", "1").expiring().body);
    world.ack(Endpoints);
    assert_eq!(world.after(100), NOTHING);
    assert_eq!(world.session.next_deadline(), None);
}

#[test]
fn after_a_stall_of_the_whole_time_it_is_sent_in_full() {
    let mut world = living();
    world.now += TTL;
    let send = world.poll().unwrap();
    assert_eq!((&*send.frame.resources[0].name, send.frame.resources[0].payload.len()), ("a", 1));
    world.ack(Endpoints);
    // The same if the answer to a heartbeat says that it may have come too late.
    assert_eq!(world.out(), NOTHING);
    assert_eq!(next(&mut world), (vec!["a".into()], vec![0]));
    world.now += TTL;
    assert_eq!(world.out(), NOTHING, "one response is on its way");
    world.ack(Endpoints);
    let send = world.poll().unwrap();
    assert_eq!((&*send.frame.resources[0].name, send.frame.resources[0].payload.len()), ("a", 1));
}

#[test]
fn a_heartbeat_that_is_answered_a_whole_time_after_what_is_proven_may_have_come_too_late() {
    for (early, full) in [(Duration::ZERO, 1), (Duration::from_nanos(1), 0)] {
        let mut world = living();
        let sent = world.now;
        assert_eq!(world.out(), NOTHING);
        assert_eq!(next(&mut world), (vec!["a".into()], vec![0]));
        world.session.reports();
        world.now = sent + TTL - early;
        world.ack(Endpoints);
        let reports = world.session.reports();
        assert_eq!(reports[0].1.pending.len(), full, "what is to be sent again is not taken");
        assert_eq!(world.poll().unwrap().frame.resources[0].payload.len(), full);
    }
}

#[test]
fn renewals_are_spread_over_a_part_of_the_time_to_live_that_is_less_than_half() {
    let (ttl, seed) = (Duration::from_secs(100), std::time::Instant::now());
    let all = |seed| (0..500).map(|n| interval(ttl, &n.to_string(), seed)).collect::<Vec<_>>();
    let (least, most) = (all(seed).into_iter().min().unwrap(), all(seed).into_iter().max().unwrap());
    assert!((35.0..36.0).contains(&least.as_secs_f64()) && (49.0..50.0).contains(&most.as_secs_f64()));
    assert_ne!(all(seed), all(seed + ttl), "not all streams at once");
}

#[test]
fn a_time_to_live_is_on_the_wire_for_those_who_know_it_whether_the_response_is_shared_or_not() {
    use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryResponse;
    use prost::Message;
    for expires in [true, false] {
        let mut world = World::new();
        let fanouts = Arc::new(Fanouts::new("test".into()));
        world.session = Session::new(fanouts, Client { expires, ..client(Role::Edge) }, world.now);
        world.publish(vec![lasting("a", "1"), eds("b", "1")], &[]);
        for _ in 0..2 {
            // Who asks again is answered in a response of its own.
            world.subscribe(Endpoints, &["a", "b"]);
            let send = world.poll().unwrap();
            let read = DeltaDiscoveryResponse::decode(&send.frame.bytes()[5..]).unwrap();
            let ttls: Vec<_> = read.resources.iter().map(|r| r.ttl.map(|ttl| ttl.seconds)).collect();
            assert_eq!(ttls, [expires.then_some(30), None]);
            world.ack(Endpoints);
        }
    }
}

#[test]
fn a_refused_cluster_that_goes_is_not_renewed_until_it_is_gone() {
    let mut world = World::running();
    world.publish(vec![cluster("c", "1").lasting(Duration::from_secs(4))], &[]);
    assert_eq!(world.out(), ["CDS +c"]);
    world.nack(Cluster, "c: no");
    world.publish(vec![], &[(Cluster, "c")]);
    assert_eq!(world.after(100), ["CDS -c"]);
}

#[test]
fn nothing_is_renewed_after_a_refusal_or_when_it_is_not_asked_for_or_is_gone() {
    let mut world = living();
    world.publish(vec![lasting("a", "2")], &[]);
    assert_eq!(world.out(), ["EDS +a"]);
    world.nack(Endpoints, "bad");
    assert_eq!((world.after(100), world.session.next_deadline()), (vec![], None));
    let mut world = living();
    world.unsubscribe(Endpoints, &["a"]);
    assert_eq!((world.after(100), world.session.next_deadline()), (vec![], None));
    let mut world = living();
    world.publish(vec![], &[(Endpoints, "a")]);
    assert_eq!((world.after(100), world.session.next_deadline()), (vec![], None));
    // A time that is taken away is sent once, and then no more.
    let mut world = living();
    world.publish(vec![eds("a", "1")], &[]);
    assert_eq!(world.settle(), ["EDS +a"]);
    assert_eq!((world.after(100), world.session.next_deadline()), (vec![], None));
}

#[test]
fn a_refused_heartbeat_parks_nothing_and_is_followed_by_the_whole() {
    let mut world = living();
    assert_eq!(world.out(), NOTHING);
    assert_eq!(next(&mut world), (vec!["a".into()], vec![0]));
    world.nack(Endpoints, "what is this");
    let send = world.poll().unwrap();
    assert_eq!(send.frame.resources[0].payload, "1");
    world.ack(Endpoints);
    assert!(world.session.reports().iter().all(|(_, state)| state.parked.is_empty() && state.pending.is_empty()));
}

#[test]
fn an_older_version_that_serves_on_is_renewed_while_the_newer_is_held_back() {
    let mut world = World::running();
    let timed = |payload: &str, clusters: &[&str]| rds(payload, clusters).lasting(TTL);
    world.publish(vec![timed("1", &["a"])], &[]);
    assert_eq!(world.settle(), ["RDS +r"]);
    world.publish(vec![cluster("c", "1"), timed("2", &["c"])], &[]);
    assert_eq!(world.out(), ["CDS +c"]);
    world.now = world.session.next_deadline().unwrap();
    let send = world.poll().expect("a heartbeat before half of the time, and before the wait for the cluster ends");
    assert_eq!(send.frame.resources[0].version, timed("1", &["a"]).version);
}

#[test]
fn a_stall_neither_hurries_a_cluster_that_is_to_go_nor_keeps_others_from_being_renewed() {
    let mut world = World::running();
    let short = TTL / 3;
    world.publish(vec![cluster("c", "1").lasting(short), cluster("d", "1").lasting(TTL)], &[]);
    world.settle();
    world.publish(vec![rds("2", &["a"])], &[(Cluster, "c")]);
    assert_eq!(world.out(), ["RDS +r"]);
    world.now += short;
    assert_eq!(world.out(), NOTHING, "its routes are not acknowledged");
    assert_eq!(next(&mut world), (vec!["d".into()], vec![0]));
}

#[test]
fn a_stall_does_not_lengthen_the_wait_of_what_is_held_back() {
    let mut world = World::running();
    let short = Duration::from_secs(10);
    world.publish(vec![rds("2", &["a"]).lasting(short)], &[]);
    world.settle();
    world.publish(vec![cluster("c", "1"), rds("3", &["c"]).lasting(short)], &[]);
    assert_eq!(world.out(), ["CDS +c"]);
    world.now += short;
    assert_eq!(world.out(), NOTHING);
    world.now += Duration::from_secs(5);
    assert_eq!(world.out(), ["RDS +r"]);
}

#[test]
fn what_has_to_be_sent_in_full_after_a_stall_and_is_held_back_is_told_as_pending() {
    let mut world = World::running();
    world.publish(vec![rds("2", &["a"]).lasting(TTL)], &[]);
    world.settle();
    for changes in [&[(Cluster, "a")][..], &[]] {
        let again = if changes.is_empty() { vec![cluster("a", "1")] } else { vec![] };
        world.publish(again, changes);
        world.out();
    }
    world.ack(Endpoints);
    world.session.reports();
    world.now += TTL;
    assert_eq!(world.out(), NOTHING, "its cluster is new and not acknowledged");
    let reports = world.session.reports();
    let (_, routes) = reports.iter().find(|(kind, _)| *kind == Route).expect("something new");
    assert_eq!(**routes.pending, ["r".into()]);
}

#[test]
fn what_a_proxy_brings_along_is_renewed_at_once() {
    let mut world = World::new();
    world.publish(vec![lasting("a", "1")], &[]);
    world.reconnect();
    let initial = [("a".to_owned(), lasting("a", "1").version.to_string())].into_iter().collect();
    world.request(Endpoints, Request { subscribe: owned(&["a"]), initial, ..Request::default() });
    let send = world.poll().unwrap();
    assert_eq!((&*send.frame.resources[0].name, send.frame.resources[0].payload.len()), ("a", 0));
}

#[test]
fn heartbeats_move_no_cursor() {
    let mut world = World::new();
    world.publish(vec![cluster("a", "1").lasting(TTL), cluster("b", "1"), lds("1")], &[]);
    world.subscribe(Cluster, &[]);
    world.settle();
    world.subscribe(Endpoints, &["a"]);
    world.settle();
    assert_eq!(next(&mut world), (vec!["a".into()], vec![0]), "no assignment follows");
    world.ack(Cluster);
    // As long as this is not answered, nothing is removed.
    world.subscribe(Listener, &[]);
    assert_eq!(world.out(), ["LDS +l"]);
    world.publish(vec![cluster("b", "2")], &[(Cluster, "a")]);
    assert_eq!(world.out(), ["CDS +b"]);
    world.ack(Cluster);
    assert_eq!(world.out(), NOTHING);
    // It lives until its turn to be removed comes.
    let send = (0..3).find_map(|_| {
        world.now = world.session.next_deadline().unwrap();
        world.poll()
    });
    let send = send.unwrap();
    assert_eq!((&*send.frame.resources[0].name, send.frame.resources[0].payload.len()), ("a", 0));
}

#[test]
fn virtual_hosts_have_no_time_to_live() {
    let mut world = World::new();
    world.publish(vec![resource(VirtualHost, "r/h", "1").lasting(TTL)], &[]);
    world.subscribe(VirtualHost, &["r/h"]);
    let send = world.poll().unwrap();
    assert_eq!(send.frame.resources[0].body, resource(VirtualHost, "r/h", "1").lasting(TTL).body);
    world.ack(VirtualHost);
    assert_eq!((world.after(100), world.session.next_deadline()), (vec![], None));
}

fn errors(send: &Send) -> Vec<(String, Why)> {
    send.frame.errors.iter().map(|error| (error.name.to_string(), error.why)).collect()
}

#[test]
fn an_absent_name_comes_with_its_reason_once_and_a_wildcard_with_none() {
    let mut world = World::running();
    world.subscribe(Endpoints, &["x"]);
    let send = world.poll().unwrap();
    assert_eq!(send.frame.removed, ["x".into()]);
    assert_eq!(errors(&send), [("x".into(), Why::Unknown(Endpoints))]);
    world.ack(Endpoints);
    assert_eq!(world.out(), NOTHING);
    world.unsubscribe(Cluster, &["x"]);
    let send = world.poll().unwrap();
    assert_eq!((send.frame.removed.as_slice(), errors(&send)), (["x".into()].as_slice(), vec![]));
    let wrong = "xdstp://h/envoy.config.listener.v3.Listener/x";
    world.subscribe(Endpoints, &[wrong]);
    let send = world.poll().unwrap();
    assert_eq!(errors(&send), [(wrong.into(), Why::Impossible(Fault::Type))]);
}

#[test]
fn reasons_are_given_for_the_first_thousand_names() {
    let mut world = World::running();
    let names: Vec<_> = (0..=MOST).map(|n| format!("x{n}")).collect();
    world.subscribe(Secret, &names.iter().map(String::as_str).collect::<Vec<_>>());
    let send = world.poll().unwrap();
    assert_eq!((send.frame.removed.len(), send.frame.errors.len()), (MOST + 1, MOST));
}

#[test]
fn whoever_is_not_proven_is_told_the_same_of_every_secret() {
    let mut world = World::new();
    let unproven = Client { proven: false, ..client(Role::Edge) };
    world.session = Session::new(Arc::new(Fanouts::new("test".into())), unproven, world.now);
    world.publish(vec![], &[]);
    world.subscribe(Secret, &["a", "b"]);
    let said = errors(&world.poll().unwrap());
    assert_eq!(said, [("a".into(), Why::Unproven), ("b".into(), Why::Unproven)]);
}

#[test]
fn a_name_is_one_name_in_every_spelling_and_is_answered_as_it_was_asked_for() {
    let mut world = World::new();
    let at = |id: &str| format!("xdstp://h/envoy.config.cluster.v3.Cluster/{id}");
    let normal = at("x/y?a=1&b=2");
    world.publish(vec![resource(Cluster, &normal, "1")], &[]);
    world.subscribe(Cluster, &[&at("x/%79?b=2&a=1"), &at("no?b=2&a=1")]);
    assert_eq!(world.out(), [format!("CDS +{normal} -{}", at("no?b=2&a=1"))]);
    world.ack(Cluster);
    world.reconnect();
    world.report(Cluster, &[&normal], &[(&at("x/y?b=2&a=1"), "1")]);
    assert_eq!(world.out(), NOTHING);
    world.unsubscribe(Cluster, &[&at("x/y?b=2&a=1")]);
    assert!(world.session.kind(Cluster).unwrap().subscription.is_empty());
}

fn in_collection(id: &str) -> String {
    format!("xdstp://h/envoy.config.listener.v3.Listener/{id}")
}

/// A stream with a collection of one.
fn collecting() -> World {
    let mut world = World::new();
    let member = resource(Listener, &in_collection("f/1"), "1");
    world.publish(vec![member, resource(Listener, &in_collection("f/g/1"), "1"), resource(Listener, "l", "1")], &[]);
    world.subscribe(Listener, &[&in_collection("f/*")]);
    assert_eq!(world.settle(), [format!("LDS +{}", in_collection("f/1"))]);
    world
}

#[test]
fn a_collection_has_its_members_as_they_come_and_go() {
    let mut world = collecting();
    world.publish(vec![resource(Listener, &in_collection("f/2"), "1"), resource(Listener, "m", "1")], &[]);
    assert_eq!(world.settle(), [format!("LDS +{}", in_collection("f/2"))]);
    world.publish(vec![resource(Listener, &in_collection("f/2?a=1"), "1")], &[(Listener, &in_collection("f/1"))]);
    assert_eq!(world.settle(), [format!("LDS -{}", in_collection("f/1"))], "another context is another collection");
    world.publish(vec![], &[(Listener, &in_collection("f/2"))]);
    assert_eq!(world.settle(), [format!("LDS -{}", in_collection("f/2"))]);
    assert_eq!(world.after(100), NOTHING);
}

#[test]
fn an_empty_collection_is_removed_by_its_own_name_until_it_has_members() {
    let mut world = World::new();
    world.publish(vec![], &[]);
    let glob = in_collection("f/*");
    world.subscribe(Listener, &[&glob]);
    let send = world.poll().unwrap();
    assert_eq!((send.frame.removed.as_slice(), errors(&send)), ([glob.as_str().into()].as_slice(), vec![]));
    world.ack(Listener);
    world.publish(vec![resource(Listener, &in_collection("f/1"), "1")], &[]);
    assert_eq!(world.settle(), [format!("LDS +{}", in_collection("f/1"))]);
    // Asked for in a first request of a stream, or in a later one, and filled before that is looked at.
    let mut world = World::new();
    for folder in ["f", "g"] {
        let one = in_collection(&format!("{folder}/1"));
        world.subscribe(Listener, &[&in_collection(&format!("{folder}/*"))]);
        world.publish(vec![resource(Listener, &one, "1")], &[]);
        assert_eq!(world.settle(), [format!("LDS +{one}")]);
    }
}

#[test]
fn collections_stand_beside_names_and_the_wildcard() {
    let mut world = collecting();
    let (glob, one) = (in_collection("f/*"), in_collection("f/1"));
    // Asked for by name too, it stays when the collection goes, and the other way round.
    world.subscribe(Listener, &[&one]);
    assert_eq!(world.settle(), [format!("LDS +{one}")]);
    world.unsubscribe(Listener, &[&one]);
    assert_eq!(world.settle(), [format!("LDS +{one}")], "still in the collection: it has to be said (rule 47)");
    world.subscribe(Listener, &[&one]);
    world.settle();
    world.unsubscribe(Listener, &[&glob]);
    world.publish(vec![resource(Listener, &in_collection("f/2"), "1"), resource(Listener, &one, "2")], &[]);
    assert_eq!(world.settle(), [format!("LDS +{one}")]);
    world.subscribe(Listener, &["*"]);
    assert_eq!(world.settle().len(), 1);
    world.subscribe(Listener, &[&glob]);
    assert_eq!(world.settle(), [format!("LDS +{one} +{}", in_collection("f/2"))]);
}

#[test]
fn a_reconnect_with_a_collection_is_compared_and_told_what_is_gone() {
    let mut world = collecting();
    world.publish(vec![resource(Listener, &in_collection("f/2"), "1")], &[]);
    world.reconnect();
    let (one, three) = (in_collection("f/1"), in_collection("f/3"));
    world.report(Listener, &[&in_collection("f/*")], &[(&one, "1"), (&three, "1"), ("other", "1")]);
    assert_eq!(world.out(), [format!("LDS +{} -{three}", in_collection("f/2"))]);
}

#[test]
fn a_member_of_a_type_that_is_never_removed_is_removed_from_its_collection() {
    let mut world = World::new();
    let at = |id: &str| format!("xdstp://h/envoy.config.route.v3.RouteConfiguration/{id}");
    world.publish(vec![resource(Route, &at("f/1"), "1"), resource(Route, &at("f/2"), "1")], &[]);
    world.subscribe(Route, &[&at("f/*")]);
    assert_eq!(world.settle(), [format!("RDS +{} +{}", at("f/1"), at("f/2"))]);
    world.publish(vec![], &[(Route, &at("f/1"))]);
    assert_eq!(world.settle(), [format!("RDS -{}", at("f/1"))]);
    assert_eq!(world.after(100), NOTHING);
    world.publish(vec![resource(Route, &at("f/1"), "2")], &[]);
    assert_eq!(world.settle(), [format!("RDS +{}", at("f/1"))]);
    // Of what is no member nothing is said, asked for by name or not at all.
    world.publish(vec![resource(Route, "named", "1"), resource(Route, "other", "1")], &[]);
    world.subscribe(Route, &["named"]);
    assert_eq!(world.settle(), ["RDS +named"]);
    world.publish(vec![], &[(Route, "named"), (Route, "other")]);
    assert_eq!(world.settle(), NOTHING);
}

/// Corner case 10: what is good in a refused response is live, and not reported.
#[test]
fn what_a_proxy_half_accepted_and_that_is_gone_is_removed_at_its_reconnect() {
    let doubts = Arc::new(Doubts::default());
    let proxy = ProxyId { site: "fra".into(), node: "e".into() };
    let mut world = World::running();
    let connect = |world: &mut World, proxy: &ProxyId| {
        world.reconnect();
        let fanouts = Arc::new(Fanouts::new("test".into()));
        world.session =
            Session::new(fanouts, client(Role::Edge), world.now).doubting(doubts.of(proxy, Role::Edge, true));
        world.session.trust(true);
        world.report(Cluster, &[], &[("a", "1"), ("b", "1")]);
        world.subscribe(Listener, &[]);
        world.subscribe(Route, &["r"]);
        world.settle()
    };
    connect(&mut world, &proxy);
    world.publish(vec![cluster("bad", "1"), cluster("good", "1")], &[]);
    assert_eq!(world.out(), ["CDS +bad +good"]);
    world.nack(Cluster, "bad: no");
    // The stream breaks before the answer to what is tried again.
    world.publish(vec![], &[(Cluster, "bad"), (Cluster, "good")]);
    connect(&mut world, &ProxyId { node: "other".into(), ..proxy.clone() });
    assert_eq!(world.after(1000), NOTHING, "another proxy is no affair of it");
    connect(&mut world, &proxy);
    assert_eq!(world.after(1000), ["CDS -bad -good"]);
    world.ack(Cluster);
    connect(&mut world, &proxy);
    assert_eq!(world.after(1000), NOTHING, "it has heard of it");
    // Taken in the meantime: then it is reported, and nothing is in doubt.
    world.publish(vec![cluster("bad", "2"), cluster("good", "2")], &[]);
    assert_eq!(world.out(), ["CDS +bad +good"]);
    world.nack(Cluster, "bad: no");
    world.settle();
    world.publish(vec![], &[(Cluster, "bad"), (Cluster, "good")]);
    connect(&mut world, &proxy);
    assert_eq!(world.after(1000), NOTHING);
}

#[test]
fn names_that_nobody_has_cannot_be_piled_up_under_a_wildcard() {
    let mut world = World::running();
    let names = |from: usize| (from..from + MAX_NAMES / 2).map(|i| format!("x{i}")).collect::<Vec<_>>();
    let mut ask = |from| {
        let request = Request { url: Cluster.url().into(), unsubscribe: names(from), ..Request::default() };
        world.session.on_request(request, &world.reader.view().read(), world.now)
    };
    assert_eq!(ask(0), Ok(()));
    assert_eq!(ask(0), Ok(()), "the same again");
    assert_eq!(ask(MAX_NAMES / 2), Ok(()));
    assert_eq!(ask(MAX_NAMES), Err(Violation::TooManyNames));
}

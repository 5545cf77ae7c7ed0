//! Attacks by a proxy that is who it says: with what it asks for, answers, and says that it has.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use envoy_types::pb::{envoy::service::discovery::v3::DeltaDiscoveryRequest, google::rpc::Status as Rpc};
use tonic::Code;

use super::{SLACK, Target};
use crate::{
    harness::wait_for,
    hostile::{CLUSTER, Client, ENDPOINTS, ask, comes, node, served},
    world::Machine,
};

const SECRET: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
const ROUTE: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";
/// What one attacker may cost in memory, KiB.
const GROWTH_MAX: u64 = 64 << 10;
/// Names of one type on a stream, and their bytes.
const NAMES_MAX: usize = 100_000;
const NAME_MAX: usize = 512;

fn target() -> (Target, u64) {
    let mut target = Target::start(&[]);
    target.still_serves("before");
    let before = target.memory();
    (target, before)
}

fn grown(target: &mut Target, before: u64) {
    let grown = target.memory().saturating_sub(before);
    assert!(grown <= GROWTH_MAX, "{grown} KiB more");
}

fn names(from: usize, count: usize) -> Vec<String> {
    (from..from + count).map(|n| format!("no/such-{n}:80")).collect()
}

/// 15
#[test]
fn more_names_than_a_proxy_can_have_and_names_without_an_end_close_the_stream() {
    let _machine = Machine::shared();
    let (mut target, before) = target();
    let xds = target.control.xds();
    let mut many = Client::core(xds, "many");
    many.send(ask(ENDPOINTS, &names(0, NAMES_MAX)));
    comes(&mut many, "shop/first:80");
    many.send(ask(ENDPOINTS, &names(NAMES_MAX, 1)));
    assert_eq!(many.end().code(), Code::InvalidArgument);
    let reported = names(0, NAMES_MAX + 1).into_iter().map(|name| (name, "1".to_owned())).collect();
    for bad in [
        ask(ENDPOINTS, &names(0, NAMES_MAX + 1)),
        ask(ENDPOINTS, &["x".repeat(NAME_MAX + 1)]),
        DeltaDiscoveryRequest { resource_names_unsubscribe: vec!["x".repeat(NAME_MAX + 1)], ..ask(ENDPOINTS, &[]) },
        DeltaDiscoveryRequest { initial_resource_versions: reported, ..ask(ENDPOINTS, &[]) },
    ] {
        let mut client = Client::core(xds, "large");
        client.send(bad);
        assert_eq!(client.end().code(), Code::InvalidArgument);
    }
    drop(many);
    target.still_serves("after");
    grown(&mut target, before);
}

/// 15
#[test]
fn more_names_of_several_types_than_a_connection_may_ask_for_close_the_stream() {
    let _machine = Machine::shared();
    let (mut target, before) = target();
    let mut all = Client::core(target.control.xds(), "all");
    for url in [ENDPOINTS, SECRET, ROUTE] {
        all.send(ask(url, &names(0, NAMES_MAX)));
    }
    assert_eq!(all.end().code(), Code::ResourceExhausted, "too many of all types together");
    target.still_serves("after");
    // Each type of them may cost as much.
    grown(&mut target, before + GROWTH_MAX);
}

/// 15
#[test]
fn names_that_are_no_names_are_absent_and_do_no_harm_to_whoever_reads_of_them() {
    let _machine = Machine::shared();
    let (target, _) = target();
    let mut client = Client::core(target.control.xds(), "odd");
    comes(&mut client, "shop/first:80");
    let odd = ["", "\0", "line\nbreak", "\u{1b}[31mred", "../../etc/passwd", "ünïcödé", "\u{202e}txet", "%00", "a b"];
    let odd: Vec<String> = odd.iter().map(ToString::to_string).chain(["x".repeat(NAME_MAX)]).collect();
    client.send(ask(ENDPOINTS, &odd));
    let mut absent = Vec::new();
    while absent.len() < odd.len() {
        let response = client.within(SLACK).expect("an answer").unwrap().expect("the stream stands");
        client.answer(&response, None);
        absent.extend(response.removed_resources);
    }
    absent.sort();
    let mut expected = odd;
    expected.sort();
    assert_eq!(absent, expected);
    for command in [&["proxy", "status"][..], &["proxy", "status", "-o", "json"]] {
        let shown = target.control.run(command).stdout;
        assert!(!shown.contains(['\u{1b}', '\0']), "{shown}");
    }
    target.still_serves("after");
}

/// 16
#[test]
fn a_proxy_that_subscribes_and_unsubscribes_without_end_costs_itself_alone() {
    let _machine = Machine::shared();
    let (mut target, before) = target();
    let mut other = Client::core(target.control.xds(), "other");
    comes(&mut other, "shop/first:80");
    let mut flapping = Client::core(target.control.xds(), "flapping");
    let (name, end) = (["shop/first:80".to_owned()], Instant::now() + Duration::from_secs(2));
    let mut flaps = 0;
    while Instant::now() < end {
        for _ in 0..50 {
            flapping.send(ask(ENDPOINTS, &name));
            let unsubscribe = name.to_vec();
            flapping.send(DeltaDiscoveryRequest { resource_names_unsubscribe: unsubscribe, ..ask(ENDPOINTS, &[]) });
            flaps += 1;
        }
        while flapping.within(Duration::ZERO).is_some() {}
    }
    assert!(flaps > 1_000, "{flaps} in two seconds are no attack");
    let changed = Instant::now();
    target.control.apply(&served("meanwhile"), &[]).ok();
    comes(&mut other, "shop/meanwhile:80");
    assert!(changed.elapsed() < SLACK, "{:?}", changed.elapsed());
    // What it asked for last is what it has.
    flapping.send(ask(ENDPOINTS, &name));
    comes(&mut flapping, "shop/first:80");
    grown(&mut target, before);
}

/// 17
#[test]
fn a_thousand_unknown_types_and_one_that_is_not_granted_are_answered_as_absent() {
    let _machine = Machine::shared();
    let (mut target, before) = target();
    let mut client = Client::core(target.control.xds(), "types");
    comes(&mut client, "shop/first:80");
    let types: Vec<String> = (0..1_000).map(|n| format!("type.googleapis.com/no.such.Type{n}")).collect();
    let mut absent = Vec::new();
    for some in types.chunks(10) {
        some.iter().for_each(|url| client.send(ask(url, &["x".to_owned()])));
        for _ in some {
            let response = client.within(SLACK).expect("an answer").unwrap().expect("the stream stands");
            assert_eq!((response.resources.len(), &*response.removed_resources), (0, &["x".to_owned()][..]));
            absent.push(response.type_url);
        }
    }
    absent.sort();
    absent.dedup();
    assert_eq!(absent.len(), types.len());
    // Without a certificate there is no Secret, by name or by wildcard, and no word of whether there is one.
    for name in ["shop/tls", "no/such"] {
        client.send(ask(SECRET, &[name.to_owned()]));
        let response = client.within(SLACK).expect("an answer").unwrap().expect("the stream stands");
        assert_eq!((response.resources.len(), &*response.removed_resources), (0, &[name.to_owned()][..]));
        client.answer(&response, None);
    }
    client.send(ask(SECRET, &["*".to_owned()]));
    let response = client.within(SLACK).expect("an answer").unwrap().expect("the stream stands");
    assert!(response.resources.is_empty() && response.removed_resources.is_empty(), "{response:?}");
    target.still_serves("after");
    grown(&mut target, before);
}

/// 18
#[test]
fn nonces_of_nobody_and_a_storm_of_refusals_change_nothing_and_are_kept_in_short() {
    let _machine = Machine::shared();
    let (mut target, before) = target();
    let mut client = Client::core(target.control.xds(), "storm");
    let response = client.within(SLACK).expect("clusters").unwrap().expect("the stream stands");
    let words = format!("\u{1b}[31m{}", "because ".repeat(8 << 10));
    let refuse = |nonce: &str| DeltaDiscoveryRequest {
        response_nonce: nonce.to_owned(),
        error_detail: Some(Rpc { code: 3, message: words.clone(), ..Rpc::default() }),
        ..ask(CLUSTER, &[])
    };
    // Never sent, of another stream, no number; and the same answer again and again.
    // (A client that asks for the same is sent the same frame, so that its nonce would be the true one.)
    let other = DeltaDiscoveryRequest { node: node("core1", "other"), ..ask(CLUSTER, &["shop/first:80".to_owned()]) };
    let other = Client::open(target.control.xds(), other).unwrap().within(SLACK);
    let foreign = other.expect("clusters").unwrap().expect("the stream stands").nonce;
    for nonce in ["ffffffffffffffff", "0", "-1", "ä", &foreign] {
        client.send(refuse(nonce));
        client.send(DeltaDiscoveryRequest { response_nonce: nonce.to_owned(), ..ask(CLUSTER, &[]) });
    }
    let status = target.control.run(&["proxy", "status"]).ok().stdout;
    assert!(!status.contains("NACKED"), "nothing of it was an answer: {status}");
    for _ in 0..1_000 {
        client.send(refuse(&response.nonce));
    }
    wait_for("the refusal is told", SLACK, || {
        let status = target.control.run(&["proxy", "status"]).ok().stdout;
        assert!(!status.contains('\u{1b}') && status.len() < 16 << 10, "{} bytes of status", status.len());
        if status.contains("NACKED") { Ok(()) } else { Err(status) }
    });
    assert!(client.within(Duration::from_millis(300)).is_none(), "each content once");
    let log = target.control.process().log();
    assert!(log.contains("refused") && log.len() < 256 << 10, "{} bytes of log", log.len());
    assert!(!log.contains("\u{1b}[31mbecause"), "what it says does not reach the terminal's controls");
    target.still_serves("after");
    grown(&mut target, before);
}

/// 19
#[test]
fn one_proxy_that_refuses_everything_halts_nobody() {
    let _machine = Machine::shared();
    let (target, _) = target();
    let (mut bad, mut good) = (Client::core(target.control.xds(), "bad"), Client::core(target.control.xds(), "good"));
    comes(&mut good, "shop/first:80");
    for round in 0..3 {
        while let Some(Ok(Some(response))) = bad.within(Duration::from_millis(100)) {
            bad.answer(&response, Some("I like nothing"));
        }
        let name = format!("round{round}");
        let took = Instant::now();
        target.control.apply(&served(&name), &[]).ok();
        comes(&mut good, &format!("shop/{name}:80"));
        assert!(took.elapsed() < SLACK, "{:?}", took.elapsed());
    }
    let status = target.control.run(&["proxy", "status"]).ok().stdout;
    let of = |id: &str| status.lines().find(|line| line.contains(id)).unwrap_or_default().to_owned();
    assert!(of("bad").contains("NACKED") && !of("good").contains("NACKED"), "{status}");
}

/// 20
#[test]
fn forged_versions_leave_the_forger_alone_with_what_it_has() {
    let _machine = Machine::shared();
    let (target, _) = target();
    let xds = target.control.xds();
    let mut honest = Client::core(xds, "honest");
    let response = honest.within(SLACK).expect("clusters").unwrap().expect("the stream stands");
    honest.answer(&response, None);
    let versions: HashMap<_, _> = response.resources.iter().map(|r| (r.name.clone(), r.version.clone())).collect();
    assert!(versions.contains_key("shop/first:80"));
    let claims = |id: &str, initial_resource_versions| {
        let first = ask(CLUSTER, &[]);
        Client::open(xds, DeltaDiscoveryRequest { node: node("core1", id), initial_resource_versions, ..first })
            .unwrap()
    };
    // It says that it has what it could only have read elsewhere: then it is believed, and sent what changes next.
    let mut liar = claims("liar", versions.clone());
    assert!(liar.within(Duration::from_millis(500)).is_none());
    target.control.apply(&served("second"), &[]).ok();
    comes(&mut liar, "shop/second:80");
    comes(&mut honest, "shop/second:80");
    // Any other version is another one, not a newer one.
    let mut newer = claims("newer", HashMap::from([("shop/first:80".to_owned(), "ffffffffffffffff".to_owned())]));
    comes(&mut newer, "shop/first:80");
    target.still_serves("after");
}

/// 21
#[test]
fn two_hundred_streams_of_one_node_are_two_and_nobody_else_is_touched() {
    let _machine = Machine::shared();
    let (target, _) = target();
    let xds = target.control.xds();
    let mut other = Client::core(xds, "other");
    comes(&mut other, "shop/first:80");
    let mut streams: Vec<Client> = Vec::new();
    for _ in 0..200 {
        streams.push(Client::core(xds, "one"));
        // The oldest of three is ended, with a word.
        if streams.len() > 2 {
            let status = streams.remove(0).end();
            assert_eq!((status.code(), status.message()), (Code::Unavailable, "a newer stream of this node took over"));
        }
    }
    for stream in &mut streams {
        comes(stream, "shop/first:80");
    }
    target.control.apply(&served("second"), &[]).ok();
    comes(&mut other, "shop/second:80");
    let status = target.control.run(&["proxy", "status"]).ok().stdout;
    let named = |id: &str| status.lines().filter(|line| line.split_whitespace().any(|word| word.ends_with(id))).count();
    assert_eq!((named("one"), named("other")), (1, 1), "{status}");
}

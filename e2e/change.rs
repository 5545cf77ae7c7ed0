//! Continuous change under constant load: not one request fails.

use std::time::{Duration, Instant};

use crate::{
    harness::{Backend, Load, wait_for},
    world::{SOON, World, certificate_yaml, endpoint_set_yaml, https_gateway_yaml, route_yaml, service_yaml},
};

/// How long the load lasts.
const TIME: Duration = Duration::from_secs(60);
/// Requests a second.
const RATE: u32 = 200;

#[test]
fn nothing_fails_while_everything_changes() {
    everything_changes(&World::start_alone("memory"), TIME);
}

/// Every kind of change for a time, under load; not one request fails.
pub(crate) fn everything_changes(world: &World, time: Duration) {
    let backends: Vec<Backend> = (0..4).map(|n| world.backend(&format!("b{n}"))).collect();
    let certificates: Vec<(String, String)> = (0..4).map(|_| certificate_yaml("tls", "tls.example")).collect();
    let trusted: String = certificates.iter().map(|(_, pem)| pem.as_str()).collect();
    world.apply(
        &(service_yaml("s0", "", &[("core1", &backends[0]), ("core2", &backends[1])])
            + &certificates[0].0
            + &https_gateway_yaml(&[("tls.example", "tls")], "")
            + &loaded_route("s0")),
    );
    let secure = world.tls_request(&trusted, "tls.example", "tls.example", "/tls");
    let plain = [world.request("load.example", "/one"), world.request("load.example", "/two?delay=50")];
    let load = Load::new(plain).per_second(RATE).connections(8, 4).start();
    let secure_load = Load::new([secure.clone(), secure.http2()]).per_second(RATE / 4).connections(4, 2).start();
    let start = Instant::now();
    let mut round = 0;
    while start.elapsed() < time {
        round += 1;
        change(world, &backends, &certificates, round);
    }
    assert!(round >= 3, "{round} rounds are too few to say anything");
    let report = load.stop();
    eprintln!("{round} rounds: {} ok, p50 {:?}, p99 {:?}", report.ok, report.percentile(0.5), report.percentile(0.99));
    for envoy in std::iter::once(&world.edge).chain(&world.cores) {
        // What a failure needs to be understood, and silence otherwise.
        let broken = envoy
            .stats("destroy.*with_active_rq|keepalive_timeout|upstream_rq_(tx|rx)_reset|upstream_cx_protocol_error");
        eprintln!("{:?}", broken.iter().filter(|(_, count)| **count > 0).collect::<Vec<_>>());
    }
    let secure = secure_load.stop();
    eprintln!("over TLS: {} ok", secure.ok);
    secure.flawless(u64::from(RATE) / 4 * time.as_secs() * 9 / 10);
    report.flawless(u64::from(RATE) * time.as_secs() * 9 / 10);
}

/// The route under load, for both of its hosts.
fn loaded_route(service: &str) -> String {
    let rules = format!("[{{backendRefs: [{{name: {service}, port: 80}}]}}]");
    route_yaml("load", "load.example", &rules).replace("['load.example']", "['load.example', 'tls.example']")
}

/// One round: every kind of change, each acknowledged before the next.
fn change(world: &World, backends: &[Backend], certificates: &[(String, String)], round: usize) {
    let (old, new) = (format!("s{}", round - 1), format!("s{round}"));
    let (near, far) = (&backends[round % 4], &backends[(round + 1) % 4]);
    let check = if round.is_multiple_of(2) { ", healthCheck: {path: /healthz, interval: 1s}" } else { "" };
    world.apply(&service_yaml(&new, check, &[("core1", near), ("core2", far)]));
    world.apply(&loaded_route(&new));
    world.apply(&endpoint_set_yaml(&new, "core1", far));
    let certificate = certificates[round % certificates.len()].0.clone();
    let extra = format!("  - {{name: extra, port: {}, protocol: HTTP}}\n", 8100 + round % 3);
    world.apply(&(certificate + &https_gateway_yaml(&[("tls.example", "tls"), ("more.example", "tls")], &extra)));
    let rules = format!("[{{backendRefs: [{{name: {new}, port: 80}}]}}]");
    world.apply(&route_yaml("other", "other.example", &rules));
    world.control.run(&["delete", "httproute", "other", "-n", "shop"]).ok();
    world.apply(&https_gateway_yaml(&[("tls.example", "tls")], ""));
    let sets = [format!("{old}-core1"), format!("{old}-core2")];
    world.control.run(&["delete", "endpointset", &sets[0], &sets[1], "-n", "shop"]).ok();
    world.control.run(&["delete", "service", &old, "-n", "shop"]).ok();
}

/// O18: a route that moves to a group which the edge lacks must wait for the group's checks; the other way round, the
/// group that nobody names any more must outlive what still runs through it.
#[test]
fn a_service_that_moves_between_groups_fails_no_request() {
    let world = World::start_alone("memory");
    let (near, far) = (world.backend("near"), world.backend("far"));
    world.apply(
        &(service_yaml("web", "", &[("core1", &near)])
            + &route_yaml("load", "load.example", "[{backendRefs: [{name: web, port: 80}], timeouts: {request: 0s}}]")),
    );
    let load = Load::new([world.request("load.example", "/one")]).per_second(RATE).connections(8, 4).start();
    // 30 s, 100 chunks of 1 kB.
    let download =
        world.request("load.example", "/slow?bytes=100000&chunk=1000&every=300").within(Duration::from_secs(60));
    let download = std::thread::spawn(move || download.send().map(|answer| (answer.status, answer.body.len())));
    for _ in 0..3 {
        world.apply(&endpoint_set_yaml("web", "core2", &far));
        // What is waited for is the cores, which carry the EndpointSet; the edge follows.
        wait_for("the edge has the wider group", SOON, || {
            let groups = groups(&world);
            if groups.contains("backbone/-/core1+core2") { Ok(()) } else { Err(groups) }
        });
        world.control.run(&["delete", "endpointset", "web-core2", "-n", "shop"]).ok();
        world.control.run(&["wait", "httproute/load", "-n", "shop", "--for", "programmed"]).ok();
    }
    assert_eq!(download.join().unwrap(), Ok((200, 100_000)), "a download in flight is finished");
    wait_for("the group that nobody names goes in the end", Duration::from_secs(60), || {
        let groups = groups(&world);
        if groups.contains("backbone/-/core1+core2") { Err(groups) } else { Ok(()) }
    });
    load.stop().flawless(u64::from(RATE) * 25);
}

fn groups(world: &World) -> String {
    world.edge.get("/clusters").unwrap().text()
}

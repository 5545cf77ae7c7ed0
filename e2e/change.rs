//! Continuous change under constant load: not one request fails.

use std::time::{Duration, Instant};

use crate::{
    harness::{Backend, Load},
    world::{
        World, certificate_yaml, endpoint_set_yaml, https_gateway_yaml, route_yaml, service_yaml,
    },
};

/// How long the load lasts.
const TIME: Duration = Duration::from_secs(60);
/// Requests a second.
const RATE: u32 = 200;

#[test]
fn nothing_fails_while_everything_changes() {
    let world = World::start("memory");
    let backends: Vec<Backend> = (0..4).map(|n| world.backend(&format!("b{n}"))).collect();
    let (certificate, _) = certificate_yaml("tls", "tls.example");
    world.apply(
        &(service_yaml("s0", "", &[("core1", &backends[0]), ("core2", &backends[1])])
            + &certificate
            + &https_gateway_yaml(&[("tls.example", "tls")], "")
            + &route_yaml("load", "load.example", "[{backendRefs: [{name: s0, port: 80}]}]")),
    );
    let load = Load::new([world.request("load.example", "/one"), world.request("load.example", "/two?delay=50")])
        .per_second(RATE)
        .connections(8, 4)
        .start();
    let start = Instant::now();
    let mut round = 0;
    while start.elapsed() < TIME {
        round += 1;
        change(&world, &backends, round);
    }
    assert!(round >= 3, "{round} rounds are too few to say anything");
    let report = load.stop();
    eprintln!("{round} rounds: {} ok, p50 {:?}, p99 {:?}", report.ok, report.percentile(0.5), report.percentile(0.99));
    for envoy in std::iter::once(&world.edge).chain(&world.cores) {
        // What a failure needs to be understood, and silence otherwise.
        let broken = envoy.stats("destroy.*with_active_rq|keepalive_timeout|upstream_rq_(tx|rx)_reset|upstream_cx_protocol_error");
        eprintln!("{:?}", broken.iter().filter(|(_, count)| **count > 0).collect::<Vec<_>>());
    }
    report.flawless(u64::from(RATE) * TIME.as_secs() * 9 / 10);
}

/// One round: every kind of change, each acknowledged before the next.
fn change(world: &World, backends: &[Backend], round: usize) {
    let (old, new) = (format!("s{}", round - 1), format!("s{round}"));
    let (near, far) = (&backends[round % 4], &backends[(round + 1) % 4]);
    let check = if round.is_multiple_of(2) { ", healthCheck: {path: /healthz, interval: 1s}" } else { "" };
    world.apply(&service_yaml(&new, check, &[("core1", near), ("core2", far)]));
    let rules = format!("[{{backendRefs: [{{name: {new}, port: 80}}]}}]");
    world.apply(&route_yaml("load", "load.example", &rules));
    world.apply(&endpoint_set_yaml(&new, "core1", far));
    let (certificate, _) = certificate_yaml("tls", "tls.example");
    let extra = format!("  - {{name: extra, port: {}, protocol: HTTP}}\n", 8100 + round % 3);
    world.apply(&(certificate + &https_gateway_yaml(&[("tls.example", "tls"), ("more.example", "tls")], &extra)));
    world.apply(&route_yaml("other", "other.example", &rules));
    world.control.run(&["delete", "httproute", "other", "-n", "shop"]).ok();
    world.apply(&https_gateway_yaml(&[("tls.example", "tls")], ""));
    let sets = [format!("{old}-core1"), format!("{old}-core2")];
    world.control.run(&["delete", "endpointset", &sets[0], &sets[1], "-n", "shop"]).ok();
    world.control.run(&["delete", "service", &old, "-n", "shop"]).ok();
}

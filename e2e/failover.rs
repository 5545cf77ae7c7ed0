//! What fails over: a core that lacks a cluster, a gateway that dies, a control plane that dies half-way.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use tidegate::xds::ResourceType;

use crate::{
    harness::{Backend, Envoy, Link, Load, Response, wait_for},
    world::{
        SOON, World, certificate_yaml, endpoint_set_yaml, https_gateway_yaml, route_yaml, service_yaml, site_dir,
        start_envoy_at,
    },
    xds_client::{Sent, XdsClient},
};

/// The edge's requests a second while a gateway dies.
const RATE: u32 = 200;
/// An Envoy may send a request on a connection of which it has not yet read that it is dead: as long as a busy machine
/// keeps it waiting. Checks take 2 s or more to find out.
const UNREAD: Duration = Duration::from_millis(500);

/// A store file that outlives the control plane.
pub(crate) fn stored() -> (tempfile::TempDir, String) {
    let dir = tempfile::TempDir::new().unwrap();
    let store = format!("embedded:{}", dir.path().join("store.redb").display());
    (dir, store)
}

fn served_by(answer: &Response) -> Option<&str> {
    (answer.status == 200).then(|| answer.header("x-backend")).flatten()
}

/// Waits until the edge has a route configuration with that host, without sending it a request.
fn wait_for_route(edge: &Envoy, host: &str) {
    wait_for("the edge has the route", SOON, || {
        let dump = edge.config_dump("dynamic_route_configs").to_string();
        if dump.contains(host) { Ok(()) } else { Err(dump.len()) }
    });
}

fn wait_for_cluster(core: &Envoy, name: &str) {
    wait_for("the core has the cluster", SOON, || {
        let clusters = core.clusters().to_string();
        if clusters.contains(name) { Ok(()) } else { Err(clusters.len()) }
    });
}

#[test]
fn a_core_that_lacks_a_cluster_passes_the_first_request_on_and_serves_when_it_has_it() {
    let mut world = World::start("memory");
    let (near, far) = (world.backend("near"), world.backend("far"));
    let at = [("core1", &near), ("core2", &far)];
    let rules = |name: &str| format!("[{{backendRefs: [{{name: {name}, port: 80}}]}}]");
    world.apply(&(service_yaml("known", "", &at) + &route_yaml("known", "known.example", &rules("known"))));

    let link = Link::to(world.control.xds());
    world.cores[0].process().kill();
    world.cores[0] = start_envoy_at(link.address(), world.certs.path(), "core1", "core");
    world.cores[0].wait_ready(SOON);
    wait_for("the near core serves again", SOON, || match served_by(&world.get("known.example", "/")) {
        Some("near") => Ok(()),
        other => Err(format!("{other:?}")),
    });

    link.hold();
    let new = service_yaml("new", "", &at) + &route_yaml("new", "new.example", &rules("new"));
    world.control.apply(&new, &[]).ok();
    wait_for_cluster(&world.cores[1], "shop/new:80");
    wait_for_route(&world.edge, "new.example");
    assert!(!world.cores[0].clusters().to_string().contains("shop/new:80"), "the near core is held back");
    for number in 0..20 {
        let request = world.request("new.example", &format!("/{number}")).method("POST").body("a body");
        let answer = request.send().unwrap();
        assert_eq!(served_by(&answer), Some("far"), "request {number}: {} {}", answer.status, answer.text());
    }
    assert_eq!(served_by(&world.get("known.example", "/")), Some("near"), "the gateway itself is not left");
    link.open();
    wait_for("the near core has caught up", SOON, || match served_by(&world.get("new.example", "/")) {
        Some("near") => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

#[test]
fn a_killed_gateway_costs_the_requests_in_flight_at_most_and_gets_its_traffic_back() {
    let mut world = World::start("memory");
    let (near, far) = (world.backend("near"), world.backend("far"));
    world.apply(
        &(service_yaml("web", "", &[("core1", &near), ("core2", &far)])
            + &route_yaml("web", "shop.example", "[{backendRefs: [{name: web, port: 80}]}]")),
    );
    assert_eq!(served_by(&world.get("shop.example", "/")), Some("near"));
    let requests = ["/a", "/b?delay=50"].map(|path| world.request("shop.example", path));
    let began = Instant::now();
    let load = Load::new(requests).per_second(RATE).connections(8, 4).start();
    wait_for_count(&near, 400);
    world.cores[0].process().kill();
    let killed = began.elapsed();
    wait_for_count(&far, 1_000);
    let moved = load.report();
    let late: Vec<_> = moved.failed_at.iter().filter(|at| **at > killed + UNREAD).collect();
    assert!(late.is_empty(), "killed at {killed:?}; {late:?}, {:#?}", moved.failures);

    world.cores[0].restart();
    let served = near.count();
    wait_for_count(&near, served + 400);
    let (near_now, far_now) = (near.count(), far.count());
    wait_for_count(&near, near_now + 400);
    assert!(far.count() <= far_now + 5, "all traffic is back, {} went to the far core", far.count() - far_now);
    let report = load.stop();
    assert_eq!(report.failed, moved.failed, "the way back costs nothing: {:#?}", report.failures);
    // 200 a second, half of them 50 ms long: 5 to 10 are in flight.
    assert!(report.failed <= 30, "{:#?}", report.failures);
    eprintln!(
        "killed gateway: {} ok, {} failed (in flight), p99 {:?}, max {:?}",
        report.ok,
        report.failed,
        report.percentile(0.99),
        report.percentile(1.0)
    );
}

fn wait_for_count(backend: &Backend, count: u64) {
    wait_for("requests arrive", SOON, || if backend.count() >= count { Ok(()) } else { Err(backend.count()) });
}

#[test]
fn a_control_plane_killed_between_a_listener_and_its_secret_is_completed_by_its_successor() {
    let (_dir, store) = stored();
    let mut world = World::start(&store);
    let backend = world.backend("b1");
    let (certificate, ca) = certificate_yaml("late", "late.example");
    world.apply(
        &(service_yaml("web", "", &[("core1", &backend)])
            + &route_yaml("web", "late.example", "[{backendRefs: [{name: web, port: 80}]}]")),
    );
    let link = Link::to(world.control.xds());
    world.edge.process().kill();
    world.edge = start_envoy_at(link.address(), world.certs.path(), "edge1", "edge");
    world.edge.wait_ready(SOON);

    // The listener passes at once and fills the link for a while; its secret, asked for upon it, stays in the link.
    link.throttle(500);
    world.control.apply(&(certificate + &https_gateway_yaml(&[("late.example", "late")], "")), &[]).ok();
    wait_for("the listener has arrived", SOON, || match world.edge.stat("listener_manager.total_listeners_warming") {
        1 => Ok(()),
        other => Err(other),
    });
    world.control.process().kill();
    link.cut();
    let secrets = world.edge.config_dump("dynamic_active_secrets").to_string();
    assert!(!secrets.contains("late"), "the secret has not arrived: {secrets}");
    assert!(world.tls_request(&ca, "late.example", "late.example", "/").send().is_err());

    link.throttle(0);
    link.open();
    world.control.restart();
    wait_for("the successor sends the secret", SOON, || {
        match world.tls_request(&ca, "late.example", "late.example", "/").send() {
            Ok(answer) if answer.status == 200 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
}

#[test]
fn a_reconnect_is_sent_no_resource_that_it_holds() {
    let (_dir, store) = stored();
    let mut world = World::start(&store);
    let backend = world.backend("b1");
    let (certificate, _) = certificate_yaml("tls", "tls.example");
    let mut objects = certificate + &https_gateway_yaml(&[("tls.example", "tls")], "");
    for number in 0..20 {
        let name = format!("s{number}");
        objects.push_str(&service_yaml(&name, "", &[("core1", &backend), ("core2", &backend)]));
        let rules = format!("[{{backendRefs: [{{name: {name}, port: 80}}]}}]");
        objects.push_str(&route_yaml(&name, &format!("{name}.example"), &rules));
    }
    world.apply(&objects);
    let client = |site: &str, role: &str| {
        let identity = site_dir(world.certs.path(), role, site);
        XdsClient::new(world.control.xds(), site, &format!("{site}-counting"), &identity)
    };
    let (mut edge, mut core) = (client("edge1", "edge"), client("core1", "core"));
    let (edge_first, core_first) = sessions(&mut edge, &mut core);
    eprintln!("first session: edge {:?}, core {:?}", count(&edge_first), count(&core_first));
    for kind in ResourceType::ALL.into_iter().filter(|kind| kind.common()) {
        assert!(edge_first.contains_key(&kind), "{kind:?}: {edge_first:?}");
    }
    let (clusters, assignments) = (&core_first[&ResourceType::Cluster], &core_first[&ResourceType::Endpoints]);
    assert!(clusters.len() >= 20 && assignments.len() >= 20, "{core_first:?}");

    let secrets = BTreeMap::from([(ResourceType::Secret, vec![edge_first[&ResourceType::Secret][0].clone()])]);
    assert_eq!(sessions(&mut edge, &mut core), (secrets.clone(), Sent::new()), "Secrets alone");
    let load = Load::new([world.request("s0.example", "/"), world.request("s1.example", "/?delay=50")]).start();
    world.control.process().kill();
    wait_for_count(&backend, 200);
    world.control.restart();
    assert_eq!(sessions(&mut edge, &mut core), (secrets.clone(), Sent::new()), "by the successor too");
    load.stop().flawless(200);

    let moved = world.backend("moved");
    let changed = service_yaml("s4", ", circuitBreakers: {maxConnections: 77}", &[]);
    world.apply(&(endpoint_set_yaml("s3", "core1", &moved) + &changed));
    let (edge_sent, mut core_sent) = sessions(&mut edge, &mut core);
    assert_eq!(edge_sent, secrets, "neither change is an edge's");
    core_sent.values_mut().for_each(|names| names.sort_unstable());
    let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    let expected = BTreeMap::from([
        (ResourceType::Cluster, names(&["shop/s4:80"])),
        // That of s3 has changed; that of s4 is behind a changed cluster, which an Envoy warms with it.
        (ResourceType::Endpoints, names(&["shop/s3:80", "shop/s4:80"])),
    ]);
    assert_eq!(core_sent, expected);
    assert_eq!(sessions(&mut edge, &mut core), (secrets, Sent::new()));
}

/// A session of both, side by side.
fn sessions(edge: &mut XdsClient, core: &mut XdsClient) -> (Sent, Sent) {
    std::thread::scope(|scope| {
        let edge = scope.spawn(|| edge.session());
        let core = core.session();
        (edge.join().unwrap(), core)
    })
}

/// How many resources of each type came.
fn count(sent: &Sent) -> BTreeMap<ResourceType, usize> {
    sent.iter().map(|(kind, names)| (*kind, names.len())).collect()
}

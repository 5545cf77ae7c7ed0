//! Edge and core in step: a service goes live and away in one transaction, over two tiers, under load.

use std::time::{Duration, Instant};

use etcd_client::{Client, Txn, TxnOp};

use crate::{
    harness::{Backend, Etcd, Link, Load, Request, wait_for},
    world::{SOON, World, endpoint_set_yaml, route_yaml, service_yaml, start_envoy_at},
};

/// Requests a second.
const RATE: u32 = 200;
/// How long services come and go.
const TIME: Duration = Duration::from_secs(20);
/// Longer than any change takes when nothing holds it.
const HELD: Duration = Duration::from_secs(3);
/// A core that has just taken a cluster has checked its endpoints once, with this between two checks.
const CHECKED: &str = ", healthCheck: {path: /healthz, interval: 1s}";

/// A world whose control plane is heard through links, one for the edge and one for both cores.
struct Tiers {
    world: World,
    edge: Link,
    cores: Link,
    backends: Vec<Backend>,
    etcd: Etcd,
}

impl Tiers {
    fn start() -> Self {
        let etcd = Etcd::start();
        let mut world = World::start_alone(&format!("etcd:{}", etcd.url()));
        let (edge, cores) = (Link::to(world.control.xds()), Link::to(world.control.xds()));
        world.edge = start_envoy_at(edge.address(), world.certs.path(), "edge1", "edge");
        world.cores =
            ["core1", "core2"].map(|site| start_envoy_at(cores.address(), world.certs.path(), site, "core")).into();
        world.edge.wait_ready(SOON);
        world.cores.iter_mut().for_each(|core| core.wait_ready(SOON));
        let backends = (0..2).map(|n| world.backend(&format!("b{n}"))).collect();
        let tiers = Self { world, edge, cores, backends, etcd };
        tiers.world.apply(&(tiers.service("s0") + &route("s0")));
        tiers
    }

    fn service(&self, name: &str) -> String {
        service_yaml(name, CHECKED, &[("core1", &self.backends[0]), ("core2", &self.backends[1])])
    }

    fn request(&self) -> Request {
        self.world.request("load.example", "/one")
    }

    /// Service, endpoints and the route that names them, in one transaction.
    fn publish(&self, name: &str) {
        let output = self.world.control.apply(&(self.service(name) + &route(name)), &[]).ok();
        assert!(!output.stderr.contains("transactions"), "one transaction is enough: {output:#?}");
    }

    /// The route to `to` and the service `gone` with its endpoints away, in one raw transaction.
    fn withdraw(&self, gone: &str, to: &str) {
        let key = |kind: &str, name: &str| format!("/tidegate/v1/objects/{kind}/shop/{name}");
        let ops = vec![
            TxnOp::put(key("httproutes", "load"), route(to).trim_start_matches("---\n"), None),
            TxnOp::delete(key("services", gone), None),
            TxnOp::delete(key("endpointsets", &format!("{gone}-core1")), None),
            TxnOp::delete(key("endpointsets", &format!("{gone}-core2")), None),
        ];
        let url = self.etcd.url();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut client = Client::connect([url], None).await.unwrap();
            client.txn(Txn::new().and_then(ops)).await.unwrap();
        });
    }

    fn served_by(&self, service: &str) {
        wait_for(&format!("the route leads to {service}"), SOON * 2, || {
            let dump = self.world.edge.get("/config_dump?resource=dynamic_route_configs").unwrap().text();
            let named = format!("shop/{service}:80");
            if dump.contains(&named) { Ok(()) } else { Err("another service is named".to_owned()) }
        });
    }

    fn cores_know(&self, service: &str) -> bool {
        let named = format!("shop/{service}:80::");
        self.world.cores.iter().all(|core| core.get("/clusters").unwrap().text().contains(&named))
    }
}

fn route(service: &str) -> String {
    route_yaml("load", "load.example", &format!("[{{backendRefs: [{{name: {service}, port: 80}}]}}]"))
}

#[test]
fn a_service_and_its_route_come_and_go_in_one_transaction_without_a_failed_request() {
    let tiers = Tiers::start();
    let load = Load::new([tiers.request()]).per_second(RATE).connections(8, 4).start();
    let start = Instant::now();
    for round in 1.. {
        if start.elapsed() > TIME {
            break;
        }
        let (old, new) = (format!("s{}", round - 1), format!("s{round}"));
        tiers.publish(&new);
        tiers.served_by(&new);
        tiers.withdraw(&new, &old);
        tiers.served_by(&old);
        tiers.publish(&new);
        tiers.served_by(&new);
    }
    load.stop().flawless(u64::from(RATE) * TIME.as_secs() * 9 / 10);
}

/// Cores that hear late: the edges wait for them, however long.
#[test]
fn an_edge_waits_for_a_core_that_hears_late() {
    let tiers = Tiers::start();
    let load = Load::new([tiers.request()]).per_second(RATE).connections(8, 4).start();
    tiers.cores.hold();
    tiers.publish("late");
    std::thread::sleep(HELD);
    let dump = tiers.world.edge.get("/config_dump?resource=dynamic_route_configs").unwrap().text();
    assert!(dump.contains("shop/s0:80") && !dump.contains("shop/late:80"), "no core knows the service yet");
    tiers.cores.open();
    tiers.served_by("late");
    load.stop().flawless(u64::from(RATE) * 2);
}

/// An edge that hears late: the cores keep what it still uses.
#[test]
fn a_core_keeps_a_cluster_until_the_edges_have_left_it() {
    let tiers = Tiers::start();
    tiers.publish("gone");
    tiers.served_by("gone");
    let load = Load::new([tiers.request()]).per_second(RATE).connections(8, 4).start();
    tiers.edge.hold();
    tiers.withdraw("gone", "s0");
    // Well beyond the drain time.
    std::thread::sleep(Duration::from_secs(20));
    assert!(tiers.cores_know("gone"), "an edge still routes to it");
    tiers.edge.open();
    tiers.served_by("s0");
    load.stop().flawless(u64::from(RATE) * 2);
    wait_for("the cores let it go, a drain time after the edges", SOON * 2, || {
        if tiers.cores_know("gone") { Err("still there".to_owned()) } else { Ok(()) }
    });
}

/// Not only new services: one that comes to a second core is used there when that core has it.
#[test]
fn a_service_that_comes_to_another_core_fails_no_request() {
    let tiers = Tiers::start();
    tiers.world.apply(&service_yaml("one", CHECKED, &[("core1", &tiers.backends[0])]));
    tiers.world.apply(&route("one"));
    tiers.served_by("one");
    let load = Load::new([tiers.request()]).per_second(RATE).connections(8, 4).start();
    tiers.cores.hold();
    tiers.world.control.apply(&endpoint_set_yaml("one", "core2", &tiers.backends[1]), &[]).ok();
    std::thread::sleep(HELD);
    tiers.cores.open();
    wait_for("the edge has the wider group", SOON, || {
        let dump = tiers.world.edge.get("/config_dump?resource=dynamic_route_configs").unwrap().text();
        if dump.contains("backbone/-/core1+core2") { Ok(()) } else { Err("not yet".to_owned()) }
    });
    load.stop().flawless(u64::from(RATE) * 2);
}

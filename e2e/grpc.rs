//! gRPC clients without a proxy: stock gRPC calls `xds:///<service>.<namespace>` and takes all that it needs from us.

use std::{fs, net::SocketAddr, path::Path, time::Duration};

use envoy_types::pb::envoy::{admin::v3::ClientResourceStatus, service::status::v3::ConfigStatus};
use tempfile::TempDir;
use tidegate::{certs::dev_certs, model::Role};

use crate::{
    csds::ask,
    harness::{Addresses, GrpcClient, GrpcService, Tidegate, tidegate, wait_for},
    world::{Machine, SOON, sites_yaml, start_envoy},
};

const TARGET: &str = "cart.shop";

/// A control plane with mutual TLS and a store on disk, and the sites edge1, core1 and core2, both cores in one region.
struct Fleet {
    control: Tidegate,
    certs: TempDir,
    addresses: Addresses,
    _store: TempDir,
    _machine: Machine,
}

impl Fleet {
    fn start() -> Self {
        let machine = Machine::shared();
        let (addresses, certs, store) = (Addresses::next(), TempDir::new().unwrap(), TempDir::new().unwrap());
        let ip = addresses.take();
        let at = |role, site: &str| (role, site.to_owned());
        let sites =
            [at(Role::Edge, "edge1"), at(Role::Core, "core1"), at(Role::Grpc, "core1"), at(Role::Grpc, "edge1")];
        // gRPC asks for a certificate of the address that it connects to.
        dev_certs(certs.path(), "tidegate.local", &sites, &[], &[("cp1".to_owned(), vec![ip.to_string()])]).unwrap();
        let file = |name: &str| certs.path().join("control-plane/cp1").join(name).to_str().unwrap().to_owned();
        let (cert, key, ca) = (file("tls.crt"), file("tls.key"), file("ca.crt"));
        let tls = ["--xds-cert", &cert, "--xds-key", &key, "--xds-ca", &ca];
        let control = Tidegate::serve(ip, &format!("embedded:{}", store.path().join("store.redb").display()), &tls);
        let sites = sites_yaml(addresses.take(), &[addresses.take(), addresses.take()]);
        control.apply(&sites.replace("region: eu1", "region: eu").replace("region: eu2", "region: eu"), &[]).ok();
        Self { control, certs, addresses, _store: store, _machine: machine }
    }

    fn service(&self, name: &str) -> GrpcService {
        GrpcService::start(name, (self.addresses.take(), 9000), None)
    }

    fn bootstrap(&self, site: &str, more: &[&str]) -> String {
        let dir = self.certs.path().join("grpc").join(site);
        bootstrap(self.control.xds(), site, &dir, more)
    }

    /// A client at core1.
    fn client(&self, targets: &[&str]) -> GrpcClient {
        GrpcClient::start(&self.bootstrap("core1", &[]), (self.addresses.take(), 9001), targets)
    }

    fn apply(&self, manifests: &str) {
        self.control.apply(manifests, &[]).ok();
    }
}

fn bootstrap(server: SocketAddr, site: &str, identity: &Path, more: &[&str]) -> String {
    let file = |name: &str| identity.join(name).to_str().unwrap().to_owned();
    let (server, id) = (server.to_string(), format!("client-{site}"));
    let (ca, cert, key) = (file("ca.crt"), file("tls.crt"), file("tls.key"));
    let names = ["proxy", "bootstrap", "--role", "grpc", "--site", site, "--id", &id, "--server", &server];
    tidegate(&[&names[..], &["--ca", &ca, "--cert", &cert, "--key", &key], more].concat()).ok().stdout
}

/// A Service `shop/NAME` that speaks gRPC.
fn service_yaml(name: &str, more: &str) -> String {
    format!(
        "---
apiVersion: tidegate.dev/v1alpha1
kind: Service
metadata: {{name: {name}, namespace: shop}}
spec: {{ports: [{{port: 50051, appProtocol: grpc}}]{more}}}
"
    )
}

/// Its endpoints at a site.
fn endpoints_yaml(name: &str, site: &str, at: &[SocketAddr]) -> String {
    let at: Vec<_> = at.iter().map(|address| format!("{{address: '{address}'}}")).collect();
    format!(
        "---
apiVersion: tidegate.dev/v1alpha1
kind: EndpointSet
metadata: {{name: {name}-{site}, namespace: shop}}
spec: {{service: {name}, site: {site}, endpoints: [{}]}}
",
        at.join(", ")
    )
}

#[test]
fn endpoints_sites_and_the_control_plane_change_under_calls_and_none_fails() {
    let mut fleet = Fleet::start();
    let (a, mut b, far) = (fleet.service("a"), fleet.service("b"), fleet.service("far"));
    let near = |at: &[SocketAddr]| endpoints_yaml("cart", "core1", at);
    fleet.apply(
        &(service_yaml("cart", "") + &near(&[a.address()]) + &endpoints_yaml("cart", "core2", &[far.address()])),
    );
    let client = fleet.client(&[TARGET, "cart.shop:50051"]);
    let served_by = |servers: &[&str]| {
        client.wait_served_by(TARGET, servers, SOON);
        client.wait_served_by("cart.shop:50051", servers, SOON);
    };
    served_by(&["a"]);
    fleet.apply(&near(&[a.address(), b.address()]));
    served_by(&["a", "b"]);
    fleet.apply(&near(&[a.address()]));
    served_by(&["a"]);
    b.process().kill();
    // The own site has nothing any more: the rest of the region serves.
    fleet.apply(&near(&[]));
    served_by(&["far"]);
    fleet.control.process().kill();
    served_by(&["far"]);
    fleet.control.restart();
    fleet.apply(&near(&[a.address()]));
    served_by(&["a"]);
    for target in [TARGET, "cart.shop:50051"] {
        let calls = client.calls(target);
        assert_eq!((calls.failed, calls.error.as_str()), (0, ""), "{calls:?}");
    }
}

#[test]
fn what_a_client_and_an_envoy_have_is_told_by_both_ends() {
    let fleet = Fleet::start();
    let server = fleet.service("a");
    fleet.apply(&(service_yaml("cart", "") + &endpoints_yaml("cart", "core1", &[server.address()])));
    fleet.apply(&(service_yaml("other", "") + &endpoints_yaml("other", "core1", &[server.address()])));
    let mut envoy = start_envoy(&fleet.control, fleet.certs.path(), "core1", "core");
    envoy.wait_ready(SOON);
    let client = fleet.client(&[TARGET]);
    client.wait_served_by(TARGET, &["a"], SOON);
    // One resource of each type, and each is taken.
    let configs = client.status().into_iter().flat_map(|config| config.generic_xds_configs).collect::<Vec<_>>();
    let mut names: Vec<_> = configs.iter().map(|config| config.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, [TARGET, "cart.shop:50051", "shop/cart:50051", "shop/cart:50051"]);
    for config in &configs {
        assert_eq!(config.client_status(), ClientResourceStatus::Acked, "{config:?}");
        assert!(!config.version_info.is_empty());
    }
    wait_for("the control plane knows it", SOON, || {
        let told = ask(&fleet.control);
        let (client, envoy) = (&told["client-core1"], &told["core1-a"]);
        let of = |status| client.iter().filter(|c| c.config_status() == status).map(|c| &*c.name).collect::<Vec<_>>();
        let synced = [TARGET, "cart.shop:50051", "shop/cart:50051", "shop/cart:50051"];
        let mut found = of(ConfigStatus::Synced);
        found.sort_unstable();
        let unasked = of(ConfigStatus::NotSent).len() == client.len() - synced.len();
        let whole = !envoy.is_empty() && envoy.iter().all(|c| c.config_status() == ConfigStatus::Synced);
        if found == synced && unasked && whole { Ok(()) } else { Err(format!("{client:?}\n{envoy:?}")) }
    });
    let status = fleet.control.run(&["proxy", "status"]).ok().stdout;
    let row = status.lines().find(|line| line.starts_with("client-core1")).expect("the client has a row");
    assert!(row.contains(" grpc ") && !row.contains("NOT_SUBSCRIBED") && !row.contains("PENDING"), "{status}");
    // What it does not call waits for nobody.
    fleet.control.apply(&service_yaml("other", ", trafficClass: API"), &["--wait"]).ok();
}

#[test]
fn a_service_that_goes_and_comes_back_takes_its_calls_along() {
    let fleet = Fleet::start();
    let server = fleet.service("a");
    let cart = service_yaml("cart", "") + &endpoints_yaml("cart", "core1", &[server.address()]);
    let kept = service_yaml("kept", "") + &endpoints_yaml("kept", "core1", &[server.address()]);
    fleet.apply(&(cart.clone() + &kept));
    let client = fleet.client(&[TARGET, "kept.shop"]);
    for target in [TARGET, "kept.shop"] {
        client.wait_served_by(target, &["a"], SOON);
    }
    for _ in 0..2 {
        let failed = client.calls(TARGET).failed;
        fleet.control.run(&["delete", "service", "cart", "-n", "shop"]).ok();
        wait_for("calls of a service that is gone fail at once, in words", SOON, || match client.calls(TARGET) {
            calls if calls.failed > failed + 10 && calls.error.starts_with("UNAVAILABLE") => Ok(()),
            calls => Err(format!("{calls:?}")),
        });
        let gone = client.status().into_iter().flat_map(|config| config.generic_xds_configs);
        let gone: Vec<_> = gone.filter(|c| c.client_status() == ClientResourceStatus::DoesNotExist).collect();
        assert_eq!(gone.iter().map(|c| &*c.name).collect::<Vec<_>>(), [TARGET]);
        fleet.apply(&cart);
        client.wait_served_by(TARGET, &["a"], SOON);
    }
    assert_eq!(client.calls("kept.shop").failed, 0);
}

#[test]
fn a_service_with_tls_is_called_by_those_who_know_its_authority_and_refused_by_others() {
    let fleet = Fleet::start();
    let (cert, key) = tidegate::certs::server_certificate(&["cart.internal".to_owned()]).unwrap();
    let secure = GrpcService::start("secure", (fleet.addresses.take(), 9000), Some((&cert, &key)));
    let plain = fleet.service("plain");
    let tls = ", tls: {serverName: cart.internal}";
    fleet.apply(&(service_yaml("cart", tls) + &endpoints_yaml("cart", "core1", &[secure.address()])));
    fleet.apply(&(service_yaml("plain", "") + &endpoints_yaml("plain", "core1", &[plain.address()])));
    let authority = fleet.certs.path().join("services.pem");
    fs::write(&authority, &cert).unwrap();
    let knows = fleet.bootstrap("core1", &["--service-ca", authority.to_str().unwrap()]);
    let client = GrpcClient::start(&knows, (fleet.addresses.take(), 9001), &[TARGET]);
    client.wait_served_by(TARGET, &["secure"], SOON);
    assert_eq!(client.calls(TARGET).failed, 0);
    drop(client);
    // A bootstrap of somebody else's hand, without our certificate provider: the cluster is refused, and no other.
    let foreign = fleet.bootstrap("core1", &[]).replace("\"services\"", "\"mine\"");
    let client = GrpcClient::start(&foreign, (fleet.addresses.take(), 9001), &[TARGET, "plain.shop"]);
    client.wait_served_by("plain.shop", &["plain"], SOON);
    wait_for("the refusal is told in gRPC's words", SOON, || {
        let told = ask(&fleet.control).remove("client-core1").unwrap_or_default();
        let refused = told.into_iter().find(|config| config.config_status() == ConfigStatus::Error);
        let words = refused.and_then(|config| Some((config.name, config.error_state?.details)));
        match &words {
            Some((name, words)) if name == "shop/cart:50051" && words.contains("services") => Ok(()),
            other => Err(format!("{other:?} {}", client.calls(TARGET).error)),
        }
    });
    assert_eq!((client.calls("plain.shop").failed, client.calls(TARGET).ok), (0, 0));
}

#[test]
fn a_client_at_an_edge_is_refused_in_words_and_its_certificate_makes_no_gateway() {
    let fleet = Fleet::start();
    let server = fleet.service("a");
    fleet.apply(&(service_yaml("cart", "") + &endpoints_yaml("cart", "core1", &[server.address()])));
    let at_edge = GrpcClient::start(&fleet.bootstrap("edge1", &[]), (fleet.addresses.take(), 9001), &[TARGET]);
    wait_for("the refusal is named", SOON, || {
        let status = fleet.control.run(&["proxy", "status"]).ok();
        let text = format!("{}{}", status.stdout, status.stderr);
        if text.contains("client-edge1") && text.contains("a gRPC client needs a core") { Ok(()) } else { Err(text) }
    });
    // The certificate of the client, and the claim of a gateway.
    let server = fleet.control.xds().to_string();
    let names = ["proxy", "bootstrap", "--role", "core", "--site", "core1", "--id", "liar", "--server", &server];
    let files = ["--ca", "ca.crt", "--cert", "tls.crt", "--key", "tls.key", "--admin-port", "0"];
    let bootstrap = tidegate(&[&names[..], &files[..]].concat()).ok().stdout;
    let liar = crate::harness::Envoy::start("liar", &bootstrap, &fleet.certs.path().join("grpc/core1"));
    wait_for("a client's certificate makes no gateway", SOON, || {
        let status = fleet.control.run(&["proxy", "status"]).ok();
        let text = format!("{}{}", status.stdout, status.stderr);
        if text.contains("liar") && text.contains("its certificate says \"grpc\"") { Ok(()) } else { Err(text) }
    });
    assert_eq!(liar.stat("cluster_manager.cds.update_success"), 0);
    assert_eq!(at_edge.calls(TARGET).ok, 0);
}

#[test]
fn a_process_may_call_more_services_than_a_connection_of_others_may_have_streams() {
    let fleet = Fleet::start();
    let server = fleet.service("a");
    let names: Vec<String> = (0..150).map(|number| format!("s{number}")).collect();
    let yaml = |name: &String| service_yaml(name, "") + &endpoints_yaml(name, "core1", &[server.address()]);
    fleet.apply(&names.iter().map(yaml).collect::<String>());
    let targets: Vec<String> = names.iter().map(|name| format!("{name}.shop")).collect();
    let targets: Vec<&str> = targets.iter().map(String::as_str).collect();
    let client = GrpcClient::start_slow(
        &fleet.bootstrap("core1", &[]),
        (fleet.addresses.take(), 9001),
        &targets,
        Duration::from_secs(1),
    );
    wait_for("every target is served", 2 * SOON, || {
        let lacks: Vec<_> = targets.iter().filter(|target| client.calls(target).ok == 0).collect();
        if lacks.is_empty() { Ok(()) } else { Err(format!("{} are not: {lacks:?}", lacks.len())) }
    });
    let status = fleet.control.run(&["proxy", "status"]).ok().stdout;
    assert_eq!(status.lines().filter(|line| line.starts_with("client-core1")).count(), 1, "one client: {status}");
}

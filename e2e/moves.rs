//! Proxies move between replicas: what they hold is not sent again, and a replica that is cut off from etcd takes
//! nothing back.

use std::{collections::BTreeMap, path::Path, time::Duration};

use tempfile::TempDir;
use tidegate::xds::ResourceType;

use crate::{
    harness::{Addresses, Backend, Envoy, Etcd, Link, Load, Request, Tidegate, tidegate, wait_for},
    world::{
        HTTP, Machine, SOON, certificate_yaml, https_gateway_yaml, route_yaml, service_yaml, site_dir, sites_yaml,
    },
    xds_client::{Sent, XdsClient},
};

/// Longer than a replica needs to find out that it cannot confirm what it knows.
const CONFIRMED: Duration = Duration::from_secs(5);

/// Two replicas over one etcd, of which the second reaches it by a link.
struct Pair {
    replicas: [Tidegate; 2],
    link: Link,
    etcd: Etcd,
    backend: Backend,
    certs: TempDir,
    edge_ip: std::net::Ipv4Addr,
    _addresses: Addresses,
    _machine: Machine,
}

impl Pair {
    fn start() -> Self {
        let machine = Machine::shared();
        let (addresses, etcd, certs) = (Addresses::next(), Etcd::start(), TempDir::new().unwrap());
        let dir = certs.path().to_str().unwrap();
        let sites = ["--site", "edge1:edge", "--site", "core1:core", "--site", "core2:core"];
        let others = ["--operator", "ann", "--control-plane", "cp1", "--control-plane", "cp2"];
        tidegate(&[&["dev-certs", dir], &sites[..], &others[..]].concat()).ok();
        let link = Link::to(etcd.url().trim_start_matches("http://").parse::<std::net::SocketAddr>().unwrap());
        let urls = [etcd.url(), format!("http://{}", link.address())];
        let replicas = ["cp1", "cp2"].map(|name| {
            let url = if name == "cp1" { &urls[0] } else { &urls[1] };
            replica(&addresses, certs.path(), name, url)
        });
        let (edge_ip, core_ips) = (addresses.take(), [addresses.take(), addresses.take()]);
        let backend = Backend::start_at("one", (addresses.take(), 9000));
        let (certificate, _) = certificate_yaml("tls", "tls.example");
        let pair = Self { replicas, link, etcd, backend, certs, edge_ip, _addresses: addresses, _machine: machine };
        pair.replicas[0].apply(&sites_yaml(edge_ip, &core_ips), &[]).ok();
        let objects = certificate
            + &https_gateway_yaml(&[("tls.example", "tls")], "")
            + &pair.service("web", "")
            + &pair.service("other", "")
            + &route("web");
        pair.replicas[0].apply(&objects, &[]).ok();
        pair
    }

    fn service(&self, name: &str, more: &str) -> String {
        service_yaml(name, more, &[("core1", &self.backend), ("core2", &self.backend)])
    }

    /// A proxy of a site that holds nothing yet, at the first replica.
    fn proxy(&self, site: &str, role: &str) -> XdsClient {
        let identity = site_dir(self.certs.path(), role, site);
        XdsClient::new(self.replicas[0].xds(), site, &format!("{site}-a"), &identity)
    }

    fn proxies(&self) -> [XdsClient; 2] {
        [self.proxy("edge1", "edge"), self.proxy("core1", "core")]
    }

    /// The second replica has compiled all that stands in etcd.
    fn caught_up(&self) {
        wait_for("both replicas are at one revision", SOON, || {
            let revisions = [0, 1].map(|n| revision(&self.replicas[n]));
            if revisions[0] == revisions[1] { Ok(()) } else { Err(format!("{revisions:?}")) }
        });
    }

    /// The second replica hears etcd again; the first is gone.
    fn caught_up_alone(&self) {
        wait_for("the replica is fresh", SOON, || {
            let (_, page) = self.replicas[1].page("/readyz").unwrap();
            if page.trim() == "ok" { Ok(()) } else { Err(page) }
        });
    }
}

fn replica(addresses: &Addresses, certs: &Path, name: &str, etcd: &str) -> Tidegate {
    let file = |file: &str| certs.join("control-plane").join(name).join(file).to_str().unwrap().to_owned();
    let (cert, key, ca) = (file("tls.crt"), file("tls.key"), file("ca.crt"));
    let flags = ["--xds-cert", &cert, "--xds-key", &key, "--xds-ca", &ca, "--replica", name];
    Tidegate::serve(addresses.take(), &format!("etcd:{etcd}"), &flags)
}

fn revision(replica: &Tidegate) -> String {
    let (_, page) = replica.page("/readyz?verbose").unwrap();
    page.lines().find_map(|line| line.strip_prefix("revision: ")).unwrap_or_default().to_owned()
}

fn route(service: &str) -> String {
    route_yaml("load", "load.example", &format!("[{{backendRefs: [{{name: {service}, port: 80}}]}}]"))
}

/// Secrets are always sent again (O21).
fn but_secrets(mut sent: Sent) -> Sent {
    sent.remove(&ResourceType::Secret);
    sent
}

#[test]
fn a_proxy_that_moves_is_sent_nothing_that_it_holds() {
    let mut pair = Pair::start();
    pair.caught_up();
    let mut proxies = pair.proxies();
    for proxy in &mut proxies {
        let sent = proxy.session();
        assert!(proxy.holds() > 3, "{sent:?}");
        proxy.moves_to(pair.replicas[1].xds());
        assert_eq!(but_secrets(proxy.session()), Sent::new());
    }
    // A replica that starts after bad writes past the API serves what the others serve.
    pair.etcd.put("/tidegate/v1/objects/httproutes/shop/load", "no: {manifest");
    pair.etcd.put("/tidegate/v1/objects/services/shop/web", "apiVersion: tidegate.dev/v1alpha1\nkind: Service\n");
    pair.replicas[1].restart();
    pair.caught_up();
    for proxy in &mut proxies {
        assert_eq!(but_secrets(proxy.session()), Sent::new());
        proxy.moves_to(pair.replicas[0].xds());
        assert_eq!(but_secrets(proxy.session()), Sent::new());
    }
}

#[test]
fn a_replica_that_is_cut_off_takes_nothing_back() {
    let pair = Pair::start();
    pair.caught_up();
    let mut proxies = pair.proxies();
    for proxy in &mut proxies {
        proxy.session();
    }
    pair.link.hold();
    let changes =
        pair.service("web", ", timeouts: {connect: 300ms}") + &pair.service("new", "") + &marked_route("x-two");
    pair.replicas[0].apply(&changes, &[]).ok();
    pair.replicas[0].run(&["delete", "service", "other", "-n", "shop"]).ok();
    let mut newest = BTreeMap::new();
    for (number, proxy) in proxies.iter_mut().enumerate() {
        let sent = proxy.session();
        assert!(!but_secrets(sent).is_empty(), "the first replica goes on");
        newest.insert(number, proxy.versions());
        // At once: nobody has told the second replica yet that it is cut off.
        proxy.moves_to(pair.replicas[1].xds());
        assert_eq!(but_secrets(proxy.session()), Sent::new());
        assert_eq!(proxy.versions(), newest[&number], "nothing is taken back");
    }
    wait_for("the replica says that it is cut off", SOON, || {
        let (_, page) = pair.replicas[1].page("/readyz").unwrap();
        if page.contains("stale") { Ok(()) } else { Err(page) }
    });
    for (number, proxy) in proxies.iter_mut().enumerate() {
        assert_eq!(but_secrets(proxy.session()), Sent::new());
        assert_eq!(proxy.versions(), newest[&number], "nor when it knows");
    }
    pair.link.open();
    pair.caught_up();
    for (number, proxy) in proxies.iter_mut().enumerate() {
        assert_eq!(but_secrets(proxy.session()), Sent::new(), "it has caught up");
        assert_eq!(proxy.versions(), newest[&number]);
    }
}

/// The same with Envoys that find their way by themselves, under load.
#[test]
fn envoys_that_move_to_a_cut_off_replica_serve_on_and_go_not_back() {
    let mut pair = Pair::start();
    pair.caught_up();
    // Closed at first, so that all of them are at the first replica.
    let door = Link::to(pair.replicas[1].xds());
    door.cut();
    let servers = [pair.replicas[0].xds().to_string(), door.address().to_string()];
    let mut envoys = [("edge1", "edge"), ("core1", "core"), ("core2", "core")].map(|(site, role)| {
        let id = format!("{site}-a");
        let names = ["proxy", "bootstrap", "--site", site, "--id", &id, "--role", role, "--drain-time", "10s"];
        let tls = ["--ca", "ca.crt", "--cert", "tls.crt", "--key", "tls.key", "--admin-port", "0"];
        let both = ["--server", &servers[0], "--server", &servers[1]];
        let bootstrap = tidegate(&[&names[..], &tls[..], &both[..]].concat()).ok().stdout;
        Envoy::start(&id, &bootstrap, &site_dir(pair.certs.path(), role, site))
    });
    envoys.iter_mut().for_each(|envoy| envoy.wait_ready(SOON * 2));
    let ask = Request::get("http://load.example/one").to((pair.edge_ip, HTTP));
    let answered = |name: &str| {
        wait_for(&format!("the route answers with {name}"), SOON, || match ask.send() {
            Ok(answer) if answer.status == 200 && answer.header(name).is_some() => Ok(()),
            other => Err(format!("{other:?}")),
        });
    };
    pair.replicas[0].apply(&marked_route("x-one"), &[]).ok();
    answered("x-one");
    pair.caught_up();

    pair.link.hold();
    pair.replicas[0].apply(&marked_route("x-two"), &[]).ok();
    answered("x-two");
    let load = Load::new([ask.clone()]).start();
    door.open();
    pair.replicas[0].process().kill();
    wait_for("every Envoy is at the replica that is left", SOON * 2, || {
        let connected: u64 = envoys.iter().map(|envoy| envoy.stat("control_plane.connected_state")).sum();
        if connected == 3 { Ok(()) } else { Err(connected) }
    });
    // What it is sent comes at once, or when the replica knows that it may not be the newest.
    std::thread::sleep(CONFIRMED);
    answered("x-two");

    pair.link.open();
    pair.caught_up_alone();
    answered("x-two");
    pair.replicas[1].apply(&marked_route("x-three"), &[]).ok();
    answered("x-three");
    load.stop().flawless(1000);
}

/// The route to `web`, with a response header of that name.
fn marked_route(header: &str) -> String {
    let filter =
        format!("{{type: ResponseHeaderModifier, responseHeaderModifier: {{set: [{{name: {header}, value: a}}]}}}}");
    route_yaml("load", "load.example", &format!("[{{filters: [{filter}], backendRefs: [{{name: web, port: 80}}]}}]"))
}

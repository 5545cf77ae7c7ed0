//! A small world: a control plane with mutual TLS, one edge and two core Envoys, back ends at each core.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::Duration,
};

use tempfile::TempDir;

use crate::harness::{Addresses, Backend, Envoy, Request, Response, Tidegate, Tls, tidegate};

/// How long a change may take to show in an Envoy; generous, since machines are shared.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// The edge's plain port of every test.
pub(crate) const HTTP: u16 = 8080;
/// The edge's TLS port of every test.
pub(crate) const HTTPS: u16 = 8443;

/// Everything that a test needs; parts stop when they are dropped.
pub(crate) struct World {
    pub(crate) edge: Envoy,
    pub(crate) cores: Vec<Envoy>,
    pub(crate) control: Tidegate,
    pub(crate) edge_ip: Ipv4Addr,
    pub(crate) core_ips: Vec<Ipv4Addr>,
    pub(crate) addresses: Addresses,
    pub(crate) certs: TempDir,
    // Last, so that it is given back when everything has stopped.
    _machine: Machine,
}

/// Tests under load have the machine to themselves, so that what fails is not the neighbour's doing.
static MACHINE: RwLock<()> = RwLock::new(());

/// A test's hold on the machine; never asked for twice by one test.
pub(crate) enum Machine {
    Shared { _guard: RwLockReadGuard<'static, ()> },
    Alone { _guard: RwLockWriteGuard<'static, ()> },
}

impl Machine {
    /// Beside others, while no test under load runs. A [`World`] asks for it by itself.
    pub(crate) fn shared() -> Self {
        // A test that failed leaves nothing behind that would matter to the next.
        Self::Shared { _guard: MACHINE.read().unwrap_or_else(PoisonError::into_inner) }
    }

    /// While nobody else runs.
    pub(crate) fn alone() -> Self {
        Self::Alone { _guard: MACHINE.write().unwrap_or_else(PoisonError::into_inner) }
    }
}

impl World {
    /// As [`World::start`], while no other world runs.
    pub(crate) fn start_alone(store: &str) -> Self {
        Self::start_on(store, &[], Machine::alone())
    }

    /// A world beside others; see [`World::start_on`].
    pub(crate) fn start(store: &str) -> Self {
        Self::start_with(store, &[])
    }

    /// As [`World::start`], with further flags for the control plane.
    pub(crate) fn start_with(store: &str, flags: &[&str]) -> Self {
        Self::start_on(store, flags, Machine::shared())
    }

    /// Control plane on `store`, sites `edge1`, `core1` (near) and `core2` (far), their Envoys, and the namespace
    /// `shop` with a Gateway `web` on the plain port.
    fn start_on(store: &str, flags: &[&str], machine: Machine) -> Self {
        let addresses = Addresses::next();
        let certs = TempDir::new().unwrap();
        let dir = certs.path().to_str().unwrap();
        let sites = ["--site", "edge1:edge", "--site", "core1:core", "--site", "core2:core"];
        let others = ["--operator", "ann", "--control-plane", "cp1"];
        tidegate(&[&["dev-certs", dir], &sites[..], &others[..]].concat()).ok();
        let control = Self::control(&addresses, certs.path(), store, flags);
        let edge_ip = addresses.take();
        let core_ips = vec![addresses.take(), addresses.take()];
        let setup = control.apply(&sites_yaml(edge_ip, &core_ips), &[]);
        assert_eq!(setup.code, 0, "{setup:#?}");
        let edge = start_envoy(&control, certs.path(), "edge1", "edge");
        let cores = ["core1", "core2"].map(|site| start_envoy(&control, certs.path(), site, "core")).into();
        let mut world = Self { edge, cores, control, edge_ip, core_ips, addresses, certs, _machine: machine };
        world.edge.wait_ready(SOON);
        for core in &mut world.cores {
            core.wait_ready(SOON);
        }
        world
    }

    fn control(addresses: &Addresses, certs: &Path, store: &str, flags: &[&str]) -> Tidegate {
        let file = |name: &str| certs.join("control-plane").join("cp1").join(name).to_str().unwrap().to_owned();
        let (cert, key, ca) = (file("tls.crt"), file("tls.key"), file("ca.crt"));
        let tls = ["--xds-cert", &cert, "--xds-key", &key, "--xds-ca", &ca];
        Tidegate::serve(addresses.take(), store, &[&tls[..], flags].concat())
    }

    /// A back end of the world, on an address of its own.
    pub(crate) fn backend(&self, name: &str) -> Backend {
        Backend::start_at(name, (self.addresses.take(), 9000))
    }

    /// A request to the edge's plain port.
    pub(crate) fn request(&self, host: &str, path: &str) -> Request {
        Request::get(&format!("http://{host}{path}")).to((self.edge_ip, HTTP)).within(Duration::from_secs(10))
    }

    /// Sends a GET to the edge's plain port.
    pub(crate) fn get(&self, host: &str, path: &str) -> Response {
        self.request(host, path).send().unwrap()
    }

    /// A request to the edge's TLS port.
    pub(crate) fn tls_request(&self, ca: &str, sni: &str, host: &str, path: &str) -> Request {
        Request::get(&format!("https://{host}{path}"))
            .to((self.edge_ip, HTTPS))
            .tls(Tls { ca: ca.to_owned(), sni: Some(sni.to_owned()), identity: None })
            .within(Duration::from_secs(10))
    }

    /// Applies manifests and waits until every proxy has acknowledged them.
    pub(crate) fn apply(&self, manifests: &str) {
        self.control.apply(manifests, &["--wait"]).ok();
    }
}

/// The folder of a site's identity, Envoy's working directory.
pub(crate) fn site_dir(certs: &Path, role: &str, site: &str) -> PathBuf {
    certs.join(role).join(site)
}

/// Starts the Envoy of a site on a bootstrap that the command line makes.
pub(crate) fn start_envoy(control: &Tidegate, certs: &Path, site: &str, role: &str) -> Envoy {
    start_edited_envoy(control.xds(), certs, (site, role), |bootstrap| bootstrap)
}

/// As [`start_envoy`], by way of a link to the control plane.
pub(crate) fn start_envoy_at(server: SocketAddr, certs: &Path, site: &str, role: &str) -> Envoy {
    start_edited_envoy(server, certs, (site, role), |bootstrap| bootstrap)
}

/// As [`start_envoy_at`], with a last word on the bootstrap.
pub(crate) fn start_edited_envoy(
    server: SocketAddr,
    certs: &Path,
    (site, role): (&str, &str),
    edit: impl FnOnce(String) -> String,
) -> Envoy {
    let server = server.to_string();
    let id = format!("{site}-a");
    let tls = ["--ca", "ca.crt", "--cert", "tls.crt", "--key", "tls.key", "--admin-port", "0", "--drain-time", "10s"];
    let names = ["proxy", "bootstrap", "--site", site, "--id", &id, "--server", &server, "--role", role];
    let bootstrap = edit(tidegate(&[&names[..], &tls[..]].concat()).ok().stdout);
    let dir = site_dir(certs, role, site);
    assert!(fs::exists(&dir).unwrap(), "dev-certs makes {}", dir.display());
    Envoy::start(&id, &bootstrap, &dir)
}

/// The sites of a world, its fleet, and the Gateway `shop/web`.
pub(crate) fn sites_yaml(edge: Ipv4Addr, cores: &[Ipv4Addr]) -> String {
    let mut yaml = format!(
        "apiVersion: tidegate.dev/v1alpha1
kind: Fleet
metadata: {{name: fleet}}
spec: {{drainTime: 10s}}
---
apiVersion: tidegate.dev/v1alpha1
kind: Namespace
metadata: {{name: shop}}
---
apiVersion: tidegate.dev/v1alpha1
kind: Site
metadata: {{name: edge1, labels: {{continent: europe}}}}
spec: {{role: edge, region: eu, coordinates: {{latitude: 50.1, longitude: 8.7}}, bindAddress: {edge}}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: web, namespace: shop}}
spec:
  gatewayClassName: tidegate
  listeners:
  - {{name: http, port: {HTTP}, protocol: HTTP}}
"
    );
    for (index, ip) in cores.iter().enumerate() {
        let number = index + 1;
        let longitude = 8.7 + 10.0 * number as f64;
        yaml.push_str(&format!(
            "---
apiVersion: tidegate.dev/v1alpha1
kind: Site
metadata: {{name: core{number}}}
spec: {{role: core, region: eu{number}, coordinates: {{latitude: 50.1, longitude: {longitude}}}, bindAddress: {ip},
  gateways: ['{ip}:15443']}}
"
        ));
    }
    yaml
}

/// A Service `shop/NAME` on port 80 with an EndpointSet at each (site, back end).
pub(crate) fn service_yaml(name: &str, spec: &str, at: &[(&str, &Backend)]) -> String {
    let mut yaml = format!(
        "---
apiVersion: tidegate.dev/v1alpha1
kind: Service
metadata: {{name: {name}, namespace: shop}}
spec: {{ports: [{{port: 80}}]{spec}}}
"
    );
    for (site, backend) in at {
        yaml.push_str(&endpoint_set_yaml(name, site, backend));
    }
    yaml
}

/// A Certificate `shop/NAME` for a host, and its PEM, which is its own authority.
pub(crate) fn certificate_yaml(name: &str, host: &str) -> (String, String) {
    let (cert, key) = tidegate::certs::server_certificate(&[host.to_owned()]).unwrap();
    let block = |pem: &str| pem.trim().replace('\n', "\n    ");
    let yaml = format!(
        "---
apiVersion: tidegate.dev/v1alpha1
kind: Certificate
metadata: {{name: {name}, namespace: shop}}
spec:
  certificateChain: |
    {}
  privateKey: |
    {}
",
        block(&cert),
        block(&key)
    );
    (yaml, cert)
}

/// The Gateway `shop/web` with its plain listener and an HTTPS one for each (host, certificate).
pub(crate) fn https_gateway_yaml(hosts: &[(&str, &str)], more: &str) -> String {
    let mut yaml = format!(
        "---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: web, namespace: shop}}
spec:
  gatewayClassName: tidegate
  listeners:
  - {{name: http, port: {HTTP}, protocol: HTTP}}
"
    );
    for (index, (host, certificate)) in hosts.iter().enumerate() {
        yaml.push_str(&format!(
            "  - {{name: https-{index}, port: {HTTPS}, protocol: HTTPS, hostname: '{host}', \
             tls: {{certificateRefs: [{{name: {certificate}}}]}}}}\n"
        ));
    }
    yaml + more
}

/// One EndpointSet, named `SERVICE-SITE`.
pub(crate) fn endpoint_set_yaml(service: &str, site: &str, backend: &Backend) -> String {
    format!(
        "---
apiVersion: tidegate.dev/v1alpha1
kind: EndpointSet
metadata: {{name: {service}-{site}, namespace: shop}}
spec: {{service: {service}, site: {site}, endpoints: [{{address: '{}'}}]}}
",
        backend.address()
    )
}

/// An HTTPRoute `shop/NAME` of the Gateway `web`; `rules` is the YAML list.
pub(crate) fn route_yaml(name: &str, host: &str, rules: &str) -> String {
    format!(
        "---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {name}, namespace: shop}}
spec:
  parentRefs: [{{name: web}}]
  hostnames: ['{host}']
  rules: {rules}
"
    )
}

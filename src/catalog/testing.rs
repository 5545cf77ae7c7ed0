//! A small world for tests: objects by builder, put into a catalog as changes of the store.

pub(crate) mod edits;

use std::{cell::RefCell, collections::BTreeMap, net::SocketAddr, time::Duration};

use bytes::Bytes;

use crate::{
    manifest::Mode,
    model::*,
    store::{Change, KeyValue, Listing},
    xds::{ResourceType, descriptor::message_name, json},
};

use super::{Catalog, Changed};

thread_local! {
    /// Values of the store are places in this list, since catalogs are given their parser as a plain function.
    static OBJECTS: RefCell<Vec<Object>> = const { RefCell::new(Vec::new()) };
}

fn parse(_: &ObjectRef, bytes: &[u8], mode: Mode) -> Result<(Object, Vec<String>), Vec<String>> {
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    let (text, newer) = text.strip_suffix(NEWER).map_or((text, false), |text| (text, true));
    let index: usize = text.parse().map_err(|_| vec!["garbage".to_owned()])?;
    if newer && mode == Mode::Strict {
        return Err(vec!["an unknown field".to_owned()]);
    }
    Ok((OBJECTS.with_borrow(|objects| objects[index].clone()), Vec::new()))
}

/// At the end of a value: it has a field that only a later version knows.
const NEWER: &str = " newer";

/// `value`, with a field that is tolerated when it was accepted, and a fault else.
pub(crate) fn newer(value: &Bytes) -> Bytes {
    [value, NEWER.as_bytes()].concat().into()
}

fn parse_endpoint(bytes: &[u8]) -> Result<LiveEndpoint, String> {
    let address = std::str::from_utf8(bytes).ok().and_then(|text| text.parse().ok()).ok_or("no address")?;
    Ok(endpoint(address))
}

/// An endpoint of weight 1.
pub(crate) fn endpoint(address: SocketAddr) -> Endpoint {
    Endpoint { address, weight: 1, ports: BTreeMap::new() }
}

/// The text that the test parser reads as `object`.
pub(crate) fn value(object: Object) -> Bytes {
    OBJECTS.with_borrow_mut(|objects| {
        objects.push(object);
        (objects.len() - 1).to_string().into()
    })
}

/// Keys with what is put there, or `None` where they are deleted: one transaction.
pub(crate) type Writes = Vec<(String, Option<Bytes>)>;

/// A catalog and the store behind it.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) catalog: Catalog,
    pub(crate) store: BTreeMap<String, KeyValue>,
    revision: u64,
}

impl World {
    pub(crate) fn new() -> Self {
        Self { catalog: empty(), store: BTreeMap::new(), revision: 0 }
    }

    /// Puts objects one by one, each younger than the one before.
    pub(crate) fn of<const N: usize>(objects: [Object; N]) -> Self {
        objects.into_iter().fold(Self::new(), Self::with)
    }

    pub(crate) fn with(mut self, object: Object) -> Self {
        self.put(object);
        self
    }

    /// As `etcdctl put` does.
    pub(crate) fn put(&mut self, object: Object) -> Changed {
        let key = key_of(&object.reference());
        self.put_raw(&key, value(object))
    }

    pub(crate) fn put_raw(&mut self, key: &str, value: Bytes) -> Changed {
        self.write(vec![(key.to_owned(), Some(value))])
    }

    pub(crate) fn delete(&mut self, key: &str) -> Changed {
        self.write(vec![(key.to_owned(), None)])
    }

    /// One transaction.
    pub(crate) fn write(&mut self, writes: Writes) -> Changed {
        self.revision += 1;
        let mod_revision = Revision(self.revision);
        let mut changes = Vec::new();
        for (key, value) in writes {
            let Some(value) = value else {
                self.store.remove(&key);
                changes.push(Change::Delete(key));
                continue;
            };
            let create_revision = self.store.get(&key).map_or(mod_revision, |old| old.create_revision);
            let entry = KeyValue { key: key.clone(), value, create_revision, mod_revision };
            self.store.insert(key, entry.clone());
            changes.push(Change::Put(entry));
        }
        self.catalog.apply(&changes)
    }

    /// As the API does.
    pub(crate) fn apply(&mut self, object: Object) -> Changed {
        let writes = edits::Edit::Apply(Box::new(object)).writes(&self.catalog);
        self.write(writes)
    }

    /// As the leader does: agrees to all that it may.
    pub(crate) fn agree(&mut self) -> Changed {
        let writes = edits::Edit::Agree.writes(&self.catalog);
        self.write(writes)
    }

    /// A catalog that starts from a listing of the store as it is.
    pub(crate) fn listed(&self) -> Catalog {
        let mut catalog = empty();
        catalog.reset(&self.listing());
        catalog
    }

    pub(crate) fn remove(&mut self, reference: &ObjectRef) -> Changed {
        self.delete(&key_of(reference))
    }

    /// Registers (or, without an address, takes out) a live endpoint.
    pub(crate) fn live(&mut self, site: &str, service: &str, id: &str, address: Option<&str>) -> Changed {
        let key = live_key(site, service, id);
        match address {
            Some(address) => self.put_raw(&key, address.to_owned().into()),
            None => self.delete(&key),
        }
    }

    pub(crate) fn listing(&self) -> Listing {
        let entries = self.store.values().cloned().collect();
        Listing { revision: Revision(self.revision), entries, ..Listing::default() }
    }
}

/// The key of an object.
pub(crate) fn key_of(reference: &ObjectRef) -> String {
    Keyspace::default().format(&StoreKey::Object(reference.clone()))
}

/// The key of its accepted copy.
pub(crate) fn copy_of(reference: &ObjectRef) -> String {
    Keyspace::default().format(&StoreKey::Accepted(reference.clone()))
}

/// The key of a live endpoint.
fn live_key(site: &str, service: &str, id: &str) -> String {
    let (namespace, service) = split(service);
    Keyspace::default().format(&StoreKey::Endpoint { site: site.into(), namespace, service, id: id.into() })
}

/// A catalog that reads what [`value`] wrote.
pub(crate) fn empty() -> Catalog {
    Catalog::new(Keyspace::default(), parse, parse_endpoint)
}

fn split(name: &str) -> (String, String) {
    let (namespace, name) = name.split_once('/').unwrap_or(("", name));
    (namespace.to_owned(), name.to_owned())
}

fn object(name: &str, spec: Spec) -> Object {
    let (namespace, name) = split(name);
    Object { metadata: Metadata { name, namespace, ..Metadata::default() }, spec }
}

/// Chainable changes of an object.
pub(crate) trait Build: Sized {
    fn label(self, key: &str, value: &str) -> Object;
    fn site(self, change: impl FnOnce(&mut SiteSpec)) -> Object;
    fn service(self, change: impl FnOnce(&mut ServiceSpec)) -> Object;
    fn endpoint_set(self, change: impl FnOnce(&mut EndpointSetSpec)) -> Object;
    fn gateway(self, change: impl FnOnce(&mut GatewaySpec)) -> Object;
    fn route(self, change: impl FnOnce(&mut HttpRouteSpec)) -> Object;
    fn raw(self, change: impl FnOnce(&mut EnvoyResourceSpec)) -> Object;
    /// Of an EndpointSet: replaces its endpoints.
    fn endpoints(self, addresses: &[&str]) -> Object {
        self.endpoint_set(|set| {
            set.endpoints = addresses.iter().map(|address| endpoint(address.parse().unwrap())).collect();
        })
    }
    /// Of a Service: those of its ports that speak HTTP/2.
    fn h2c(self, ports: &[u16]) -> Object {
        self.service(|service| {
            for port in service.ports.iter_mut().filter(|port| ports.contains(&port.port)) {
                port.app_protocol = AppProtocol::H2c;
            }
        })
    }
    /// Of a route: replaces its host names.
    fn hosts(self, names: &[&str]) -> Object {
        self.route(|route| route.hostnames = names.iter().map(|name| (*name).to_owned()).collect())
    }
    /// Of a route: one more rule.
    fn rule(self, rule: RouteRule) -> Object {
        self.route(|route| route.rules.push(rule))
    }
    /// Of a route: its (only) parentRef.
    fn parent(self, change: impl FnOnce(&mut ParentRef)) -> Object {
        self.route(|route| change(&mut route.parents[0]))
    }
}

impl Build for Object {
    fn label(mut self, key: &str, value: &str) -> Object {
        self.metadata.labels.insert(key.into(), value.into());
        self
    }
    fn site(mut self, change: impl FnOnce(&mut SiteSpec)) -> Object {
        let Spec::Site(spec) = &mut self.spec else { panic!("no Site") };
        change(spec);
        self
    }
    fn service(mut self, change: impl FnOnce(&mut ServiceSpec)) -> Object {
        let Spec::Service(spec) = &mut self.spec else { panic!("no Service") };
        change(spec);
        self
    }
    fn endpoint_set(mut self, change: impl FnOnce(&mut EndpointSetSpec)) -> Object {
        let Spec::EndpointSet(spec) = &mut self.spec else { panic!("no EndpointSet") };
        change(spec);
        self
    }
    fn gateway(mut self, change: impl FnOnce(&mut GatewaySpec)) -> Object {
        let Spec::Gateway(spec) = &mut self.spec else { panic!("no Gateway") };
        change(spec);
        self
    }
    fn route(mut self, change: impl FnOnce(&mut HttpRouteSpec)) -> Object {
        let Spec::HttpRoute(spec) = &mut self.spec else { panic!("no HTTPRoute") };
        change(spec);
        self
    }
    fn raw(mut self, change: impl FnOnce(&mut EnvoyResourceSpec)) -> Object {
        let Spec::EnvoyResource(spec) = &mut self.spec else { panic!("no EnvoyResource") };
        change(spec);
        self
    }
}

/// A Site without coordinates; a core has one gateway.
pub(crate) fn site(name: &str, role: Role) -> Object {
    let gateways = if role == Role::Core { vec!["10.0.0.1:10443".parse().unwrap()] } else { Vec::new() };
    let spec = SiteSpec {
        role,
        region: format!("region-{name}"),
        zone: String::new(),
        coordinates: None,
        kind: SiteKind::Own,
        provider: String::new(),
        gateways,
        bind_address: "0.0.0.0".parse().unwrap(),
        health_check_interval: Duration::from_secs(2),
        state: SiteState::Active,
    };
    object(name, Spec::Site(spec))
}

/// An edge Site.
pub(crate) fn edge(name: &str) -> Object {
    site(name, Role::Edge)
}

/// A core Site.
pub(crate) fn core(name: &str) -> Object {
    site(name, Role::Core)
}

/// A Service with these ports, named `p<number>`.
pub(crate) fn service(name: &str, ports: &[u16]) -> Object {
    let port = |port: &u16| ServicePort { name: format!("p{port}"), port: *port, app_protocol: AppProtocol::Http };
    let spec = ServiceSpec {
        ports: ports.iter().map(port).collect(),
        traffic_class: TrafficClass::Web,
        load_balancing: LbPolicy::default(),
        health_check: None,
        outlier_detection: None,
        circuit_breakers: CircuitBreakers::default(),
        connect_timeout: Duration::from_secs(1),
        idle_connection_timeout: Duration::from_secs(4),
        request_timeout: None,
        tls: None,
    };
    object(name, Spec::Service(spec))
}

/// The EnvoyResource `name`, of a resource that is called `called` and says nothing else.
pub(crate) fn raw(name: &str, kind: ResourceType, called: &str) -> Object {
    let payload = json::from_json(message_name(kind.url()), &serde_json::json!({"name": called})).unwrap().into();
    let spec = EnvoyResourceSpec {
        type_url: kind.url().to_owned(),
        name: called.to_owned(),
        payload,
        confidential: false,
        binds: Vec::new(),
        roles: [Role::Edge].into(),
        sites: None,
        ttl: None,
    };
    object(name, Spec::EnvoyResource(spec))
}

/// The EndpointSet `<service>-<site>`, empty.
pub(crate) fn set(service: &str, site: &str) -> Object {
    let spec = EndpointSetSpec { service: split(service).1, site: site.to_owned(), endpoints: Vec::new(), capacity: 0 };
    object(&format!("{service}-{site}"), Spec::EndpointSet(spec))
}

/// A Gateway of our class at every edge.
pub(crate) fn gateway(name: &str, listeners: Vec<Listener>) -> Object {
    object(
        name,
        Spec::Gateway(GatewaySpec {
            class: "tidegate".into(),
            listeners,
            sites: None,
            virtual_hosts: VirtualHosts::Whole,
        }),
    )
}

/// An HTTP listener named after its port and host that lets routes of all namespaces attach.
pub(crate) fn http(port: u16, hostname: Option<&str>) -> Listener {
    Listener {
        name: format!("{port}-{}", hostname.unwrap_or("all").trim_start_matches("*.")),
        hostname: hostname.map(str::to_owned),
        port,
        protocol: ListenerProtocol::Http,
        allowed_namespaces: AllowedNamespaces::All,
        allowed_kinds: AllowedKinds::HttpRoute,
    }
}

/// The same with TLS.
pub(crate) fn https(port: u16, hostname: Option<&str>, certificate: &str) -> Listener {
    Listener { protocol: ListenerProtocol::Https { certificates: vec![split(certificate)] }, ..http(port, hostname) }
}

/// A Certificate.
pub(crate) fn certificate(name: &str) -> Object {
    let spec = CertificateSpec { certificate_chain: "chain".into(), private_key: Redacted::new("key".into()) };
    object(name, Spec::Certificate(spec))
}

/// A Namespace.
pub(crate) fn namespace(name: &str) -> Object {
    object(name, Spec::Namespace(NamespaceSpec {}))
}

/// A ReferenceGrant `grant` in a namespace.
pub(crate) fn grant(namespace: &str, from: (Kind, &str), to: &str, name: Option<&str>) -> Object {
    let from = GrantFrom {
        group: "gateway.networking.k8s.io".into(),
        kind: from.0.as_str().into(),
        namespace: from.1.to_owned(),
    };
    let to = GrantTo { group: String::new(), kind: to.to_owned(), name: name.map(str::to_owned) };
    object(&format!("{namespace}/grant"), Spec::ReferenceGrant(ReferenceGrantSpec { from: vec![from], to: vec![to] }))
}

/// A route without rules that names one Gateway.
pub(crate) fn route(name: &str, gateway: &str) -> Object {
    let (namespace, parent) = split(gateway);
    let parents = vec![ParentRef { namespace, name: parent, section_name: None, port: None }];
    object(name, Spec::HttpRoute(HttpRouteSpec { parents, hostnames: Vec::new(), rules: Vec::new() }))
}

/// A rule named `name` that matches a path.
pub(crate) fn rule(name: &str, path: PathMatch) -> RouteRule {
    let matching = RouteMatch { path, headers: Vec::new(), query_params: Vec::new(), method: None };
    RouteRule {
        name: Some(name.to_owned()),
        matches: vec![matching],
        filters: Vec::new(),
        backends: Vec::new(),
        request_timeout: None,
        backend_request_timeout: None,
    }
}

/// A rule for every path with one back end.
pub(crate) fn to(service: &str, port: u16) -> RouteRule {
    RouteRule { backends: vec![backend(service, port)], ..rule("to", PathMatch::Prefix("/".into())) }
}

/// A back end of weight 1.
pub(crate) fn backend(service: &str, port: u16) -> BackendRef {
    let (namespace, name) = split(service);
    BackendRef { namespace, name, port: Some(port), weight: 1, filters: Vec::new(), foreign_kind: None }
}

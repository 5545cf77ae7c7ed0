//! Random small worlds and what people do to them.

use proptest::prelude::*;

use super::*;
use crate::catalog::accepted;

/// One edit of a small world.
#[derive(Clone, Debug)]
pub(crate) enum Edit {
    /// Past admission.
    Put(Box<Object>),
    /// Past admission.
    Remove(ObjectRef),
    /// By the API.
    Apply(Box<Object>),
    /// By the API.
    Delete(ObjectRef),
    /// Past admission: no object at all.
    Garbage(ObjectRef),
    /// Past admission: an object with a field that nobody knows.
    Newer(Box<Object>),
    /// An accepted copy that is none.
    BadCopy(ObjectRef),
    /// By the leader: to all that waits for it.
    Agree,
    Live {
        site: &'static str,
        service: &'static str,
        id: &'static str,
        address: Option<&'static str>,
    },
}

impl Edit {
    /// What it writes to a store of which `catalog` has read everything.
    pub(crate) fn writes(self, catalog: &Catalog) -> Writes {
        let age = |reference| catalog.configuration().get(reference).map(|stored| stored.create_revision);
        match self {
            Self::Put(object) => vec![(key_of(&object.reference()), Some(value(*object)))],
            Self::Remove(reference) => vec![(key_of(&reference), None)],
            Self::Apply(object) => {
                let reference = object.reference();
                let value = value(*object);
                let copy = accepted::encode(age(&reference), &value);
                vec![(key_of(&reference), Some(value)), (copy_of(&reference), Some(copy))]
            }
            Self::Delete(reference) => vec![(key_of(&reference), None), (copy_of(&reference), None)],
            Self::Garbage(reference) => vec![(key_of(&reference), Some("garbage".into()))],
            Self::Newer(object) => vec![(key_of(&object.reference()), Some(newer(&value(*object))))],
            Self::BadCopy(reference) => vec![(copy_of(&reference), Some("garbage".into()))],
            Self::Agree => agree(catalog),
            Self::Live { site, service, id, address } => {
                vec![(live_key(site, service, id), address.map(|address| address.to_owned().into()))]
            }
        }
    }

    /// Puts it into effect.
    pub(crate) fn apply(self, world: &mut World) -> Changed {
        let writes = self.writes(&world.catalog);
        world.write(writes)
    }
}

fn agree(catalog: &Catalog) -> Writes {
    let unagreed = catalog.unagreed();
    let good = |reference| catalog.configuration().get(reference).is_some_and(|stored| !spoilt(&stored.object));
    let writes = unagreed.writes.iter().filter(|(reference, _)| good(*reference));
    let accepted =
        writes.map(|(reference, write)| (copy_of(reference), Some(accepted::encode(Some(write.age), &write.value))));
    accepted.chain(unagreed.deletions.keys().map(|reference| (copy_of(reference), None))).collect()
}

/// What Envoy would refuse: a Service without time to connect, a route that sets a header of no valid name.
pub(crate) fn spoil(object: Object) -> Object {
    match object.spec {
        Spec::Service(_) => object.service(|spec| spec.connect_timeout = Duration::ZERO),
        Spec::HttpRoute(_) => object.route(|spec| {
            let change = HeaderChange { set: vec![("two\nlines".into(), "x".into())], ..HeaderChange::default() };
            spec.rules.iter_mut().for_each(|rule| rule.filters.push(Filter::RequestHeaders(change.clone())));
        }),
        _ => object,
    }
}

/// Whether it went through [`spoil`]; the leader's admission refuses it.
fn spoilt(object: &Object) -> bool {
    match &object.spec {
        Spec::Service(spec) => spec.connect_timeout.is_zero(),
        Spec::HttpRoute(spec) => {
            let mut filters = spec.rules.iter().flat_map(|rule| &rule.filters);
            filters.any(|filter| matches!(filter, Filter::RequestHeaders(_)))
        }
        _ => false,
    }
}

/// The sites; of role edge where the name begins with `e`, most of the time.
pub(crate) const SITES: [&str; 4] = ["e1", "e2", "c1", "c2"];
const SERVICES: [&str; 3] = ["a/s", "a/t", "b/s"];
const GATEWAYS: [&str; 3] = ["a/g", "a/h", "b/g"];
const HOSTS: [&str; 4] = ["*", "*.x.test", "a.x.test", "b.x.test"];
const CERTIFICATES: [&str; 2] = ["a/c", "b/c"];

fn pick(from: &'static [&'static str]) -> impl Strategy<Value = &'static str> {
    prop::sample::select(from)
}

fn selector() -> impl Strategy<Value = LabelSelector> {
    any::<bool>().prop_map(|yes| LabelSelector {
        match_labels: [("on".to_owned(), yes.to_string())].into(),
        match_expressions: Vec::new(),
    })
}

fn sites() -> impl Strategy<Value = Object> {
    let place = (pick(&["eu", "us"]), pick(&["", "z"]), 0..3u8);
    (pick(&SITES), 0..7u8, any::<bool>(), place).prop_map(|(name, odd, on, (region, zone, place))| {
        let role = if name.starts_with('e') == (odd > 0) { Role::Edge } else { Role::Core };
        site(name, role).label("on", &on.to_string()).site(|site| {
            (site.region, site.zone) = (region.into(), zone.into());
            site.state = if odd == 1 { SiteState::Deleting } else { SiteState::Active };
            let latitude = f64::from(place) * 10.0;
            site.coordinates = (place > 0).then_some(Coordinates { latitude, longitude: 0.0 });
            if odd == 2 {
                site.gateways.clear();
            }
        })
    })
}

/// Few EndpointSets, so that they move from site to site, and at times to another Service.
fn sets() -> impl Strategy<Value = Object> {
    let service = prop::option::weighted(0.2, pick(&["s", "t"]));
    (pick(&SERVICES), pick(&["1", "2"]), pick(&SITES), service, 0..3u8).prop_map(|(name, number, site, other, last)| {
        set(name, number).endpoints(&[&format!("10.0.0.{last}:80")]).endpoint_set(|set| {
            set.site = site.into();
            set.service = other.map_or(std::mem::take(&mut set.service), str::to_owned);
        })
    })
}

fn listeners() -> impl Strategy<Value = Listener> {
    let allowed = prop_oneof![
        2 => Just(AllowedNamespaces::All),
        1 => Just(AllowedNamespaces::Same),
        1 => selector().prop_map(AllowedNamespaces::Selector)
    ];
    (80..82u16, pick(&HOSTS), prop::option::weighted(0.4, pick(&CERTIFICATES)), allowed).prop_map(
        |(port, host, certificate, allowed_namespaces)| {
            let host = (host != "*").then_some(host);
            let listener = certificate.map_or_else(|| http(port, host), |name| https(port, host, name));
            Listener { allowed_namespaces, ..listener }
        },
    )
}

fn gateways() -> impl Strategy<Value = Object> {
    (pick(&GATEWAYS), prop::collection::vec(listeners(), 1..4), prop::option::of(selector()), 0..8u8).prop_map(
        |(name, listeners, sites, odd)| {
            gateway(name, listeners).gateway(|spec| {
                spec.sites = sites;
                match odd {
                    0 => spec.class = "other".into(),
                    1..4 => spec.virtual_hosts = VirtualHosts::Streamed,
                    _ => {}
                }
            })
        },
    )
}

fn rules() -> impl Strategy<Value = RouteRule> {
    let path = prop_oneof![
        Just(PathMatch::Prefix("/".into())),
        Just(PathMatch::Prefix("/a".into())),
        Just(PathMatch::Exact("/a".into())),
        Just(PathMatch::Regex("/a.".into()))
    ];
    let backends = prop::collection::vec((pick(&SERVICES), 80..82u16), 0..3);
    (path, backends, prop::option::weighted(0.3, pick(&SERVICES))).prop_map(|(path, backends, mirror)| RouteRule {
        backends: backends.into_iter().map(|(name, port)| backend(name, port)).collect(),
        filters: mirror.map(|name| Filter::Mirror(MirrorFilter { backend: backend(name, 80) })).into_iter().collect(),
        ..rule("r", path)
    })
}

fn http_routes() -> impl Strategy<Value = Object> {
    let parents = prop::collection::vec((pick(&GATEWAYS), prop::option::weighted(0.2, 80..82u16)), 1..3);
    let hosts = prop::collection::vec(pick(&HOSTS[1..]), 0..3);
    (pick(&["a/r", "b/r", "b/q"]), parents, hosts, prop::collection::vec(rules(), 1..3)).prop_map(
        |(name, parents, hosts, rules)| {
            let parent = |(gateway, port): (&str, Option<u16>)| {
                let (namespace, name) = gateway.split_once('/').unwrap();
                ParentRef { namespace: namespace.into(), name: name.into(), section_name: None, port }
            };
            route(name, "a/g").hosts(&hosts).route(|spec| {
                spec.parents = parents.into_iter().map(parent).collect();
                spec.rules = rules;
            })
        },
    )
}

/// EnvoyResources that want the same names and ports.
fn raws() -> impl Strategy<Value = Object> {
    let kinds = prop::sample::select(vec![ResourceType::Cluster, ResourceType::Listener, ResourceType::Runtime]);
    (pick(&["x", "y"]), kinds, pick(&["m", "n"]), prop::option::of(selector()), any::<bool>(), 80..82u16).prop_map(
        |(name, kind, called, sites, confidential, port)| {
            raw(name, kind, called).raw(|spec| {
                spec.sites = sites;
                spec.confidential = confidential;
                if kind == ResourceType::Listener {
                    spec.binds = vec![([127, 0, 0, 1].into(), port)];
                }
            })
        },
    )
}

/// Objects that name each other often, rightly and wrongly.
pub(crate) fn objects() -> impl Strategy<Value = Object> {
    let ports = prop_oneof![Just(vec![80]), Just(vec![80, 81])];
    let h2c = prop_oneof![3 => Just(vec![]), 1 => Just(vec![80]), 1 => Just(vec![80, 81])];
    let grants = (any::<bool>(), any::<bool>()).prop_map(|(to_a, route)| {
        let (into, from) = if to_a { ("a", "b") } else { ("b", "a") };
        let (kind, what) = if route { (Kind::HttpRoute, "Service") } else { (Kind::Gateway, "Certificate") };
        grant(into, (kind, from), what, None)
    });
    let fleet = any::<bool>().prop_map(|one| {
        let spec = FleetSpec { trust_domain: if one { "one" } else { "two" }.into(), ..FleetSpec::default() };
        let metadata = Metadata { name: "fleet".into(), ..Metadata::default() };
        Object { metadata, spec: Spec::Fleet(spec) }
    });
    prop_oneof![
        4 => sites(),
        3 => (pick(&SERVICES), ports, h2c).prop_map(|(name, ports, h2c)| service(name, &ports).h2c(&h2c)),
        4 => sets(),
        4 => gateways(),
        5 => http_routes(),
        2 => pick(&CERTIFICATES).prop_map(certificate),
        2 => grants,
        1 => (pick(&["a", "b"]), any::<bool>()).prop_map(|(name, on)| namespace(name).label("on", &on.to_string())),
        1 => fleet,
        3 => raws(),
    ]
}

/// A small world in which all works, so that what an edit spoils shows.
fn works() -> Vec<Object> {
    let sites = SITES.map(|name| site(name, if name.starts_with('e') { Role::Edge } else { Role::Core }));
    let services = [service("a/s", &[80]), service("a/t", &[80, 81]).h2c(&[81])];
    let sets = [("a/s", "c1"), ("a/t", "c2")]
        .map(|(name, site)| set(name, "1").endpoints(&["10.0.0.1:80"]).endpoint_set(|set| set.site = site.into()));
    let door = gateway("a/g", vec![http(80, None)]);
    let way = route("a/r", "a/g").rule(to("a/s", 80)).rule(to("a/t", 80));
    sites.into_iter().chain(services).chain(sets).chain([door, way]).collect()
}

/// What stands before the edits.
pub(crate) fn starts() -> impl Strategy<Value = Vec<Object>> {
    prop_oneof![prop::collection::vec(objects(), 0..30), Just(works())]
}

/// Edits past admission and by the API, and the leader's answers to them.
pub(crate) fn histories() -> impl Strategy<Value = Edit> {
    prop_oneof![
        6 => edits(),
        8 => objects().prop_map(|object| Edit::Apply(Box::new(object))),
        3 => objects().prop_map(|object| Edit::Put(Box::new(spoil(object)))),
        2 => objects().prop_map(|object| Edit::Delete(object.reference())),
        3 => objects().prop_map(|object| Edit::Garbage(object.reference())),
        2 => objects().prop_map(|object| Edit::Newer(Box::new(object))),
        1 => objects().prop_map(|object| Edit::BadCopy(object.reference())),
        4 => Just(Edit::Agree),
    ]
}

/// Edits that meet each other often.
pub(crate) fn edits() -> impl Strategy<Value = Edit> {
    let address = prop::option::of(pick(&["10.0.0.1:80", "10.0.0.9:80"]));
    prop_oneof![
        8 => objects().prop_map(|object| Edit::Put(Box::new(object))),
        2 => objects().prop_map(|object| Edit::Remove(object.reference())),
        2 => (pick(&SITES), pick(&SERVICES), pick(&["i", "j"]), address)
            .prop_map(|(site, service, id, address)| Edit::Live { site, service, id, address }),
    ]
}

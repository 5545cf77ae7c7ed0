//! Random small worlds and what people do to them.

use proptest::prelude::*;

use super::*;

/// One edit of a small world.
#[derive(Clone, Debug)]
pub(crate) enum Edit {
    Put(Box<Object>),
    Remove(ObjectRef),
    Live { site: &'static str, service: &'static str, id: &'static str, address: Option<&'static str> },
}

impl Edit {
    /// Puts it into effect.
    pub(crate) fn apply(self, world: &mut World) -> Changed {
        match self {
            Self::Put(object) => world.put(*object),
            Self::Remove(reference) => world.remove(&reference),
            Self::Live { site, service, id, address } => world.live(site, service, id, address),
        }
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
    (pick(&SITES), 0..10u8, any::<bool>(), 0..3u8).prop_map(|(name, odd, on, place)| {
        let role = if name.starts_with('e') == (odd > 0) { Role::Edge } else { Role::Core };
        site(name, role).label("on", &on.to_string()).site(|site| {
            site.state = if odd == 1 { SiteState::Deleting } else { SiteState::Active };
            let latitude = f64::from(place) * 10.0;
            site.coordinates = (place > 0).then_some(Coordinates { latitude, longitude: 0.0 });
            if odd == 2 {
                site.gateways.clear();
            }
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
                if odd == 0 {
                    spec.class = "other".into();
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

/// Objects that name each other often, rightly and wrongly.
pub(crate) fn objects() -> impl Strategy<Value = Object> {
    let ports = prop_oneof![Just(vec![80]), Just(vec![80, 81])];
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
        3 => (pick(&SERVICES), ports).prop_map(|(name, ports)| service(name, &ports)),
        4 => (pick(&SERVICES), pick(&SITES), 0..3u8)
            .prop_map(|(name, site, last)| set(name, site).endpoints(&[&format!("10.0.0.{last}:80")])),
        4 => gateways(),
        5 => http_routes(),
        2 => pick(&CERTIFICATES).prop_map(certificate),
        2 => grants,
        1 => (pick(&["a", "b"]), any::<bool>()).prop_map(|(name, on)| namespace(name).label("on", &on.to_string())),
        1 => fleet,
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

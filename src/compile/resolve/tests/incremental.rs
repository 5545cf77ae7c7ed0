//! The property on which the pipeline rests: what was read says what a change makes dirty, nothing is missed.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::{
    catalog::{Changed, Read, testing::*},
    compile::{
        reader::Dependents,
        resolve::{Plan, plan},
    },
    model::*,
};

/// One edit of a small world.
#[derive(Clone, Debug)]
enum Edit {
    Put(Box<Object>),
    Remove(ObjectRef),
    Live { site: &'static str, service: &'static str, id: &'static str, address: Option<&'static str> },
}

impl Edit {
    fn apply(self, world: &mut World) -> Changed {
        match self {
            Self::Put(object) => world.put(*object),
            Self::Remove(reference) => world.remove(&reference),
            Self::Live { site, service, id, address } => world.live(site, service, id, address),
        }
    }
}

const SITES: [&str; 4] = ["e1", "e2", "c1", "c2"];
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

pub(super) fn objects() -> impl Strategy<Value = Object> {
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

fn edits() -> impl Strategy<Value = Edit> {
    let address = prop::option::of(pick(&["10.0.0.1:80", "10.0.0.9:80"]));
    prop_oneof![
        8 => objects().prop_map(|object| Edit::Put(Box::new(object))),
        2 => objects().prop_map(|object| Edit::Remove(object.reference())),
        2 => (pick(&SITES), pick(&SERVICES), pick(&["i", "j"]), address)
            .prop_map(|(site, service, id, address)| Edit::Live { site, service, id, address }),
    ]
}

/// What is compiled.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Question {
    Names(Audience),
    Plan(Unit),
}

/// What comes of it.
#[derive(Debug, PartialEq)]
enum Answer {
    Names(Option<Vec<Unit>>),
    Plan(Option<Plan>),
}

fn ask(world: &World, question: &Question) -> (Answer, BTreeSet<Read>) {
    let reader = reader(world);
    let answer = match question {
        Question::Names(audience) => Answer::Names(names(audience, &reader)),
        Question::Plan(unit) => Answer::Plan(plan(unit, &reader)),
    };
    (answer, reader.into_reads())
}

/// Everything that was ever asked for, compiled again only when it is dirty.
#[derive(Debug, Default)]
struct Compiled {
    answers: BTreeMap<Question, Answer>,
    dependents: Dependents<Question>,
}

impl Compiled {
    fn compile(&mut self, world: &World, question: Question) {
        let (answer, reads) = ask(world, &question);
        self.dependents.record(question.clone(), reads);
        self.answers.insert(question, answer);
    }

    fn names(&self) -> Vec<Vec<Unit>> {
        let names = |answer: &Answer| match answer {
            Answer::Names(units) => units.clone(),
            Answer::Plan(_) => None,
        };
        self.answers.values().filter_map(names).collect()
    }
}

fn audiences() -> Vec<Audience> {
    let all = |site| {
        [(Role::Edge, true), (Role::Edge, false), (Role::Core, true)].map(|(role, proven)| audience(site, role, proven))
    };
    SITES.into_iter().flat_map(all).collect()
}

/// Every unit that an audience has says something, and every group that its routes name is its own.
fn check_closed(world: &World, units: &[Unit]) -> Result<(), TestCaseError> {
    let clusters: BTreeSet<&str> =
        units.iter().filter(|unit| unit.kind == crate::xds::ResourceType::Cluster).map(|unit| &*unit.name).collect();
    for unit in units {
        let reader = reader(world);
        let found = plan(unit, &reader);
        prop_assert!(found.is_some(), "{unit:?} says nothing");
        let Some(Plan::RouteConfiguration(found)) = found else { continue };
        for host in found.hosts {
            let HostAnswer::Routes(routes) = host.answer else { continue };
            for target in routes.iter().flat_map(|r| r.mirrors.iter().chain(r.backends.iter().flat_map(|b| &b.target)))
            {
                prop_assert!(clusters.contains(target.group.as_str()), "{} is not there", target.group);
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn recomputing_what_a_change_touches_equals_recomputing_everything(
        edits in prop::collection::vec(edits(), 1..40)
    ) {
        let mut world = World::new();
        let mut compiled = Compiled::default();
        audiences().into_iter().for_each(|audience| compiled.compile(&world, Question::Names(audience)));
        for edit in edits {
            let dirty = compiled.dependents.dirty(&edit.clone().apply(&mut world));
            dirty.into_iter().for_each(|question| compiled.compile(&world, question));
            for (question, answer) in &compiled.answers {
                prop_assert_eq!(answer, &ask(&world, question).0, "{:?} after {:?}", question, edit);
            }
            for units in compiled.names() {
                check_closed(&world, &units)?;
                let new = units.into_iter().map(Question::Plan).filter(|question| !compiled.answers.contains_key(question));
                new.collect::<Vec<_>>().into_iter().for_each(|question| compiled.compile(&world, question));
            }
        }
        let mut fresh = empty();
        fresh.reset(&world.listing());
        prop_assert_eq!(fresh.configuration(), world.catalog.configuration());
        prop_assert_eq!(fresh.runtime(), world.catalog.runtime());
    }
}

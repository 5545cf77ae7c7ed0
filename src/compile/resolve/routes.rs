//! Virtual hosts: for each host name of a port its owner's routes, in Gateway API's order of precedence.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    compile::{
        plan::{BackendPlan, HostAnswer, RoutePlan, VirtualHostPlan},
        reader::Reader,
    },
    model::{BackendRef, Filter, HeaderChange, ObjectRef, PathMatch, RouteMatch, RouteRule},
};

use super::{
    attach::{Attached, attached, attached_for},
    hostname,
    ports::Port,
    references,
};

/// The domains that a port may have virtual hosts for; a few too many, since whether a route attaches is not asked here.
/// With `chain`, those of the TLS chain of that listener, where the host name of every other listener is misdirected;
/// without, those of all listeners.
pub(crate) fn domains(port: &Port, chain: Option<usize>, reader: &Reader) -> BTreeSet<Arc<str>> {
    let mut domains: BTreeSet<Arc<str>> = BTreeSet::new();
    for (index, bound) in port.serving.iter().enumerate() {
        domains.insert(bound.hostname().into());
        if chain.is_some_and(|only| only != index) {
            continue;
        }
        for host in reader.hosts_of(&bound.gateway.reference) {
            let name = hostname::intersection(bound.hostname(), host);
            // A more specific listener has its own answer for its hosts.
            let own = name.filter(|name| port.owner(name) == Some(index));
            domains.extend(own.map(|name| if *name == **host { Arc::clone(host) } else { name.into() }));
        }
    }
    domains
}

/// The virtual host of a domain, of which it reads no more than what concerns it; `None`: nobody names it.
pub(crate) fn host(port: &Port, chain: Option<usize>, domain: &str, reader: &Reader) -> Option<VirtualHostPlan> {
    let owner = port.owner(domain)?;
    let bound = port.serving.get(owner)?;
    let own = bound.hostname() == domain;
    let answer = if chain.is_some_and(|only| only != owner) {
        own.then_some(HostAnswer::Misdirected)?
    } else {
        let routes = RoutesOf::new(attached_for(bound, domain, reader), reader);
        (own || routes.by_hostname.contains_key(domain)).then(|| HostAnswer::Routes(routes.answer(domain)))?
    };
    Some(VirtualHostPlan { name: domain.to_owned(), domains: vec![domain.to_owned()], answer })
}

/// Routes of one listener, resolved once, by host name.
struct RoutesOf<'a> {
    plans: Vec<Vec<(Precedence<'a>, RoutePlan)>>,
    by_hostname: BTreeMap<&'a str, BTreeSet<usize>>,
}

impl<'a> RoutesOf<'a> {
    fn new(attached: Vec<Attached<'a>>, reader: &Reader) -> Self {
        let mut by_hostname: BTreeMap<&str, BTreeSet<usize>> = BTreeMap::new();
        for (index, route) in attached.iter().enumerate() {
            for name in &route.hostnames {
                by_hostname.entry(*name).or_default().insert(index);
            }
        }
        Self { plans: attached.iter().map(|route| plans(route, reader)).collect(), by_hostname }
    }

    /// What a domain answers: the routes of its own host name by precedence, then those of each less specific one, to
    /// which a request falls through (`HTTPRouteSpec.hostnames`: the most specific match goes first).
    fn answer(&self, domain: &str) -> Vec<RoutePlan> {
        let mut answered: BTreeSet<usize> = BTreeSet::new();
        let mut answer = Vec::new();
        for name in hostname::widening(domain) {
            let routes = self.by_hostname.get(name.as_str()).into_iter().flatten();
            let new: Vec<usize> = routes.copied().filter(|route| answered.insert(*route)).collect();
            let mut tier: Vec<_> = new.iter().filter_map(|route| self.plans.get(*route)).flatten().collect();
            tier.sort_by(|(a, _), (b, _)| a.cmp(b));
            answer.extend(tier.into_iter().map(|(_, plan)| plan.clone()));
        }
        answer
    }
}

/// What goes first within a host name (Gateway API, `HTTPRouteRule.matches`), smallest first.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Precedence<'a> {
    path: (u8, Reverse<usize>),
    without_method: bool,
    headers: Reverse<usize>,
    query_params: Reverse<usize>,
    age: crate::model::Revision,
    route: (&'a str, &'a str),
    rule: usize,
    matching: usize,
}

/// Exact, then regular expressions, then prefixes, the longest first. Gateway API leaves the place of expressions open;
/// behind the prefixes, one rule for `/` would hide them all.
fn path_precedence(path: &PathMatch) -> (u8, Reverse<usize>) {
    match path {
        PathMatch::Exact(_) => (0, Reverse(0)),
        PathMatch::Regex(_) => (1, Reverse(0)),
        PathMatch::Prefix(prefix) => (2, Reverse(prefix.chars().count())),
    }
}

/// Every match of every rule of a route.
fn plans<'a>(attached: &Attached<'a>, reader: &Reader) -> Vec<(Precedence<'a>, RoutePlan)> {
    let route = attached.route;
    let mut plans = Vec::new();
    for (rule_index, rule) in attached.spec.rules.iter().enumerate() {
        let shared = rule_plan(&route.reference, rule_index, rule, reader);
        for (match_index, matching) in rule.matches.iter().enumerate() {
            let precedence = Precedence {
                path: path_precedence(&matching.path),
                without_method: matching.method.is_none(),
                headers: Reverse(matching.headers.len()),
                query_params: Reverse(matching.query_params.len()),
                age: route.create_revision,
                route: (&route.reference.namespace, &route.reference.name),
                rule: rule_index,
                matching: match_index,
            };
            plans.push((precedence, RoutePlan { matching: matching.clone(), ..shared.clone() }));
        }
    }
    plans
}

/// A rule, but for what it matches.
fn rule_plan(route: &ObjectRef, index: usize, rule: &RouteRule, reader: &Reader) -> RoutePlan {
    RoutePlan {
        source: route.clone(),
        contribution: contribution(rule),
        section: section(index, rule),
        matching: RouteMatch {
            path: PathMatch::Prefix("/".into()),
            headers: Vec::new(),
            query_params: Vec::new(),
            method: None,
        },
        filters: rule.filters.iter().filter(|filter| !matches!(filter, Filter::Mirror(_))).cloned().collect(),
        mirrors: mirrors(rule).filter_map(|mirror| references::backend(route, mirror, reader).ok()).collect(),
        backends: rule.backends.iter().map(|backend| backend_plan(route, backend, reader)).collect(),
        request_timeout: rule.request_timeout,
        backend_request_timeout: rule.backend_request_timeout,
    }
}

fn backend_plan(route: &ObjectRef, backend: &BackendRef, reader: &Reader) -> BackendPlan {
    let mut request_headers: Vec<HeaderChange> = Vec::new();
    let mut response_headers: Vec<HeaderChange> = Vec::new();
    for filter in &backend.filters {
        match filter {
            Filter::RequestHeaders(change) => request_headers.push(change.clone()),
            Filter::ResponseHeaders(change) => response_headers.push(change.clone()),
            // Not for single back ends; the manifest refuses them.
            Filter::Mirror(_) | Filter::Redirect(_) | Filter::Rewrite(_) => {}
        }
    }
    let target = references::backend(route, backend, reader).ok();
    BackendPlan { weight: backend.weight, request_headers, response_headers, target }
}

/// How a rule is called: its own name, or its place.
pub(crate) fn section(index: usize, rule: &RouteRule) -> String {
    rule.name.clone().unwrap_or_else(|| format!("rule-{index}"))
}

/// The back ends of a rule's mirrors.
pub(crate) fn mirrors(rule: &RouteRule) -> impl Iterator<Item = &BackendRef> {
    rule.filters.iter().filter_map(|filter| match filter {
        Filter::Mirror(mirror) => Some(&mirror.backend),
        _ => None,
    })
}

/// The backbone groups to which the routes of these listeners of a port send requests, mirrored ones included.
pub(crate) fn groups(port: &Port, serving: &[usize], reader: &Reader) -> BTreeSet<String> {
    let mut groups = BTreeSet::new();
    for bound in serving.iter().filter_map(|index| port.serving.get(*index)) {
        for Attached { route, spec, .. } in attached(bound, reader) {
            let backends = spec.rules.iter().flat_map(|rule| rule.backends.iter().chain(mirrors(rule)));
            let targets = backends.filter_map(|backend| references::backend(&route.reference, backend, reader).ok());
            groups.extend(targets.map(|target| target.group));
        }
    }
    groups
}

/// A stable hash of what a rule says: its fields in the order of their declaration.
fn contribution(rule: &RouteRule) -> u64 {
    let hash = blake3::hash(format!("{rule:?}").as_bytes());
    hash.as_bytes().iter().take(8).fold(0, |sum, byte| (sum << 8) | u64::from(*byte))
}

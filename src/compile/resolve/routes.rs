//! Virtual hosts: for each host name of a port its owner's routes, in Gateway API's order of precedence.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    catalog::Stored,
    compile::{
        plan::{BackendPlan, HostAnswer, RoutePlan, VirtualHostPlan},
        reader::Reader,
    },
    model::{BackendRef, Filter, HeaderChange, HttpRouteSpec, Listener, ObjectRef, PathMatch, RouteMatch, RouteRule},
};

use super::{
    attach, hostname,
    ports::{Bound, Port},
    references,
};

/// A route configuration before its hosts are looked at: which there are, and whose. One that holds many is compiled
/// host by host, each of which looks at its own routes alone.
#[derive(Debug)]
pub(crate) struct Table<'a> {
    port: Port<'a>,
    /// The listener of the TLS chain; the hosts of every other one are misdirected. `None`: those of all listeners.
    chain: Option<usize>,
    /// Each domain, with the place of the listener to which it belongs.
    pub(crate) domains: BTreeMap<String, usize>,
}

impl<'a> Table<'a> {
    pub(crate) fn new(port: Port<'a>, chain: Option<usize>, reader: &Reader<'a>) -> Self {
        let mut domains: BTreeMap<String, usize> = BTreeMap::new();
        for (index, bound) in port.serving.iter().enumerate() {
            domains.insert(bound.hostname().to_owned(), index);
            if chain.is_some_and(|only| only != index) {
                continue;
            }
            for name in attach::names(bound, reader) {
                // A more specific listener has its own answer for its hosts.
                if !domains.contains_key(name) && port.owner(name) == Some(index) {
                    domains.insert(name.to_owned(), index);
                }
            }
        }
        Self { port, chain, domains }
    }

    /// The listeners that answer, as far as a host depends on them.
    pub(crate) fn about(&self) -> (Vec<(Arc<ObjectRef>, Listener)>, Option<usize>) {
        let of = |bound: &Bound| (Arc::clone(&bound.gateway.reference), bound.listener.clone());
        (self.port.serving.iter().map(of).collect(), self.chain)
    }

    /// The virtual host of one of its domains.
    pub(crate) fn host(&self, domain: &str, owner: usize, reader: &Reader<'a>) -> VirtualHostPlan {
        let bound = self.port.serving.get(owner).filter(|_| self.chain.is_none_or(|only| only == owner));
        VirtualHostPlan {
            name: domain.to_owned(),
            domains: vec![domain.to_owned()],
            answer: bound.map_or(HostAnswer::Misdirected, |bound| HostAnswer::Routes(answer(bound, domain, reader))),
        }
    }

    /// All of them.
    pub(crate) fn hosts(&self, reader: &Reader<'a>) -> Vec<VirtualHostPlan> {
        self.domains.iter().map(|(domain, owner)| self.host(domain, *owner, reader)).collect()
    }
}

/// What a domain answers: the routes of its own host name by precedence, then those of each less specific one, to
/// which a request falls through (`HTTPRouteSpec.hostnames`: the most specific match goes first).
fn answer<'a>(bound: &Bound<'a>, domain: &str, reader: &Reader<'a>) -> Vec<RoutePlan> {
    let mut answered: BTreeSet<&ObjectRef> = BTreeSet::new();
    let mut answer = Vec::new();
    for name in hostname::widening(domain) {
        let routes = attach::attached_as(bound, &name, reader);
        let new = routes.into_values().filter(|(route, _)| answered.insert(&route.reference));
        let mut tier: Vec<_> = new.flat_map(|(route, spec)| plans(route, spec, reader)).collect();
        tier.sort_by(|(a, _), (b, _)| a.cmp(b));
        answer.extend(tier.into_iter().map(|(_, plan)| plan));
    }
    answer
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
fn plans<'a>(route: &'a Stored, spec: &HttpRouteSpec, reader: &Reader) -> Vec<(Precedence<'a>, RoutePlan)> {
    let mut plans = Vec::new();
    for (rule_index, rule) in spec.rules.iter().enumerate() {
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

/// The backbone groups to which hosts send requests, mirrored ones included; a share of nothing leads nowhere.
pub(crate) fn groups(hosts: &[VirtualHostPlan]) -> BTreeSet<String> {
    let routes = hosts.iter().flat_map(|host| match &host.answer {
        HostAnswer::Routes(routes) => routes.as_slice(),
        HostAnswer::Misdirected => &[],
    });
    routes.flat_map(RoutePlan::targets).map(|target| target.group.clone()).collect()
}

/// A stable hash of what a rule says: its fields in the order of their declaration.
fn contribution(rule: &RouteRule) -> u64 {
    let hash = blake3::hash(format!("{rule:?}").as_bytes());
    hash.as_bytes().iter().take(8).fold(0, |sum, byte| (sum << 8) | u64::from(*byte))
}

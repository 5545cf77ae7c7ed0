//! RDS at an edge: virtual hosts, each encoded alone, and their concatenation.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bytes::{BufMut, Bytes, BytesMut};
use envoy_types::pb::{
    envoy::{
        config::{
            common::mutation_rules::v3::{HeaderMutation, header_mutation::Action as Mutation},
            core::v3::{RoutingPriority, header_value_option::HeaderAppendAction},
            route::v3::{
                DirectResponseAction, QueryParameterMatcher, RedirectAction, RetryPolicy, Route, RouteAction,
                RouteConfiguration, RouteMatch, Vhds, VirtualHost, WeightedCluster,
                query_parameter_matcher::QueryParameterMatchSpecifier,
                redirect_action::{PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier},
                retry_policy::{RetryPriority, retry_priority},
                route::Action,
                route_action::{
                    ClusterNotFoundResponseCode, ClusterSpecifier, HostRewriteSpecifier, RequestMirrorPolicy,
                },
                route_match::PathSpecifier,
                weighted_cluster::ClusterWeight,
            },
        },
        extensions::retry::priority::previous_priorities::v3::PreviousPrioritiesConfig,
        r#type::matcher::v3::string_matcher::MatchPattern,
    },
    google::protobuf::UInt64Value,
};
use prost::{Message, encoding};

use super::{
    Contributions, Names, REFUSED_HEADER, SERVICE_HEADER, assemble, encode, finish,
    headers::HeaderOps,
    path::{Rewrite, replace_all, rewrite},
    sources::{Sources, metadata},
    wire::{MIB, ads, any, duration, header, header_is, header_present, number, regex, string},
};
use crate::{
    compile::plan::{BackendPlan, HostAnswer, RoutePlan, ServiceTarget, UNRESOLVED, VirtualHostPlan},
    model::{Filter, HeaderMatch, ObjectRef, PathMatch, PathRewrite, RedirectFilter, StringMatch},
    xds::{Resource, ResourceType, ServiceNeed, Source},
};

/// The listener through which a virtual host is reached: redirects speak of its port and scheme.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The Gateway listener's port.
    pub port: u16,
    /// HTTPS.
    pub tls: bool,
}

impl Entry {
    fn scheme(self) -> &'static str {
        if self.tls { "https" } else { "http" }
    }
}

/// A virtual host, compiled and encoded alone: equal ones are kept once, and one edit costs one of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualHostBytes {
    /// Its name.
    pub name: Arc<str>,
    /// The canonical bytes of the `envoy.config.route.v3.VirtualHost`.
    pub bytes: Bytes,
    /// Clusters of the groups that it names, sorted; never [`UNRESOLVED`].
    pub requires: Vec<(ResourceType, Arc<str>)>,
    /// Routes and Services, sorted.
    pub sources: Vec<Source>,
    /// The services that it names, sorted.
    pub services: Vec<ServiceNeed>,
    /// The groups of all its back ends, those without a share of traffic included.
    pub groups: BTreeSet<Arc<str>>,
}

/// Envoy's name of what [`VirtualHostBytes::bytes`] are.
pub const VIRTUAL_HOST: &str = "envoy.config.route.v3.VirtualHost";

/// The fields of a route configuration that come after the hosts in the order of their numbers.
fn settings() -> RouteConfiguration {
    RouteConfiguration {
        // A retried refusal is the edge's own affair.
        response_headers_to_remove: vec![REFUSED_HEADER.to_owned()],
        // Clients that name the port mean the same host (RFC 9110 7.2).
        ignore_port_in_host_matching: true,
        ..Default::default()
    }
}

/// The route configuration `name`: its hosts' bytes, one after another (fields of a message may be concatenated).
pub fn route_configuration<'a>(name: &str, hosts: impl Iterator<Item = &'a VirtualHostBytes> + Clone) -> Resource {
    let head = RouteConfiguration { name: name.to_owned(), ..Default::default() }.encode_to_vec();
    let tail = settings().encode_to_vec();
    let size: usize = hosts.clone().map(|host| host.bytes.len() + 8).sum();
    let mut payload = BytesMut::with_capacity(head.len() + size + tail.len());
    payload.put_slice(&head);
    let mut requires = Names::new();
    let mut sources = Sources::default();
    let mut services = Services::default();
    for host in hosts {
        encoding::encode_key(2, encoding::WireType::LengthDelimited, &mut payload);
        encoding::encode_varint(host.bytes.len() as u64, &mut payload);
        payload.put_slice(&host.bytes);
        requires.extend(host.requires.iter().cloned());
        host.services.iter().for_each(|need| services.add(need.clone()));
        for source in &host.sources {
            sources.add(&source.object, &source.contribution.to_be_bytes());
        }
    }
    payload.put_slice(&tail);
    let sources = Contributions::Each(sources.finish());
    let route = assemble(ResourceType::Route, name, payload.freeze(), Names::new(), requires, sources);
    Resource { services: services.finish(), ..route }
}

/// The route configuration `name`, whose hosts come by themselves ([`streamed_host`]). It requires what they require,
/// so that whoever looks at a listener needs not look at each host.
pub fn streamed_route_configuration<'a>(
    name: &str,
    requires: impl Iterator<Item = &'a (ResourceType, Arc<str>)>,
) -> Resource {
    let vhds = Vhds { config_source: Some(ads()) };
    let message = RouteConfiguration { name: name.to_owned(), vhds: Some(vhds), ..settings() };
    finish(ResourceType::Route, name, &message, Names::new(), requires.cloned().collect(), Contributions::Whole(&[]))
}

/// A virtual host as a resource of its own; its name is `<route configuration>/<domain>`.
pub fn streamed_host(host: &VirtualHostBytes) -> Resource {
    let sources = Contributions::Each(host.sources.clone());
    let (bytes, requires) = (host.bytes.clone(), host.requires.clone());
    let resource = assemble(ResourceType::VirtualHost, &host.name, bytes, Names::new(), requires, sources);
    Resource { services: host.services.clone(), ..resource }
}

/// Collects services, each once in a group. What the same one needs at a site is the same everywhere but in hosts that
/// were encoded earlier; the newest counts.
#[derive(Default)]
struct Services(BTreeMap<(Arc<str>, Arc<str>), ServiceNeed>);

impl Services {
    fn add(&mut self, need: ServiceNeed) {
        let key = (Arc::clone(&need.service), Arc::clone(&need.group));
        let known = self.0.entry(key).or_insert_with(|| need.clone());
        for (known, new) in known.sites.iter_mut().zip(need.sites) {
            known.revision = known.revision.max(new.revision);
        }
    }

    fn finish(self) -> Vec<ServiceNeed> {
        self.0.into_values().collect()
    }
}

/// One virtual host.
pub fn virtual_host(plan: &VirtualHostPlan, entry: Entry) -> VirtualHostBytes {
    let mut requires = Names::new();
    let mut sources = Sources::default();
    let mut services = Services::default();
    let mut groups = BTreeSet::new();
    let mut objects: Vec<&ObjectRef> = Vec::new();
    let routes = match &plan.answer {
        HostAnswer::Misdirected => vec![misdirected()],
        HostAnswer::Routes(routes) => {
            for route in routes {
                sources.add(&route.source, &route.contribution.to_be_bytes());
                objects.push(&route.source);
                let all = route.backends.iter().filter_map(|b| b.target.as_ref()).chain(&route.mirrors);
                groups.extend(all.map(|target| Arc::from(target.group.as_str())));
                for target in targets(route) {
                    requires.push((ResourceType::Cluster, target.group.as_str().into()));
                    sources.add(&target.source, &contribution(target));
                    services.add(ServiceNeed {
                        service: target.service.as_str().into(),
                        group: target.group.as_str().into(),
                        sites: target.sites.clone(),
                    });
                }
            }
            let alone = exact_domain(plan);
            routes.iter().map(|r| route(r, entry, alone)).collect()
        }
    };
    objects.sort();
    objects.dedup();
    requires.sort();
    requires.dedup();
    let message = VirtualHost {
        name: plan.name.clone(),
        domains: plan.domains.clone(),
        routes,
        metadata: metadata(objects.into_iter().map(|o| (o, ""))),
        ..Default::default()
    };
    VirtualHostBytes {
        name: plan.name.as_str().into(),
        bytes: encode(&message),
        requires,
        sources: sources.finish(),
        services: services.finish(),
        groups,
    }
}

/// The one domain of the host, if it is a name and not a pattern.
fn exact_domain(plan: &VirtualHostPlan) -> Option<&str> {
    match plan.domains.as_slice() {
        [domain] if !domain.contains('*') => Some(domain),
        _ => None,
    }
}

fn targets(route: &RoutePlan) -> impl Iterator<Item = &ServiceTarget> {
    let backends = route.backends.iter().filter(|b| b.weight > 0).filter_map(|b| b.target.as_ref());
    backends.chain(&route.mirrors)
}

/// What a Service says on the edge's routes.
fn contribution(target: &ServiceTarget) -> Vec<u8> {
    let mut part = Vec::new();
    for text in [&target.service, &target.group] {
        part.extend_from_slice(text.as_bytes());
        part.push(0);
    }
    part.push(u8::from(target.traffic_class.interactive()));
    part.extend_from_slice(&service_timeout(target).as_nanos().to_be_bytes());
    part.extend_from_slice(&target.traffic_class.idle_timeout().as_nanos().to_be_bytes());
    part
}

/// The host is another HTTPS listener's of this port: a client that reused its connection shall open a new one
/// (RFC 9110 15.5.20).
fn misdirected() -> Route {
    Route {
        name: "misdirected".to_owned(),
        r#match: Some(RouteMatch { path_specifier: Some(PathSpecifier::Prefix("/".to_owned())), ..Default::default() }),
        action: Some(direct(421)),
        ..Default::default()
    }
}

fn direct(status: u32) -> Action {
    Action::DirectResponse(DirectResponseAction { status, ..Default::default() })
}

fn route(plan: &RoutePlan, entry: Entry, alone: Option<&str>) -> Route {
    let redirect = plan.filters.iter().find_map(|f| match f {
        Filter::Redirect(redirect) => Some(redirect),
        _ => None,
    });
    // A rule's response headers stand on its entries; an answer of the edge itself has none.
    let own_answer = |action| {
        let (response_headers_to_add, response_headers_to_remove) = response_headers(plan).finish();
        Route { action: Some(action), response_headers_to_add, response_headers_to_remove, ..Default::default() }
    };
    let answer = match redirect {
        Some(redirect) => own_answer(Action::Redirect(redirection(redirect, &plan.matching.path, entry, alone))),
        None if plan.backends.is_empty() => own_answer(direct(500)),
        None => Route {
            action: Some(Action::Route(forward(plan))),
            // So much can be sent again to the next core after a refusal.
            request_body_buffer_limit: Some(UInt64Value { value: u64::from(MIB) }),
            ..Default::default()
        },
    };
    Route {
        name: format!("{}/{}/{}", plan.source.namespace, plan.source.name, plan.section),
        r#match: Some(matching(plan)),
        metadata: metadata([(&plan.source, plan.section.as_str())]),
        ..answer
    }
}

fn pattern(value: &StringMatch) -> MatchPattern {
    match value {
        StringMatch::Exact(text) => MatchPattern::Exact(text.clone()),
        StringMatch::Regex(text) => MatchPattern::SafeRegex(regex(text)),
    }
}

fn matching(plan: &RoutePlan) -> RouteMatch {
    let path = match &plan.matching.path {
        PathMatch::Exact(path) => PathSpecifier::Path(path.clone()),
        PathMatch::Prefix(prefix) => match prefix.trim_end_matches('/') {
            "" => PathSpecifier::Prefix("/".to_owned()),
            prefix => PathSpecifier::PathSeparatedPrefix(prefix.to_owned()),
        },
        PathMatch::Regex(pattern) => PathSpecifier::SafeRegex(regex(pattern)),
    };
    let method = plan.matching.method.iter().map(|m| header_is(":method", MatchPattern::Exact(m.clone())));
    let query = |q: &HeaderMatch| QueryParameterMatcher {
        name: q.name.clone(),
        query_parameter_match_specifier: Some(QueryParameterMatchSpecifier::StringMatch(string(pattern(&q.value)))),
    };
    RouteMatch {
        path_specifier: Some(path),
        headers: method.chain(plan.matching.headers.iter().map(|h| header_is(&h.name, pattern(&h.value)))).collect(),
        query_parameters: plan.matching.query_params.iter().map(query).collect(),
        ..Default::default()
    }
}

/// Gateway API, `HTTPRequestRedirectFilter`: without a port, the one that the named scheme implies, else the
/// listener's; `http` with 80 and `https` with 443 show none.
fn redirection(filter: &RedirectFilter, path: &PathMatch, entry: Entry, alone: Option<&str>) -> RedirectAction {
    let well_known = |scheme: &str| if scheme == "https" { 443 } else { 80 };
    let scheme = filter.scheme.as_deref().unwrap_or(entry.scheme());
    let implied = filter.scheme.as_deref().map_or(entry.port, well_known);
    let port = filter.port.unwrap_or(implied);
    let hidden = port == well_known(scheme);
    // Envoy keeps the port that the client wrote unless it is told another host or port.
    let asked_with_port = entry.port != well_known(entry.scheme());
    let host = filter.hostname.as_deref().or(if hidden && asked_with_port { alone } else { None });
    let shown = !hidden || (asked_with_port && host.is_none());
    let path_rewrite_specifier = filter.path.as_ref().and_then(|to| match rewrite(to, path) {
        Rewrite::None => None,
        Rewrite::Full(path) => Some(PathRewriteSpecifier::PathRedirect(path)),
        Rewrite::Prefix(prefix) => Some(PathRewriteSpecifier::PrefixRewrite(prefix)),
        Rewrite::Regex(regex) => Some(PathRewriteSpecifier::RegexRewrite(regex)),
    });
    let code = match filter.status_code {
        301 => RedirectResponseCode::MovedPermanently,
        303 => RedirectResponseCode::SeeOther,
        307 => RedirectResponseCode::TemporaryRedirect,
        308 => RedirectResponseCode::PermanentRedirect,
        _ => RedirectResponseCode::Found,
    };
    RedirectAction {
        scheme_rewrite_specifier: filter.scheme.clone().map(SchemeRewriteSpecifier::SchemeRedirect),
        host_redirect: host.unwrap_or_default().to_owned(),
        port_redirect: if shown { u32::from(port) } else { 0 },
        path_rewrite_specifier,
        response_code: code as i32,
        ..Default::default()
    }
}

fn response_headers(plan: &RoutePlan) -> HeaderOps {
    let mut ops = HeaderOps::default();
    for filter in &plan.filters {
        if let Filter::ResponseHeaders(change) = filter {
            ops.apply(change);
        }
    }
    ops
}

fn forward(plan: &RoutePlan) -> RouteAction {
    let entries = weighted(plan);
    let unresolved = entries.iter().any(|e| e.name == UNRESOLVED);
    let services: Vec<&ServiceTarget> = plan.backends.iter().filter_map(|b| b.target.as_ref()).collect();
    let timeout = plan.request_timeout.unwrap_or_else(|| longest(&services));
    let class_idle = services.iter().map(|s| s.traffic_class.idle_timeout()).max();
    let interactive = !services.is_empty() && services.iter().all(|s| s.traffic_class.interactive());
    let mut action = RouteAction {
        cluster_specifier: Some(ClusterSpecifier::WeightedClusters(WeightedCluster {
            clusters: entries,
            ..Default::default()
        })),
        // Only where it is meant: a group that is missing for a moment is a 503.
        cluster_not_found_response_code: if unresolved {
            ClusterNotFoundResponseCode::InternalServerError as i32
        } else {
            ClusterNotFoundResponseCode::ServiceUnavailable as i32
        },
        timeout: Some(duration(timeout)),
        // A request that may take long may be silent as long.
        idle_timeout: class_idle.map(|idle| duration(idle.max(timeout))),
        retry_policy: Some(retries(plan.backend_request_timeout)),
        request_mirror_policies: plan.mirrors.iter().map(mirror).collect(),
        priority: if interactive { RoutingPriority::High as i32 } else { RoutingPriority::Default as i32 },
        ..Default::default()
    };
    for filter in &plan.filters {
        let Filter::Rewrite(change) = filter else { continue };
        if let Some(host) = &change.hostname {
            action.host_rewrite_specifier = Some(HostRewriteSpecifier::HostRewriteLiteral(host.clone()));
        }
        match change.path.as_ref().map(|to: &PathRewrite| rewrite(to, &plan.matching.path)) {
            None | Some(Rewrite::None) => {}
            Some(Rewrite::Full(path)) => action.regex_rewrite = Some(replace_all(&path)),
            Some(Rewrite::Prefix(prefix)) => action.prefix_rewrite = prefix,
            Some(Rewrite::Regex(regex)) => action.regex_rewrite = Some(regex),
        }
    }
    action
}

fn service_timeout(target: &ServiceTarget) -> Duration {
    target.request_timeout.unwrap_or_else(|| target.traffic_class.request_timeout())
}

/// The longest of the services' time-outs; zero is none and thus longer than any.
fn longest(services: &[&ServiceTarget]) -> Duration {
    let timeouts = || services.iter().map(|s| service_timeout(s));
    if timeouts().any(|t| t.is_zero()) { Duration::ZERO } else { timeouts().max().unwrap_or_default() }
}

/// The weighted entries: Envoy applies a route's header changes after those of its entries (O37), so all of a rule's
/// stand on each entry, and the service last.
fn weighted(plan: &RoutePlan) -> Vec<ClusterWeight> {
    let lost =
        |weight: u32| ClusterWeight { name: UNRESOLVED.to_owned(), weight: number(weight), ..Default::default() };
    let entries: Vec<ClusterWeight> = plan
        .backends
        .iter()
        .filter(|b| b.weight > 0)
        .map(|backend| match &backend.target {
            Some(target) => weighted_entry(plan, backend, target),
            None => lost(backend.weight),
        })
        .collect();
    // Envoy refuses a sum of zero (O30); the Gateway API wants 500.
    if entries.is_empty() { vec![lost(1)] } else { entries }
}

fn weighted_entry(plan: &RoutePlan, backend: &BackendPlan, target: &ServiceTarget) -> ClusterWeight {
    let mut request = HeaderOps::default();
    let mut response = response_headers(plan);
    for filter in &plan.filters {
        if let Filter::RequestHeaders(change) = filter {
            request.apply(change);
        }
    }
    backend.request_headers.iter().for_each(|change| request.apply(change));
    backend.response_headers.iter().for_each(|change| response.apply(change));
    request.set(SERVICE_HEADER, &target.service);
    let (request_headers_to_add, request_headers_to_remove) = request.finish();
    let (response_headers_to_add, response_headers_to_remove) = response.finish();
    ClusterWeight {
        name: target.group.clone(),
        weight: number(backend.weight),
        request_headers_to_add,
        request_headers_to_remove,
        response_headers_to_add,
        response_headers_to_remove,
        ..Default::default()
    }
}

/// A copy to another service: it carries the rule's headers (O22), so its own service overwrites theirs.
fn mirror(target: &ServiceTarget) -> RequestMirrorPolicy {
    let service = header(SERVICE_HEADER, &target.service, HeaderAppendAction::OverwriteIfExistsOrAdd);
    RequestMirrorPolicy {
        cluster: target.group.clone(),
        disable_shadow_host_suffix_append: true,
        request_headers_mutations: vec![HeaderMutation { action: Some(Mutation::Append(service)) }],
        ..Default::default()
    }
}

/// Once, where nothing was sent: no connection, a refused stream, or a core that says so; then at the next priority
/// (O33, O34).
fn retries(per_try: Option<Duration>) -> RetryPolicy {
    RetryPolicy {
        retry_on: "connect-failure,refused-stream,reset-before-request,retriable-headers".to_owned(),
        num_retries: number(1),
        per_try_timeout: per_try.filter(|t| !t.is_zero()).map(duration),
        retry_priority: Some(RetryPriority {
            name: "envoy.retry_priorities.previous_priorities".to_owned(),
            config_type: Some(retry_priority::ConfigType::TypedConfig(any(&PreviousPrioritiesConfig {
                update_frequency: 1,
            }))),
        }),
        retriable_headers: vec![header_present(REFUSED_HEADER)],
        ..Default::default()
    }
}

//! Claims about virtual hosts and their routes.

use envoy_types::pb::envoy::config::{
    core::v3::RoutingPriority,
    route::v3::{
        RedirectAction, Route, RouteAction, VirtualHost, WeightedCluster, redirect_action::PathRewriteSpecifier,
        route::Action, route_action::ClusterSpecifier, route_match::PathSpecifier,
    },
};

use super::*;
use crate::{
    compile::plan::UNRESOLVED,
    model::{HeaderChange, HeaderMatch, PathRewrite, RedirectFilter, RewriteFilter, StringMatch},
};

fn prefix(path: &str) -> PathMatch {
    PathMatch::Prefix(path.into())
}

fn web(weight: u32) -> BackendPlan {
    backend(weight, Some(target("web", TrafficClass::Web)))
}

fn change(set: &[(&str, &str)], remove: &[&str]) -> HeaderChange {
    HeaderChange {
        set: set.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect(),
        remove: remove.iter().map(|n| (*n).into()).collect(),
        ..Default::default()
    }
}

fn redirect(scheme: Option<&str>, hostname: Option<&str>, port: Option<u16>) -> RedirectFilter {
    let (scheme, hostname) = (scheme.map(Into::into), hostname.map(Into::into));
    RedirectFilter { scheme, hostname, path: None, port, status_code: 302 }
}

pub(super) fn misdirected() -> VirtualHostPlan {
    VirtualHostPlan { answer: HostAnswer::Misdirected, ..host("other.example", Vec::new()) }
}

/// A host with a rule for each feature.
pub(super) fn every_feature() -> VirtualHostPlan {
    let mut matches = rule(prefix("/match"), Vec::new(), vec![web(1)]);
    matches.matching.method = Some("POST".into());
    matches.matching.headers =
        vec![HeaderMatch { name: "x-version".into(), value: StringMatch::Regex("v[0-9]+".into()) }];
    matches.matching.query_params = vec![HeaderMatch { name: "debug".into(), value: StringMatch::Exact("1".into()) }];
    let headers = vec![
        Filter::RequestHeaders(change(&[("x-a", "100%"), ("x-b", "1")], &["x-c"])),
        Filter::ResponseHeaders(change(&[("x-r", "1")], &["server"])),
    ];
    let mut changed = rule(prefix("/headers"), headers, vec![web(1), backend(3, None)]);
    changed.backends[0].request_headers = vec![change(&[], &["x-b"])];
    let mut mirrored = rule(PathMatch::Exact("/mirror".into()), Vec::new(), vec![web(1)]);
    mirrored.mirrors = vec![target("copy", TrafficClass::Live)];
    let to_https = Filter::Redirect(RedirectFilter { status_code: 301, ..redirect(Some("https"), None, None) });
    let path = Some(PathRewrite::Prefix("/".into()));
    let rewritten = Filter::Rewrite(RewriteFilter { hostname: Some("inner.example".into()), path });
    let mut timed = rule(PathMatch::Regex("/t[0-9]+".into()), Vec::new(), vec![web(1)]);
    timed.request_timeout = Some(Duration::from_secs(2));
    timed.backend_request_timeout = Some(Duration::from_millis(500));
    let api = backend(1, Some(target("api", TrafficClass::Api)));
    let rules = vec![
        matches,
        changed,
        mirrored,
        rule(prefix("/secure"), vec![to_https], Vec::new()),
        rule(prefix("/strip"), vec![rewritten], vec![web(1)]),
        timed,
        rule(prefix("/api"), Vec::new(), vec![api]),
        rule(prefix("/nothing"), Vec::new(), Vec::new()),
        rule(prefix("/"), Vec::new(), vec![web(1)]),
    ];
    host("shop.example", rules)
}

const PLAIN: Entry = Entry { port: 80, tls: false };

fn compiled(plan: RoutePlan) -> Route {
    let host = virtual_host(&host("shop.example", vec![plan]), PLAIN);
    VirtualHost::decode(host.bytes).unwrap().routes.remove(0)
}

fn forwarded(plan: RoutePlan) -> RouteAction {
    match compiled(plan).action {
        Some(Action::Route(action)) => action,
        other => panic!("a forwarding route is expected, not {other:?}"),
    }
}

fn weights(action: &RouteAction) -> &WeightedCluster {
    match &action.cluster_specifier {
        Some(ClusterSpecifier::WeightedClusters(weighted)) => weighted,
        other => panic!("weighted clusters are expected, not {other:?}"),
    }
}

fn shown(action: &RouteAction) -> Vec<(&str, u32)> {
    weights(action).clusters.iter().map(|c| (c.name.as_str(), c.weight.as_ref().unwrap().value)).collect()
}

#[test]
fn an_invalid_reference_takes_its_share_to_the_reserved_cluster_and_500() {
    let action = forwarded(rule(prefix("/"), Vec::new(), vec![web(1), backend(3, None)]));
    assert_eq!(shown(&action), [(GROUP, 1), (UNRESOLVED, 3)]);
    assert_eq!(action.cluster_not_found_response_code, 2);
    let valid = forwarded(rule(prefix("/"), Vec::new(), vec![web(1)]));
    assert_eq!(valid.cluster_not_found_response_code, 0, "a group that is missing for a moment is a 503");
}

#[test]
fn weights_that_are_all_zero_have_a_sum_that_envoy_takes() {
    let action = forwarded(rule(prefix("/"), Vec::new(), vec![web(0), web(0)]));
    assert_eq!(shown(&action), [(UNRESOLVED, 1)]);
}

#[test]
fn the_reserved_cluster_is_never_required() {
    let plan = host("a", vec![rule(prefix("/"), Vec::new(), vec![web(0), backend(1, None)])]);
    assert_eq!(virtual_host(&plan, PLAIN).requires, []);
}

#[test]
fn a_rule_without_back_ends_answers_500() {
    let Some(Action::DirectResponse(answer)) = compiled(rule(prefix("/"), Vec::new(), Vec::new())).action else {
        panic!("a direct response is expected");
    };
    assert_eq!(answer.status, 500);
}

#[test]
fn the_service_header_is_written_last_and_by_the_entry_alone() {
    let forged = Filter::RequestHeaders(change(&[(SERVICE_HEADER, "other/secret:80")], &[]));
    let mut plan = rule(prefix("/"), vec![forged.clone()], vec![web(1)]);
    let Filter::RequestHeaders(of_backend) = forged else { panic!("a header filter") };
    plan.backends[0].request_headers = vec![of_backend];
    let route = compiled(plan.clone());
    assert!(route.request_headers_to_add.is_empty(), "it would come after the entry's");
    let action = forwarded(plan);
    let added = &weights(&action).clusters[0].request_headers_to_add;
    let named: Vec<_> = added.iter().filter(|o| o.header.as_ref().unwrap().key == SERVICE_HEADER).collect();
    assert_eq!(named.len(), 1);
    assert_eq!(named[0], added.last().unwrap());
    assert_eq!((named[0].header.as_ref().unwrap().value.as_str(), named[0].append_action), ("shop/web:80", 2));
}

#[test]
fn a_mirror_carries_its_own_service_and_keeps_the_host() {
    let mut plan = rule(prefix("/"), Vec::new(), vec![web(1)]);
    plan.mirrors = vec![target("copy", TrafficClass::Web)];
    let action = forwarded(plan);
    let policy = &action.request_mirror_policies[0];
    assert!(policy.disable_shadow_host_suffix_append);
    let json = format!("{:?}", policy.request_headers_mutations);
    assert!(json.contains("shop/copy:80") && json.contains("append_action: OverwriteIfExistsOrAdd"), "{json}");
}

#[test]
fn a_path_prefix_matches_by_segment() {
    let of = |path| compiled(rule(path, Vec::new(), vec![web(1)])).r#match.unwrap().path_specifier.unwrap();
    assert_eq!(of(prefix("/foo")), PathSpecifier::PathSeparatedPrefix("/foo".into()));
    assert_eq!(of(prefix("/foo/")), PathSpecifier::PathSeparatedPrefix("/foo".into()));
    assert_eq!(of(prefix("/")), PathSpecifier::Prefix("/".into()));
    assert_eq!(of(PathMatch::Exact("/foo".into())), PathSpecifier::Path("/foo".into()));
}

#[test]
fn only_rules_of_interactive_services_alone_ride_high() {
    let of = |classes: &[TrafficClass]| {
        let backends = classes.iter().map(|c| backend(1, Some(target("s", *c)))).collect();
        forwarded(rule(prefix("/"), Vec::new(), backends)).priority == RoutingPriority::High as i32
    };
    assert!(of(&[TrafficClass::Api, TrafficClass::Rtc]));
    assert!(!of(&[TrafficClass::Api, TrafficClass::Web]));
    assert!(!of(&[TrafficClass::Download]));
}

#[test]
fn a_rule_over_several_services_takes_the_longest_time_outs() {
    let of = |classes: &[TrafficClass], own: Option<u64>| {
        let backends = classes.iter().map(|c| backend(1, Some(target("s", *c)))).collect();
        let mut plan = rule(prefix("/"), Vec::new(), backends);
        plan.request_timeout = own.map(Duration::from_secs);
        let action = forwarded(plan);
        (action.timeout.unwrap().seconds, action.idle_timeout.unwrap().seconds)
    };
    assert_eq!(of(&[TrafficClass::Api, TrafficClass::Web], None), (60, 60));
    assert_eq!(of(&[TrafficClass::Api, TrafficClass::Download], None), (0, 300), "none is longer than any");
    assert_eq!(of(&[TrafficClass::Web], Some(5)), (5, 60), "the rule's own counts");
    assert_eq!(of(&[TrafficClass::Api], Some(100)), (100, 100), "it may be silent as long as it may take");
    assert_eq!(of(&[TrafficClass::Api], Some(0)), (0, 15), "zero is none");
}

fn redirected(filter: RedirectFilter, domain: &str, entry: Entry) -> RedirectAction {
    let plan = host(domain, vec![rule(prefix("/foo"), vec![Filter::Redirect(filter)], Vec::new())]);
    let host = VirtualHost::decode(virtual_host(&plan, entry).bytes).unwrap();
    match host.routes.into_iter().next().unwrap().action {
        Some(Action::Redirect(action)) => action,
        other => panic!("a redirect is expected, not {other:?}"),
    }
}

#[test]
fn a_redirect_speaks_of_the_port_that_the_gateway_api_means() {
    let odd = Entry { port: 8080, tls: false };
    let tls = Entry { port: 443, tls: true };
    for (filter, domain, entry, host, port) in [
        (redirect(Some("https"), None, None), "a.example", PLAIN, "", 0),
        (redirect(Some("https"), None, None), "a.example", odd, "a.example", 0),
        (redirect(Some("https"), None, None), "*.example", odd, "", 443),
        (redirect(Some("https"), Some("b.example"), None), "*.example", odd, "b.example", 0),
        (redirect(None, Some("b.example"), None), "a.example", odd, "b.example", 8080),
        (redirect(None, Some("b.example"), None), "a.example", tls, "b.example", 0),
        (redirect(None, None, Some(8443)), "a.example", tls, "", 8443),
        (redirect(Some("http"), None, Some(80)), "a.example", tls, "", 0),
        (redirect(Some("http"), None, Some(443)), "a.example", tls, "", 443),
    ] {
        let action = redirected(filter.clone(), domain, entry);
        assert_eq!(
            (action.host_redirect.as_str(), action.port_redirect),
            (host, port),
            "{filter:?} {domain} {entry:?}"
        );
    }
}

#[test]
fn a_redirect_by_prefix_leaves_no_double_slash() {
    let path = Some(PathRewrite::Prefix("/".into()));
    let action = redirected(RedirectFilter { path, ..redirect(None, None, None) }, "a.example", PLAIN);
    let Some(PathRewriteSpecifier::RegexRewrite(regex)) = action.path_rewrite_specifier else {
        panic!("a pattern is expected");
    };
    assert_eq!((regex.pattern.unwrap().regex.as_str(), regex.substitution.as_str()), ("^/foo/*", "/"));
}

#[test]
fn a_changed_rule_changes_the_contribution_of_its_route_alone() {
    let of = |contribution| {
        let plan = RoutePlan { contribution, ..rule(prefix("/"), Vec::new(), vec![web(1)]) };
        virtual_host(&host("a", vec![plan]), PLAIN).sources
    };
    let (before, after) = (of(1), of(2));
    let changed: Vec<_> = before.iter().zip(&after).filter(|(a, b)| a != b).map(|(a, _)| a.object.kind).collect();
    assert_eq!(changed, [Kind::HttpRoute]);
    assert_eq!(before.len(), 2, "the route and its service");
}

#[test]
fn metadata_names_the_route_and_its_section() {
    let route = compiled(rule(prefix("/"), Vec::new(), vec![web(1)]));
    let shown = format!("{:?}", route.metadata.unwrap());
    for part in ["tidegate.dev", "HTTPRoute", "shop", "web", "rule-0"] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
}

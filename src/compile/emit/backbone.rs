//! LDS and RDS at a core: one listener for edges, one route that follows the service header. It adds nothing to what
//! the edge's route says.

use envoy_types::pb::envoy::{
    config::{
        accesslog::v3::{AccessLogFilter, ResponseFlagFilter, access_log_filter::FilterSpecifier},
        core::v3::{header_value_option::HeaderAppendAction, http_protocol_options::HeadersWithUnderscoresAction},
        listener::v3::{FilterChain, Listener},
        route::v3::{
            Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost,
            route::Action,
            route_action::{ClusterNotFoundResponseCode, ClusterSpecifier},
            route_match::PathSpecifier,
        },
    },
    extensions::filters::{
        http::health_check::v3::HealthCheck,
        network::http_connection_manager::v3::{
            HttpConnectionManager, LocalReplyConfig, ResponseMapper,
            http_connection_manager::{
                CodecType, InternalAddressConfig, PathWithEscapedSlashesAction, ServerHeaderTransformation,
            },
        },
    },
    r#type::matcher::v3::string_matcher::MatchPattern,
};

use super::{
    BACKBONE, Contributions, HEALTH_PATH, REFUSED_HEADER, SERVICE_HEADER, finish,
    http::{BACKBONE_HEADERS, backbone_http2, common, http_filter, network_filter, rds, router},
    tls,
    wire::{MIB, address, duration, header, header_absent, header_is, no, number, regex, yes},
};
use crate::{
    compile::plan::CoreListenerPlan,
    xds::{Resource, ResourceType},
};

/// Values of the service header; anything else could name the proxy's own clusters (O38).
const SERVICE_NAME: &str = "[a-z0-9-]+/[a-z0-9.-]+:[0-9]+";

/// Flags of requests that no back end has seen: no cluster, no healthy host, connection failed, circuit breaker (O34).
const REFUSALS: [&str; 4] = ["NC", "UH", "UF", "UO"];

/// What an Envoy acts on, or would show to clients, and only Envoys may say; one back end's
/// `x-envoy-immediate-health-check-fail` failed its gateway for all services (O39).
const ENVOY_RESPONSE_HEADERS: [&str; 13] = [
    "x-envoy-attempt-count",
    "x-envoy-decorator-operation",
    "x-envoy-degraded",
    "x-envoy-immediate-health-check-fail",
    "x-envoy-is-timeout-retry",
    "x-envoy-local-overloaded",
    "x-envoy-overloaded",
    "x-envoy-protocol-version",
    "x-envoy-ratelimited",
    "x-envoy-retriable-status-codes",
    "x-envoy-upstream-canary",
    "x-envoy-upstream-healthchecked-cluster",
    "x-envoy-upstream-service-time",
];

/// The listener of a core site's gateways: mutual TLS, edges only, HTTP/2.
pub fn core_listener(plan: &CoreListenerPlan) -> Resource {
    let message = Listener {
        name: BACKBONE.to_owned(),
        address: Some(address(plan.bind, plan.port)),
        stat_prefix: BACKBONE.to_owned(),
        filter_chains: vec![FilterChain {
            name: BACKBONE.to_owned(),
            filters: vec![network_filter(&manager())],
            transport_socket: Some(tls::backbone_server(&plan.trust_domain)),
            transport_socket_connect_timeout: Some(duration(std::time::Duration::from_secs(10))),
            ..Default::default()
        }],
        per_connection_buffer_limit_bytes: number(MIB),
        ..Default::default()
    };
    let requires = vec![(ResourceType::Route, BACKBONE.into())];
    let sources = Contributions::Whole(std::slice::from_ref(&plan.source));
    finish(ResourceType::Listener, BACKBONE, &message, Vec::new(), requires, sources)
}

fn manager() -> HttpConnectionManager {
    HttpConnectionManager {
        codec_type: CodecType::Http2 as i32,
        stat_prefix: BACKBONE.to_owned(),
        route_specifier: Some(rds(BACKBONE)),
        http_filters: vec![http_filter("envoy.filters.http.health_check", &health_check()), router()],
        // Longer than the edges': the end that opens connections closes them.
        common_http_protocol_options: Some(common(BACKBONE_HEADERS, 7200, HeadersWithUnderscoresAction::Allow)),
        http2_protocol_options: Some(backbone_http2()),
        max_request_headers_kb: number(BACKBONE_HEADERS.1),
        stream_idle_timeout: Some(duration(std::time::Duration::ZERO)),
        use_remote_address: yes(),
        xff_num_trusted_hops: 1,
        internal_address_config: Some(InternalAddressConfig::default()),
        preserve_external_request_id: true,
        normalize_path: no(),
        path_with_escaped_slashes_action: PathWithEscapedSlashesAction::KeepUnchanged as i32,
        server_header_transformation: ServerHeaderTransformation::PassThrough as i32,
        stream_error_on_invalid_http_message: yes(),
        local_reply_config: Some(refusals()),
        ..Default::default()
    }
}

/// Answers the edges' checks by itself; a user's request for the same path carries the service header.
fn health_check() -> HealthCheck {
    HealthCheck {
        pass_through_mode: no(),
        headers: vec![header_is(":path", MatchPattern::Exact(HEALTH_PATH.to_owned())), header_absent(SERVICE_HEADER)],
        ..Default::default()
    }
}

fn refusals() -> LocalReplyConfig {
    let flags = ResponseFlagFilter { flags: REFUSALS.map(str::to_owned).to_vec() };
    LocalReplyConfig {
        mappers: vec![ResponseMapper {
            filter: Some(AccessLogFilter { filter_specifier: Some(FilterSpecifier::ResponseFlagFilter(flags)) }),
            status_code: number(503),
            headers_to_add: vec![header(REFUSED_HEADER, "1", HeaderAppendAction::OverwriteIfExistsOrAdd)],
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// The one route of every core: the same bytes for all of them.
pub fn core_route_configuration() -> Resource {
    let zero = || Some(duration(std::time::Duration::ZERO));
    let mut hidden = vec![REFUSED_HEADER.to_owned()];
    hidden.extend(ENVOY_RESPONSE_HEADERS.map(str::to_owned));
    let route = Route {
        name: BACKBONE.to_owned(),
        r#match: Some(RouteMatch {
            path_specifier: Some(PathSpecifier::Prefix("/".to_owned())),
            headers: vec![header_is(SERVICE_HEADER, MatchPattern::SafeRegex(regex(SERVICE_NAME)))],
            ..Default::default()
        }),
        action: Some(Action::Route(RouteAction {
            cluster_specifier: Some(ClusterSpecifier::ClusterHeader(SERVICE_HEADER.to_owned())),
            cluster_not_found_response_code: ClusterNotFoundResponseCode::ServiceUnavailable as i32,
            timeout: zero(),
            idle_timeout: zero(),
            ..Default::default()
        })),
        request_headers_to_remove: vec![SERVICE_HEADER.to_owned()],
        response_headers_to_remove: hidden,
        ..Default::default()
    };
    let message = RouteConfiguration {
        name: BACKBONE.to_owned(),
        virtual_hosts: vec![VirtualHost {
            name: BACKBONE.to_owned(),
            domains: vec!["*".to_owned()],
            routes: vec![route],
            ..Default::default()
        }],
        ..Default::default()
    };
    finish(ResourceType::Route, BACKBONE, &message, Vec::new(), Vec::new(), Contributions::Whole(&[]))
}

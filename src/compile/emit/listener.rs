//! LDS at an edge: what clients meet, set as Envoy's page "configuring as an edge proxy" says.
//!
//! In a live listener only `filter_chains` may change (Envoy then updates in place): everything else is the same on
//! every port from the first day, and neither listener nor filter chain carries metadata.

use envoy_types::pb::envoy::{
    config::{
        common::mutation_rules::v3::{
            HeaderMutation,
            header_mutation::{Action, RemoveOnMatch},
        },
        core::v3::{TypedExtensionConfig, http_protocol_options::HeadersWithUnderscoresAction},
        listener::v3::{FilterChain, FilterChainMatch, Listener, ListenerFilter, listener_filter},
    },
    extensions::{
        filters::{
            listener::tls_inspector::v3::TlsInspector,
            network::http_connection_manager::v3::{
                HttpConnectionManager,
                http_connection_manager::{
                    CodecType, InternalAddressConfig, PathWithEscapedSlashesAction, ServerHeaderTransformation,
                },
            },
        },
        http::early_header_mutation::header_mutation::v3::HeaderMutation as EarlyHeaderMutation,
    },
    r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern},
};

use super::{
    Contributions, Names, finish,
    http::{OUTER_HEADERS, client_http2, common, network_filter, rds, router},
    tls,
    wire::{KIB, address, any, extension, number, seconds, yes},
};
use crate::{
    compile::plan::{ChainPlan, ListenerPlan, ListenerShape},
    xds::{Resource, ResourceType},
};

/// The listener of one (address, port). An HTTPS plan without chains gives one that Envoy refuses: leave it out.
pub fn edge_listener(plan: &ListenerPlan) -> Resource {
    let stat_prefix = plan.name.replace('/', "_");
    let mut children = Names::new();
    let mut requires = Names::new();
    let chains = match &plan.shape {
        ListenerShape::Http { route_configuration } => {
            requires.push((ResourceType::Route, route_configuration.as_str().into()));
            vec![FilterChain {
                name: "http".to_owned(),
                filters: vec![network_filter(&manager(&stat_prefix, route_configuration))],
                ..Default::default()
            }]
        }
        ListenerShape::Https { chains } => {
            for chain in chains {
                requires.push((ResourceType::Route, chain.route_configuration.as_str().into()));
                children.extend(chain.secrets.iter().map(|s| (ResourceType::Secret, s.as_str().into())));
            }
            chains.iter().map(|chain| tls_chain(&stat_prefix, chain)).collect()
        }
    };
    let message = Listener {
        name: plan.name.clone(),
        address: Some(address(plan.bind, plan.port)),
        stat_prefix,
        filter_chains: chains,
        listener_filters: vec![ListenerFilter {
            name: "envoy.filters.listener.tls_inspector".to_owned(),
            config_type: Some(listener_filter::ConfigType::TypedConfig(any(&TlsInspector::default()))),
            ..Default::default()
        }],
        per_connection_buffer_limit_bytes: number(32 * KIB),
        ..Default::default()
    };
    let sources = Contributions::Whole(&plan.sources);
    finish(ResourceType::Listener, &plan.name, &message, children, requires, sources)
}

fn tls_chain(stat_prefix: &str, chain: &ChainPlan) -> FilterChain {
    FilterChain {
        name: chain.hostname.clone().unwrap_or_else(|| "*".to_owned()),
        filter_chain_match: chain
            .hostname
            .clone()
            .map(|name| FilterChainMatch { server_names: vec![name], ..Default::default() }),
        filters: vec![network_filter(&manager(stat_prefix, &chain.route_configuration))],
        transport_socket: Some(tls::server(&chain.secrets)),
        transport_socket_connect_timeout: seconds(10),
        ..Default::default()
    }
}

/// Removes every `x-tidegate-*` header of a client before a route is chosen. (Removal on the virtual host would come
/// after the weighted entries and take the service header with it: O37.)
fn no_forged_headers() -> TypedExtensionConfig {
    let reserved =
        StringMatcher { match_pattern: Some(MatchPattern::Prefix("x-tidegate-".to_owned())), ignore_case: true };
    let remove = Action::RemoveOnMatch(RemoveOnMatch { key_matcher: Some(reserved) });
    let mutation = EarlyHeaderMutation { mutations: vec![HeaderMutation { action: Some(remove) }] };
    extension("envoy.http.early_header_mutation.header_mutation", &mutation)
}

/// The connection manager towards clients. No time-out of a whole request: uploads may be streams; idle ones end.
fn manager(stat_prefix: &str, route_configuration: &str) -> HttpConnectionManager {
    HttpConnectionManager {
        codec_type: CodecType::Auto as i32,
        stat_prefix: stat_prefix.to_owned(),
        route_specifier: Some(rds(route_configuration)),
        http_filters: vec![router()],
        common_http_protocol_options: Some(common(OUTER_HEADERS, 3600, HeadersWithUnderscoresAction::RejectRequest)),
        http2_protocol_options: Some(client_http2()),
        max_request_headers_kb: number(OUTER_HEADERS.1),
        stream_idle_timeout: seconds(300),
        request_headers_timeout: seconds(10),
        use_remote_address: yes(),
        // Nobody outside is internal: what Envoy lets internal clients say by x-envoy-* is removed.
        internal_address_config: Some(InternalAddressConfig::default()),
        early_header_mutation_extensions: vec![no_forged_headers()],
        normalize_path: yes(),
        merge_slashes: true,
        path_with_escaped_slashes_action: PathWithEscapedSlashesAction::UnescapeAndRedirect as i32,
        server_header_transformation: ServerHeaderTransformation::PassThrough as i32,
        ..Default::default()
    }
}

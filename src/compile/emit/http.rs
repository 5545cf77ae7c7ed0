//! HTTP as both ends of the backbone speak it, and the pieces that every connection manager has.

use envoy_types::pb::{
    envoy::{
        config::{
            core::v3::{
                Http2ProtocolOptions, HttpProtocolOptions, KeepaliveSettings,
                http_protocol_options::HeadersWithUnderscoresAction,
            },
            listener::v3::{Filter, filter},
        },
        extensions::filters::{
            http::router::v3::Router,
            network::http_connection_manager::v3::{
                HttpConnectionManager, HttpFilter, Rds, http_connection_manager::RouteSpecifier, http_filter,
            },
        },
    },
    google::protobuf::UInt64Value,
};
use prost::{Message, Name};

use super::wire::{KIB, MIB, ads, any, number, seconds, yes};

/// Of clients and back ends, as Envoy's own default says: headers by count and in KiB.
pub(super) const OUTER_HEADERS: (u32, u32) = (100, 60);
/// Of the backbone: above those at its ends, so that what passed one hop passes the next (O42).
pub(super) const BACKBONE_HEADERS: (u32, u32) = (200, 96);

/// HTTP/2 on the backbone, the same at both ends. A stream that nobody reads holds its window until the end, so all
/// streams of a connection together may not hold the connection's (O36): 256 × 1 MiB ≤ 256 MiB.
pub(super) fn backbone_http2() -> Http2ProtocolOptions {
    Http2ProtocolOptions {
        max_concurrent_streams: number(256),
        initial_stream_window_size: number(MIB),
        initial_connection_window_size: number(256 * MIB),
        // 200 downloads on a slow link pass the default of 10,000, and the connection breaks for all (O40).
        max_outbound_frames: number(1_000_000),
        // As many resets as there are clients that cancel.
        max_outbound_control_frames: number(100_000),
        // A retried refusal is a reset too: at nghttp2's default, 1,000 and 33 a second, one service's refusals close the
        // connection of all. Who may connect here is an edge of ours.
        stream_reset_burst: Some(UInt64Value { value: 1_000_000 }),
        stream_reset_rate: Some(UInt64Value { value: 1_000_000 }),
        // One service's malformed message resets its stream, not everybody's connection.
        override_stream_error_on_invalid_http_message: yes(),
        connection_keepalive: Some(KeepaliveSettings {
            interval: seconds(2),
            // The answer may stand behind seconds of downloads on a slow link (O40): dead, not slow, is meant.
            timeout: seconds(10),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// Common options with header limits; `idle` closes a connection without requests (seconds).
pub(super) fn common(headers: (u32, u32), idle: u64, underscores: HeadersWithUnderscoresAction) -> HttpProtocolOptions {
    HttpProtocolOptions {
        idle_timeout: seconds(idle),
        max_headers_count: number(headers.0),
        headers_with_underscores_action: underscores as i32,
        ..Default::default()
    }
}

/// HTTP/2 towards clients, as Envoy's page on edge proxies says.
pub(super) fn client_http2() -> Http2ProtocolOptions {
    Http2ProtocolOptions {
        max_concurrent_streams: number(100),
        initial_stream_window_size: number(64 * KIB),
        initial_connection_window_size: number(MIB),
        ..Default::default()
    }
}

/// Routes by ADS, always: an inline route would make every change of it a change of the listener.
pub(super) fn rds(name: &str) -> RouteSpecifier {
    RouteSpecifier::Rds(Rds { config_source: Some(ads()), route_config_name: name.to_owned() })
}

/// An HTTP filter.
pub(super) fn http_filter<M: Message + Name>(name: &str, config: &M) -> HttpFilter {
    HttpFilter {
        name: name.to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(any(config))),
        ..Default::default()
    }
}

/// The last HTTP filter. It adds no `x-envoy-*` header: they are reserved, and the next Envoy would act on them.
pub(super) fn router() -> HttpFilter {
    http_filter("envoy.filters.http.router", &Router { suppress_envoy_headers: true, ..Default::default() })
}

/// The connection manager as the network filter.
pub(super) fn network_filter(manager: &HttpConnectionManager) -> Filter {
    Filter {
        name: "envoy.filters.network.http_connection_manager".to_owned(),
        config_type: Some(filter::ConfigType::TypedConfig(any(manager))),
    }
}

//! Small words of Envoy's messages that every file here uses.

use std::{net::IpAddr, time::Duration};

use envoy_types::pb::{
    envoy::{
        config::{
            core::v3::{
                Address, AggregatedConfigSource, ApiVersion, ConfigSource, HeaderValue, HeaderValueOption,
                PathConfigSource, SocketAddress, TypedExtensionConfig, address, config_source::ConfigSourceSpecifier,
                header_value_option::HeaderAppendAction, socket_address::PortSpecifier,
            },
            route::v3::{HeaderMatcher, header_matcher::HeaderMatchSpecifier},
        },
        r#type::matcher::v3::{RegexMatcher, StringMatcher, string_matcher::MatchPattern},
    },
    google::protobuf::{self, Any, BoolValue, UInt32Value},
};
use prost::{Message, Name};

/// How long a proxy waits for a resource that a generated message names, before it goes on without.
const INITIAL_FETCH_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) const KIB: u32 = 1024;
pub(super) const MIB: u32 = 1024 * KIB;

pub(super) fn duration(value: Duration) -> protobuf::Duration {
    protobuf::Duration {
        seconds: i64::try_from(value.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(value.subsec_nanos()).unwrap_or(0),
    }
}

pub(super) fn seconds(value: u64) -> Option<protobuf::Duration> {
    Some(duration(Duration::from_secs(value)))
}

pub(super) fn number(value: u32) -> Option<UInt32Value> {
    Some(UInt32Value { value })
}

pub(super) fn yes() -> Option<BoolValue> {
    Some(BoolValue { value: true })
}

pub(super) fn no() -> Option<BoolValue> {
    Some(BoolValue { value: false })
}

pub(super) fn any<M: Message + Name>(message: &M) -> Any {
    Any { type_url: M::type_url(), value: message.encode_to_vec() }
}

pub(super) fn extension<M: Message + Name>(name: &str, message: &M) -> TypedExtensionConfig {
    TypedExtensionConfig { name: name.to_owned(), typed_config: Some(any(message)) }
}

fn config_source(specifier: ConfigSourceSpecifier) -> ConfigSource {
    ConfigSource {
        initial_fetch_timeout: Some(duration(INITIAL_FETCH_TIMEOUT)),
        resource_api_version: ApiVersion::V3 as i32,
        config_source_specifier: Some(specifier),
        ..Default::default()
    }
}

/// "By the stream that brought this". Its bytes never change lightly: a secret behind a changed source warms anew (O21).
pub(super) fn ads() -> ConfigSource {
    config_source(ConfigSourceSpecifier::Ads(AggregatedConfigSource {}))
}

/// "From this file", relative to Envoy's working directory; read again when another is moved over it.
pub(super) fn file(path: &str) -> ConfigSource {
    config_source(ConfigSourceSpecifier::PathConfigSource(PathConfigSource {
        path: path.to_owned(),
        ..Default::default()
    }))
}

pub(super) fn address(ip: IpAddr, port: u16) -> Address {
    Address {
        address: Some(address::Address::SocketAddress(SocketAddress {
            address: ip.to_string(),
            port_specifier: Some(PortSpecifier::PortValue(u32::from(port))),
            ..Default::default()
        })),
    }
}

pub(super) fn regex(pattern: &str) -> RegexMatcher {
    RegexMatcher { regex: pattern.to_owned(), ..Default::default() }
}

pub(super) fn string(pattern: MatchPattern) -> StringMatcher {
    StringMatcher { match_pattern: Some(pattern), ..Default::default() }
}

pub(super) fn header_is(name: &str, pattern: MatchPattern) -> HeaderMatcher {
    HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(string(pattern))),
        ..Default::default()
    }
}

pub(super) fn header_present(name: &str) -> HeaderMatcher {
    HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(HeaderMatchSpecifier::PresentMatch(true)),
        ..Default::default()
    }
}

pub(super) fn header_absent(name: &str) -> HeaderMatcher {
    HeaderMatcher { invert_match: true, ..header_present(name) }
}

/// A header with a literal value: `%` begins a command of Envoy's formatter, `%%` is the sign itself.
pub(super) fn header(name: &str, value: &str, action: HeaderAppendAction) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue { key: name.to_owned(), value: value.replace('%', "%%"), ..Default::default() }),
        append_action: action as i32,
        keep_empty_value: true,
        ..Default::default()
    }
}

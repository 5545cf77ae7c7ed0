//! The rules over strings and bytes.

use std::{fmt, net::IpAddr};

use prost_reflect::{DynamicMessage, Value};
use regex::bytes::Regex;

use super::bounds::{Allowed, count};
use crate::xds::validate::rules::{is_true, number, value};

/// `string` rules. Lengths count characters and, apart, bytes.
pub(in crate::xds::validate) struct TextRules {
    characters: Length,
    bytes: Length,
    content: Content,
    ignore_empty: bool,
}

impl TextRules {
    pub(super) fn read(set: &DynamicMessage) -> Self {
        Self {
            characters: Length::read(set, ["len", "min_len", "max_len"]),
            bytes: Length::read(set, ["len_bytes", "min_bytes", "max_bytes"]),
            content: Content::read(set),
            ignore_empty: is_true(set, "ignore_empty"),
        }
    }

    pub(super) fn run(&self, found: &str, report: &mut dyn FnMut(String)) {
        if self.ignore_empty && found.is_empty() {
            return;
        }
        self.characters.run(found.chars().count(), "character", report);
        self.bytes.run(found.len(), "byte", report);
        self.content.run(found.as_bytes(), report);
    }
}

/// `bytes` rules.
pub(in crate::xds::validate) struct BytesRules {
    length: Length,
    content: Content,
    ignore_empty: bool,
}

impl BytesRules {
    pub(super) fn read(set: &DynamicMessage) -> Self {
        Self {
            length: Length::read(set, ["len", "min_len", "max_len"]),
            content: Content::read(set),
            ignore_empty: is_true(set, "ignore_empty"),
        }
    }

    pub(super) fn run(&self, found: &[u8], report: &mut dyn FnMut(String)) {
        if self.ignore_empty && found.is_empty() {
            return;
        }
        self.length.run(found.len(), "byte", report);
        self.content.run(found, report);
    }
}

struct Length {
    min: Option<u64>,
    max: Option<u64>,
}

impl Length {
    fn read(set: &DynamicMessage, [exact, min, max]: [&str; 3]) -> Self {
        let get = |name| number(set, exact).or_else(|| number(set, name));
        Self { min: get(min), max: get(max) }
    }

    fn run(&self, length: usize, unit: &str, report: &mut dyn FnMut(String)) {
        count(length, self.min, self.max, unit, report);
    }
}

/// What strings and bytes have in common.
struct Content {
    constant: Option<Text>,
    prefix: Option<Text>,
    suffix: Option<Text>,
    contains: Option<Text>,
    not_contains: Option<Text>,
    allowed: Allowed<Text>,
    /// As written, and compiled; `None` if it is no regex, which nobody can break.
    pattern: Option<(String, Option<Regex>)>,
    format: Option<Format>,
}

impl Content {
    fn read(set: &DynamicMessage) -> Self {
        let get = |name| value(set, name).and_then(|v| Text::read(&v));
        let pattern = value(set, "pattern").and_then(|v| v.as_str().map(str::to_owned));
        Self {
            constant: get("const"),
            prefix: get("prefix"),
            suffix: get("suffix"),
            contains: get("contains"),
            not_contains: get("not_contains"),
            allowed: Allowed::read(set, Text::read),
            // Envoy matches the whole text (RE2::FullMatch).
            pattern: pattern.map(|p| (p.clone(), Regex::new(&format!("^(?:{p})$")).ok())),
            format: Format::read(set),
        }
    }

    fn run(&self, found: &[u8], report: &mut dyn FnMut(String)) {
        let within = |part: &[u8]| part.is_empty() || found.windows(part.len()).any(|w| w == part);
        let mut must = |rule: &Option<Text>, word: &str, holds: &dyn Fn(&[u8]) -> bool| {
            if let Some(text) = rule.as_ref().filter(|t| !holds(&t.0)) {
                report(format!("must {word} {text}"));
            }
        };
        must(&self.constant, "be", &|t| found == t);
        must(&self.prefix, "begin with", &|t| found.starts_with(t));
        must(&self.suffix, "end with", &|t| found.ends_with(t));
        must(&self.contains, "contain", &within);
        must(&self.not_contains, "not contain", &|t| !within(t));
        self.allowed.run(&Text(found.to_vec()), report);
        if let Some((pattern, Some(regex))) = &self.pattern
            && !regex.is_match(found)
        {
            report(format!("must match {pattern}"));
        }
        if let Some(format) = self.format.filter(|f| !f.accepts(found)) {
            report(format!("must be {format}"));
        }
    }
}

/// A string or bytes, shown quoted.
#[derive(PartialEq)]
struct Text(Vec<u8>);

impl Text {
    fn read(value: &Value) -> Option<Self> {
        match value {
            Value::String(text) => Some(Self(text.clone().into_bytes())),
            Value::Bytes(bytes) => Some(Self(bytes.to_vec())),
            _ => None,
        }
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

/// The oneof `well_known`.
#[derive(Clone, Copy)]
enum Format {
    HeaderName { strict: bool },
    HeaderValue { strict: bool },
    Ip,
    Ipv4,
    Ipv6,
    Hostname,
    Address,
    Email,
    Uri,
    UriReference,
    Uuid,
}

impl Format {
    fn read(set: &DynamicMessage) -> Option<Self> {
        let named = |name: &str| is_true(set, name);
        // `strict` is on unless it is switched off (a proto2 default).
        let strict = value(set, "strict").and_then(|v| v.as_bool()) != Some(false);
        match value(set, "well_known_regex").and_then(|v| v.as_enum_number()) {
            Some(1) => return Some(Self::HeaderName { strict }),
            Some(2) => return Some(Self::HeaderValue { strict }),
            _ => {}
        }
        let formats = [
            ("ip", Self::Ip),
            ("ipv4", Self::Ipv4),
            ("ipv6", Self::Ipv6),
            ("hostname", Self::Hostname),
            ("address", Self::Address),
            ("email", Self::Email),
            ("uri", Self::Uri),
            ("uri_ref", Self::UriReference),
            ("uuid", Self::Uuid),
        ];
        formats.into_iter().find(|(name, _)| named(name)).map(|(_, format)| format)
    }

    fn accepts(self, found: &[u8]) -> bool {
        let text = std::str::from_utf8(found).ok();
        let ip = || match <[u8; 4]>::try_from(found) {
            // In bytes fields an address is its 4 or 16 octets.
            Ok(octets) if text.is_none_or(|t| t.parse::<IpAddr>().is_err()) => Some(IpAddr::from(octets)),
            _ => <[u8; 16]>::try_from(found)
                .ok()
                .filter(|_| text.is_none_or(|t| t.parse::<IpAddr>().is_err()))
                .map(IpAddr::from)
                .or_else(|| text?.parse().ok()),
        };
        match self {
            Self::HeaderName { strict: true } => {
                let name = found.strip_prefix(b":").unwrap_or(found);
                // The upstream pattern has the range `+-.`, so a comma passes.
                !name.is_empty() && name.iter().all(|c| c.is_ascii_alphanumeric() || b"!#$%&'*+,-.^_|~`".contains(c))
            }
            // Empty passes: `^[^\0\n\r]*$`, as in the generated checks of Envoy (`cluster_header` is empty as a rule).
            Self::HeaderName { strict: false } => !found.iter().any(|c| b"\0\n\r".contains(c)),
            Self::HeaderValue { strict: true } => !found.iter().any(|c| matches!(c, 0..=8 | 10..=31 | 127)),
            Self::HeaderValue { strict: false } => !found.iter().any(|c| b"\0\n\r".contains(c)),
            Self::Ip => ip().is_some(),
            Self::Ipv4 => ip().is_some_and(|ip| ip.is_ipv4()),
            Self::Ipv6 => ip().is_some_and(|ip| ip.is_ipv6()),
            Self::Hostname => text.is_some_and(hostname),
            Self::Address => text.is_some_and(|t| hostname(t) || t.parse::<IpAddr>().is_ok()),
            Self::Email => {
                let parts = text.and_then(|t| t.rsplit_once('@'));
                parts.is_some_and(|(user, host)| !user.is_empty() && user.len() <= 64 && hostname(host))
            }
            Self::Uri => text.and_then(|t| t.parse::<http::Uri>().ok()).is_some_and(|u| u.scheme().is_some()),
            Self::UriReference => text.is_some_and(|t| t.parse::<http::Uri>().is_ok()),
            Self::Uuid => {
                let hyphen = |i| matches!(i, 8 | 13 | 18 | 23);
                let fits = |(i, c): (usize, &u8)| if hyphen(i) { *c == b'-' } else { c.is_ascii_hexdigit() };
                found.len() == 36 && found.iter().enumerate().all(fits)
            }
        }
    }
}

/// RFC 1034 section 3.5: labels of letters, digits and hyphens, up to 63 bytes each and 253 in all.
fn hostname(text: &str) -> bool {
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && !l.starts_with('-')
            && !l.ends_with('-')
            && l.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-')
    };
    let text = text.strip_suffix('.').unwrap_or(text);
    text.len() <= 253 && text.split('.').all(label)
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::HeaderName { .. } => "a valid HTTP header name",
            Self::HeaderValue { .. } => "a valid HTTP header value",
            Self::Ip => "an IP address",
            Self::Ipv4 => "an IPv4 address",
            Self::Ipv6 => "an IPv6 address",
            Self::Hostname => "a hostname",
            Self::Address => "a hostname or an IP address",
            Self::Email => "an e-mail address",
            Self::Uri => "a URI with a scheme",
            Self::UriReference => "a URI or a part of one",
            Self::Uuid => "a UUID",
        })
    }
}

//! The formats of single texts: names, hostnames, header names, paths, durations. Errors complete a sentence that
//! begins with the text.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

type Check = Result<(), String>;

fn ensure(holds: bool, why: &str) -> Check {
    if holds { Ok(()) } else { Err(why.to_owned()) }
}

fn is_label(text: &str) -> bool {
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && edge(text.bytes().next())
        && edge(text.bytes().last())
}

/// A DNS label of RFC 1123.
pub(super) fn label(text: &str) -> Check {
    ensure(
        is_label(text) && text.len() <= 63,
        "is not a DNS label: use at most 63 of a-z, 0-9 and `-`, beginning and ending with a letter or digit",
    )
}

/// A DNS subdomain of RFC 1123.
pub(super) fn subdomain(text: &str) -> Check {
    ensure(
        text.len() <= 253 && text.split('.').all(is_label),
        "is not a DNS name: use at most 253 of a-z, 0-9, `-` and `.`, each part beginning and ending with a letter or digit",
    )
}

/// A hostname of the Gateway API: no IP address, `*` only as the first label.
pub(super) fn hostname(text: &str) -> Check {
    precise_hostname(text.strip_prefix("*.").unwrap_or(text))
}

/// As [`hostname`], without a wildcard.
pub(super) fn precise_hostname(text: &str) -> Check {
    if text.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err("is not in lower case: write it so".into());
    }
    if text.parse::<IpAddr>().is_ok() {
        return Err("is an IP address: a DNS name is needed".into());
    }
    if text.contains('*') {
        return Err("has a `*` that is not its first label, or stands where no wildcard is allowed".into());
    }
    if text.contains(':') {
        return Err("names a port: only the DNS name belongs here".into());
    }
    subdomain(text)
}

/// A field name of RFC 9110 (a token), at most 256 bytes.
pub(super) fn header_name(text: &str) -> Check {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    ensure(
        !text.is_empty() && text.len() <= 256 && text.bytes().all(token),
        "is not a header name: use letters, digits and any of !#$%&'*+-.^_`|~ (RFC 9110)",
    )
}

/// As [`header_name`], and not one that Envoy or Tidegate depend on.
pub(super) fn free_header_name(text: &str) -> Check {
    let lower = text.to_ascii_lowercase();
    if lower.starts_with(':') {
        return Err("is a pseudo header, which filters cannot change: use URLRewrite for host and path".into());
    }
    header_name(text)?;
    if lower == "host" {
        return Err("cannot be changed by a header filter: use the hostname of URLRewrite".into());
    }
    ensure(
        !lower.starts_with("x-tidegate-") && !lower.starts_with("x-envoy-"),
        "is reserved (x-tidegate-*, x-envoy-*): choose another name",
    )
}

/// A field value without control characters; 1 to 4,096 bytes.
pub(super) fn header_value(text: &str) -> Check {
    ensure(!text.is_empty() && text.len() <= 4096, "is not 1 to 4096 bytes long")?;
    ensure(!text.chars().any(|c| c.is_control() && c != '\t'), "holds a control character: remove it")?;
    ensure(text.trim() == text, "begins or ends with a space: remove it")
}

/// A value of `Exact` or `PathPrefix`: Gateway API's rules of `HTTPPathMatch`.
pub(super) fn match_path(text: &str) -> Check {
    ensure(text.starts_with('/'), "does not begin with `/`")?;
    ensure(text.len() <= 1024, "is longer than 1024 bytes")?;
    for bad in ["//", "/./", "/../", "%2f", "%2F", "#"] {
        ensure(!text.contains(bad), &format!("contains `{bad}`, which never reaches a match"))?;
    }
    for bad in ["/.", "/.."] {
        ensure(!text.ends_with(bad), &format!("ends with `{bad}`, which never reaches a match"))?;
    }
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        rest = match (first, tail) {
            (b'%', [a, b, tail @ ..]) if a.is_ascii_hexdigit() && b.is_ascii_hexdigit() => tail,
            (b, tail) if b.is_ascii_alphanumeric() || b"-/._~!$&'()*+,;=:@".contains(b) => tail,
            _ => return Err("holds a character that a path cannot have: write it as %XX".into()),
        };
    }
    Ok(())
}

/// A whole path of a redirect or rewrite.
pub(super) fn full_path(text: &str) -> Check {
    ensure(!text.is_empty(), "is no path: write `/` for the root")?;
    new_path(text)
}

/// What a redirect or rewrite puts in a prefix's place; empty: nothing.
pub(super) fn new_path(text: &str) -> Check {
    ensure(text.len() <= 1024, "is longer than 1024 bytes")?;
    ensure(text.is_empty() || text.starts_with('/'), "does not begin with `/`")?;
    ensure(
        text.bytes().all(|b| b.is_ascii_graphic()) && !text.contains(['?', '#']),
        "holds a character that a path cannot have: write it as %XX",
    )
}

/// A label key of Kubernetes: `[prefix/]name`.
pub(super) fn label_key(text: &str) -> Check {
    let (prefix, name) = match text.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, text),
    };
    ensure(
        prefix.is_none_or(|p| subdomain(p).is_ok()) && !name.is_empty() && is_label_name(name),
        "is not a label key: `[dns.name/]name`, the name of at most 63 letters, digits, `-`, `_`, `.`",
    )
}

/// A label value of Kubernetes.
pub(super) fn label_value(text: &str) -> Check {
    ensure(is_label_name(text), "is not a label value: use at most 63 letters, digits, `-`, `_`, `.`")
}

fn is_label_name(text: &str) -> bool {
    let edge = |b: Option<u8>| b.is_none_or(|b| b.is_ascii_alphanumeric());
    text.len() <= 63
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        && edge(text.bytes().next())
        && edge(text.bytes().last())
}

/// Free text of one line, at most 253 bytes.
pub(super) fn line(text: &str) -> Check {
    ensure(text.len() <= 253 && !text.chars().any(char::is_control), "is not one line of at most 253 bytes")
}

/// A duration of GEP-2257: `([0-9]{1,5}(h|m|s|ms)){1,4}`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "is not a duration: write for example 500ms, 10s, 1m or 1h30m".to_owned();
    let mut rest = text;
    let mut sum = Duration::ZERO;
    for _ in 0..4 {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number = rest.get(..digits).filter(|d| (1..=5).contains(&d.len())).ok_or_else(wrong)?;
        let number: u64 = number.parse().map_err(|_| wrong())?;
        rest = rest.get(digits..).unwrap_or_default();
        let units = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)];
        let (tail, millis) =
            units.iter().find_map(|(unit, millis)| Some((rest.strip_prefix(unit)?, millis))).ok_or_else(wrong)?;
        rest = tail;
        sum += Duration::from_millis(number * millis);
        if rest.is_empty() {
            return Ok(sum);
        }
    }
    Err(wrong())
}

/// As [`duration`], more than nothing and at most a day.
pub(super) fn some_duration(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("is no time at all: write more than 0s".into()),
        d if d > Duration::from_secs(86_400) => Err("is longer than a day".into()),
        d => Ok(d),
    }
}

/// `IP:port` of a peer that can be reached.
pub(super) fn socket(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr =
        text.parse().map_err(|_| "is not IP:port, for example 10.0.0.1:8080 or [2001:db8::1]:8080".to_owned())?;
    if let SocketAddr::V6(v6) = address
        && v6.scope_id() != 0
    {
        return Err("names a zone (`%`), which means something on one host only".into());
    }
    if address.port() == 0 {
        return Err("has the port 0, where nothing can listen".into());
    }
    if address.ip().is_unspecified() || address.ip().is_multicast() {
        return Err("is not the address of one host".into());
    }
    Ok(address)
}

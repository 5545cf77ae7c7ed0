//! Values of flags: durations, sites for certificates, the log.

use std::time::Duration;

use clap::ValueEnum;

use crate::model::Role;

/// Reads a duration as Gateway API writes it (GEP-2257): `10s`, `500ms`, `1h30m`.
///
/// # Errors
/// Words for the user when the text is no such duration.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no duration; write it as 500ms, 30s, 5m or 1h30m");
    let mut rest = text;
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, tail) = rest.split_at(digits);
        let unit_end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let millis = match unit {
            "ms" => Some(1),
            "s" => Some(1_000),
            "m" => Some(60_000),
            "h" => Some(3_600_000),
            _ => None,
        };
        let part = millis.and_then(|unit| number.checked_mul(unit)).ok_or_else(wrong)?;
        total = total.checked_add(Duration::from_millis(part)).ok_or_else(wrong)?;
        rest = tail;
    }
    Ok(total)
}

/// A site and its role, as `dev-certs --site NAME:ROLE` names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedSite {
    /// The site's name.
    pub name: String,
    /// Its role.
    pub role: Role,
}

impl std::str::FromStr for NamedSite {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, role) =
            text.split_once(':').ok_or_else(|| format!("{text:?}: NAME:edge, NAME:core or NAME:grpc expected"))?;
        let role = parse_role(role)?;
        if name.is_empty() {
            return Err(format!("{text:?} names no site"));
        }
        Ok(Self { name: name.to_owned(), role })
    }
}

/// Reads `edge`, `core` or `grpc`.
pub(crate) fn parse_role(text: &str) -> Result<Role, String> {
    match text {
        "edge" => Ok(Role::Edge),
        "core" => Ok(Role::Core),
        "grpc" => Ok(Role::Grpc),
        other => Err(format!("{other:?} is no role; it is edge or core, or grpc for a gRPC client at a core")),
    }
}

/// How a line of the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For a person.
    Text,
    /// For a collector: one JSON object per line.
    Json,
}

/// What to log, and how.
#[derive(Clone, Debug, Default)]
pub struct LogOptions {
    /// Text on a terminal, else JSON, where it is not given.
    pub format: Option<LogFormat>,
    /// A filter such as `tidegate=debug`; else `RUST_LOG`, else `info`.
    pub filter: Option<String>,
}

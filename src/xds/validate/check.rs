//! The rule sets of protoc-gen-validate, each over one value.

mod bounds;
mod string;

use std::collections::HashSet;

use prost_reflect::{DynamicMessage, EnumDescriptor, Kind, Value};

use self::{
    bounds::{Allowed, Bounds, Nanoseconds, count, float, integer, nanoseconds},
    string::{BytesRules, TextRules},
};
use super::rules::{is_true, number, value};
use crate::xds::{descriptor::message_name, validate::text};

/// A compiled rule set.
pub(super) enum Check {
    Integer(Bounds<i128>),
    Float(Bounds<f64>),
    /// Durations and timestamps.
    Time(Bounds<Nanoseconds>),
    Bool(bool),
    Text(Box<TextRules>),
    Bytes(Box<BytesRules>),
    Enum {
        allowed: Bounds<i128>,
        defined: Option<EnumDescriptor>,
    },
    Any(Allowed<String>),
    List {
        min: Option<u64>,
        max: Option<u64>,
        unique: bool,
        ignore_empty: bool,
    },
    Map {
        min: Option<u64>,
        max: Option<u64>,
        ignore_empty: bool,
    },
}

impl Check {
    /// Reads the rule set `name` (a field of `validate.FieldRules.type`), for a value of `kind`.
    pub(super) fn compile(name: &str, set: &DynamicMessage, kind: &Kind) -> Option<Self> {
        Some(match name {
            "float" | "double" => Self::Float(Bounds::read(set, float)),
            "bool" => Self::Bool(value(set, "const")?.as_bool()?),
            "string" => Self::Text(Box::new(TextRules::read(set))),
            "bytes" => Self::Bytes(Box::new(BytesRules::read(set))),
            "enum" => Self::Enum {
                allowed: Bounds::read(set, integer),
                defined: is_true(set, "defined_only").then(|| kind.as_enum().cloned()).flatten(),
            },
            "any" => Self::Any(Allowed::read(set, |v| v.as_str().map(|url| message_name(url).to_owned()))),
            "duration" | "timestamp" => Self::Time(Bounds::read(set, nanoseconds)),
            "repeated" | "map" => return None,
            _ => Self::Integer(Bounds::read(set, integer)),
        })
    }

    pub(super) fn list(set: &DynamicMessage) -> Self {
        Self::List {
            min: number(set, "min_items"),
            max: number(set, "max_items"),
            unique: is_true(set, "unique"),
            ignore_empty: is_true(set, "ignore_empty"),
        }
    }

    pub(super) fn map(set: &DynamicMessage) -> Self {
        Self::Map {
            min: number(set, "min_pairs"),
            max: number(set, "max_pairs"),
            ignore_empty: is_true(set, "ignore_empty"),
        }
    }

    /// Reports what `found` breaks. A wrapper (`google.protobuf.UInt32Value`) is checked as what it wraps.
    pub(super) fn run(&self, found: &Value, report: &mut dyn FnMut(String)) {
        let unwrapped = match (self, found) {
            (Self::Time(_) | Self::Any(_), _) => None,
            (_, Value::Message(wrapper)) => wrapper.get_field_by_number(1).map(|v| v.into_owned()),
            _ => None,
        };
        let found = unwrapped.as_ref().unwrap_or(found);
        match self {
            Self::Integer(bounds) => bounds.run(integer(found), report),
            Self::Float(bounds) => bounds.run(float(found), report),
            Self::Time(bounds) => bounds.run(nanoseconds(found), report),
            Self::Bool(wanted) if found.as_bool() == Some(!wanted) => report(format!("must be {wanted}")),
            Self::Bool(_) => {}
            Self::Text(rules) => rules.run(found.as_str().unwrap_or_default(), report),
            Self::Bytes(rules) => rules.run(found.as_bytes().map(|b| b.as_ref()).unwrap_or_default(), report),
            Self::Enum { allowed, defined } => {
                allowed.run(integer(found), report);
                let known = |e: &EnumDescriptor| found.as_enum_number().is_none_or(|n| e.get_value(n).is_some());
                if defined.as_ref().is_some_and(|e| !known(e)) {
                    report("must be a defined value of its enum".into());
                }
            }
            Self::Any(allowed) => {
                let url = found.as_message().map(|m| text(m, 1)).unwrap_or_default();
                allowed.run(&message_name(&url).to_owned(), report);
            }
            Self::List { min, max, unique, ignore_empty } => {
                let items = found.as_list().unwrap_or_default();
                if !(items.is_empty() && *ignore_empty) {
                    count(items.len(), *min, *max, "item", report);
                }
                let mut seen = HashSet::new();
                if *unique && !items.iter().all(|item| seen.insert(format!("{item:?}"))) {
                    report("must not hold an item twice".into());
                }
            }
            Self::Map { min, max, ignore_empty } => {
                let length = found.as_map().map_or(0, |m| m.len());
                if !(length == 0 && *ignore_empty) {
                    count(length, *min, *max, "entry", report);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;

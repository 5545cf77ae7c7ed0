//! Ranges and lists of allowed values, over numbers and times; counts.

use std::fmt::{self, Display};

use prost_reflect::{DynamicMessage, Value};

use crate::xds::validate::rules::{is_true, value};

/// `const`, `lt`, `lte`, `gt`, `gte`, `in`, `not_in`, `ignore_empty`.
pub(in crate::xds::validate) struct Bounds<T> {
    constant: Option<T>,
    /// The bound, and whether it is allowed itself.
    low: Option<(T, bool)>,
    high: Option<(T, bool)>,
    allowed: Allowed<T>,
    ignore_empty: bool,
}

impl<T: PartialOrd + Display + Default> Bounds<T> {
    pub(super) fn read(set: &DynamicMessage, convert: fn(&Value) -> Option<T>) -> Self {
        let get = |name| value(set, name).and_then(|v| convert(&v));
        let bound =
            |inclusive, exclusive| get(inclusive).map(|v| (v, true)).or_else(|| get(exclusive).map(|v| (v, false)));
        Self {
            constant: get("const"),
            low: bound("gte", "gt"),
            high: bound("lte", "lt"),
            allowed: Allowed::read(set, convert),
            ignore_empty: is_true(set, "ignore_empty"),
        }
    }

    pub(super) fn run(&self, found: Option<T>, report: &mut dyn FnMut(String)) {
        let Some(found) = found else { return };
        if self.ignore_empty && found == T::default() {
            return;
        }
        if let Some(constant) = &self.constant
            && found != *constant
        {
            report(format!("must be {constant}"));
        }
        let above = self.low.as_ref().is_none_or(|(low, equal)| found > *low || *equal && found == *low);
        let below = self.high.as_ref().is_none_or(|(high, equal)| found < *high || *equal && found == *high);
        // Bounds that cross exclude what lies between them.
        let crossed = matches!((&self.low, &self.high), (Some((low, _)), Some((high, _))) if low > high);
        let fits = if crossed { above || below } else { above && below };
        if !fits {
            let word = if crossed { " or " } else { " and " };
            let low =
                self.low.as_ref().map(|(v, equal)| format!("{} {v}", if *equal { "at least" } else { "more than" }));
            let high =
                self.high.as_ref().map(|(v, equal)| format!("{} {v}", if *equal { "at most" } else { "less than" }));
            let both: Vec<_> = low.into_iter().chain(high).collect();
            report(format!("must be {}", both.join(word)));
        }
        self.allowed.run(&found, report);
    }
}

/// `in` and `not_in`.
pub(in crate::xds::validate) struct Allowed<T> {
    only: Vec<T>,
    never: Vec<T>,
}

impl<T: PartialEq + Display> Allowed<T> {
    pub(super) fn read(set: &DynamicMessage, convert: impl Fn(&Value) -> Option<T>) -> Self {
        let list = |name| {
            let list = value(set, name);
            list.iter().flat_map(|v| v.as_list().unwrap_or_default()).filter_map(&convert).collect()
        };
        Self { only: list("in"), never: list("not_in") }
    }

    pub(super) fn run(&self, found: &T, report: &mut dyn FnMut(String)) {
        let joined = |values: &[T]| values.iter().map(T::to_string).collect::<Vec<_>>().join(", ");
        if !self.only.is_empty() && !self.only.contains(found) {
            report(format!("must be one of {}", joined(&self.only)));
        }
        if self.never.contains(found) {
            report(format!("must be none of {}", joined(&self.never)));
        }
    }
}

/// Reports a `count` of `unit`s outside of `min..=max`.
pub(super) fn count(count: usize, min: Option<u64>, max: Option<u64>, unit: &str, report: &mut dyn FnMut(String)) {
    let plural =
        |n: u64| if n == 1 { format!("1 {unit}") } else { format!("{n} {unit}s").replace("entrys", "entries") };
    let count = count as u64;
    if let Some(min) = min.filter(|min| count < *min) {
        report(format!("must have at least {}", plural(min)));
    }
    if let Some(max) = max.filter(|max| count > *max) {
        report(format!("must have at most {}", plural(max)));
    }
}

/// Any integer or enum value.
pub(super) fn integer(value: &Value) -> Option<i128> {
    Some(match value {
        Value::I32(v) => i128::from(*v),
        Value::I64(v) => i128::from(*v),
        Value::U32(v) => i128::from(*v),
        Value::U64(v) => i128::from(*v),
        Value::EnumNumber(v) => i128::from(*v),
        _ => return None,
    })
}

/// A float or a double.
pub(super) fn float(value: &Value) -> Option<f64> {
    value.as_f64().or_else(|| value.as_f32().map(f64::from))
}

/// A time span, or a time since the epoch.
#[derive(Clone, Copy, Default, PartialEq, PartialOrd)]
pub(in crate::xds::validate) struct Nanoseconds(i128);

impl Display for Nanoseconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} s", self.0 as f64 / 1e9)
    }
}

/// A `google.protobuf.Duration` or `Timestamp`.
pub(super) fn nanoseconds(value: &Value) -> Option<Nanoseconds> {
    let message = value.as_message()?;
    let seconds = message.get_field_by_name("seconds")?.as_i64()?;
    let nanos = message.get_field_by_name("nanos")?.as_i32()?;
    Some(Nanoseconds(i128::from(seconds) * 1_000_000_000 + i128::from(nanos)))
}

//! The protoc-gen-validate rules that Envoy itself checks, over a whole resource: what it would refuse is refused here.

mod check;
mod rules;

use std::fmt;

use prost_reflect::{DynamicMessage, FieldDescriptor, MapKey, MessageDescriptor, Value};

use self::rules::{FieldRules, ValueRules, rules_of};
use super::{
    descriptor::{ANY, MAX_DEPTH, message_name, pool},
    walk::Walking,
};

/// One broken rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Violation {
    /// Where in the message, as in its JSON form: `filterChains[0].filters[0].typedConfig.statPrefix`. Empty for the
    /// message itself.
    pub path: String,
    /// What must hold there, a sentence without its subject: `must be at least 1 character long`.
    pub rule: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path.as_str() {
            "" => f.write_str(&self.rule),
            path => write!(f, "{path}: {}", self.rule),
        }
    }
}

/// All violations of the `validate.rules` in `bytes`, an encoded `full_name` (`envoy.config.listener.v3.Listener`),
/// in the order of its fields; also inside `google.protobuf.Any`, where a type that the pool lacks is a violation.
/// Patterns match the whole text, as in Envoy. Rules that need a clock (`lt_now`, `gt_now`, `within`) are not checked.
pub fn validate(full_name: &str, bytes: &[u8]) -> Vec<Violation> {
    let mut walk = Walk { path: String::new(), depth: 0, found: Vec::new() };
    walk.encoded(full_name, bytes);
    walk.found
}

struct Walk {
    path: String,
    depth: usize,
    found: Vec<Violation>,
}

impl Walking for Walk {
    fn path(&mut self) -> &mut String {
        &mut self.path
    }
}

impl Walk {
    fn report(&mut self, rule: impl Into<String>) {
        self.found.push(Violation { path: self.path.clone(), rule: rule.into() });
    }

    fn encoded(&mut self, full_name: &str, bytes: &[u8]) {
        let Some(descriptor) = pool().get_message_by_name(full_name) else {
            return self.report(format!("unknown type {full_name:?}"));
        };
        match DynamicMessage::decode(descriptor, bytes) {
            Ok(message) => self.message(&message),
            Err(error) => self.report(format!("cannot be decoded as {full_name}: {error}")),
        }
    }

    fn message(&mut self, message: &DynamicMessage) {
        if self.depth >= MAX_DEPTH {
            return self.report(format!("is nested more than {MAX_DEPTH} messages deep"));
        }
        self.depth += 1;
        let descriptor = prost_reflect::ReflectMessage::descriptor(message);
        if descriptor.full_name() == ANY {
            let (url, value) = (text(message, 1), message.get_field_by_number(2));
            let value = value.as_ref().and_then(|v| v.as_bytes()).cloned().unwrap_or_default();
            self.encoded(message_name(&url), &value);
        } else {
            self.fields(&descriptor, message);
        }
        self.depth -= 1;
    }

    fn fields(&mut self, descriptor: &MessageDescriptor, message: &DynamicMessage) {
        let Some(rules) = rules_of(descriptor.full_name()) else { return };
        for field in &rules.fields {
            self.under(field.descriptor.json_name(), |walk| walk.field(field, message));
        }
        for oneof in &rules.oneofs {
            if !oneof.fields().any(|f| message.has_field(&f)) {
                let names: Vec<_> = oneof.fields().map(|f| f.json_name().to_owned()).collect();
                self.report(format!("must set one of {}", names.join(", ")));
            }
        }
    }

    fn field(&mut self, rules: &FieldRules, message: &DynamicMessage) {
        let field: &FieldDescriptor = &rules.descriptor;
        if field.supports_presence() && !message.has_field(field) {
            // A rule of a oneof's field speaks only where that field is the one chosen.
            if rules.value.required && field.containing_oneof().is_none() {
                self.report("must be set");
            }
            return;
        }
        self.value(&rules.value, &message.get_field(field));
    }

    fn value(&mut self, rules: &ValueRules, value: &Value) {
        if let Some(check) = &rules.check {
            check.run(value, &mut |rule| self.report(rule));
        }
        match value {
            Value::Message(message) if rules.descend => self.message(message),
            Value::List(items) if rules.inner.is_some() => {
                for (index, item) in items.iter().enumerate() {
                    self.under(&format!("[{index}]"), |walk| walk.inner(rules, item));
                }
            }
            Value::Map(entries) if rules.inner.is_some() || rules.keys.is_some() => {
                let mut entries: Vec<_> = entries.iter().map(|(k, v)| (key_text(k), k, v)).collect();
                entries.sort_by(|a, b| a.0.cmp(&b.0));
                for (text, key, value) in entries {
                    self.under(&format!("[{text}]"), |walk| {
                        if let Some(keys) = &rules.keys {
                            walk.value(keys, &key.clone().into());
                        }
                        walk.inner(rules, value);
                    });
                }
            }
            _ => {}
        }
    }

    fn inner(&mut self, rules: &ValueRules, value: &Value) {
        if let Some(inner) = &rules.inner {
            self.value(inner, value);
        }
    }
}

fn key_text(key: &MapKey) -> String {
    match key {
        MapKey::String(text) => format!("{text:?}"),
        MapKey::Bool(value) => value.to_string(),
        MapKey::I32(value) => value.to_string(),
        MapKey::I64(value) => value.to_string(),
        MapKey::U32(value) => value.to_string(),
        MapKey::U64(value) => value.to_string(),
    }
}

/// Text of the string field `number`, empty if there is none.
fn text(message: &DynamicMessage, number: u32) -> String {
    message.get_field_by_number(number).and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}

#[cfg(test)]
mod tests;

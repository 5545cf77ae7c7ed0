//! Reads the `validate.*` options of a message once and keeps them as checks.

use std::{
    collections::HashMap,
    sync::{LazyLock, OnceLock},
};

use prost_reflect::{
    DynamicMessage, ExtensionDescriptor, FieldDescriptor, Kind, MessageDescriptor, OneofDescriptor, Value,
};

use super::check::Check;
use crate::xds::descriptor::pool;

/// The rules of one message.
pub(super) struct MessageRules {
    /// Fields with a rule, and those whose messages are looked into.
    pub(super) fields: Vec<FieldRules>,
    /// Oneofs of which one field must be set.
    pub(super) oneofs: Vec<OneofDescriptor>,
}

/// The rules of one field.
pub(super) struct FieldRules {
    pub(super) descriptor: FieldDescriptor,
    pub(super) value: ValueRules,
}

/// The rules of a field's value, of an item or of a map's keys.
#[derive(Default)]
pub(super) struct ValueRules {
    /// A message that must be there.
    pub(super) required: bool,
    /// Look into the message.
    pub(super) descend: bool,
    pub(super) check: Option<Check>,
    /// For the items of a list, the values of a map.
    pub(super) inner: Option<Box<ValueRules>>,
    /// For the keys of a map.
    pub(super) keys: Option<Box<ValueRules>>,
}

impl ValueRules {
    fn is_empty(&self) -> bool {
        !self.required && !self.descend && self.check.is_none() && self.inner.is_none() && self.keys.is_none()
    }
}

/// The rules of a message, compiled when first asked for; `None` for a message that the pool lacks.
pub(super) fn rules_of(full_name: &str) -> Option<&'static MessageRules> {
    static CACHE: LazyLock<HashMap<String, OnceLock<MessageRules>>> =
        LazyLock::new(|| pool().all_messages().map(|m| (m.full_name().to_owned(), OnceLock::new())).collect());
    let cell = CACHE.get(full_name)?;
    if let Some(rules) = cell.get() {
        return Some(rules);
    }
    let descriptor = pool().get_message_by_name(full_name)?;
    Some(cell.get_or_init(|| compile(&descriptor)))
}

fn compile(message: &MessageDescriptor) -> MessageRules {
    let options = message.options();
    if flag(&options, "validate.disabled") || flag(&options, "validate.ignored") {
        return MessageRules { fields: Vec::new(), oneofs: Vec::new() };
    }
    let fields = message.fields().map(|descriptor| {
        let options = descriptor.options();
        let rules = extension("validate.rules")
            .filter(|e| options.has_extension(e))
            .and_then(|e| options.get_extension(&e).as_message().cloned());
        FieldRules { value: field_rules(&descriptor, rules.as_ref()), descriptor }
    });
    let oneofs = message.oneofs().filter(|oneof| flag(&oneof.options(), "validate.required"));
    MessageRules { fields: fields.filter(|f| !f.value.is_empty()).collect(), oneofs: oneofs.collect() }
}

fn extension(name: &str) -> Option<ExtensionDescriptor> {
    pool().get_extension_by_name(name)
}

fn flag(options: &DynamicMessage, name: &str) -> bool {
    extension(name).is_some_and(|e| options.get_extension(&e).as_bool() == Some(true))
}

fn field_rules(field: &FieldDescriptor, rules: Option<&DynamicMessage>) -> ValueRules {
    let Kind::Message(entry) = field.kind() else {
        return match field.is_list() {
            true => list_rules(&field.kind(), rules),
            false => value_rules(&field.kind(), rules),
        };
    };
    if field.is_map() {
        let set = rules.and_then(|r| sub(r, "map"));
        let part = |kind: Kind, name| non_empty(value_rules(&kind, set.as_ref().and_then(|s| sub(s, name)).as_ref()));
        return ValueRules {
            check: set.as_ref().map(Check::map),
            keys: part(entry.map_entry_key_field().kind(), "keys"),
            inner: part(entry.map_entry_value_field().kind(), "values"),
            ..ValueRules::default()
        };
    }
    match field.is_list() {
        true => list_rules(&field.kind(), rules),
        false => value_rules(&field.kind(), rules),
    }
}

fn list_rules(kind: &Kind, rules: Option<&DynamicMessage>) -> ValueRules {
    let set = rules.and_then(|r| sub(r, "repeated"));
    let items = set.as_ref().and_then(|s| sub(s, "items"));
    ValueRules {
        check: set.as_ref().map(Check::list),
        inner: non_empty(value_rules(kind, items.as_ref())),
        ..ValueRules::default()
    }
}

fn non_empty(rules: ValueRules) -> Option<Box<ValueRules>> {
    (!rules.is_empty()).then(|| Box::new(rules))
}

/// The rules of a single value.
fn value_rules(kind: &Kind, rules: Option<&DynamicMessage>) -> ValueRules {
    let about_message = rules.and_then(|r| sub(r, "message"));
    let said = |name| about_message.as_ref().is_some_and(|m| is_true(m, name));
    // Exactly one of the oneof `type` is set; it names the rule set.
    let set = rules.and_then(|r| {
        let (field, value) = r.fields().find(|(f, _)| f.containing_oneof().is_some())?;
        Some((field.name().to_owned(), value.as_message()?.clone()))
    });
    let required = said("required") || set.as_ref().is_some_and(|(_, s)| is_true(s, "required"));
    ValueRules {
        required,
        descend: matches!(kind, Kind::Message(_)) && !said("skip"),
        check: set.and_then(|(name, set)| Check::compile(&name, &set, kind)),
        ..ValueRules::default()
    }
}

/// The message in field `name`, if it is set.
pub(super) fn sub(message: &DynamicMessage, name: &str) -> Option<DynamicMessage> {
    value(message, name).and_then(|v| v.as_message().cloned())
}

/// The value of field `name`, if it is set.
pub(super) fn value(message: &DynamicMessage, name: &str) -> Option<Value> {
    if !message.has_field_by_name(name) {
        return None;
    }
    message.get_field_by_name(name).map(|v| v.into_owned())
}

/// The unsigned number in field `name`, if it is set.
pub(super) fn number(message: &DynamicMessage, name: &str) -> Option<u64> {
    value(message, name).and_then(|v| v.as_u64())
}

/// Whether the bool field `name` is set to true.
pub(super) fn is_true(message: &DynamicMessage, name: &str) -> bool {
    value(message, name).and_then(|v| v.as_bool()) == Some(true)
}

//! Protobuf JSON of Envoy messages, for people: keys sorted, `Any` expanded, secrets struck out.

use prost::Message;
use prost_reflect::{DeserializeOptions, DynamicMessage, FieldDescriptor, MessageDescriptor, SerializeOptions};
use serde_json::Value;

use super::descriptor::{ANY, MAX_DEPTH, message_name, message_of, pool};

/// What stands in the place of a secret.
pub const REDACTED: &str = "[redacted]";

/// Why a message has no JSON form, or a JSON text is no such message.
#[derive(Debug, thiserror::Error)]
pub enum JsonError {
    /// The descriptors lack the type.
    #[error("unknown type {0:?}")]
    UnknownType(String),
    /// The bytes are no such message.
    #[error("cannot be decoded as {0}: {1}")]
    Decode(String, prost::DecodeError),
    /// A field has the wrong shape, is unknown, or an `Any` is of an unknown type.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// The JSON could not be written as YAML.
    #[error("{0}")]
    Yaml(#[from] serde_saphyr::ser_error::Error),
}

/// The protobuf JSON of `bytes`, an encoded `full_name`: keys sorted, fields at their default left out, each `Any`
/// expanded with its `@type`. Secrets stand in it: see [`redact_secrets`].
pub fn to_json(full_name: &str, bytes: &[u8]) -> Result<Value, JsonError> {
    let message = DynamicMessage::decode(descriptor(full_name)?, bytes)
        .map_err(|error| JsonError::Decode(full_name.to_owned(), error))?;
    let options = SerializeOptions::new().stringify_64_bit_integers(false);
    Ok(message.serialize_with_options(serde_json::value::Serializer, &options)?)
}

/// The encoded `full_name` that `value` describes; a field that the message lacks is an error. The bytes are not
/// canonical yet.
pub fn from_json(full_name: &str, value: &Value) -> Result<Vec<u8>, JsonError> {
    let options = DeserializeOptions::new().deny_unknown_fields(true);
    Ok(DynamicMessage::deserialize_with_options(descriptor(full_name)?, value, &options)?.encode_to_vec())
}

/// `value` as YAML, as people read it: long lines stay whole.
pub fn to_yaml(value: &Value) -> Result<String, JsonError> {
    let options = serde_saphyr::ser_options! { folded_wrap_chars: usize::MAX };
    Ok(serde_saphyr::to_string_with_options(value, options)?)
}

/// Replaces private keys, passwords, ticket keys and generic secrets in `value`, the JSON of a `full_name`, by
/// `[redacted]`: the fields that Envoy marks `udpa.annotations.sensitive`, also inside `Any`.
pub fn redact_secrets(full_name: &str, value: &mut Value) {
    if let Some(descriptor) = pool().get_message_by_name(full_name) {
        redact(&descriptor, value, 0);
    }
}

fn descriptor(full_name: &str) -> Result<MessageDescriptor, JsonError> {
    pool().get_message_by_name(full_name).ok_or_else(|| JsonError::UnknownType(full_name.to_owned()))
}

fn redact(descriptor: &MessageDescriptor, value: &mut Value, depth: usize) {
    let Value::Object(members) = value else { return };
    if depth > MAX_DEPTH {
        // Deeper than any message that was decoded: nothing is known of it, so nothing is shown.
        *value = REDACTED.into();
        return;
    }
    if descriptor.full_name() == ANY {
        let url = members.get("@type").and_then(Value::as_str).unwrap_or_default().to_owned();
        if let Some(inner) = pool().get_message_by_name(message_name(&url)).filter(|d| d.full_name() != ANY) {
            redact(&inner, value, depth + 1);
        }
        return;
    }
    for (name, member) in members {
        let field = descriptor.get_field_by_json_name(name).or_else(|| descriptor.get_field_by_name(name));
        let Some(field) = field else { continue };
        if is_sensitive(&field) {
            *member = REDACTED.into();
        } else if let Some(inner) = message_of(&field) {
            match member {
                Value::Array(items) => items.iter_mut().for_each(|item| redact(&inner, item, depth + 1)),
                Value::Object(entries) if field.is_map() => {
                    entries.values_mut().for_each(|entry| redact(&inner, entry, depth + 1));
                }
                one => redact(&inner, one, depth + 1),
            }
        }
    }
}

/// Whether Envoy marks a field as holding a secret.
pub fn is_sensitive(field: &FieldDescriptor) -> bool {
    let Some(sensitive) = pool().get_extension_by_name("udpa.annotations.sensitive") else { return true };
    field.options().get_extension(&sensitive).as_bool() == Some(true)
}

#[cfg(test)]
mod tests;

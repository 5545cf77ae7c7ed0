//! Messages with their secrets struck out, as bytes: for tools that read protobuf, not JSON.

use prost::Message;
use prost_reflect::{DynamicMessage, Kind, Value};

use super::{
    descriptor::{ANY, MAX_DEPTH, message_name, pool},
    json::{REDACTED, is_sensitive},
};

/// The encoded `full_name` without private keys, passwords, ticket keys and generic secrets, inside `Any` too:
/// `[redacted]` stands in their place. `None` where it cannot be read, so that nothing is shown by mistake.
pub fn redacted(full_name: &str, bytes: &[u8]) -> Option<Vec<u8>> {
    encoded(full_name, bytes, 0)
}

fn encoded(full_name: &str, bytes: &[u8], depth: usize) -> Option<Vec<u8>> {
    let mut message = DynamicMessage::decode(pool().get_message_by_name(full_name)?, bytes).ok()?;
    strike(&mut message, depth)?;
    Some(message.encode_to_vec())
}

fn strike(message: &mut DynamicMessage, depth: usize) -> Option<()> {
    if depth > MAX_DEPTH {
        return None;
    }
    if prost_reflect::ReflectMessage::descriptor(message).full_name() == ANY {
        let url = message.get_field_by_name("type_url")?.as_str()?.to_owned();
        let bytes = message.get_field_by_name("value")?.as_bytes()?.clone();
        let struck = encoded(message_name(&url), &bytes, depth + 1)?;
        message.set_field_by_name("value", Value::Bytes(struck.into()));
        return Some(());
    }
    let mut secret = Vec::new();
    for (field, value) in message.fields_mut() {
        if is_sensitive(&field) {
            secret.push(field);
        } else {
            descend(value, depth + 1)?;
        }
    }
    for field in secret {
        match field.kind() {
            Kind::String if !field.is_list() => message.set_field(&field, Value::String(REDACTED.to_owned())),
            Kind::Message(source) if source.full_name() == "envoy.config.core.v3.DataSource" && !field.is_list() => {
                let mut struck = DynamicMessage::new(source);
                struck.set_field_by_name("inline_string", Value::String(REDACTED.to_owned()));
                message.set_field(&field, Value::Message(struck));
            }
            _ => message.clear_field(&field),
        }
    }
    Some(())
}

fn descend(value: &mut Value, depth: usize) -> Option<()> {
    match value {
        Value::Message(message) => strike(message, depth),
        Value::List(values) => values.iter_mut().try_for_each(|value| descend(value, depth)),
        Value::Map(entries) => {
            #[expect(clippy::iter_over_hash_type, reason = "each entry is struck by itself")]
            for value in entries.values_mut() {
                descend(value, depth)?;
            }
            Some(())
        }
        _ => Some(()),
    }
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::{
        envoy::{
            config::core::v3::{DataSource, TransportSocket, data_source::Specifier, transport_socket::ConfigType},
            extensions::transport_sockets::tls::v3::{
                CommonTlsContext, DownstreamTlsContext, Secret, TlsCertificate, TlsSessionTicketKeys, secret::Type,
            },
        },
        google::protobuf::Any,
    };

    use super::*;

    fn inline(text: &str) -> DataSource {
        DataSource { specifier: Some(Specifier::InlineString(text.into())), ..DataSource::default() }
    }

    fn certificate() -> TlsCertificate {
        let (certificate_chain, private_key) = (Some(inline("CHAIN")), Some(inline("hush")));
        TlsCertificate { certificate_chain, private_key, ..TlsCertificate::default() }
    }

    fn has(bytes: &[u8], text: &str) -> bool {
        bytes.windows(text.len()).any(|window| window == text.as_bytes())
    }

    #[test]
    fn secrets_are_struck_out_also_inside_any_and_the_rest_stays() {
        let secret = |kind| Secret { name: "s".into(), r#type: Some(kind) };
        let keys = TlsSessionTicketKeys { keys: vec![inline("hush"), inline("hush")] };
        let name = "envoy.extensions.transport_sockets.tls.v3.Secret";
        let struck = redacted(name, &secret(Type::TlsCertificate(certificate())).encode_to_vec()).unwrap();
        assert!(has(&struck, "CHAIN") && has(&struck, REDACTED) && !has(&struck, "hush"));
        let struck = redacted(name, &secret(Type::SessionTicketKeys(keys)).encode_to_vec()).unwrap();
        assert!(!has(&struck, "hush"));

        let common = CommonTlsContext { tls_certificates: vec![certificate()], ..CommonTlsContext::default() };
        let context = DownstreamTlsContext { common_tls_context: Some(common), ..DownstreamTlsContext::default() };
        let type_url = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext".into();
        let any = Any { type_url, value: context.encode_to_vec() };
        let socket = TransportSocket { name: "tls".into(), config_type: Some(ConfigType::TypedConfig(any)) };
        let struck = redacted("envoy.config.core.v3.TransportSocket", &socket.encode_to_vec()).unwrap();
        assert!(has(&struck, "CHAIN") && has(&struck, REDACTED) && !has(&struck, "hush"));
    }

    #[test]
    fn what_cannot_be_read_is_not_shown() {
        assert_eq!(redacted("no.Such", b""), None);
        assert_eq!(redacted("envoy.config.core.v3.DataSource", b"\xff"), None);
    }
}

//! Tests of protobuf JSON.

use envoy_types::pb::{
    envoy::{
        config::core::v3::{DataSource, data_source::Specifier},
        extensions::transport_sockets::tls::v3::{
            GenericSecret, Secret, TlsCertificate, TlsSessionTicketKeys, secret::Type,
        },
    },
    google::protobuf::Any,
};
use serde_json::json;

use super::*;

const SECRET: &str = "envoy.extensions.transport_sockets.tls.v3.Secret";
const RESOURCE: &str = "envoy.service.discovery.v3.Resource";

fn inline(text: &str) -> DataSource {
    DataSource { specifier: Some(Specifier::InlineString(text.into())), ..DataSource::default() }
}

fn secret(kind: Type) -> Secret {
    Secret { name: "s".into(), r#type: Some(kind) }
}

fn redacted(secret: Secret) -> String {
    let resource = envoy_types::pb::envoy::service::discovery::v3::Resource {
        name: "s".into(),
        resource: Some(Any { type_url: format!("type.googleapis.com/{SECRET}"), value: secret.encode_to_vec() }),
        ..Default::default()
    };
    let mut json = to_json(RESOURCE, &resource.encode_to_vec()).unwrap();
    redact_secrets(RESOURCE, &mut json);
    json.to_string()
}

#[test]
fn secrets_are_struck_out_also_inside_any_and_the_rest_stays() {
    let certificate = TlsCertificate {
        certificate_chain: Some(inline("CHAIN")),
        private_key: Some(inline("hush")),
        password: Some(inline("hush")),
        ..TlsCertificate::default()
    };
    let keys = TlsSessionTicketKeys { keys: vec![inline("hush"), inline("hush")] };
    let generic = GenericSecret { secret: Some(inline("hush")), ..GenericSecret::default() };
    for kind in [Type::TlsCertificate(certificate), Type::SessionTicketKeys(keys), Type::GenericSecret(generic)] {
        let chain = matches!(kind, Type::TlsCertificate(_));
        let text = redacted(secret(kind));
        assert!(!text.contains("hush") && text.contains(REDACTED), "{text}");
        assert_eq!(text.contains("CHAIN"), chain, "{text}");
    }
}

#[test]
fn json_names_types_and_sorts_keys_and_reads_back() {
    let certificate = TlsCertificate { certificate_chain: Some(inline("CHAIN")), ..TlsCertificate::default() };
    let bytes = secret(Type::TlsCertificate(certificate)).encode_to_vec();
    let json = to_json(SECRET, &bytes).unwrap();
    assert_eq!(json, json!({"name": "s", "tlsCertificate": {"certificateChain": {"inlineString": "CHAIN"}}}));
    assert_eq!(from_json(SECRET, &json).unwrap(), bytes);
    assert_eq!(
        to_yaml(&json).unwrap().trim(),
        "name: s\ntlsCertificate:\n  certificateChain:\n    inlineString: CHAIN"
    );
}

#[test]
fn unknown_types_and_fields_are_errors() {
    assert!(matches!(to_json("no.Such", b""), Err(JsonError::UnknownType(_))));
    assert!(matches!(to_json(SECRET, b"\xff"), Err(JsonError::Decode(..))));
    let error = from_json(SECRET, &json!({"nam": "s"})).unwrap_err();
    assert!(error.to_string().contains("nam"), "{error}");
}

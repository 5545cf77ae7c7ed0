//! TLS contexts: towards clients by SDS over ADS, on the backbone by file, towards back ends by server name.

use envoy_types::pb::{
    envoy::{
        config::core::v3::{DataSource, TransportSocket, data_source::Specifier, transport_socket},
        extensions::transport_sockets::tls::v3::{
            CertificateValidationContext, CommonTlsContext, DownstreamTlsContext, SdsSecretConfig,
            SubjectAltNameMatcher, TlsParameters, UpstreamTlsContext,
            common_tls_context::{CombinedCertificateValidationContext, ValidationContextType},
            subject_alt_name_matcher::SanType,
            tls_parameters::TlsProtocol,
        },
        r#type::matcher::v3::string_matcher::MatchPattern,
    },
    google::protobuf::Any,
};

use super::wire::{ads, any, file, string, yes};
use crate::model::{AppProtocol, Role, UpstreamTls};

/// The proxy's own certificate, a file on its host; also the name of the secret in it.
const IDENTITY: (&str, &str) = ("identity", "identity/identity.yaml");
/// Whom the proxy trusts.
const TRUST: (&str, &str) = ("trust", "identity/trust.yaml");
/// Where Debian, and Envoy's images, keep the public CAs.
const SYSTEM_BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";

fn socket(context: Any) -> TransportSocket {
    TransportSocket {
        name: "envoy.transport_sockets.tls".to_owned(),
        config_type: Some(transport_socket::ConfigType::TypedConfig(context)),
    }
}

/// From `version` up to 1.3, which must be said: Envoy's own default for clients ends at 1.2.
fn at_least(version: TlsProtocol) -> Option<TlsParameters> {
    Some(TlsParameters {
        tls_minimum_protocol_version: version as i32,
        tls_maximum_protocol_version: TlsProtocol::TlSv13 as i32,
        ..Default::default()
    })
}

fn san(kind: SanType, pattern: MatchPattern) -> SubjectAltNameMatcher {
    SubjectAltNameMatcher { san_type: kind as i32, matcher: Some(string(pattern)), ..Default::default() }
}

/// Terminates clients with these Secrets.
pub(super) fn server(secrets: &[String]) -> TransportSocket {
    let sds = |name: &String| SdsSecretConfig { name: name.clone(), sds_config: Some(ads()) };
    socket(any(&DownstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            tls_params: at_least(TlsProtocol::TlSv12),
            tls_certificate_sds_secret_configs: secrets.iter().map(sds).collect(),
            alpn_protocols: vec!["h2".to_owned(), "http/1.1".to_owned()],
            ..Default::default()
        }),
        ..Default::default()
    }))
}

/// Both ends of the backbone: the proxy's own certificate, and only peers of `role` in the trust domain.
fn mutual(trust_domain: &str, role: Role) -> CommonTlsContext {
    let sds = |(name, path): (&str, &str)| SdsSecretConfig { name: name.to_owned(), sds_config: Some(file(path)) };
    let prefix = format!("spiffe://{trust_domain}/{}/", role.as_str());
    let peers = CertificateValidationContext {
        match_typed_subject_alt_names: vec![san(SanType::Uri, MatchPattern::Prefix(prefix))],
        ..Default::default()
    };
    CommonTlsContext {
        tls_params: at_least(TlsProtocol::TlSv13),
        tls_certificate_sds_secret_configs: vec![sds(IDENTITY)],
        alpn_protocols: vec!["h2".to_owned()],
        validation_context_type: Some(ValidationContextType::CombinedValidationContext(
            CombinedCertificateValidationContext {
                default_validation_context: Some(peers),
                validation_context_sds_secret_config: Some(sds(TRUST)),
                ..Default::default()
            },
        )),
        ..Default::default()
    }
}

/// The core's end of the backbone: edges only.
pub(super) fn backbone_server(trust_domain: &str) -> TransportSocket {
    socket(any(&DownstreamTlsContext {
        common_tls_context: Some(mutual(trust_domain, Role::Edge)),
        require_client_certificate: yes(),
        ..Default::default()
    }))
}

/// The edge's end of the backbone: cores only.
pub(super) fn backbone_client(trust_domain: &str) -> TransportSocket {
    socket(any(&UpstreamTlsContext {
        common_tls_context: Some(mutual(trust_domain, Role::Core)),
        ..Default::default()
    }))
}

/// From a core to a service's endpoints: the certificate must carry the server name.
pub(super) fn service_client(tls: &UpstreamTls, protocol: AppProtocol) -> TransportSocket {
    let bundle = if tls.ca_certificates.is_empty() {
        Specifier::Filename(SYSTEM_BUNDLE.to_owned())
    } else {
        Specifier::InlineString(tls.ca_certificates.clone())
    };
    let server = CertificateValidationContext {
        trusted_ca: Some(DataSource { specifier: Some(bundle), ..Default::default() }),
        match_typed_subject_alt_names: vec![san(SanType::Dns, MatchPattern::Exact(tls.server_name.clone()))],
        ..Default::default()
    };
    let alpn = match protocol {
        AppProtocol::Http => "http/1.1",
        AppProtocol::H2c => "h2",
    };
    socket(any(&UpstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            tls_params: at_least(TlsProtocol::TlSv12),
            alpn_protocols: vec![alpn.to_owned()],
            validation_context_type: Some(ValidationContextType::ValidationContext(server)),
            ..Default::default()
        }),
        sni: tls.server_name.clone(),
        ..Default::default()
    }))
}

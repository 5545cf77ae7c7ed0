//! SDS: server certificates.

use envoy_types::pb::envoy::{
    config::core::v3::{DataSource, data_source::Specifier},
    extensions::transport_sockets::tls::v3::{Secret, TlsCertificate, secret::Type},
};

use super::{Contributions, finish};
use crate::{
    model::{CertificateSpec, ObjectRef},
    xds::{Resource, ResourceType},
};

/// The Secret `name` (`<namespace>/<certificate>`) with chain and key inline.
pub fn secret(name: &str, certificate: &CertificateSpec, source: &ObjectRef) -> Resource {
    let inline = |text: &str| {
        Some(DataSource { specifier: Some(Specifier::InlineString(text.to_owned())), ..Default::default() })
    };
    let message = Secret {
        name: name.to_owned(),
        r#type: Some(Type::TlsCertificate(TlsCertificate {
            certificate_chain: inline(&certificate.certificate_chain),
            private_key: inline(certificate.private_key.expose()),
            ..Default::default()
        })),
    };
    let sources = Contributions::Whole(std::slice::from_ref(source));
    finish(ResourceType::Secret, name, &message, Vec::new(), Vec::new(), sources)
}

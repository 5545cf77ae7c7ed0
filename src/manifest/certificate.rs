//! `Certificate`: PEM that parses, and a key that fits the leaf. Whether it has expired is nobody's question here.

use rustls::{
    crypto::ring::sign::any_supported_type,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use super::{walk::At, yaml::REDACTED};
use crate::model::{CertificateSpec, Redacted};

/// Longest chain, in certificates.
const MAX_CHAIN: usize = 16;

pub(super) fn read(at: &At<'_>) -> Option<CertificateSpec> {
    let fields = at.fields(&["certificateChain", "privateKey"])?;
    let (chain_at, key_at) = (fields.need("certificateChain"), fields.need("privateKey"));
    let chain = chain_at.as_ref().and_then(|at| read_chain(at, MAX_CHAIN));
    let key = key_at.as_ref().and_then(read_key);
    let (chain_at, key_at) = (chain_at?, key_at?);
    let (chain, key) = (chain?, key?);
    if CertifiedKey::new(chain, key).keys_match().is_err() {
        key_at.fault("the key does not belong to the first certificate of the chain (the leaf stands first)");
    }
    Some(CertificateSpec {
        certificate_chain: chain_at.text()?.to_owned(),
        private_key: Redacted::new(key_at.text()?.to_owned()),
    })
}

/// PEM of trusted authorities, as written.
pub(super) fn authorities(at: &At<'_>) -> Option<String> {
    read_chain(at, 512)?;
    at.text().map(str::to_owned)
}

fn read_chain(at: &At<'_>, most: usize) -> Option<Vec<CertificateDer<'static>>> {
    let text = at.text()?;
    let chain = match CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<Vec<_>, _>>() {
        Ok(chain) => chain,
        Err(error) => {
            at.fault(format!("this is not PEM: {error}"));
            return None;
        }
    };
    if chain.is_empty() || chain.len() > most {
        at.fault(format!("1 to {most} certificates (-----BEGIN CERTIFICATE-----) are needed, found {}", chain.len()));
        return None;
    }
    for (i, der) in chain.iter().enumerate() {
        if X509Certificate::from_der(der).is_err() {
            at.fault(format!("certificate {} is not a certificate of X.509", i + 1));
            return None;
        }
    }
    Some(chain)
}

/// The messages never hold a part of the key.
fn read_key(at: &At<'_>) -> Option<std::sync::Arc<dyn rustls::sign::SigningKey>> {
    let text = at.text()?;
    if text == REDACTED {
        at.fault("the key is hidden in what was shown: put the real one here before you apply it");
        return None;
    }
    let Ok(der) = PrivateKeyDer::from_pem_slice(text.as_bytes()) else {
        at.fault("there is no private key in PEM (unencrypted PKCS#8, PKCS#1 or SEC1)");
        return None;
    };
    let key = any_supported_type(&der);
    if key.is_err() {
        at.fault(
            "this is not a private key of a supported type (RSA of 2048 to 4096 bits, ECDSA P-256/P-384, Ed25519)",
        );
    }
    key.ok()
}

//! TLS of the ports: certificate files in, a configuration that demands the peer's certificate out.

use std::{path::Path, sync::Arc};

use anyhow::{Context as _, Result, bail};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};

/// Mutual TLS with HTTP/2; `None` when no certificate is configured.
///
/// # Errors
/// With the file, and what is wrong with it.
pub(super) fn server(cert: Option<&Path>, key: Option<&Path>, ca: Option<&Path>) -> Result<Option<Arc<ServerConfig>>> {
    let (cert, key, ca) = match (cert, key, ca) {
        (None, None, None) => return Ok(None),
        (Some(cert), Some(key), Some(ca)) => (cert, key, ca),
        _ => bail!("a certificate, its key and the authority of the peers go together: give all three or none"),
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    for authority in certificates(ca)? {
        roots.add(authority).with_context(|| format!("{}: not an authority", ca.display()))?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build()?;
    let key_der = PrivateKeyDer::from_pem_file(key).with_context(|| format!("{}: no private key", key.display()))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(cert)?, key_der)
        .with_context(|| format!("{} and {} do not fit together", cert.display(), key.display()))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Some(Arc::new(config)))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let found = read.with_context(|| format!("{}: no certificates", path.display()))?;
    if found.is_empty() {
        bail!("{}: there is no certificate in it", path.display());
    }
    Ok(found)
}

//! TLS of the ports: certificate files in, a configuration that demands the peer's certificate out.

use std::{path::Path, sync::Arc};

use anyhow::{Context as _, Result, bail};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use crate::{
    replicas::{PeerTls, TrustDomain},
    serve::intake,
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
    let key_der = PrivateKeyDer::from_pem_file(key).with_context(|| format!("{}: no private key", key.display()))?;
    let config = intake::mutual_tls(certificates(ca)?, certificates(cert)?, key_der).with_context(|| {
        format!("{}, {} and {} make no TLS configuration", cert.display(), key.display(), ca.display())
    })?;
    Ok(Some(Arc::new(config)))
}

/// How this replica proves itself to the others: with the certificate of its API port.
///
/// # Errors
/// With the file, and what is wrong with it.
pub(super) fn peer(
    cert: Option<&Path>,
    key: Option<&Path>,
    ca: Option<&Path>,
    trust_domain: TrustDomain,
) -> Result<Option<PeerTls>> {
    let (Some(cert), Some(key), Some(ca)) = (cert, key, ca) else { return Ok(None) };
    let key_der = PrivateKeyDer::from_pem_file(key).with_context(|| format!("{}: no private key", key.display()))?;
    let made = PeerTls::new(certificates(ca)?, certificates(cert)?, key_der, trust_domain);
    made.map(Some)
        .with_context(|| format!("{}, {} and {} make no identity", cert.display(), key.display(), ca.display()))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let found = read.with_context(|| format!("{}: no certificates", path.display()))?;
    if found.is_empty() {
        bail!("{}: there is no certificate in it", path.display());
    }
    Ok(found)
}

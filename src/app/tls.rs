//! TLS of the ports: certificate files in, a configuration that demands the peer's certificate out; read again whenever
//! the files change.

use std::{
    fs::Metadata,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::{
    sync::watch,
    task::{JoinSet, spawn_blocking},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use crate::{
    replicas::{PeerTls, TrustDomain},
    serve::intake::{self, Tls},
};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(3);

/// The files of a port.
#[derive(Clone, Debug)]
struct Files {
    cert: PathBuf,
    key: PathBuf,
    ca: PathBuf,
}

/// Tells one state of the files from another: place, time and size of each.
type Print = [Option<(u64, i64, i64, u64)>; 3];

/// Mutual TLS with HTTP/2; `None` when no certificate is configured. A task among `tasks` looks at the files until
/// `cancel`: new handshakes use what was read last, what cannot be used changes nothing.
///
/// # Errors
/// With the file, and what is wrong with it.
pub(super) fn server(
    [cert, key, ca]: [Option<&Path>; 3],
    tasks: &mut JoinSet<Result<()>>,
    cancel: &CancellationToken,
) -> Result<Option<Tls>> {
    let files = match (cert, key, ca) {
        (None, None, None) => return Ok(None),
        (Some(cert), Some(key), Some(ca)) => Files { cert: cert.into(), key: key.into(), ca: ca.into() },
        _ => bail!("a certificate, its key and the authority of the peers go together: give all three or none"),
    };
    // Looked at before they are read, so that a change in between is found.
    let print = files.print();
    let (newest, tls) = watch::channel(Arc::new(files.read()?));
    let cancel = cancel.clone();
    tasks.spawn(async move {
        tokio::select! {
            () = cancel.cancelled() => Ok(()),
            never = follow(files, print, newest) => never,
        }
    });
    Ok(Some(tls))
}

/// Reads the files again each time they have changed.
async fn follow(files: Files, mut print: Print, newest: watch::Sender<Arc<ServerConfig>>) -> Result<()> {
    loop {
        sleep(LOOK).await;
        let (looking, before) = (files.clone(), print);
        let found = spawn_blocking(move || {
            let now = looking.print();
            (now != before).then(|| (now, looking.read()))
        });
        let Some((now, read)) = found.await? else { continue };
        print = now;
        match read {
            Ok(config) => {
                tracing::info!(cert = %files.cert.display(), ca = %files.ca.display(), "certificates are read again");
                newest.send_replace(Arc::new(config));
            }
            Err(error) => {
                // A file that is half written, or the first of two: the next look finds the rest.
                let error = format!("{error:#}");
                tracing::warn!(error, "changed certificates cannot be used; the old ones serve on");
            }
        }
    }
}

impl Files {
    fn print(&self) -> Print {
        let of = |m: Metadata| (m.ino(), m.mtime(), m.mtime_nsec(), m.size());
        [&self.cert, &self.key, &self.ca].map(|path| path.metadata().ok().map(of))
    }

    fn read(&self) -> Result<ServerConfig> {
        let Self { cert, key, ca } = self;
        let key_der =
            PrivateKeyDer::from_pem_file(key).with_context(|| format!("{}: no private key", key.display()))?;
        intake::mutual_tls(certificates(ca)?, certificates(cert)?, key_der).with_context(|| {
            format!("{}, {} and {} make no TLS configuration", cert.display(), key.display(), ca.display())
        })
    }
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

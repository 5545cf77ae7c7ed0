//! The bytes of one client's connection, plain or by TLS, without ever waiting.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{IpAddr, TcpStream},
    os::fd::{AsFd, BorrowedFd},
    path::Path,
    sync::Arc,
};

use anyhow::{Context, Result};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore,
    client::Resumption,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

/// What all clients prove who they are with: `ca.crt`, `tls.crt` and `tls.key` of a folder. Each handshake is a full
/// one: after a crash nobody has a ticket that counts.
///
/// # Errors
/// Files that are not there or not usable.
pub fn mutual_tls(dir: &Path) -> Result<Arc<ClientConfig>> {
    let file = |name: &str| dir.join(name);
    let certificates = |name: &str| -> Result<Vec<CertificateDer<'static>>> {
        CertificateDer::pem_file_iter(file(name))
            .with_context(|| format!("{name} in {}", dir.display()))?
            .map(|certificate| Ok(certificate?))
            .collect()
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates("ca.crt")? {
        roots.add(certificate)?;
    }
    let key = PrivateKeyDer::from_pem_file(file("tls.key"))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = builder.with_root_certificates(roots).with_client_auth_cert(certificates("tls.crt")?, key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// A connection.
pub struct Line {
    pub socket: TcpStream,
    tls: Option<Box<ClientConnection>>,
}

impl Line {
    /// On a socket that connects or has connected to `server`.
    ///
    /// # Errors
    /// Of TLS.
    pub fn new(socket: TcpStream, server: IpAddr, tls: Option<&Arc<ClientConfig>>) -> io::Result<Self> {
        let session = |config: &Arc<ClientConfig>| ClientConnection::new(Arc::clone(config), server.into()).map(Box::new);
        let tls = tls.map(session).transpose().map_err(io::Error::other)?;
        Ok(Self { socket, tls })
    }

    /// What is written goes out, as far as the socket takes it: there is no handshake under way.
    pub fn ready(&self) -> bool {
        self.tls.as_ref().is_none_or(|tls| !tls.is_handshaking())
    }

    /// Writes what TLS has ready; true: the socket is full.
    ///
    /// # Errors
    /// Of the socket.
    pub fn push(&mut self) -> io::Result<bool> {
        let Some(tls) = &mut self.tls else { return Ok(false) };
        while tls.wants_write() {
            match tls.write_tls(&mut self.socket) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }
}

impl AsFd for Line {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Read for Line {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return self.socket.read(into) };
        let mut filled = 0;
        // Everything, since the socket says nothing of what TLS holds already.
        while filled < into.len() {
            match tls.reader().read(&mut into[filled..]) {
                Ok(0) => return Ok(filled),
                Ok(read) => {
                    filled += read;
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            match tls.read_tls(&mut self.socket) {
                Ok(0) => return Ok(filled),
                Ok(_) => drop(tls.process_new_packets().map_err(io::Error::other)?),
                Err(error) if error.kind() == ErrorKind::WouldBlock && filled > 0 => return Ok(filled),
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }
}

impl Write for Line {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return self.socket.write(data) };
        let taken = tls.writer().write(data)?;
        self.push()?;
        if taken == 0 { Err(ErrorKind::WouldBlock.into()) } else { Ok(taken) }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.push().map(drop)
    }
}

//! Mutual TLS between replicas: the other end is a control plane of this trust domain, whatever its address.
//!
//! The chain is verified as usual. In place of a host name, which an advertised address need not be, the certificate's
//! one URI SAN counts: `spiffe://<trust domain>/control-plane/<name>`. An edge's certificate of the same authority is
//! refused.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use hyper_util::rt::TokioIo;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::codegen::{Service, http::Uri};

use crate::identity::{self, Peer, Principal};

/// Which trust domain counts now; it is an object's field and may change.
pub type TrustDomain = Arc<dyn Fn() -> String + Send + Sync>;

/// How a replica connects to others.
#[derive(Clone)]
pub struct PeerTls {
    config: Arc<ClientConfig>,
}

impl PeerTls {
    /// Own chain and key, the authority of the others.
    ///
    /// # Errors
    /// When they make no TLS configuration.
    pub fn new(
        ca: impl IntoIterator<Item = CertificateDer<'static>>,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        trust_domain: TrustDomain,
    ) -> Result<Self, Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        for certificate in ca {
            roots.add(certificate)?;
        }
        let chains = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let chains = chains.build().map_err(|error| Error::General(error.to_string()))?;
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let verifier = Arc::new(ControlPlanes { chains, trust_domain });
        let mut config =
            builder.dangerous().with_custom_certificate_verifier(verifier).with_client_auth_cert(chain, key)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self { config: Arc::new(config) })
    }

    pub(super) fn connector(&self) -> Connector {
        Connector { tls: TlsConnector::from(Arc::clone(&self.config)) }
    }
}

/// Takes the certificate of a control plane, and no other.
struct ControlPlanes {
    chains: Arc<WebPkiServerVerifier>,
    trust_domain: TrustDomain,
}

impl std::fmt::Debug for ControlPlanes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ControlPlanes").finish_non_exhaustive()
    }
}

impl ServerCertVerifier for ControlPlanes {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        // The name is looked at last, after chain, dates and use.
        match self.chains.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Ok(_)
            | Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => {}
            Err(error) => return Err(error),
        }
        let peer = Peer { spiffe: Some(identity::spiffe(end_entity)), loopback: false };
        match identity::principal(&peer, &(self.trust_domain)(), false) {
            Ok(Principal::ControlPlane(_)) => Ok(ServerCertVerified::assertion()),
            Ok(other) => Err(Error::General(format!("the certificate is of {other}, not of a control plane"))),
            Err(refusal) => Err(Error::General(refusal.to_string())),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}

/// Makes one TLS connection to an address.
#[derive(Clone)]
pub(super) struct Connector {
    tls: TlsConnector,
}

type Connecting = Pin<Box<dyn Future<Output = io::Result<TokioIo<TlsStream<TcpStream>>>> + Send>>;

impl Service<Uri> for Connector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = Connecting;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Connecting {
        let tls = self.tls.clone();
        Box::pin(async move {
            let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
            let port = uri.port_u16().unwrap_or(443);
            let name = ServerName::try_from(host.clone()).map_err(io::Error::other)?;
            let socket = TcpStream::connect((host.as_str(), port)).await?;
            socket.set_nodelay(true)?;
            Ok(TokioIo::new(tls.connect(name, socket).await?))
        })
    }
}

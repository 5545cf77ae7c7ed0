//! Admission of connections: a cap, deadlines for the handshake and the first bytes, TLS, and who the peer is.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer},
    server::WebPkiClientVerifier,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::JoinSet,
    time::{Sleep, sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{
    service::Routes,
    transport::{Server, server::Connected},
};

use crate::identity::{self, Peer};

/// What one listener admits.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at a time; more are closed at once.
    pub connections: usize,
    /// For the TLS handshake.
    pub handshake: Duration,
    /// From then to the first bytes: HTTP/2 keep-alive does not cover the time before the preface.
    pub preface: Duration,
    /// For streams to end once the listener is cancelled.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { connections: 20_000, handshake: seconds(5), preface: seconds(10), grace: seconds(5) }
    }
}

/// TLS for proxies: their certificate is required and has to chain to `ca`; HTTP/2 only.
///
/// # Errors
/// When the certificates or the key are unusable.
pub fn mutual_tls(
    ca: impl IntoIterator<Item = CertificateDer<'static>>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<rustls::ServerConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    for certificate in ca {
        roots.add(certificate)?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let verifier = verifier.build().map_err(|e| rustls::Error::General(e.to_string()))?;
    let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = builder.with_client_cert_verifier(verifier).with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// Serves `routes` on `listener` until `cancel`, then for at most the grace period.
/// With `tls` (which has to require client certificates) handlers find a proven [`Peer`] in the request's extensions.
///
/// # Errors
/// When the HTTP/2 server itself fails; a connection that fails ends alone.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Arc<rustls::ServerConfig>>,
    routes: Routes,
    limits: Limits,
    cancel: CancellationToken,
) -> io::Result<()> {
    let (admitted, incoming) = mpsc::channel(16);
    let server = Server::builder()
        .max_concurrent_streams(100)
        // tonic's default is no limit at all, which a flood of malformed headers turns into memory (RUSTSEC-2024-0003).
        .http2_max_local_error_reset_streams(Some(1024))
        .http2_max_pending_accept_reset_streams(Some(20))
        .http2_keepalive_interval(Some(Duration::from_secs(20)))
        .http2_keepalive_timeout(Some(Duration::from_secs(20)))
        .http2_max_header_list_size(16 << 10)
        .add_routes(routes);
    let shutdown = cancel.clone();
    let serving = server.serve_with_incoming_shutdown(ReceiverStream::new(incoming), shutdown.cancelled_owned());
    let deadline = async {
        cancel.cancelled().await;
        sleep(limits.grace).await;
    };
    tokio::select! {
        served = serving => served.map_err(io::Error::other),
        () = accept(&listener, tls.map(TlsAcceptor::from), limits, admitted, &cancel) => Ok(()),
        () = deadline => Ok(()),
    }
}

/// Accepts for ever: a failing accept is waited out, never the end of the listener.
async fn accept(
    listener: &TcpListener,
    tls: Option<TlsAcceptor>,
    limits: Limits,
    admitted: mpsc::Sender<io::Result<Connection>>,
    cancel: &CancellationToken,
) {
    let places = Arc::new(Semaphore::new(limits.connections.min(Semaphore::MAX_PERMITS)));
    let mut handshakes = JoinSet::new();
    loop {
        tokio::select! {
            () = cancel.cancelled() => {
                // New connections end here; those that are served get their grace.
                handshakes.abort_all();
                return std::future::pending().await;
            }
            Some(_) = handshakes.join_next() => {}
            accepted = listener.accept() => match accepted {
                Err(error) => {
                    tracing::warn!(%error, "cannot accept connections");
                    sleep(Duration::from_millis(50)).await;
                }
                Ok((socket, address)) => {
                    let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
                    let (tls, admitted) = (tls.clone(), admitted.clone());
                    handshakes.spawn(async move {
                        match admit(socket, address, tls, limits, place).await {
                            Ok(connection) => {
                                let _ = timeout(limits.handshake, admitted.send(Ok(connection))).await;
                            }
                            Err(error) => tracing::debug!(%address, %error, "connection refused"),
                        }
                    });
                }
            },
        }
    }
}

async fn admit(
    socket: TcpStream,
    address: SocketAddr,
    tls: Option<TlsAcceptor>,
    limits: Limits,
    place: OwnedSemaphorePermit,
) -> io::Result<Connection> {
    socket.set_nodelay(true)?;
    let mut peer = Peer::plain(address.ip());
    let socket = match tls {
        None => Socket::Plain(socket),
        Some(tls) => {
            let stream = timeout(limits.handshake, tls.accept(socket)).await??;
            let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
            peer.spiffe = certificate.map(|certificate| identity::spiffe(certificate));
            Socket::Tls(Box::new(stream))
        }
    };
    Ok(Connection { socket, peer, preface: Some(Box::pin(sleep(limits.preface))), _place: place })
}

/// An admitted connection.
#[derive(Debug)]
struct Connection {
    socket: Socket,
    peer: Peer,
    /// Runs until the first bytes have come.
    preface: Option<Pin<Box<Sleep>>>,
    _place: OwnedSemaphorePermit,
}

#[derive(Debug)]
enum Socket {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

trait Duplex: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Duplex for T {}

impl Connection {
    fn socket(&mut self) -> Pin<&mut dyn Duplex> {
        match &mut self.socket {
            Socket::Plain(socket) => Pin::new(socket),
            Socket::Tls(socket) => Pin::new(&mut **socket),
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = self.socket().poll_read(cx, buf);
        if buf.filled().len() > before {
            self.preface = None;
        } else if let (Poll::Pending, Some(deadline)) = (&read, self.preface.as_mut()) {
            ready!(deadline.as_mut().poll(cx));
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "no HTTP/2 preface")));
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.socket().poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.socket().poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.socket {
            Socket::Plain(socket) => socket.is_write_vectored(),
            Socket::Tls(socket) => socket.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket().poll_shutdown(cx)
    }
}

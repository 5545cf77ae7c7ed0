//! Admission of connections: caps, deadlines, TLS, who the peer is; and HTTP/2 with every limit set.

mod connection;
mod places;
mod tls;

use std::{io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use hyper::{Request, body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tonic::{codegen::Service, service::Routes};

use self::{
    connection::{Connection, Socket},
    places::{Full, Place, Places},
};
use crate::identity::{self, Peer};

pub use self::tls::mutual_tls;

/// The TLS of a port: new handshakes use what is newest.
pub type Tls = watch::Receiver<Arc<rustls::ServerConfig>>;

/// What one listener admits.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at a time; more are closed at once.
    pub connections: usize,
    /// Connections at a time from one address.
    pub per_address: usize,
    /// For the TLS handshake.
    pub handshake: Duration,
    /// From then to the HTTP/2 preface: keep-alive does not cover the time before it.
    pub preface: Duration,
    /// After this, give or take a fifth, a connection is asked to go, so that proxies spread over replicas anew.
    pub age: Option<Duration>,
    /// For streams to end once their connection was asked to go.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            connections: 20_000,
            per_address: 2_000,
            handshake: seconds(5),
            preface: seconds(4),
            age: None,
            grace: seconds(5),
        }
    }
}

/// A gRPC client has a stream for each service that it calls, all on one connection, and those above its server's limit
/// wait without a word: of clients that are proven to be such, more are taken.
const CLIENT_STREAMS: u32 = 1_000;

/// HTTP/2, hardened: what no client of ours needs is refused, and what a hostile one can make us keep is bounded.
fn hardened() -> http2::Builder<TokioExecutor> {
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new())
        // Envoy needs two, grpcurl and the command line one.
        .max_concurrent_streams(100)
        // Without it a flood of malformed headers becomes memory (RUSTSEC-2024-0003).
        .max_local_error_reset_streams(1024)
        // Rapid reset (CVE-2023-44487).
        .max_pending_accept_reset_streams(20)
        .max_header_list_size(16 << 10)
        .max_frame_size(16 << 10)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(1 << 20)
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(20));
    http
}

/// Serves `routes` on `listener` until `cancel`, then for at most the grace period.
/// With `tls` (which has to require client certificates) handlers find a proven [`Peer`] in the request's extensions.
///
/// # Errors
/// None today; a connection that fails ends alone.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Tls>,
    routes: Routes,
    limits: Limits,
    cancel: CancellationToken,
) -> io::Result<()> {
    let intake = Arc::new(Intake { tls, routes: routes.prepare(), limits, http: hardened(), cancel });
    let places = Places::new(limits.connections, limits.per_address);
    let mut connections = JoinSet::new();
    let mut full = Complaint::default();
    loop {
        tokio::select! {
            () = intake.cancel.cancelled() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                // A failing accept is waited out, never the end of the listener.
                Err(error) => {
                    tracing::warn!(%error, "cannot accept connections");
                    sleep(Duration::from_millis(50)).await;
                }
                Ok((socket, address)) => match places.take(address.ip()) {
                    Ok(place) => drop(connections.spawn(Arc::clone(&intake).carry(socket, address, place))),
                    Err(why) => full.note(why, address),
                },
            },
        }
    }
    // From here on whoever comes is sent to another replica; those that are here get their grace.
    drop(listener);
    let rest = async { while connections.join_next().await.is_some() {} };
    // Who has not ended in time is aborted when the set is dropped.
    drop(timeout(limits.grace, rest).await);
    Ok(())
}

/// What all connections of a listener share.
struct Intake {
    tls: Option<Tls>,
    routes: Routes,
    limits: Limits,
    http: http2::Builder<TokioExecutor>,
    cancel: CancellationToken,
}

impl Intake {
    /// One connection from its first byte to its last.
    async fn carry(self: Arc<Self>, socket: TcpStream, address: SocketAddr, place: Place) {
        let admitted = tokio::select! {
            () = self.cancel.cancelled() => return,
            admitted = self.admit(socket, address, place) => admitted,
        };
        let ended = match admitted {
            Ok((connection, peer)) => Box::pin(self.serve(connection, peer)).await,
            Err(error) => Err(error.into()),
        };
        if let Err(error) = ended {
            tracing::debug!(%address, %error, "a connection failed");
        }
    }

    async fn admit(&self, socket: TcpStream, address: SocketAddr, place: Place) -> io::Result<(Connection, Peer)> {
        socket.set_nodelay(true)?;
        let mut peer = Peer::plain(address.ip());
        let socket = match &self.tls {
            None => Socket::Plain(socket),
            Some(tls) => {
                let acceptor = TlsAcceptor::from(Arc::clone(&tls.borrow()));
                let stream = timeout(self.limits.handshake, acceptor.accept(socket)).await??;
                let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
                peer.spiffe = certificate.map(|certificate| identity::spiffe(certificate));
                Socket::Tls(Box::new(stream))
            }
        };
        Ok((Connection::new(socket, self.limits.preface, place), peer))
    }

    async fn serve(&self, connection: Connection, peer: Peer) -> Result<(), tonic::codegen::StdError> {
        let (routes, who) = (&self.routes, peer.clone());
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(who.clone());
            // Routes are always ready.
            routes.clone().call(request)
        });
        let mut http = self.http.clone();
        if peer.is_grpc() {
            http.max_concurrent_streams(CLIENT_STREAMS);
        }
        let mut connection = pin!(http.serve_connection(TokioIo::new(connection), service));
        tokio::select! {
            ended = connection.as_mut() => return Ok(ended?),
            () = self.cancel.cancelled() => {}
            () = self.old() => {}
        }
        connection.as_mut().graceful_shutdown();
        timeout(self.limits.grace, connection).await.unwrap_or(Ok(())).map_err(Into::into)
    }

    /// Waits until a connection is old enough; each at its own time, so that those of a storm do not go together.
    async fn old(&self) {
        match self.limits.age {
            Some(age) => sleep(age.mul_f64(0.8 + 0.4 * fastrand::f64())).await,
            None => std::future::pending().await,
        }
    }
}

/// Says now and then that connections are turned away: a flood of them is not to become one of the log.
#[derive(Default)]
struct Complaint {
    told: Option<Instant>,
    since: u64,
}

impl Complaint {
    const EVERY: Duration = Duration::from_secs(10);

    fn note(&mut self, why: Full, address: SocketAddr) {
        self.since += 1;
        if self.told.is_none_or(|told| told.elapsed() >= Self::EVERY) {
            let flag = match why {
                Full::Total => "--max-connections",
                Full::Address => "--max-connections-per-address",
            };
            tracing::warn!(%address, turned_away = self.since, "no more connections are taken; {flag} is the limit");
            *self = Self { told: Some(Instant::now()), since: 0 };
        }
    }
}

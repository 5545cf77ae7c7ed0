//! Admission of connections: caps, deadlines, TLS, who the peer is; and HTTP/2 with every limit set.
//!
//! A storm, when all proxies come (back) at once, goes through three doors, each as wide as the machine can serve at a
//! time, so that some are done early instead of all late, and memory does not grow with the number of those that wait:
//!
//! 1. The kernel's accept queue is long and emptied at once: a connection that waits here costs a file. Where it was
//!    short, the kernel forgot handshakes, clients tried for a minute, and were reset.
//! 2. So many connections are *being opened* at a time: TLS, preface, and the first requests with 61 kB of node and up to
//!    as much again of versions per thousand resources. By turns of addresses; a silent one takes no turn.
//! 3. So many bytes of *large responses* are under way at a time, by turns of sites. A proxy that reports what it has is
//!    sent little, and does not wait here for those that come with nothing.
//!
//! What waits behind a door has a deadline, and whoever is slow is waited for by nobody: see [`gate`].

mod arrival;
mod connection;
mod gate;
mod outgoing;
mod places;
mod tls;

use std::{
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use hyper::{Request, body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tonic::{codegen::Service, service::Routes};

use self::{
    connection::{Connection, Socket},
    gate::Gate,
    outgoing::{Outgoing, Reaper, Turns},
    places::{Full, Place, Places, one_host},
};
use super::seldom::Seldom;
use crate::identity::{self, Peer};

pub(super) use self::arrival::Held;
pub use self::{arrival::Arrival, tls::mutual_tls};

/// Connections that the kernel keeps for us to accept, as far as it is allowed to (`net.core.somaxconn`): a storm comes
/// faster than a busy core accepts.
const BACKLOG: u32 = 16_384;

/// Nobody waits longer for a turn, whatever is under way.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// How often deadlines that nobody is woken for are looked at.
const TICK: Duration = Duration::from_millis(250);

/// The TLS of a port: new handshakes use what is newest.
pub type Tls = watch::Receiver<Arc<rustls::ServerConfig>>;

/// What one listener admits.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at a time; more are closed at once.
    pub connections: usize,
    /// Connections at a time from one address.
    pub per_address: usize,
    /// Connections being opened at a time, until their first requests are compared, or for as long as a handshake may
    /// take. Each takes two to four round trips and 0.1 to 1 ms of CPU, so that fewer would leave a core idle where
    /// clients are far away; and up to some 400 kB.
    pub openings: usize,
    /// Bytes of large responses under way at a time: 0.2 s of one core's work, and what 10 Gbit/s carry in as long, so
    /// that more would only make each of them later.
    pub under_way: usize,
    /// For how long somebody who takes a large response slowly keeps the next one waiting.
    pub patience: Duration,
    /// For the first byte, and again for the HTTP/2 preface: keep-alive does not cover the time before it.
    pub preface: Duration,
    /// For the TLS handshake.
    pub handshake: Duration,
    /// A client for which there is something, and which takes nothing of it for so long, is cut off. An Envoy whose main
    /// thread is busy with what it was sent last does not read for seconds.
    pub stall: Duration,
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
            openings: 512,
            under_way: 256 << 20,
            patience: seconds(1),
            preface: seconds(4),
            handshake: seconds(5),
            stall: seconds(60),
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

/// A listener at `address` whose accept queue holds a storm.
///
/// # Errors
/// An address that is taken, or not ours.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
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
    let intake = Arc::new(Intake {
        tls,
        routes: routes.prepare(),
        limits,
        http: hardened(),
        openings: Gate::new(limits.openings, limits.handshake, LONGEST_WAIT),
        turns: Gate::new(limits.under_way, limits.patience, LONGEST_WAIT),
        reaper: Reaper::default(),
        cancel,
    });
    let places = Places::new(limits.connections, limits.per_address);
    let mut connections = JoinSet::new();
    let mut full = Complaint::default();
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = intake.cancel.cancelled() => break,
            Some(_) = connections.join_next() => {}
            now = tick.tick() => intake.tick(now.into_std()),
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
    openings: Arc<Gate<IpAddr>>,
    turns: Arc<Turns>,
    reaper: Reaper,
    cancel: CancellationToken,
}

impl Intake {
    fn tick(&self, now: std::time::Instant) {
        self.openings.tick(now);
        self.turns.tick(now);
        let closed = self.reaper.sweep(now, self.limits.stall);
        if closed > 0 {
            tracing::warn!(closed, stall = ?self.limits.stall, "clients that take nothing of what there is for them are cut off");
        }
    }

    /// One connection from its first byte to its last.
    async fn carry(self: Arc<Self>, socket: TcpStream, address: SocketAddr, place: Place) {
        let arrival = Arrival::default();
        let admitted = tokio::select! {
            () = self.cancel.cancelled() => return,
            admitted = self.admit(socket, address, place, &arrival) => admitted,
        };
        let ended = match admitted {
            Ok((connection, peer)) => Box::pin(self.serve(connection, peer, arrival)).await,
            Err(error) => Err(error.into()),
        };
        if let Err(error) = ended {
            tracing::debug!(%address, %error, "a connection failed");
        }
    }

    async fn admit(
        &self,
        socket: TcpStream,
        address: SocketAddr,
        place: Place,
        arrival: &Arrival,
    ) -> io::Result<(Connection, Peer)> {
        socket.set_nodelay(true)?;
        // Readiness alone may be a false alarm.
        if timeout(self.limits.preface, socket.peek(&mut [0])).await?? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let turn = self.openings.queue(one_host(address.ip()), 1, Instant::now().into_std());
        arrival.begin(turn.await.map_err(io::Error::other)?);
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

    async fn serve(
        self: &Arc<Self>,
        connection: Connection,
        peer: Peer,
        arrival: Arrival,
    ) -> Result<(), tonic::codegen::StdError> {
        let (intake, known, who) = (Arc::clone(self), arrival.clone(), peer.clone());
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(who.clone());
            request.extensions_mut().insert(known.clone());
            // Routes are always ready.
            let response = intake.routes.clone().call(request);
            let (intake, arrival) = (Arc::clone(&intake), known.clone());
            async move {
                let response = response.await?;
                let Intake { turns, reaper, cancel, .. } = &*intake;
                Ok::<_, Infallible>(response.map(|body| Outgoing::new(body, arrival, turns, reaper, cancel)))
            }
        });
        let mut http = self.http.clone();
        if peer.is_grpc() {
            http.max_concurrent_streams(CLIENT_STREAMS);
        }
        let mut connection = pin!(http.serve_connection(TokioIo::new(connection), service));
        let asked = Seldom::new(async {
            tokio::select! {
                () = arrival.evicted() => Err("nothing of what there is for it was taken"),
                () = self.cancel.cancelled() => Ok(()),
                () = self.old() => Ok(()),
            }
        });
        tokio::select! {
            biased;
            ended = connection.as_mut() => return Ok(ended?),
            asked = asked => asked?,
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

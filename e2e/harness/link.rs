//! A TCP link between two processes that a test can slow down, hold still, or cut.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// What is forwarded at a time: small beside a second of any rate that a test sets.
const CHUNK_BYTES: usize = 16 * 1024;

/// How far a link behind its rate may catch up: timers are late by a millisecond or two, which is several chunks.
const CATCH_UP: Duration = Duration::from_millis(10);

/// A link that listens at one address and forwards to another; dropping it closes all its connections.
pub(crate) struct Link {
    address: SocketAddr,
    state: Arc<State>,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

struct State {
    to: SocketAddr,
    mode: watch::Sender<Mode>,
    /// Bytes a second, each way; 0 is no limit.
    rate: AtomicU64,
    /// When the link is free again, towards the server and towards the client.
    free: [Mutex<Instant>; 2],
    /// Bytes forwarded, towards the server and towards the client.
    bytes: [AtomicU64; 2],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Open,
    Held,
    Cut,
}

impl Link {
    /// A link to an address, from a free port of 127.0.0.1.
    pub(crate) fn to(to: impl Into<SocketAddr>) -> Self {
        Self::between((Ipv4Addr::LOCALHOST, 0), to)
    }

    /// A link that listens at `from`.
    pub(crate) fn between(from: impl Into<SocketAddr>, to: impl Into<SocketAddr>) -> Self {
        let listener = std::net::TcpListener::bind(from.into()).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let now = Instant::now();
        let state = Arc::new(State {
            to: to.into(),
            mode: watch::Sender::new(Mode::Open),
            rate: AtomicU64::new(0),
            free: [Mutex::new(now), Mutex::new(now)],
            bytes: [AtomicU64::new(0), AtomicU64::new(0)],
        });
        let stop = CancellationToken::new();
        let (its_state, its_stop) = (Arc::clone(&state), stop.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = TcpListener::from_std(listener).unwrap();
                its_stop.run_until_cancelled(accept(listener, its_state)).await;
            });
        });
        Self { address, state, stop, thread: Some(thread) }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Limits all connections together to so many bytes a second, each way; 0 lifts the limit.
    pub(crate) fn throttle(&self, bytes_per_second: u64) {
        self.state.rate.store(bytes_per_second, Ordering::Relaxed);
    }

    /// Forwards nothing more; connections stay, and new ones are accepted.
    pub(crate) fn hold(&self) {
        self.state.mode.send_replace(Mode::Held);
    }

    /// Closes all connections, and new ones at once.
    pub(crate) fn cut(&self) {
        self.state.mode.send_replace(Mode::Cut);
    }

    /// Ends [`Link::hold`] and [`Link::cut`].
    pub(crate) fn open(&self) {
        self.state.mode.send_replace(Mode::Open);
    }

    /// Bytes forwarded so far, towards the server and towards the client.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        let [up, down] = &self.state.bytes;
        (up.load(Ordering::Relaxed), down.load(Ordering::Relaxed))
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else { continue };
                connections.spawn(forward(client, Arc::clone(&state)));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn forward(client: TcpStream, state: Arc<State>) {
    let mut mode = state.mode.subscribe();
    let both_ways = async {
        let Ok(server) = TcpStream::connect(state.to).await else { return };
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let (mut client_read, mut client_write) = client.into_split();
        let (mut server_read, mut server_write) = server.into_split();
        let up = copy(&mut client_read, &mut server_write, 0, &state);
        let down = copy(&mut server_read, &mut client_write, 1, &state);
        tokio::join!(up, down);
    };
    tokio::select! {
        () = both_ways => {}
        _ = mode.wait_for(|mode| *mode == Mode::Cut) => {}
    }
}

/// Forwards one direction until its end, and passes the end on.
async fn copy(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin), way: usize, state: &State) {
    let mut mode = state.mode.subscribe();
    let mut buffer = vec![0; CHUNK_BYTES];
    while let Ok(size @ 1..) = from.read(&mut buffer).await {
        if mode.wait_for(|mode| *mode != Mode::Held).await.is_err() {
            return;
        }
        take_turn(state, way, size).await;
        state.bytes[way].fetch_add(size as u64, Ordering::Relaxed);
        if to.write_all(&buffer[..size]).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

/// Waits until the link has room for so many bytes at its rate.
async fn take_turn(state: &State, way: usize, size: usize) {
    let rate = state.rate.load(Ordering::Relaxed);
    if rate == 0 {
        return;
    }
    let until = {
        let mut free = state.free[way].lock().unwrap();
        let start = (*free).max(Instant::now() - CATCH_UP);
        *free = start + Duration::from_nanos(size as u64 * 1_000_000_000 / rate);
        start
    };
    tokio::time::sleep_until(until.into()).await;
}

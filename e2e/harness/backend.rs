//! A back end in the test's own process, whose answers the query of each request chooses.
//!
//! Without a query it echoes what it received, as JSON. Parameters, joined by `&`: `status=503`; `delay=MS` before the
//! answer; `bytes=N` as the body, in chunks of `chunk=N` bytes each `every=MS`; `headers=N` more response headers;
//! `forge=NAME:VALUE`, repeatable, one response header; `reset`, which closes the connection without an answer.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, Version};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;

/// How many requests are remembered; older ones are only counted.
const REMEMBERED: usize = 10_000;

/// A request as the back end received it.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    /// The method.
    pub(crate) method: String,
    /// The path, without its query.
    pub(crate) path: String,
    /// The query, empty when there is none.
    pub(crate) query: String,
    /// The Host header or `:authority`.
    pub(crate) host: String,
    /// The headers.
    pub(crate) headers: HeaderMap,
    /// How long the body was.
    pub(crate) body_bytes: usize,
    /// The protocol.
    pub(crate) version: Version,
}

/// A running back end; dropping it closes its connections.
pub(crate) struct Backend {
    address: SocketAddr,
    state: Arc<State>,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

struct State {
    name: String,
    always: Mutex<String>,
    records: Mutex<Records>,
}

#[derive(Default)]
struct Records {
    total: u64,
    paths: BTreeMap<String, u64>,
    recent: VecDeque<Received>,
}

impl Backend {
    /// Starts one on a free port of 127.0.0.1. The name comes back in answers: `backend` in the echo, `x-backend`.
    pub(crate) fn start(name: &str) -> Self {
        Self::start_at(name, (Ipv4Addr::LOCALHOST, 0))
    }

    /// Starts one on an address, such as that of one that was dropped.
    pub(crate) fn start_at(name: &str, address: impl Into<SocketAddr>) -> Self {
        let listener = std::net::TcpListener::bind(address.into()).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State { name: name.to_owned(), always: Mutex::default(), records: Mutex::default() });
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

    /// Parameters for every request from now on; those of a request's own query win. Empty for none.
    pub(crate) fn always(&self, parameters: &str) {
        parameters.clone_into(&mut self.state.always.lock().unwrap());
    }

    /// How many requests it has received.
    pub(crate) fn count(&self) -> u64 {
        self.state.records.lock().unwrap().total
    }

    /// How many requests it has received for a path, the query left out.
    pub(crate) fn count_of(&self, path: &str) -> u64 {
        self.state.records.lock().unwrap().paths.get(path).copied().unwrap_or(0)
    }

    /// The latest 10,000 requests, oldest first.
    pub(crate) fn received(&self) -> Vec<Received> {
        self.state.records.lock().unwrap().recent.iter().cloned().collect()
    }

    /// Forgets counts and requests.
    pub(crate) fn forget(&self) {
        *self.state.records.lock().unwrap() = Records::default();
    }
}

impl Drop for Backend {
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
                // A connection that ended before it was accepted is its client's matter.
                let Ok((stream, _)) = accepted else { continue };
                connections.spawn(serve(stream, Arc::clone(&state)));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Serves HTTP/1, or HTTP/2 where the connection opens with its preface (RFC 9113, section 3.4).
async fn serve(stream: TcpStream, state: Arc<State>) {
    let _ = stream.set_nodelay(true);
    let mut start = [0; 3];
    let Ok(_) = stream.peek(&mut start).await else { return };
    let service = service_fn(move |request| answer(request, Arc::clone(&state)));
    let io = TokioIo::new(stream);
    // Errors are the peer's end of the connection, or a `reset` that was asked for.
    if &start == b"PRI" {
        let mut http2 = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        http2.timer(TokioTimer::new()).max_header_list_size(1 << 20).max_concurrent_streams(1_000);
        let _ = http2.serve_connection(io, service).await;
    } else {
        let mut http1 = hyper::server::conn::http1::Builder::new();
        http1.timer(TokioTimer::new()).header_read_timeout(None).max_headers(400);
        let _ = http1.serve_connection(io, service).await;
    }
}

/// What a request asked for by its query.
#[derive(Default)]
struct Wish {
    status: Option<u16>,
    delay: Duration,
    bytes: Option<usize>,
    chunk: usize,
    every: Duration,
    headers: usize,
    forged: Vec<(String, String)>,
    reset: bool,
}

impl Wish {
    fn parse(queries: &[&str]) -> Self {
        let mut wish = Self { chunk: 16 * 1024, ..Self::default() };
        for parameter in queries.iter().flat_map(|query| query.split('&')) {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let number = || value.parse::<usize>().unwrap_or(0);
            let time = || Duration::from_millis(value.parse().unwrap_or(0));
            match name {
                "status" => wish.status = value.parse().ok(),
                "delay" => wish.delay = time(),
                "bytes" => wish.bytes = Some(number()),
                "chunk" => wish.chunk = number().max(1),
                "every" => wish.every = time(),
                "headers" => wish.headers = number(),
                "forge" => wish.forged.extend(value.split_once(':').map(|(n, v)| (n.to_owned(), v.to_owned()))),
                "reset" => wish.reset = true,
                _ => {}
            }
        }
        wish
    }
}

async fn answer(request: http::Request<Incoming>, state: Arc<State>) -> Result<Response<Payload>, String> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(|error| error.to_string())?.to_bytes();
    let host = parts.headers.get(http::header::HOST).and_then(|host| host.to_str().ok());
    let host = host.or(parts.uri.authority().map(|authority| authority.as_str())).unwrap_or_default().to_owned();
    let received = Received {
        method: parts.method.to_string(),
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        host,
        headers: parts.headers,
        body_bytes: body.len(),
        version: parts.version,
    };
    let always = state.always.lock().unwrap().clone();
    let wish = Wish::parse(&[&always, &received.query]);
    let echo = echo(&state.name, &received);
    state.records.lock().unwrap().add(received);

    tokio::time::sleep(wish.delay).await;
    if wish.reset {
        return Err("asked to reset".to_owned());
    }
    let payload = match wish.bytes {
        Some(bytes) => Payload { left: bytes, chunk: wish.chunk, every: wish.every, text: None, pause: None },
        None => Payload { left: echo.len(), chunk: usize::MAX, every: Duration::ZERO, text: Some(echo), pause: None },
    };
    let mut response = Response::new(payload);
    *response.status_mut() = wish.status.and_then(|status| status.try_into().ok()).unwrap_or_default();
    let headers = response.headers_mut();
    headers.insert("x-backend", state.name.parse().map_err(|_| "the name is no header value")?);
    for number in 0..wish.headers {
        if let Ok(name) = HeaderName::try_from(format!("x-more-{number}")) {
            headers.insert(name, HeaderValue::from_static("1"));
        }
    }
    for (name, value) in wish.forged {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            headers.append(name, value);
        }
    }
    Ok(response)
}

impl Records {
    fn add(&mut self, received: Received) {
        self.total += 1;
        *self.paths.entry(received.path.clone()).or_default() += 1;
        if self.recent.len() == REMEMBERED {
            self.recent.pop_front();
        }
        self.recent.push_back(received);
    }
}

fn echo(backend: &str, received: &Received) -> Bytes {
    let mut headers = BTreeMap::<&str, String>::new();
    for (name, value) in &received.headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        headers.entry(name.as_str()).and_modify(|all| *all = format!("{all},{value}")).or_insert(value.into_owned());
    }
    let json = serde_json::json!({
        "backend": backend,
        "method": received.method,
        "path": received.path,
        "query": received.query,
        "host": received.host,
        "version": format!("{:?}", received.version),
        "bodyBytes": received.body_bytes,
        "headers": headers,
    });
    Bytes::from(json.to_string())
}

/// A body: one text, or so many bytes at their pace.
struct Payload {
    left: usize,
    chunk: usize,
    every: Duration,
    text: Option<Bytes>,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Body for Payload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        if let Some(text) = self.text.take() {
            self.left = 0;
            return Poll::Ready(Some(Ok(Frame::data(text))));
        }
        if let Some(pause) = &mut self.pause {
            if pause.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            self.pause = None;
        }
        let size = self.chunk.min(self.left);
        self.left -= size;
        if !self.every.is_zero() {
            self.pause = Some(Box::pin(tokio::time::sleep(self.every)));
        }
        Poll::Ready(Some(Ok(Frame::data(Bytes::from(vec![b'x'; size])))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left as u64)
    }
}

//! An HTTP client for tests: every choice is the caller's (address, Host, SNI, protocol), nothing is retried, nothing
//! is followed, and every request has a deadline.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, Version, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use super::RUNTIME;

/// After this a request has failed.
const DEFAULT_LIMIT: Duration = Duration::from_secs(10);

type Sent = http::Response<Incoming>;
type Unsent = TrySendError<http::Request<Full<Bytes>>>;

/// How a client speaks TLS.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tls {
    /// PEM of the authorities that it trusts.
    pub(crate) ca: String,
    /// The name asked for, when it is not the URL's host.
    pub(crate) sni: Option<String>,
    /// PEM of the client's certificate chain and key.
    pub(crate) identity: Option<(String, String)>,
}

/// A request, and how to send it.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
    to: Option<SocketAddr>,
    http2: bool,
    tls: Tls,
    limit: Duration,
}

/// A complete answer.
#[derive(Clone, Debug)]
pub(crate) struct Response {
    /// The status code.
    pub(crate) status: u16,
    /// The headers.
    pub(crate) headers: HeaderMap,
    /// The whole body.
    pub(crate) body: Bytes,
    /// The protocol that it came by.
    pub(crate) version: Version,
}

impl Request {
    /// GET of a URL: its host is the Host header, and the address to connect to unless [`Request::to`] says another.
    ///
    /// # Panics
    /// When the URL is not absolute.
    pub(crate) fn get(url: &str) -> Self {
        let uri: Uri = url.parse().unwrap_or_else(|error| panic!("{url}: {error}"));
        assert!(uri.scheme().is_some() && uri.authority().is_some(), "{url}: not absolute");
        Self {
            method: Method::GET,
            uri,
            headers: HeaderMap::new(),
            body: Bytes::new(),
            to: None,
            http2: false,
            tls: Tls::default(),
            limit: DEFAULT_LIMIT,
        }
    }

    /// Another method.
    pub(crate) fn method(mut self, method: &str) -> Self {
        self.method = method.parse().unwrap();
        self
    }

    /// One more header (`host` overrides the URL's, HTTP/1 only).
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.append(name.parse::<HeaderName>().unwrap(), value.parse::<HeaderValue>().unwrap());
        self
    }

    /// The body.
    pub(crate) fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// The address to connect to.
    pub(crate) fn to(mut self, address: impl Into<SocketAddr>) -> Self {
        self.to = Some(address.into());
        self
    }

    /// HTTP/2: by ALPN on https, with prior knowledge on http.
    pub(crate) fn http2(mut self) -> Self {
        self.http2 = true;
        self
    }

    /// How to speak TLS, for https URLs.
    pub(crate) fn tls(mut self, tls: Tls) -> Self {
        self.tls = tls;
        self
    }

    /// The time for all of it, connecting and the body included. 10 s unless said otherwise.
    pub(crate) fn within(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Whether it goes by HTTP/2.
    pub(crate) fn is_http2(&self) -> bool {
        self.http2
    }

    /// The URL.
    pub(crate) fn url(&self) -> String {
        self.uri.to_string()
    }

    /// Sends it on a connection of its own and waits for the complete answer. For tests, not for async code.
    ///
    /// # Errors
    /// In words: refused, reset, timed out, a certificate that does not hold.
    pub(crate) fn send(&self) -> Result<Response, String> {
        RUNTIME.block_on(self.send_async())
    }

    /// As [`Request::send`].
    ///
    /// # Errors
    /// As [`Request::send`].
    pub(crate) async fn send_async(&self) -> Result<Response, String> {
        let exchange = async {
            let mut connection = Connection::open(self).await?;
            connection.send(self).await.map_err(SendError::into_text)
        };
        within(self.limit, exchange).await?
    }

    /// Sends it on a connection of its own and waits for the headers only. The body is the caller's to read or not to
    /// read; dropping the connection cancels the request.
    ///
    /// # Errors
    /// As [`Request::send`].
    pub(crate) async fn start(&self) -> Result<(Connection, Sent), String> {
        let exchange = async {
            let mut connection = Connection::open(self).await?;
            let response = connection.start(self).await.map_err(SendError::into_text)?;
            Ok((connection, response))
        };
        within(self.limit, exchange).await?
    }

    fn to_http(&self) -> http::Request<Full<Bytes>> {
        let mut request = http::Request::new(Full::new(self.body.clone()));
        *request.method_mut() = self.method.clone();
        *request.headers_mut() = self.headers.clone();
        if self.http2 {
            *request.version_mut() = Version::HTTP_2;
            *request.uri_mut() = self.uri.clone();
        } else {
            let path = self.uri.path_and_query().map_or("/", |path| path.as_str());
            *request.uri_mut() = path.parse().unwrap();
            let host = self.uri.authority().unwrap().as_str().parse().unwrap();
            request.headers_mut().entry(header::HOST).or_insert(host);
        }
        request
    }

    async fn address(&self) -> Result<SocketAddr, String> {
        if let Some(to) = self.to {
            return Ok(to);
        }
        let default_port = if self.is_https() { 443 } else { 80 };
        let host = (self.uri.host().unwrap_or_default(), self.uri.port_u16().unwrap_or(default_port));
        let found = tokio::net::lookup_host(host).await.map_err(|error| format!("{host:?}: {error}"))?.next();
        found.ok_or_else(|| format!("{host:?}: no address"))
    }

    fn is_https(&self) -> bool {
        self.uri.scheme_str() == Some("https")
    }
}

impl Response {
    /// A header's value, its first one.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// When it is none.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// Whether the server said that it closes the connection after this answer (HTTP/1).
    pub(crate) fn announces_close(&self) -> bool {
        let values = self.headers.get_all(header::CONNECTION);
        values.iter().any(|value| value.as_bytes().eq_ignore_ascii_case(b"close"))
    }
}

/// Why a request has no answer.
#[derive(Debug)]
pub(crate) enum SendError {
    /// Nothing of it was written, because the connection was known to be closing. Another may carry it; that is no
    /// retry.
    NotSent(String),
    /// It was sent, at least in part.
    Failed(String),
}

impl SendError {
    /// The reason, in words.
    pub(crate) fn into_text(self) -> String {
        match self {
            Self::NotSent(text) | Self::Failed(text) => text,
        }
    }
}

/// A keep-alive connection. Dropping it, and for HTTP/2 its siblings, closes it.
#[derive(Debug)]
pub(crate) struct Connection {
    sender: Sender,
    driver: Arc<JoinSet<()>>,
}

#[derive(Debug)]
enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Connection {
    /// Opens one as this request wants it: address, TLS, protocol.
    ///
    /// # Errors
    /// In words.
    pub(crate) async fn open(request: &Request) -> Result<Self, String> {
        let address = request.address().await?;
        let stream = TcpStream::connect(address).await.map_err(|error| format!("connect to {address}: {error}"))?;
        let _ = stream.set_nodelay(true);
        if !request.is_https() {
            return Self::handshake(stream, request.http2).await;
        }
        let name = request.tls.sni.as_deref().or(request.uri.host()).unwrap_or_default();
        let name = ServerName::try_from(name.to_owned()).map_err(|error| format!("{name}: {error}"))?;
        let connector = TlsConnector::from(Arc::new(client_config(&request.tls, request.http2)?));
        let stream = connector.connect(name, stream).await.map_err(|error| format!("TLS with {address}: {error}"))?;
        Self::handshake(stream, request.http2).await
    }

    async fn handshake<S>(stream: S, http2: bool) -> Result<Self, String>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let io = TokioIo::new(stream);
        let mut driver = JoinSet::new();
        // How a connection ends is told to the requests on it.
        let sender = if http2 {
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder.timer(TokioTimer::new()).max_header_list_size(1 << 20);
            let (sender, connection) = builder.handshake(io).await.map_err(|error| words(&error))?;
            driver.spawn(async move { drop(connection.await) });
            Sender::Http2(sender)
        } else {
            let mut builder = http1::Builder::new();
            builder.max_headers(400);
            let (sender, connection) = builder.handshake(io).await.map_err(|error| words(&error))?;
            driver.spawn(async move { drop(connection.await) });
            Sender::Http1(sender)
        };
        Ok(Self { sender, driver: Arc::new(driver) })
    }

    /// Another handle to the same HTTP/2 connection, for a concurrent request; HTTP/1 has none.
    pub(crate) fn sibling(&self) -> Option<Self> {
        match &self.sender {
            Sender::Http1(_) => None,
            Sender::Http2(sender) => {
                Some(Self { sender: Sender::Http2(sender.clone()), driver: Arc::clone(&self.driver) })
            }
        }
    }

    /// Waits until it takes a request; `false` when it is closed or has been announced as closing.
    pub(crate) async fn is_usable(&mut self) -> bool {
        match &mut self.sender {
            Sender::Http1(sender) => sender.ready().await.is_ok(),
            Sender::Http2(sender) => sender.ready().await.is_ok(),
        }
    }

    /// Sends a request and waits for the complete answer. No deadline: that is the caller's.
    ///
    /// # Errors
    /// See [`SendError`].
    pub(crate) async fn send(&mut self, request: &Request) -> Result<Response, SendError> {
        let (parts, body) = self.start(request).await?.into_parts();
        let body = body.collect().await.map_err(|error| {
            SendError::Failed(format!("status {}, then the body broke off: {}", parts.status, words(&error)))
        })?;
        let (status, headers, version) = (parts.status.as_u16(), parts.headers, parts.version);
        Ok(Response { status, headers, body: body.to_bytes(), version })
    }

    /// Sends a request and waits for the headers.
    ///
    /// # Errors
    /// See [`SendError`].
    pub(crate) async fn start(&mut self, request: &Request) -> Result<Sent, SendError> {
        let message = request.to_http();
        let outcome = match &mut self.sender {
            Sender::Http1(sender) => match sender.ready().await {
                Ok(()) => sender.try_send_request(message).await,
                Err(error) => return Err(SendError::NotSent(words(&error))),
            },
            Sender::Http2(sender) => sender.try_send_request(message).await,
        };
        outcome.map_err(|mut error: Unsent| match error.take_message() {
            Some(_) => SendError::NotSent(words(error.error())),
            None => SendError::Failed(words(error.error())),
        })
    }
}

async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> Result<T, String> {
    tokio::time::timeout(limit, work).await.map_err(|_| format!("timed out after {limit:?}"))
}

fn client_config(tls: &Tls, http2: bool) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&tls.ca)? {
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots);
    let mut config = match &tls.identity {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => {
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|error| error.to_string())?;
            builder.with_client_auth_cert(certificates(chain)?, key).map_err(|error| error.to_string())?
        }
    };
    config.alpn_protocols = vec![if http2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
    Ok(config)
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().map_err(|error| error.to_string())
}

/// An error with its causes: hyper's own text leaves them out.
fn words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

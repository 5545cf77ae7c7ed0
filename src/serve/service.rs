//! The gRPC side of xDS: each stream runs inside its response; admission of streams by node id.

use std::{
    convert::Infallible,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use dashmap::DashMap;
use futures::FutureExt;
use tokio::{
    sync::watch,
    time::{Sleep, sleep},
};
use tokio_util::sync::CancellationToken;
use tonic::{
    Status,
    codegen::{Body, BoxFuture, Service},
    server::NamedService,
    service::Routes,
};

use super::{doubts::Doubts, fanout::Fanouts, intake::Arrival, requests::Requests, stream, wire::Variant};
use crate::{
    feedback::{Feedback, ProxyId},
    identity::Peer,
    model::{Audience, Sites, Watermarks},
    snapshot::Views,
    xds::ResourceType,
};

/// Bytes of one request of somebody whom we may believe: a reconnect names everything that the proxy has.
const MAX_REQUEST: usize = 16 << 20;
/// Bytes of one request of anybody else: enough for an Envoy's node, so that its refusal can be named.
const MAX_REQUEST_UNPROVEN: usize = 256 << 10;
/// Streams per proxy; hot restart needs two.
const STREAMS_PER_PROXY: usize = 2;

const GRPC: http::HeaderValue = http::HeaderValue::from_static("application/grpc");

/// What streams are told of the fleet, as it changes.
#[derive(Clone, Debug)]
pub struct Fleet {
    /// All sites, as identity needs them.
    pub sites: watch::Receiver<Arc<Sites>>,
    /// How far each site has come; only streams that wait for that are woken.
    pub watermarks: watch::Receiver<Arc<Watermarks>>,
    /// Whether the store's changes arrive.
    pub fresh: watch::Receiver<bool>,
}

/// What all streams share.
#[derive(Debug)]
pub struct Shared {
    /// The views.
    pub views: Arc<Views>,
    /// Where acknowledgements go.
    pub feedback: Arc<Feedback>,
    /// The fleet.
    pub fleet: Fleet,
    /// `control_plane.identifier`.
    pub identifier: Arc<str>,
    /// Claims without a certificate are believed from everywhere.
    pub allow_unproven: bool,
    /// Ends all streams with `UNAVAILABLE`.
    pub cancel: CancellationToken,
}

/// One streaming method of the xDS services.
#[derive(Debug)]
pub(super) struct Method {
    name: &'static str,
    pub(super) variant: Variant,
    /// The one type of a service that is not aggregated.
    pub(super) only: Option<ResourceType>,
}

const fn delta(name: &'static str, only: Option<ResourceType>) -> Method {
    Method { name, variant: Variant::Delta, only }
}

const fn world(name: &'static str, only: Option<ResourceType>) -> Method {
    Method { name, variant: Variant::World, only }
}

/// A service and its methods.
type Methods = (&'static str, &'static [Method]);

/// The services; the aggregated one first.
static SERVICES: [Methods; 10] = {
    use ResourceType::{Cluster, Endpoints, Extension, Listener, Route, Runtime, ScopedRoute, Secret, VirtualHost};
    [
        (
            "envoy.service.discovery.v3.AggregatedDiscoveryService",
            &[delta("DeltaAggregatedResources", None), world("StreamAggregatedResources", None)],
        ),
        (
            "envoy.service.cluster.v3.ClusterDiscoveryService",
            &[delta("DeltaClusters", Some(Cluster)), world("StreamClusters", Some(Cluster))],
        ),
        (
            "envoy.service.endpoint.v3.EndpointDiscoveryService",
            &[delta("DeltaEndpoints", Some(Endpoints)), world("StreamEndpoints", Some(Endpoints))],
        ),
        (
            "envoy.service.listener.v3.ListenerDiscoveryService",
            &[delta("DeltaListeners", Some(Listener)), world("StreamListeners", Some(Listener))],
        ),
        (
            "envoy.service.route.v3.RouteDiscoveryService",
            &[delta("DeltaRoutes", Some(Route)), world("StreamRoutes", Some(Route))],
        ),
        (
            "envoy.service.secret.v3.SecretDiscoveryService",
            &[delta("DeltaSecrets", Some(Secret)), world("StreamSecrets", Some(Secret))],
        ),
        (
            "envoy.service.extension.v3.ExtensionConfigDiscoveryService",
            &[delta("DeltaExtensionConfigs", Some(Extension)), world("StreamExtensionConfigs", Some(Extension))],
        ),
        (
            "envoy.service.route.v3.ScopedRoutesDiscoveryService",
            &[delta("DeltaScopedRoutes", Some(ScopedRoute)), world("StreamScopedRoutes", Some(ScopedRoute))],
        ),
        (
            "envoy.service.runtime.v3.RuntimeDiscoveryService",
            &[delta("DeltaRuntime", Some(Runtime)), world("StreamRuntime", Some(Runtime))],
        ),
        ("envoy.service.route.v3.VirtualHostDiscoveryService", &[delta("DeltaVirtualHosts", Some(VirtualHost))]),
    ]
};

/// One service, by its place in [`SERVICES`].
#[derive(Clone, Debug)]
struct Discovery<const SERVICE: usize> {
    inner: Arc<Inner>,
}

/// The xDS services, aggregated and of one type each.
pub fn routes(shared: Shared) -> Routes {
    let inner = Arc::new(Inner {
        shared,
        fanouts: Mutex::default(),
        doubts: Arc::default(),
        streams: DashMap::new(),
        open: AtomicUsize::new(0),
    });
    Routes::new(Discovery::<0> { inner: Arc::clone(&inner) })
        .add_service(Discovery::<1> { inner: Arc::clone(&inner) })
        .add_service(Discovery::<2> { inner: Arc::clone(&inner) })
        .add_service(Discovery::<3> { inner: Arc::clone(&inner) })
        .add_service(Discovery::<4> { inner: Arc::clone(&inner) })
        .add_service(Discovery::<5> { inner: Arc::clone(&inner) })
        .add_service(Discovery::<6> { inner: Arc::clone(&inner) })
        .add_service(Discovery::<7> { inner: Arc::clone(&inner) })
        .add_service(Discovery::<8> { inner: Arc::clone(&inner) })
        .add_service(Discovery::<9> { inner })
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) shared: Shared,
    fanouts: Mutex<std::collections::BTreeMap<Audience, Weak<Fanouts>>>,
    /// What proxies may have half accepted.
    pub(super) doubts: Arc<Doubts>,
    streams: DashMap<ProxyId, Vec<CancellationToken>>,
    /// Streams whose end is not sent yet.
    open: AtomicUsize,
}

impl Inner {
    /// The fan-outs of a view, shared by its streams.
    pub(super) fn fanouts(&self, audience: &Audience) -> Arc<Fanouts> {
        let mut all = self.fanouts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = all.get(audience).and_then(Weak::upgrade) {
            return found;
        }
        all.retain(|_, f| f.strong_count() > 0);
        let new = Arc::new(Fanouts::new(Arc::clone(&self.shared.identifier)));
        all.insert(audience.clone(), Arc::downgrade(&new));
        new
    }

    /// Registers a stream of `id`; beyond two that speak for the `whole` proxy the oldest is closed. Of the others it
    /// needs one for each resource (O26) or target; the connection limits them.
    pub(super) fn admit(self: &Arc<Self>, id: &ProxyId, whole: bool) -> Admitted {
        let token = CancellationToken::new();
        if !whole {
            return Admitted { inner: Arc::clone(self), id: id.clone(), token };
        }
        let mut streams = self.streams.entry(id.clone()).or_default();
        streams.push(token.clone());
        if streams.len() > STREAMS_PER_PROXY {
            streams.remove(0).cancel();
        }
        Admitted { inner: Arc::clone(self), id: id.clone(), token }
    }
}

/// A stream's place among those of its proxy.
#[derive(Debug)]
pub(super) struct Admitted {
    inner: Arc<Inner>,
    id: ProxyId,
    /// Cancelled when a newer stream takes the place.
    pub(super) token: CancellationToken,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        // Only its own token; `cancel` tells them apart, for equality they do not offer.
        self.token.cancel();
        if let Some(mut streams) = self.inner.streams.get_mut(&self.id) {
            streams.retain(|t| !t.is_cancelled());
        }
        self.inner.streams.remove_if(&self.id, |_, streams| streams.is_empty());
    }
}

impl<const SERVICE: usize> NamedService for Discovery<SERVICE> {
    const NAME: &'static str = SERVICES[SERVICE].0;
}

impl<const SERVICE: usize> Service<http::Request<tonic::body::Body>> for Discovery<SERVICE> {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let called = request.uri().path().rsplit('/').next().unwrap_or_default();
        let Some(method) = SERVICES[SERVICE].1.iter().find(|method| method.name == called) else {
            let refusal = Status::unimplemented("the streaming methods are served, Fetch… is not");
            return Box::pin(std::future::ready(Ok(refusal.into_http())));
        };
        let peer = request.extensions().get::<Peer>().cloned().unwrap_or_default();
        let arrival = request.extensions().get::<Arrival>().cloned().unwrap_or_default();
        let shared = &self.inner.shared;
        let believable = peer.spiffe.is_some() || peer.loopback || shared.allow_unproven;
        let limit = if believable { MAX_REQUEST } else { MAX_REQUEST_UNPROVEN };
        let requests = Requests::new(request.into_body(), method.variant, limit, arrival.hold());
        let slot = Slot::default();
        let stream = stream::run(Arc::clone(&self.inner), (peer, arrival), method, requests, slot.clone());
        // A panic ends this stream and no other of its connection.
        let stream = Box::pin(
            AssertUnwindSafe(stream)
                .catch_unwind()
                .map(|ended| ended.unwrap_or_else(|_| Err(Status::unavailable("internal error; please reconnect")))),
        );
        let end = End::new(Arc::clone(&self.inner));
        let body = tonic::body::Body::new(Responses { slot, stream: Some(stream), ended: None, end });
        Box::pin(std::future::ready(Ok(grpc_response(body))))
    }
}

fn grpc_response(body: tonic::body::Body) -> http::Response<tonic::body::Body> {
    let mut response = http::Response::new(body);
    response.headers_mut().insert(http::header::CONTENT_TYPE, GRPC);
    response
}

/// The responses of one stream, and the stream itself, which runs whenever its connection can take something: no task
/// of its own, no queue, no copy of what all streams share. While the proxy reads nothing, nothing is read of it.
struct Responses {
    slot: Slot,
    stream: Running,
    /// How it ended, until that is said.
    ended: Option<Status>,
    end: End,
}

/// Where a stream puts the frame that its response takes: room for one, beside what the connection has taken and the
/// client has not. What is newer is decided when there is room again.
#[derive(Clone, Debug, Default)]
pub(super) struct Slot(Arc<Mutex<Option<Bytes>>>);

impl Slot {
    pub(super) fn is_full(&self) -> bool {
        self.frame().is_some()
    }

    pub(super) fn put(&self, frame: Bytes) {
        *self.frame() = Some(frame);
    }

    fn take(&self) -> Option<Bytes> {
        self.frame().take()
    }

    fn frame(&self) -> MutexGuard<'_, Option<Bytes>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The end of a stream, which at shutdown is put off for a while of its own: proxies whose streams end together come
/// back together, all of them to the next replica.
#[derive(Debug)]
struct End {
    inner: Arc<Inner>,
    wait: Option<Pin<Box<Sleep>>>,
}

/// What shutdown adds for each stream, and at most.
const APART: Duration = Duration::from_micros(200);
const APART_MAX: Duration = Duration::from_secs(2);

/// Over how much time so many streams end.
pub(super) fn apart(streams: usize) -> Duration {
    APART.saturating_mul(u32::try_from(streams).unwrap_or(u32::MAX)).min(APART_MAX)
}

impl End {
    fn new(inner: Arc<Inner>) -> Self {
        inner.open.fetch_add(1, Ordering::Relaxed);
        Self { inner, wait: None }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let inner = &self.inner;
        if !inner.shared.cancel.is_cancelled() {
            return Poll::Ready(());
        }
        let wait = self
            .wait
            .get_or_insert_with(|| Box::pin(sleep(apart(inner.open.load(Ordering::Relaxed)).mul_f64(fastrand::f64()))));
        wait.as_mut().poll(context)
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.inner.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A stream that runs, until it has ended.
type Running = Option<Pin<Box<dyn Future<Output = Result<(), Status>> + Send>>>;

impl Body for Responses {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
        if let Some(stream) = self.stream.as_mut()
            && let Poll::Ready(ended) = stream.as_mut().poll(context)
        {
            self.stream = None;
            self.ended = Some(ended.err().unwrap_or_else(|| Status::ok("")));
        }
        if let Some(frame) = self.slot.take() {
            return Poll::Ready(Some(Ok(http_body::Frame::data(frame))));
        }
        if self.stream.is_some() {
            return Poll::Pending;
        }
        if self.ended.is_some() {
            ready!(self.end.poll(context));
        }
        let Some(status) = self.ended.take() else { return Poll::Ready(None) };
        let mut trailers = http::HeaderMap::new();
        // Our own messages are valid header values.
        drop(status.add_header(&mut trailers));
        Poll::Ready(Some(Ok(http_body::Frame::trailers(trailers))))
    }
}

//! The gRPC side of ADS: one task per stream, owned by its response; admission of streams by node id.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use dashmap::DashMap;
use tokio::{
    sync::{mpsc, watch},
    time::{Sleep, sleep},
};
use tokio_stream::Stream;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tonic::{
    Status, Streaming,
    codegen::{Body, BoxFuture, Service, StdError},
    server::{Grpc, NamedService, StreamingService},
};

use super::{
    fanout::Fanouts,
    stream,
    wire::{DeltaCodec, DeltaRequest},
};
use crate::{
    feedback::{Feedback, ProxyId},
    identity::Peer,
    model::{Audience, Sites, Watermarks},
    snapshot::Views,
};

/// Bytes of one request of somebody whom we may believe: a reconnect names everything that the proxy has.
const MAX_REQUEST: usize = 16 << 20;
/// Bytes of one request of anybody else: enough for an Envoy's node, so that its refusal can be named.
const MAX_REQUEST_UNPROVEN: usize = 256 << 10;
/// Streams per proxy; hot restart needs two.
const STREAMS_PER_PROXY: usize = 2;

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

/// `envoy.service.discovery.v3.AggregatedDiscoveryService`, delta.
#[derive(Clone, Debug)]
pub struct AggregatedDiscovery {
    inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) shared: Shared,
    fanouts: Mutex<std::collections::BTreeMap<Audience, Weak<Fanouts>>>,
    streams: DashMap<ProxyId, Vec<CancellationToken>>,
    /// Streams whose end is not sent yet.
    open: AtomicUsize,
}

impl AggregatedDiscovery {
    /// The service.
    pub fn new(shared: Shared) -> Self {
        Self {
            inner: Arc::new(Inner {
                shared,
                fanouts: Mutex::default(),
                streams: DashMap::new(),
                open: AtomicUsize::new(0),
            }),
        }
    }
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

    /// Registers a stream of `id`; beyond two the oldest is closed.
    pub(super) fn admit(self: &Arc<Self>, id: &ProxyId) -> Admitted {
        let token = CancellationToken::new();
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

impl NamedService for AggregatedDiscovery {
    const NAME: &'static str = "envoy.service.discovery.v3.AggregatedDiscoveryService";
}

impl<B> Service<http::Request<B>> for AggregatedDiscovery
where
    B: Body + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let method = request.uri().path().rsplit('/').next();
        if method != Some("DeltaAggregatedResources") {
            // State of the world comes with gRPC clients; load reports with steering.
            return Box::pin(async {
                Ok(Status::unimplemented("only DeltaAggregatedResources is served").into_http())
            });
        }
        let peer = request.extensions().get::<Peer>().cloned().unwrap_or_default();
        let shared = &self.inner.shared;
        let believable = peer.spiffe.is_some() || peer.loopback || shared.allow_unproven;
        let limit = if believable { MAX_REQUEST } else { MAX_REQUEST_UNPROVEN };
        let method = Delta { inner: Arc::clone(&self.inner), peer };
        Box::pin(async move {
            let mut grpc = Grpc::new(DeltaCodec).max_decoding_message_size(limit);
            Ok(grpc.streaming(method, request).await)
        })
    }
}

struct Delta {
    inner: Arc<Inner>,
    peer: Peer,
}

impl StreamingService<DeltaRequest> for Delta {
    type Response = Bytes;
    type ResponseStream = Responses;
    type Future = BoxFuture<tonic::Response<Responses>, Status>;

    fn call(&mut self, request: tonic::Request<Streaming<DeltaRequest>>) -> Self::Future {
        // Room for one frame being written and one that waits: what is newer is decided when there is room again.
        let (tx, frames) = mpsc::channel(1);
        let run = stream::run(Arc::clone(&self.inner), self.peer.clone(), request.into_inner(), tx);
        // A task of its own, so that a panic ends this stream and no other; dropped with the response.
        #[expect(clippy::disallowed_methods, reason = "the handle aborts it when the response is dropped")]
        let task = AbortOnDropHandle::new(tokio::spawn(run));
        let end = End::new(Arc::clone(&self.inner));
        Box::pin(async move { Ok(tonic::Response::new(Responses { frames, task: Some(task), end })) })
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.inner.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The responses of one stream; its task ends when this is dropped.
#[derive(Debug)]
pub(super) struct Responses {
    frames: mpsc::Receiver<Bytes>,
    task: Option<AbortOnDropHandle<Result<(), Status>>>,
    end: End,
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

impl Stream for Responses {
    type Item = Result<Bytes, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.frames.poll_recv(context) {
            Poll::Ready(Some(frame)) => return Poll::Ready(Some(Ok(frame))),
            Poll::Pending => return Poll::Pending,
            Poll::Ready(None) => {}
        }
        // The sender is gone: the task says how it ended.
        if self.task.is_none() {
            return Poll::Ready(None);
        }
        std::task::ready!(self.end.poll(context));
        let Some(task) = self.task.as_mut() else { return Poll::Ready(None) };
        let ended = std::task::ready!(Pin::new(task).poll(context));
        self.task = None;
        match ended {
            Ok(Ok(())) => Poll::Ready(None),
            Ok(Err(status)) => Poll::Ready(Some(Err(status))),
            Err(_) => Poll::Ready(Some(Err(Status::unavailable("internal error; please reconnect")))),
        }
    }
}

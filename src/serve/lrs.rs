//! Load reports: the service, and one stream of it. Sums are kept by [`feedback::load`](crate::feedback::load).

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use envoy_types::pb::{envoy::service::load_stats::v3::LoadStatsResponse, google::protobuf};
use futures::Stream;
use prost::Message;
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::{
    Status, Streaming,
    codegen::{Body, BoxFuture, Service, StdError},
    server::{Grpc, NamedService, StreamingService},
};
use tonic_prost::ProstCodec;

use super::wire::Node;
use crate::{
    feedback::{
        Feedback, ProxyId,
        load::{ClusterReport, Destination, Reporter, Sent},
    },
    identity::{self, NodeClaim, Peer},
    model::{Audience, Sites},
    snapshot::Views,
    xds::ResourceType,
};

/// Bytes of one report of somebody whom we may believe: some hundred for each of ten thousand clusters.
const MAX_REQUEST: usize = 4 << 20;
/// Bytes of one report of anybody else: enough for an Envoy's node. Also of a gRPC client: it may have a thousand streams,
/// and calls few services.
const MAX_REQUEST_OTHERS: usize = 256 << 10;
/// A stream says who it is within this.
const FIRST_REQUEST: Duration = Duration::from_secs(10);
/// A view is compiled within this.
const VIEW: Duration = Duration::from_secs(15);
/// What a client says that takes `send_all_clusters`.
const SEND_ALL: &str = "envoy.lrs.supports_send_all_clusters";

/// What all streams of load reports share.
#[derive(Debug)]
pub struct Shared {
    /// The views: which clusters a proxy may report.
    pub views: Arc<Views>,
    /// Where load goes.
    pub feedback: Arc<Feedback>,
    /// All sites, as identity needs them.
    pub sites: watch::Receiver<Arc<Sites>>,
    /// Claims without a certificate are believed from everywhere.
    pub allow_unproven: bool,
    /// Ends all streams with `UNAVAILABLE`.
    pub cancel: CancellationToken,
}

/// `envoy.service.load_stats.v3.LoadReportingService`.
#[derive(Clone, Debug)]
pub struct LoadReporting {
    shared: Arc<Shared>,
}

impl LoadReporting {
    /// The service.
    pub fn new(shared: Shared) -> Self {
        Self { shared: Arc::new(shared) }
    }
}

impl NamedService for LoadReporting {
    const NAME: &'static str = "envoy.service.load_stats.v3.LoadReportingService";
}

impl<B> Service<http::Request<B>> for LoadReporting
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
        if request.uri().path().rsplit('/').next() != Some("StreamLoadStats") {
            return Box::pin(async { Ok(Status::unimplemented("there is only StreamLoadStats").into_http()) });
        }
        let peer = request.extensions().get::<Peer>().cloned().unwrap_or_default();
        let limit = limit(&peer, self.shared.allow_unproven);
        let method = Reports { shared: Arc::clone(&self.shared), peer };
        Box::pin(async move {
            let mut grpc = Grpc::new(ProstCodec::default()).max_decoding_message_size(limit);
            Ok(grpc.streaming(method, request).await)
        })
    }
}

/// Bytes of one request.
fn limit(peer: &Peer, allow_unproven: bool) -> usize {
    let believable = peer.spiffe.is_some() || peer.loopback || allow_unproven;
    if believable && !peer.is_grpc() { MAX_REQUEST } else { MAX_REQUEST_OTHERS }
}

struct Reports {
    shared: Arc<Shared>,
    peer: Peer,
}

type Responses = Pin<Box<dyn Stream<Item = Result<LoadStatsResponse, Status>> + Send>>;

impl StreamingService<LoadRequest> for Reports {
    type Response = LoadStatsResponse;
    type ResponseStream = Responses;
    type Future = BoxFuture<tonic::Response<Responses>, Status>;

    fn call(&mut self, request: tonic::Request<Streaming<LoadRequest>>) -> Self::Future {
        let (shared, peer) = (Arc::clone(&self.shared), self.peer.clone());
        let beginning = State::New { shared, peer, requests: Box::new(request.into_inner()) };
        // No task of its own: whoever reads the responses moves the stream on, and dropping them ends it.
        let responses = futures::stream::try_unfold(beginning, State::next);
        Box::pin(async move { Ok(tonic::Response::new(Box::pin(responses) as Responses)) })
    }
}

/// A stream before and after it is known whose it is.
enum State {
    New { shared: Arc<Shared>, peer: Peer, requests: Box<Streaming<LoadRequest>> },
    Reporting(Box<Reporting>),
}

impl State {
    /// The next response; `None` when the proxy ended the stream.
    async fn next(self) -> Result<Option<(LoadStatsResponse, Self)>, Status> {
        let mut reporting = match self {
            Self::Reporting(reporting) => reporting,
            Self::New { shared, peer, requests } => match begin(shared, peer, requests).await? {
                Some(reporting) => Box::new(reporting),
                None => return Ok(None),
            },
        };
        let response = reporting.next().await?;
        Ok(response.map(|response| (response, Self::Reporting(reporting))))
    }
}

/// Reads the first request, and waits until its sender is somebody: a refused one is answered nothing.
async fn begin(
    shared: Arc<Shared>,
    peer: Peer,
    mut requests: Box<Streaming<LoadRequest>>,
) -> Result<Option<Reporting>, Status> {
    let first = timeout(FIRST_REQUEST, requests.message());
    let Some(first) = first.await.map_err(|_| Status::deadline_exceeded("no request"))?? else { return Ok(None) };
    let node = first.node.unwrap_or_default();
    let who = Who { peer, claim: node.claim()?, allow_unproven: shared.allow_unproven };
    let mut sites = shared.sites.clone();
    let audience = loop {
        match who.resolve(&mut sites) {
            Ok(audience) => break audience,
            Err(reason) => tracing::debug!(node = who.claim.id, site = who.claim.site, %reason, "load is not heard"),
        }
        tokio::select! {
            () = shared.cancel.cancelled() => return Err(stopping()),
            // What it reports unasked is not counted.
            request = requests.message() => if request?.is_none() { return Ok(None) },
            changed = sites.changed() => changed.map_err(|_| stopping())?,
        }
    };
    let id = ProxyId { site: Arc::clone(&audience.site), node: who.claim.id.as_str().into() };
    let reporter = shared.feedback.loads.open(&id, audience.role);
    compiled(&shared, &audience).await?;
    let all = node.can(SEND_ALL);
    let reporting = Reporting { shared, who, sites, audience, requests, reporter, asked: None, all };
    // What was gathered between two streams comes with the first request of the second.
    reporting.count(first.clusters)?;
    Ok(Some(reporting))
}

/// Waits until it is known which clusters the audience has: after a restart proxies may report before their view is
/// compiled.
async fn compiled(shared: &Shared, audience: &Audience) -> Result<(), Status> {
    let reader = shared.views.open(audience);
    let mut published = reader.view().subscribe();
    let waiting = async { while !reader.view().read().ready() && published.changed().await.is_ok() {} };
    tokio::select! {
        () = shared.cancel.cancelled() => Err(stopping()),
        // One that takes longer costs what was gathered between the streams, no more.
        _ = timeout(VIEW, waiting) => Ok(()),
    }
}

fn stopping() -> Status {
    Status::unavailable("shutting down")
}

struct Who {
    peer: Peer,
    claim: NodeClaim,
    allow_unproven: bool,
}

impl Who {
    fn resolve(&self, sites: &mut watch::Receiver<Arc<Sites>>) -> Result<Audience, identity::Refusal> {
        let sites = Arc::clone(&sites.borrow_and_update());
        identity::resolve(&self.peer, &self.claim, &sites, self.allow_unproven)
    }
}

struct Reporting {
    shared: Arc<Shared>,
    who: Who,
    sites: watch::Receiver<Arc<Sites>>,
    audience: Audience,
    requests: Box<Streaming<LoadRequest>>,
    reporter: Reporter,
    /// The clusters that it was asked for last.
    asked: Option<Vec<String>>,
    /// It reports all its clusters by itself, so it is asked once.
    all: bool,
}

impl Reporting {
    /// Counts reports until there is something to ask for.
    async fn next(&mut self) -> Result<Option<LoadStatsResponse>, Status> {
        loop {
            if let Some(response) = self.ask() {
                return Ok(Some(response));
            }
            tokio::select! {
                () = self.shared.cancel.cancelled() => return Err(stopping()),
                request = self.requests.message() => match request? {
                    None => return Ok(None),
                    Some(request) => self.count(request.clusters)?,
                },
                changed = self.sites.changed() => {
                    changed.map_err(|_| stopping())?;
                    if self.who.resolve(&mut self.sites).ok().as_ref() != Some(&self.audience) {
                        return Err(Status::unavailable("the site of this proxy changed"));
                    }
                }
            }
        }
    }

    /// The response that is due: the first, and, where a client has to be told its clusters, the one after the report
    /// that finds them changed.
    fn ask(&mut self) -> Option<LoadStatsResponse> {
        let clusters = match (self.all, &self.asked) {
            (true, Some(_)) => return None,
            (true, None) => Vec::new(),
            (false, _) => {
                let view = self.shared.views.get(&self.audience);
                let content = view.as_ref().map(|view| view.read());
                let clusters = content.iter().flat_map(|content| content.entries(ResourceType::Cluster));
                clusters.map(|(name, _)| name.to_string()).collect()
            }
        };
        if self.asked.as_ref() == Some(&clusters) {
            return None;
        }
        self.asked = Some(clusters.clone());
        let interval = self.shared.feedback.loads.interval();
        let seconds = i64::try_from(interval.as_secs()).unwrap_or(i64::MAX);
        let nanos = i32::try_from(interval.subsec_nanos()).unwrap_or_default();
        Some(LoadStatsResponse {
            clusters,
            send_all_clusters: self.all,
            load_reporting_interval: Some(protobuf::Duration { seconds, nanos }),
            report_endpoint_granularity: false,
        })
    }

    fn count(&self, clusters: Vec<ClusterStats>) -> Result<(), Status> {
        let reports = clusters.into_iter().map(ClusterReport::from).collect();
        // Not held open: that is for streams that are served from it.
        let view = self.shared.views.get(&self.audience);
        let content = view.as_ref().map(|view| view.read());
        let known = |name: &str| content.as_ref().is_some_and(|c| c.get(ResourceType::Cluster, name).is_some());
        let counted = self.reporter.report(reports, known, Instant::now().into_std());
        counted.map_err(|rejected| Status::failed_precondition(rejected.to_string()))
    }
}

/// `envoy.service.load_stats.v3.LoadStatsRequest`, the fields that we use.
#[derive(Clone, PartialEq, Message)]
struct LoadRequest {
    #[prost(message, optional, tag = "1")]
    node: Option<Node>,
    #[prost(message, repeated, tag = "2")]
    clusters: Vec<ClusterStats>,
}

/// `envoy.config.endpoint.v3.ClusterStats`.
#[derive(Clone, PartialEq, Message)]
struct ClusterStats {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, repeated, tag = "2")]
    localities: Vec<LocalityStats>,
    #[prost(uint64, tag = "3")]
    dropped: u64,
    #[prost(message, optional, tag = "4")]
    interval: Option<prost_types::Duration>,
}

/// `envoy.config.endpoint.v3.UpstreamLocalityStats`.
#[derive(Clone, PartialEq, Message)]
struct LocalityStats {
    #[prost(message, optional, tag = "1")]
    locality: Option<Locality>,
    #[prost(uint64, tag = "2")]
    succeeded: u64,
    #[prost(uint64, tag = "3")]
    in_progress: u64,
    #[prost(uint64, tag = "4")]
    failed: u64,
    #[prost(uint64, tag = "8")]
    issued: u64,
}

/// `envoy.config.core.v3.Locality`.
#[derive(Clone, PartialEq, Message)]
struct Locality {
    #[prost(string, tag = "1")]
    region: String,
    #[prost(string, tag = "2")]
    zone: String,
    #[prost(string, tag = "3")]
    sub_zone: String,
}

impl From<ClusterStats> for ClusterReport {
    fn from(stats: ClusterStats) -> Self {
        // A negative interval is none.
        let interval = stats.interval.and_then(|interval| interval.try_into().ok()).unwrap_or_default();
        let sent = stats.localities.into_iter().map(Sent::from).collect();
        Self { cluster: stats.name, sent, dropped: stats.dropped, interval }
    }
}

impl From<LocalityStats> for Sent {
    fn from(stats: LocalityStats) -> Self {
        let to = stats.locality.map(|l| Destination {
            region: l.region.into(),
            zone: l.zone.into(),
            site: l.sub_zone.into(),
        });
        let LocalityStats { succeeded, in_progress, failed, issued, .. } = stats;
        Self { to: to.unwrap_or_default(), issued, succeeded, failed, in_progress }
    }
}

#[cfg(test)]
mod tests;

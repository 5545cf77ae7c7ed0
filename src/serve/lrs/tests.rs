//! The service over loopback, with an independent client.

use std::collections::BTreeMap;

use envoy_types::pb::envoy::{
    config::{
        core::v3::{Locality as EnvoyLocality, Node as EnvoyNode},
        endpoint::v3::{ClusterStats as EnvoyStats, UpstreamLocalityStats},
    },
    service::load_stats::v3::{LoadStatsRequest, load_reporting_service_client::LoadReportingServiceClient},
};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Code, service::Routes, transport::Channel};

use super::*;
use crate::{
    model::{Revision, Role, SiteEntry, SiteState},
    serve::intake::{self, Limits},
    snapshot::Publish,
    xds::Resource,
};

const SOON: Duration = Duration::from_secs(10);

struct Server {
    address: std::net::SocketAddr,
    views: Arc<Views>,
    feedback: Arc<Feedback>,
    sites: watch::Sender<Arc<Sites>>,
    cancel: CancellationToken,
    _task: AbortOnDropHandle<std::io::Result<()>>,
}

fn sites(names: &[&str]) -> Arc<Sites> {
    let entry = SiteEntry { role: Role::Edge, region: "eu".into(), zone: "".into(), state: SiteState::Active };
    let sites: BTreeMap<_, _> = names.iter().map(|n| ((*n).into(), entry.clone())).collect();
    Arc::new(Sites { trust_domain: "tidegate.local".into(), drain_time: SOON, sites })
}

async fn server() -> Server {
    let (views, feedback) = (Arc::new(Views::default()), Arc::new(Feedback::default()));
    let (known, watched) = watch::channel(sites(&["fra"]));
    let cancel = CancellationToken::new();
    let service = LoadReporting::new(Shared {
        views: Arc::clone(&views),
        feedback: Arc::clone(&feedback),
        sites: watched,
        allow_unproven: false,
        cancel: cancel.clone(),
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = intake::serve(listener, None, Routes::new(service), Limits::default(), cancel.clone());
    #[allow(clippy::disallowed_methods, reason = "aborted with its handle")]
    let task = AbortOnDropHandle::new(tokio::spawn(serving));
    Server { address, views, feedback, sites: known, cancel, _task: task }
}

struct Client {
    requests: mpsc::Sender<LoadStatsRequest>,
    responses: Streaming<LoadStatsResponse>,
}

impl Server {
    async fn client(&self, site: &str, features: &[&str], first: Vec<EnvoyStats>) -> Client {
        let endpoint = Channel::from_shared(format!("http://{}", self.address)).unwrap();
        let mut lrs = LoadReportingServiceClient::new(endpoint.connect().await.unwrap());
        let (requests, outgoing) = mpsc::channel(8);
        let locality = Some(EnvoyLocality { sub_zone: site.into(), ..EnvoyLocality::default() });
        let client_features = features.iter().map(|f| (*f).to_owned()).collect();
        let node = EnvoyNode { id: "envoy-1".into(), locality, client_features, ..EnvoyNode::default() };
        requests.send(LoadStatsRequest { node: Some(node), cluster_stats: first }).await.unwrap();
        let responses = lrs.stream_load_stats(ReceiverStream::new(outgoing)).await.unwrap().into_inner();
        Client { requests, responses }
    }

    fn publish(&self, names: &[&str]) {
        let upserts = names.iter().map(|n| Arc::new(Resource::new(ResourceType::Cluster, n, "x".into()))).collect();
        let view = self.views.all().pop().expect("an open view");
        view.publish(self.views.next_seq(), Revision(1), Publish { upserts, removals: vec![] });
    }

    async fn opened(&self) {
        timeout(SOON, self.views.interest()).await.unwrap();
    }

    /// Waits until so many requests are counted.
    async fn counted(&self, wanted: &[(&str, u64)]) {
        let counts = || -> Vec<(String, u64)> {
            let rows = self.feedback.loads.clusters(std::time::Instant::now());
            rows.iter().map(|row| (row.cluster.to_string(), row.totals().issued)).collect()
        };
        let poll = async {
            while counts() != wanted.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect::<Vec<_>>() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        assert!(timeout(SOON, poll).await.is_ok(), "{:?}", counts());
    }
}

impl Client {
    async fn next(&mut self) -> LoadStatsResponse {
        timeout(SOON, self.responses.message()).await.expect("in time").unwrap().expect("a response")
    }

    async fn report(&self, stats: Vec<EnvoyStats>) {
        self.requests.send(LoadStatsRequest { node: None, cluster_stats: stats }).await.unwrap();
    }

    async fn end(&mut self) -> Code {
        timeout(SOON, self.responses.message()).await.expect("in time").unwrap_err().code()
    }
}

fn stats(cluster: &str, issued: u64) -> EnvoyStats {
    let locality = Some(EnvoyLocality { region: "eu".into(), sub_zone: "core1".into(), ..EnvoyLocality::default() });
    let sent = UpstreamLocalityStats { locality, total_issued_requests: issued, ..UpstreamLocalityStats::default() };
    let load_report_interval = Some(protobuf::Duration { seconds: 10, nanos: 0 });
    let (cluster_name, upstream_locality_stats) = (cluster.to_owned(), vec![sent]);
    EnvoyStats { cluster_name, upstream_locality_stats, load_report_interval, ..EnvoyStats::default() }
}

#[tokio::test]
async fn a_proxy_is_asked_for_all_its_clusters_once_and_every_message_counts_once() {
    let server = server().await;
    let mut client = server.client("fra", &["x", SEND_ALL], vec![stats("c", 3)]).await;
    // The report of a reconnect waits for the view: until then nobody knows which clusters there are.
    server.opened().await;
    server.publish(&["c"]);
    let asked = client.next().await;
    assert!(asked.send_all_clusters && asked.clusters.is_empty() && !asked.report_endpoint_granularity);
    assert_eq!(asked.load_reporting_interval, Some(protobuf::Duration { seconds: 10, nanos: 0 }));
    server.counted(&[("c", 3)]).await;
    client.report(vec![stats("c", 20), stats("made-up", 7)]).await;
    server.counted(&[("c", 23)]).await;
    let row = server.feedback.loads.clusters(std::time::Instant::now()).remove(0);
    assert_eq!((&*row.to[0].0.region, &*row.to[0].0.site, row.rates().issued), ("eu", "core1", 2.0));
    assert_eq!((&*row.site, row.role), ("fra", Role::Edge));
    server.cancel.cancel();
    assert_eq!(client.end().await, Code::Unavailable, "and nothing was asked twice");
}

#[tokio::test]
async fn a_client_that_has_to_be_told_its_clusters_is_told_anew_after_a_change() {
    let server = server().await;
    let mut client = server.client("fra", &[], vec![]).await;
    server.opened().await;
    server.publish(&["a"]);
    let asked = client.next().await;
    assert_eq!((asked.send_all_clusters, asked.clusters), (false, vec!["a".to_owned()]));
    client.report(vec![stats("a", 1)]).await;
    server.counted(&[("a", 1)]).await;
    server.publish(&["b"]);
    client.report(vec![stats("a", 1)]).await;
    assert_eq!(client.next().await.clusters, ["a", "b"]);
}

#[tokio::test]
async fn a_proxy_of_an_unknown_site_is_answered_nothing_and_not_heard_until_the_site_exists() {
    let server = server().await;
    let mut client = server.client("ams", &[SEND_ALL], vec![]).await;
    client.report(vec![stats("c", 9)]).await;
    assert!(timeout(Duration::from_millis(300), client.responses.message()).await.is_err(), "silence");
    assert!(server.views.all().is_empty());
    server.sites.send(sites(&["ams"])).unwrap();
    server.opened().await;
    server.publish(&["c"]);
    client.next().await;
    client.report(vec![stats("c", 1)]).await;
    server.counted(&[("c", 1)]).await;
    server.sites.send(sites(&["fra"])).unwrap();
    assert_eq!(client.end().await, Code::Unavailable, "its site is gone");
}

#[tokio::test]
async fn more_than_a_proxy_can_send_ends_its_stream_and_is_not_counted() {
    let server = server().await;
    let mut client = server.client("fra", &[SEND_ALL], vec![]).await;
    server.opened().await;
    server.publish(&["c"]);
    client.next().await;
    client.report(vec![stats("c", u64::MAX)]).await;
    assert_eq!(client.end().await, Code::FailedPrecondition);
    assert!(server.feedback.loads.clusters(std::time::Instant::now()).is_empty());
}

#[test]
fn a_proxy_that_is_believed_may_report_much_at_once_and_nobody_else() {
    let proven = |role| Peer { spiffe: Some(format!("spiffe://tidegate.local/{role}/fra")), loopback: false };
    let (far, near) = (Peer::plain([10, 0, 0, 1].into()), Peer::plain([127, 0, 0, 1].into()));
    for (peer, allowed, most) in [
        (&proven("edge"), false, MAX_REQUEST),
        (&proven("grpc"), true, MAX_REQUEST_OTHERS),
        (&near, false, MAX_REQUEST),
        (&far, false, MAX_REQUEST_OTHERS),
        (&far, true, MAX_REQUEST),
    ] {
        assert_eq!(limit(peer, allowed), most, "{peer:?}");
    }
}

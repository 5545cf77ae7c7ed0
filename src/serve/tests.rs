//! The service over loopback, with a client of its own making: bytes, identity, refusal, eviction, shutdown.

mod rules;
mod storm;
mod turns;

use std::{sync::Arc, time::Duration};

use envoy_types::pb::{
    envoy::{
        config::core::v3::{Locality, Node},
        service::{
            cluster::v3::cluster_discovery_service_client::ClusterDiscoveryServiceClient,
            discovery::v3::{
                DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest,
                aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
            },
            endpoint::v3::endpoint_discovery_service_client::EndpointDiscoveryServiceClient,
        },
    },
    google::rpc::Status as Rpc,
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tonic::{
    Code, Streaming,
    transport::{Certificate, Channel, ClientTlsConfig, Identity},
};

use super::{
    intake::{self, Limits},
    service::{self, Fleet, Shared, apart},
};
use crate::{
    feedback::{Acked, Feedback},
    model::{Audience, Revision, Role, SiteEntry, SiteState, Sites, Watermarks},
    snapshot::{Publish, Seq, Views},
    xds::{Resource, ResourceType},
};

const SOON: Duration = Duration::from_secs(10);

struct Server {
    address: std::net::SocketAddr,
    views: Arc<Views>,
    feedback: Arc<Feedback>,
    sites: watch::Sender<Arc<Sites>>,
    watermarks: watch::Sender<Arc<Watermarks>>,
    fresh: watch::Sender<bool>,
    cancel: CancellationToken,
    _task: AbortOnDropHandle<std::io::Result<()>>,
}

fn sites(names: &[&str]) -> Arc<Sites> {
    let entry = SiteEntry { role: Role::Edge, region: "eu".into(), zone: "".into(), state: SiteState::Active };
    Arc::new(Sites {
        trust_domain: "tidegate.local".into(),
        drain_time: Duration::from_secs(600),
        sites: names.iter().map(|n| ((*n).into(), entry.clone())).collect(),
    })
}

async fn server(limits: Limits) -> Server {
    server_with(limits, None).await
}

async fn server_with(limits: Limits, tls: Option<Arc<rustls::ServerConfig>>) -> Server {
    let (views, feedback) = (Arc::new(Views::default()), Arc::new(Feedback::default()));
    let (known, watched) = watch::channel(sites(&["fra"]));
    let (said, watermarks) = watch::channel(Arc::default());
    let (freshness, fresh) = watch::channel(true);
    let cancel = CancellationToken::new();
    let routes = service::routes(Shared {
        views: Arc::clone(&views),
        feedback: Arc::clone(&feedback),
        fleet: Fleet { sites: watched, watermarks, fresh },
        identifier: "replica-1".into(),
        allow_unproven: false,
        cancel: cancel.clone(),
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = intake::serve(listener, tls.map(|tls| watch::channel(tls).1), routes, limits, cancel.clone());
    #[allow(clippy::disallowed_methods, reason = "aborted with its handle")]
    let task = AbortOnDropHandle::new(tokio::spawn(serving));
    Server { address, views, feedback, sites: known, watermarks: said, fresh: freshness, cancel, _task: task }
}

struct Client {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

impl Server {
    async fn client(&self, id: &str, site: &str) -> Client {
        let endpoint = Channel::from_shared(format!("http://{}", self.address)).unwrap();
        self.client_over(endpoint.connect().await.unwrap(), id, site).await
    }

    async fn client_over(&self, channel: Channel, id: &str, site: &str) -> Client {
        let mut ads = AggregatedDiscoveryServiceClient::new(channel);
        let (requests, outgoing) = mpsc::channel(8);
        let locality = Some(Locality { sub_zone: site.into(), ..Locality::default() });
        let node = Some(Node { id: id.into(), locality, ..Node::default() });
        let type_url = ResourceType::Cluster.url().into();
        let first = DeltaDiscoveryRequest { node, type_url, ..DeltaDiscoveryRequest::default() };
        requests.send(first).await.unwrap();
        let responses = ads.delta_aggregated_resources(ReceiverStream::new(outgoing)).await.unwrap().into_inner();
        Client { requests, responses }
    }

    fn publish(&self, payload: &'static str) -> Seq {
        let seq = self.views.next_seq();
        let resource = Resource::new(ResourceType::Cluster, "a", payload.as_bytes().into());
        let view = self.views.all().pop().expect("an open view");
        view.publish(seq, Revision(seq.0), Publish { upserts: vec![Arc::new(resource)], removals: vec![] });
        seq
    }

    /// Waits until feedback says so.
    async fn until(&self, what: impl Fn(&Feedback) -> bool) {
        let poll = async {
            while !what(&self.feedback) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(SOON, poll).await.expect("in time");
    }
}

impl Client {
    async fn next(&mut self) -> DeltaDiscoveryResponse {
        timeout(SOON, self.responses.message()).await.expect("in time").unwrap().expect("a response")
    }

    async fn end(&mut self) -> tonic::Status {
        loop {
            match timeout(SOON, self.responses.message()).await.expect("in time") {
                Err(status) => return status,
                Ok(None) => panic!("ended without a status"),
                Ok(Some(_)) => {}
            }
        }
    }

    async fn answer(&self, response: &DeltaDiscoveryResponse, error: Option<&str>) {
        let error_detail = error.map(|e| Rpc { code: 13, message: e.into(), details: vec![] });
        let (type_url, response_nonce) = (response.type_url.clone(), response.nonce.clone());
        let request =
            DeltaDiscoveryRequest { type_url, response_nonce, error_detail, ..DeltaDiscoveryRequest::default() };
        self.requests.send(request).await.unwrap();
    }
}

#[tokio::test]
async fn frames_are_what_an_independent_client_decodes_and_answers_reach_feedback() {
    let server = server(Limits::default()).await;
    let mut client = server.client("envoy-1", "fra").await;
    assert_eq!(
        timeout(SOON, server.views.interest()).await.unwrap(),
        [Audience { site: "fra".into(), role: Role::Edge, proven: false, cohort: "".into(), delta: true }]
    );
    let first = server.publish("one");
    let response = client.next().await;
    assert_eq!(response.type_url, ResourceType::Cluster.url());
    assert_eq!(response.system_version_info, first.to_string());
    assert_eq!(response.control_plane.as_ref().unwrap().identifier, "replica-1");
    let resource = &response.resources[0];
    assert_eq!((resource.name.as_str(), resource.version.len()), ("a", 16));
    let any = resource.resource.as_ref().unwrap();
    assert_eq!((any.type_url.as_str(), any.value.as_slice()), (ResourceType::Cluster.url(), &b"one"[..]));
    let state = |f: &Feedback, seq| f.proxies().first().map(|p| p.acked(ResourceType::Cluster, "a", seq));
    assert_eq!(state(&server.feedback, first), Some(Acked::Pending));
    client.answer(&response, None).await;
    server.until(|f| state(f, first) == Some(Acked::Acked)).await;
    let second = server.publish("two");
    let response = client.next().await;
    client.answer(&response, Some("no such thing")).await;
    server.until(|f| state(f, second) == Some(Acked::Refused("no such thing".into()))).await;
    drop(client);
    server.until(|f| f.proxies().is_empty()).await;
}

#[tokio::test]
async fn a_proxy_of_an_unknown_site_is_named_and_answered_nothing_until_the_site_exists() {
    let server = server(Limits::default()).await;
    let mut client = server.client("envoy-1", "ams").await;
    let refused = |f: &Feedback| f.proxies().first().and_then(|p| p.refused.clone());
    server.until(|f| refused(f).is_some()).await;
    assert_eq!(refused(&server.feedback).unwrap(), "there is no Site \"ams\"");
    assert!(server.views.all().is_empty());
    server.sites.send(sites(&["ams"])).unwrap();
    server.until(|f| refused(f).is_none()).await;
    timeout(SOON, server.views.interest()).await.unwrap();
    server.publish("one");
    assert_eq!(client.next().await.resources.len(), 1);
}

#[tokio::test]
async fn a_third_stream_of_a_node_closes_the_oldest_and_shutdown_closes_all() {
    let server = server(Limits::default()).await;
    let mut first = server.client("envoy-1", "fra").await;
    timeout(SOON, server.views.interest()).await.unwrap();
    server.publish("one");
    first.next().await;
    let mut second = server.client("envoy-1", "fra").await;
    second.next().await;
    let mut third = server.client("envoy-1", "fra").await;
    assert_eq!(third.next().await.resources.len(), 1);
    assert_eq!(first.end().await.code(), Code::Unavailable);
    server.publish("two");
    assert_eq!(second.next().await.resources.len(), 1);
    server.cancel.cancel();
    assert_eq!(second.end().await.code(), Code::Unavailable);
    assert_eq!(third.end().await.code(), Code::Unavailable);
}

#[tokio::test]
async fn other_methods_are_unimplemented_and_a_request_without_a_type_is_invalid() {
    let server = server(Limits::default()).await;
    let mut client = server.client("envoy-1", "fra").await;
    client.requests.send(DeltaDiscoveryRequest::default()).await.unwrap();
    assert_eq!(client.end().await.code(), Code::InvalidArgument);
    let endpoint = Channel::from_shared(format!("http://{}", server.address)).unwrap();
    let mut cds = ClusterDiscoveryServiceClient::new(endpoint.connect().await.unwrap());
    let status = cds.fetch_clusters(DiscoveryRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
}

fn node(id: &str) -> Option<Node> {
    let locality = Some(Locality { sub_zone: "fra".into(), ..Locality::default() });
    Some(Node { id: id.into(), locality, ..Node::default() })
}

impl Server {
    async fn channel(&self) -> Channel {
        Channel::from_shared(format!("http://{}", self.address)).unwrap().connect().await.unwrap()
    }
}

#[tokio::test]
async fn a_state_of_the_world_stream_is_answered_whole_and_its_answers_reach_feedback() {
    let server = server(Limits::default()).await;
    let mut ads = AggregatedDiscoveryServiceClient::new(server.channel().await);
    let (requests, outgoing) = mpsc::channel(8);
    let type_url = ResourceType::Cluster.url();
    let first = DiscoveryRequest { node: node("grpc-1"), type_url: type_url.into(), ..DiscoveryRequest::default() };
    requests.send(first.clone()).await.unwrap();
    let mut responses = ads.stream_aggregated_resources(ReceiverStream::new(outgoing)).await.unwrap().into_inner();
    timeout(SOON, server.views.interest()).await.unwrap();
    let seq = server.publish("one");
    let response = timeout(SOON, responses.message()).await.unwrap().unwrap().unwrap();
    assert_eq!(
        (response.type_url.as_str(), response.control_plane.unwrap().identifier),
        (type_url, "replica-1".into())
    );
    let [any] = response.resources.try_into().unwrap();
    assert_eq!((any.type_url.as_str(), &*any.value), (type_url, &b"one"[..]));
    assert!(!response.version_info.is_empty());
    let ack = DiscoveryRequest { node: None, response_nonce: response.nonce, ..first };
    requests.send(ack).await.unwrap();
    server.until(|f| f.proxies().iter().any(|p| p.acked(ResourceType::Cluster, "a", seq) == Acked::Acked)).await;
}

#[tokio::test]
async fn a_service_of_one_type_fills_its_type_in_and_refuses_others() {
    let server = server(Limits::default()).await;
    let mut cds = ClusterDiscoveryServiceClient::new(server.channel().await);
    let (requests, outgoing) = mpsc::channel(8);
    requests.send(DeltaDiscoveryRequest { node: node("envoy-1"), ..DeltaDiscoveryRequest::default() }).await.unwrap();
    let responses = cds.delta_clusters(ReceiverStream::new(outgoing)).await.unwrap().into_inner();
    let mut client = Client { requests, responses };
    timeout(SOON, server.views.interest()).await.unwrap();
    server.publish("one");
    assert_eq!(client.next().await.resources[0].name, "a");
    let type_url = ResourceType::Listener.url().into();
    client.requests.send(DeltaDiscoveryRequest { type_url, ..DeltaDiscoveryRequest::default() }).await.unwrap();
    assert_eq!(client.end().await.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn streams_of_one_type_are_not_counted_and_speak_for_their_proxy_together() {
    let server = server(Limits::default()).await;
    let mut eds = EndpointDiscoveryServiceClient::new(server.channel().await);
    let mut streams = Vec::new();
    for name in ["a", "b", "c", "d"] {
        let (requests, outgoing) = mpsc::channel(8);
        let resource_names_subscribe = vec![name.to_owned()];
        let first = DeltaDiscoveryRequest { node: node("envoy-1"), resource_names_subscribe, ..Default::default() };
        requests.send(first).await.unwrap();
        streams.push((eds.delta_endpoints(ReceiverStream::new(outgoing)).await.unwrap(), requests));
    }
    let asks = |f: &Feedback, name: &str| {
        let proxies = f.proxies();
        let eds = proxies.first().and_then(|p| p.types.get(&ResourceType::Endpoints)).cloned();
        eds.is_some_and(|state| state.subscription.contains(name))
    };
    server.until(|f| ["a", "b", "c", "d"].iter().all(|name| asks(f, name))).await;
    drop(streams.pop());
    server.until(|f| asks(f, "a") && !asks(f, "d")).await;
}

#[tokio::test]
async fn a_silent_connection_and_one_beyond_the_cap_are_closed() {
    let limits = Limits { connections: 1, preface: Duration::from_millis(300), ..Limits::default() };
    let server = server(limits).await;
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    let mut beyond = TcpStream::connect(server.address).await.unwrap();
    let closed = async |socket: &mut TcpStream| {
        let mut rest = Vec::new();
        timeout(SOON, socket.read_to_end(&mut rest)).await.expect("closed in time").ok();
    };
    closed(&mut beyond).await;
    closed(&mut silent).await;
    // The place is free again.
    let _client = server.client("envoy-1", "fra").await;
    server.until(|f| f.proxies().len() == 1).await;
}

#[tokio::test]
async fn a_certificate_proves_the_site_and_without_one_there_is_no_connection() {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = params.self_signed(&key).unwrap();
    let ca = Issuer::new(params, key);
    let issue = |name: SanType| {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.subject_alt_names.push(name);
        (params.signed_by(&key, &ca).unwrap(), key)
    };
    let (own, key) = issue(SanType::DnsName("localhost".try_into().unwrap()));
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der());
    let tls = intake::mutual_tls([root.der().clone()], vec![own.der().clone()], key.into()).unwrap();
    let server = server_with(Limits::default(), Some(Arc::new(tls))).await;
    let endpoint = || Channel::from_shared(format!("https://{}", server.address)).unwrap();
    let trust = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(root.pem())).domain_name("localhost");
    let (certificate, key) = issue(SanType::URI("spiffe://tidegate.local/edge/fra".try_into().unwrap()));
    let identity = Identity::from_pem(certificate.pem(), key.serialize_pem());
    let proven = endpoint().tls_config(trust.clone().identity(identity)).unwrap().connect().await.unwrap();
    let _good = server.client_over(proven.clone(), "envoy-1", "fra").await;
    let opened = timeout(SOON, server.views.interest()).await.unwrap();
    assert_eq!(opened.iter().map(|a| (&*a.site, a.proven)).collect::<Vec<_>>(), [("fra", true)]);
    let _liar = server.client_over(proven, "envoy-2", "ams").await;
    let reason = |f: &Feedback| f.proxies().into_iter().find_map(|p| p.refused);
    server.until(|f| reason(f).is_some()).await;
    assert!(reason(&server.feedback).unwrap().contains("its certificate says \"fra\""));
    // TLS 1.3 tells a client late that it lacks a certificate: at the first call.
    if let Ok(channel) = endpoint().tls_config(trust).unwrap().connect().await {
        let mut ads = AggregatedDiscoveryServiceClient::new(channel);
        assert!(ads.delta_aggregated_resources(tokio_stream::pending()).await.is_err());
    }
}

#[tokio::test]
async fn an_old_connection_is_asked_to_go_and_then_closed() {
    let soon = Duration::from_millis(200);
    let server = server(Limits { age: Some(soon), grace: soon, ..Limits::default() }).await;
    let mut client = server.client("envoy-1", "fra").await;
    timeout(SOON, server.views.interest()).await.unwrap();
    server.publish("one");
    client.next().await;
    client.end().await;
    server.until(|f| f.proxies().is_empty()).await;
    let _next = server.client("envoy-1", "fra").await;
    server.until(|f| f.proxies().len() == 1).await;
}

#[test]
fn at_shutdown_streams_end_apart_in_proportion_to_their_number() {
    assert_eq!(apart(10), Duration::from_millis(2));
    assert_eq!(apart(5_000), Duration::from_secs(1));
    assert_eq!(apart(usize::MAX), Duration::from_secs(2));
}

/// The first request of a proxy that comes from another stream with a cluster in that version.
async fn moved(server: &Server, version: &str) -> Client {
    let endpoint = Channel::from_shared(format!("http://{}", server.address)).unwrap();
    let mut ads = AggregatedDiscoveryServiceClient::new(endpoint.connect().await.unwrap());
    let (requests, outgoing) = mpsc::channel(8);
    let locality = Some(Locality { sub_zone: "fra".into(), ..Locality::default() });
    let node = Some(Node { id: "envoy-1".into(), locality, ..Node::default() });
    let initial_resource_versions = [("a".to_owned(), version.to_owned())].into();
    let type_url = ResourceType::Cluster.url().into();
    let first = DeltaDiscoveryRequest { node, type_url, initial_resource_versions, ..DeltaDiscoveryRequest::default() };
    requests.send(first).await.unwrap();
    let responses = ads.delta_aggregated_resources(ReceiverStream::new(outgoing)).await.unwrap().into_inner();
    Client { requests, responses }
}

#[tokio::test]
async fn a_proxy_that_comes_from_elsewhere_is_compared_once_everything_is_known_to_be_read() {
    let server = server(Limits::default()).await;
    let mut client = moved(&server, "other").await;
    timeout(SOON, server.views.interest()).await.unwrap();
    server.publish("one");
    let probe = timeout(SOON, server.views.probe()).await.expect("somebody asks");
    let early = timeout(Duration::from_millis(20), client.responses.message()).await;
    assert!(early.is_err(), "an answer before it is known");
    server.views.confirmed(probe, true);
    assert_eq!(client.next().await.resources[0].name, "a");
}

#[tokio::test]
async fn a_proxy_that_a_stale_replica_served_is_sent_to_be_compared_anew_once_that_is_fresh() {
    let server = server(Limits::default()).await;
    server.fresh.send_replace(false);
    let mut client = moved(&server, "other").await;
    timeout(SOON, server.views.interest()).await.unwrap();
    server.publish("one");
    let probe = timeout(SOON, server.views.probe()).await.expect("somebody asks");
    server.views.confirmed(probe, false);
    let left = timeout(Duration::from_millis(20), client.responses.message()).await;
    assert!(left.is_err(), "its version may be the newer one");
    server.fresh.send_replace(true);
    let probe = timeout(SOON, server.views.probe()).await.expect("it is asked again");
    server.views.confirmed(probe, false);
    let probe = timeout(SOON, server.views.probe()).await.expect("and again: it was not fresh yet");
    server.views.confirmed(probe, true);
    let status =
        timeout(SOON + Duration::from_secs(5), client.responses.message()).await.expect("in time").unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "fresh again; please reconnect"));
}

#[tokio::test]
async fn a_watermark_wakes_the_streams_that_wait_for_it_and_feedback_learns_who_is_complete() {
    use crate::{
        model::Watermark,
        xds::{NeedAt, ServiceNeed},
    };
    let server = server(Limits::default()).await;
    let mut client = server.client("envoy-1", "fra").await;
    timeout(SOON, server.views.interest()).await.unwrap();
    let publish = |payload: &'static str, services: Vec<ServiceNeed>| {
        let mut listener = Resource::new(ResourceType::Listener, "l", "l".into());
        listener.requires = vec![(ResourceType::Route, "r".into())];
        let mut route = Resource::new(ResourceType::Route, "r", payload.as_bytes().into());
        route.services = services;
        let upserts = vec![Arc::new(listener), Arc::new(route)];
        let seq = server.views.next_seq();
        server.views.all().pop().unwrap().publish(seq, Revision(seq.0), Publish { upserts, removals: vec![] });
    };
    publish("1", vec![]);
    let complete = |f: &Feedback| f.proxies().first().is_some_and(|p| p.complete);
    for (kind, names) in
        [(ResourceType::Cluster, vec![]), (ResourceType::Listener, vec![]), (ResourceType::Route, vec!["r"])]
    {
        let request = DeltaDiscoveryRequest {
            type_url: kind.url().into(),
            resource_names_subscribe: names.into_iter().map(str::to_owned).collect(),
            ..DeltaDiscoveryRequest::default()
        };
        if kind != ResourceType::Cluster {
            client.requests.send(request).await.unwrap();
        }
        let response = client.next().await;
        assert_eq!(response.type_url, kind.url());
        assert!(!complete(&server.feedback));
        client.answer(&response, None).await;
    }
    server.until(complete).await;
    let core = |revision| Watermark { revision: Revision(revision), connected: true, ..Watermark::default() };
    server.watermarks.send_replace(Arc::new([("ams".into(), core(1))].into()));
    let sites = vec![NeedAt { site: "ams".into(), revision: Revision(2) }];
    publish("2", vec![ServiceNeed { service: "s".into(), group: "g".into(), sites }]);
    let early = timeout(Duration::from_millis(20), client.responses.message()).await;
    assert!(early.is_err(), "before the core has it");
    server.watermarks.send_replace(Arc::new([("ams".into(), core(2))].into()));
    assert_eq!(client.next().await.resources[0].name, "r");
}

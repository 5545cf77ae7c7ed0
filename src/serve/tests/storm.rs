//! Storms and stalls: large responses take turns, openings take turns, who takes nothing is cut off and nobody else.

use bytes::Bytes;
use prost::Message;
use tokio::io::AsyncWriteExt;

use super::*;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Longer than any test.
const NEVER: Duration = Duration::from_secs(3_600);

/// A connection of a raw client that sends its first request and takes nothing of the response.
struct Stuck {
    _response: h2::client::ResponseFuture,
    _requests: h2::SendStream<Bytes>,
    /// Answers PINGs and SETTINGS, if it runs.
    _connection: Option<AbortOnDropHandle<()>>,
    /// Not even read from, if it does not.
    _unread: Option<h2::client::Connection<TcpStream, Bytes>>,
}

/// `reads`: the socket, but it grants no window. Else it grants all of it, and does not read.
async fn stuck(server: &Server, id: &str, reads: bool) -> Stuck {
    let mut builder = h2::client::Builder::new();
    if !reads {
        builder.initial_window_size(1 << 30).initial_connection_window_size(1 << 30);
    }
    let socket = TcpStream::connect(server.address).await.unwrap();
    let (mut client, mut connection) = builder.handshake::<_, Bytes>(socket).await.unwrap();
    let path = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
    let request = http::Request::post(format!("http://{}{path}", server.address));
    let request = request.header("content-type", "application/grpc").body(()).unwrap();
    let (response, mut requests) = client.send_request(request, false).unwrap();
    let type_url = ResourceType::Cluster.url().into();
    let first = DeltaDiscoveryRequest { node: node(id), type_url, ..DeltaDiscoveryRequest::default() }.encode_to_vec();
    let prefix = [&[0][..], &u32::try_from(first.len()).unwrap().to_be_bytes()].concat();
    requests.send_data([prefix, first].concat().into(), false).unwrap();
    let known = |f: &Feedback| f.proxies().iter().any(|p| &*p.id.node == id);
    if reads {
        #[allow(clippy::disallowed_methods, reason = "aborted with its handle")]
        let task = AbortOnDropHandle::new(tokio::spawn(async move { connection.await.unwrap_or_default() }));
        server.until(known).await;
        return Stuck { _response: response, _requests: requests, _connection: Some(task), _unread: None };
    }
    tokio::select! {
        ended = &mut connection => panic!("{ended:?}"),
        () = server.until(known) => {}
    }
    Stuck { _response: response, _requests: requests, _connection: None, _unread: Some(connection) }
}

impl Server {
    /// Publishes a cluster of so many bytes; somebody has to be there.
    async fn publish_large(&self, bytes: usize) {
        if self.views.all().is_empty() {
            timeout(SOON, self.views.interest()).await.unwrap();
        }
        self.publish("x".repeat(bytes).leak());
    }

    fn has(&self, id: &str) -> bool {
        self.feedback.proxies().iter().any(|p| &*p.id.node == id)
    }
}

#[tokio::test]
async fn who_takes_nothing_of_what_there_is_for_it_is_cut_off_and_nobody_else() {
    let server = server(Limits { stall: Duration::from_secs(3), ..Limits::default() }).await;
    let _deaf = stuck(&server, "deaf", false).await;
    let _greedy = stuck(&server, "greedy", true).await;
    // More than all the kernel's buffers take.
    server.publish_large(32 << 20).await;
    let endpoint = Channel::from_shared(format!("http://{}", server.address)).unwrap().connect().await.unwrap();
    let mut ads = AggregatedDiscoveryServiceClient::new(endpoint).max_decoding_message_size(64 << 20);
    let (requests, outgoing) = mpsc::channel(8);
    let type_url = ResourceType::Cluster.url().into();
    let first = DeltaDiscoveryRequest { node: node("idle"), type_url, ..DeltaDiscoveryRequest::default() };
    requests.send(first).await.unwrap();
    let responses = ads.delta_aggregated_resources(ReceiverStream::new(outgoing)).await.unwrap().into_inner();
    let mut idle = Client { requests, responses };
    let whole = idle.next().await;
    assert_eq!(whole.resources.len(), 1);
    // It has everything, acknowledges nothing, and says nothing for as long as the others are given.
    server.until(|_| !server.has("deaf") && !server.has("greedy")).await;
    assert!(server.has("idle"));
    server.publish("small");
    idle.answer(&whole, None).await;
    assert_eq!(idle.next().await.resources.len(), 1);
}

#[tokio::test]
async fn a_large_response_waits_for_its_turn_and_a_small_one_does_not() {
    let server = server(Limits { under_way: 1, patience: NEVER, ..Limits::default() }).await;
    let first = stuck(&server, "first", true).await;
    server.publish_large(1 << 20).await;
    let listener = Arc::new(Resource::new(ResourceType::Listener, "l", "l".into()));
    let seq = server.views.next_seq();
    let publish = Publish { upserts: vec![listener], removals: vec![] };
    server.views.all().pop().unwrap().publish(seq, Revision(seq.0), publish);
    // What it takes of the megabyte fits into a window; the rest stays where it is.
    let sent = |f: &Feedback, id: &str| f.proxies().iter().any(|p| &*p.id.node == id && !p.types.is_empty());
    server.until(|f| sent(f, "first")).await;
    let mut second = server.client("second", "fra").await;
    server.until(|f| sent(f, "second")).await;

    let mut lds = AggregatedDiscoveryServiceClient::new(server.channel().await);
    let (requests, outgoing) = mpsc::channel(8);
    let type_url = ResourceType::Listener.url().into();
    let ask = DeltaDiscoveryRequest { node: node("small"), type_url, ..DeltaDiscoveryRequest::default() };
    requests.send(ask).await.unwrap();
    let responses = lds.delta_aggregated_resources(ReceiverStream::new(outgoing)).await.unwrap().into_inner();
    assert_eq!(Client { requests, responses }.next().await.resources[0].name, "l");

    let early = timeout(Duration::from_millis(20), second.responses.message()).await;
    assert!(early.is_err(), "the second is let through beside the first");
    drop(first);
    assert_eq!(second.next().await.resources[0].name, "a");
}

#[tokio::test]
async fn who_waits_for_its_turn_when_the_process_stops_is_told_so() {
    let server = server(Limits { under_way: 1, patience: NEVER, grace: NEVER, ..Limits::default() }).await;
    let _first = stuck(&server, "first", true).await;
    server.publish_large(1 << 20).await;
    let sent = |f: &Feedback, id: &str| f.proxies().iter().any(|p| &*p.id.node == id && !p.types.is_empty());
    server.until(|f| sent(f, "first")).await;
    let mut second = server.client("second", "fra").await;
    server.until(|f| sent(f, "second")).await;
    server.cancel.cancel();
    let told = timeout(SOON, second.responses.message()).await.expect("in time").unwrap_err();
    assert_eq!((told.code(), told.message()), (Code::Unavailable, "shutting down"));
}

#[tokio::test]
async fn nobody_waits_for_one_that_is_slow() {
    let soon = Duration::from_millis(50);
    let limits = Limits { under_way: 1, openings: 1, patience: soon, handshake: soon, ..Limits::default() };
    let server = server(limits).await;
    let _slow = stuck(&server, "slow", true).await;
    server.publish_large(1 << 20).await;
    // It says the preface, and no more.
    let mut opening = TcpStream::connect(server.address).await.unwrap();
    opening.write_all(PREFACE).await.unwrap();
    let mut next = server.client("next", "fra").await;
    assert_eq!(next.next().await.resources[0].name, "a");
}

#[tokio::test]
async fn so_many_connections_are_opened_at_a_time_and_a_silent_one_is_none_of_them() {
    let server = server(Limits { openings: 1, handshake: NEVER, preface: NEVER, ..Limits::default() }).await;
    let _silent = TcpStream::connect(server.address).await.unwrap();
    let mut first = TcpStream::connect(server.address).await.unwrap();
    first.write_all(PREFACE).await.unwrap();
    let mut second = std::pin::pin!(server.client("second", "fra"));
    assert!(timeout(Duration::from_millis(50), &mut second).await.is_err(), "two at a time");
    drop(first);
    let _second = timeout(SOON, second).await.expect("the next comes after the first");
    server.until(|_| server.has("second")).await;
    let _third = timeout(SOON, server.client("third", "fra")).await.expect("one that has said who it is makes room");
    server.until(|_| server.has("third")).await;
}

#[tokio::test]
async fn who_reports_what_it_has_is_being_opened_until_that_is_compared() {
    let server = server(Limits { openings: 1, handshake: NEVER, ..Limits::default() }).await;
    let mut first = server.client("first", "fra").await;
    timeout(SOON, server.views.interest()).await.unwrap();
    server.publish("one");
    first.next().await;
    let _reporting = moved(&server, "other").await;
    server.until(|_| server.has("envoy-1")).await;
    let mut second = std::pin::pin!(server.client("second", "fra"));
    assert!(timeout(Duration::from_millis(50), &mut second).await.is_err(), "it may have much to say yet");
    let probe = timeout(SOON, server.views.probe()).await.expect("somebody asks");
    server.views.confirmed(probe, true);
    let _second = timeout(SOON, second).await.expect("the next comes when it is compared");
    server.until(|_| server.has("second")).await;
}

#[tokio::test]
async fn a_storm_that_nobody_accepts_yet_waits_and_is_not_forgotten() {
    let listener = intake::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    for number in 0..500 {
        let connected = timeout(SOON, TcpStream::connect(address)).await;
        waiting.push(connected.unwrap_or_else(|_| panic!("connection {number} is not taken")).unwrap());
    }
}

//! Attacks by messages: sizes that are not true, nesting without an end, fields without a number, text that is none.

use std::time::Duration;

use bytes::{BufMut, Bytes};
use h2::client::SendRequest;
use prost::encoding;
use tokio::{net::TcpStream, time::timeout};

use super::{SLACK, Target};
use crate::world::Machine;

const ADS: &str = "envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
const LRS: &str = "envoy.service.load_stats.v3.LoadReportingService/StreamLoadStats";
const CLUSTER: &[u8] = b"type.googleapis.com/envoy.config.cluster.v3.Cluster";
/// gRPC's numbers.
const INVALID_ARGUMENT: &str = "3";
const OUT_OF_RANGE: &str = "11";
const INTERNAL: &str = "13";

/// A field of bytes: number, value.
fn field(number: u32, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    encoding::bytes::encode(number, &value.to_vec(), &mut out);
    out
}

/// A node of the core site with that metadata.
fn node(metadata: &[u8]) -> Vec<u8> {
    [field(1, b"core-1"), field(3, metadata), field(4, &field(3, b"core1"))].concat()
}

/// A first request for clusters.
fn request(metadata: &[u8]) -> Vec<u8> {
    [field(1, &node(metadata)), field(2, CLUSTER)].concat()
}

/// A first request for clusters of a proxy of the core site.
pub(super) fn request_of(id: &str) -> Vec<u8> {
    let node = [field(1, id.as_bytes()), field(4, &field(3, b"core1"))].concat();
    [field(1, &node), field(2, CLUSTER)].concat()
}

/// A gRPC message with its true length.
pub(super) fn message(bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![0];
    out.put_u32(u32::try_from(bytes.len()).unwrap());
    out.extend(bytes);
    out
}

/// A value of a `google.protobuf.Struct`, so many lists deep.
fn deep(depth: usize) -> Vec<u8> {
    let mut value = field(3, b"x");
    for _ in 0..depth {
        value = field(6, &field(1, &value));
    }
    field(1, &[field(1, b"k"), field(2, &value)].concat())
}

/// Sends `body` on a call of its own and gives `grpc-status` and `grpc-message`; `None` when the call goes on.
fn call(target: &Target, path: &str, body: Vec<u8>) -> Option<(String, String)> {
    call_within(SLACK, target, path, body)
}

fn call_within(limit: Duration, target: &Target, path: &str, body: Vec<u8>) -> Option<(String, String)> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let socket = TcpStream::connect(target.control.xds()).await.unwrap();
        let (sender, connection) = h2::client::handshake(socket).await.unwrap();
        tokio::select! {
            status = timeout(limit, ended(sender, path, body)) => status.ok(),
            ended = connection => panic!("the connection ended: {ended:?}"),
        }
    })
}

async fn ended(mut sender: SendRequest<Bytes>, path: &str, body: Vec<u8>) -> (String, String) {
    let request = http::Request::post(format!("http://x/{path}")).header("content-type", "application/grpc");
    let (response, mut stream) = sender.send_request(request.body(()).unwrap(), false).unwrap();
    stream.send_data(body.into(), false).unwrap();
    let (head, mut body) = response.await.unwrap().into_parts();
    let words = |headers: &http::HeaderMap| {
        let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
        text("grpc-status").map(|status| (status, text("grpc-message").unwrap_or_default()))
    };
    if let Some(status) = words(&head.headers) {
        return status;
    }
    while let Some(data) = body.data().await {
        let length = data.unwrap().len();
        body.flow_control().release_capacity(length).unwrap();
    }
    words(&body.trailers().await.unwrap().expect("trailers")).expect("a status")
}

#[test]
fn a_length_that_is_not_true_is_refused_before_anything_is_kept_for_it() {
    let _machine = Machine::shared();
    let mut target = Target::start(&[]);
    target.still_serves("before");
    let before = target.memory();
    for length in [u32::MAX, (16 << 20) + 1] {
        let mut body = vec![0];
        body.put_u32(length);
        let (status, words) = call(&target, ADS, body).expect("an end");
        assert!(status == OUT_OF_RANGE && words.contains("too%20large"), "{status} {words}");
    }
    // Compression is not agreed upon, so there is nothing that could unpack to much.
    let (status, words) = call(&target, ADS, [&[1, 0, 0, 0, 4][..], b"gzip"].concat()).expect("an end");
    assert!(status == INTERNAL && words.contains("compressed"), "{status} {words}");
    let grown = target.memory().saturating_sub(before);
    assert!(grown <= 8 << 10, "{grown} KiB more");
    target.still_serves("after");
}

#[test]
fn what_is_no_message_is_invalid_and_says_so() {
    let _machine = Machine::shared();
    let target = Target::start(&[]);
    for (what, bytes, word) in [
        ("garbage", b"\xff\xff\xff\xff".to_vec(), "DeltaDiscoveryRequest"),
        ("no UTF-8", [request(b""), field(2, b"\xff")].concat(), "DeltaDiscoveryRequest"),
        ("a wrong wire type", [request(b""), vec![0x10, 1]].concat(), "DeltaDiscoveryRequest"),
        ("10,000 levels", request(&deep(10_000)), "node.metadata"),
        ("metadata of 3.9 MB", request(&field(9, &vec![b'x'; 3_900_000])), "64%20KiB"),
    ] {
        let (status, words) = call(&target, ADS, message(&bytes)).unwrap_or_else(|| panic!("{what}: no end"));
        assert!(status == INVALID_ARGUMENT && words.contains(word), "{what}: {status} {words}");
    }
    let deep = field(1, &node(&deep(10_000)));
    assert_eq!(call(&target, LRS, message(&deep)).expect("an end").0, INVALID_ARGUMENT, "load reports too");
    target.still_serves("after");
}

#[test]
fn odd_messages_that_can_be_read_are_read() {
    let _machine = Machine::shared();
    let target = Target::start(&[]);
    let many: Vec<u8> = std::iter::repeat_n([0xa0, 0x06, 0x01], 1_000_000).flatten().collect();
    for (what, bytes) in [
        ("a million unknown fields", [request(b""), many].concat()),
        ("a field that comes twice", [request(b""), request(b"")].concat()),
        ("90 levels", request(&deep(30))),
    ] {
        assert_eq!(
            call_within(Duration::from_secs(1), &target, ADS, message(&bytes)),
            None,
            "{what}: the stream goes on"
        );
    }
    target.still_serves("after");
}

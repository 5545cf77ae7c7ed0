//! The wire side of xDS: slim request messages that skip the node's extension list, read straight off the wire.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};
use prost::{
    Message,
    encoding::{self, DecodeContext, WireType},
};
use prost_types::value::Kind;
use tonic::Status;

use super::{session::Request, sotw};
use crate::{identity::NodeClaim, xds::Resource};

/// `envoy.service.discovery.v3.DeltaDiscoveryRequest`, the fields that we use.
#[derive(Clone, PartialEq, Message)]
pub(super) struct DeltaRequest {
    #[prost(message, optional, tag = "1")]
    node: Option<Node>,
    #[prost(string, tag = "2")]
    type_url: String,
    #[prost(string, repeated, tag = "3")]
    subscribe: Vec<String>,
    #[prost(string, repeated, tag = "4")]
    unsubscribe: Vec<String>,
    /// Entries of a map, unread: they are slices of the message, and of each is kept a name that the view has already,
    /// and a number.
    #[prost(bytes = "bytes", repeated, tag = "5")]
    initial: Vec<Bytes>,
    #[prost(string, tag = "6")]
    nonce: String,
    #[prost(message, optional, tag = "7")]
    error: Option<Rpc>,
}

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, Message)]
struct Rpc {
    #[prost(string, tag = "2")]
    message: String,
}

/// `envoy.config.core.v3.Node` without the 60 kB of `extensions` (O27), which prost skips unread.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Node {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, tag = "2")]
    cluster: String,
    /// A `google.protobuf.Struct`, read when it is known to be small.
    #[prost(bytes = "bytes", tag = "3")]
    metadata: Bytes,
    #[prost(message, optional, tag = "4")]
    locality: Option<Locality>,
    #[prost(string, tag = "6")]
    user_agent_name: String,
    #[prost(string, repeated, tag = "10")]
    client_features: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct Locality {
    #[prost(string, tag = "3")]
    sub_zone: String,
}

/// The key of our part of the node metadata: a struct of `cohort` and `drain_time_s`.
const METADATA: &str = "tidegate.dev";

/// With this the name of the client begins, which a gRPC library writes by itself in every language (gRFC A27).
const GRPC: &str = "gRPC";

/// It takes each resource of a state-of-the-world response inside a `Resource`.
const RESOURCE_IN_SOTW: &str = "xds.config.resource-in-sotw";
/// It knows times to live.
const RESOURCE_TTL: &str = "xds.config.supports-resource-ttl";

/// Bytes of a node's metadata.
const METADATA_MAX: usize = 64 << 10;

/// What one client can do and another cannot (xDS: "client features").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Features {
    /// A state-of-the-world response may carry each resource inside a `Resource`, with its name and version (rule 39).
    pub(super) wrapped: bool,
    /// It forgets what has a time to live and is not renewed (rule 90).
    pub(super) expires: bool,
}

impl Node {
    /// Our part of the metadata.
    fn metadata(&self) -> Result<BTreeMap<String, prost_types::Value>, Status> {
        if self.metadata.len() > METADATA_MAX {
            let most = METADATA_MAX >> 10;
            return Err(Status::invalid_argument(format!("node.metadata is larger than {most} KiB")));
        }
        let read = prost_types::Struct::decode(self.metadata.clone());
        let mut read = read.map_err(|error| Status::invalid_argument(format!("node.metadata: {error}")))?;
        match read.fields.remove(METADATA).and_then(|ours| ours.kind) {
            Some(Kind::StructValue(ours)) => Ok(ours.fields),
            _ => Ok(BTreeMap::new()),
        }
    }

    /// Who it says that it is.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for metadata that is too large, or none.
    pub(super) fn claim(&self) -> Result<NodeClaim, Status> {
        let cohort = match self.metadata()?.remove("cohort").and_then(|cohort| cohort.kind) {
            Some(Kind::StringValue(text)) => text,
            _ => String::new(),
        };
        let site = self.locality.as_ref().map(|l| l.sub_zone.clone()).unwrap_or_default();
        let grpc = self.user_agent_name.starts_with(GRPC);
        Ok(NodeClaim { id: self.id.clone(), cluster: self.cluster.clone(), site, grpc, cohort, delta: false })
    }

    /// What it says that it can do beyond what all can, as far as that matters to what is sent.
    pub(super) fn features(&self) -> Features {
        Features { wrapped: self.can(RESOURCE_IN_SOTW), expires: self.can(RESOURCE_TTL) }
    }

    /// Whether the client says that it can do `feature`.
    pub(super) fn can(&self, feature: &str) -> bool {
        self.client_features.iter().any(|known| known == feature)
    }

    /// Seconds that the proxy's listeners drain (`--drain-time-s`), between 0 and a day.
    pub(super) fn drain_time(&self) -> Option<std::time::Duration> {
        let Some(Kind::NumberValue(seconds)) = self.metadata().ok()?.remove("drain_time_s")?.kind else { return None };
        (0.0..=86_400.0).contains(&seconds).then(|| std::time::Duration::from_secs_f64(seconds))
    }
}

impl From<DeltaRequest> for Request {
    fn from(wire: DeltaRequest) -> Self {
        Self {
            url: wire.type_url,
            subscribe: wire.subscribe,
            unsubscribe: wire.unsubscribe,
            initial: wire.initial.into(),
            nonce: wire.nonce,
            error: wire.error.map(Rpc::words),
        }
    }
}

/// `envoy.service.discovery.v3.DiscoveryRequest`, the fields that we use.
#[derive(Clone, PartialEq, Message)]
pub(super) struct WorldRequest {
    #[prost(string, tag = "1")]
    version: String,
    #[prost(message, optional, tag = "2")]
    node: Option<Node>,
    #[prost(string, repeated, tag = "3")]
    names: Vec<String>,
    #[prost(string, tag = "4")]
    type_url: String,
    #[prost(string, tag = "5")]
    nonce: String,
    #[prost(message, optional, tag = "6")]
    error: Option<Rpc>,
}

impl From<WorldRequest> for sotw::Request {
    fn from(wire: WorldRequest) -> Self {
        Self {
            url: wire.type_url,
            names: wire.names,
            version: wire.version,
            nonce: wire.nonce,
            error: wire.error.map(Rpc::words),
        }
    }
}

/// Key and value of an entry of a map of texts; none for bytes that are no such entry.
pub(super) fn pair(mut entry: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut pair: (&[u8], &[u8]) = (&[], &[]);
    while !entry.is_empty() {
        let (tag, wire_type) = encoding::decode_key(&mut entry).ok()?;
        let field = match tag {
            1 => &mut pair.0,
            2 => &mut pair.1,
            _ => {
                encoding::skip_field(wire_type, tag, &mut entry, DecodeContext::default()).ok()?;
                continue;
            }
        };
        encoding::check_wire_type(WireType::LengthDelimited, wire_type).ok()?;
        let length = usize::try_from(encoding::decode_varint(&mut entry).ok()?).ok()?;
        (*field, entry) = entry.split_at_checked(length)?;
    }
    Some(pair)
}

/// The other way.
#[cfg(any(test, fuzzing))]
pub(super) fn entry(key: &[u8], value: &[u8]) -> Bytes {
    let mut out = BytesMut::new();
    put(1, key, &mut out);
    put(2, value, &mut out);
    out.freeze()
}

/// `envoy.service.discovery.v3.Resource`, as the type of what an `Any` holds.
const RESOURCE_URL: &str = "type.googleapis.com/envoy.service.discovery.v3.Resource";

/// The encoded `DiscoveryResponse` behind its gRPC prefix.
pub(super) fn world_response(response: &sotw::Response, identifier: &str, features: Features) -> Bytes {
    let url = response.kind.url();
    let parts = |resource: &Resource| match features.wrapped {
        true if response.wraps && resource.ttl.is_some() => (RESOURCE_URL, resource.expiring().wrapped()),
        true => (RESOURCE_URL, resource.wrapped()),
        false => (url, resource.payload.clone()),
    };
    let bodies: usize = response.resources.iter().map(|r| parts(r)).map(|(url, it)| url.len() + it.len() + 16).sum();
    let mut out = BytesMut::with_capacity(bodies + url.len() + identifier.len() + 64);
    begin_message(&mut out);
    put(1, response.version.to_string().as_bytes(), &mut out);
    for resource in &response.resources {
        // An `Any`, without copying the payload first.
        let (url, payload) = parts(resource);
        let size = |length: usize| 1 + encoding::encoded_len_varint(length as u64) + length;
        encoding::encode_key(2, WireType::LengthDelimited, &mut out);
        encoding::encode_varint((size(url.len()) + size(payload.len())) as u64, &mut out);
        put(1, url.as_bytes(), &mut out);
        put(2, &payload, &mut out);
    }
    put(4, url.as_bytes(), &mut out);
    put(5, format!("{:x}", response.nonce).as_bytes(), &mut out);
    let mut control_plane = BytesMut::with_capacity(identifier.len() + 8);
    put(1, identifier.as_bytes(), &mut control_plane);
    put(6, &control_plane, &mut out);
    response.errors.iter().for_each(|error| error.encode(7, &mut out));
    end_message(out)
}

/// Bytes before a gRPC message: a flag, and the length.
const PREFIX: usize = 5;

/// Leaves room for the prefix of an uncompressed message, whose length is known at its end.
pub(super) fn begin_message(out: &mut BytesMut) {
    out.put_slice(&[0; PREFIX]);
}

/// Fills the prefix in.
pub(super) fn end_message(mut out: BytesMut) -> Bytes {
    let length = u32::try_from(out.len().saturating_sub(PREFIX)).unwrap_or(u32::MAX);
    if let Some(prefix) = out.get_mut(1..PREFIX) {
        prefix.copy_from_slice(&length.to_be_bytes());
    }
    out.freeze()
}

/// One field of bytes.
pub(super) fn put(tag: u32, value: &[u8], out: &mut BytesMut) {
    encoding::encode_key(tag, WireType::LengthDelimited, out);
    encoding::encode_varint(value.len() as u64, out);
    out.put_slice(value);
}

/// Which form of xDS a stream speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Variant {
    /// Incremental.
    Delta,
    /// State of the world.
    World,
}

/// Bytes of a NACK's words that are looked at: they are searched for every name of the response.
const WORDS_MAX: usize = 64 << 10;

impl Rpc {
    fn words(self) -> String {
        let mut words = self.message;
        let end = (0..=WORDS_MAX.min(words.len())).rev().find(|at| words.is_char_boundary(*at));
        words.truncate(end.unwrap_or_default());
        words
    }
}

/// A request of either form.
#[derive(Debug)]
pub(super) enum Ask {
    Delta(DeltaRequest),
    World(WorldRequest),
}

impl Ask {
    /// The node, which only the first request is sure to have.
    pub(super) fn take_node(&mut self) -> Option<Node> {
        match self {
            Self::Delta(request) => request.node.take(),
            Self::World(request) => request.node.take(),
        }
    }

    /// Its bytes on the wire, about.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Delta(request) => request.encoded_len(),
            Self::World(request) => request.encoded_len(),
        }
    }

    /// Type and words of a NACK.
    pub(super) fn refusal(&self) -> Option<(&str, &str)> {
        let (url, error) = match self {
            Self::Delta(request) => (&request.type_url, &request.error),
            Self::World(request) => (&request.type_url, &request.error),
        };
        error.as_ref().map(|error| (url.as_str(), error.message.as_str()))
    }

    /// `type_url`; a service of one type fills it in where it is empty.
    pub(super) fn url(&mut self) -> &mut String {
        match self {
            Self::Delta(request) => &mut request.type_url,
            Self::World(request) => &mut request.type_url,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::serve::absent::Absent;
    use crate::xds::{ResourceType, Version};

    #[test]
    fn an_entry_of_a_map_is_read_past_what_it_has_beside_and_not_past_its_end() {
        assert_eq!(pair(&entry(b"name", b"1")), Some((&b"name"[..], &b"1"[..])));
        assert_eq!(pair(b""), Some((&b""[..], &b""[..])));
        // A number as field 3 before the name, which comes twice.
        assert_eq!(pair(b"\x18\x07\x0a\x01a\x0a\x01b"), Some((&b"b"[..], &b""[..])));
        for bad in [&b"\x0a\x05few"[..], b"\x0a", b"\x08\x01x", b"\x18"] {
            assert_eq!(pair(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn of_the_words_of_a_refusal_so_many_are_kept_and_no_half_letter() {
        let words = |message: &str| Rpc { message: message.to_owned() }.words();
        assert_eq!(words("bad"), "bad");
        let long = "é".repeat(WORDS_MAX);
        assert_eq!(words(&long).len(), WORDS_MAX);
        assert_eq!(words(&format!("x{long}")).len(), WORDS_MAX - 1);
    }

    #[test]
    fn what_a_client_has_is_read_as_the_map_that_it_is() {
        use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
        let initial_resource_versions = [("a".to_owned(), "1".to_owned())].into();
        let request = DeltaDiscoveryRequest { initial_resource_versions, ..DeltaDiscoveryRequest::default() };
        let read: Request = DeltaRequest::decode(request.encode_to_vec().as_slice()).unwrap().into();
        assert_eq!(read.initial, std::iter::once(("a", "1")).collect());
    }

    #[test]
    fn a_real_node_message_is_read_without_its_extensions() {
        use envoy_types::pb::{
            envoy::{config::core::v3 as core, service::discovery::v3::DeltaDiscoveryRequest},
            google::protobuf::{Struct, Value, value::Kind},
        };
        let value = |kind| Value { kind: Some(kind) };
        let ours = Struct {
            fields: [
                ("cohort".to_owned(), value(Kind::StringValue("canary".into()))),
                ("drain_time_s".to_owned(), value(Kind::NumberValue(30.0))),
            ]
            .into(),
        };
        let metadata = Struct { fields: [("tidegate.dev".to_owned(), value(Kind::StructValue(ours)))].into() };
        let extension = core::Extension { name: "envoy.filters.http.router".into(), ..core::Extension::default() };
        let locality = core::Locality { sub_zone: "fra".into(), ..core::Locality::default() };
        let node = core::Node {
            id: "envoy-1".into(),
            cluster: "edge".into(),
            metadata: Some(metadata),
            locality: Some(locality),
            extensions: vec![extension; 500],
            ..core::Node::default()
        };
        let request = DeltaDiscoveryRequest { node: Some(node), ..DeltaDiscoveryRequest::default() };
        let slim = DeltaRequest::decode(request.encode_to_vec().as_slice()).unwrap();
        assert!(slim.encoded_len() < 200);
        let node = slim.node.unwrap();
        let claim = node.claim().unwrap();
        let said = [claim.id, claim.cluster, claim.site, claim.cohort];
        assert_eq!(said, ["envoy-1", "edge", "fra", "canary"]);
        assert_eq!(node.drain_time(), Some(Duration::from_secs(30)));
        assert_eq!(Node::default().drain_time(), None);
    }

    #[test]
    fn a_client_of_grpc_is_told_by_the_name_that_its_library_writes() {
        let grpc = |name: &str| {
            let node = Node { user_agent_name: name.into(), ..Node::default() };
            node.claim().unwrap().grpc
        };
        assert!(["gRPC C-core linux", "gRPC Go", "gRPC Java", "gRPC Node Pure JS"].into_iter().all(grpc));
        assert!(!["envoy", "", "my gRPC"].into_iter().any(grpc));
    }

    #[test]
    fn metadata_is_read_up_to_its_limit() {
        use prost_types::{Struct, Value};
        let of = |bytes: usize| {
            let value = Value { kind: Some(Kind::StringValue("x".repeat(bytes))) };
            Struct { fields: [("x".to_owned(), value)].into() }.encode_to_vec()
        };
        let over = of(METADATA_MAX - 1_000).len() - (METADATA_MAX - 1_000);
        for (bytes, read) in [(METADATA_MAX, true), (METADATA_MAX + 1, false)] {
            let metadata = Bytes::from(of(bytes - over));
            assert_eq!(metadata.len(), bytes);
            assert_eq!(Node { metadata, ..Node::default() }.claim().is_ok(), read);
        }
    }

    #[test]
    fn a_refusal_says_its_type_and_its_words_in_both_forms() {
        let (type_url, error) = ("t".to_owned(), Some(Rpc { message: "bad".into() }));
        let delta = DeltaRequest { type_url: type_url.clone(), error: error.clone(), ..DeltaRequest::default() };
        let world = WorldRequest { type_url, error, ..WorldRequest::default() };
        assert_eq!(Ask::Delta(delta).refusal(), Some(("t", "bad")));
        assert_eq!(Ask::World(world).refusal(), Some(("t", "bad")));
        assert_eq!(Ask::Delta(DeltaRequest::default()).refusal(), None);
    }

    #[test]
    fn resources_are_wrapped_for_those_alone_who_can_unwrap_them() {
        use envoy_types::pb::envoy::service::discovery::v3::{DiscoveryResponse, Resource as Wrapped};
        let kind = ResourceType::Cluster;
        let resource = Resource::new(kind, "shop/web:80", Bytes::from_static(b"payload"));
        let resource = resource.lasting(std::time::Duration::from_secs(30));
        let version = resource.version.to_string();
        let resources = vec![std::sync::Arc::new(resource)];
        let errors = vec![Absent::of(kind, "x".into(), true)];
        let mut response =
            sotw::Response { kind, version: Version::of(b"all"), nonce: 7, resources, errors, wraps: true };
        let read = |response: &sotw::Response, feature: &str| {
            let node = Node { client_features: vec![feature.into()], ..Node::default() };
            let bytes = world_response(response, "cp1", node.features());
            let mut decoded = DiscoveryResponse::decode(&bytes[PREFIX..]).unwrap();
            let error = decoded.resource_errors.remove(0);
            assert_eq!(error.resource_name.unwrap().name, "x");
            assert_eq!(error.error_detail.unwrap().code, i32::from(tonic::Code::NotFound));
            decoded.resources.remove(0)
        };
        let (bare, any) = (read(&response, "other"), read(&response, "xds.config.resource-in-sotw"));
        assert_eq!((bare.type_url.as_str(), &*bare.value), (kind.url(), &b"payload"[..]));
        assert_eq!(any.type_url, RESOURCE_URL);
        let wrapped = Wrapped::decode(&*any.value).unwrap();
        assert_eq!((wrapped.name.as_str(), wrapped.version), ("shop/web:80", version));
        assert_eq!(wrapped.ttl.map(|ttl| ttl.seconds), Some(30));
        assert_eq!(wrapped.resource, Some(bare));
        response.wraps = false;
        let any = read(&response, "xds.config.resource-in-sotw");
        assert_eq!(Wrapped::decode(&*any.value).unwrap().ttl, None, "it does not know times to live");
    }
}

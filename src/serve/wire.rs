//! The wire side of xDS: slim request messages that skip the node's extension list, read straight off the wire.

use std::collections::{BTreeMap, HashMap};

use bytes::{BufMut, Bytes, BytesMut};
use prost::{
    Message,
    encoding::{self, WireType},
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
    #[prost(map = "string, string", tag = "5")]
    initial: HashMap<String, String>,
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

/// Bytes of a node's metadata.
const METADATA_MAX: usize = 64 << 10;

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
        Ok(NodeClaim { id: self.id.clone(), cluster: self.cluster.clone(), site, cohort, delta: false })
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
            initial: wire.initial,
            nonce: wire.nonce,
            error: wire.error.map(|e| e.message),
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
            error: wire.error.map(|e| e.message),
        }
    }
}

/// The encoded `DiscoveryResponse` behind its gRPC prefix.
pub(super) fn world_response(response: &sotw::Response, identifier: &str) -> Bytes {
    let url = response.kind.url();
    let bodies: usize = response.resources.iter().map(|r| r.payload.len() + url.len() + 16).sum();
    let mut out = BytesMut::with_capacity(bodies + url.len() + identifier.len() + 64);
    begin_message(&mut out);
    put(1, response.version.to_string().as_bytes(), &mut out);
    let (wrapped, bare): (Vec<_>, Vec<_>) =
        response.resources.iter().partition(|resource| response.wraps && resource.ttl.is_some());
    for resource in wrapped {
        wrap(resource, &mut out);
    }
    for resource in bare {
        // An `Any`, without copying the payload first.
        let size = |length: usize| 1 + encoding::encoded_len_varint(length as u64) + length;
        encoding::encode_key(2, WireType::LengthDelimited, &mut out);
        encoding::encode_varint((size(url.len()) + size(resource.payload.len())) as u64, &mut out);
        put(1, url.as_bytes(), &mut out);
        put(2, &resource.payload, &mut out);
    }
    put(4, url.as_bytes(), &mut out);
    put(5, format!("{:x}", response.nonce).as_bytes(), &mut out);
    let mut control_plane = BytesMut::with_capacity(identifier.len() + 8);
    put(1, identifier.as_bytes(), &mut control_plane);
    put(6, &control_plane, &mut out);
    response.errors.iter().for_each(|error| error.encode(7, &mut out));
    end_message(out)
}

/// A resource in its wrapper, as one more `Any` of a state-of-the-world response.
fn wrap(resource: &Resource, out: &mut BytesMut) {
    const WRAPPER: &str = "type.googleapis.com/envoy.service.discovery.v3.Resource";
    // The body is the wrapper already, behind the key and length of a field.
    let mut body = resource.expiring().body;
    let skipped = encoding::decode_key(&mut body).and_then(|_| encoding::decode_varint(&mut body));
    debug_assert!(skipped.is_ok(), "a body begins with its key and length");
    let mut any = BytesMut::with_capacity(body.len() + WRAPPER.len() + 16);
    put(1, WRAPPER.as_bytes(), &mut any);
    put(2, &body, &mut any);
    put(2, &any, out);
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
}

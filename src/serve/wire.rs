//! The wire side of delta ADS: slim request messages that skip the node's extension list, read straight off the wire.

use std::collections::HashMap;

use prost::Message;
use tonic::{
    Status,
    codec::{DecodeBuf, Decoder},
};

use super::session::Request;
use crate::identity::NodeClaim;

/// `envoy.service.discovery.v3.DeltaDiscoveryRequest`, the fields that we use.
#[derive(Clone, PartialEq, Message)]
pub(super) struct DeltaRequest {
    #[prost(message, optional, tag = "1")]
    pub(super) node: Option<Node>,
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

impl DeltaRequest {
    /// Type and words of a NACK.
    pub(super) fn refusal(&self) -> Option<(&str, &str)> {
        self.error.as_ref().map(|e| (self.type_url.as_str(), e.message.as_str()))
    }
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
    #[prost(message, optional, tag = "3")]
    metadata: Option<prost_types::Struct>,
    #[prost(message, optional, tag = "4")]
    locality: Option<Locality>,
}

#[derive(Clone, PartialEq, Message)]
struct Locality {
    #[prost(string, tag = "3")]
    sub_zone: String,
}

/// The key of our part of the node metadata: a struct of `cohort` and `drain_time_s`.
const METADATA: &str = "tidegate.dev";

impl Node {
    fn metadata(&self, key: &str) -> Option<&prost_types::value::Kind> {
        let ours = self.metadata.as_ref()?.fields.get(METADATA)?;
        let Some(prost_types::value::Kind::StructValue(ours)) = &ours.kind else { return None };
        ours.fields.get(key)?.kind.as_ref()
    }

    pub(super) fn claim(&self) -> NodeClaim {
        let cohort = match self.metadata("cohort") {
            Some(prost_types::value::Kind::StringValue(text)) => text.clone(),
            _ => String::new(),
        };
        let site = self.locality.as_ref().map(|l| l.sub_zone.clone()).unwrap_or_default();
        NodeClaim { id: self.id.clone(), cluster: self.cluster.clone(), site, cohort }
    }

    /// Seconds that the proxy's listeners drain (`--drain-time-s`), between 0 and a day.
    pub(super) fn drain_time(&self) -> Option<std::time::Duration> {
        let Some(prost_types::value::Kind::NumberValue(seconds)) = self.metadata("drain_time_s") else { return None };
        (0.0..=86_400.0).contains(seconds).then(|| std::time::Duration::from_secs_f64(*seconds))
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

/// Reads requests.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Requests;

impl Decoder for Requests {
    type Item = DeltaRequest;
    type Error = Status;

    fn decode(&mut self, source: &mut DecodeBuf<'_>) -> Result<Option<DeltaRequest>, Status> {
        let decoded = DeltaRequest::decode(source);
        decoded.map(Some).map_err(|e| Status::invalid_argument(format!("no DeltaDiscoveryRequest: {e}")))
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
        let claim = node.claim();
        let said = [claim.id, claim.cluster, claim.site, claim.cohort];
        assert_eq!(said, ["envoy-1", "edge", "fra", "canary"]);
        assert_eq!(node.drain_time(), Some(Duration::from_secs(30)));
        assert_eq!(Node::default().drain_time(), None);
    }
}

//! The two variants of the protocol, where they differ for the generator: the call, and the numbers of some fields.

use crate::proto::{Field, Value, fields};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    Delta,
    /// Each response holds all resources of its type.
    StateOfTheWorld,
}

/// The numbers of a request's fields.
pub struct Numbers {
    pub node: u32,
    pub url: u32,
    pub nonce: u32,
}

impl Variant {
    /// The path of the call.
    pub fn path(self) -> &'static str {
        match self {
            Self::Delta => "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources",
            Self::StateOfTheWorld => "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources",
        }
    }

    pub fn numbers(self) -> Numbers {
        match self {
            Self::Delta => Numbers { node: 1, url: 2, nonce: 6 },
            Self::StateOfTheWorld => Numbers { node: 2, url: 4, nonce: 5 },
        }
    }

    /// The `Any` of one of a response's resources.
    pub fn any(self, resource: &[u8]) -> Option<&[u8]> {
        if self == Self::StateOfTheWorld {
            return Some(resource);
        }
        fields(resource).find_map(|field| match field {
            Field { number: 2, value: Value::Bytes(any) } => Some(any),
            _ => None,
        })
    }
}

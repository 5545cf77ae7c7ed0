//! The requests: what all clients say alike is made once.

use std::rc::Rc;

use super::{Mode, Settings, scout::Held, variant::Variant};
use crate::{
    h2,
    proto::put,
    resources::Resource,
    stamp::{CLUSTER, ENDPOINTS},
};

/// Digits of a client's id: all ids are of one length, so that the lengths around them are too.
const ID: usize = 12;

/// A client's requests, by what it holds.
pub struct Asks {
    /// One for each share: the first message up to the client's id, and from there on.
    first: Vec<(Vec<u8>, Rc<[u8]>)>,
    /// The request for assignments by name; where there are shares, it is the first message.
    names: Option<Rc<[u8]>>,
}

impl Asks {
    /// Of clients that hold nothing, or (`warm`) all that the scout saw.
    pub fn new(settings: &Settings, held: &Held, warm: bool) -> Self {
        let node = node(settings);
        let by_name = |resources: &[Resource]| {
            let mut out = Vec::new();
            put(2, ENDPOINTS.as_bytes(), &mut out);
            resources.iter().for_each(|r| put(3, r.name.as_bytes(), &mut out));
            if warm {
                resources.iter().for_each(|r| version(r, &mut out));
            }
            out
        };
        let opening = |rest: &[u8]| {
            let (head, tail) = first(settings.variant, &node, rest);
            (head, tail.into())
        };
        if let Mode::Share(share) = settings.mode {
            let shares = held.endpoints.chunks(share.max(1));
            return Self { first: shares.map(|share| opening(&by_name(share))).collect(), names: None };
        }
        let mut clusters = Vec::new();
        put(settings.variant.numbers().url, CLUSTER.as_bytes(), &mut clusters);
        if warm {
            held.clusters.iter().for_each(|r| version(r, &mut clusters));
        }
        Self { first: vec![opening(&clusters)], names: Some(h2::message(&by_name(&held.endpoints)).into()) }
    }

    /// What a client says at first, with its node: in two pieces, the second shared.
    pub fn first(&self, id: usize) -> Vec<Rc<[u8]>> {
        let Some((head, tail)) = self.first.get(id % self.first.len().max(1)) else { return Vec::new() };
        let mut head = head.clone();
        head.extend_from_slice(format!("load-{id:07}").as_bytes());
        vec![head.into(), Rc::clone(tail)]
    }

    /// The request for assignments, of clients that ask for clusters first.
    pub fn names(&self) -> Option<Rc<[u8]>> {
        self.names.clone()
    }
}

fn version(resource: &Resource, out: &mut Vec<u8>) {
    let mut entry = Vec::new();
    put(1, resource.name.as_bytes(), &mut entry);
    put(2, resource.version.as_bytes(), &mut entry);
    put(5, &entry, out);
}

/// All of the node but its id: an Envoy's is mostly a list of its extensions.
fn node(settings: &Settings) -> Vec<u8> {
    let mut node = Vec::new();
    put(2, b"load", &mut node);
    let mut locality = Vec::new();
    put(3, settings.site.as_bytes(), &mut locality);
    put(4, &locality, &mut node);
    put(6, b"envoy", &mut node);
    let mut number = 0;
    while node.len() < settings.node_bytes {
        let mut extension = Vec::new();
        put(1, format!("envoy.filters.http.synthetic_{number}").as_bytes(), &mut extension);
        put(2, b"envoy.filters.http", &mut extension);
        put(6, format!("envoy.extensions.filters.http.synthetic.v3.Filter{number}").as_bytes(), &mut extension);
        put(9, &extension, &mut node);
        number += 1;
    }
    node
}

/// The gRPC message of a request, cut behind the place of the id, which comes first in the node.
fn first(variant: Variant, node: &[u8], rest: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let mut whole = Vec::new();
    put(1, &[b'-'; ID], &mut whole);
    whole.extend_from_slice(node);
    let mut request = Vec::new();
    put(variant.numbers().node, &whole, &mut request);
    request.extend_from_slice(rest);
    let message = h2::message(&request);
    let at = message.len() - rest.len() - node.len();
    (message[..at - ID].to_vec(), message[at..].to_vec())
}

/// The ACK of a response; its version is said in state of the world.
pub fn ack(variant: Variant, cluster: bool, version: &[u8], nonce: &[u8]) -> Rc<[u8]> {
    let numbers = variant.numbers();
    let mut request = Vec::with_capacity(128);
    if variant == Variant::StateOfTheWorld {
        put(1, version, &mut request);
    }
    put(numbers.url, if cluster { CLUSTER } else { ENDPOINTS }.as_bytes(), &mut request);
    put(numbers.nonce, nonce, &mut request);
    h2::message(&request).into()
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
    use prost::Message;

    use super::*;

    #[test]
    fn the_first_message_is_an_envoys() {
        let settings = Settings::parse(std::iter::empty()).unwrap();
        let resource = Resource { name: "a".into(), version: "7".into(), url: CLUSTER.into(), bytes: vec![] };
        let held = Held { clusters: vec![resource], ..Held::default() };
        let whole = Asks::new(&settings, &held, true).first(42).concat();
        let request = DeltaDiscoveryRequest::decode(&whole[5..]).unwrap();
        assert_eq!(whole[1..5], (whole.len() as u32 - 5).to_be_bytes());
        let node = request.node.unwrap();
        assert_eq!((node.id.as_str(), node.locality.unwrap().sub_zone.as_str()), ("load-0000042", "core1"));
        assert!(node.extensions.len() > 300);
        assert_eq!((request.type_url.as_str(), &request.initial_resource_versions["a"]), (CLUSTER, &"7".to_owned()));
    }

    #[test]
    fn in_state_of_the_world_a_client_asks_for_all_clusters_and_acknowledges_their_version() {
        let settings = Settings::parse(["variant=sotw".to_owned()].into_iter()).unwrap();
        let whole = Asks::new(&settings, &Held::default(), false).first(42).concat();
        let first = DiscoveryRequest::decode(&whole[5..]).unwrap();
        assert_eq!((first.node.unwrap().id.as_str(), first.type_url.as_str()), ("load-0000042", CLUSTER));
        assert!(first.resource_names.is_empty() && first.version_info.is_empty() && first.response_nonce.is_empty());
        let ack = DiscoveryRequest::decode(&ack(Variant::StateOfTheWorld, true, b"7", b"n")[5..]).unwrap();
        let said = (ack.version_info.as_str(), ack.response_nonce.as_str(), ack.type_url.as_str());
        assert_eq!(said, ("7", "n", CLUSTER));
    }
}

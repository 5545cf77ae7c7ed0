//! The time at which a resource was changed, in its own bytes: whoever serves it, the reader knows how old it is.
//!
//! A ClusterLoadAssignment carries it as an endpoint `127.a.b.c:port` (all others are `10.…`): the low 40 bits of
//! [`crate::clock::now`], 18 minutes, the last bit set since no port is 0. A Cluster carries it as `max_requests` of its
//! first circuit breaker: 30 bits of units of 1024 ns, the same 18 minutes, with bit 30 set as the mark.

use std::net::{Ipv4Addr, SocketAddrV4};

use envoy_types::pb::envoy::config::{
    cluster::v3::{CircuitBreakers, Cluster, circuit_breakers::Thresholds},
    core::v3::{Address, SocketAddress, address, socket_address},
    endpoint::v3::{ClusterLoadAssignment, Endpoint, LbEndpoint, lb_endpoint::HostIdentifier},
};
use envoy_types::pb::google::protobuf::UInt32Value;
use prost::Message;

use crate::proto::{Field, Value, fields};

/// Type URL of a Cluster.
pub const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
/// Type URL of a ClusterLoadAssignment.
pub const ENDPOINTS: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";

const BITS: u64 = (1 << 40) - 1;
const MARK: u32 = 1 << 30;

/// The stamp as an endpoint's address.
pub fn to_address(at: u64) -> SocketAddrV4 {
    let bits = at & BITS | 1;
    let [.., a, b, c, high, low] = bits.to_be_bytes();
    SocketAddrV4::new(Ipv4Addr::new(127, a, b, c), u16::from_be_bytes([high, low]))
}

fn from_address(address: Ipv4Addr, port: u16) -> Option<u64> {
    let [127, a, b, c] = address.octets() else { return None };
    let [high, low] = port.to_be_bytes();
    Some(u64::from_be_bytes([0, 0, 0, a, b, c, high, low]))
}

/// The stamp as a circuit breaker's `max_requests`.
pub fn to_limit(at: u64) -> u32 {
    u32::try_from((at & BITS) >> 10).unwrap_or(0) | MARK
}

fn from_limit(limit: u32) -> Option<u64> {
    (limit & MARK != 0 && limit < MARK << 1).then(|| u64::from(limit & !MARK) << 10)
}

/// The whole time of a stamp that was read at `now`.
pub fn whole(stamp: u64, now: u64) -> u64 {
    // A stamp's last bit may lie a nanosecond ahead.
    now.saturating_sub(now.wrapping_sub(stamp).wrapping_add(1) & BITS)
}

/// The stamp of a resource's bytes, if it has one.
pub fn read(url: &[u8], resource: &[u8]) -> Option<u64> {
    if url.ends_with(b".Cluster") { read_cluster(resource) } else { read_endpoints(resource) }
}

fn read_cluster(cluster: &[u8]) -> Option<u64> {
    let breakers = find(cluster, 10)?;
    let thresholds = find(breakers, 1)?;
    let wrapped = find(thresholds, 4)?;
    fields(wrapped).find_map(|field| match field {
        Field { number: 1, value: Value::Varint(limit) } => from_limit(u32::try_from(limit).ok()?),
        _ => None,
    })
}

/// Looks at the first and the last endpoint of the last locality: servers sort them, and `127.` goes to an end.
fn read_endpoints(assignment: &[u8]) -> Option<u64> {
    let locality = all(assignment, 2).last()?;
    let mut endpoints = all(locality, 2);
    let first = endpoints.next()?;
    read_endpoint(first).or_else(|| read_endpoint(endpoints.last()?))
}

fn read_endpoint(endpoint: &[u8]) -> Option<u64> {
    let socket = find(find(find(endpoint, 1)?, 1)?, 1)?;
    let (mut address, mut port) = (None, None);
    for field in fields(socket) {
        match field {
            Field { number: 2, value: Value::Bytes(text) } if text.starts_with(b"127.") => {
                address = std::str::from_utf8(text).ok()?.parse().ok();
            }
            Field { number: 3, value: Value::Varint(number) } => port = u16::try_from(number).ok(),
            _ => {}
        }
    }
    from_address(address?, port?)
}

fn all(message: &[u8], wanted: u32) -> impl Iterator<Item = &[u8]> {
    fields(message).filter_map(move |field| match field.value {
        Value::Bytes(bytes) if field.number == wanted => Some(bytes),
        _ => None,
    })
}

fn find(message: &[u8], wanted: u32) -> Option<&[u8]> {
    all(message, wanted).next()
}

/// A Cluster with the stamp in it.
pub fn stamp_cluster(cluster: &mut Cluster, at: u64) {
    let breakers = cluster.circuit_breakers.get_or_insert_with(CircuitBreakers::default);
    if breakers.thresholds.is_empty() {
        breakers.thresholds.push(Thresholds::default());
    }
    if let Some(first) = breakers.thresholds.first_mut() {
        first.max_requests = Some(UInt32Value { value: to_limit(at) });
    }
}

/// A ClusterLoadAssignment with the stamp in it: behind its endpoints, in place of an older one.
pub fn stamp_endpoints(assignment: &mut ClusterLoadAssignment, at: u64) {
    let address = to_address(at);
    let stamped = LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(Endpoint {
            address: Some(Address {
                address: Some(address::Address::SocketAddress(SocketAddress {
                    address: address.ip().to_string(),
                    port_specifier: Some(socket_address::PortSpecifier::PortValue(address.port().into())),
                    ..Default::default()
                })),
            }),
            ..Default::default()
        })),
        load_balancing_weight: Some(UInt32Value { value: 1 }),
        ..Default::default()
    };
    if assignment.endpoints.is_empty() {
        assignment.endpoints.push(Default::default());
    }
    let Some(locality) = assignment.endpoints.last_mut() else { return };
    let old = locality.lb_endpoints.last().is_some_and(|last| read_endpoint(&last.encode_to_vec()).is_some());
    if old {
        locality.lb_endpoints.pop();
    }
    locality.lb_endpoints.push(stamped);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamped_assignment_says_when() {
        let mut assignment = ClusterLoadAssignment::default();
        for at in [5_000_000_123_457, (1 << 50) - 3, (1 << 45) + 65_536 * 7] {
            stamp_endpoints(&mut assignment, at);
            let read = read(ENDPOINTS.as_bytes(), &assignment.encode_to_vec()).unwrap();
            assert_eq!(read, at & BITS | 1);
            assert_eq!(whole(read, at + 1_000_000) & !1, at & !1);
        }
        assert_eq!(assignment.endpoints[0].lb_endpoints.len(), 1);
    }

    #[test]
    fn a_stamped_cluster_says_when_to_a_microsecond() {
        let mut cluster = Cluster::default();
        assert_eq!(read(CLUSTER.as_bytes(), &cluster.encode_to_vec()), None);
        let at = 5_000_000_123_457;
        stamp_cluster(&mut cluster, at);
        let read = read(CLUSTER.as_bytes(), &cluster.encode_to_vec()).unwrap();
        assert!(at - whole(read, at + 777_777) < 1_024);
    }

    #[test]
    fn plain_resources_carry_no_stamp() {
        assert_eq!(from_address(Ipv4Addr::new(10, 0, 0, 1), 80), None);
        assert_eq!(from_limit(1_024), None);
        assert_eq!(from_limit(u32::MAX), None);
    }

    #[test]
    fn a_stamp_a_nanosecond_ahead_is_no_eighteen_minutes_old() {
        assert_eq!(whole(1_001, 1_000), 1_000);
    }
}

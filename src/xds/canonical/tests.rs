//! Tests of the canonical walk.

use std::collections::HashMap;

use envoy_types::pb::{
    envoy::config::{
        cluster::v3::Cluster,
        core::v3::Metadata,
        listener::v3::{Filter, FilterChain, Listener, filter::ConfigType},
    },
    google::protobuf::{Any, Struct, Value, value::Kind},
};
use proptest::prelude::{Strategy, any, prop, prop_assert_eq, prop_oneof, proptest};
use prost::Message;

use super::*;

const CLUSTER: &str = "envoy.config.cluster.v3.Cluster";
const LISTENER: &str = "envoy.config.listener.v3.Listener";

fn text(value: &str) -> Value {
    Value { kind: Some(Kind::StringValue(value.into())) }
}

fn structure(keys: impl IntoIterator<Item = String>) -> Struct {
    Struct { fields: keys.into_iter().map(|k| (k.clone(), text(&k))).collect() }
}

/// A cluster with 8 entries in a map of messages, and 8 in a map inside each.
fn cluster() -> Cluster {
    let keys = || (0..8).map(|i| format!("key-{i}"));
    let filter_metadata: HashMap<_, _> = keys().map(|k| (k, structure(keys()))).collect();
    Cluster {
        name: "shop/web:80".into(),
        metadata: Some(Metadata { filter_metadata, ..Metadata::default() }),
        ..Cluster::default()
    }
}

/// `cluster` inside an `Any` inside another.
fn listener(cluster: &Cluster) -> Listener {
    let any = |name: &str, value: Vec<u8>| Any { type_url: format!("type.googleapis.com/{name}"), value };
    let inner = any(CLUSTER, cluster.encode_to_vec());
    let filter =
        Filter { name: "f".into(), config_type: Some(ConfigType::TypedConfig(any(ANY, inner.encode_to_vec()))) };
    Listener {
        filter_chains: vec![FilterChain { filters: vec![filter], ..FilterChain::default() }],
        ..Listener::default()
    }
}

#[test]
fn fifty_encodings_of_a_cluster_with_eight_map_entries_become_one() {
    let encodings: Vec<Bytes> = (0..50).map(|_| cluster().encode_to_vec().into()).collect();
    assert!(encodings.iter().any(|e| *e != encodings[0]), "hash maps were in order by chance");
    let first = canonical(CLUSTER, encodings[0].clone());
    for encoding in encodings {
        assert_eq!(canonical(CLUSTER, encoding), first);
    }
    assert_eq!(Cluster::decode(first).unwrap(), cluster());
}

#[test]
fn maps_inside_any_inside_any_are_sorted() {
    let encodings: Vec<Bytes> = (0..10).map(|_| listener(&cluster()).encode_to_vec().into()).collect();
    let first = canonical(LISTENER, encodings[0].clone());
    assert!(encodings.iter().all(|e| canonical(LISTENER, e.clone()) == first));
    let inner = canonical(CLUSTER, cluster().encode_to_vec().into());
    assert!(first.windows(inner.len()).any(|w| w == inner), "the canonical cluster stands in the listener");
}

#[test]
fn a_message_whose_maps_have_one_entry_is_returned_as_it_is() {
    let mut one = cluster();
    one.metadata.as_mut().unwrap().filter_metadata = HashMap::from([("k".into(), structure(["a".into()]))]);
    let bytes: Bytes = listener(&one).encode_to_vec().into();
    let same = canonical(LISTENER, bytes.clone());
    assert_eq!(same.as_ptr(), bytes.as_ptr(), "the same buffer, not a copy");
}

/// A `Metadata` of the given (key, unknown field) entries, in this order, with an unknown field around them.
fn metadata(entries: &[(&str, u64)]) -> Bytes {
    let mut out = Vec::new();
    encode_key(1000, WireType::Varint, &mut out);
    encode_varint(7, &mut out);
    for (key, unknown) in entries {
        let mut entry = delimited(1, key.as_bytes());
        encode_key(77, WireType::Varint, &mut entry);
        encode_varint(*unknown, &mut entry);
        out.extend(delimited(1, &entry));
    }
    out.into()
}

#[test]
fn unknown_fields_stay_and_of_two_entries_with_one_key_the_last_stays_last() {
    let name = "envoy.config.core.v3.Metadata";
    let sorted = canonical(name, metadata(&[("b", 1), ("a", 2), ("b", 3)]));
    assert_eq!(sorted, metadata(&[("a", 2), ("b", 1), ("b", 3)]));
}

#[test]
fn garbage_and_unknown_types_are_returned_as_they_are() {
    let bytes = Bytes::from_static(b"\xff\xff\xff\x01garbage");
    assert_eq!(canonical(CLUSTER, bytes.clone()), bytes);
    assert_eq!(canonical("no.such.Message", bytes.clone()), bytes);
    // A length that goes beyond the end, after two entries out of order.
    let mut cut = metadata(&[("b", 1), ("a", 2)]).to_vec();
    cut.extend([0x0a, 0x7f]);
    let cut = Bytes::from(cut);
    assert_eq!(canonical("envoy.config.core.v3.Metadata", cut.clone()), cut);
}

#[test]
fn nesting_beyond_the_limit_neither_overflows_nor_changes() {
    let mut any = Any { type_url: CLUSTER.into(), value: cluster().encode_to_vec() };
    for _ in 0..5_000 {
        any = Any { type_url: format!("/{ANY}"), value: any.encode_to_vec() };
    }
    let bytes: Bytes = any.encode_to_vec().into();
    assert_eq!(canonical(ANY, bytes.clone()), bytes);
}

#[test]
fn integer_keys_are_sorted_as_numbers() {
    let read = |kind, n: u64| {
        let mut bytes = Vec::new();
        encode_varint(n, &mut bytes);
        match Key::read(kind, &Raw { number: 1, wire: WireType::Varint, whole: 0..0, value: &bytes }).unwrap() {
            Key::Number(n) => n,
            Key::Text(_) => panic!("not a number"),
        }
    };
    assert!(read(KeyKind::Unsigned, 300) > read(KeyKind::Unsigned, 2));
    assert_eq!(read(KeyKind::Signed, u64::MAX), -1);
    assert_eq!([0, 1, 2, 3].map(|n| read(KeyKind::ZigZag, n)), [0, -1, 1, -2]);
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(|b| Value { kind: Some(Kind::BoolValue(b)) }),
        "[a-z]{0,3}".prop_map(|t| text(&t)),
    ];
    leaf.prop_recursive(4, 40, 5, |inner| {
        prop::collection::hash_map("[a-c]{0,2}", inner, 0..5)
            .prop_map(|fields| Value { kind: Some(Kind::StructValue(Struct { fields })) })
    })
}

proptest! {
    #[test]
    fn canonical_bytes_decode_to_the_same_message_and_are_a_fixed_point(
        fields in prop::collection::hash_map("[a-d]{0,2}", value(), 0..6)
    ) {
        let mut cluster = cluster();
        cluster.metadata.as_mut().unwrap().filter_metadata.insert("x".into(), Struct { fields });
        let listener = listener(&cluster);
        let once = canonical(LISTENER, listener.encode_to_vec().into());
        // Maps are rebuilt with another hasher, so they iterate in another order.
        let decoded = Cluster::decode(canonical(CLUSTER, cluster.encode_to_vec().into())).unwrap();
        prop_assert_eq!(&decoded, &cluster);
        let again = super::tests::listener(&decoded);
        prop_assert_eq!(canonical(LISTENER, again.encode_to_vec().into()), once.clone());
        prop_assert_eq!(canonical(LISTENER, once.clone()), once);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let bytes = Bytes::from(bytes);
        prop_assert_eq!(canonical(CLUSTER, bytes.clone()).len(), bytes.len());
    }
}

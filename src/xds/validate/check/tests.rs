//! Tests of the rule sets, each by the smallest values on both sides of the rule.

use prost_reflect::MapKey;
use serde_json::{Value as Json, json};

use super::*;
use crate::xds::descriptor::pool;

/// What `value` breaks of the rule set `name` with these rules.
fn broken(name: &str, message: &str, rules: Json, value: &Value) -> Vec<String> {
    let descriptor = pool().get_message_by_name(&format!("validate.{message}")).unwrap();
    let set = DynamicMessage::deserialize(descriptor, &rules).unwrap();
    let status = Kind::Enum(pool().get_enum_by_name("envoy.config.core.v3.HealthStatus").unwrap());
    let check = match name {
        "repeated" => Check::list(&set),
        "map" => Check::map(&set),
        _ => Check::compile(name, &set, &status).unwrap(),
    };
    let mut found = Vec::new();
    check.run(value, &mut |rule| found.push(rule));
    found
}

/// Whether the rules hold for each of the first values and for none of the second.
fn divides(name: &str, message: &str, rules: Json, good: &[Value], bad: &[Value]) {
    for value in good {
        let found = broken(name, message, rules.clone(), value);
        assert!(found.is_empty(), "{rules} {value:?}: {found:?}");
    }
    for value in bad {
        let found = broken(name, message, rules.clone(), value);
        assert_eq!(found.len(), 1, "{rules} {value:?}: {found:?}");
    }
}

fn texts(list: &[&str]) -> Vec<Value> {
    list.iter().map(|t| Value::String((*t).into())).collect()
}

fn integers(list: &[u32]) -> Vec<Value> {
    list.iter().map(|n| Value::U32(*n)).collect()
}

#[test]
fn string_rules() {
    let cases: &[(Json, &[&str], &[&str])] = &[
        (json!({"const": "a"}), &["a"], &["", "b"]),
        (json!({"len": 2}), &["ab", "éé"], &["a", "abc"]),
        (json!({"minLen": 2}), &["éé"], &["é"]),
        (json!({"maxLen": 2}), &["éé", ""], &["abc"]),
        (json!({"lenBytes": 2}), &["é"], &["éé"]),
        (json!({"minBytes": 2}), &["é"], &["e"]),
        (json!({"maxBytes": 2}), &["é"], &["éa"]),
        (json!({"prefix": "/"}), &["/a"], &["a", ""]),
        (json!({"suffix": "z"}), &["az"], &["a"]),
        (json!({"contains": "b"}), &["abc"], &["ac"]),
        (json!({"notContains": "b"}), &["ac"], &["abc"]),
        (json!({"in": ["a", "b"]}), &["a", "b"], &["c", ""]),
        (json!({"notIn": ["a"]}), &["b"], &["a"]),
        (json!({"pattern": "[a-z]+"}), &["ab"], &["", "ab1", "1ab"]),
        (json!({"minLen": 3, "ignoreEmpty": true}), &["", "abc"], &["a"]),
        (json!({"wellKnownRegex": "HTTP_HEADER_NAME"}), &["x-a", ":path"], &["", "x y", "x:", "x\n"]),
        (json!({"wellKnownRegex": "HTTP_HEADER_NAME", "strict": false}), &["x y", ""], &["x\n", "x\0"]),
        (json!({"wellKnownRegex": "HTTP_HEADER_VALUE"}), &["", "a\tb"], &["\u{1}", "\n", "\u{7f}"]),
        (json!({"wellKnownRegex": "HTTP_HEADER_VALUE", "strict": false}), &["\u{1}"], &["\n", "\0"]),
        (json!({"ip": true}), &["10.0.0.1", "::1"], &["a", "", "10.0.0"]),
        (json!({"ipv4": true}), &["10.0.0.1"], &["::1"]),
        (json!({"ipv6": true}), &["::1"], &["10.0.0.1"]),
        (json!({"hostname": true}), &["a.example", "a"], &["", "-a", "a..b", "a_b"]),
        (json!({"address": true}), &["a.example", "::1"], &["a_b"]),
        (json!({"email": true}), &["a@b.example"], &["a", "@b", "a@-"]),
        (json!({"uri": true}), &["http://a/b"], &["/b", "a b"]),
        (json!({"uriRef": true}), &["/b", "http://a/"], &["a b"]),
        (json!({"uuid": true}), &["123e4567-e89b-12d3-a456-426614174000"], &["123e4567", ""]),
    ];
    for (rules, good, bad) in cases {
        divides("string", "StringRules", rules.clone(), &texts(good), &texts(bad));
    }
}

#[test]
fn bytes_rules() {
    let bytes =
        |list: &[&'static [u8]]| list.iter().map(|b| Value::Bytes(bytes::Bytes::from_static(b))).collect::<Vec<_>>();
    divides("bytes", "BytesRules", json!({"minLen": 2}), &bytes(&[b"ab"]), &bytes(&[b"a", b""]));
    divides("bytes", "BytesRules", json!({"prefix": "YQ=="}), &bytes(&[b"ab"]), &bytes(&[b"ba"]));
    divides("bytes", "BytesRules", json!({"ip": true}), &bytes(&[&[127, 0, 0, 1]]), &bytes(&[&[1, 2, 3]]));
}

#[test]
fn number_rules() {
    let cases: &[(Json, &[u32], &[u32])] = &[
        (json!({"const": 3}), &[3], &[0, 4]),
        (json!({"lt": 3}), &[2], &[3]),
        (json!({"lte": 3}), &[3], &[4]),
        (json!({"gt": 3}), &[4], &[3]),
        (json!({"gte": 3, "lt": 5}), &[3, 4], &[2, 5]),
        // Crossed bounds exclude what lies between.
        (json!({"gt": 5, "lt": 3}), &[2, 6], &[3, 4, 5]),
        (json!({"in": [1, 2]}), &[1], &[0, 3]),
        (json!({"notIn": [1]}), &[2], &[1]),
        (json!({"gte": 3, "ignoreEmpty": true}), &[0, 3], &[1]),
    ];
    for (rules, good, bad) in cases {
        divides("uint32", "UInt32Rules", rules.clone(), &integers(good), &integers(bad));
    }
    divides("double", "DoubleRules", json!({"gte": 0.0, "lte": 1.0}), &[Value::F64(1.0)], &[Value::F64(1.1)]);
    divides("float", "FloatRules", json!({"gt": 0.0}), &[Value::F32(0.1)], &[Value::F32(f32::NAN), Value::F32(0.0)]);
    divides("int64", "Int64Rules", json!({"lt": 0}), &[Value::I64(-1)], &[Value::I64(0)]);
    divides("bool", "BoolRules", json!({"const": true}), &[Value::Bool(true)], &[Value::Bool(false)]);
}

#[test]
fn enum_rules() {
    let numbers = |list: &[i32]| list.iter().map(|n| Value::EnumNumber(*n)).collect::<Vec<_>>();
    divides("enum", "EnumRules", json!({"definedOnly": true}), &numbers(&[0, 1]), &numbers(&[99, -1]));
    divides("enum", "EnumRules", json!({"const": 1}), &numbers(&[1]), &numbers(&[2]));
    divides("enum", "EnumRules", json!({"in": [1]}), &numbers(&[1]), &numbers(&[2]));
    divides("enum", "EnumRules", json!({"notIn": [1]}), &numbers(&[2]), &numbers(&[1]));
}

/// A message of the well-known or any other type, from its JSON.
fn message(name: &str, json: Json) -> Value {
    Value::Message(DynamicMessage::deserialize(pool().get_message_by_name(name).unwrap(), &json).unwrap())
}

#[test]
fn rules_over_well_known_messages() {
    let span = |text: &str| message("google.protobuf.Duration", json!(text));
    let rules = json!({"gte": "0.001s", "lt": "1s"});
    divides("duration", "DurationRules", rules, &[span("0.001s")], &[span("0s"), span("1s"), span("-1s")]);
    divides("duration", "DurationRules", json!({"in": ["1s"]}), &[span("1s")], &[span("2s")]);
    let time = |text: &str| message("google.protobuf.Timestamp", json!(text));
    let (before, after) = (time("1999-12-31T23:59:59Z"), time("2000-01-01T00:00:01Z"));
    divides("timestamp", "TimestampRules", json!({"gt": "2000-01-01T00:00:00Z"}), &[after], &[before]);
    let wrapped = |n: u32| message("google.protobuf.UInt32Value", json!(n));
    divides("uint32", "UInt32Rules", json!({"gte": 1}), &[wrapped(1)], &[wrapped(0)]);
    let any = |name: &str| message("google.protobuf.Any", json!({"@type": format!("type.googleapis.com/{name}")}));
    let (secret, cluster) =
        (any("envoy.extensions.transport_sockets.tls.v3.Secret"), any("envoy.config.cluster.v3.Cluster"));
    let rules = json!({"in": ["type.googleapis.com/envoy.config.cluster.v3.Cluster"]});
    divides("any", "AnyRules", rules, &[cluster], &[secret]);
}

#[test]
fn list_and_map_rules() {
    let list = |items: &[u32]| Value::List(integers(items));
    divides("repeated", "RepeatedRules", json!({"minItems": 1}), &[list(&[1])], &[list(&[])]);
    divides("repeated", "RepeatedRules", json!({"maxItems": 1}), &[list(&[1])], &[list(&[1, 2])]);
    divides("repeated", "RepeatedRules", json!({"unique": true}), &[list(&[1, 2])], &[list(&[1, 2, 1])]);
    let rules = json!({"minItems": 2, "ignoreEmpty": true});
    divides("repeated", "RepeatedRules", rules, &[list(&[]), list(&[1, 2])], &[list(&[1])]);
    let map = |n: u32| Value::Map((0..n).map(|k| (MapKey::U32(k), Value::U32(k))).collect());
    divides("map", "MapRules", json!({"minPairs": 1, "maxPairs": 2}), &[map(1), map(2)], &[map(0), map(3)]);
}

//! Tests of the validation walk: each rule set by example, and against another implementation.

use prost_reflect_validate::ValidatorExt;
use serde_json::{Value as Json, json};

use super::*;
use crate::xds::json::from_json;

const HCM: &str = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";

/// The violations of a message given as JSON, each as `path: rule`.
fn broken(name: &str, json: Json) -> Vec<String> {
    let bytes = from_json(name, &json).unwrap_or_else(|e| panic!("{json}: {e}"));
    validate(name, &bytes).iter().map(ToString::to_string).collect()
}

fn listener(hcm: Json) -> Json {
    let mut typed = hcm;
    typed["@type"] = format!("type.googleapis.com/{HCM}").into();
    json!({
        "name": "l",
        "address": {"socketAddress": {"address": "127.0.0.1", "portValue": 80}},
        "filterChains": [{"filters": [{"name": "hcm", "typedConfig": typed}]}],
    })
}

#[test]
fn all_violations_are_named_with_their_place_also_inside_any() {
    let found = broken(
        "envoy.config.listener.v3.Listener",
        listener(json!({
            "statPrefix": "",
            "maxRequestHeadersKb": 9000,
            "routeConfig": {"virtualHosts": [{"name": "", "domains": []}]},
        })),
    );
    let hcm = "filterChains[0].filters[0].typedConfig";
    assert_eq!(
        found,
        [
            format!("{hcm}.statPrefix: must have at least 1 character"),
            format!("{hcm}.routeConfig.virtualHosts[0].name: must have at least 1 character"),
            format!("{hcm}.routeConfig.virtualHosts[0].domains: must have at least 1 item"),
            format!("{hcm}.maxRequestHeadersKb: must be more than 0 and at most 8192"),
        ]
    );
    assert_eq!(
        broken(
            "envoy.config.listener.v3.Listener",
            listener(json!({"statPrefix": "x", "rds": {
        "configSource": {"ads": {}}, "routeConfigName": "r"}}))
        ),
        Vec::<String>::new()
    );
}

#[test]
fn unknown_types_and_undecodable_bytes_are_violations() {
    let any = prost_types::Any { type_url: "type.googleapis.com/no.such.Thing".into(), value: vec![1] };
    let found = validate("google.protobuf.Any", &prost::Message::encode_to_vec(&any));
    assert_eq!(found, [Violation { path: String::new(), rule: "unknown type \"no.such.Thing\"".into() }]);
    assert_eq!(validate("no.such.Thing", b"").len(), 1);
    assert!(validate(HCM, b"\xff")[0].rule.starts_with("cannot be decoded"));
}

#[test]
fn recursion_ends_with_a_violation() {
    let mut any = prost_types::Any::default();
    for _ in 0..3_000 {
        any = prost_types::Any { type_url: "/google.protobuf.Any".into(), value: prost::Message::encode_to_vec(&any) };
    }
    let found = validate("google.protobuf.Any", &prost::Message::encode_to_vec(&any));
    assert_eq!(found.len(), 1);
    assert!(found[0].rule.contains("nested"), "{found:?}");
}

const CLUSTER: &str = "envoy.config.cluster.v3.Cluster";
const CORE: &str = "envoy.config.core.v3.HeaderValue";
const ADDRESS: &str = "envoy.config.core.v3.SocketAddress";
const ROUTE: &str = "envoy.config.route.v3.Route";
const ENDPOINT: &str = "envoy.config.endpoint.v3.ClusterLoadAssignment";

/// (message, JSON, what is broken: a part of each violation)
type Example = (&'static str, Json, &'static [&'static str]);

fn examples() -> Vec<Example> {
    [cluster_examples(), small_examples(), route_examples()].concat()
}

fn cluster_examples() -> Vec<Example> {
    vec![
        (CLUSTER, json!({"name": "c"}), &[]),
        (CLUSTER, json!({"name": ""}), &["name: must have at least 1 character"]),
        // duration.gt
        (CLUSTER, json!({"name": "c", "connectTimeout": "1s"}), &[]),
        (CLUSTER, json!({"name": "c", "connectTimeout": "0s"}), &["connectTimeout: must be more than 0 s"]),
        // enum.defined_only
        (CLUSTER, json!({"name": "c", "lbPolicy": "RANDOM"}), &[]),
        (CLUSTER, json!({"name": "c", "dnsLookupFamily": 77}), &["dnsLookupFamily: must be a defined value"]),
        // wrapper with a range
        (CLUSTER, json!({"name": "c", "ringHashLbConfig": {"minimumRingSize": 1}, "lbPolicy": "RING_HASH"}), &[]),
        (
            CLUSTER,
            json!({"name": "c", "ringHashLbConfig": {"minimumRingSize": 9_000_000}}),
            &["minimumRingSize: must be at most 8388608"],
        ),
        // required messages inside
        (
            CLUSTER,
            json!({"name": "c", "healthChecks": [{}]}),
            &[
                "healthChecks[0].timeout: must be set",
                "healthChecks[0].interval: must be set",
                "healthChecks[0].unhealthyThreshold: must be set",
                "healthChecks[0].healthyThreshold: must be set",
                "healthChecks[0]: must set one of httpHealthCheck, tcpHealthCheck, grpcHealthCheck, customHealthCheck",
            ],
        ),
        (CLUSTER, json!({"name": "c", "outlierDetection": {"maxEjectionPercent": 100}}), &[]),
        (
            CLUSTER,
            json!({"name": "c", "outlierDetection": {"maxEjectionPercent": 101}}),
            &["maxEjectionPercent: must be at most 100"],
        ),
        (
            CLUSTER,
            json!({"name": "c", "outlierDetection": {"interval": "0s"}}),
            &["outlierDetection.interval: must be more than 0 s"],
        ),
        // double in a range
        (CLUSTER, json!({"name": "c", "commonLbConfig": {"healthyPanicThreshold": {"value": 50.0}}}), &[]),
        (
            CLUSTER,
            json!({"name": "c", "commonLbConfig": {"healthyPanicThreshold": {"value": 101.0}}}),
            &["healthyPanicThreshold.value: must be at least 0 and at most 100"],
        ),
    ]
}

fn small_examples() -> Vec<Example> {
    vec![
        // well_known_regex and max_bytes
        (CORE, json!({"key": "x-a", "value": "b"}), &[]),
        (CORE, json!({"key": "", "value": "b"}), &["key: must have at least 1 character"]),
        (CORE, json!({"key": "x\ny"}), &["key: must be a valid HTTP header name"]),
        (CORE, json!({"key": "x", "value": "a\rb"}), &["value: must be a valid HTTP header value"]),
        (CORE, json!({"key": "x".repeat(16_385)}), &["key: must have at most 16384 bytes"]),
        // oneof required, numeric maximum
        (ADDRESS, json!({"address": "::1", "portValue": 65535}), &[]),
        (ADDRESS, json!({"address": "::1", "portValue": 65536}), &["portValue: must be at most 65535"]),
        (ADDRESS, json!({"address": "::1"}), &["must set one of portValue, namedPort"]),
        (ADDRESS, json!({"address": "", "portValue": 1}), &["address: must have at least 1 character"]),
    ]
}

fn route_examples() -> Vec<Example> {
    let prefix = json!({"prefix": "/"});
    vec![
        (ROUTE, json!({"match": prefix, "route": {"cluster": "c"}}), &[]),
        (ROUTE, json!({"match": prefix}), &["must set one of route, redirect"]),
        (ROUTE, json!({"route": {"cluster": "c"}}), &["match: must be set"]),
        (ROUTE, json!({"match": prefix, "route": {"cluster": ""}}), &["route.cluster: must have at least 1 character"]),
        (
            ROUTE,
            json!({"match": prefix, "directResponse": {"status": 99}}),
            &["directResponse.status: must be at least 200 and less than 600"],
        ),
        // repeated.min_items inside a oneof
        (
            ROUTE,
            json!({"match": prefix, "route": {"weightedClusters": {"clusters": []}}}),
            &["weightedClusters.clusters: must have at least 1 item"],
        ),
        // items of a repeated scalar
        (
            ROUTE,
            json!({"match": prefix, "route": {"cluster": "c"}, "requestHeadersToRemove": ["x", "a\nb"]}),
            &["requestHeadersToRemove[1]: must be a valid HTTP header name"],
        ),
        (
            ROUTE,
            json!({"match": prefix, "route": {"cluster": "c"}, "requestHeadersToRemove": ["x", ""]}),
            &["requestHeadersToRemove[1]: must have at least 1 character"],
        ),
        // ranges over messages in a list
        (ENDPOINT, json!({"clusterName": "c", "endpoints": [{"priority": 128}]}), &[]),
        (
            ENDPOINT,
            json!({"clusterName": "c", "endpoints": [{"priority": 129}]}),
            &["endpoints[0].priority: must be at most 128"],
        ),
        (
            ENDPOINT,
            json!({"clusterName": "c", "policy": {"overprovisioningFactor": 0}}),
            &["policy.overprovisioningFactor: must be more than 0"],
        ),
        (ENDPOINT, json!({"clusterName": ""}), &["clusterName: must have at least 1 character"]),
    ]
}

#[test]
fn each_rule_set_says_what_is_broken_and_nothing_more() {
    for (name, json, wanted) in examples() {
        let found = broken(name, json.clone());
        assert_eq!(found.len(), wanted.len(), "{name} {json}: {found:?}");
        for (found, wanted) in found.iter().zip(wanted) {
            assert!(found.contains(wanted), "{name} {json}: {found}, wanted {wanted}");
        }
    }
}

#[test]
fn another_implementation_agrees_on_what_is_valid() {
    for (name, json, _) in examples() {
        let bytes = from_json(name, &json).unwrap();
        let descriptor = pool().get_message_by_name(name).unwrap();
        let message = DynamicMessage::decode(descriptor, bytes.as_slice()).unwrap();
        let theirs = message.validate();
        let ours = validate(name, &bytes);
        assert_eq!(ours.is_empty(), theirs.is_ok(), "{name} {json}: ours {ours:?}, theirs {theirs:?}");
    }
}

#[test]
fn every_rule_of_every_message_compiles() {
    let mut rules = 0;
    for message in pool().all_messages() {
        rules += rules_of(message.full_name()).unwrap().fields.iter().filter(|f| f.value.check.is_some()).count();
    }
    assert!(rules >= 400, "only {rules} rules in the descriptors");
}

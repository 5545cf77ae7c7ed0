//! Claims about what Envoy is told, and the goldens.

mod golden;
mod routes;

use std::time::Duration;

use bytes::Bytes;
use envoy_types::pb::envoy::config::{
    cluster::v3::Cluster, endpoint::v3::ClusterLoadAssignment, listener::v3::Listener, route::v3::RouteConfiguration,
};
use prost::{Message, Name};

use super::*;
use crate::{
    compile::plan::{
        ApiListenerPlan, ApiRoutePlan, BackendPlan, ChainPlan, ClientEndpointsPlan, CoreListenerPlan, EndpointsPlan,
        GroupPlan, GroupSite, HostAnswer, ListenerPlan, ListenerShape, RoutePlan, ServiceClusterPlan, ServiceTarget,
        VirtualHostPlan,
    },
    model::{
        AppProtocol, CertificateSpec, CircuitBreakers, Filter, HealthCheck, Kind, LbPolicy, OutlierDetection,
        PathMatch, Redacted, RouteMatch, ServicePort, ServiceSpec, TrafficClass, UpstreamTls,
    },
    xds::validate::validate,
};

const GROUP: &str = "backbone/-/ams+fra";

fn object(kind: Kind, name: &str) -> ObjectRef {
    ObjectRef::new(kind, "shop", name)
}

fn target(name: &str, traffic_class: TrafficClass) -> ServiceTarget {
    ServiceTarget {
        source: object(Kind::Service, name),
        service: format!("shop/{name}:80"),
        group: GROUP.into(),
        sites: Vec::new(),
        traffic_class,
        request_timeout: None,
    }
}

fn backend(weight: u32, target: Option<ServiceTarget>) -> BackendPlan {
    BackendPlan { weight, request_headers: Vec::new(), response_headers: Vec::new(), target }
}

fn rule(path: PathMatch, filters: Vec<Filter>, backends: Vec<BackendPlan>) -> RoutePlan {
    RoutePlan {
        source: object(Kind::HttpRoute, "web"),
        contribution: 7,
        section: "rule-0".into(),
        matching: RouteMatch { path, headers: Vec::new(), query_params: Vec::new(), method: None },
        filters,
        mirrors: Vec::new(),
        backends,
        request_timeout: None,
        backend_request_timeout: None,
    }
}

fn host(domain: &str, routes: Vec<RoutePlan>) -> VirtualHostPlan {
    VirtualHostPlan { name: domain.into(), domains: vec![domain.into()], answer: HostAnswer::Routes(routes) }
}

fn http_listener() -> ListenerPlan {
    ListenerPlan {
        name: "gateway/80".into(),
        bind: "0.0.0.0".parse().unwrap(),
        port: 80,
        shape: ListenerShape::Http { route_configuration: "http/80".into() },
        sources: vec![object(Kind::Gateway, "public")],
    }
}

fn https_listener(hostnames: &[Option<&str>]) -> ListenerPlan {
    let chain = |hostname: &Option<&str>| ChainPlan {
        hostname: hostname.map(Into::into),
        secrets: vec!["shop/site".into()],
        route_configuration: format!("https/443/{}", hostname.unwrap_or("*")),
    };
    ListenerPlan {
        name: "gateway/443".into(),
        port: 443,
        shape: ListenerShape::Https { chains: hostnames.iter().map(chain).collect() },
        sources: vec![object(Kind::Gateway, "public"), object(Kind::Certificate, "site")],
        ..http_listener()
    }
}

fn group() -> GroupPlan {
    let site = |name: &str, gateways: &[&str], km| GroupSite {
        source: ObjectRef::new(Kind::Site, "", name),
        region: "eu".into(),
        zone: String::new(),
        gateways: gateways.iter().map(|g| g.parse().unwrap()).collect(),
        km: Some(km),
        health_check_interval: Duration::from_secs(2),
    };
    let sites =
        vec![site("fra", &["192.0.2.1:8443", "192.0.2.2:8443"], 480), site("ams", &["198.51.100.1:8443"], 5000)];
    GroupPlan { name: GROUP.into(), sites }
}

fn service(app_protocol: AppProtocol) -> ServiceClusterPlan {
    ServiceClusterPlan {
        name: "shop/web:80".into(),
        source: object(Kind::Service, "web"),
        spec: ServiceSpec {
            ports: Vec::new(),
            traffic_class: TrafficClass::Web,
            load_balancing: LbPolicy::LeastRequest,
            health_check: None,
            outlier_detection: None,
            circuit_breakers: CircuitBreakers::default(),
            connect_timeout: Duration::from_secs(1),
            idle_connection_timeout: Duration::from_secs(4),
            request_timeout: None,
            tls: None,
        },
        port: ServicePort { name: String::new(), port: 80, app_protocol },
    }
}

fn full_service() -> ServiceClusterPlan {
    let mut plan = service(AppProtocol::Http);
    plan.spec.health_check = Some(HealthCheck {
        path: "/healthz".into(),
        host: String::new(),
        interval: Duration::from_secs(5),
        timeout: Duration::from_secs(1),
        unhealthy_threshold: 3,
        healthy_threshold: 2,
    });
    plan.spec.outlier_detection = Some(OutlierDetection {
        consecutive_5xx: 5,
        interval: Duration::from_secs(10),
        base_ejection_time: Duration::from_secs(30),
        max_ejection_percent: 10,
    });
    plan.spec.tls = Some(UpstreamTls { server_name: "web.internal".into(), ca_certificates: "CA".into() });
    plan
}

fn endpoints(addresses: &[&str]) -> EndpointsPlan {
    EndpointsPlan {
        name: "shop/web:80".into(),
        region: "eu".into(),
        zone: "a".into(),
        site: "fra".into(),
        endpoints: addresses.iter().map(|a| (a.parse().unwrap(), 1)).collect(),
        sources: vec![object(Kind::EndpointSet, "web-fra")],
    }
}

fn core() -> CoreListenerPlan {
    CoreListenerPlan {
        source: ObjectRef::new(Kind::Site, "", "fra"),
        bind: "0.0.0.0".parse().unwrap(),
        port: 8443,
        trust_domain: "tidegate.local".into(),
    }
}

fn certificate() -> CertificateSpec {
    CertificateSpec { certificate_chain: "CHAIN".into(), private_key: Redacted::new("KEY".into()) }
}

/// One of each.
fn all() -> Vec<Resource> {
    let entry = Entry { port: 80, tls: false };
    let hosts = [virtual_host(&routes::every_feature(), entry), virtual_host(&routes::misdirected(), entry)];
    vec![
        edge_listener(&http_listener()),
        edge_listener(&https_listener(&[Some("*.example"), Some("shop.example"), None])),
        route_configuration("http/80", hosts.iter()),
        group_cluster(&group(), "tidegate.local"),
        group_endpoints(&group()),
        secret("shop/site", &certificate(), &object(Kind::Certificate, "site")),
        core_listener(&core()),
        core_route_configuration(),
        service_cluster(&full_service()),
        service_cluster(&service(AppProtocol::H2c)),
        service_endpoints(&endpoints(&["10.0.0.1:8080", "[2001:db8::1]:8080"])),
        service_endpoints(&endpoints(&[])),
    ]
}

fn full_name(kind: ResourceType) -> &'static str {
    kind.url().rsplit('/').next().unwrap()
}

fn decoded<M: Message + Default>(resource: &Resource) -> M {
    M::decode(resource.payload.clone()).unwrap()
}

#[test]
fn every_resource_keeps_the_rules_that_envoy_checks() {
    for resource in all() {
        let violations = validate(full_name(resource.kind), &resource.payload);
        assert!(violations.is_empty(), "{resource:?}: {violations:?}");
    }
}

/// Envoy goes by the payload's name, we and the protocol by the other.
#[test]
fn every_resource_is_called_as_its_payload_calls_itself() {
    for resource in all() {
        let payload = crate::xds::json::to_json(full_name(resource.kind), &resource.payload).unwrap();
        let name = payload.get("clusterName").or(payload.get("name")).and_then(|name| name.as_str());
        assert_eq!(name, Some(&*resource.name), "{resource:?}");
    }
}

#[test]
fn equal_plans_give_equal_bytes() {
    let first = all();
    for _ in 0..20 {
        assert!(all() == first, "the bytes differ from run to run");
    }
}

#[test]
fn adding_a_hostname_changes_nothing_but_filter_chains() {
    let mut before: Listener = decoded(&edge_listener(&https_listener(&[Some("a.example")])));
    let mut after: Listener = decoded(&edge_listener(&https_listener(&[Some("a.example"), Some("b.example"), None])));
    assert_eq!(before.filter_chains.first(), after.filter_chains.first(), "an untouched chain keeps its bytes");
    assert_eq!((before.filter_chains.len(), after.filter_chains.len()), (1, 3));
    before.filter_chains.clear();
    after.filter_chains.clear();
    assert_eq!(before, after);
}

#[test]
fn listeners_carry_no_metadata_and_name_what_they_need() {
    let resource = edge_listener(&https_listener(&[Some("shop.example"), None]));
    let listener: Listener = decoded(&resource);
    assert!(listener.metadata.is_none() && listener.filter_chains.iter().all(|c| c.metadata.is_none()));
    assert_eq!(resource.children, [(ResourceType::Secret, "shop/site".into())]);
    let routes = ["https/443/*", "https/443/shop.example"].map(|n| (ResourceType::Route, n.into()));
    assert_eq!(resource.requires, routes);
    let catch_all = listener.filter_chains.last().unwrap();
    assert!(catch_all.filter_chain_match.is_none(), "the listener without a hostname takes every SNI and none");
}

#[test]
fn every_config_source_has_the_same_patience() {
    for resource in all() {
        let json = crate::xds::json::to_json(full_name(resource.kind), &resource.payload).unwrap();
        let mut sources = 0;
        walk(&json, &mut |key, value| {
            if ["edsConfig", "sdsConfig", "configSource"].contains(&key) {
                assert_eq!(value["initialFetchTimeout"], "5s", "{resource:?} {key}");
                assert_eq!(value["resourceApiVersion"], "V3", "{resource:?} {key}");
                sources += 1;
            }
        });
        let expected = matches!(resource.kind, ResourceType::Cluster | ResourceType::Listener);
        assert_eq!(sources > 0, expected, "{resource:?}");
    }
}

fn walk(value: &serde_json::Value, visit: &mut impl FnMut(&str, &serde_json::Value)) {
    if let Some(object) = value.as_object() {
        for (key, value) in object {
            visit(key, value);
            walk(value, visit);
        }
    }
    value.as_array().into_iter().flatten().for_each(|v| walk(v, visit));
}

#[test]
fn clusters_bring_their_assignment_along() {
    for resource in [group_cluster(&group(), "t"), service_cluster(&service(AppProtocol::Http))] {
        assert_eq!(resource.children, [(ResourceType::Endpoints, resource.name.clone())]);
    }
}

#[test]
fn the_nearest_core_is_the_first_priority() {
    let assignment: ClusterLoadAssignment = decoded(&group_endpoints(&group()));
    let shown: Vec<_> = assignment
        .endpoints
        .iter()
        .map(|l| (l.priority, l.locality.as_ref().unwrap().sub_zone.as_str(), l.lb_endpoints.len()))
        .collect();
    assert_eq!(shown, [(0, "fra", 2), (1, "ams", 1)]);
}

#[test]
fn a_group_has_no_outlier_detection_and_wide_breakers_at_both_priorities() {
    let cluster: Cluster = decoded(&group_cluster(&group(), "tidegate.local"));
    assert!(cluster.outlier_detection.is_none());
    let thresholds = cluster.circuit_breakers.unwrap().thresholds;
    assert_eq!(thresholds.iter().map(|t| t.priority).collect::<Vec<_>>(), [0, 1]);
    assert!(thresholds.iter().all(|t| t.max_retries.as_ref().unwrap().value >= 1_000_000));
}

#[test]
fn the_connect_time_out_follows_the_farthest_site() {
    for (km, millis) in [(Some(0), 250), (Some(5000), 450), (Some(20_000), 1000), (None, 1000)] {
        let mut plan = group();
        plan.sites.iter_mut().for_each(|s| s.km = km);
        let cluster: Cluster = decoded(&group_cluster(&plan, "t"));
        let timeout = cluster.connect_timeout.unwrap();
        assert_eq!(timeout.seconds * 1000 + i64::from(timeout.nanos) / 1_000_000, millis, "{km:?}");
    }
}

#[test]
fn a_service_without_endpoints_has_an_empty_assignment() {
    let resource = service_endpoints(&endpoints(&[]));
    let assignment: ClusterLoadAssignment = decoded(&resource);
    assert_eq!((assignment.cluster_name.as_str(), assignment.endpoints.len()), ("shop/web:80", 0));
}

#[test]
fn a_route_configuration_is_what_its_hosts_encode_to_together() {
    let entry = Entry { port: 80, tls: false };
    let hosts = [virtual_host(&routes::every_feature(), entry), virtual_host(&routes::misdirected(), entry)];
    let resource = route_configuration("http/80", hosts.iter());
    let whole: RouteConfiguration = decoded(&resource);
    let again = canonical(&RouteConfiguration::full_name(), Bytes::from(whole.encode_to_vec()));
    assert_eq!(again, resource.payload, "the joined bytes are canonical already");
    assert_eq!(whole.virtual_hosts.len(), 2);
    assert!(whole.ignore_port_in_host_matching);
    assert_eq!(whole.response_headers_to_remove, [REFUSED_HEADER]);
    assert_eq!(resource.requires, [(ResourceType::Cluster, GROUP.into())]);
}

#[test]
fn an_empty_route_configuration_is_one() {
    let whole: RouteConfiguration = decoded(&route_configuration("http/80", [].iter()));
    assert_eq!((whole.name.as_str(), whole.virtual_hosts.len()), ("http/80", 0));
}

fn culprits(before: &Resource, after: &Resource) -> Vec<String> {
    let changed = after.sources.iter().filter(|s| !before.sources.contains(s));
    changed.map(|s| s.object.to_string()).collect()
}

#[test]
fn the_contribution_that_changed_is_that_of_the_object_that_did() {
    let (before, mut after) = (group(), group());
    after.sites[1].gateways.clear();
    assert_eq!(culprits(&group_endpoints(&before), &group_endpoints(&after)), ["Site ams"]);
    assert!(culprits(&group_cluster(&before, "t"), &group_cluster(&after, "t")).is_empty());
    after.sites[0].health_check_interval = Duration::from_secs(1);
    assert_eq!(culprits(&group_cluster(&before, "t"), &group_cluster(&after, "t")), ["Site fra"]);
    let (one, two) = (https_listener(&[None]), https_listener(&[Some("a.example"), None]));
    assert_eq!(culprits(&edge_listener(&one), &edge_listener(&two)), ["Gateway shop/public"]);
}

//! CDS: backbone groups at an edge, service ports at a core. All by EDS over ADS.

use std::{collections::HashMap, time::Duration};

use envoy_types::pb::{
    envoy::{
        config::{
            cluster::v3::{
                CircuitBreakers, Cluster, OutlierDetection,
                circuit_breakers::Thresholds,
                cluster::{
                    ClusterDiscoveryType, CommonLbConfig, DiscoveryType, EdsClusterConfig, LbPolicy as EnvoyLbPolicy,
                },
            },
            core::v3::{
                HealthCheck, Http1ProtocolOptions, Http2ProtocolOptions, HttpProtocolOptions as CommonOptions,
                RoutingPriority,
                health_check::{HealthChecker, HttpHealthCheck},
                http_protocol_options::HeadersWithUnderscoresAction,
            },
        },
        extensions::upstreams::http::v3::{
            HttpProtocolOptions,
            http_protocol_options::{
                ExplicitHttpConfig, UpstreamProtocolOptions, explicit_http_config::ProtocolConfig,
            },
        },
        r#type::v3::{CodecClientType, Percent},
    },
    google::protobuf::Any,
};
use prost::Name;

use super::{
    Contributions, HEALTH_PATH, finish,
    http::{BACKBONE_HEADERS, OUTER_HEADERS, backbone_http2, common},
    sources::{Sources, metadata},
    tls,
    wire::{KIB, ads, any, duration, number, seconds},
};
use crate::{
    compile::plan::{GroupPlan, ServiceClusterPlan},
    model::{AppProtocol, HealthCheck as ServiceCheck, LbPolicy, OutlierDetection as ServiceOutliers},
    xds::{Resource, ResourceType},
};

/// A limit that is there to be named, not to be met.
const WIDE: u32 = 1_000_000;

/// The edge's cluster of a backbone group. Its health is the gateways', never one service's: no outlier detection
/// (O35), and wide circuit breakers, for a service's bulkhead stands at the core.
pub fn group_cluster(plan: &GroupPlan, trust_domain: &str) -> Resource {
    let default = Duration::from_secs(2);
    let interval = plan.sites.iter().map(|s| s.health_check_interval).min().unwrap_or(default);
    let wide = |priority: RoutingPriority| thresholds(priority, WIDE, WIDE, WIDE);
    let common = CommonOptions {
        max_response_headers_kb: number(BACKBONE_HEADERS.1),
        ..common(BACKBONE_HEADERS, 3600, HeadersWithUnderscoresAction::Allow)
    };
    let mut contributions = Sources::default();
    for site in &plan.sites {
        let part = format!("{:?} {:?}", site.health_check_interval, site.km);
        contributions.add(&site.source, part.as_bytes());
    }
    let message = Cluster {
        connect_timeout: Some(duration(connect_timeout(plan))),
        circuit_breakers: Some(CircuitBreakers {
            thresholds: vec![wide(RoutingPriority::Default), wide(RoutingPriority::High)],
            ..Default::default()
        }),
        health_checks: vec![HealthCheck {
            timeout: seconds(1),
            interval: Some(duration(interval)),
            no_traffic_interval: Some(duration(interval)),
            interval_jitter_percent: 10,
            unhealthy_threshold: number(2),
            healthy_threshold: number(1),
            health_checker: Some(HealthChecker::HttpHealthCheck(HttpHealthCheck {
                host: "tidegate".to_owned(),
                path: HEALTH_PATH.to_owned(),
                codec_client_type: CodecClientType::Http2 as i32,
                ..Default::default()
            })),
            ..Default::default()
        }],
        typed_extension_protocol_options: protocol(common, ProtocolConfig::Http2ProtocolOptions(backbone_http2())),
        transport_socket: Some(tls::backbone_client(trust_domain)),
        metadata: metadata(plan.sites.iter().map(|s| (&s.source, ""))),
        ..eds(&plan.name, EnvoyLbPolicy::LeastRequest)
    };
    let children = vec![(ResourceType::Endpoints, plan.name.as_str().into())];
    finish(
        ResourceType::Cluster,
        &plan.name,
        &message,
        children,
        Vec::new(),
        Contributions::Each(contributions.finish()),
    )
}

/// 0.25–1 s: TCP and TLS take two round trips, light in fibre 10 µs per km and round trip, real paths twice the
/// distance. Without coordinates the site counts as farthest away.
fn connect_timeout(plan: &GroupPlan) -> Duration {
    let farthest = plan.sites.iter().map(|s| s.km.unwrap_or(u32::MAX)).max().unwrap_or(0);
    Duration::from_millis((250 + u64::from(farthest) / 25).min(1000))
}

/// The core's cluster of a service port: all that is per service upstream.
pub fn service_cluster(plan: &ServiceClusterPlan) -> Resource {
    let spec = &plan.spec;
    let protocol_config = match plan.port.app_protocol {
        AppProtocol::Http => ProtocolConfig::HttpProtocolOptions(Http1ProtocolOptions::default()),
        AppProtocol::H2c => ProtocolConfig::Http2ProtocolOptions(Http2ProtocolOptions::default()),
    };
    let idle = match plan.port.app_protocol {
        AppProtocol::Http => Some(duration(spec.idle_connection_timeout)),
        AppProtocol::H2c => seconds(3600),
    };
    let common = CommonOptions {
        idle_timeout: idle,
        max_response_headers_kb: number(OUTER_HEADERS.1),
        ..common(OUTER_HEADERS, 0, HeadersWithUnderscoresAction::Allow)
    };
    let lb_policy = match spec.load_balancing {
        LbPolicy::RoundRobin => EnvoyLbPolicy::RoundRobin,
        LbPolicy::LeastRequest => EnvoyLbPolicy::LeastRequest,
        LbPolicy::Random => EnvoyLbPolicy::Random,
    };
    let limits = &spec.circuit_breakers;
    let message = Cluster {
        connect_timeout: Some(duration(spec.connect_timeout)),
        per_connection_buffer_limit_bytes: number(32 * KIB),
        circuit_breakers: Some(CircuitBreakers {
            thresholds: vec![thresholds(
                RoutingPriority::Default,
                limits.max_connections,
                limits.max_pending_requests,
                limits.max_requests,
            )],
            ..Default::default()
        }),
        health_checks: spec.health_check.iter().map(|check| service_check(check, plan)).collect(),
        outlier_detection: spec.outlier_detection.as_ref().map(outliers),
        typed_extension_protocol_options: protocol(common, protocol_config),
        transport_socket: spec.tls.as_ref().map(|t| tls::service_client(t, plan.port.app_protocol)),
        metadata: metadata([(&plan.source, plan.port.name.as_str())]),
        ..eds(&plan.name, lb_policy)
    };
    let children = vec![(ResourceType::Endpoints, plan.name.as_str().into())];
    let sources = Contributions::Whole(std::slice::from_ref(&plan.source));
    finish(ResourceType::Cluster, &plan.name, &message, children, Vec::new(), sources)
}

/// What all clusters share. At the default panic threshold requests would go to hosts that are known to be down (O42);
/// a removed host goes at once, whatever its checks say (O24); a new one counts once it has been checked.
fn eds(name: &str, lb_policy: EnvoyLbPolicy) -> Cluster {
    Cluster {
        name: name.to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32)),
        eds_cluster_config: Some(EdsClusterConfig { eds_config: Some(ads()), ..Default::default() }),
        lb_policy: lb_policy as i32,
        common_lb_config: Some(CommonLbConfig {
            healthy_panic_threshold: Some(Percent { value: 0.0 }),
            ignore_new_hosts_until_first_hc: true,
            ..Default::default()
        }),
        ignore_health_on_host_removal: true,
        ..Default::default()
    }
}

fn thresholds(priority: RoutingPriority, connections: u32, pending: u32, requests: u32) -> Thresholds {
    Thresholds {
        priority: priority as i32,
        max_connections: number(connections),
        max_pending_requests: number(pending),
        max_requests: number(requests),
        // Retries are counted where they are made, at the edge; the default of 3 there failed services at random.
        max_retries: number(WIDE),
        ..Default::default()
    }
}

fn protocol(common: CommonOptions, config: ProtocolConfig) -> HashMap<String, Any> {
    let options = HttpProtocolOptions {
        common_http_protocol_options: Some(common),
        upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
            protocol_config: Some(config),
        })),
        ..Default::default()
    };
    HashMap::from([(HttpProtocolOptions::full_name(), any(&options))])
}

fn service_check(check: &ServiceCheck, plan: &ServiceClusterPlan) -> HealthCheck {
    let codec = match plan.port.app_protocol {
        AppProtocol::Http => CodecClientType::Http1,
        AppProtocol::H2c => CodecClientType::Http2,
    };
    let host = if check.host.is_empty() { &plan.source.name } else { &check.host };
    HealthCheck {
        timeout: Some(duration(check.timeout)),
        interval: Some(duration(check.interval)),
        // The default, 60 s, would find a dead endpoint of a quiet service with a user's request.
        no_traffic_interval: Some(duration(check.interval)),
        interval_jitter_percent: 10,
        unhealthy_threshold: number(check.unhealthy_threshold),
        healthy_threshold: number(check.healthy_threshold),
        health_checker: Some(HealthChecker::HttpHealthCheck(HttpHealthCheck {
            host: host.clone(),
            path: check.path.clone(),
            codec_client_type: codec as i32,
            ..Default::default()
        })),
        ..Default::default()
    }
}

/// Only what the Service says ejects: the statistics that Envoy enforces by default are off.
fn outliers(spec: &ServiceOutliers) -> OutlierDetection {
    OutlierDetection {
        consecutive_5xx: number(spec.consecutive_5xx),
        enforcing_consecutive_5xx: number(100),
        interval: Some(duration(spec.interval)),
        base_ejection_time: Some(duration(spec.base_ejection_time)),
        max_ejection_percent: number(spec.max_ejection_percent),
        enforcing_success_rate: number(0),
        enforcing_consecutive_gateway_failure: number(0),
        enforcing_failure_percentage: number(0),
        ..Default::default()
    }
}

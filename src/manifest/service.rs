//! `Service`, `EndpointSet`, and single endpoints.

use std::{collections::BTreeMap, time::Duration};

use super::{
    certificate, text,
    walk::{At, Fields, distinct},
};
use crate::model::{
    AppProtocol, CircuitBreakers, Endpoint, EndpointSetSpec, HealthCheck, LbPolicy, OutlierDetection, ServicePort,
    ServiceSpec, TrafficClass, UpstreamTls,
};

pub(super) fn read_service(at: &At<'_>) -> Option<ServiceSpec> {
    let fields = at.fields(&[
        "ports",
        "trafficClass",
        "loadBalancing",
        "healthCheck",
        "outlierDetection",
        "circuitBreakers",
        "timeouts",
        "tls",
    ])?;
    let timeouts = fields.get("timeouts").and_then(|at| at.fields(&["connect", "idleConnection", "request"]));
    let timeout = |name| timeouts.as_ref().and_then(|t| time(t, name));
    Some(ServiceSpec {
        ports: read_ports(&fields),
        traffic_class: fields
            .get("trafficClass")
            .and_then(|at| {
                at.word(&[
                    ("Web", TrafficClass::Web),
                    ("API", TrafficClass::Api),
                    ("RTC", TrafficClass::Rtc),
                    ("Live", TrafficClass::Live),
                    ("Download", TrafficClass::Download),
                ])
            })
            .unwrap_or_default(),
        load_balancing: fields
            .get("loadBalancing")
            .and_then(|at| {
                at.word(&[
                    ("RoundRobin", LbPolicy::RoundRobin),
                    ("LeastRequest", LbPolicy::LeastRequest),
                    ("Random", LbPolicy::Random),
                ])
            })
            .unwrap_or_default(),
        health_check: fields.get("healthCheck").and_then(|at| read_health_check(&at)),
        outlier_detection: fields.get("outlierDetection").and_then(|at| read_outliers(&at)),
        circuit_breakers: fields.get("circuitBreakers").and_then(|at| read_breakers(&at)).unwrap_or_default(),
        connect_timeout: timeout("connect").unwrap_or(Duration::from_secs(1)),
        idle_connection_timeout: timeout("idleConnection").unwrap_or(Duration::from_secs(4)),
        request_timeout: timeouts.as_ref().and_then(|t| t.get("request")).and_then(|at| at.parsed(text::duration)),
        tls: fields.get("tls").and_then(|at| read_tls(&at)),
    })
}

fn time(fields: &Fields<'_>, name: &'static str) -> Option<Duration> {
    fields.get(name)?.parsed(text::some_duration)
}

fn read_ports(fields: &Fields<'_>) -> Vec<ServicePort> {
    let items = fields.need_items("ports", 64);
    let several = items.len() > 1;
    let mut ports = Vec::new();
    for at in items {
        let Some(fields) = at.fields(&["name", "port", "appProtocol"]) else { continue };
        let name = fields.get("name").and_then(|at| at.checked(text::label));
        if several && fields.get("name").is_none() {
            at.fault("of several ports each needs a `name`");
        }
        let port = fields.need("port").and_then(|at| at.port());
        let app_protocol = fields.get("appProtocol").and_then(|at| read_protocol(&at)).unwrap_or_default();
        if let Some(port) = port {
            ports.push((at, ServicePort { name: name.unwrap_or_default().to_owned(), port, app_protocol }));
        }
    }
    distinct(ports.iter().map(|(at, p)| (p.port, at.clone())), "this port");
    distinct(ports.iter().filter(|(_, p)| !p.name.is_empty()).map(|(at, p)| (&p.name, at.clone())), "this port's name");
    ports.into_iter().map(|(_, port)| port).collect()
}

/// The names of Kubernetes' KEP-3726.
fn read_protocol(at: &At<'_>) -> Option<AppProtocol> {
    match at.text()? {
        "http" | "kubernetes.io/http" => Some(AppProtocol::Http),
        "h2c" | "http2" | "grpc" | "kubernetes.io/h2c" => Some(AppProtocol::H2c),
        "ws" | "wss" | "websocket" | "kubernetes.io/ws" | "kubernetes.io/wss" => {
            at.fault("WebSocket back ends are not supported yet (feature HTTPRouteBackendProtocolWebSocket)");
            None
        }
        "https" => {
            at.fault("TLS towards endpoints is asked for by `tls`: write `http` here and fill in `tls`");
            None
        }
        other => {
            at.fault(format!("{other:?} is no protocol that is supported: write `http`, `h2c` or `grpc`"));
            None
        }
    }
}

fn read_health_check(at: &At<'_>) -> Option<HealthCheck> {
    let fields = at.fields(&["path", "host", "interval", "timeout", "unhealthyThreshold", "healthyThreshold"])?;
    let path = fields.need("path").and_then(|at| {
        at.checked(|t| match t.starts_with('/') && t.len() <= 1024 && t.bytes().all(|b| b.is_ascii_graphic()) {
            true if !t.contains('#') => Ok(()),
            _ => Err("is not a request path, for example /healthz".into()),
        })
    });
    let host = fields.get("host").and_then(|at| at.checked(text::precise_hostname));
    let threshold = |name, default| fields.get(name).and_then(|at| at.count(1, 100)).unwrap_or(default);
    Some(HealthCheck {
        path: path?.to_owned(),
        host: host.unwrap_or_default().to_owned(),
        interval: time(&fields, "interval").unwrap_or(Duration::from_secs(5)),
        timeout: time(&fields, "timeout").unwrap_or(Duration::from_secs(1)),
        unhealthy_threshold: threshold("unhealthyThreshold", 3),
        healthy_threshold: threshold("healthyThreshold", 2),
    })
}

fn read_outliers(at: &At<'_>) -> Option<OutlierDetection> {
    let fields = at.fields(&["consecutive5xx", "interval", "baseEjectionTime", "maxEjectionPercent"])?;
    Some(OutlierDetection {
        consecutive_5xx: fields.get("consecutive5xx").and_then(|at| at.count(1, 1000)).unwrap_or(5),
        interval: time(&fields, "interval").unwrap_or(Duration::from_secs(10)),
        base_ejection_time: time(&fields, "baseEjectionTime").unwrap_or(Duration::from_secs(30)),
        max_ejection_percent: fields.get("maxEjectionPercent").and_then(|at| at.count(0, 100)).unwrap_or(10),
    })
}

fn read_breakers(at: &At<'_>) -> Option<CircuitBreakers> {
    let fields = at.fields(&["maxConnections", "maxPendingRequests", "maxRequests"])?;
    let limit = |name, default| fields.get(name).and_then(|at| at.count(1, u32::MAX)).unwrap_or(default);
    let default = CircuitBreakers::default();
    Some(CircuitBreakers {
        max_connections: limit("maxConnections", default.max_connections),
        max_pending_requests: limit("maxPendingRequests", default.max_pending_requests),
        max_requests: limit("maxRequests", default.max_requests),
    })
}

fn read_tls(at: &At<'_>) -> Option<UpstreamTls> {
    let fields = at.fields(&["serverName", "caCertificates"])?;
    let server_name = fields.need("serverName").and_then(|at| at.checked(text::precise_hostname));
    let authorities = fields.get("caCertificates").and_then(|at| certificate::authorities(&at));
    Some(UpstreamTls { server_name: server_name?.to_owned(), ca_certificates: authorities.unwrap_or_default() })
}

pub(super) fn read_endpoint_set(at: &At<'_>) -> Option<EndpointSetSpec> {
    let fields = at.fields(&["service", "site", "endpoints", "capacity"])?;
    let service = fields.need("service").and_then(|at| at.checked(text::subdomain));
    let site = fields.need("site").and_then(|at| at.checked(text::label));
    let endpoints: Vec<_> =
        fields.items("endpoints", 10_000).into_iter().filter_map(|at| Some((read_endpoint(&at)?, at))).collect();
    distinct(endpoints.iter().map(|(e, at)| (e.address, at.clone())), "this address");
    let capacity = fields.get("capacity").and_then(|at| at.whole(0, 1 << 53)).unwrap_or_default();
    Some(EndpointSetSpec {
        service: service?.to_owned(),
        site: site?.to_owned(),
        endpoints: endpoints.into_iter().map(|(endpoint, _)| endpoint).collect(),
        capacity,
    })
}

/// One endpoint, of an `EndpointSet` or of a leased key.
pub(super) fn read_endpoint(at: &At<'_>) -> Option<Endpoint> {
    let fields = at.fields(&["address", "weight", "ports"])?;
    let address = fields.need("address").and_then(|at| at.parsed(text::socket));
    let weight = fields.get("weight").and_then(|at| at.count(1, 128)).unwrap_or(1);
    let mut ports = BTreeMap::new();
    for (name, at) in fields.get("ports").map(|at| at.entries()).unwrap_or_default() {
        if let Err(why) = text::label(name) {
            at.fault(format!("{name:?} {why}"));
        }
        if let Some(port) = at.port() {
            ports.insert(name.to_owned(), port);
        }
    }
    Some(Endpoint { address: address?, weight, ports })
}

//! LDS, RDS, CDS and EDS of gRPC clients, as gRFC A27 and its successors read them: from the name of a service port to
//! its endpoints, one resource of each type. What gRPC would refuse, or has no use for, is not in them: it knows no
//! health checks, no outlier detection by errors in a row, and of the load-balancing policies, in every language, round
//! robin alone.

use std::time::Duration;

use envoy_types::pb::envoy::{
    config::{
        cluster::v3::{
            CircuitBreakers, Cluster,
            circuit_breakers::Thresholds,
            cluster::{ClusterDiscoveryType, DiscoveryType, EdsClusterConfig, LbPolicy},
        },
        core::v3::{Locality, TransportSocket, transport_socket},
        endpoint::v3::{ClusterLoadAssignment, LocalityLbEndpoints, cluster_load_assignment::Policy},
        listener::v3::{ApiListener, Listener},
        route::v3::{
            Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost,
            route::Action,
            route_action::{ClusterSpecifier, MaxStreamDuration},
            route_match::PathSpecifier,
        },
    },
    extensions::{
        filters::network::http_connection_manager::v3::HttpConnectionManager,
        transport_sockets::tls::v3::{
            CertificateProviderPluginInstance, CertificateValidationContext, CommonTlsContext, UpstreamTlsContext,
            common_tls_context::ValidationContextType,
        },
    },
    r#type::matcher::v3::string_matcher::MatchPattern,
};

use super::{
    Contributions,
    endpoints::endpoint,
    finish,
    http::{rds, router},
    sources::metadata,
    wire::{ads, any, duration, number, string},
};
use crate::{
    compile::plan::{ApiListenerPlan, ApiRoutePlan, ClientEndpointsPlan, EndpointsPlan, ServiceClusterPlan},
    model::UpstreamTls,
    xds::{Resource, ResourceType},
};

/// The certificate provider of the bootstrap that holds the authorities of services (gRFC A29).
const SERVICE_AUTHORITIES: &str = "services";

/// The name that a client calls.
pub fn api_listener(plan: &ApiListenerPlan) -> Resource {
    let manager = HttpConnectionManager {
        stat_prefix: "grpc".to_owned(),
        route_specifier: Some(rds(&plan.route_configuration)),
        http_filters: vec![router()],
        ..Default::default()
    };
    let message = Listener {
        name: plan.name.clone(),
        api_listener: Some(ApiListener { api_listener: Some(any(&manager)) }),
        ..Default::default()
    };
    let requires = vec![(ResourceType::Route, plan.route_configuration.as_str().into())];
    let sources = Contributions::Whole(std::slice::from_ref(&plan.source));
    finish(ResourceType::Listener, &plan.name, &message, Vec::new(), requires, sources)
}

/// All calls, whatever their host is called, go to the service's cluster.
pub fn api_route(plan: &ApiRoutePlan) -> Resource {
    let longest =
        |limit: Duration| MaxStreamDuration { max_stream_duration: Some(duration(limit)), ..Default::default() };
    let route = Route {
        r#match: Some(RouteMatch { path_specifier: Some(PathSpecifier::Prefix(String::new())), ..Default::default() }),
        action: Some(Action::Route(RouteAction {
            cluster_specifier: Some(ClusterSpecifier::Cluster(plan.cluster.clone())),
            max_stream_duration: plan.request_timeout.map(longest),
            ..Default::default()
        })),
        ..Default::default()
    };
    let message = RouteConfiguration {
        name: plan.name.clone(),
        virtual_hosts: vec![VirtualHost {
            name: plan.name.clone(),
            domains: vec!["*".to_owned()],
            routes: vec![route],
            ..Default::default()
        }],
        ..Default::default()
    };
    let requires = vec![(ResourceType::Cluster, plan.cluster.as_str().into())];
    let sources = Contributions::Whole(std::slice::from_ref(&plan.source));
    finish(ResourceType::Route, &plan.name, &message, Vec::new(), requires, sources)
}

/// The service port. Of its limits gRPC knows that of requests at a time, which each client counts for itself.
pub fn client_cluster(plan: &ServiceClusterPlan) -> Resource {
    let message = Cluster {
        name: plan.name.clone(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32)),
        eds_cluster_config: Some(EdsClusterConfig { eds_config: Some(ads()), ..Default::default() }),
        lb_policy: LbPolicy::RoundRobin as i32,
        circuit_breakers: Some(CircuitBreakers {
            thresholds: vec![Thresholds {
                max_requests: number(plan.spec.circuit_breakers.max_requests),
                ..Default::default()
            }],
            ..Default::default()
        }),
        transport_socket: plan.spec.tls.as_ref().map(verified),
        metadata: metadata([(&plan.source, plan.port.name.as_str())]),
        ..Default::default()
    };
    let children = vec![(ResourceType::Endpoints, plan.name.as_str().into())];
    let sources = Contributions::Whole(std::slice::from_ref(&plan.source));
    finish(ResourceType::Cluster, &plan.name, &message, children, Vec::new(), sources)
}

/// TLS towards the endpoints. gRPC takes authorities from its bootstrap alone; a client whose bootstrap has none refuses
/// the cluster, which is better than calling a service that asks for TLS in plain text.
fn verified(tls: &UpstreamTls) -> TransportSocket {
    let authorities =
        CertificateProviderPluginInstance { instance_name: SERVICE_AUTHORITIES.to_owned(), ..Default::default() };
    // The typed form of the names is newer than what gRPC reads.
    #[allow(deprecated, reason = "the form that gRPC reads")]
    let server = CertificateValidationContext {
        ca_certificate_provider_instance: Some(authorities),
        match_subject_alt_names: vec![string(MatchPattern::Exact(tls.server_name.clone()))],
        ..Default::default()
    };
    let context = UpstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            validation_context_type: Some(ValidationContextType::ValidationContext(server)),
            ..Default::default()
        }),
        sni: tls.server_name.clone(),
        ..Default::default()
    };
    TransportSocket {
        name: "envoy.transport_sockets.tls".to_owned(),
        config_type: Some(transport_socket::ConfigType::TypedConfig(any(&context))),
    }
}

/// The endpoints, one locality for each site. A priority is left when nothing of it works, and never in proportion: gRPC
/// knows no over-provisioning, and the assignment says so.
pub fn client_endpoints(plan: &ClientEndpointsPlan) -> Resource {
    let placed = |(priority, places): (u32, &Vec<EndpointsPlan>)| -> Vec<LocalityLbEndpoints> {
        places.iter().map(|place| locality(place, priority)).collect()
    };
    let message = ClusterLoadAssignment {
        cluster_name: plan.name.clone(),
        endpoints: (0u32..).zip(&plan.priorities).flat_map(placed).collect(),
        policy: Some(Policy { overprovisioning_factor: number(100), ..Default::default() }),
        ..Default::default()
    };
    let sources = Contributions::Whole(&plan.sources);
    finish(ResourceType::Endpoints, &plan.name, &message, Vec::new(), Vec::new(), sources)
}

/// A site's share of a priority is that of its endpoints' weights.
fn locality(place: &EndpointsPlan, priority: u32) -> LocalityLbEndpoints {
    let weight = place.endpoints.iter().fold(0u32, |sum, (_, weight)| sum.saturating_add(*weight));
    LocalityLbEndpoints {
        locality: Some(Locality {
            region: place.region.clone(),
            zone: place.zone.clone(),
            sub_zone: place.site.clone(),
        }),
        lb_endpoints: place.endpoints.iter().map(|(at, weight)| endpoint(*at, *weight)).collect(),
        load_balancing_weight: number(weight.max(1)),
        priority,
        ..Default::default()
    }
}

//! What `resolve` decides and `emit` writes down: the meaning of the objects for one audience, free of Envoy's types.

use std::{net::IpAddr, net::SocketAddr, time::Duration};

use crate::{
    model::{Filter, HeaderChange, ObjectRef, RouteMatch, ServicePort, ServiceSpec, TrafficClass},
    xds::NeedAt,
};

/// The reserved cluster of shares of traffic without a valid back end; no object can create it.
pub const UNRESOLVED: &str = "tidegate:unresolved";

/// An edge listener on one (address, port), shared by every Gateway at the site that uses the port.
#[derive(Clone, Debug, PartialEq)]
pub struct ListenerPlan {
    /// `gateway/<port>`.
    pub name: String,
    /// What it binds.
    pub bind: IpAddr,
    /// Its port.
    pub port: u16,
    /// Plain text or TLS.
    pub shape: ListenerShape,
    /// Gateways (and, for HTTPS, Certificates).
    pub sources: Vec<ObjectRef>,
}

/// What stands behind a port.
#[derive(Clone, Debug, PartialEq)]
pub enum ListenerShape {
    /// One filter chain, one route configuration named `http/<port>`.
    Http {
        /// Its name.
        route_configuration: String,
    },
    /// One filter chain and route configuration for each SNI hostname.
    Https {
        /// Sorted by hostname, the one without last.
        chains: Vec<ChainPlan>,
    },
}

/// One TLS filter chain.
#[derive(Clone, Debug, PartialEq)]
pub struct ChainPlan {
    /// Lower case, may begin with `*.`; `None`: every SNI, and none.
    pub hostname: Option<String>,
    /// Secret names, `<namespace>/<certificate>`; at least one (a listener without a valid one has no chain).
    pub secrets: Vec<String>,
    /// `https/<port>/<hostname or *>`.
    pub route_configuration: String,
}

/// A route configuration: its virtual hosts, each encoded alone.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteConfigurationPlan {
    /// Its name.
    pub name: String,
    /// Sorted by name. A domain stands in one of them only.
    pub hosts: Vec<VirtualHostPlan>,
}

/// One virtual host.
#[derive(Clone, Debug, PartialEq)]
pub struct VirtualHostPlan {
    /// The domain it is for; unique in the route configuration.
    pub name: String,
    /// Envoy domains: `shop.example`, `*.example`, `*`.
    pub domains: Vec<String>,
    /// What it answers.
    pub answer: HostAnswer,
}

/// What a virtual host answers.
#[derive(Clone, Debug, PartialEq)]
pub enum HostAnswer {
    /// These routes, in Gateway API precedence; nothing matches: 404.
    Routes(Vec<RoutePlan>),
    /// 421: the host belongs to another HTTPS listener of this port.
    Misdirected,
}

/// One match of one rule of one HTTPRoute.
#[derive(Clone, Debug, PartialEq)]
pub struct RoutePlan {
    /// The HTTPRoute.
    pub source: ObjectRef,
    /// Hash of the rule as written (with the route's age left out): what it contributes to the resource.
    pub contribution: u64,
    /// The rule's name, or `rule-<index>`.
    pub section: String,
    /// What must match.
    pub matching: RouteMatch,
    /// The rule's filters but mirrors, which stand in `mirrors`.
    pub filters: Vec<Filter>,
    /// Mirrors with a valid service.
    pub mirrors: Vec<ServiceTarget>,
    /// Empty and no redirect: 500.
    pub backends: Vec<BackendPlan>,
    /// The rule's `timeouts.request`.
    pub request_timeout: Option<Duration>,
    /// The rule's `timeouts.backendRequest`.
    pub backend_request_timeout: Option<Duration>,
}

/// One weighted entry.
#[derive(Clone, Debug, PartialEq)]
pub struct BackendPlan {
    /// Its share; 0 takes none.
    pub weight: u32,
    /// Request-header changes of this back end alone, after the rule's.
    pub request_headers: Vec<HeaderChange>,
    /// Response-header changes of this back end alone.
    pub response_headers: Vec<HeaderChange>,
    /// `None`: the reference is invalid, its share answers 500.
    pub target: Option<ServiceTarget>,
}

/// A service port as an edge reaches it.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceTarget {
    /// The Service.
    pub source: ObjectRef,
    /// `<ns>/<service>:<port>`: the value of `x-tidegate-service`, and the cluster's name at the core.
    pub service: String,
    /// The group's cluster at the edge, `backbone/<policy>/<sites>`.
    pub group: String,
    /// The group's core sites, and what each must have taken before requests for the service may come.
    pub sites: Vec<NeedAt>,
    /// Decides priority and default time-outs.
    pub traffic_class: TrafficClass,
    /// The Service's own request time-out.
    pub request_timeout: Option<Duration>,
}

/// A backbone group as one edge site sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupPlan {
    /// `backbone/<policy>/<sites>`.
    pub name: String,
    /// Core sites, nearest first (integer km, ties by name); the index is the priority.
    pub sites: Vec<GroupSite>,
}

/// A core site of a group.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupSite {
    /// The Site.
    pub source: ObjectRef,
    /// Its region.
    pub region: String,
    /// Its zone.
    pub zone: String,
    /// Its gateways, sorted.
    pub gateways: Vec<SocketAddr>,
    /// Distance from the edge; `None` without coordinates.
    pub km: Option<u32>,
    /// The Site's `healthCheckInterval`.
    pub health_check_interval: Duration,
}

/// A service port at a core.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceClusterPlan {
    /// `<ns>/<service>:<port>`.
    pub name: String,
    /// The Service.
    pub source: ObjectRef,
    /// What it says.
    pub spec: ServiceSpec,
    /// The port that this cluster is for.
    pub port: ServicePort,
}

/// The endpoints of a service port at one site, static and live, sorted by address, without duplicates.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointsPlan {
    /// The cluster's name.
    pub name: String,
    /// The site's locality.
    pub region: String,
    /// The site's zone.
    pub zone: String,
    /// The site's name, Envoy's sub-zone.
    pub site: String,
    /// (address, weight ≥ 1).
    pub endpoints: Vec<(SocketAddr, u32)>,
    /// EndpointSets.
    pub sources: Vec<ObjectRef>,
}

/// An API listener: the name by which a gRPC client calls a service port.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiListenerPlan {
    /// `<service>.<namespace>:<port>`, or without the port.
    pub name: String,
    /// The route configuration behind it.
    pub route_configuration: String,
    /// The Service.
    pub source: ObjectRef,
}

/// The route configuration behind API listeners: all calls go to one cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiRoutePlan {
    /// `<service>.<namespace>:<port>`.
    pub name: String,
    /// `<ns>/<service>:<port>`.
    pub cluster: String,
    /// The longest that a call may take, where the Service says it; never zero.
    pub request_timeout: Option<Duration>,
    /// The Service.
    pub source: ObjectRef,
}

/// The endpoints of a service port for the gRPC clients of a site.
#[derive(Clone, Debug, PartialEq)]
pub struct ClientEndpointsPlan {
    /// The cluster's name.
    pub name: String,
    /// By priority, and in each by site: those with endpoints. No address stands in it twice.
    pub priorities: Vec<Vec<EndpointsPlan>>,
    /// EndpointSets.
    pub sources: Vec<ObjectRef>,
}

/// The backbone listener of a core site.
#[derive(Clone, Debug, PartialEq)]
pub struct CoreListenerPlan {
    /// The Site.
    pub source: ObjectRef,
    /// What it binds.
    pub bind: IpAddr,
    /// The port of the site's gateways.
    pub port: u16,
    /// SPIFFE trust domain.
    pub trust_domain: String,
}

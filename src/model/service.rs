//! Upstream services and their endpoints.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

/// An upstream; a cluster per port at each core site where it has an `EndpointSet`.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceSpec {
    /// At least one, with distinct names and numbers.
    pub ports: Vec<ServicePort>,
    /// Decides priority on the backbone and default time-outs.
    pub traffic_class: TrafficClass,
    /// How a core picks an endpoint.
    pub load_balancing: LbPolicy,
    /// Active checks of the endpoints by each core gateway; `None`: none.
    pub health_check: Option<HealthCheck>,
    /// Passive ejection; `None`: none.
    pub outlier_detection: Option<OutlierDetection>,
    /// The bulkhead of this service at each core gateway.
    pub circuit_breakers: CircuitBreakers,
    /// Connect time-out at the core; default 1 s.
    pub connect_timeout: Duration,
    /// HTTP/1 idle time-out of connections to endpoints; default 4 s.
    pub idle_connection_timeout: Duration,
    /// Whole-request time-out on the edge's routes; `None`: by the traffic class. Zero: none.
    pub request_timeout: Option<Duration>,
    /// TLS towards the endpoints; `None`: plain text.
    pub tls: Option<UpstreamTls>,
}

/// One port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// A DNS label; empty when there is one port.
    pub name: String,
    /// What `backendRefs[].port` names.
    pub port: u16,
    /// What the endpoints speak.
    pub app_protocol: AppProtocol,
}

/// What endpoints speak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "protocol names")]
pub enum AppProtocol {
    #[default]
    Http,
    /// HTTP/2 with prior knowledge, gRPC among it. gRPC clients call it; no route leads to it yet.
    H2c,
}

/// What kind of traffic a service carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TrafficClass {
    /// Web pages and files: request time-out 60 s, idle 60 s.
    #[default]
    Web,
    /// API calls: 15 s / 15 s, priority HIGH on the backbone.
    Api,
    /// Real-time signalling: 15 s / 300 s, priority HIGH.
    Rtc,
    /// Live streams: no request time-out, idle 60 s.
    Live,
    /// Large downloads: no request time-out, idle 300 s.
    Download,
}

impl TrafficClass {
    /// Interactive classes ride at routing priority HIGH.
    pub fn interactive(self) -> bool {
        matches!(self, Self::Api | Self::Rtc)
    }

    /// Request time-out; zero is none.
    pub fn request_timeout(self) -> Duration {
        Duration::from_secs(match self {
            Self::Web => 60,
            Self::Api | Self::Rtc => 15,
            Self::Live | Self::Download => 0,
        })
    }

    /// Stream idle time-out.
    pub fn idle_timeout(self) -> Duration {
        Duration::from_secs(match self {
            Self::Api => 15,
            Self::Web | Self::Live => 60,
            Self::Rtc | Self::Download => 300,
        })
    }
}

/// Envoy's load-balancing policies that we offer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "Envoy's own names")]
pub enum LbPolicy {
    RoundRobin,
    #[default]
    LeastRequest,
    Random,
}

/// Active HTTP check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// Request path, e.g. `/healthz`.
    pub path: String,
    /// Host header; empty: the service's name.
    pub host: String,
    /// Between checks; default 5 s.
    pub interval: Duration,
    /// Of one check; default 1 s.
    pub timeout: Duration,
    /// Default 3.
    pub unhealthy_threshold: u32,
    /// Default 2.
    pub healthy_threshold: u32,
}

/// Passive ejection at the core.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutlierDetection {
    /// Default 5.
    pub consecutive_5xx: u32,
    /// Default 10 s.
    pub interval: Duration,
    /// Default 30 s.
    pub base_ejection_time: Duration,
    /// Default 10.
    pub max_ejection_percent: u32,
}

/// Limits of one service at one core gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CircuitBreakers {
    /// Default 1024.
    pub max_connections: u32,
    /// Default 1024.
    pub max_pending_requests: u32,
    /// Default 1024.
    pub max_requests: u32,
}

impl Default for CircuitBreakers {
    fn default() -> Self {
        Self { max_connections: 1024, max_pending_requests: 1024, max_requests: 1024 }
    }
}

/// TLS from a core gateway to the endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamTls {
    /// SNI, and the DNS name that the certificate must carry.
    pub server_name: String,
    /// PEM of the trusted CAs; empty: the system's bundle on the proxy's host.
    pub ca_certificates: String,
}

/// Endpoints of one service at one site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSetSpec {
    /// The service's name, in the set's own namespace.
    pub service: String,
    /// The site where they run.
    pub site: String,
    /// The static ones; live ones stand under leased keys.
    pub endpoints: Vec<Endpoint>,
    /// Requests per second that the site's endpoints can take, for steering; 0: unknown.
    pub capacity: u64,
}

/// One static endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Where it listens. A service with several ports: the address of the first one, see `ports`.
    pub address: SocketAddr,
    /// Relative share, 1 to 128; default 1.
    pub weight: u32,
    /// Port name → number, for services with several ports; absent names use the address's port.
    pub ports: BTreeMap<String, u16>,
}

/// The value of a leased endpoint key, as [`Endpoint`].
pub type LiveEndpoint = Endpoint;

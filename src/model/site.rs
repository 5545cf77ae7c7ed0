//! The fleet and its places.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

/// What all replicas must agree on.
#[derive(Clone, Debug, PartialEq)]
pub struct FleetSpec {
    /// SPIFFE trust domain; default `tidegate.local`.
    pub trust_domain: String,
    /// `--drain-time-s` of the proxies; default 600 s.
    pub drain_time: Duration,
}

impl Default for FleetSpec {
    fn default() -> Self {
        Self { trust_domain: "tidegate.local".into(), drain_time: Duration::from_secs(600) }
    }
}

/// A namespace says nothing beyond its labels, which stand in the metadata.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamespaceSpec {}

/// Who owns the place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the words of the manifest")]
pub enum SiteKind {
    #[default]
    Own,
    ThirdParty,
    Cloud,
}

/// Whether a site serves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SiteState {
    /// In service.
    #[default]
    Active,
    /// Going away: its proxies are answered nothing more, and no group names its gateways.
    Deleting,
}

/// Degrees on the globe.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs, reason = "the words of the manifest")]
pub struct Coordinates {
    pub latitude: f64,
    pub longitude: f64,
}

/// A PoP or a core site.
#[derive(Clone, Debug, PartialEq)]
pub struct SiteSpec {
    /// `edge` or `core`.
    pub role: super::Role,
    /// Region name, Envoy's `locality.region`.
    pub region: String,
    /// Zone name, Envoy's `locality.zone`; may be empty.
    pub zone: String,
    /// Where it stands; without, it counts as farthest away.
    pub coordinates: Option<Coordinates>,
    /// Who owns it.
    pub kind: SiteKind,
    /// Free text.
    pub provider: String,
    /// Core only: `IP:port` of each gateway Envoy, as edges reach it; all on one port.
    pub gateways: Vec<SocketAddr>,
    /// What listeners bind; default `0.0.0.0`.
    pub bind_address: IpAddr,
    /// Interval of the edges' checks of this core's gateways; default 2 s.
    pub health_check_interval: Duration,
    /// Whether it serves.
    pub state: SiteState,
}

//! The nouns: objects, names, references, keys of the store, audiences, scopes, freshness, watermarks. No I/O, no text formats.

mod audience;
mod fleet;
mod gateway;
mod key;
mod object;
mod route;
mod secret;
mod service;
mod site;

pub use audience::{Audience, Revision, Role, Scope, SiteEntry, Sites};
pub use fleet::{Freshness, Watermark, Watermarks};
pub use gateway::{
    AllowedKinds, AllowedNamespaces, CertificateSpec, GatewaySpec, GrantFrom, GrantTo, LabelSelector, Listener,
    ListenerProtocol, MatchExpression, MatchOperator, ReferenceGrantSpec, VirtualHosts,
};
pub use key::{KeyError, Keyspace, StoreKey};
pub use object::{Kind, Metadata, Object, ObjectRef, Problem, Severity, Spec};
pub use route::{
    BackendRef, Filter, HeaderChange, HeaderMatch, HttpRouteSpec, MirrorFilter, ParentRef, PathMatch, PathRewrite,
    RedirectFilter, RewriteFilter, RouteMatch, RouteRule, StringMatch,
};
pub use secret::Redacted;
pub use service::{
    AppProtocol, CircuitBreakers, Endpoint, EndpointSetSpec, HealthCheck, LbPolicy, LiveEndpoint, OutlierDetection,
    ServicePort, ServiceSpec, TrafficClass, UpstreamTls,
};
pub use site::{Coordinates, FleetSpec, NamespaceSpec, SiteKind, SiteSpec, SiteState};

//! Types, versions and the immutable resource.

use std::{fmt, sync::Arc, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};
use prost::encoding;

use crate::model::{ObjectRef, Revision};

/// The xDS types that we serve, in make-before-break order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "Envoy's own names")]
pub enum ResourceType {
    Cluster,
    Endpoints,
    Secret,
    Listener,
    Route,
}

impl ResourceType {
    /// In make-before-break order; the discriminant is the index.
    pub const ALL: [Self; 5] = [Self::Cluster, Self::Endpoints, Self::Secret, Self::Listener, Self::Route];

    /// The type URL.
    pub fn url(self) -> &'static str {
        match self {
            Self::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Endpoints => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Secret => "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
            Self::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::Route => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        }
    }

    /// The inverse of [`ResourceType::url`].
    pub fn from_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.url() == url)
    }

    /// `CDS`, `EDS`, `SDS`, `LDS`, `RDS`.
    pub fn short(self) -> &'static str {
        match self {
            Self::Cluster => "CDS",
            Self::Endpoints => "EDS",
            Self::Secret => "SDS",
            Self::Listener => "LDS",
            Self::Route => "RDS",
        }
    }

    /// Accepts `CDS` or Envoy's word (`cluster`, `endpoint`, `secret`, `listener`, `route`), in any case.
    pub fn parse(text: &str) -> Option<Self> {
        match text.to_ascii_lowercase().trim_end_matches('s') {
            "cd" | "cluster" => Some(Self::Cluster),
            "ed" | "endpoint" => Some(Self::Endpoints),
            "sd" | "secret" => Some(Self::Secret),
            "ld" | "listener" => Some(Self::Listener),
            "rd" | "route" => Some(Self::Route),
            _ => None,
        }
    }

    /// An empty first subscription means everything (LDS and CDS alone).
    pub fn wildcard(self) -> bool {
        matches!(self, Self::Cluster | Self::Listener)
    }
}

/// First 16 hex digits of the blake3 hash of a resource's canonical bytes: equal on every replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(u64);

impl Version {
    /// The version of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        let hash = blake3::hash(bytes);
        let mut first = [0; 8];
        first.copy_from_slice(&hash.as_bytes()[..8]);
        Self(u64::from_be_bytes(first))
    }

    /// Reads what `Display` wrote; anything else is no version of ours.
    pub fn parse(text: &str) -> Option<Self> {
        (text.len() == 16).then(|| u64::from_str_radix(text, 16).ok().map(Self)).flatten()
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// An object that a resource came from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source {
    /// The object.
    pub object: ObjectRef,
    /// Hash of what it contributed: the culprit of a NACK is the one whose contribution changed.
    pub contribution: u64,
}

/// A core site to which an edge may send a service's requests.
#[derive(Clone, Debug)]
pub struct NeedAt {
    /// The site.
    pub site: Arc<str>,
    /// The configuration that it must have taken: the service's last write, and its arrival at the site.
    pub revision: Revision,
}

impl PartialEq for NeedAt {
    /// The revision only says how long a route that is new has to wait: a rewrite of the service makes no route another
    /// one.
    fn eq(&self, other: &Self) -> bool {
        self.site == other.site
    }
}

impl Eq for NeedAt {}

/// A service that a route names: it must stand at the cores before an edge sends requests for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceNeed {
    /// `<ns>/<service>:<port>`, the cluster's name at the cores.
    pub service: Arc<str>,
    /// The group in which the edge reaches it.
    pub group: Arc<str>,
    /// The group's core sites.
    pub sites: Vec<NeedAt>,
}

/// One compiled resource: immutable, encoded once, shared by everyone who sees it.
#[derive(Clone, PartialEq, Eq)]
pub struct Resource {
    /// Its type.
    pub kind: ResourceType,
    /// Its name, as in the payload.
    pub name: Arc<str>,
    /// Hash of `payload`.
    pub version: Version,
    /// The encoded `envoy.service.discovery.v3.Resource` as field 2 of a response, tag and length included.
    pub body: Bytes,
    /// The message itself, canonical bytes (what the `Any` carries).
    pub payload: Bytes,
    /// Assignments and secrets that must follow it on the wire whenever it is sent.
    pub children: Vec<(ResourceType, Arc<str>)>,
    /// The clusters and route configurations that it names.
    pub requires: Vec<(ResourceType, Arc<str>)>,
    /// The objects that it came from, sorted.
    pub sources: Vec<Source>,
    /// Whoever can forget does so after this long without a renewal. None of our own resources: a stopped control plane
    /// must not empty a proxy.
    pub ttl: Option<Duration>,
    /// At an edge, the services that it names (route configurations only), each service and group once.
    pub services: Vec<ServiceNeed>,
}

impl Resource {
    /// Builds a resource from canonical bytes.
    pub fn new(kind: ResourceType, name: &str, payload: Bytes) -> Self {
        let version = Version::of(&payload);
        let body = encode_body(kind, name, version, Some(&payload), None);
        Self {
            kind,
            name: name.into(),
            version,
            body,
            payload,
            children: Vec::new(),
            requires: Vec::new(),
            sources: Vec::new(),
            ttl: None,
            services: Vec::new(),
        }
    }

    /// The same resource with a time to live, at least [`TTL_MIN`]. That is part of its version: another one has to be
    /// sent.
    #[must_use]
    pub fn lasting(mut self, ttl: Duration) -> Self {
        let ttl = ttl.max(TTL_MIN);
        let mut hashed = self.payload.to_vec();
        hashed.extend(ttl.as_nanos().to_le_bytes());
        (self.ttl, self.version) = (Some(ttl), Version::of(&hashed));
        self.body = encode_body(self.kind, &self.name, self.version, Some(&self.payload), None);
        self
    }

    /// As it is sent to a client that knows times to live; to others it goes without.
    #[must_use]
    pub fn expiring(&self) -> Self {
        let body = encode_body(self.kind, &self.name, self.version, Some(&self.payload), self.ttl);
        Self { body, ..self.clone() }
    }

    /// What renews the time to live at a client that has this version: name, version and time, no content and nothing
    /// that would have to follow.
    #[must_use]
    pub fn heartbeat(&self) -> Self {
        let body = encode_body(self.kind, &self.name, self.version, None, self.ttl);
        let empty = Self::new(self.kind, &self.name, Bytes::new());
        Self { name: Arc::clone(&self.name), version: self.version, body, ttl: self.ttl, ..empty }
    }
}

/// The shortest time to live.
pub const TTL_MIN: Duration = Duration::from_secs(1);

impl fmt::Debug for Resource {
    /// Never the payload: it may be a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}@{}", self.kind.short(), self.name, self.version)
    }
}

/// `Resource { version = 1, resource = 2, name = 3, ttl = 6 }` as field 2 of a `DeltaDiscoveryResponse`.
fn encode_body(
    kind: ResourceType,
    name: &str,
    version: Version,
    payload: Option<&Bytes>,
    ttl: Option<Duration>,
) -> Bytes {
    let mut inner = BytesMut::with_capacity(payload.map_or(0, Bytes::len) + name.len() + 128);
    encoding::string::encode(1, &version.to_string(), &mut inner);
    if let Some(payload) = payload {
        let any = prost_types::Any { type_url: kind.url().to_owned(), value: payload.to_vec() };
        encoding::message::encode(2, &any, &mut inner);
    }
    encoding::string::encode(3, &name.to_owned(), &mut inner);
    if let Some(ttl) = ttl {
        encoding::message::encode(6, &prost_types::Duration::try_from(ttl).unwrap_or_default(), &mut inner);
    }
    let mut body = BytesMut::with_capacity(inner.len() + 8);
    encoding::encode_key(2, encoding::WireType::LengthDelimited, &mut body);
    encoding::encode_varint(inner.len() as u64, &mut body);
    body.put(inner);
    body.freeze()
}

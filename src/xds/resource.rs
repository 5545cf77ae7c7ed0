//! Types, versions and the immutable resource.

use std::{fmt, sync::Arc, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};
use prost::encoding;

use crate::model::{ObjectRef, Revision};

/// Declares the types with all that follows from their number, so that a further one is missing nowhere.
macro_rules! types {
    ($($name:ident),+ $(,)?) => {
        /// The xDS types that we serve, in make-before-break order.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[allow(missing_docs, reason = "Envoy's own names")]
        pub enum ResourceType {
            $($name),+
        }

        impl ResourceType {
            /// In make-before-break order; the discriminant is the index.
            pub const ALL: [Self; [$(stringify!($name)),+].len()] = [$(Self::$name),+];
        }
    };
}

types!(Cluster, Endpoints, Secret, Listener, Extension, ScopedRoute, Route, VirtualHost, Runtime);

/// When a name that is gone leaves a proxy that asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// At once.
    AtOnce,
    /// When nothing names it any more.
    Unused,
    /// Never: whatever named it has to let go of it. "Removed" is only the answer to a question for what is not there.
    Never,
}

impl ResourceType {
    /// Make before break on the wire (rule 75); secrets and filters behind the listeners and clusters that they belong
    /// to, since a provider of a secret that does not exist yet never sees what came before it (O21).
    pub const WIRE: [Self; Self::ALL.len()] = [
        Self::Cluster,
        Self::Endpoints,
        Self::Listener,
        Self::Secret,
        Self::Extension,
        Self::ScopedRoute,
        Self::Route,
        Self::VirtualHost,
        Self::Runtime,
    ];

    /// What may name a cluster, other than a cluster.
    pub const NAMING: [Self; 5] = [Self::Listener, Self::Extension, Self::ScopedRoute, Self::Route, Self::VirtualHost];

    /// The type URL.
    pub fn url(self) -> &'static str {
        match self {
            Self::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Endpoints => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Secret => "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
            Self::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::Extension => "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
            Self::ScopedRoute => "type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration",
            Self::Route => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
            Self::VirtualHost => "type.googleapis.com/envoy.config.route.v3.VirtualHost",
            Self::Runtime => "type.googleapis.com/envoy.service.runtime.v3.Runtime",
        }
    }

    /// The inverse of [`ResourceType::url`].
    pub fn from_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.url() == url)
    }

    /// `CDS`, `EDS`, `SDS`, `LDS`, `ECDS`, `SRDS`, `RDS`, `VHDS`, `RTDS`.
    pub fn short(self) -> &'static str {
        match self {
            Self::Cluster => "CDS",
            Self::Endpoints => "EDS",
            Self::Secret => "SDS",
            Self::Listener => "LDS",
            Self::Extension => "ECDS",
            Self::ScopedRoute => "SRDS",
            Self::Route => "RDS",
            Self::VirtualHost => "VHDS",
            Self::Runtime => "RTDS",
        }
    }

    /// Envoy's word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::Endpoints => "endpoint",
            Self::Secret => "secret",
            Self::Listener => "listener",
            Self::Extension => "extension",
            Self::ScopedRoute => "scoped_route",
            Self::Route => "route",
            Self::VirtualHost => "virtual_host",
            Self::Runtime => "runtime",
        }
    }

    /// Accepts `CDS` or Envoy's word, in the singular or plural, in any case and with any dashes.
    pub fn parse(text: &str) -> Option<Self> {
        let plain = |text: &str| text.to_ascii_lowercase().replace(['_', '-'], "");
        let asked = plain(text);
        let asked = asked.strip_suffix('s').unwrap_or(&asked);
        let is = |kind: &Self| plain(kind.short()).trim_end_matches('s') == asked || plain(kind.word()) == asked;
        Self::ALL.into_iter().find(is)
    }

    /// In the delta variant an empty first request asks for everything (rules 40 and 85): Envoy names no virtual host but
    /// on demand.
    pub fn empty_is_all(self) -> bool {
        self.wildcard() || self == Self::VirtualHost
    }

    /// An empty first subscription means everything, and in the state of the world a response is the whole set (rules
    /// 40 and 46).
    pub fn wildcard(self) -> bool {
        match self {
            Self::Cluster | Self::Listener | Self::ScopedRoute => true,
            Self::Endpoints | Self::Secret | Self::Extension | Self::Route | Self::VirtualHost | Self::Runtime => false,
        }
    }

    /// When a name that is gone is removed.
    pub fn removal(self) -> Removal {
        match self {
            Self::Cluster => Removal::Unused,
            Self::Listener | Self::ScopedRoute | Self::VirtualHost | Self::Runtime => Removal::AtOnce,
            Self::Endpoints | Self::Secret | Self::Extension | Self::Route => Removal::Never,
        }
    }

    /// Envoy forgets one whose time to live has run out. It keeps assignments, secrets and route configurations whatever
    /// it is told (O8, O20), and takes no heartbeats for virtual hosts (rule 86).
    pub fn expires(self) -> bool {
        match self {
            Self::Cluster | Self::Listener | Self::Extension | Self::ScopedRoute | Self::Runtime => true,
            Self::Endpoints | Self::Secret | Self::Route | Self::VirtualHost => false,
        }
    }

    /// It exists in the delta variant alone.
    pub fn delta_only(self) -> bool {
        self == Self::VirtualHost
    }

    /// Every proxy asks for it, having clusters and listeners; the others only where something tells it to.
    pub fn common(self) -> bool {
        match self {
            Self::Cluster | Self::Endpoints | Self::Secret | Self::Listener | Self::Route => true,
            Self::Extension | Self::ScopedRoute | Self::VirtualHost | Self::Runtime => false,
        }
    }
}

/// Each type stands in [`ResourceType::WIRE`], and at its own index in [`ResourceType::ALL`].
const _: () = {
    let mut index = 0;
    while index < ResourceType::ALL.len() {
        assert!(ResourceType::ALL[index] as usize == index);
        let mut at = 0;
        while ResourceType::WIRE[at] as usize != index {
            at += 1;
        }
        index += 1;
    }
};

/// One `T` for each type.
#[derive(Clone, Debug, Default)]
pub struct PerType<T>([T; ResourceType::ALL.len()]);

impl<T> PerType<T> {
    /// That of `kind`.
    pub fn get(&self, kind: ResourceType) -> &T {
        &self.0[kind as usize]
    }

    /// That of `kind`, to be changed.
    pub fn get_mut(&mut self, kind: ResourceType) -> &mut T {
        &mut self.0[kind as usize]
    }

    /// All, in make-before-break order.
    pub fn iter(&self) -> std::slice::Iter<'_, T> {
        self.0.iter()
    }

    /// All, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.0.iter_mut()
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

/// The name by which a listener requires all scopes that there are: it asks for them by wildcard.
pub const ANY_SCOPE: &str = "*";

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
    /// Assignments, secrets and filters that must follow it on the wire whenever it is sent.
    pub children: Vec<(ResourceType, Arc<str>)>,
    /// The clusters, filters, scopes ([`ANY_SCOPE`]) and route configurations that it names.
    pub requires: Vec<(ResourceType, Arc<str>)>,
    /// The objects that it came from, sorted.
    pub sources: Vec<Source>,
    /// Whoever can forget does so after this long without a renewal. None of what is generated: a stopped control plane
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
        // As it stands in the body, before the name: kept once.
        let end = body.len() - 1 - encoding::encoded_len_varint(name.len() as u64) - name.len();
        let payload = body.slice(end - payload.len()..end);
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

    /// The encoded `envoy.service.discovery.v3.Resource` alone, without the tag and length that `body` has.
    pub fn wrapped(&self) -> Bytes {
        let mut rest = self.body.clone();
        // Written by `encode_body`: both are there.
        let _ = encoding::decode_key(&mut rest);
        let _ = encoding::decode_varint(&mut rest);
        rest
    }
}

/// The shortest time to live: heartbeats leave 5 s then for an acknowledgement that is slow.
pub const TTL_MIN: Duration = Duration::from_secs(10);

impl Resource {
    /// The answer to questions for `asked`, which are only other names of `other`; or to one for what is not there
    /// (rule 85).
    pub fn alias(kind: ResourceType, asked: &[&str], other: Option<&Self>) -> Self {
        let name = asked.first().copied().unwrap_or_default();
        let mut resource = other.cloned().unwrap_or_else(|| Self::new(kind, name, Bytes::new()));
        let mut inner = match other {
            Some(other) => fields(kind, &other.name, other.version, Some(&other.payload)),
            None => BytesMut::new(),
        };
        if other.is_none() {
            encoding::string::encode(3, &name.to_owned(), &mut inner);
        }
        asked.iter().for_each(|name| encoding::string::encode(4, &(*name).to_owned(), &mut inner));
        resource.body = framed(&inner);
        resource
    }
}

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
    let mut inner = fields(kind, name, version, payload);
    if let Some(ttl) = ttl {
        encoding::message::encode(6, &prost_types::Duration::try_from(ttl).unwrap_or_default(), &mut inner);
    }
    framed(&inner)
}

fn fields(kind: ResourceType, name: &str, version: Version, payload: Option<&Bytes>) -> BytesMut {
    let mut inner = BytesMut::with_capacity(payload.map_or(0, Bytes::len) + name.len() + 128);
    encoding::string::encode(1, &version.to_string(), &mut inner);
    if let Some(payload) = payload {
        let any = prost_types::Any { type_url: kind.url().to_owned(), value: payload.to_vec() };
        encoding::message::encode(2, &any, &mut inner);
    }
    encoding::string::encode(3, &name.to_owned(), &mut inner);
    inner
}

fn framed(inner: &[u8]) -> Bytes {
    let mut body = BytesMut::with_capacity(inner.len() + 8);
    encoding::encode_key(2, encoding::WireType::LengthDelimited, &mut body);
    encoding::encode_varint(inner.len() as u64, &mut body);
    body.put_slice(inner);
    body.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_type_is_found_by_its_url_its_short_name_and_envoys_word() {
        for kind in ResourceType::ALL {
            assert_eq!(ResourceType::from_url(kind.url()), Some(kind));
            let words = [kind.short().to_owned(), kind.word().to_owned(), format!("{}s", kind.word()).to_uppercase()];
            for word in words {
                assert_eq!(ResourceType::parse(&word), Some(kind), "{word}");
            }
        }
        assert_eq!(ResourceType::parse("virtualhosts"), Some(ResourceType::VirtualHost));
        assert_eq!(ResourceType::parse("scoped-route"), Some(ResourceType::ScopedRoute));
        for word in ["", "s", "ds", "route_configuration", "clusterss"] {
            assert_eq!(ResourceType::parse(word), None, "{word}");
        }
    }
}

//! Who asks, and which part of that a resource reads.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use super::SiteState;

/// A revision of the store: one counter over all keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a site, and each client of it, does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Terminates clients and routes them to core sites.
    Edge,
    /// Runs services.
    Core,
    /// A gRPC client at a core site that calls services without a proxy; never the role of a site.
    Grpc,
}

impl Role {
    /// `edge`, `core` or `grpc`, as in SPIFFE ids; a manifest's is one of the first two.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Edge => "edge",
            Self::Core => "core",
            Self::Grpc => "grpc",
        }
    }

    /// The role of the sites at which a client of this one stands.
    pub fn of_site(self) -> Self {
        match self {
            Self::Grpc => Self::Core,
            proxy => proxy,
        }
    }

    /// The inverse of [`Role::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "edge" => Some(Self::Edge),
            "core" => Some(Self::Core),
            "grpc" => Some(Self::Grpc),
            _ => None,
        }
    }
}

/// Who asks: all proxies of one audience are served the same resources. Made by `identity::resolve` alone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Audience {
    /// Name of the proxy's `Site`.
    pub site: Arc<str>,
    /// What the client is there: a proxy of the site's own role, or a gRPC client.
    pub role: Role,
    /// A certificate proved the site: only then are Secrets served.
    pub proven: bool,
    /// Rollout cohort from the node metadata; empty by default.
    pub cohort: Arc<str>,
    /// It speaks delta xDS: only then are virtual hosts served one by one.
    pub delta: bool,
}

/// The part of an [`Audience`] that one resource reads; equal scopes share the compiled bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Nothing: one copy for everyone (Secrets).
    Global,
    /// The role alone (a core's clusters and its route configuration; all of a gRPC client but its assignments).
    Role(Role),
    /// One site (an edge's groups, every load assignment of a proxy, a core's listener).
    Site(Arc<str>),
    /// The gRPC clients of one site (their load assignments).
    Clients(Arc<str>),
    /// The Gateways that share an (address, port): an edge's listeners, route configurations, virtual hosts.
    Gateways {
        /// The address that the listener binds.
        bind: Arc<str>,
        /// Its port.
        port: u16,
        /// (namespace, name) of each Gateway.
        gateways: Arc<BTreeSet<(String, String)>>,
        /// Virtual hosts are resources of their own, and route configurations only say so.
        streamed: bool,
    },
}

/// What identity needs to know of a `Site`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SiteEntry {
    /// What its proxies do.
    pub role: Role,
    /// Its region.
    pub region: Arc<str>,
    /// Its zone; may be empty.
    pub zone: Arc<str>,
    /// Whether it serves.
    pub state: SiteState,
}

/// What identity needs to know of the fleet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sites {
    /// SPIFFE trust domain; empty, which nobody is of, until the store was read.
    pub trust_domain: Arc<str>,
    /// How long listeners drain at proxies whose bootstrap does not say.
    pub drain_time: Duration,
    /// All sites by name, as the store has them.
    pub sites: BTreeMap<Arc<str>, SiteEntry>,
}

impl Sites {
    /// The site of that name, with the shared copy of its name.
    pub fn get(&self, name: &str) -> Option<(&Arc<str>, &SiteEntry)> {
        self.sites.get_key_value(name)
    }
}

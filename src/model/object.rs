//! Objects as stored: kind, metadata, spec; how they are named and what can be wrong with them.

use std::{collections::BTreeMap, fmt};

use super::{
    CertificateSpec, EndpointSetSpec, EnvoyResourceSpec, FleetSpec, GatewaySpec, HttpRouteSpec, NamespaceSpec,
    ReferenceGrantSpec, Revision, ServiceSpec, SiteSpec,
};

/// Every kind of object, in the order in which a large apply writes them (what is referred to first).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The one `Fleet`, named `fleet`.
    Fleet,
    /// A namespace and its labels.
    Namespace,
    /// A PoP or a core site.
    Site,
    /// A server certificate and its key.
    Certificate,
    /// Permits references across namespaces.
    ReferenceGrant,
    /// An upstream service.
    Service,
    /// Endpoints of a service at a site.
    EndpointSet,
    /// Listeners of the edge.
    Gateway,
    /// Routes of HTTP traffic.
    HttpRoute,
    /// A resource in Envoy's own words.
    EnvoyResource,
}

impl Kind {
    /// All kinds in writing order.
    pub const ALL: [Self; 10] = [
        Self::Fleet,
        Self::Namespace,
        Self::Site,
        Self::Certificate,
        Self::ReferenceGrant,
        Self::Service,
        Self::EndpointSet,
        Self::Gateway,
        Self::HttpRoute,
        Self::EnvoyResource,
    ];

    /// The `kind` of a manifest, e.g. `HTTPRoute`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fleet => "Fleet",
            Self::Namespace => "Namespace",
            Self::Site => "Site",
            Self::Certificate => "Certificate",
            Self::ReferenceGrant => "ReferenceGrant",
            Self::Service => "Service",
            Self::EndpointSet => "EndpointSet",
            Self::Gateway => "Gateway",
            Self::HttpRoute => "HTTPRoute",
            Self::EnvoyResource => "EnvoyResource",
        }
    }

    /// The plural of keys and commands, e.g. `httproutes`.
    pub fn plural(self) -> &'static str {
        match self {
            Self::Fleet => "fleets",
            Self::Namespace => "namespaces",
            Self::Site => "sites",
            Self::Certificate => "certificates",
            Self::ReferenceGrant => "referencegrants",
            Self::Service => "services",
            Self::EndpointSet => "endpointsets",
            Self::Gateway => "gateways",
            Self::HttpRoute => "httproutes",
            Self::EnvoyResource => "envoyresources",
        }
    }

    /// The `apiVersion` values that a manifest may carry, the preferred one first.
    pub fn api_versions(self) -> &'static [&'static str] {
        match self {
            Self::Gateway | Self::HttpRoute => &["gateway.networking.k8s.io/v1"],
            Self::ReferenceGrant => &["gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1beta1"],
            _ => &["tidegate.dev/v1alpha1"],
        }
    }

    /// Whether objects of this kind live in a namespace.
    pub fn namespaced(self) -> bool {
        !matches!(self, Self::Fleet | Self::Namespace | Self::Site | Self::EnvoyResource)
    }

    /// Accepts the kind, its singular, plural and short names, in any case.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.to_ascii_lowercase();
        let short = match text.as_str() {
            "ns" => Some(Self::Namespace),
            "cert" => Some(Self::Certificate),
            "svc" => Some(Self::Service),
            "eps" => Some(Self::EndpointSet),
            "gtw" | "gw" => Some(Self::Gateway),
            "route" => Some(Self::HttpRoute),
            "refgrant" => Some(Self::ReferenceGrant),
            "raw" => Some(Self::EnvoyResource),
            _ => None,
        };
        short.or_else(|| Self::ALL.into_iter().find(|k| k.as_str().to_ascii_lowercase() == text || k.plural() == text))
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Names one object. `namespace` is empty for cluster-scoped kinds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectRef {
    /// The object's kind.
    pub kind: Kind,
    /// Its namespace; empty for cluster-scoped kinds.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl ObjectRef {
    /// Builds a reference; the namespace is dropped for cluster-scoped kinds.
    pub fn new(kind: Kind, namespace: &str, name: &str) -> Self {
        let namespace = if kind.namespaced() { namespace.to_owned() } else { String::new() };
        Self { kind, namespace, name: name.to_owned() }
    }
}

impl fmt::Display for ObjectRef {
    /// `HTTPRoute shop/web`, `Site fra1`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}

/// Who an object is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Unique in (kind, namespace).
    pub name: String,
    /// Empty for cluster-scoped kinds; `default` when a manifest names none.
    pub namespace: String,
    /// For selectors.
    pub labels: BTreeMap<String, String>,
    /// For tools; `tidegate.dev/*` are read by Tidegate.
    pub annotations: BTreeMap<String, String>,
}

/// What an object says; one variant for each [`Kind`].
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the variants are the kinds")]
pub enum Spec {
    Fleet(FleetSpec),
    Namespace(NamespaceSpec),
    Site(SiteSpec),
    Certificate(CertificateSpec),
    ReferenceGrant(ReferenceGrantSpec),
    Service(ServiceSpec),
    EndpointSet(EndpointSetSpec),
    Gateway(GatewaySpec),
    HttpRoute(HttpRouteSpec),
    EnvoyResource(EnvoyResourceSpec),
}

/// One object, parsed and checked by itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// Who it is.
    pub metadata: Metadata,
    /// What it says.
    pub spec: Spec,
}

impl Object {
    /// The object's kind.
    pub fn kind(&self) -> Kind {
        match self.spec {
            Spec::Fleet(_) => Kind::Fleet,
            Spec::Namespace(_) => Kind::Namespace,
            Spec::Site(_) => Kind::Site,
            Spec::Certificate(_) => Kind::Certificate,
            Spec::ReferenceGrant(_) => Kind::ReferenceGrant,
            Spec::Service(_) => Kind::Service,
            Spec::EndpointSet(_) => Kind::EndpointSet,
            Spec::Gateway(_) => Kind::Gateway,
            Spec::HttpRoute(_) => Kind::HttpRoute,
            Spec::EnvoyResource(_) => Kind::EnvoyResource,
        }
    }

    /// The object's name as a reference.
    pub fn reference(&self) -> ObjectRef {
        ObjectRef::new(self.kind(), &self.metadata.namespace, &self.metadata.name)
    }
}

/// How bad a [`Problem`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Served, but a person should look.
    Warning,
    /// Part of the object, or all of it, is not served as written.
    Error,
}

/// What is wrong with one object, in words for its owner.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The object; for a key that names none, `None`.
    pub object: Option<ObjectRef>,
    /// The key in the store where it stands.
    pub key: String,
    /// How bad.
    pub severity: Severity,
    /// A CamelCase word, Gateway API's own where it has one (`BackendNotFound`, `RefNotPermitted`, `Conflicted`,
    /// `NoMatchingParent`, `InvalidKind`, …).
    pub reason: String,
    /// What, where in the object, why, what to do.
    pub message: String,
    /// The revision of the faulty value.
    pub revision: Revision,
}

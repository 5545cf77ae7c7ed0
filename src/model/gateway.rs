//! Gateway API v1.6: `Gateway`, `ReferenceGrant`; and our `Certificate`.

use std::collections::BTreeMap;

use super::Redacted;

/// Listeners of the edge. Its sites are chosen by the annotation `tidegate.dev/sites`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewaySpec {
    /// Only `tidegate` is ours; other classes are ignored.
    pub class: String,
    /// 1 to 64, with distinct names.
    pub listeners: Vec<Listener>,
    /// From the annotation `tidegate.dev/sites`; `None`: every edge site.
    pub sites: Option<LabelSelector>,
    /// From the annotation `tidegate.dev/virtual-hosts`.
    pub virtual_hosts: VirtualHosts,
}

/// How proxies are sent the virtual hosts of a Gateway.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VirtualHosts {
    /// As a part of their route configuration, which is sent whole.
    #[default]
    Whole,
    /// One by one (VHDS), to proxies that speak delta xDS.
    Streamed,
}

/// One listener of a Gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// The section name.
    pub name: String,
    /// Lower case; `*.` first for a wildcard; `None`: all hosts.
    pub hostname: Option<String>,
    /// The port on which the edge listens.
    pub port: u16,
    /// HTTP, or HTTPS with its certificates.
    pub protocol: ListenerProtocol,
    /// Whose routes may attach.
    pub allowed_namespaces: AllowedNamespaces,
    /// Which kinds of route may attach.
    pub allowed_kinds: AllowedKinds,
}

/// What a listener speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenerProtocol {
    /// Plain text.
    Http,
    /// TLS terminated with these `Certificate`s, (namespace, name) each; at least one.
    Https {
        /// `certificateRefs` of kind `Secret` or `Certificate`.
        certificates: Vec<(String, String)>,
    },
}

/// `allowedRoutes.namespaces`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "Gateway API's own names")]
pub enum AllowedNamespaces {
    All,
    #[default]
    Same,
    Selector(LabelSelector),
}

/// `allowedRoutes.kinds`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AllowedKinds {
    /// HTTPRoute is allowed (none named, or named).
    #[default]
    HttpRoute,
    /// Only kinds that we do not have were named.
    None,
}

/// Kubernetes' label selector; all requirements must hold, an empty one matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    /// Labels that must be equal.
    pub match_labels: BTreeMap<String, String>,
    /// Further requirements.
    pub match_expressions: Vec<MatchExpression>,
}

/// One requirement of a selector.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "Kubernetes' own names")]
pub struct MatchExpression {
    pub key: String,
    pub operator: MatchOperator,
    pub values: Vec<String>,
}

/// Operators of a requirement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "Kubernetes' own names")]
pub enum MatchOperator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

impl LabelSelector {
    /// Whether `labels` fulfil every requirement.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.match_labels.iter().all(|(k, v)| labels.get(k) == Some(v))
            && self.match_expressions.iter().all(|e| {
                let value = labels.get(&e.key);
                match e.operator {
                    MatchOperator::In => value.is_some_and(|v| e.values.contains(v)),
                    MatchOperator::NotIn => value.is_none_or(|v| !e.values.contains(v)),
                    MatchOperator::Exists => value.is_some(),
                    MatchOperator::DoesNotExist => value.is_none(),
                }
            })
    }
}

/// Permits references from other namespaces into its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReferenceGrantSpec {
    /// Who may refer.
    pub from: Vec<GrantFrom>,
    /// To what.
    pub to: Vec<GrantTo>,
}

/// Who may refer; `kind` as written, e.g. `HTTPRoute`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "Gateway API's own names")]
pub struct GrantFrom {
    pub group: String,
    pub kind: String,
    pub namespace: String,
}

/// What may be referred to; without a name, every object of the kind. Group "" and `tidegate.dev` are one, and so
/// are the kinds `Secret` and `Certificate`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "Gateway API's own names")]
pub struct GrantTo {
    pub group: String,
    pub kind: String,
    pub name: Option<String>,
}

/// A server certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateSpec {
    /// PEM, leaf first.
    pub certificate_chain: String,
    /// PEM.
    pub private_key: Redacted,
}

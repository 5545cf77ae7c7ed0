//! Certificate and node claim → audience, or principal, or a refusal in words. Pure.

use std::net::IpAddr;

use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::model::{Audience, Role, SiteState, Sites};

/// Who is at the other end of a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// The one URI SAN of its verified certificate, if it has a certificate.
    pub spiffe: Option<String>,
    /// It connects from a loopback address.
    pub loopback: bool,
}

impl Peer {
    /// A peer without a certificate.
    pub fn plain(address: IpAddr) -> Self {
        Self { spiffe: None, loopback: address.to_canonical().is_loopback() }
    }

    /// Its certificate is that of a gRPC client, of whatever trust domain.
    pub fn is_grpc(&self) -> bool {
        let role = self.spiffe.as_deref().and_then(|uri| uri.strip_prefix("spiffe://")?.split('/').nth(1));
        role.and_then(Role::parse) == Some(Role::Grpc)
    }
}

/// What a proxy says of itself in its first request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeClaim {
    /// `node.id`.
    pub id: String,
    /// `node.cluster`.
    pub cluster: String,
    /// `node.locality.sub_zone`, the site.
    pub site: String,
    /// It is a gRPC client and no proxy.
    pub grpc: bool,
    /// `cohort` of `node.metadata["tidegate.dev"]`; empty without.
    pub cohort: String,
    /// Its stream is one of delta xDS.
    pub delta: bool,
}

/// Why somebody is answered nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No certificate, and not from this machine.
    #[error("no client certificate, and the connection does not come from loopback")]
    Unproven,
    /// The certificate is of another trust domain, or its name is none of ours.
    #[error("the certificate names {0:?}, not spiffe://{1}/<role>/<site>")]
    Foreign(String, String),
    /// The claim differs from the certificate.
    #[error("the node claims {claimed} {claim:?}, its certificate says {proven:?}")]
    Differs {
        /// Which part of the claim.
        claimed: &'static str,
        /// What the node says.
        claim: String,
        /// What the certificate says.
        proven: String,
    },
    /// The node names no site.
    #[error("node.locality.sub_zone names no site")]
    NoSite,
    /// The node has no id.
    #[error("node.id is empty or longer than 256 bytes")]
    NoId,
    /// More than a name may have.
    #[error("the node's site or cohort is longer than a name may be (253 and 63 bytes)")]
    TooLong,
    /// There is no such site.
    #[error("there is no Site {0:?}")]
    UnknownSite(String),
    /// The site goes away.
    #[error("Site {0:?} is being deleted")]
    DeletingSite(String),
    /// A gRPC client at an edge.
    #[error("Site {0:?} is an edge, where services are reached through core gateways only: a gRPC client needs a core")]
    ClientAtEdge(String),
}

/// An operator or control plane, for the operators' API.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Principal {
    /// `spiffe://<trust domain>/operator/<name>`.
    Operator(String),
    /// `spiffe://<trust domain>/control-plane/<name>`.
    ControlPlane(String),
    /// Somebody on this machine, or behind the explicit flag, without a certificate.
    Unproven,
}

impl std::fmt::Display for Principal {
    /// `operator/<name>`, `control-plane/<name>`, `unproven`: what the audit key says.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Operator(name) => write!(f, "operator/{name}"),
            Self::ControlPlane(name) => write!(f, "control-plane/{name}"),
            Self::Unproven => f.write_str("unproven"),
        }
    }
}

/// The only maker of an [`Audience`].
///
/// A proxy's certificate is of its site's role. A gRPC client's is `spiffe://<trust domain>/grpc/<site>`, with which
/// nobody is a gateway on the backbone; the certificate of the core site itself, which sees more, will do too. So
/// whoever says falsely that it is a gRPC client, or that it is none, is refused or is shown less.
///
/// # Errors
/// [`Refusal`] in words: a claim that differs from the certificate, an unknown or deleting site, no proof.
pub fn resolve(peer: &Peer, node: &NodeClaim, sites: &Sites, allow_unproven: bool) -> Result<Audience, Refusal> {
    if node.id.is_empty() || node.id.len() > 256 {
        return Err(Refusal::NoId);
    }
    if node.cohort.len() > 63 || node.site.len() > 253 {
        return Err(Refusal::TooLong);
    }
    let proof = match &peer.spiffe {
        Some(uri) => Some(proxy_path(uri, &sites.trust_domain)?),
        None if peer.loopback || allow_unproven => None,
        None => return Err(Refusal::Unproven),
    };
    if node.site.is_empty() {
        return Err(Refusal::NoSite);
    }
    if let Some((_, site)) = proof
        && site != node.site
    {
        let (claim, proven) = (node.site.clone(), site.to_owned());
        return Err(Refusal::Differs { claimed: "site", claim, proven });
    }
    let (name, site) = sites.get(&node.site).ok_or_else(|| Refusal::UnknownSite(node.site.clone()))?;
    if site.state == SiteState::Deleting {
        return Err(Refusal::DeletingSite(node.site.clone()));
    }
    if node.grpc && site.role == Role::Edge {
        return Err(Refusal::ClientAtEdge(node.site.clone()));
    }
    let role = if node.grpc { Role::Grpc } else { site.role };
    if let Some((proven, _)) = proof
        && proven != role
        && proven != site.role
    {
        let (claim, proven) = (role.as_str().to_owned(), proven.as_str().to_owned());
        return Err(Refusal::Differs { claimed: "the role", claim, proven });
    }
    let cohort = node.cohort.as_str().into();
    Ok(Audience { site: name.clone(), role, proven: proof.is_some(), cohort, delta: node.delta })
}

/// Who calls the operators' API.
///
/// # Errors
/// [`Refusal`] for proxies, foreign names, and callers without a certificate that are not on loopback.
pub fn principal(peer: &Peer, trust_domain: &str, allow_unproven: bool) -> Result<Principal, Refusal> {
    let Some(uri) = &peer.spiffe else {
        let ok = peer.loopback || allow_unproven;
        return if ok { Ok(Principal::Unproven) } else { Err(Refusal::Unproven) };
    };
    let parts: Vec<&str> = path(uri, trust_domain)?.split('/').collect();
    match parts.as_slice() {
        ["operator", name] if !name.is_empty() => Ok(Principal::Operator((*name).to_owned())),
        ["control-plane", name] if !name.is_empty() => Ok(Principal::ControlPlane((*name).to_owned())),
        _ => Err(foreign(uri, trust_domain)),
    }
}

/// The one URI SAN of a verified certificate; empty, which nobody is called, if it has none or several.
pub fn spiffe(certificate: &[u8]) -> String {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return String::new() };
    let Ok(Some(names)) = parsed.subject_alternative_name() else { return String::new() };
    let mut uris = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    match (uris.next(), uris.next()) {
        (Some(uri), None) => uri.to_owned(),
        _ => String::new(),
    }
}

fn foreign(uri: &str, trust_domain: &str) -> Refusal {
    Refusal::Foreign(uri.to_owned(), trust_domain.to_owned())
}

/// Byte for byte: SPIFFE ids are not normalised.
fn path<'a>(uri: &'a str, trust_domain: &str) -> Result<&'a str, Refusal> {
    let rest = uri.strip_prefix("spiffe://").and_then(|r| r.strip_prefix(trust_domain));
    rest.and_then(|r| r.strip_prefix('/')).ok_or_else(|| foreign(uri, trust_domain))
}

fn proxy_path<'a>(uri: &'a str, trust_domain: &str) -> Result<(Role, &'a str), Refusal> {
    let mut parts = path(uri, trust_domain)?.split('/');
    let role = parts.next().and_then(Role::parse);
    let site = parts.next().filter(|s| !s.is_empty());
    role.zip(site).ok_or_else(|| foreign(uri, trust_domain))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::SiteEntry;

    const DOMAIN: &str = "tidegate.local";

    fn sites() -> Sites {
        let site = |role, state| SiteEntry { role, region: "eu".into(), zone: "".into(), state };
        let sites = [
            ("fra".into(), site(Role::Edge, SiteState::Active)),
            ("old".into(), site(Role::Edge, SiteState::Deleting)),
            ("dc1".into(), site(Role::Core, SiteState::Active)),
        ]
        .into();
        Sites { trust_domain: DOMAIN.into(), sites, ..Sites::default() }
    }

    fn ask(spiffe: Option<&str>, loopback: bool, site: &str) -> Result<Audience, Refusal> {
        let peer = Peer { spiffe: spiffe.map(Into::into), loopback };
        let node = NodeClaim { id: "envoy-1".into(), site: site.into(), ..NodeClaim::default() };
        resolve(&peer, &node, &sites(), false)
    }

    #[test]
    fn a_certificate_proves_the_site_and_a_longer_path_is_fine() {
        let audience = ask(Some("spiffe://tidegate.local/edge/fra/host-7"), false, "fra").unwrap();
        assert_eq!((&*audience.site, audience.role, audience.proven), ("fra", Role::Edge, true));
    }

    #[test]
    fn a_claim_on_loopback_is_believed_but_not_proven() {
        assert!(!ask(None, true, "dc1").unwrap().proven);
        assert_eq!(ask(None, false, "dc1"), Err(Refusal::Unproven));
    }

    #[test]
    fn a_claim_that_differs_from_the_certificate_is_refused() {
        let other_site = ask(Some("spiffe://tidegate.local/edge/ams"), true, "fra");
        assert!(matches!(other_site, Err(Refusal::Differs { claimed: "site", .. })));
        let other_role = ask(Some("spiffe://tidegate.local/core/fra"), true, "fra");
        assert!(matches!(other_role, Err(Refusal::Differs { .. })));
    }

    #[test]
    fn a_grpc_client_is_one_whatever_it_says_and_only_at_a_core() {
        let ask = |spiffe: &str, grpc, site: &str| {
            let peer = Peer { spiffe: Some(format!("spiffe://{DOMAIN}/{spiffe}")), loopback: false };
            let node = NodeClaim { id: "shop-1".into(), site: site.into(), grpc, ..NodeClaim::default() };
            resolve(&peer, &node, &sites(), false)
        };
        for certificate in ["grpc/dc1", "grpc/dc1/shop", "core/dc1"] {
            let audience = ask(certificate, true, "dc1").unwrap();
            assert_eq!((audience.role, audience.proven), (Role::Grpc, true), "{certificate}");
            let peer = Peer { spiffe: Some(format!("spiffe://{DOMAIN}/{certificate}")), loopback: false };
            assert_eq!(peer.is_grpc(), certificate.starts_with("grpc"), "{certificate}");
        }
        // Its certificate makes it no gateway, and an edge's no client.
        for (certificate, grpc, site) in [("grpc/dc1", false, "dc1"), ("edge/dc1", true, "dc1")] {
            let refused = ask(certificate, grpc, site);
            assert!(matches!(refused, Err(Refusal::Differs { claimed: "the role", .. })), "{certificate}: {refused:?}");
        }
        assert!(matches!(ask("grpc/dc2", true, "dc1"), Err(Refusal::Differs { claimed: "site", .. })));
        for certificate in ["grpc/fra", "edge/fra"] {
            assert_eq!(ask(certificate, true, "fra"), Err(Refusal::ClientAtEdge("fra".into())));
        }
        assert!(matches!(ask("grpc/fra", false, "fra"), Err(Refusal::Differs { .. })));
    }

    #[test]
    fn foreign_names_are_refused_even_on_loopback() {
        for uri in [
            "spiffe://tidegate.local.evil/edge/fra",
            "spiffe://evil/edge/fra",
            "spiffe://tidegate.local/operator/fra",
            "spiffe://tidegate.local/edge",
            "spiffe://tidegate.local/edge/",
            "https://tidegate.local/edge/fra",
        ] {
            assert!(matches!(ask(Some(uri), true, "fra"), Err(Refusal::Foreign(..))), "{uri}");
        }
    }

    #[test]
    fn unknown_and_deleting_sites_are_refused_in_words() {
        assert_eq!(ask(None, true, "nowhere").unwrap_err().to_string(), "there is no Site \"nowhere\"");
        assert_eq!(ask(None, true, "old").unwrap_err().to_string(), "Site \"old\" is being deleted");
        assert_eq!(ask(None, true, ""), Err(Refusal::NoSite));
    }

    #[test]
    fn operators_are_told_from_proxies() {
        let ask = |uri: &str| principal(&Peer { spiffe: Some(uri.into()), loopback: true }, DOMAIN, false);
        assert_eq!(ask("spiffe://tidegate.local/operator/ada"), Ok(Principal::Operator("ada".into())));
        assert_eq!(ask("spiffe://tidegate.local/control-plane/a"), Ok(Principal::ControlPlane("a".into())));
        assert!(ask("spiffe://tidegate.local/edge/fra").is_err());
        assert_eq!(principal(&Peer { spiffe: None, loopback: true }, DOMAIN, false), Ok(Principal::Unproven));
        assert_eq!(principal(&Peer::default(), DOMAIN, false), Err(Refusal::Unproven));
    }
}

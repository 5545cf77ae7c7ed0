//! The verdicts in Gateway API's own words: `status.parents[]` of a route, `status.listeners[]` of a Gateway.
//!
//! They follow from the objects alone; what proxies have acknowledged (`Programmed`) is added by the status module.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    catalog::Stored,
    compile::reader::Reader,
    model::{AllowedKinds, HttpRouteSpec, Kind, ListenerProtocol, ObjectRef, ParentRef, Role, RouteRule},
};

use super::{
    attach,
    ports::{Bound, Conflict, GATEWAY_CLASS, port, ports_at},
    references::{self, BadReference},
    routes::{mirrors, section},
};

/// One condition, in Kubernetes' shape without times and generations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Its type, e.g. `Accepted`.
    pub kind: &'static str,
    /// `True` or `False`.
    pub status: bool,
    /// A CamelCase word.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

/// `status.parents[]` of an HTTPRoute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteParent {
    /// The parent, as the route names it.
    pub parent: ParentRef,
    /// `Accepted`, `ResolvedRefs`.
    pub conditions: Vec<Condition>,
}

/// `status.listeners[]` of a Gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerStatus {
    /// The listener's name.
    pub name: String,
    /// Kinds of route that it takes: `HTTPRoute` or none.
    pub supported_kinds: Vec<&'static str>,
    /// How many routes attach to it.
    pub attached_routes: usize,
    /// `Accepted`, `Conflicted`, `ResolvedRefs`.
    pub conditions: Vec<Condition>,
}

/// A listener that is not served somewhere: why, to whom it lost, and at which sites.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lost {
    pub(crate) conflict: Conflict,
    pub(crate) winner: (ObjectRef, String),
    pub(crate) sites: Vec<String>,
}

impl Lost {
    pub(crate) fn message(&self, bound_port: u16) -> String {
        let (gateway, listener) = &self.winner;
        let what = match self.conflict {
            Conflict::Protocol => "speaks another protocol on",
            Conflict::Hostname => "has the same host name on",
        };
        format!(
            "not served at {}: listener {listener:?} of {gateway}, which is older, {what} port {bound_port}; \
             choose another port or host name",
            self.sites.join(", ")
        )
    }
}

/// Which listeners lost a conflict at some site. Found once for a whole answer, since it looks at every edge site.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conflicts {
    lost: BTreeMap<(ObjectRef, String), Lost>,
    /// At how many sites each Gateway stands.
    sites: BTreeMap<ObjectRef, usize>,
}

impl Conflicts {
    /// Looks at every edge site.
    pub fn find(reader: &Reader) -> Self {
        let mut all = Self::default();
        for site in reader.all(Kind::Site) {
            let Some(spec) = site.site().filter(|spec| spec.role == Role::Edge) else { continue };
            let mut standing: BTreeSet<ObjectRef> = BTreeSet::new();
            for (number, gateways) in ports_at(site, spec, reader) {
                for (loser, conflict, winner) in port(&gateways, number, reader).conflicted {
                    let name = |bound: &Bound| ((*bound.gateway.reference).clone(), bound.listener.name.clone());
                    let lost = all.lost.entry(name(&loser)).or_insert_with(|| Lost {
                        conflict,
                        winner: name(&winner),
                        sites: Vec::new(),
                    });
                    lost.sites.push(site.reference.name.clone());
                }
                standing.extend(gateways.iter().map(|(ns, name)| ObjectRef::new(Kind::Gateway, ns, name)));
            }
            for gateway in standing {
                *all.sites.entry(gateway).or_default() += 1;
            }
        }
        all
    }

    /// The Gateways of which the two say something else.
    pub(crate) fn differ(&self, other: &Self) -> BTreeSet<ObjectRef> {
        let lost = |a: &Self, b: &Self| -> Vec<ObjectRef> {
            let differ = a.lost.iter().filter(|(name, lost)| b.lost.get(*name) != Some(lost));
            let moved = a.sites.iter().filter(|(gateway, count)| b.sites.get(*gateway) != Some(count));
            differ.map(|((gateway, _), _)| gateway).chain(moved.map(|(gateway, _)| gateway)).cloned().collect()
        };
        lost(self, other).into_iter().chain(lost(other, self)).collect()
    }

    pub(crate) fn of(&self, gateway: &ObjectRef, listener: &str) -> Option<&Lost> {
        self.lost.get(&(gateway.clone(), listener.to_owned()))
    }

    /// Whether a listener is served at no site because it lost at each.
    pub(crate) fn everywhere(&self, bound: &Bound) -> bool {
        let gateway = &bound.gateway.reference;
        self.of(gateway, &bound.listener.name).is_some_and(|lost| Some(&lost.sites.len()) == self.sites.get(&**gateway))
    }
}

fn condition(kind: &'static str, status: bool, reason: &'static str, message: impl Into<String>) -> Condition {
    Condition { kind, status, reason, message: message.into() }
}

fn resolved(bad: &[BadReference]) -> Condition {
    match bad.first() {
        None => condition("ResolvedRefs", true, "ResolvedRefs", "every reference leads somewhere"),
        Some(first) => {
            let words: Vec<&str> = bad.iter().map(|bad| bad.message.as_str()).collect();
            condition("ResolvedRefs", false, first.reason, words.join("; "))
        }
    }
}

/// `status.parents[]` of a route: an entry for each parent but those of foreign Gateway classes, which are others'.
pub fn route_parents(route: &Stored, conflicts: &Conflicts, reader: &Reader) -> Vec<RouteParent> {
    let Some(spec) = route.http_route() else { return Vec::new() };
    let references = resolved(&bad_references(&route.reference, spec, reader));
    spec.parents
        .iter()
        .filter(|parent| {
            reader.gateway(&parent.namespace, &parent.name).is_none_or(|(_, gateway)| gateway.class == GATEWAY_CLASS)
        })
        .map(|parent| {
            let accepted = match refusal(route, spec, parent, conflicts, reader) {
                None => condition("Accepted", true, "Accepted", "a listener takes the route"),
                Some(BadReference { reason, message }) => condition("Accepted", false, reason, message),
            };
            RouteParent { parent: parent.clone(), conditions: vec![accepted, references.clone()] }
        })
        .collect()
}

/// Why a parent does not take the route; `None`: a listener of it does. A foreign Gateway is asked nothing.
pub(crate) fn refusal(
    route: &Stored,
    spec: &HttpRouteSpec,
    parent: &ParentRef,
    conflicts: &Conflicts,
    reader: &Reader,
) -> Option<BadReference> {
    let refuse = |reason, message| Some(BadReference { reason, message });
    let at = format!("Gateway {}/{}", parent.namespace, parent.name);
    let Some((gateway, gateway_spec)) = reader.gateway(&parent.namespace, &parent.name) else {
        return refuse("NoMatchingParent", format!("there is no {at}"));
    };
    let bound = |listener| Bound { gateway, listener };
    let meant: Vec<Bound> =
        gateway_spec.listeners.iter().filter(|listener| attach::means(parent, listener)).map(bound).collect();
    if meant.is_empty() {
        let names: Vec<&str> = gateway_spec.listeners.iter().map(|listener| listener.name.as_str()).collect();
        return refuse(
            "NoMatchingParent",
            format!("no listener of {at} has this sectionName and port; it has {}", names.join(", ")),
        );
    }
    let namespace = &route.reference.namespace;
    let allowed: Vec<Bound> = meant.into_iter().filter(|bound| attach::allows(bound, namespace, reader)).collect();
    if allowed.is_empty() {
        return refuse(
            "NotAllowedByListeners",
            format!("no listener of {at} allows HTTPRoutes of namespace {namespace} (allowedRoutes)"),
        );
    }
    let fitting: Vec<&Bound> =
        allowed.iter().filter(|bound| !attach::hostnames(bound.hostname(), spec).is_empty()).collect();
    if fitting.is_empty() {
        let theirs: Vec<&str> = allowed.iter().map(Bound::hostname).collect();
        return refuse(
            "NoMatchingListenerHostname",
            format!("{} and {} of {at} have no host in common", spec.hostnames.join(", "), theirs.join(", ")),
        );
    }
    if fitting.iter().all(|bound| conflicts.everywhere(bound)) {
        return refuse("NoMatchingParent", format!("the listener of {at} is in conflict with another and not served"));
    }
    None
}

/// The references of a route that lead nowhere, each with its place in the object.
pub(crate) fn bad_references(route: &ObjectRef, spec: &HttpRouteSpec, reader: &Reader) -> Vec<BadReference> {
    let in_rule = |(index, rule): (usize, &RouteRule)| {
        let place = section(index, rule);
        let shares = rule.backends.iter().enumerate().map(|(at, backend)| {
            let consequence = "its share of requests is answered with 500";
            (format!("{place}, backendRefs[{at}]"), backend, consequence)
        });
        let mirrors = mirrors(rule).map(|mirror| (format!("{place}, mirror"), mirror, "nothing is mirrored"));
        let found: Vec<BadReference> = shares
            .chain(mirrors)
            .filter_map(|(place, backend, consequence)| {
                let BadReference { reason, message } = references::backend(route, backend, reader).err()?;
                Some(BadReference { reason, message: format!("{place}: {message}; {consequence}") })
            })
            .collect();
        found
    };
    spec.rules.iter().enumerate().flat_map(in_rule).collect()
}

/// The certificate references of a listener that lead nowhere.
pub(crate) fn bad_certificates(bound: &Bound, reader: &Reader) -> Vec<BadReference> {
    let ListenerProtocol::Https { certificates } = &bound.listener.protocol else { return Vec::new() };
    certificates
        .iter()
        .filter_map(|name| references::certificate(&bound.gateway.reference, name, reader).err())
        .collect()
}

/// `status.listeners[]` of a Gateway; empty for a foreign class.
pub fn gateway_listeners(gateway: &Stored, conflicts: &Conflicts, reader: &Reader) -> Vec<ListenerStatus> {
    let Some(spec) = gateway.gateway().filter(|spec| spec.class == GATEWAY_CLASS) else { return Vec::new() };
    spec.listeners
        .iter()
        .map(|listener| {
            let bound = Bound { gateway, listener };
            let lost = conflicts.of(&gateway.reference, &listener.name);
            let mut conditions = match lost {
                None => vec![
                    condition("Accepted", true, "Accepted", "the listener is well formed"),
                    condition("Conflicted", false, "NoConflicts", "no other listener is in its way"),
                ],
                Some(lost) => vec![
                    condition("Accepted", false, lost.conflict.reason(), lost.message(listener.port)),
                    condition("Conflicted", true, lost.conflict.reason(), lost.message(listener.port)),
                ],
            };
            let mut bad = bad_certificates(&bound, reader);
            if listener.allowed_kinds == AllowedKinds::None {
                let message = "only HTTPRoutes are served, and it allows none".into();
                bad.push(BadReference { reason: "InvalidRouteKinds", message });
            }
            conditions.push(resolved(&bad));
            ListenerStatus {
                name: listener.name.clone(),
                supported_kinds: match listener.allowed_kinds {
                    AllowedKinds::HttpRoute => vec![Kind::HttpRoute.as_str()],
                    AllowedKinds::None => Vec::new(),
                },
                attached_routes: if conflicts.everywhere(&bound) { 0 } else { attach::attached(&bound, reader).len() },
                conditions,
            }
        })
        .collect()
}

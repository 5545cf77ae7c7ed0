//! EnvoyResources: which stand at a site, and which of several that want one name, or an address, are served.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::{
    catalog::Stored,
    compile::reader::Reader,
    model::{EnvoyResourceSpec, Kind, ObjectRef, Role, Severity, SiteSpec},
    xds::ResourceType,
};

use super::ports::ports_at;

/// A resource as it is written.
#[derive(Clone, Debug, PartialEq)]
pub struct RawPlan {
    /// The EnvoyResource.
    pub source: ObjectRef,
    /// What it says.
    pub spec: EnvoyResourceSpec,
}

/// What the EnvoyResource `object` says, if that is the resource of this type and name.
pub fn raw(kind: ResourceType, name: &str, object: &str, reader: &Reader) -> Option<RawPlan> {
    let stored = reader.object(&ObjectRef::new(Kind::EnvoyResource, "", object))?;
    let spec = stored.envoy_resource().filter(|spec| of_type(spec) == Some(kind) && spec.name == name)?;
    Some(RawPlan { source: (*stored.reference).clone(), spec: spec.clone() })
}

fn of_type(spec: &EnvoyResourceSpec) -> Option<ResourceType> {
    ResourceType::from_url(&spec.type_url)
}

/// An EnvoyResource of a site.
pub(crate) struct Standing<'a> {
    pub(crate) kind: ResourceType,
    pub(crate) stored: &'a Stored,
    pub(crate) spec: &'a EnvoyResourceSpec,
    /// Why it is not served there: what has its name or address.
    pub(crate) lost: Option<String>,
}

/// The EnvoyResources that choose a site in service. Of two that want one name or address that one is served that has an
/// accepted copy; then the oldest; and neither where something generated has it.
pub(crate) fn raw_at<'a>(site: &Stored, spec: &SiteSpec, reader: &Reader<'a>) -> Vec<Standing<'a>> {
    if !super::in_service(spec) {
        return Vec::new();
    }
    let mut standing: Vec<Standing> = reader
        .all(Kind::EnvoyResource)
        .filter_map(|stored| {
            let raw = stored.envoy_resource()?;
            chooses(raw, site, spec).then_some(Standing { kind: of_type(raw)?, stored, spec: raw, lost: None })
        })
        .collect();
    if standing.is_empty() {
        return standing;
    }
    standing.sort_by_key(|s| (!s.stored.accepted, s.stored.create_revision, &s.stored.reference));
    let mut names: BTreeMap<(ResourceType, &str), &Stored> = BTreeMap::new();
    let mut taken: Vec<(IpAddr, u16, String)> = generated(site, spec, reader);
    for one in &mut standing {
        let older = names.get(&(one.kind, one.spec.name.as_str()));
        let meets = |(ip, port): &(IpAddr, u16)| {
            taken.iter().find(|(other, number, _)| number == port && (other == ip || wide(other) || wide(ip)))
        };
        one.lost = match (older, one.spec.binds.iter().find_map(meets)) {
            (Some(older), _) => {
                Some(format!("{}, which goes before it, has the name {:?}", older.reference, one.spec.name))
            }
            (None, Some((ip, port, who))) => Some(format!("{who} listens on {ip}:{port}")),
            (None, None) => None,
        };
        if one.lost.is_none() {
            names.insert((one.kind, one.spec.name.as_str()), one.stored);
            let who = one.stored.reference.to_string();
            taken.extend(one.spec.binds.iter().map(|(ip, port)| (*ip, *port, who.clone())));
        }
    }
    standing
}

fn chooses(raw: &EnvoyResourceSpec, site: &Stored, spec: &SiteSpec) -> bool {
    let labels = &site.object.metadata.labels;
    raw.roles.contains(&spec.role) && raw.sites.as_ref().is_none_or(|sites| sites.matches(labels))
}

fn wide(ip: &IpAddr) -> bool {
    ip.is_unspecified()
}

/// What the generated listeners of a site bind.
fn generated(site: &Stored, spec: &SiteSpec, reader: &Reader) -> Vec<(IpAddr, u16, String)> {
    match spec.role {
        Role::Edge => {
            let ports = ports_at(site, spec, reader).into_iter();
            ports.map(|(port, gateways)| (spec.bind_address, port, gateway(&gateways))).collect()
        }
        Role::Core | Role::Grpc => {
            let plan = super::core_listener(&site.reference.name, reader).into_iter();
            plan.map(|plan| (plan.bind, plan.port, "the core's own listener".to_owned())).collect()
        }
    }
}

fn gateway(gateways: &BTreeSet<(String, String)>) -> String {
    let first = gateways.first().map(|(namespace, name)| ObjectRef::new(Kind::Gateway, namespace, name));
    first.map(|gateway| gateway.to_string()).unwrap_or_default()
}

/// What is wrong between an EnvoyResource and what it meets.
pub(super) fn problems(
    stored: &Stored,
    spec: &EnvoyResourceSpec,
    reader: &Reader,
    add: &mut impl FnMut(Severity, &str, String),
) {
    let mut stands = false;
    let mut lost: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for site in reader.all(Kind::Site) {
        let Some(place) = site.site().filter(|place| chooses(spec, site, place)) else { continue };
        let standing = raw_at(site, place, reader);
        let Some(own) = standing.into_iter().find(|one| one.stored.reference == stored.reference) else { continue };
        stands = true;
        if let Some(why) = own.lost {
            lost.entry(why).or_default().push(&site.reference.name);
        }
    }
    if !stands {
        let message = "no Site in service is chosen (spec.roles, spec.sites)".to_owned();
        add(Severity::Warning, "NoMatchingSite", message);
    }
    for (why, sites) in lost {
        let message = format!("not served at {}: {why}; choose another, or other sites", sites.join(", "));
        add(Severity::Error, "Conflicted", message);
    }
}

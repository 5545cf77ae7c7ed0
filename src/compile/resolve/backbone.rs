//! Core sites: the groups in which edges reach them, the services and endpoints that stand at each.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use crate::{
    catalog::Stored,
    compile::{
        plan::{CoreListenerPlan, EndpointsPlan, GroupPlan, GroupSite, ServiceClusterPlan},
        reader::Reader,
    },
    model::{Coordinates, Endpoint, Kind, ObjectRef, Revision, Role, ServicePort, SiteSpec, SiteState},
    xds::NeedAt,
};

/// Groups of services without a SteeringPolicy.
const PREFIX: &str = "backbone/-/";
/// Longer lists of sites are named by their hash.
const LONGEST_SITES: usize = 200;
/// Where a group of no site stands in place of one; no Site can be called so.
const NO_SITES: &str = "-";

/// Whether a site serves.
pub(crate) fn in_service(site: &SiteSpec) -> bool {
    site.state == SiteState::Active
}

/// The core sites in service that have an EndpointSet of a Service, with live endpoints or without, each with the age
/// of the oldest.
fn core_sites(service: &ObjectRef, reader: &Reader) -> BTreeMap<String, Revision> {
    let mut sites: BTreeMap<String, Revision> = BTreeMap::new();
    for set in reader.placements(service) {
        if reader.serving(set.site) == Some(Role::Core) {
            let age = sites.entry(set.site.to_owned()).or_insert(set.since);
            *age = set.since.min(*age);
        }
    }
    sites
}

/// The name of the group of these sites.
fn group_name(sites: &BTreeSet<String>) -> String {
    if sites.is_empty() {
        return format!("{PREFIX}{NO_SITES}");
    }
    let joined = sites.iter().map(String::as_str).collect::<Vec<_>>().join("+");
    if joined.len() <= LONGEST_SITES {
        return format!("{PREFIX}{joined}");
    }
    let hash = blake3::hash(joined.as_bytes()).to_hex();
    format!("{PREFIX}hash-{}", hash.as_str().get(..16).unwrap_or_default())
}

/// The group in which edges reach a Service, and since which revision it can be served at each of the group's sites.
/// Its last write counts, since that may have brought a port.
pub(crate) fn reached(service: &Stored, reader: &Reader) -> (String, Vec<NeedAt>) {
    let sites = core_sites(&service.reference, reader);
    let group = group_name(&sites.keys().cloned().collect());
    let need = |(site, age): (String, Revision)| NeedAt { site: site.into(), revision: age.max(service.mod_revision) };
    (group, sites.into_iter().map(need).collect())
}

/// The sites of the group `name`. A hashed name says them only by the services that are in it.
fn sites_of(name: &str, reader: &Reader) -> BTreeSet<String> {
    let Some(sites) = name.strip_prefix(PREFIX) else { return BTreeSet::new() };
    if sites == NO_SITES {
        return BTreeSet::new();
    }
    if !sites.starts_with("hash-") || reader.site(sites).is_some() {
        return sites.split('+').map(str::to_owned).collect();
    }
    let services: BTreeSet<ObjectRef> =
        reader.all_placements().map(|set| ObjectRef::new(Kind::Service, &set.set.namespace, set.service)).collect();
    services
        .iter()
        .map(|service| core_sites(service, reader).into_keys().collect())
        .find(|sites| group_name(sites) == name)
        .unwrap_or_default()
}

/// The group `name` as the edge `edge` sees it: nearest core site first, those of unknown distance last, ties by name.
/// Sites that are gone or go are left out.
pub fn group(name: &str, edge: &str, reader: &Reader) -> GroupPlan {
    let from = reader.site(edge).and_then(|(_, site)| site.coordinates);
    let mut sites: Vec<GroupSite> = sites_of(name, reader)
        .iter()
        .filter_map(|site| reader.site(site))
        .filter(|(_, site)| site.role == Role::Core && in_service(site))
        .map(|(stored, site)| {
            let mut gateways = site.gateways.clone();
            gateways.sort_unstable();
            gateways.dedup();
            GroupSite {
                source: (*stored.reference).clone(),
                region: site.region.clone(),
                zone: site.zone.clone(),
                gateways,
                km: from.zip(site.coordinates).map(|(a, b)| kilometres(a, b)),
                health_check_interval: site.health_check_interval,
            }
        })
        .collect();
    sites.sort_by(|a, b| (a.km.is_none(), a.km, &a.source.name).cmp(&(b.km.is_none(), b.km, &b.source.name)));
    GroupPlan { name: name.to_owned(), sites }
}

/// Great-circle distance in whole kilometres (haversine, mean radius 6,371 km). Whole, so that the last bits of
/// floating point cannot order sites differently on two replicas.
fn kilometres(a: Coordinates, b: Coordinates) -> u32 {
    let (lat_a, lat_b) = (a.latitude.to_radians(), b.latitude.to_radians());
    let d_lat = (lat_b - lat_a) / 2.0;
    let d_lon = (b.longitude - a.longitude).to_radians() / 2.0;
    let h = d_lat.sin().powi(2) + lat_a.cos() * lat_b.cos() * d_lon.sin().powi(2);
    let km = 2.0 * 6371.0 * h.clamp(0.0, 1.0).sqrt().asin();
    // At most half the circumference, about 20,015; never negative or NaN for coordinates that are numbers.
    km.round() as u32
}

/// `<ns>/<service>:<port>`, taken apart.
fn service_port(name: &str) -> Option<(&str, &str, u16)> {
    let (namespace, rest) = name.split_once('/')?;
    let (service, port) = rest.rsplit_once(':')?;
    Some((namespace, service, port.parse().ok()?))
}

/// The service port `name` at any core; `None`: there is no such Service or port.
pub fn service_cluster(name: &str, reader: &Reader) -> Option<ServiceClusterPlan> {
    let (namespace, service, number) = service_port(name)?;
    let (stored, spec) = reader.service(namespace, service)?;
    let port = spec.ports.iter().find(|port| port.port == number)?.clone();
    Some(ServiceClusterPlan { name: name.to_owned(), source: (*stored.reference).clone(), spec: spec.clone(), port })
}

/// The endpoints of the service port `name` at a site; `None`: no such site, Service or port, or no EndpointSet there,
/// without which live endpoints do not count. An address that stands twice counts once: the static one first, then by
/// id.
pub fn endpoints(name: &str, site: &str, reader: &Reader) -> Option<EndpointsPlan> {
    let (namespace, service, number) = service_port(name)?;
    let (stored, spec) = reader.service(namespace, service)?;
    let port = spec.ports.iter().find(|port| port.port == number)?;
    let (region, zone) = reader.place(site)?;
    let mut sources = Vec::new();
    let mut found: BTreeMap<SocketAddr, u32> = BTreeMap::new();
    let mut add = |endpoint: &Endpoint| {
        found.entry(address(endpoint, port, spec.ports.len())).or_insert(endpoint.weight.max(1));
    };
    for set in reader.placements(&stored.reference).filter(|set| set.site == site) {
        let Some((_, held)) = reader.endpoint_set(set.set) else { continue };
        sources.push(set.set.clone());
        held.endpoints.iter().for_each(&mut add);
    }
    if sources.is_empty() {
        return None;
    }
    if let Some(live) = reader.live_endpoints(site, &stored.reference) {
        live.values().for_each(&mut add);
    }
    Some(EndpointsPlan {
        name: name.to_owned(),
        region: region.to_owned(),
        zone: zone.to_owned(),
        site: site.to_owned(),
        endpoints: found.into_iter().collect(),
        sources,
    })
}

/// Where an endpoint listens for one of its service's ports.
fn address(endpoint: &Endpoint, port: &ServicePort, ports: usize) -> SocketAddr {
    let mut address = endpoint.address;
    if let Some(number) = endpoint.ports.get(&port.name).filter(|_| ports > 1) {
        address.set_port(*number);
    }
    address
}

/// The backbone listener of a core site; `None`: no such core in service, or it lists no gateways, so that no edge
/// could reach it.
pub fn core_listener(site: &str, reader: &Reader) -> Option<CoreListenerPlan> {
    let (stored, spec) = reader.site(site)?;
    let gateway = spec.gateways.first().filter(|_| spec.role == Role::Core && in_service(spec))?;
    Some(CoreListenerPlan {
        source: (*stored.reference).clone(),
        bind: spec.bind_address,
        port: gateway.port(),
        trust_domain: reader.fleet().trust_domain,
    })
}

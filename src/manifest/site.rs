//! `Fleet` and `Site`.

use std::time::Duration;

use super::{
    text,
    walk::{At, distinct},
};
use crate::model::{Coordinates, FleetSpec, Role, SiteKind, SiteSpec, SiteState};

pub(super) fn read_fleet(at: &At<'_>) -> Option<FleetSpec> {
    let fields = at.fields(&["trustDomain", "drainTime"])?;
    let mut fleet = FleetSpec::default();
    if let Some(domain) = fields.get("trustDomain").and_then(|at| at.checked(text::subdomain)) {
        fleet.trust_domain = domain.to_owned();
    }
    if let Some(at) = fields.get("drainTime")
        && let Some(time) = at.parsed(text::some_duration)
    {
        if time.subsec_nanos() != 0 {
            at.fault("Envoy's drain time (--drain-time-s) counts whole seconds: write for example 600s");
        }
        fleet.drain_time = time;
    }
    Some(fleet)
}

pub(super) fn read_site(at: &At<'_>) -> Option<SiteSpec> {
    let fields = at.fields(&[
        "role",
        "region",
        "zone",
        "coordinates",
        "kind",
        "provider",
        "gateways",
        "bindAddress",
        "healthCheckInterval",
        "state",
    ])?;
    let role = fields.need("role").and_then(|at| at.word(&[("edge", Role::Edge), ("core", Role::Core)]));
    let region = fields.need("region").and_then(|at| at.checked(text::label)).unwrap_or_default();
    let zone = fields.get("zone").and_then(|at| at.checked(text::label)).unwrap_or_default();
    let coordinates = fields.get("coordinates").and_then(|at| {
        let fields = at.fields(&["latitude", "longitude"])?;
        let latitude = fields.need("latitude").and_then(|at| at.fraction(-90.0, 90.0));
        let longitude = fields.need("longitude").and_then(|at| at.fraction(-180.0, 180.0));
        Some(Coordinates { latitude: latitude?, longitude: longitude? })
    });
    let kinds = [("Own", SiteKind::Own), ("ThirdParty", SiteKind::ThirdParty), ("Cloud", SiteKind::Cloud)];
    let states = [("Active", SiteState::Active), ("Deleting", SiteState::Deleting)];
    let kind = fields.get("kind").and_then(|at| at.word(&kinds)).unwrap_or_default();
    let state = fields.get("state").and_then(|at| at.word(&states)).unwrap_or_default();
    let provider = fields.get("provider").and_then(|at| at.checked(text::line)).unwrap_or_default();
    let gateways: Vec<_> =
        fields.items("gateways", 256).into_iter().filter_map(|at| Some((at.parsed(text::socket)?, at))).collect();
    distinct(gateways.iter().map(|(address, at)| (*address, at.clone())), "this address");
    if let Some((first, _)) = gateways.first() {
        for (address, at) in gateways.iter().filter(|(address, _)| address.port() != first.port()) {
            at.fault(format!("all gateways of a site share one port: {} is not {}", address.port(), first.port()));
        }
    }
    match role {
        Some(Role::Edge) if !gateways.is_empty() => {
            fields.at.fault("an edge site has no `gateways` (they are what edges reach at a core): remove them");
        }
        Some(Role::Core) if gateways.is_empty() => {
            fields.at.warn("without `gateways` no edge reaches this site");
        }
        _ => {}
    }
    let bind_address = fields
        .get("bindAddress")
        .and_then(|at| at.parsed(|t| t.parse().map_err(|_| "is not an IP address, for example 0.0.0.0".to_owned())))
        .unwrap_or(std::net::Ipv4Addr::UNSPECIFIED.into());
    let health_check_interval = fields
        .get("healthCheckInterval")
        .and_then(|at| at.parsed(text::some_duration))
        .unwrap_or(Duration::from_secs(2));
    Some(SiteSpec {
        role: role?,
        region: region.to_owned(),
        zone: zone.to_owned(),
        coordinates,
        kind,
        provider: provider.to_owned(),
        gateways: gateways.into_iter().map(|(address, _)| address).collect(),
        bind_address,
        health_check_interval,
        state,
    })
}

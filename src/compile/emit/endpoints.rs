//! EDS: where clusters are. Valid by construction.

use std::net::SocketAddr;

use envoy_types::pb::envoy::config::{
    core::v3::Locality,
    endpoint::v3::{ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint::HostIdentifier},
};

use super::{
    Contributions, finish,
    sources::Sources,
    wire::{address, number},
};
use crate::{
    compile::plan::{EndpointsPlan, GroupPlan},
    xds::{Resource, ResourceType},
};

/// One endpoint; a weight of 0 would be refused.
pub(super) fn endpoint(at: SocketAddr, weight: u32) -> LbEndpoint {
    LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(Endpoint {
            address: Some(address(at.ip(), at.port())),
            ..Default::default()
        })),
        load_balancing_weight: number(weight.max(1)),
        ..Default::default()
    }
}

/// The gateways of a backbone group: one locality per core site, one priority each, nearest first. Envoy leaves a
/// priority in proportion as its hosts fail, beyond its default over-provisioning of 1.4.
pub fn group_endpoints(plan: &GroupPlan) -> Resource {
    let localities = plan.sites.iter().zip(0u32..).map(|(site, priority)| LocalityLbEndpoints {
        locality: Some(Locality {
            region: site.region.clone(),
            zone: site.zone.clone(),
            sub_zone: site.source.name.clone(),
        }),
        lb_endpoints: site.gateways.iter().map(|at| endpoint(*at, 1)).collect(),
        load_balancing_weight: number(1),
        priority,
        ..Default::default()
    });
    let message = ClusterLoadAssignment {
        cluster_name: plan.name.clone(),
        endpoints: localities.collect(),
        ..Default::default()
    };
    let mut contributions = Sources::default();
    for (site, priority) in plan.sites.iter().zip(0u32..) {
        let part = format!("{priority} {} {} {:?}", site.region, site.zone, site.gateways);
        contributions.add(&site.source, part.as_bytes());
    }
    let sources = Contributions::Each(contributions.finish());
    finish(ResourceType::Endpoints, &plan.name, &message, Vec::new(), Vec::new(), sources)
}

/// The endpoints of a service port at one core site; an empty assignment is one: the core refuses then.
pub fn service_endpoints(plan: &EndpointsPlan) -> Resource {
    let locality = LocalityLbEndpoints {
        locality: Some(Locality { region: plan.region.clone(), zone: plan.zone.clone(), sub_zone: plan.site.clone() }),
        lb_endpoints: plan.endpoints.iter().map(|(at, weight)| endpoint(*at, *weight)).collect(),
        load_balancing_weight: number(1),
        ..Default::default()
    };
    let message = ClusterLoadAssignment {
        cluster_name: plan.name.clone(),
        endpoints: if plan.endpoints.is_empty() { Vec::new() } else { vec![locality] },
        ..Default::default()
    };
    let sources = Contributions::Whole(&plan.sources);
    finish(ResourceType::Endpoints, &plan.name, &message, Vec::new(), Vec::new(), sources)
}

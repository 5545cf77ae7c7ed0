//! `top`: what proxies report of their load.

use std::time::Instant;

use super::Context;
use crate::{
    feedback::load,
    rpc::{ClusterLoad, DestinationLoad, LoadRequest, LoadResponse},
};

/// The load of every site, or of one, the busiest clusters first.
pub(super) fn load(context: &Context, request: &LoadRequest) -> LoadResponse {
    let loads = &context.feedback.loads;
    let mut clusters = loads.clusters(Instant::now());
    clusters.retain(|cluster| request.site.is_empty() || *cluster.site == *request.site);
    clusters.sort_by(|a, b| b.rates().issued.total_cmp(&a.rates().issued));
    LoadResponse {
        clusters: clusters.iter().map(row).collect(),
        interval_ms: u32::try_from(loads.interval().as_millis()).unwrap_or(u32::MAX),
    }
}

fn row(load: &load::ClusterLoad) -> ClusterLoad {
    let destination = |(to, totals, rates): &(load::Destination, load::Totals, load::Rates)| DestinationLoad {
        region: to.region.to_string(),
        zone: to.zone.to_string(),
        site: to.site.to_string(),
        requests: totals.issued,
        errors: totals.failed,
        in_progress: rates.in_progress,
        requests_per_second: rates.issued,
        errors_per_second: rates.failed,
    };
    ClusterLoad {
        site: load.site.to_string(),
        role: load.role.as_str().to_owned(),
        cluster: load.cluster.to_string(),
        destinations: load.to.iter().map(destination).collect(),
        dropped: load.dropped,
        dropped_per_second: load.dropping,
        proxies: u32::try_from(load.proxies()).unwrap_or(u32::MAX),
    }
}

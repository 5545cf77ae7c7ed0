//! The words of the peer RPC and those of `status`, into one another.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    model::{ObjectRef, Revision},
    rpc,
    status::{Laggard, SiteReport, Standing},
    xds::ResourceType,
};

/// What one replica says of its proxies, by site.
pub type SiteReports = BTreeMap<Arc<str>, SiteReport>;

pub(super) fn object(reference: &ObjectRef) -> rpc::ObjectRef {
    rpc::ObjectRef {
        kind: reference.kind.to_string(),
        namespace: reference.namespace.clone(),
        name: reference.name.clone(),
    }
}

/// A laggard on the wire.
pub fn laggard(laggard: Laggard) -> rpc::Laggard {
    rpc::Laggard {
        proxy: laggard.proxy,
        site: laggard.site,
        r#type: laggard.kind.short().to_owned(),
        resource: laggard.resource,
        error: laggard.error,
    }
}

/// A standing on the wire.
pub fn standing(standing: Standing) -> rpc::Standing {
    rpc::Standing {
        total: standing.total,
        acked: standing.acked,
        nacked: standing.nacked,
        pending: standing.pending,
        laggards: standing.laggards.into_iter().map(laggard).collect(),
    }
}

/// The inverse of [`standing`]; a laggard of a type that this version does not know is counted, not named.
pub(super) fn standing_from(standing: rpc::Standing) -> Standing {
    let laggard = |l: rpc::Laggard| {
        let kind = ResourceType::parse(&l.r#type)?;
        Some(Laggard { proxy: l.proxy, site: l.site, kind, resource: l.resource, error: l.error })
    };
    Standing {
        total: standing.total,
        acked: standing.acked,
        nacked: standing.nacked,
        pending: standing.pending,
        laggards: standing.laggards.into_iter().filter_map(laggard).collect(),
    }
}

/// A replica's report on the wire.
pub fn site_reports(reports: &SiteReports) -> Vec<rpc::SiteReport> {
    let report = |(site, report): (&Arc<str>, &SiteReport)| rpc::SiteReport {
        site: site.to_string(),
        gateways: report.gateways,
        counted: report.counted,
        revision: report.revision.map(|revision| revision.0),
        except: report.except.iter().cloned().collect(),
    };
    reports.iter().map(report).collect()
}

/// The inverse of [`site_reports`].
pub(super) fn site_reports_from(reports: Vec<rpc::SiteReport>) -> SiteReports {
    let report = |report: rpc::SiteReport| {
        let (gateways, counted, revision) = (report.gateways, report.counted, report.revision.map(Revision));
        let except = report.except.into_iter().collect();
        (Arc::from(report.site), SiteReport { gateways, counted, revision, except })
    };
    reports.into_iter().map(report).collect()
}

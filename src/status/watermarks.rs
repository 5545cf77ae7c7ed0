//! How far each site has come: what one replica sees of its own proxies, and what that makes of the fleet's watermarks.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    feedback::{Feedback, ProxyView},
    model::{Revision, Role, Watermark, Watermarks},
    snapshot::{Content, Seq, Views},
};

/// What one replica says of a site.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SiteReport {
    /// Gateways that are connected to it.
    pub gateways: u32,
    /// Those of them that have acknowledged everything once on their stream: only they say how far they are.
    pub counted: u32,
    /// The configuration that all counted ones have; none without any.
    pub revision: Option<Revision>,
    /// What some of them refuse, `<type>/<name>`.
    pub except: BTreeSet<String>,
}

/// Another one than before whenever [`watermarks`] may have changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edition(u64, (usize, u64));

impl Edition {
    /// What there is to be seen now, or a little more.
    pub fn of(views: &Views, feedback: &Feedback) -> Self {
        Self(feedback.changes(), views.edition())
    }
}

/// What this replica's own proxies have come to, by site.
pub fn watermarks(views: &Views, feedback: &Feedback) -> BTreeMap<Arc<str>, SiteReport> {
    let mut sites: BTreeMap<Arc<str>, SiteReport> = BTreeMap::new();
    let open: BTreeMap<_, _> = views.all().into_iter().map(|view| (view.audience().clone(), view)).collect();
    for alike in feedback.alike(&|audience, kind, asked, seqs| views.extent(audience, kind, asked, seqs)) {
        let proxy = &alike.one;
        // Who is no gateway says nothing of what gateways have.
        let Some(audience) = proxy.audience.as_ref().filter(|audience| audience.role != Role::Grpc) else { continue };
        let report = sites.entry(Arc::clone(&audience.site)).or_default();
        report.gateways += alike.count();
        let Some(view) = open.get(audience).filter(|_| proxy.complete) else { continue };
        let covered = covered(proxy, &view.read());
        report.counted += alike.count();
        report.revision = Some(report.revision.map_or(covered, |least| least.min(covered)));
        for (kind, state) in &proxy.types {
            report.except.extend(state.parked.keys().map(|name| format!("{}/{name}", kind.short())));
        }
        Watermark::shorten(&mut report.except);
    }
    sites
}

/// The newest configuration of which a proxy has acknowledged everything. What it refuses does not count, it is told
/// apart; a name that is still on its way holds back what came with the first content of it that is not acknowledged.
fn covered(proxy: &ProxyView, content: &Content) -> Revision {
    let mut seq = Seq(u64::MAX);
    for (kind, state) in &proxy.types {
        seq = state.behind.into_iter().fold(seq.min(state.acked), Seq::min);
        let pending = state.pending.iter().filter_map(|name| content.get(*kind, name));
        seq = pending.map(|entry| Seq(entry.content.0.saturating_sub(1))).fold(seq, Seq::min);
    }
    content.covers(seq)
}

/// The fleet's watermarks, given the `stored` ones and what every replica says. The slowest counted gateway decides; a
/// watermark never goes back, and stands still where no gateway counts. Leave nobody out: a replica that cannot be asked
/// may have gateways that are behind.
pub fn merge_watermarks(
    stored: &Watermarks,
    reports: impl IntoIterator<Item = BTreeMap<Arc<str>, SiteReport>>,
) -> Watermarks {
    let mut fleet: BTreeMap<Arc<str>, SiteReport> = BTreeMap::new();
    for (site, report) in reports.into_iter().flatten() {
        let sum = fleet.entry(site).or_default();
        sum.gateways += report.gateways;
        sum.counted += report.counted;
        sum.revision = sum.revision.into_iter().chain(report.revision).min();
        sum.except.extend(report.except);
    }
    let mut merged: Watermarks =
        stored.iter().map(|(site, old)| (Arc::clone(site), Watermark { connected: false, ..old.clone() })).collect();
    for (site, report) in fleet {
        let watermark = merged.entry(site).or_default();
        watermark.connected = report.gateways > 0;
        if let Some(revision) = report.revision {
            watermark.revision = watermark.revision.max(revision);
            watermark.except = report.except;
        }
    }
    merged.values_mut().for_each(|watermark| Watermark::shorten(&mut watermark.except));
    merged
}

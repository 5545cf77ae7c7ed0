//! The load that proxies report, summed by site, cluster and destination. Arithmetic alone: the time is given.
//!
//! Every report carries what happened since the one before, so each is added once, when it is read, and a report that
//! a broken stream swallows is lost: load reports have no acknowledgement. What an edge reports is per backbone group,
//! what a core reports per service; nobody reports what one edge asks of one service.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use dashmap::DashMap;

use super::ProxyId;
use crate::model::Role;

/// Load streams per proxy; hot restart needs two.
const STREAMS_PER_PROXY: usize = 2;
/// A cluster without load is forgotten after this.
const KEPT: Duration = Duration::from_secs(600);
/// Destinations that are told apart in one cluster; what goes to further ones is summed up as one without a name.
const DESTINATIONS_MAX: usize = 256;
/// Bytes of a destination's region, zone or site.
const NAME_MAX: usize = 256;
/// Clusters, over all sites, that [`ClusterLoad::named`] is true for.
const NAMED_MAX: usize = 1_000;
/// More requests in a second than any proxy sends.
const PER_SECOND_MAX: u64 = 10_000_000;
/// A proxy without a control plane reports its whole solitude at once; longer ones are as good as this.
const INTERVAL_MAX: Duration = Duration::from_secs(86_400);

/// Where requests went: a locality of the cluster's assignment. Empty where a proxy does not say.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Destination {
    /// Region.
    pub region: Arc<str>,
    /// Zone.
    pub zone: Arc<str>,
    /// Site.
    pub site: Arc<str>,
}

/// What one proxy sent to one destination of one cluster since its last report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Where to.
    pub to: Destination,
    /// Requests that were begun, retries included.
    pub issued: u64,
    /// Requests that ended well.
    pub succeeded: u64,
    /// Requests that ended badly.
    pub failed: u64,
    /// Requests that are under way now.
    pub in_progress: u64,
}

/// What one proxy reports of one cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterReport {
    /// The cluster's name.
    pub cluster: String,
    /// By destination.
    pub sent: Vec<Sent>,
    /// Requests that the proxy dropped before it chose a destination.
    pub dropped: u64,
    /// How long it took to gather all this.
    pub interval: Duration,
}

/// Why a report is not counted, nor anything more of its stream.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// Two newer streams of the same proxy report.
    #[error("a newer stream of this node took over")]
    Replaced,
    /// More than a proxy can do.
    #[error("cluster {0:?} is reported with more requests than a proxy can send")]
    Implausible(String),
}

/// Sums since the cluster was first reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Requests that were begun.
    pub issued: u64,
    /// Requests that ended well.
    pub succeeded: u64,
    /// Requests that ended badly.
    pub failed: u64,
}

/// By the last report of each proxy.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rates {
    /// Requests begun per second.
    pub issued: f64,
    /// Requests that ended badly, per second.
    pub failed: f64,
    /// Requests under way at the end of the interval.
    pub in_progress: u64,
}

/// What the proxies of a site send to one cluster, as of now.
#[derive(Clone, Debug)]
pub struct ClusterLoad {
    /// The site that sends.
    pub site: Arc<str>,
    /// What those are that send: an edge's clusters are backbone groups, those of others are ports of services.
    pub role: Role,
    /// The cluster.
    pub cluster: Arc<str>,
    /// By destination.
    pub to: Vec<(Destination, Totals, Rates)>,
    /// Dropped requests since it was first reported.
    pub dropped: u64,
    /// Dropped per second.
    pub dropping: f64,
    /// Which streams reported it in their last report.
    streams: BTreeSet<u64>,
    /// Whether it is one of the first clusters, over all sites, that metrics have labels for.
    pub named: bool,
}

impl ClusterLoad {
    /// How many proxies reported it in their last report.
    pub fn proxies(&self) -> usize {
        self.streams.len()
    }

    /// Over all destinations.
    pub fn totals(&self) -> Totals {
        self.to.iter().fold(Totals::default(), |sum, (_, totals, _)| Totals {
            issued: sum.issued.saturating_add(totals.issued),
            succeeded: sum.succeeded.saturating_add(totals.succeeded),
            failed: sum.failed.saturating_add(totals.failed),
        })
    }

    /// Over all destinations.
    pub fn rates(&self) -> Rates {
        self.to.iter().fold(Rates::default(), |sum, (_, _, rates)| Rates {
            issued: sum.issued + rates.issued,
            failed: sum.failed + rates.failed,
            in_progress: sum.in_progress.saturating_add(rates.in_progress),
        })
    }
}

#[derive(Debug)]
struct Cluster {
    to: BTreeMap<Destination, Totals>,
    dropped: u64,
    touched: Instant,
    named: bool,
}

/// The last report of one stream.
#[derive(Debug)]
struct Stream {
    number: u64,
    node: Arc<str>,
    last: Vec<ClusterReport>,
    /// It counts until here.
    until: Option<Instant>,
}

/// The proxies of one role at one site: gRPC clients at a core are not its gateways, though the names of both may be
/// equal, those of nodes and those of clusters.
type Whose = (Arc<str>, Role);

#[derive(Debug, Default)]
struct Site {
    clusters: BTreeMap<Arc<str>, Cluster>,
    streams: Vec<Stream>,
    pruned: Option<Instant>,
}

/// The load of all sites.
#[derive(Debug)]
pub struct Loads {
    interval: Duration,
    sites: DashMap<Whose, Site>,
    streams: AtomicU64,
    named: AtomicUsize,
}

impl Default for Loads {
    /// Reports come every ten seconds.
    fn default() -> Self {
        Self::new(Duration::from_secs(10))
    }
}

impl Loads {
    /// No load yet; each proxy is to report every `interval`.
    pub fn new(interval: Duration) -> Self {
        Self { interval, sites: DashMap::new(), streams: AtomicU64::new(0), named: AtomicUsize::new(0) }
    }

    /// How often a proxy reports.
    pub fn interval(&self) -> Duration {
        self.interval
    }

    /// A stream of load reports begins; what it said last is forgotten with the reporter. A third stream of one proxy
    /// takes the place of its first.
    pub fn open(self: &Arc<Self>, id: &ProxyId, role: Role) -> Reporter {
        let number = self.streams.fetch_add(1, Ordering::Relaxed);
        let whose = (Arc::clone(&id.site), role);
        let mut site = self.sites.entry(whose.clone()).or_default();
        let mut own = site.streams.iter().filter(|s| s.node == id.node).map(|s| s.number);
        let oldest = own.next();
        if let Some(oldest) = oldest.filter(|_| own.count() + 2 > STREAMS_PER_PROXY) {
            site.streams.retain(|s| s.number != oldest);
        }
        site.streams.push(Stream { number, node: Arc::clone(&id.node), last: Vec::new(), until: None });
        Reporter { loads: Arc::clone(self), whose, number }
    }

    /// What every site sends to every cluster, sorted by site, cluster and role.
    pub fn clusters(&self, now: Instant) -> Vec<ClusterLoad> {
        let mut all = Vec::new();
        for mut site in self.sites.iter_mut() {
            let whose = site.key().clone();
            self.prune(site.value_mut(), now);
            all.extend(site.view(&whose, now));
        }
        self.sites.retain(|_, site| !site.clusters.is_empty() || !site.streams.is_empty());
        all.sort_by(|a, b| (&a.site, &a.cluster, a.role).cmp(&(&b.site, &b.cluster, b.role)));
        all
    }

    fn prune(&self, site: &mut Site, now: Instant) {
        site.pruned = Some(now);
        site.clusters.retain(|_, cluster| {
            let keep = now.saturating_duration_since(cluster.touched) < KEPT;
            if !keep && cluster.named {
                self.named.fetch_sub(1, Ordering::Relaxed);
            }
            keep
        });
    }

    /// Whether one more cluster may have a label of its own.
    fn name_one(&self) -> bool {
        let place = |taken| (taken < NAMED_MAX).then_some(taken + 1);
        self.named.fetch_update(Ordering::Relaxed, Ordering::Relaxed, place).is_ok()
    }
}

impl Site {
    fn view(&self, (site, role): &Whose, now: Instant) -> Vec<ClusterLoad> {
        let mut rows: BTreeMap<&str, ClusterLoad> = BTreeMap::new();
        for (name, cluster) in &self.clusters {
            let to = cluster.to.iter().map(|(to, totals)| (to.clone(), *totals, Rates::default())).collect();
            let (dropped, named) = (cluster.dropped, cluster.named);
            let (site, role, cluster) = (Arc::clone(site), *role, Arc::clone(name));
            let row = ClusterLoad { site, role, cluster, to, dropped, dropping: 0.0, streams: BTreeSet::new(), named };
            rows.insert(name, row);
        }
        let fresh = self.streams.iter().filter(|stream| stream.until.is_some_and(|until| now <= until));
        for (number, report) in fresh.flat_map(|stream| stream.last.iter().map(|report| (stream.number, report))) {
            let Some(row) = rows.get_mut(report.cluster.as_str()) else { continue };
            row.streams.insert(number);
            row.dropping += per_second(report.dropped, report.interval);
            for sent in &report.sent {
                let Ok(at) = row.to.binary_search_by(|(to, ..)| to.cmp(&sent.to)) else { continue };
                let Some((.., rates)) = row.to.get_mut(at) else { continue };
                rates.issued += per_second(sent.issued, report.interval);
                rates.failed += per_second(sent.failed, report.interval);
                rates.in_progress = rates.in_progress.saturating_add(sent.in_progress);
            }
        }
        rows.into_values().collect()
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of one interval are far below 2^52")]
fn per_second(count: u64, interval: Duration) -> f64 {
    if interval.is_zero() { 0.0 } else { count as f64 / interval.as_secs_f64() }
}

/// One stream's hold on [`Loads`].
#[derive(Debug)]
pub struct Reporter {
    loads: Arc<Loads>,
    whose: Whose,
    number: u64,
}

impl Reporter {
    /// Adds one message's reports, all or none. Clusters that are not `known` are passed over, unless they were: the
    /// last report of a cluster comes after its removal.
    ///
    /// # Errors
    /// [`Rejected`], after which the stream must end.
    pub fn report(
        &self,
        mut reports: Vec<ClusterReport>,
        known: impl Fn(&str) -> bool,
        now: Instant,
    ) -> Result<(), Rejected> {
        if let Some(wrong) = reports.iter().find(|report| !plausible(report)) {
            return Err(Rejected::Implausible(wrong.cluster.clone()));
        }
        let mut site = self.loads.sites.get_mut(&self.whose).ok_or(Rejected::Replaced)?;
        let site = site.value_mut();
        if !site.streams.iter().any(|stream| stream.number == self.number) {
            return Err(Rejected::Replaced);
        }
        if site.pruned.is_none_or(|pruned| now.saturating_duration_since(pruned) >= KEPT) {
            self.loads.prune(site, now);
        }
        reports.retain(|report| site.clusters.contains_key(report.cluster.as_str()) || known(&report.cluster));
        for report in &mut reports {
            if !site.clusters.contains_key(report.cluster.as_str()) {
                let (to, named) = (BTreeMap::new(), self.loads.name_one());
                let cluster = Cluster { to, dropped: 0, touched: now, named };
                site.clusters.insert(report.cluster.as_str().into(), cluster);
            }
            if let Some(cluster) = site.clusters.get_mut(report.cluster.as_str()) {
                cluster.add(report, now);
            }
        }
        if let Some(stream) = site.streams.iter_mut().find(|stream| stream.number == self.number) {
            stream.last = reports;
            stream.until = now.checked_add(self.loads.interval.saturating_mul(3));
        }
        Ok(())
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        if let Some(mut site) = self.loads.sites.get_mut(&self.whose) {
            site.streams.retain(|stream| stream.number != self.number);
        }
    }
}

impl Cluster {
    fn add(&mut self, report: &mut ClusterReport, now: Instant) {
        self.touched = now;
        self.dropped = self.dropped.saturating_add(report.dropped);
        for sent in &mut report.sent {
            let long = [&sent.to.region, &sent.to.zone, &sent.to.site].iter().any(|name| name.len() > NAME_MAX);
            let full = self.to.len() >= DESTINATIONS_MAX && !self.to.contains_key(&sent.to);
            if long || full {
                sent.to = Destination::default();
            }
            let totals = self.to.entry(sent.to.clone()).or_default();
            totals.issued = totals.issued.saturating_add(sent.issued);
            totals.succeeded = totals.succeeded.saturating_add(sent.succeeded);
            totals.failed = totals.failed.saturating_add(sent.failed);
        }
    }
}

fn plausible(report: &ClusterReport) -> bool {
    let seconds = report.interval.clamp(Duration::from_secs(1), INTERVAL_MAX).as_secs() + 1;
    let most = seconds * PER_SECOND_MAX;
    let counts = |sent: &Sent| [sent.issued, sent.succeeded, sent.failed, sent.in_progress];
    report.dropped <= most && report.sent.iter().flat_map(counts).all(|count| count <= most)
}

#[cfg(test)]
mod tests;

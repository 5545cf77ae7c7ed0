//! The order between the tiers: an edge's routes wait for their services to stand at the cores, and a core's clusters
//! for the edges to send nothing there any more. Watermarks say how far each side has come.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Moment, Session,
    kind::{Edges, Exception},
};
use crate::{
    model::{Revision, Role, Watermarks},
    snapshot::Content,
    xds::{ResourceType, ServiceNeed},
};

/// How long a route waits where no core site is on its way; and for the other sites, once one is there.
const CORES: Duration = Duration::from_secs(15);
/// How long a core's cluster waits for edges that do not come on.
const EDGES: Duration = Duration::from_secs(60);

/// How far a service has come at the core sites of its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cover {
    /// At each that can serve it: nothing to wait for.
    All,
    /// At one, and others are on their way.
    Some,
    /// At none, and some are on their way.
    Coming,
    /// At none, and none is on its way: nothing is connected there, or it refuses the service.
    Nowhere,
}

/// `asked`: no more than this has to be there, whatever was written since.
fn cover(need: &ServiceNeed, watermarks: &Watermarks, asked: Revision) -> Cover {
    let (mut covered, mut coming) = (false, false);
    for at in &need.sites {
        let Some(watermark) = watermarks.get(&at.site) else { continue };
        if watermark.revision < at.revision.min(asked) {
            coming |= watermark.connected;
        } else {
            let refused = |kind: ResourceType| watermark.refuses(kind.short(), &need.service);
            covered |= !refused(ResourceType::Cluster) && !refused(ResourceType::Endpoints);
        }
    }
    match (covered, coming) {
        // Without a core there is nothing to wait for, nor where nobody tells how far the sites are.
        _ if need.sites.is_empty() || watermarks.is_empty() => Cover::All,
        (true, false) => Cover::All,
        (true, true) => Cover::Some,
        (false, true) => Cover::Coming,
        (false, false) => Cover::Nowhere,
    }
}

/// Whether a route that newly names it has to wait.
pub(in crate::serve) fn uncovered(need: &ServiceNeed, watermarks: &Watermarks) -> bool {
    cover(need, watermarks, Revision(u64::MAX)) != Cover::All
}

/// A service and its group.
pub(super) type Key = (Arc<str>, Arc<str>);

/// How long one service has been waited for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waited {
    since: Instant,
    /// What had to be there when the wait began: a service that is written on and on would else be waited for on and on.
    asked: Revision,
    /// When the first site had it.
    covered: Option<Instant>,
}

impl Waited {
    pub(super) fn begin(need: &ServiceNeed, now: Instant) -> Self {
        let asked = need.sites.iter().map(|at| at.revision).max().unwrap_or_default();
        Self { since: now, asked, covered: None }
    }

    /// When the wait ends: none, by a watermark alone; a time that is past, it has ended. `bare`: nothing serves
    /// meanwhile, so that it is bounded in any case. `reported`: so is one for what the proxy may name already, as it
    /// would hold back all else that has changed.
    pub(super) fn until(
        &mut self,
        need: &ServiceNeed,
        (bare, reported): (bool, bool),
        moment: &Moment<'_>,
    ) -> Option<Instant> {
        match cover(need, moment.watermarks, self.asked) {
            Cover::All => Some(self.since),
            Cover::Some => Some(*self.covered.get_or_insert(moment.now) + CORES),
            Cover::Coming if !bare && !reported => None,
            Cover::Nowhere if bare => Some(self.since),
            Cover::Coming | Cover::Nowhere => Some(self.since + CORES),
        }
    }
}

impl Session {
    /// Services that the route configurations of a listener or scope name and that the stream lacks, being new to it themselves.
    pub(super) fn brought<'c>(
        &self,
        listener: &crate::xds::Resource,
        content: &'c Content,
    ) -> impl Iterator<Item = &'c ServiceNeed> {
        let routes = listener.requires.iter().filter(|(kind, _)| *kind == ResourceType::Route);
        let lacking = routes.filter_map(|(kind, name)| {
            let entry = content.get(*kind, name)?;
            let has =
                self.kind(*kind).is_some_and(|rds| rds.subscription.contains(name) && !rds.is_new(name, entry.created));
            (!has).then(|| content.hosts(name).map(|(_, host)| host).chain([entry]))
        });
        let lacking: Vec<_> = lacking.flatten().collect();
        lacking.into_iter().flat_map(|entry| entry.needs().map(|(need, _)| need))
    }

    /// Notes which removals at a core the edges have passed.
    pub(super) fn mark_edges(&mut self, moment: &Moment<'_>) {
        if self.client.role != Role::Core {
            return;
        }
        let slowest = self.slowest_edge(moment);
        let mut wakes = Vec::new();
        let Some(cds) = self.slot(ResourceType::Cluster) else { return };
        for exception in cds.exceptions.values_mut() {
            let Exception::Gone { edges, .. } = exception else { continue };
            if edges.passed.is_some() {
                continue;
            }
            let limit = *edges.since.get_or_insert(moment.now) + EDGES;
            if slowest.is_none_or(|slowest| slowest >= edges.revision) {
                edges.passed = Some(moment.now);
            } else if moment.now >= limit {
                edges.passed = Some(limit);
            } else {
                wakes.push(limit);
            }
        }
        self.awaits |= !wakes.is_empty();
        if !wakes.is_empty() {
            let ends = self.away.values().map(|since| *since + EDGES);
            wakes.extend(ends.filter(|end| moment.now < *end));
        }
        wakes.into_iter().for_each(|limit| self.wake_at(limit));
    }

    /// Whether no edge sends requests for a removed cluster any more: they have taken that it went, and what they had
    /// under way has drained. It is each proxy's own affair where there is no core.
    pub(super) fn edges_drained(&mut self, edges: &Edges, moment: &Moment<'_>) -> bool {
        if self.client.role != Role::Core {
            return true;
        }
        edges.passed.is_some_and(|passed| self.reached(passed + moment.sites.drain_time, moment.now))
    }

    /// How far the slowest edge site is that has connected gateways, or had until a while ago: a gateway that has lost
    /// its stream serves on what it has. None without any.
    fn slowest_edge(&mut self, moment: &Moment<'_>) -> Option<Revision> {
        let edge = |site: &str| moment.sites.get(site).is_some_and(|(_, entry)| entry.role == Role::Edge);
        let away = |site: &str| moment.watermarks.get(site).is_some_and(|watermark| !watermark.connected);
        self.away.retain(|site, _| away(site));
        let mut slowest: Option<Revision> = None;
        for (site, watermark) in moment.watermarks.iter().filter(|(site, _)| edge(site)) {
            // One that has been away for longer than this stream knows of is missed once.
            let mut missed = || *self.away.entry(Arc::clone(site)).or_insert(moment.now) + EDGES > moment.now;
            if watermark.connected || missed() {
                slowest = Some(slowest.map_or(watermark.revision, |least| least.min(watermark.revision)));
            }
        }
        slowest
    }
}

//! Make before break: what waits for clusters to be warm and services to stand, and when a removed cluster may go.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Moment, Session,
    kind::{Exception, Kind},
    tiers::{self, Key, Waited},
};
use crate::{
    serve::fanout::Frame,
    snapshot::{Content, Entry, Seq},
    xds::{ResourceType, ServiceNeed},
};

/// A route or listener waits at most this long for its clusters to be warm.
pub(super) const WARM: Duration = Duration::from_secs(15);
/// A type that is not requested this long after the first ACK will not be.
const UNREQUESTED: Duration = Duration::from_secs(15);
/// Whoever has not answered for this long holds nothing up any more.
const SILENT: Duration = Duration::from_secs(60);
/// From the last acknowledgement that nothing names a cluster to its removal: requests under way.
const LINGER: Duration = Duration::from_secs(5);
/// Marks are at least this far apart, so that their number stays small under churn.
const MARK: Duration = Duration::from_secs(1);

/// What a route or listener that is to be sent names and that is not there yet.
#[derive(Debug)]
pub(super) struct Lacks<'c> {
    /// When the newest cluster that is new to the stream was created (O18).
    newest: Option<Seq>,
    /// Services that do not stand at the cores of their group.
    services: Vec<&'c ServiceNeed>,
    /// The proxy has no older version that serves meanwhile.
    bare: bool,
    /// The proxy came with another version: it may route to all of them already.
    reported: bool,
}

impl Lacks<'_> {
    pub(super) fn nothing(&self) -> bool {
        self.newest.is_none() && self.services.is_empty()
    }
}

/// What a route or listener waits for, and for how long it has.
#[derive(Clone, Debug)]
pub(super) struct Hold {
    /// Since when for clusters, and the newest of them.
    clusters: Option<(Instant, Seq)>,
    services: BTreeMap<Key, Waited>,
}

/// When `cluster` was created, if the stream does not have it yet.
fn absent(cds: &Kind, cluster: &str, content: &Content) -> Option<Seq> {
    // What the view lacks too is no use to wait for.
    let entry = content.get(ResourceType::Cluster, cluster)?;
    let new = cds.subscription.contains(cluster) && cds.is_new(cluster, entry.created);
    new.then_some(entry.created)
}

/// Whether the proxy may still use a route configuration that the view lacks though a listener names it: its content
/// could not be compiled, and what it had named is still needed.
fn lost_routes(state: &Kind, content: &Content) -> bool {
    let parents =
        [ResourceType::Listener, ResourceType::ScopedRoute].into_iter().flat_map(|kind| content.entries(kind));
    let named = parents.flat_map(|(_, parent)| &parent.resource.requires);
    named.filter(|(kind, _)| *kind == ResourceType::Route).any(|(kind, route)| {
        content.get(*kind, route).is_none()
            && state.subscription.contains(route)
            && !matches!(state.exceptions.get(route), Some(Exception::Absent { .. }))
    })
}

impl Session {
    /// What has to be there before `entry` is sent. `new`: the stream lacks it; then it is not delayed (an empty route
    /// configuration is 404s), but the listener or scope that brings it is; a virtual host only where it comes after its
    /// route configuration, as a new one among others.
    pub(super) fn lacks<'c>(
        &self,
        state: &Kind,
        entry: &'c Entry,
        new: bool,
        content: &'c Content,
        moment: &Moment<'_>,
    ) -> Lacks<'c> {
        let resource = &entry.resource;
        let brings = matches!(resource.kind, ResourceType::Listener | ResourceType::ScopedRoute);
        let bare = new && brings;
        let mut lacks = Lacks { newest: None, services: Vec::new(), bare, reported: false };
        let late = resource.kind == ResourceType::VirtualHost && !self.comes_along(&resource.name, entry.created);
        if new && !bare && !late {
            return lacks;
        }
        if let Some(cds) = self.clusters(state) {
            let newest = &mut lacks.newest;
            content.reach(resource, &mut |cluster| *newest = (*newest).max(absent(cds, cluster, content)));
        }
        let uncovered = |need: &&ServiceNeed| tiers::uncovered(need, moment.watermarks);
        match resource.kind {
            ResourceType::Listener | ResourceType::ScopedRoute => {
                lacks.services = self.brought(resource, content).filter(uncovered).collect();
            }
            ResourceType::Route | ResourceType::VirtualHost => {
                let taken = state.taken(&resource.name);
                lacks.reported = taken == Seq(0);
                let newly = entry.needs().filter(|(_, since)| *since > taken).map(|(need, _)| need);
                lacks.services = newly.filter(uncovered).collect();
            }
            ResourceType::Cluster
            | ResourceType::Endpoints
            | ResourceType::Secret
            | ResourceType::Extension
            | ResourceType::Runtime => {}
        }
        lacks
    }

    /// How the wait goes on; none when it is over, or when there is nothing to wait for.
    pub(super) fn hold(&mut self, before: Option<&Hold>, lacks: &Lacks<'_>, moment: &Moment<'_>) -> Option<Hold> {
        let mut waits = false;
        let clusters = lacks.newest.map(|newest| {
            // Content that names yet another cluster has a time of its own.
            let known = before.and_then(|hold| hold.clusters).filter(|(_, before)| newest <= *before);
            (known.map_or(moment.now, |(since, _)| since), newest)
        });
        if let Some((since, _)) = clusters {
            waits |= !self.reached(since + WARM, moment.now);
        }
        let mut services = BTreeMap::new();
        for need in &lacks.services {
            let key = (Arc::clone(&need.service), Arc::clone(&need.group));
            let known = before.and_then(|hold| hold.services.get(&key)).copied();
            let mut waited = known.unwrap_or_else(|| Waited::begin(need, moment.now));
            let over = waited
                .until(need, (lacks.bare, lacks.reported), moment)
                .is_some_and(|until| self.reached(until, moment.now));
            self.awaits |= !over;
            waits |= !over;
            services.insert(key, waited);
        }
        waits.then_some(Hold { clusters, services })
    }

    /// Up to which seq the stream's `kind` is known to have been taken, if at all.
    fn covered(&mut self, kind: ResourceType, content: &Content, now: Instant) -> Option<Seq> {
        let Some(state) = self.kind(kind) else {
            if !kind.common() && content.entries(kind).next().is_none() {
                return Some(content.seq());
            }
            let at = self.first_ack.map_or(self.started + SILENT, |ack| ack + UNREQUESTED);
            return self.reached(at, now).then_some(content.seq());
        };
        if state.subscription.is_empty() {
            return Some(content.seq());
        }
        let parked = state.exceptions.values().any(|exception| matches!(exception, Exception::Parked { .. }));
        let lost = kind == ResourceType::Route && lost_routes(state, content);
        let silent = state.in_flight.front().map(|flight| flight.at + SILENT);
        // As long as they take: the version that serves meanwhile may still need what is to go.
        let settled = state.exceptions.values().all(|exception| matches!(exception, Exception::Absent { .. }));
        let acked = state.acked;
        if parked || lost {
            return None;
        }
        if silent.is_some_and(|at| self.reached(at, now)) {
            return Some(content.seq());
        }
        settled.then_some(acked)
    }

    pub(super) fn reached(&mut self, at: Instant, now: Instant) -> bool {
        if now < at {
            self.wake_at(at);
        }
        now >= at
    }

    /// The clusters that may go now, as one response.
    pub(super) fn removals(&mut self, content: &Content, moment: &Moment<'_>) -> Option<Arc<Frame>> {
        let now = moment.now;
        if self.frozen(moment) {
            return None;
        }
        self.mark_edges(moment);
        let cds = self.kind(ResourceType::Cluster).filter(|k| k.seeded())?;
        let gone = |(name, e): (&Arc<str>, &Exception)| match e {
            Exception::Gone { seq, drain, now, edges, .. } => Some((Arc::clone(name), *seq, *drain, *now, *edges)),
            _ => None,
        };
        let gone: Vec<_> = cds.exceptions.iter().filter_map(gone).collect();
        // If there is, nothing is left of a response that was split.
        let room = cds.in_flight.len() < super::poll::limit(ResourceType::Cluster);
        let first = gone.iter().map(|g| g.1).min()?;
        self.marks.retain(|(seq, _)| *seq >= first);
        self.mark(&gone.iter().filter(|g| !g.3).map(|g| g.1).collect::<Vec<_>>(), content, now);
        let differed = self.kind(ResourceType::Listener).is_some_and(|k| k.differed);
        let mut due = Vec::new();
        for (name, seq, drain, at_once, edges) in gone {
            let marked = self.marks.iter().find(|(mark, _)| *mark >= seq).map(|(_, at)| *at);
            // A replica's view may be younger than the listener that the proxy had.
            let wait = if drain == Some(true) || differed { self.client.drain.max(LINGER) } else { LINGER };
            let free = marked.is_some_and(|at| self.reached(at + wait, now));
            if at_once || (free && self.edges_drained(&edges, moment)) {
                due.push(name);
            }
        }
        if due.is_empty() || !room {
            return None;
        }
        let identifier = Arc::clone(&self.fanouts.identifier);
        let cds = self.slot(ResourceType::Cluster).as_mut()?;
        for name in &due {
            cds.exceptions.remove(name);
        }
        let due = due.iter().map(|name| cds.spelled(name)).collect();
        let frame = Frame::new(&identifier, ResourceType::Cluster.url(), content.seq(), Vec::new(), due);
        Some(super::poll::launch(cds, Arc::new(frame), now))
    }

    /// Notes that everything up to some seq is taken, if that covers a removal which no earlier mark covers.
    fn mark(&mut self, waiting: &[Seq], content: &Content, now: Instant) {
        let last = self.marks.last().copied();
        let newest = last.map_or(Seq(0), |(seq, _)| seq);
        let Some(next) = waiting.iter().filter(|seq| **seq > newest).min() else { return };
        let covered = ResourceType::NAMING.map(|kind| self.covered(kind, content, now)).into_iter().min().flatten();
        let Some(covered) = covered.filter(|covered| next <= covered) else { return };
        if last.is_none_or(|(_, at)| self.reached(at + MARK, now)) {
            self.marks.push((covered, now));
        }
    }
}

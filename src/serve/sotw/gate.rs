//! Make before break in sets: what waits for its clusters, which clusters stay, what is not there, and what follows.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Response, Session, kind::Kind};
use crate::{
    model::Role,
    serve::{
        absent::{Absent, MOST, Why},
        session::{Moment, Trust, tiers},
    },
    snapshot::Content,
    xds::{Resource, ResourceType, ServiceNeed},
};

/// How long new content waits for the acknowledgement of the clusters that it needs.
pub(super) const WARM: Duration = Duration::from_secs(15);
/// A type that is not requested this long after the first acknowledgement will not be.
pub(super) const UNREQUESTED: Duration = Duration::from_secs(15);
/// From the moment that nothing names a cluster to its removal: requests under way.
pub(super) const LINGER: Duration = Duration::from_secs(5);

impl Session {
    /// Names that the client asks for, that are not there, and of which it was not told so. Not of an assignment or route
    /// configuration whose parent it has: that is still to come.
    pub(super) fn absent(
        &mut self,
        state: &mut Kind,
        content: &Content,
        moment: &Moment<'_>,
        delayed: &mut bool,
    ) -> Vec<Absent> {
        let kind = state.kind;
        let held = |name: &str| state.held.contains_key(name) || state.before.contains_key(name);
        let lacks = |name: &str| content.get(kind, name).is_none() && !held(name);
        let mut absent = Vec::new();
        let collections = state.collections.iter().filter(|name| !state.told.contains(*name));
        absent.extend(
            collections.map(|name| (Arc::clone(name), Absent { name: state.spelled(name), why: Why::Collection })),
        );
        let names = state.names().iter().filter(|name| lacks(name) && !state.told.contains(*name));
        for name in names.filter(|name| !self.awaited(kind, name, content)) {
            if moment.fresh && self.trust != Trust::Stale {
                absent.push((Arc::clone(name), Absent::of(kind, state.spelled(name), self.client.proven)));
            } else {
                *delayed = true;
            }
        }
        absent.truncate(MOST);
        let (names, errors): (Vec<_>, Vec<_>) = absent.into_iter().unzip();
        state.told.retain(|name| content.get(kind, name).is_none());
        state.told.extend(names);
        errors
    }

    /// Something that was sent on this stream names a cluster.
    pub(super) fn sent_naming(&self, cluster: &str) -> bool {
        let states = ResourceType::NAMING.iter().filter_map(|kind| self.kinds.get(kind));
        let mut sent = states.flat_map(|state| state.may_have().chain(state.flight()));
        sent.any(|r| r.requires.iter().any(|(_, name)| **name == *cluster))
    }

    /// Something that the client has, or is about to have, names it.
    fn awaited(&self, kind: ResourceType, name: &str, content: &Content) -> bool {
        match kind {
            ResourceType::Endpoints => {
                let held = self.kinds.get(&ResourceType::Cluster).is_some_and(|cds| cds.held.contains_key(name));
                held || content.get(ResourceType::Cluster, name).is_some()
            }
            ResourceType::Route | ResourceType::Extension => {
                let names = |r: &Arc<Resource>| r.requires.iter().any(|(k, n)| *k == kind && **n == *name);
                [ResourceType::Listener, ResourceType::ScopedRoute].into_iter().any(|parent| {
                    let held = self.kinds.get(&parent).is_some_and(|parents| parents.may_have().any(names));
                    held || content.entries(parent).any(|(_, entry)| names(&entry.resource))
                })
            }
            _ => false,
        }
    }

    /// Whether a listener or route configuration needs a cluster that the client has not acknowledged, or a service
    /// that does not stand at the cores yet.
    pub(super) fn waits(
        &mut self,
        state: &mut Kind,
        resource: &Resource,
        content: &Content,
        moment: &Moment<'_>,
    ) -> bool {
        let now = moment.now;
        let known = state.held.get(&resource.name).map(|old| &old.services);
        let newly = |need: &&ServiceNeed| known.is_none_or(|known| !known.contains(need));
        let uncovered = |need| tiers::uncovered(need, moment.watermarks);
        let awaits = resource.services.iter().filter(newly).any(uncovered);
        let mut lacks = awaits;
        if let Some(cds) = self.kinds.get(&ResourceType::Cluster) {
            content.reach(resource, &mut |cluster| {
                lacks |= content.get(ResourceType::Cluster, cluster).is_some()
                    && cds.wants(cluster)
                    && !cds.held.contains_key(cluster)
                    && !cds.refused_at_all(cluster);
            });
        }
        if !lacks {
            return false;
        }
        state.hold_back();
        let (version, since) = state.since.entry(Arc::clone(&resource.name)).or_insert((resource.version, now));
        if *version != resource.version {
            (*version, *since) = (resource.version, now);
        }
        let until = *since + WARM;
        self.wake_at(until, now);
        self.awaits |= awaits && now < until;
        now < until
    }

    /// Whether a cluster that the view lacks may leave the set.
    pub(super) fn may_go(&mut self, state: &mut Kind, name: &Arc<str>, content: &Content, moment: &Moment<'_>) -> bool {
        let now = moment.now;
        if self.uses(name, content, now) {
            state.unused.remove(name);
            return false;
        }
        let drain = content.tombstone(ResourceType::Cluster, name).is_none_or(|tombstone| tombstone.drain);
        let mut wait = if drain { self.client.drain.max(LINGER) } else { LINGER };
        if self.client.role == Role::Core {
            // The edges send requests there until they have heard of it, and their connections have drained.
            wait = wait.max(moment.sites.drain_time);
        }
        let at = *state.unused.entry(Arc::clone(name)).or_insert(now) + wait;
        self.wake_at(at, now);
        now >= at && !self.behind(content)
    }

    /// Whether the client may still send requests to a cluster: something that it has, or may have, names it.
    fn uses(&mut self, cluster: &str, content: &Content, now: Instant) -> bool {
        for kind in ResourceType::NAMING.into_iter().filter(|kind| !kind.delta_only()) {
            let awaited = kind.common() || content.entries(kind).next().is_some();
            if self.kinds.contains_key(&kind) || !awaited {
                continue;
            }
            let at = self.first_ack.map_or(self.started + 4 * UNREQUESTED, |ack| ack + UNREQUESTED);
            self.wake_at(at, now);
            if now < at {
                return true;
            }
        }
        self.sent_naming(cluster)
    }

    /// Something that may name a cluster has not been looked at yet: what is there may name it again.
    fn behind(&self, content: &Content) -> bool {
        ResourceType::NAMING.iter().filter_map(|kind| self.kinds.get(kind)).any(|state| state.seen < content.seq())
    }

    /// Assignments follow each new or changed Cluster, Secrets and filters each such Cluster and Listener (rules 36 and 79).
    pub(super) fn follow(&mut self, sent: &Response, content: &Content) {
        let Some(parent) = self.kinds.get(&sent.kind) else { return };
        let children: BTreeSet<_> = parent.news().flat_map(|r| r.children.iter().cloned()).collect();
        for (kind, name) in children {
            let child = self.kinds.get_mut(&kind).filter(|child| child.wants(&name));
            if let Some(child) = child.filter(|_| content.get(kind, &name).is_some()) {
                child.again.insert(name);
                child.stir();
            }
        }
    }
}

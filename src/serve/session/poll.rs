//! What a session sends next: types in make-before-break order, shared frames where no exception is in the way.

use std::{collections::BTreeSet, sync::Arc, time::Instant};

use super::{
    Moment, STOOD, Send, Session, Trust, hosts,
    kind::{Before, Edges, Exception, Flight, Kind, collects},
};
use crate::{
    serve::{
        absent::{self, Absent},
        fanout::{self, Fanout, Fanouts, Frame},
    },
    snapshot::{Content, Seq},
    xds::{Removal, Resource, ResourceType, name},
};

/// There is nothing to send to a set that grows name by name: it joins a group when it has stood, not at each step.
fn grows(state: &Kind, content: &Content) -> bool {
    let alone = state.fanout.is_none() && state.sent > Seq(0);
    let news = || state.changed(content).iter().any(|name| state.subscription.contains(name));
    alone && state.kind.removal() == Removal::Never && !news()
}

/// Responses in flight. A CDS ACK waits for warming (O5); of other types the newest value wins.
pub(super) fn limit(kind: ResourceType) -> usize {
    if kind == ResourceType::Cluster { 4 } else { 1 }
}

/// Books `frame` as sent. Cursors move with the last part of a response that was split.
pub(super) fn launch(state: &mut Kind, frame: Arc<Frame>, now: Instant) -> Arc<Frame> {
    state.beats.launched(&frame, now);
    state.in_flight.push_back(Flight { from: state.sent, at: now, frame: Arc::clone(&frame) });
    if state.parts.is_empty() {
        state.sent = state.parts_to;
        state.removed = state.removed.max(state.sent);
    }
    state.answered = true;
    state.answer_empty = false;
    state.touch();
    frame
}

/// What one type has to send.
enum Due {
    /// Nothing; the cursor moves on.
    Nothing,
    /// Nothing yet, and the cursor stays.
    Wait,
    /// The frames that everybody with this cursor gets.
    Shared,
    /// Frames of its own: these names, and these removals.
    Private(BTreeSet<Arc<str>>, BTreeSet<Arc<str>>),
}

impl Session {
    /// The next response, if there is one; call it again until there is none. Only then is the deadline known.
    pub fn poll(&mut self, content: &Content, moment: &Moment<'_>) -> Option<Send> {
        (self.deadline, self.awaits, self.unsure) = (None, false, false);
        if !content.ready() {
            return None;
        }
        ResourceType::WIRE.into_iter().for_each(|kind| self.seed(kind, content, moment.now));
        for kind in ResourceType::WIRE {
            if let Some(frame) = self.updates(kind, content, moment) {
                self.follow(kind, &frame.resources, content);
                return Some(Send { kind: Some(kind), frame });
            }
        }
        if let Some(frame) = self.removals(content, moment) {
            return Some(Send { kind: Some(ResourceType::Cluster), frame });
        }
        ResourceType::WIRE.into_iter().for_each(|kind| self.join(kind, content, moment.now));
        let (url, names) = self.unknown.pop()?;
        let frame = Arc::new(Frame::new(&self.fanouts.identifier, url, content.seq(), Vec::new(), names));
        Some(Send { kind: None, frame })
    }

    /// What the proxy may have is not touched: the view may be the older one.
    pub(super) fn frozen(&self, moment: &Moment<'_>) -> bool {
        !moment.fresh || self.trust == Trust::Stale
    }

    /// Compares a type with what the proxy reported, once that may be done. What it does not have is sent in any case.
    fn seed(&mut self, kind: ResourceType, content: &Content, now: Instant) {
        let Some(state) = self.kind(kind).filter(|k| !k.seeded()) else { return };
        if state.reports() && self.trust == Trust::Unknown {
            self.unsure = true;
            return;
        }
        let doubted = self.doubt.as_ref().filter(|_| kind.wildcard()).map(|doubt| doubt.names(kind));
        let before = Before {
            touched: self.touched.remove(&kind).unwrap_or_default(),
            doubted: doubted.unwrap_or_default(),
            stale: self.trust == Trust::Stale,
        };
        if let Some(state) = self.slot(kind) {
            state.seed(content, &before, now);
        }
        if kind == ResourceType::Route {
            self.keep_routes(content);
        }
    }

    fn join(&mut self, kind: ResourceType, content: &Content, now: Instant) {
        let alone = |k: &&Kind| k.seeded() && k.fanout.is_none() && !k.subscription.is_empty();
        let Some(state) = self.kind(kind).filter(alone) else { return };
        let stood = state.asked.filter(|_| !state.subscription.wildcard()).map(|at| at + STOOD);
        if !stood.is_none_or(|at| self.reached(at, now)) {
            return;
        }
        let fanouts = Arc::clone(&self.fanouts);
        if let Some(state) = self.slot(kind) {
            state.join(&fanouts, content);
        }
    }

    fn updates(&mut self, kind: ResourceType, content: &Content, moment: &Moment<'_>) -> Option<Arc<Frame>> {
        // Taken out so that the gates can look at the other types meanwhile.
        let mut state = self.slot(kind).take_if(|state| state.seeded())?;
        let frame = self.step(&mut state, content, moment);
        *self.slot(kind) = Some(state);
        frame
    }

    fn step(&mut self, state: &mut Kind, content: &Content, moment: &Moment<'_>) -> Option<Arc<Frame>> {
        let now = moment.now;
        absorb(state, content, self.frozen(moment));
        if state.in_flight.len() >= limit(state.kind) {
            return None;
        }
        if let Some(part) = state.parts.pop_front() {
            return Some(launch(state, part, now));
        }
        let renewal = self.heartbeats(state, content, moment);
        let frames: Vec<Arc<Frame>> = match self.decide(state, content, moment) {
            Due::Wait => return None,
            Due::Nothing => Vec::new(),
            Due::Shared => {
                let sent = state.sent;
                let frames = state.join(&self.fanouts, content).frames(content, sent);
                frames.iter().map(|frame| state.beats.dressed(frame, &self.fanouts.identifier, content)).collect()
            }
            Due::Private(names, removed) => self.private(state, content, &names, removed),
        };
        state.parts_to = content.seq();
        state.parts = frames.into();
        if state.parts.is_empty() && state.answer_empty {
            let frame = Frame::new(&self.fanouts.identifier, state.kind.url(), content.seq(), vec![], vec![]);
            state.parts.push_back(Arc::new(frame));
        }
        if let Some(frame) = state.parts.pop_front() {
            return Some(launch(state, frame, now));
        }
        self.nothing(state, content);
        Some(launch(state, renewal?, now))
    }

    /// Nothing to send counts as acknowledged.
    fn nothing(&self, state: &mut Kind, content: &Content) {
        let before = (state.sent, state.acked);
        state.sent = content.seq();
        state.removed = state.removed.max(state.sent);
        if state.in_flight.is_empty() {
            state.acked = state.sent;
        }
        if before != (state.sent, state.acked) {
            state.touch();
        }
    }

    fn decide(&mut self, state: &mut Kind, content: &Content, moment: &Moment<'_>) -> Due {
        let kind = state.kind;
        let gated = match kind {
            ResourceType::Listener | ResourceType::ScopedRoute => true,
            // Nothing is delayed of a stream that has nothing.
            ResourceType::Cluster | ResourceType::Extension | ResourceType::Route | ResourceType::VirtualHost => {
                state.sent > Seq(0)
            }
            ResourceType::Endpoints | ResourceType::Secret | ResourceType::Runtime => false,
        };
        if !gated && state.exceptions.is_empty() && state.withheld.is_empty() && !state.spells() {
            return if grows(state, content) { Due::Nothing } else { Due::Shared };
        }
        let mut private = false;
        let mut plain = BTreeSet::new();
        for name in state.changed(content) {
            let Some(entry) = content.get(kind, &name).filter(|_| state.subscription.contains(&name)) else { continue };
            if state.withheld.contains(&name) || (kind == ResourceType::VirtualHost && self.early(&name, content)) {
                private = true;
                continue;
            }
            let new = state.is_new(&name, entry.created);
            match state.exceptions.get(&name) {
                Some(Exception::Parked { parked, .. }) if parked.version == entry.resource.version => private = true,
                Some(Exception::Held { .. }) => {}
                None if !gated || self.lacks(state, entry, new, content, moment).nothing() => {
                    plain.insert(name);
                }
                _ => {
                    state.taken.entry(Arc::clone(&name)).or_insert(state.acked);
                    state.exceptions.insert(name, Exception::Wanted { new, group: None });
                }
            }
        }
        let frozen = self.frozen(moment);
        let mut removed = BTreeSet::new();
        let at_once = kind.removal() == Removal::AtOnce;
        if at_once && state.sent > Seq(0) && !frozen {
            let gone = content.gone(kind, state.removed).filter(|(n, _)| state.subscription.contains(n));
            for (name, tombstone) in gone {
                if kind == ResourceType::VirtualHost && self.drains(name, content) {
                    private = true;
                    state.exceptions.insert(Arc::clone(name), Exception::draining(tombstone));
                } else {
                    removed.insert(Arc::clone(name));
                }
            }
        }
        private |= removed.iter().any(|n| state.exceptions.contains_key(n) || state.spelled(n) != *n);
        let (wanted, held) = self.ripe(state, content, moment, plain.is_empty());
        private |= held || !wanted.is_empty();
        if held && kind.wildcard() && !state.answered && state.sent == Seq(0) {
            // The first response is whole (O28): it waits for its slowest listener.
            return Due::Wait;
        }
        for (name, exception) in &state.exceptions {
            let drains = kind == ResourceType::VirtualHost && self.drains(name, content);
            if at_once && !drains && matches!(exception, Exception::Gone { .. }) {
                private = true;
                if !frozen {
                    removed.insert(Arc::clone(name));
                }
            }
        }
        if plain.is_empty() && wanted.is_empty() && removed.is_empty() {
            return Due::Nothing;
        }
        if !private {
            return Due::Shared;
        }
        plain.extend(wanted);
        Due::Private(plain, removed)
    }

    /// Exceptions whose time has come, and whether a listener or route is held back. Suspects of a NACK go by groups,
    /// when nothing else (`idle`) is to be sent.
    fn ripe(
        &mut self,
        state: &mut Kind,
        content: &Content,
        moment: &Moment<'_>,
        mut idle: bool,
    ) -> (BTreeSet<Arc<str>>, bool) {
        let (mut ripe, mut held, mut groups) = (BTreeSet::new(), false, Vec::new());
        for (name, exception) in &state.exceptions {
            let due = matches!(exception, Exception::Wanted { .. } | Exception::Held { .. });
            if due && !state.withheld.contains(name) {
                groups.push((Arc::clone(name), exception.clone()));
            }
        }
        let mut suspects = Vec::new();
        for (name, exception) in groups {
            let new = exception.is_new();
            let Some(entry) = content.get(state.kind, &name) else {
                if !self.frozen(moment) && self.absence(state, &name, content) {
                    ripe.insert(name);
                }
                continue;
            };
            let lacks = self.lacks(state, entry, new, content, moment);
            let before = match &exception {
                Exception::Held { hold, .. } => Some(&**hold),
                _ => None,
            };
            if let Some(hold) = self.hold(before, &lacks, moment) {
                state.exceptions.insert(name, Exception::Held { new, hold: Box::new(hold) });
                held = true;
                continue;
            }
            match exception {
                Exception::Wanted { group: Some(group), .. } => suspects.push((group, name)),
                _ => {
                    ripe.insert(name);
                }
            }
        }
        idle &= ripe.is_empty();
        if let Some(next) = suspects.iter().map(|(g, _)| *g).min().filter(|_| idle) {
            ripe.extend(suspects.into_iter().filter(|(g, _)| *g == next).map(|(_, n)| n));
        }
        (ripe, held)
    }

    /// The CDS state, also while it is the one that is taken out.
    pub(super) fn clusters<'a>(&'a self, state: &'a Kind) -> Option<&'a Kind> {
        if state.kind == ResourceType::Cluster { Some(state) } else { self.kind(ResourceType::Cluster) }
    }

    /// Whether "there is no such resource" may be said of a name that the view lacks: never of an assignment, filter or
    /// route configuration whose parent the proxy has (O8), which is then still to come. A cluster that goes before it was
    /// ever warm is the exception: without an answer its warming would hold up the CDS ACK.
    fn absence(&self, state: &Kind, name: &Arc<str>, content: &Content) -> bool {
        match state.kind {
            // If the collection has members by now, the question was dropped.
            _ if name::is_glob(name) => true,
            ResourceType::Endpoints => {
                let cluster = self.kind(ResourceType::Cluster).and_then(|k| k.exceptions.get(name));
                let in_use = matches!(cluster, Some(Exception::Gone { new: false, .. }));
                !in_use && content.get(ResourceType::Cluster, name).is_none()
            }
            ResourceType::Route | ResourceType::Extension => {
                let named = |r: &Resource| r.requires.iter().any(|(k, n)| *k == state.kind && n == name);
                let gone = |e: &Exception| matches!(e, Exception::Gone { .. });
                [ResourceType::Listener, ResourceType::ScopedRoute].into_iter().all(|kind| {
                    let parents = self.kind(kind);
                    let going = parents.is_some_and(|parents| {
                        parents.exceptions.values().any(gone) || content.gone(kind, parents.removed).count() > 0
                    });
                    !going && !content.entries(kind).any(|(_, entry)| named(&entry.resource))
                })
            }
            ResourceType::Cluster
            | ResourceType::Secret
            | ResourceType::Listener
            | ResourceType::ScopedRoute
            | ResourceType::VirtualHost
            | ResourceType::Runtime => true,
        }
    }

    fn private(
        &self,
        state: &mut Kind,
        content: &Content,
        names: &BTreeSet<Arc<str>>,
        mut removed: BTreeSet<Arc<str>>,
    ) -> Vec<Arc<Frame>> {
        let (mut resources, mut asked, mut errors) = (Vec::new(), Vec::new(), Vec::new());
        for name in names {
            match content.get(state.kind, name) {
                Some(entry) => resources.push(state.beats.dress(&entry.resource)),
                None if state.kind == ResourceType::VirtualHost && state.subscription.names().contains(name) => {
                    asked.push(name);
                }
                None => {
                    let told = errors.len() < absent::MOST;
                    let asked = told && state.subscription.names().contains(name) && !name::is_glob(name);
                    let error = || Absent::of(state.kind, state.spelled(name), self.client.proven);
                    errors.extend(asked.then(error));
                    removed.insert(Arc::clone(name));
                }
            }
        }
        // First it goes, then it is answered as absent.
        let (later, asked): (Vec<_>, Vec<_>) = asked.into_iter().partition(|name| removed.contains(*name));
        asked.iter().for_each(|name| drop(state.exceptions.remove(*name)));
        hosts::answer(&asked, &mut resources, content);
        for name in removed.iter().filter(|name| !later.contains(name)) {
            let new = state.exceptions.remove(name).is_none_or(|e| e.is_new());
            if state.kind == ResourceType::Route && state.subscription.names().contains(name) && !name::is_glob(name) {
                state.exceptions.insert(Arc::clone(name), Exception::Absent { new });
            }
        }
        let whole = (state.kind.wildcard() && !state.answered) || state.kind == ResourceType::VirtualHost;
        let identifier = &self.fanouts.identifier;
        let removed = removed.iter().map(|name| state.spelled(name)).collect();
        let mut frames = fanout::frames(identifier, state.kind, content.seq(), resources, removed, whole);
        if let Some(first) = frames.first_mut().and_then(Arc::get_mut) {
            first.errors = errors;
        }
        for frame in &frames {
            for resource in &frame.resources {
                if let Some(exception) = state.exceptions.get_mut(&resource.name) {
                    *exception = Exception::Flying { new: exception.is_new(), nonce: frame.nonce };
                }
            }
        }
        frames
    }

    /// Assignments, secrets and filters follow each Cluster, Listener and filter that is sent, unless the cursor will bring
    /// them anyway.
    fn follow(&mut self, kind: ResourceType, sent: &[Arc<Resource>], content: &Content) {
        if kind == ResourceType::Route {
            return self.follow_routes(sent, content);
        }
        if !matches!(kind, ResourceType::Cluster | ResourceType::Listener | ResourceType::Extension) {
            return;
        }
        let whole = sent.len() >= content.entries(kind).len();
        for (kind, name) in sent.iter().flat_map(|r| &r.children) {
            match self.slot(*kind) {
                Some(child) if child.seeded() => child.follow(name, content),
                _ => self.touched.entry(*kind).or_default().add(name, whole),
            }
        }
    }
}

impl Kind {
    /// What changed since the cursor, which a group can tell without a search where it is nothing.
    fn changed(&self, content: &Content) -> Vec<Arc<str>> {
        let concerned = self.fanout.as_ref().is_none_or(|fanout| fanout.group.touched(self.sent));
        if concerned { content.changed(self.kind, self.sent) } else { Vec::new() }
    }

    /// The set is shared with all that ask for the same.
    fn join(&mut self, fanouts: &Fanouts, content: &Content) -> &Arc<Fanout> {
        let fanout = self.fanout.get_or_insert_with(|| fanouts.join(self.kind, &self.subscription, content));
        self.subscription = Arc::clone(fanout.group.subscription());
        fanout
    }

    fn follow(&mut self, name: &Arc<str>, content: &Content) {
        let Some(entry) = content.get(self.kind, name).filter(|_| self.subscription.contains(name)) else { return };
        let passed = if self.parts.is_empty() { self.sent } else { self.parts_to };
        let parked = matches!(self.exceptions.get(name),
            Some(Exception::Parked { parked, .. }) if parked.version == entry.resource.version);
        if entry.seq <= passed && !parked {
            let new = self.is_new(name, entry.created);
            self.exceptions.insert(Arc::clone(name), Exception::Wanted { new, group: None });
            self.touch();
        }
    }
}

/// Takes over tombstones, and drops exceptions that the view has overtaken. What goes at once goes by its cursor, unless
/// nothing may go now.
fn absorb(state: &mut Kind, content: &Content, frozen: bool) {
    let kind = state.kind;
    if kind.removal() == Removal::Unused || (kind.removal() == Removal::AtOnce && frozen) {
        if state.sent > Seq(0) && state.removed < content.seq() {
            for (name, tombstone) in content.gone(kind, state.removed) {
                if state.subscription.contains(name) {
                    let (seq, new) = (tombstone.seq, state.is_new(name, tombstone.created));
                    let edges = Edges::taking(tombstone.revision);
                    let gone = Exception::Gone { new, seq, drain: Some(tombstone.drain), now: false, edges };
                    state.exceptions.insert(Arc::clone(name), gone);
                }
            }
        }
        state.removed = content.seq();
    }
    if kind.removal() == Removal::Never && !state.subscription.named_only() && state.sent > Seq(0) {
        // Members of a collection that went; of what is asked for by name a proxy is told when it asks.
        for (name, _) in content.gone(kind, state.removed) {
            if state.subscription.contains(name) && !state.subscription.names().contains(name) {
                let new = state.exceptions.get(name).is_some_and(Exception::is_new);
                state.exceptions.insert(Arc::clone(name), Exception::Wanted { new, group: None });
            }
        }
        state.removed = content.seq();
    }
    state.exceptions.retain(|name, exception| {
        let present = content.get(kind, name).is_some();
        match exception {
            Exception::Wanted { .. } if collects(content, kind, name) => false,
            Exception::Gone { .. } => !present,
            Exception::Parked { .. } | Exception::Held { .. } => present || kind.removal() == Removal::AtOnce,
            _ => true,
        }
    });
    let exceptions = &state.exceptions;
    state.taken.retain(|name, _| exceptions.contains_key(name) && content.get(kind, name).is_some());
}

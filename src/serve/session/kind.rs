//! One type of one stream: subscription, cursors, what is in flight, and a side map of exceptions.

mod refuse;
mod subscribe;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Instant,
};

pub(in crate::serve) use self::refuse::mentions;
pub(super) use self::subscribe::collects;
use super::{beats::Beats, gate::Hold, reported::Versions, touched::Touched};
use crate::{
    feedback,
    model::Revision,
    serve::fanout::{Fanout, Frame},
    snapshot::{Content, Seq, Tombstone},
    xds::{Removal, ResourceType, Subscription, Version},
};

/// A name that the cursors do not speak for.
#[derive(Clone, Debug)]
pub(super) enum Exception {
    /// To be sent, or answered as absent. Names of a group go together and without others.
    Wanted { new: bool, group: Option<u32> },
    /// Waits for clusters that are new to the stream, or for services at the cores; the old version serves on.
    Held { new: bool, hold: Box<Hold> },
    /// Sent apart from the cursor, not answered yet.
    Flying { new: bool, nonce: u64 },
    /// Asked for, and answered as absent (route configurations only, which a proxy keeps all the same).
    Absent { new: bool },
    /// Refused until its content changes.
    Parked { new: bool, parked: feedback::Parked },
    /// To be removed. `new`: it was never acknowledged, so nothing uses it. `drain`: `None` where the view does not
    /// remember why it went. `now`: without waiting.
    Gone { new: bool, seq: Seq, drain: Option<bool>, now: bool, edges: Edges },
}

/// A cluster that is to be removed at a core waits until the edges send nothing there any more.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Edges {
    /// The configuration that they have to take.
    pub(super) revision: Revision,
    /// Since when they are waited for.
    pub(super) since: Option<Instant>,
    /// When they had taken it.
    pub(super) passed: Option<Instant>,
}

impl Edges {
    pub(super) fn taking(revision: Revision) -> Self {
        Self { revision, ..Self::default() }
    }
}

impl Exception {
    /// The proxy does not have the name in any version.
    pub(super) fn is_new(&self) -> bool {
        match self {
            Self::Wanted { new, .. }
            | Self::Held { new, .. }
            | Self::Flying { new, .. }
            | Self::Parked { new, .. }
            | Self::Absent { new }
            | Self::Gone { new, .. } => *new,
        }
    }

    /// A virtual host that goes when the proxy lets go of its route configuration.
    pub(super) fn draining(tombstone: Tombstone) -> Self {
        let edges = Edges::taking(tombstone.revision);
        Self::Gone { new: false, seq: tombstone.seq, drain: None, now: false, edges }
    }

    /// Nothing is to be sent of it, nor on its way.
    pub(super) fn is_settled(&self) -> bool {
        matches!(self, Self::Parked { .. } | Self::Gone { .. } | Self::Absent { .. })
    }
}

/// What a stream brings along when one of its types is compared with the view.
#[derive(Debug, Default)]
pub(super) struct Before {
    /// Children whose parents were sent before.
    pub(super) touched: Touched,
    /// What the client may have without saying so.
    pub(super) doubted: BTreeSet<Arc<str>>,
    /// The view may be the older one.
    pub(super) stale: bool,
}

/// A response that is neither acknowledged nor refused.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) from: Seq,
    pub(super) at: Instant,
    pub(super) frame: Arc<Frame>,
}

#[derive(Debug)]
pub(super) struct Kind {
    pub(super) kind: ResourceType,
    pub(super) subscription: Arc<Subscription>,
    /// Joined when something is sent; left when the subscription changes.
    pub(super) fanout: Option<Arc<Fanout>>,
    /// When the subscription last changed.
    pub(super) asked: Option<Instant>,
    /// What the first request reported, until the view is ready to be compared with it.
    initial: Option<Versions>,
    /// Updates: everything up to here was sent.
    pub(super) sent: Seq,
    /// Everything up to here is acknowledged.
    pub(super) acked: Seq,
    /// Removals: every tombstone up to here was sent or is an exception.
    pub(super) removed: Seq,
    pub(super) in_flight: VecDeque<Flight>,
    /// The rest of a response that was split, and the seq at which it will be complete.
    pub(super) parts: VecDeque<Arc<Frame>>,
    pub(super) parts_to: Seq,
    pub(super) exceptions: BTreeMap<Arc<str>, Exception>,
    /// Something was sent on this stream.
    pub(super) answered: bool,
    /// A wildcard that is answered even if it is empty.
    pub(super) answer_empty: bool,
    /// At reconnect the proxy had another version of something, or something that is gone.
    pub(super) differed: bool,
    /// Names that a stale replica leaves alone: the proxy has them in a version that the view does not have.
    pub(super) withheld: BTreeSet<Arc<str>>,
    /// Up to where the content of a name under an exception is acknowledged, where the cursor does not say it.
    pub(super) taken: BTreeMap<Arc<str>, Seq>,
    /// What may run out at the client.
    pub(super) beats: Beats,
    /// Names that the client wrote otherwise than in normal form, by that.
    spelled: BTreeMap<Arc<str>, Arc<str>>,
    /// Names that stood in a refused response and were not taken since: the client may have them without saying so.
    doubted: BTreeSet<Arc<str>>,
    /// They changed.
    doubts: bool,
    /// Since which content a name is refused again and again; cleared by its next acknowledgement.
    refused_since: BTreeMap<Arc<str>, Seq>,
    groups: u32,
    dirty: bool,
}

/// The names of a subscription, each with the version that the view has. A stream that comes back names a thousand, and
/// both are sorted: they are walked side by side, unless there are few names of many.
fn listed<'a>(
    content: &Content,
    kind: ResourceType,
    subscription: &'a Subscription,
) -> Vec<(&'a Arc<str>, Option<Version>)> {
    let names = subscription.names();
    let mut entries = content.entries(kind).map(|(name, entry)| (name, entry.resource.version)).peekable();
    if names.len() < entries.size_hint().0 / 16 {
        let version = |name| content.get(kind, name).map(|entry| entry.resource.version);
        return names.iter().map(|name| (name, version(name))).collect();
    }
    let mut version = |wanted: &Arc<str>| {
        while entries.next_if(|(name, _)| *name < wanted).is_some() {}
        entries.next_if(|(name, _)| *name == wanted).map(|(_, version)| version)
    };
    names.iter().map(|name| (name, version(name))).collect()
}

impl Kind {
    /// `seed`: when the stream began, if its client knows times to live.
    pub(super) fn new(kind: ResourceType, initial: Versions, seed: Option<Instant>) -> Self {
        Self {
            kind,
            subscription: Arc::default(),
            fanout: None,
            asked: None,
            initial: Some(initial),
            sent: Seq(0),
            acked: Seq(0),
            removed: Seq(0),
            in_flight: VecDeque::new(),
            parts: VecDeque::new(),
            parts_to: Seq(0),
            exceptions: BTreeMap::new(),
            answered: false,
            answer_empty: false,
            differed: false,
            withheld: BTreeSet::new(),
            taken: BTreeMap::new(),
            beats: Beats::new(seed),
            spelled: BTreeMap::new(),
            doubted: BTreeSet::new(),
            doubts: false,
            refused_since: BTreeMap::new(),
            groups: 0,
            dirty: true,
        }
    }

    pub(super) fn seeded(&self) -> bool {
        self.initial.is_none()
    }

    /// The proxy reported versions, and they are not compared yet.
    pub(super) fn reports(&self) -> bool {
        self.initial.as_ref().is_some_and(|initial| !initial.is_empty())
    }

    /// Only what concerns its subscription can concern it.
    pub(super) fn settled(&self) -> bool {
        let waits = |exception: &Exception| matches!(exception, Exception::Wanted { .. } | Exception::Held { .. });
        let grouped = self.fanout.is_some() || self.subscription.is_empty();
        self.seeded() && grouped && !self.exceptions.values().any(waits)
    }

    /// Everything up to `target` is acknowledged or refused.
    pub(super) fn has(&self, target: Seq) -> bool {
        let mut pending = self.exceptions.iter().filter(|(_, exception)| !exception.is_settled());
        self.seeded() && self.acked >= target && pending.all(|(name, _)| self.taken(name) >= target)
    }

    /// Up to which seq the content of `name` is acknowledged.
    pub(super) fn taken(&self, name: &str) -> Seq {
        self.taken.get(name).copied().unwrap_or(self.acked)
    }

    /// The view is ready: compares it with what the proxy says that it has. Versions are opaque to us too: equal or
    /// not, never older or newer; a view that is `stale` may be the older one, and then only adds.
    pub(super) fn seed(&mut self, content: &Content, before: &Before, now: Instant) {
        let Some(mut initial) = self.initial.take() else { return };
        let (touched, stale) = (&before.touched, before.stale);
        if stale {
            let equal = |name: &str, version: Option<Version>| {
                content.get(self.kind, name).is_some_and(|entry| version == Some(entry.resource.version))
            };
            let unknown = initial.iter().filter(|(name, version)| !equal(name, **version));
            self.withheld = unknown.map(|(name, _)| Arc::clone(name)).collect();
        }
        if self.kind == ResourceType::Secret {
            // A secret that a proxy holds may still starve a new provider of it (O21).
            initial.clear();
        }
        self.removed = content.seq();
        self.dirty = true;
        let want = |new| Exception::Wanted { new, group: None };
        let subscription = Arc::clone(&self.subscription);
        let listed = listed(content, self.kind, &subscription);
        for (name, _) in
            listed.iter().filter(|(name, version)| version.is_none() && !collects(content, self.kind, name))
        {
            self.exceptions.entry(Arc::clone(name)).or_insert(want(!initial.contains_key(*name)));
        }
        self.doubted.clone_from(&before.doubted);
        for name in before.doubted.iter().filter(|name| subscription.contains(name) && !initial.contains_key(*name)) {
            self.lost(name, content);
        }
        if initial.is_empty() {
            self.answer_empty = subscription.wildcard();
            return;
        }
        (self.sent, self.acked) = (content.seq(), content.seq());
        let mut compare = |name: &Arc<str>, version: Version| {
            if self.withheld.contains(name) {
                return;
            }
            let reported = initial.get(name);
            if reported == Some(&Some(version)) && !touched.contains(name) {
                self.beats.found(|| content.get(self.kind, name), now);
                return;
            }
            self.differed = true;
            self.taken.insert(Arc::clone(name), Seq(0));
            self.exceptions.entry(Arc::clone(name)).or_insert(want(reported.is_none()));
        };
        if subscription.named_only() {
            listed.iter().for_each(|(name, version)| version.iter().for_each(|version| compare(name, *version)));
            return;
        }
        let wanted = content.entries(self.kind).filter(|(name, _)| subscription.contains(name));
        wanted.for_each(|(name, entry)| compare(name, entry.resource.version));
        // What is asked for by name alone has its answer; a host that is, though it may be under another name.
        let all = subscription.wildcard() && self.kind != ResourceType::VirtualHost;
        for name in initial.into_keys().filter(|name| subscription.contains(name)) {
            if all || !subscription.names().contains(&name) {
                self.lost(&name, content);
            }
        }
    }

    /// The client has, or may have, a name that the view lacks.
    fn lost(&mut self, name: &Arc<str>, content: &Content) {
        if content.name(self.kind, name).is_some() {
            return;
        }
        let exception = if self.kind.removal() != Removal::Never {
            let tombstone = content.tombstone(self.kind, name);
            let edges = Edges::taking(tombstone.map_or(content.configuration(), |t| t.revision));
            let drain = tombstone.map(|t| t.drain);
            self.differed = true;
            Exception::Gone { new: false, seq: content.seq(), drain, now: false, edges }
        } else {
            Exception::Wanted { new: false, group: None }
        };
        self.exceptions.insert(Arc::clone(name), exception);
    }

    /// The stream lacks the name, as far as acknowledgements tell. A route configuration is never removed from a proxy
    /// that asks for it: one that went and came again is still there, and only exceptions say that it is not.
    pub(super) fn is_new(&self, name: &str, created: Seq) -> bool {
        let unknown = self.kind != ResourceType::Route || self.acked == Seq(0);
        self.exceptions.get(name).map_or(unknown && created > self.acked, Exception::is_new)
    }

    /// An answer to the response `nonce`; false if that is not in flight.
    pub(super) fn resolve(&mut self, nonce: u64, error: Option<&str>, content: &Content, now: Instant) -> bool {
        let Some(at) = self.in_flight.iter().position(|f| f.frame.nonce == nonce) else { return false };
        let Some(flight) = self.in_flight.remove(at) else { return false };
        match error {
            // No content was refused; what the client has is not what it was thought to have.
            Some(_) if flight.frame.renews() => {
                flight.frame.resources.iter().for_each(|resource| self.renew(&resource.name, content));
            }
            Some(error) => self.refuse(&flight.frame, error, content),
            None => {
                for name in self.beats.acknowledged(&flight, now) {
                    self.renew(&name, content);
                }
                self.take(&flight.frame);
            }
        }
        self.acked = self.in_flight.front().map_or(self.sent, |f| f.from);
        self.dirty = true;
        true
    }

    /// What an acknowledged response settles.
    fn take(&mut self, frame: &Frame) {
        self.refused_since.retain(|name, _| !frame.resources.iter().any(|r| r.name == *name));
        let answered = |e: &Exception| matches!(e, Exception::Flying { nonce, .. } if *nonce == frame.nonce);
        for resource in &frame.resources {
            if self.exceptions.get(&resource.name).is_some_and(answered) {
                self.exceptions.remove(&resource.name);
            }
        }
        let names = frame.resources.iter().map(|r| &r.name).chain(&frame.removed);
        names.for_each(|name| self.doubts |= self.doubted.remove(name));
    }

    /// Marks that there is something new for feedback.
    pub(super) fn touch(&mut self) {
        self.dirty = true;
    }

    pub(super) fn report(&mut self) -> Option<(ResourceType, feedback::TypeState)> {
        if !std::mem::replace(&mut self.dirty, false) {
            return None;
        }
        let (mut pending, mut behind) = (Vec::new(), None);
        let mut parked = BTreeMap::new();
        for (name, exception) in &self.exceptions {
            match exception {
                Exception::Parked { parked: p, .. } => {
                    parked.insert(Arc::clone(name), p.clone());
                }
                Exception::Gone { .. } | Exception::Absent { .. } => {}
                _ => {
                    let taken = self.taken.get(name).copied();
                    behind = behind.into_iter().chain(taken).min();
                    pending.push(Arc::clone(name));
                }
            }
        }
        let state = feedback::TypeState {
            subscription: Arc::clone(&self.subscription),
            sent: self.sent,
            acked: self.acked,
            pending: Arc::new(pending),
            behind,
            parked: Arc::new(parked),
            set: 0,
        };
        Some((self.kind, state))
    }
}

//! One type of one stream: subscription, cursors, what is in flight, and a side map of exceptions.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Instant,
};

use super::{gate::Hold, touched::Touched};
use crate::{
    feedback,
    model::Revision,
    serve::fanout::{Fanout, Frame},
    snapshot::{Content, Seq, Tombstone},
    xds::{ResourceType, Subscription, Version},
};

/// Bytes of a proxy's error text that are kept.
const MAX_ERROR: usize = 1024;

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
    /// What the first request reported, until the view is ready to be compared with it.
    initial: Option<HashMap<String, String>>,
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
    pub(super) fn new(kind: ResourceType, initial: HashMap<String, String>) -> Self {
        Self {
            kind,
            subscription: Arc::default(),
            fanout: None,
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
    pub(super) fn seed(&mut self, content: &Content, touched: &Touched, stale: bool) {
        let Some(mut initial) = self.initial.take() else { return };
        if stale {
            let equal = |name: &str, version: &str| {
                let entry = content.get(self.kind, name);
                entry.is_some_and(|e| Version::parse(version) == Some(e.resource.version))
            };
            let unknown = initial.iter().filter(|(name, version)| !equal(name, version));
            self.withheld = unknown.map(|(name, _)| Arc::from(name.as_str())).collect();
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
        for (name, _) in listed.iter().filter(|(_, version)| version.is_none()) {
            self.exceptions.entry(Arc::clone(name)).or_insert(want(!initial.contains_key(&***name)));
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
            let reported = initial.get(&**name);
            if reported.is_some_and(|v| Version::parse(v) == Some(version)) && !touched.contains(name) {
                return;
            }
            self.differed = true;
            self.taken.insert(Arc::clone(name), Seq(0));
            self.exceptions.entry(Arc::clone(name)).or_insert(want(reported.is_none()));
        };
        if subscription.wildcard() {
            content.entries(self.kind).for_each(|(n, e)| compare(n, e.resource.version));
        } else {
            listed.iter().for_each(|(name, version)| version.iter().for_each(|version| compare(name, *version)));
        }
        if subscription.wildcard() && self.kind.empty_is_all() {
            // A host that is asked for by name is answered, though it may be under another.
            let asked = |name: &str| self.kind == ResourceType::VirtualHost && subscription.names().contains(name);
            let lost = |name: &String| content.get(self.kind, name).is_none() && !asked(name);
            for name in initial.into_keys().filter(lost) {
                let tombstone = content.tombstone(self.kind, &name);
                let edges = Edges::taking(tombstone.map_or(content.configuration(), |t| t.revision));
                let drain = tombstone.map(|t| t.drain);
                let gone = Exception::Gone { new: false, seq: content.seq(), drain, now: false, edges };
                self.exceptions.insert(name.into(), gone);
                self.differed = true;
            }
        }
    }

    /// `*`, by word or by an empty first request. Whoever asks again is answered again: it may hold nothing (rule 49).
    pub(super) fn start_wildcard(&mut self, first: bool, content: &Content) {
        if !Arc::make_mut(&mut self.subscription).set_wildcard(true) {
            return;
        }
        self.changed_subscription();
        if !first && self.seeded() {
            self.answer_empty = true;
            for (name, entry) in content.entries(self.kind) {
                let new = self.is_new(name, entry.created);
                self.exceptions.insert(Arc::clone(name), Exception::Wanted { new, group: None });
            }
        }
    }

    /// Every name is answered, whatever we think that the proxy has (rule 51); those of a first request when it is
    /// compared with what that reports.
    pub(super) fn subscribe(&mut self, names: &[String], first: bool, content: &Content) {
        for name in names {
            if name == "*" {
                self.start_wildcard(first, content);
                continue;
            }
            let name: Arc<str> = name.as_str().into();
            let was = self.subscription.contains(&name);
            if Arc::make_mut(&mut self.subscription).insert(Arc::clone(&name)) {
                self.changed_subscription();
            }
            if !first {
                let created = content.get(self.kind, &name).map(|e| e.created);
                let new = !was || self.is_new(&name, created.unwrap_or_default());
                if let (false, Some(created)) = (was, created) {
                    // Nothing of it is there yet, however often it changed before it was asked for.
                    self.taken.insert(Arc::clone(&name), Seq(created.0.saturating_sub(1)));
                }
                if !matches!(self.exceptions.get(&name), Some(Exception::Gone { .. })) {
                    self.exceptions.insert(name, Exception::Wanted { new, group: None });
                }
            }
        }
    }

    /// After the subscribes. A name that a wildcard still covers is answered, present or absent (rule 47).
    pub(super) fn unsubscribe(&mut self, names: &[String]) {
        for name in names {
            self.withheld.remove(name.as_str());
            if name == "*" {
                if Arc::make_mut(&mut self.subscription).set_wildcard(false) {
                    self.answer_empty = false;
                    self.changed_subscription();
                    let kept = Arc::clone(&self.subscription);
                    self.exceptions.retain(|n, _| kept.contains(n));
                }
                continue;
            }
            if Arc::make_mut(&mut self.subscription).remove(name) {
                self.changed_subscription();
            }
            if self.subscription.wildcard() {
                if !matches!(self.exceptions.get(name.as_str()), Some(Exception::Gone { .. })) {
                    self.exceptions.insert(name.as_str().into(), Exception::Wanted { new: false, group: None });
                }
            } else {
                self.exceptions.remove(name.as_str());
            }
        }
        if self.subscription.is_empty() {
            // Envoy drops a response of a type that it does not watch, without a word (O12): no slot may wait for it.
            self.in_flight.clear();
            self.parts.clear();
            self.acked = self.sent;
        }
    }

    fn changed_subscription(&mut self) {
        let wanted = Arc::clone(&self.subscription);
        self.refused_since.retain(|name, _| wanted.contains(name));
        self.fanout = None;
        self.dirty = true;
    }

    /// The stream lacks the name, as far as acknowledgements tell. A route configuration is never removed from a proxy
    /// that asks for it: one that went and came again is still there, and only exceptions say that it is not.
    pub(super) fn is_new(&self, name: &str, created: Seq) -> bool {
        let unknown = self.kind != ResourceType::Route || self.acked == Seq(0);
        self.exceptions.get(name).map_or(unknown && created > self.acked, Exception::is_new)
    }

    /// An answer to the response `nonce`; false if that is not in flight.
    pub(super) fn resolve(&mut self, nonce: u64, error: Option<&str>, content: &Content) -> bool {
        let Some(at) = self.in_flight.iter().position(|f| f.frame.nonce == nonce) else { return false };
        let Some(flight) = self.in_flight.remove(at) else { return false };
        if let Some(error) = error {
            self.refuse(&flight.frame, error, content);
        } else {
            self.refused_since.retain(|name, _| !flight.frame.resources.iter().any(|r| r.name == *name));
            let answered = |e: &Exception| matches!(e, Exception::Flying { nonce: n, .. } if *n == nonce);
            if !self.exceptions.is_empty() {
                for resource in &flight.frame.resources {
                    if self.exceptions.get(&resource.name).is_some_and(answered) {
                        self.exceptions.remove(&resource.name);
                    }
                }
            }
        }
        self.acked = self.in_flight.front().map_or(self.sent, |f| f.from);
        self.dirty = true;
        true
    }

    /// Finds the culprits: names in the error text alone, the rest together; halves where none is named; a single name
    /// is parked.
    fn refuse(&mut self, frame: &Frame, error: &str, content: &Content) {
        let mut suspects = Vec::new();
        for resource in &frame.resources {
            let name = &resource.name;
            let ours = match self.exceptions.get(name) {
                Some(Exception::Flying { nonce, .. }) => *nonce == frame.nonce,
                Some(_) => false,
                // A later response carries newer content; that is judged by its own answer.
                None => !self
                    .in_flight
                    .iter()
                    .any(|f| f.frame.nonce > frame.nonce && f.frame.resources.iter().any(|r| r.name == *name)),
            };
            if ours && self.subscription.contains(name) {
                let created = content.get(self.kind, name).map_or(Seq(0), |e| e.created);
                let new = self.is_new(name, created);
                self.taken.entry(Arc::clone(name)).or_insert(self.acked);
                suspects.push((Arc::clone(name), resource.version, new));
            }
        }
        if !frame.resources.is_empty() {
            // What else stood in a refused response is uncertain; removing twice does no harm.
            for name in frame.removed.iter().filter(|n| content.get(self.kind, n).is_none()) {
                let edges = Edges::default();
                let again = Exception::Gone { new: false, seq: Seq(0), drain: None, now: true, edges };
                if self.kind.empty_is_all() {
                    self.exceptions.entry(Arc::clone(name)).or_insert(again);
                }
            }
        }
        // Alone in its response: it is the culprit. A last suspect whose company is not wanted any more may not be.
        if let ([(name, version, new)], [_]) = (suspects.as_slice(), frame.resources.as_slice()) {
            let mut end = error.len().min(MAX_ERROR);
            while !error.is_char_boundary(end) {
                end -= 1;
            }
            let refused = content.get(self.kind, name).filter(|e| e.resource.version == *version);
            let at = refused.map_or(content.seq(), |e| e.content);
            let since = *self.refused_since.entry(Arc::clone(name)).or_insert(at);
            let error = error.get(..end).unwrap_or_default().into();
            let parked = feedback::Parked { version: *version, error, since };
            self.exceptions.insert(Arc::clone(name), Exception::Parked { new: *new, parked });
            return;
        }
        let named: BTreeSet<Arc<str>> =
            suspects.iter().filter(|(n, ..)| mentions(error, n)).map(|(n, ..)| Arc::clone(n)).collect();
        let half = suspects.len().div_ceil(2);
        let (rest, second) = (self.next_group(), self.next_group());
        for (index, (name, _, new)) in suspects.into_iter().enumerate() {
            let group = if named.contains(&name) {
                self.next_group()
            } else if named.is_empty() && index >= half {
                second
            } else {
                rest
            };
            self.exceptions.insert(name, Exception::Wanted { new, group: Some(group) });
        }
    }

    fn next_group(&mut self) -> u32 {
        self.groups = self.groups.wrapping_add(1);
        self.groups
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

/// Whether `text` has `name` in it as a word of its own.
fn mentions(text: &str, name: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || "-_/.:*+@".contains(c);
    text.match_indices(name).any(|(at, _)| {
        let before = text.get(..at).and_then(|t| t.chars().next_back());
        let rest = text.get(at + name.len()..).unwrap_or_default();
        // "cluster a: no such…" and "cluster a." end a word too.
        let rest = rest.trim_start_matches(['.', ':']);
        !before.is_some_and(part) && !rest.chars().next().is_some_and(part)
    })
}

#[cfg(test)]
mod tests {
    use super::mentions;

    #[test]
    fn names_are_found_as_words_only() {
        assert!(mentions("Error adding/updating cluster(s) shop/web:80: no such", "shop/web:80"));
        assert!(mentions("route 'a' is bad", "a"));
        assert!(!mentions("Error adding shop/web:80", "shop/web"));
        assert!(!mentions("bad cluster", "a"));
    }
}

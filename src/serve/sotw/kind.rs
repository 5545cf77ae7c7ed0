//! One type of one state-of-the-world stream: names, what the client has, what is in flight, what it refuses.

mod answers;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Instant,
};

use crate::{
    feedback,
    serve::session::{STOOD, interval},
    snapshot::{Content, Entry, Group, Seq},
    xds::{Names, Resource, ResourceType, Subscription, Version, name},
};

/// A response that is neither acknowledged nor refused; one at most (rule 20).
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) nonce: u64,
    pub(super) version: Version,
    /// The publish up to which it speaks.
    pub(super) seq: Seq,
    pub(super) sent: Vec<Arc<Resource>>,
    /// All that the client has when it accepts it; none where a response only adds.
    pub(super) set: Option<BTreeMap<Arc<str>, Arc<Resource>>>,
}

#[derive(Debug)]
pub(super) struct Kind {
    pub(super) kind: ResourceType,
    subscription: Arc<Subscription>,
    /// All that ask for the same, once the set has stood for a while.
    pub(super) group: Option<Arc<Group>>,
    /// When it last changed.
    pub(super) asked: Option<Instant>,
    /// It once asked for names: an empty list means nothing since (rules 40 to 43).
    explicit: bool,
    /// What the client said to have at the start of the stream.
    reported: String,
    /// No response yet.
    pub(super) first: bool,
    nonce: u64,
    flight: Option<Flight>,
    /// What the client accepted.
    pub(super) held: BTreeMap<Arc<str>, Arc<Resource>>,
    /// Clusters that there were before it was known what the client has: what was sent meanwhile may name them.
    pub(super) before: BTreeMap<Arc<str>, Arc<Resource>>,
    /// What it refused in part, we know not which: it may have it.
    doubtful: Vec<Arc<Resource>>,
    /// The version of `held`.
    version: Option<Version>,
    refused_version: Option<Version>,
    parked: BTreeMap<Arc<str>, feedback::Parked>,
    /// Names of refused responses that are tried again in parts, of types whose responses may be parts.
    suspects: VecDeque<BTreeSet<Arc<str>>>,
    /// Collections, which there are none of here.
    pub(super) collections: BTreeSet<Arc<str>>,
    /// Names of which the client was told that there is no resource.
    pub(super) told: BTreeSet<Arc<str>>,
    /// Names that the client wrote otherwise than in normal form, by that.
    spelled: BTreeMap<Arc<str>, Arc<str>>,
    /// When what has a time to live is sent again, for a client that knows such.
    lives: BTreeMap<Arc<str>, Instant>,
    /// When the stream began, for such a client.
    seed: Option<Instant>,
    /// Names that it did not ask for in between: what came for them meanwhile it may have dropped.
    wavered: BTreeSet<Arc<str>>,
    /// To be sent again although the client has it.
    pub(super) again: BTreeSet<Arc<str>>,
    /// Since when a resource waits for its clusters.
    pub(super) since: BTreeMap<Arc<str>, (Version, Instant)>,
    /// Up to where everything was acknowledged when something began to wait.
    pub(super) behind: Option<Seq>,
    /// Since when nothing names a cluster that is gone.
    pub(super) unused: BTreeMap<Arc<str>, Instant>,
    /// Something waits for time or another type.
    pub(super) delayed: bool,
    /// Looked at up to this publish.
    pub(super) seen: Seq,
    acked: Seq,
    stirred: bool,
    dirty: bool,
    /// Bytes of the set that was sent last, about.
    set: usize,
}

impl Kind {
    pub(super) fn new(kind: ResourceType, reported: String, seed: Option<Instant>) -> Self {
        Self {
            kind,
            subscription: Arc::default(),
            group: None,
            asked: None,
            explicit: false,
            reported,
            first: true,
            nonce: 0,
            flight: None,
            held: BTreeMap::new(),
            before: BTreeMap::new(),
            doubtful: Vec::new(),
            version: None,
            refused_version: None,
            parked: BTreeMap::new(),
            suspects: VecDeque::new(),
            collections: BTreeSet::new(),
            told: BTreeSet::new(),
            spelled: BTreeMap::new(),
            lives: BTreeMap::new(),
            seed,
            wavered: BTreeSet::new(),
            again: BTreeSet::new(),
            since: BTreeMap::new(),
            behind: None,
            unused: BTreeMap::new(),
            delayed: false,
            seen: Seq(0),
            acked: Seq(0),
            stirred: true,
            dirty: true,
            set: 0,
        }
    }

    /// An empty list is nothing from the first request on: gRPC clients know no wildcard (rule 46).
    pub(super) fn means_it(&mut self) {
        self.explicit = true;
    }

    /// A request that answers an older response than the last is ignored whole (rule 19). The first of a stream may
    /// carry a nonce of another one (rule 8), and two may come before the first response (rule 22).
    pub(super) fn stale(&self, nonce: &str) -> bool {
        self.nonce != 0 && !nonce.is_empty() && u64::from_str_radix(nonce, 16) != Ok(self.nonce)
    }

    /// A stale request is not looked at, but for the names that it does not have any more.
    pub(super) fn waver(&mut self, names: &[String]) {
        let asked: BTreeSet<_> = names.iter().map(|name| name::normal(name)).collect();
        let dropped = self.subscription.names().iter().filter(|name| !asked.contains(&***name));
        self.wavered.extend(dropped.cloned());
        self.dirty = true;
    }

    /// The names as of now; those that are new are answered whatever the client had (rules 27 and 28).
    pub(super) fn subscribe(&mut self, names: &[String], content: &Content) {
        self.explicit |= !names.is_empty();
        let mut next = Subscription::default();
        next.set_wildcard((self.kind.wildcard() && !self.explicit) || names.iter().any(|name| name == "*"));
        self.collections.clear();
        self.spelled.clear();
        for name in names.iter().filter(|name| *name != "*") {
            let normal: Arc<str> = name::normal(name).into();
            if *normal != **name {
                self.spelled.insert(Arc::clone(&normal), name.as_str().into());
            }
            if name::is_glob(&normal) {
                self.collections.insert(normal);
            } else {
                next.insert(normal);
            }
        }
        let wanted = |name: &Arc<str>| next.contains(name) || self.collections.contains(name);
        self.told.retain(wanted);
        if !self.collections.is_subset(&self.told) {
            self.stir();
        }
        if next.is_empty() {
            // A client that asks for nothing does not answer what is on its way (O12).
            self.flight = None;
        }
        let again =
            std::mem::take(&mut self.wavered).into_iter().filter(|name| next.contains(name)).collect::<Vec<_>>();
        if !again.is_empty() {
            self.again.extend(again);
            self.stir();
        }
        if *self.subscription == next {
            return;
        }
        for name in next.names().iter().filter(|name| !self.subscription.names().contains(name)) {
            self.again.insert(Arc::clone(name));
        }
        if next.wildcard() && !self.subscription.wildcard() && self.acked > Seq(0) {
            // What is acknowledged says nothing of what was not asked for.
            let names = content.entries(self.kind).map(|(name, _)| name);
            self.again.extend(names.filter(|name| !self.subscription.contains(name)).cloned());
        }
        self.held.retain(|name, _| next.contains(name));
        self.parked.retain(|name, _| next.contains(name));
        self.again.retain(|name| next.contains(name));
        self.doubtful.retain(|resource| next.contains(&resource.name));
        self.suspects.iter_mut().for_each(|group| group.retain(|name| next.contains(name)));
        self.subscription = Arc::new(next);
        (self.group, self.asked) = (None, None);
        // The set that the client has is no longer the one that it asks for.
        self.version = None;
        self.stir();
    }

    /// It asks for nothing.
    pub(super) fn idle(&self) -> bool {
        self.subscription.is_empty() && self.collections.is_empty()
    }

    /// The names that it asks for by name.
    pub(super) fn names(&self) -> &Names {
        self.subscription.names()
    }

    /// The name as the client wrote it.
    pub(super) fn spelled(&self, name: &Arc<str>) -> Arc<str> {
        Arc::clone(self.spelled.get(name).unwrap_or(name))
    }

    pub(super) fn wants(&self, name: &str) -> bool {
        self.subscription.contains(name)
    }

    /// What is there of what the client asks for, by name.
    pub(super) fn wanted<'a>(&self, content: &'a Content) -> Vec<(Arc<str>, &'a Entry)> {
        if self.subscription.wildcard() {
            return content.entries(self.kind).map(|(name, entry)| (Arc::clone(name), entry)).collect();
        }
        let names = self.subscription.names().iter();
        names.filter_map(|name| Some((Arc::clone(name), content.get(self.kind, name)?))).collect()
    }

    pub(super) fn flying(&self) -> bool {
        self.flight.is_some()
    }

    /// Something may have to be sent: a request, a publish that this type sees, or something that waited.
    pub(super) fn stirred(&mut self, content: &Content) -> bool {
        if std::mem::take(&mut self.stirred) || self.delayed {
            return true;
        }
        let concerned = self.group.as_ref().is_none_or(|group| group.touched(self.seen));
        let touched = concerned
            && (content.changed(self.kind, self.seen).iter().any(|name| self.wants(name))
                || content.gone(self.kind, self.seen).any(|(name, _)| self.wants(name)));
        if !touched {
            self.settle(content);
        }
        touched
    }

    /// Only what concerns its names can concern it.
    pub(super) fn settled(&self) -> bool {
        !self.stirred && !self.delayed && (self.group.is_some() || self.idle())
    }

    /// Joins all that ask for the same; answers when, if not yet. Everything is one line of the index, names are many.
    pub(super) fn join(&mut self, content: &Content, now: Instant) -> Option<Instant> {
        if self.group.is_some() || self.idle() {
            return None;
        }
        let stood = self.asked.filter(|_| !self.subscription.wildcard()).map(|at| at + STOOD);
        if stood.is_none_or(|at| at <= now) {
            let group = self.group.insert(content.join(self.kind, &self.subscription));
            self.subscription = Arc::clone(group.subscription());
            return None;
        }
        stood
    }

    pub(super) fn stir(&mut self) {
        self.stirred = true;
        self.dirty = true;
    }

    /// A client that reconnects with the version of exactly what there is, of everything, has it (rule 26), and needs
    /// none of it again.
    pub(super) fn resumes(&mut self, content: &Content) -> bool {
        // Of other types what is held back is in the version, but not in the response.
        let whole = self.kind.wildcard() && self.subscription.wildcard() && self.subscription.names().is_empty();
        let reported = std::mem::take(&mut self.reported);
        if !self.first || !whole || reported.is_empty() {
            return false;
        }
        let all = self.wanted(content);
        let version = super::version_of(all.iter().map(|(_, entry)| &entry.resource));
        if Version::parse(&reported) != Some(version) {
            return false;
        }
        self.before.clear();
        self.held = all.into_iter().map(|(name, entry)| (name, Arc::clone(&entry.resource))).collect();
        if self.seed.is_some() {
            // Nobody knows for how long it still lives.
            let lasting = self.held.values().filter(|r| r.ttl.is_some());
            self.again = lasting.map(|r| Arc::clone(&r.name)).collect();
        }
        (self.version, self.first) = (Some(version), false);
        self.settle(content);
        self.again.is_empty()
    }

    /// The client said that it has something, and that is not compared yet.
    pub(super) fn reports(&self) -> bool {
        self.first && !self.reported.is_empty()
    }

    /// Not to be compared with the view yet; what that has may be named by what is sent meanwhile.
    pub(super) fn offer(&mut self, content: &Content) {
        if self.kind == ResourceType::Cluster {
            let all = self.wanted(content).into_iter().map(|(name, entry)| (name, Arc::clone(&entry.resource)));
            self.before.extend(all.collect::<Vec<_>>());
        }
    }

    /// Whether a set of that version has to be sent: the first always, an empty one too (rule 31).
    pub(super) fn due_again(&self, version: Version) -> bool {
        let asked = self.first || !self.again.is_empty();
        self.refused_version != Some(version) && (asked || self.version != Some(version))
    }

    /// Something begins to wait: what is acknowledged from now on says nothing of it.
    pub(super) fn hold_back(&mut self) {
        if self.since.is_empty() {
            self.behind = Some(self.acked);
        }
    }

    /// What is gone, dropped, refused, or again as the client has it, waits for nothing.
    pub(super) fn forgo(&mut self, content: &Content) {
        let mut since = std::mem::take(&mut self.since);
        since.retain(|name, _| {
            let version = content.get(self.kind, name).map(|entry| entry.resource.version);
            let has = self.held.get(name).map(|old| old.version);
            self.wants(name) && version != has && version.is_some_and(|version| !self.refuses(name, version))
        });
        self.since = since;
    }

    pub(super) fn refuses(&self, name: &str, version: Version) -> bool {
        self.parked.get(name).is_some_and(|parked| parked.version == version)
    }

    pub(super) fn refused_at_all(&self, name: &str) -> bool {
        self.parked.contains_key(name)
    }

    /// Nothing to send counts as acknowledged.
    pub(super) fn settle(&mut self, content: &Content) {
        self.dirty |= self.acked != content.seq();
        (self.seen, self.acked) = (content.seq(), content.seq());
    }

    pub(super) fn launch(&mut self, flight: Flight, now: Instant) {
        (self.nonce, self.first, self.seen) = (flight.nonce, false, flight.seq);
        if flight.set.is_some() {
            self.set = flight.sent.iter().map(|resource| resource.body.len()).sum();
        }
        for resource in &flight.sent {
            self.again.remove(&resource.name);
            if let (Some(ttl), Some(seed)) = (resource.ttl, self.seed) {
                let due = now + interval(ttl, &resource.name, seed);
                self.lives.insert(Arc::clone(&resource.name), due);
            } else {
                self.lives.remove(&resource.name);
            }
        }
        if flight.set.is_some() {
            // A whole set answers every name, one that does not exist by its absence.
            self.again.clear();
        }
        self.flight = Some(flight);
        self.dirty = true;
    }

    /// The next time at which something would run out, without what is dropped or not there any more.
    pub(super) fn ends(&mut self, content: &Content) -> Option<Instant> {
        let (kind, held, asked) = (self.kind, &self.held, &self.subscription);
        let there = |name: &str| content.get(kind, name).is_some() || (kind.wildcard() && held.contains_key(name));
        self.lives.retain(|name, _| asked.contains(name) && there(name));
        self.lives.values().min().copied()
    }

    /// What would run out is sent again.
    pub(super) fn renew(&mut self, now: Instant) {
        let due: Vec<_> = self.lives.iter().filter(|(_, due)| **due <= now).map(|(name, _)| Arc::clone(name)).collect();
        for name in due {
            self.lives.remove(&name);
            self.again.insert(name);
            self.stir();
        }
    }

    /// It stood in a refused response, and waits for its turn.
    pub(super) fn suspected(&self, name: &str) -> bool {
        self.suspects.iter().any(|group| group.contains(name))
    }

    /// The next part of a refused response.
    pub(super) fn next_suspects(&mut self) -> Option<BTreeSet<Arc<str>>> {
        self.suspects.pop_front()
    }

    /// What the response in flight brings that the client has not.
    pub(super) fn news(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.flight().filter(|r| self.held.get(&r.name).is_none_or(|old| old.version != r.version))
    }

    /// What the response in flight brings.
    pub(super) fn flight(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.flight.iter().flat_map(|flight| &flight.sent)
    }

    /// What the client has, and what it may have.
    pub(super) fn may_have(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.held.values().chain(&self.doubtful)
    }

    pub(super) fn report(&mut self) -> Option<(ResourceType, feedback::TypeState)> {
        if !std::mem::take(&mut self.dirty) {
            return None;
        }
        let mut pending: BTreeSet<Arc<str>> = self.since.keys().chain(&self.again).cloned().collect();
        pending.extend(self.flight.iter().flat_map(|flight| &flight.sent).map(|r| Arc::clone(&r.name)));
        pending.extend(self.suspects.iter().flatten().cloned());
        // The client may have let go of them meanwhile.
        pending.extend(self.wavered.iter().cloned());
        let state = feedback::TypeState {
            subscription: Arc::clone(&self.subscription),
            sent: self.seen,
            acked: self.acked,
            pending: Arc::new(pending.into_iter().collect()),
            behind: self.behind.filter(|_| !self.since.is_empty()),
            parked: Arc::new(self.parked.clone()),
            set: self.set,
        };
        Some((self.kind, state))
    }
}

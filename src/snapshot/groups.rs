//! Who has to be told of a publish: streams of a view that ask for the same are a group, and a publish finds by the names
//! that it touches the groups that see something of it. What it costs is in proportion to what it changes, whatever the
//! number of streams that it does not concern.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::{Seq, seat::Seats};
use crate::xds::{ResourceType, Subscription};

/// Touches that a group remembers: its streams are at most a few behind.
const REMEMBERED: usize = 32;
/// Lines of groups that are gone are swept out of the index when there are this many, and half of all.
const SWEPT: usize = 1024;

/// All streams of a view that ask for the same of one type, and when a publish last concerned them.
#[derive(Debug)]
pub struct Group {
    kind: ResourceType,
    subscription: Arc<Subscription>,
    touches: Mutex<Touches>,
    pub(super) seats: Seats,
    /// Lines in the index of groups that are gone.
    gone: Arc<AtomicUsize>,
}

impl Group {
    /// The type.
    pub fn kind(&self) -> ResourceType {
        self.kind
    }

    /// What its streams ask for.
    pub fn subscription(&self) -> &Arc<Subscription> {
        &self.subscription
    }

    /// The least cursor that has exactly what `seq` has: streams that nothing has concerned lag behind the view, each in
    /// its own way, and lack the same.
    pub fn base(&self, seq: Seq) -> Seq {
        self.touches().base(seq)
    }

    /// Whether a publish later than `seq` concerned it; also true where that is forgotten.
    pub fn touched(&self, seq: Seq) -> bool {
        self.touches().next(seq).is_some()
    }

    fn touches(&self) -> MutexGuard<'_, Touches> {
        self.touches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.gone.fetch_add(keys(self.kind, &self.subscription).count(), Ordering::Relaxed);
    }
}

/// The publishes that concerned a group, as far as they are remembered.
#[derive(Debug)]
struct Touches {
    /// Every one after this is remembered.
    floor: Seq,
    recent: VecDeque<Seq>,
}

impl Touches {
    /// Returns whether it is the first of this publish.
    fn push(&mut self, seq: Seq) -> bool {
        if self.recent.back() == Some(&seq) {
            return false;
        }
        if self.recent.len() == REMEMBERED
            && let Some(oldest) = self.recent.pop_front()
        {
            self.floor = oldest;
        }
        self.recent.push_back(seq);
        true
    }

    fn base(&self, seq: Seq) -> Seq {
        if seq <= self.floor {
            return seq;
        }
        self.recent.iter().rev().find(|touch| **touch <= seq).copied().unwrap_or(self.floor)
    }

    /// The first one after `seq`; what is forgotten may have come at once.
    fn next(&self, seq: Seq) -> Option<Seq> {
        if seq < self.floor {
            return Some(Seq(seq.0 + 1));
        }
        self.recent.iter().find(|touch| **touch > seq).copied()
    }
}

/// By what a publish finds a group.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Key {
    /// It asks for everything of a type, or for collections.
    All(ResourceType),
    /// It asks for a name.
    Name(ResourceType, Arc<str>),
}

/// Under which keys a publish looks for whoever asks for this. Who asks for collections is told of everything: they are
/// few, and what concerns them is for them to find.
fn keys(kind: ResourceType, subscription: &Subscription) -> impl Iterator<Item = Key> {
    let all = (!subscription.named_only()).then_some(Key::All(kind));
    let names = subscription.names().iter().filter(|_| subscription.named_only());
    all.into_iter().chain(names.map(move |name| Key::Name(kind, Arc::clone(name))))
}

/// The groups of one view.
#[derive(Debug, Default)]
pub(super) struct Groups(Mutex<Index>);

#[derive(Debug, Default)]
struct Index {
    /// By type and digest of the subscription.
    interned: HashMap<(ResourceType, u64), Vec<Weak<Group>>>,
    found_by: HashMap<Key, Vec<Weak<Group>>>,
    lines: usize,
    gone: Arc<AtomicUsize>,
}

impl Groups {
    /// The group of all that ask for exactly this; one that is made now knows of no publish up to `now`.
    pub(super) fn join(&self, kind: ResourceType, subscription: &Arc<Subscription>, now: Seq) -> Arc<Group> {
        let mut index = self.index();
        if let Some(found) = index.find(kind, subscription) {
            return found;
        }
        index.sweep();
        let group = Arc::new(Group {
            kind,
            subscription: Arc::clone(subscription),
            touches: Mutex::new(Touches { floor: now, recent: VecDeque::new() }),
            seats: Seats::default(),
            gone: Arc::clone(&index.gone),
        });
        let same = index.interned.entry((kind, subscription.digest())).or_default();
        same.retain(|group| group.strong_count() > 0);
        same.push(Arc::downgrade(&group));
        for key in keys(kind, subscription) {
            index.found_by.entry(key).or_default().push(Arc::downgrade(&group));
            index.lines += 1;
        }
        group
    }

    /// Up to where whoever has all of its subscription up to each of `seqs` has all of it, when the last publish is `now`:
    /// to the next that concerns it. No further than there where that is not known.
    pub(super) fn extent<const N: usize>(
        &self,
        kind: ResourceType,
        subscription: &Subscription,
        seqs: [Seq; N],
        now: Seq,
    ) -> [Seq; N] {
        if subscription.is_empty() {
            return seqs.map(|seq| now.max(seq));
        }
        let Some(group) = self.index().find(kind, subscription) else { return seqs };
        let touches = group.touches();
        seqs.map(|seq| touches.next(seq).map_or(now, |next| Seq(next.0.saturating_sub(1))).max(seq))
    }

    /// Notes that the publish `seq` concerns these names; the groups that see one of them.
    pub(super) fn touch(&self, seq: Seq, names: &BTreeSet<(ResourceType, Arc<str>)>) -> Vec<Arc<Group>> {
        let index = self.index();
        let mut touched = Vec::new();
        let kinds = names.iter().map(|(kind, _)| *kind).collect::<BTreeSet<_>>();
        let by_name = names.iter().map(|(kind, name)| Key::Name(*kind, Arc::clone(name)));
        for key in kinds.into_iter().map(Key::All).chain(by_name) {
            let groups = index.found_by.get(&key).into_iter().flatten().filter_map(Weak::upgrade);
            touched.extend(groups.filter(|group| group.touches().push(seq)));
        }
        touched
    }

    /// How many there are, those that are gone and still kept among them, and how many lines lead to them.
    #[cfg(test)]
    pub(super) fn kept(&self) -> (usize, usize) {
        let index = self.index();
        (index.interned.values().map(Vec::len).sum(), index.found_by.values().map(Vec::len).sum())
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Index {
    fn find(&self, kind: ResourceType, subscription: &Subscription) -> Option<Arc<Group>> {
        let same = self.interned.get(&(kind, subscription.digest()))?;
        let is_it = |known: &Subscription| std::ptr::eq(known, subscription) || *known == *subscription;
        same.iter().filter_map(Weak::upgrade).find(|group| is_it(&group.subscription))
    }

    /// What is gone is forgotten once it is half of all, so that it costs what it took to enter it.
    fn sweep(&mut self) {
        let gone = self.gone.load(Ordering::Relaxed);
        if gone < SWEPT || gone < self.lines / 2 {
            return;
        }
        self.gone.store(0, Ordering::Relaxed);
        let alive = |groups: &mut Vec<Weak<Group>>| {
            groups.retain(|group| group.strong_count() > 0);
            !groups.is_empty()
        };
        self.interned.retain(|_, groups| alive(groups));
        self.found_by.retain(|_, groups| alive(groups));
        self.lines = self.found_by.values().map(Vec::len).sum();
    }
}

//! The content of a view: names, tombstones and the bounded log of one audience.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet, VecDeque},
    ops::Bound,
    sync::Arc,
};

use super::{Group, Origin, Publish, Seq, groups::Groups};
use crate::{
    model::{ObjectRef, Revision},
    xds::{PerType, Resource, ResourceType, ServiceNeed, Subscription},
};

/// Changes per type that are found without a scan.
const LOG: usize = 4096;
/// Publishes of which it is remembered what they carried: a proxy that is further behind has come nowhere.
const HISTORY: usize = 1024;

/// One name that the audience sees.
#[derive(Clone, Debug)]
pub struct Entry {
    /// What it sees.
    pub resource: Arc<Resource>,
    /// When it last had to be sent: its content changed, or that of the parent that it must follow.
    pub seq: Seq,
    /// When its content last changed.
    pub content: Seq,
    /// The same by this replica's clock, in seconds since 1970.
    pub changed: u32,
    /// The first publish since it was absent.
    pub created: Seq,
    /// A listener that reached it changed or went, and may still be draining (clusters only).
    pub drain: bool,
    /// When each source, in the order of `resource.sources`, last contributed something new.
    contributed: Vec<Seq>,
    /// Since when it names each service and group, in the order of `resource.services`.
    named: Vec<Seq>,
}

impl Entry {
    /// The services that it names, each with the seq since which it has.
    pub fn needs(&self) -> impl Iterator<Item = (&ServiceNeed, Seq)> {
        self.resource.services.iter().zip(self.named.iter().copied())
    }
}

/// A name that went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tombstone {
    /// When.
    pub seq: Seq,
    /// Since when it had been there.
    pub created: Seq,
    /// A cluster that a changed listener reached: connections that drain may still use it.
    pub drain: bool,
    /// The configuration without it.
    pub revision: Revision,
}

#[derive(Debug, Default)]
struct Names {
    entries: BTreeMap<Arc<str>, Entry>,
    /// The same names: whoever comes back names them all, in no order.
    known: HashSet<Arc<str>>,
    tombstones: BTreeMap<Arc<str>, Tombstone>,
    log: VecDeque<(Seq, Arc<str>)>,
    /// The log holds every change after this one.
    floor: Seq,
    /// The last change of any of them.
    newest: Seq,
}

impl Names {
    fn log(&mut self, seq: Seq, name: Arc<str>) {
        self.newest = self.newest.max(seq);
        if self.log.len() == LOG
            && let Some((dropped, _)) = self.log.pop_front()
        {
            self.floor = dropped;
        }
        self.log.push_back((seq, name));
    }
}

/// Keeps the seq of what each source already said; the culprit of a refusal is one that said something new.
fn contributions(entry: &Entry, resource: &Resource, seq: Seq) -> Vec<Seq> {
    let old = entry.resource.sources.iter().zip(entry.contributed.iter().copied());
    kept(old, resource.sources.iter(), seq)
}

/// Keeps the seq since which each service is named in the same group.
fn named(entry: &Entry, resource: &Resource, seq: Seq) -> Vec<Seq> {
    let old = entry.needs().map(|(need, since)| ((&need.service, &need.group), since));
    kept(old, resource.services.iter().map(|need| (&need.service, &need.group)), seq)
}

/// The seq of each of `new` that is among `old`, `seq` for the others. Both are sorted.
fn kept<K: Ord>(old: impl Iterator<Item = (K, Seq)>, new: impl Iterator<Item = K>, seq: Seq) -> Vec<Seq> {
    let mut old = old.peekable();
    new.map(|key| {
        while old.next_if(|(known, _)| *known < key).is_some() {}
        old.next_if(|(known, _)| *known == key).map_or(seq, |(_, since)| since)
    })
    .collect()
}

/// Everything in a view, as a reader sees it under the lock.
#[derive(Debug, Default)]
pub struct Content {
    ready: bool,
    seq: Seq,
    origin: Origin,
    /// Each publish that changed something, with the configuration of the one before it.
    history: VecDeque<(Seq, Revision)>,
    /// The newest publish that `history` has forgotten.
    forgotten: Seq,
    types: PerType<Names>,
    /// Which entries came from an object.
    carriers: BTreeMap<ObjectRef, BTreeSet<(ResourceType, Arc<str>)>>,
    /// Here, so that nobody joins one while a publish is under way.
    groups: Groups,
    /// No tombstone is older.
    oldest: Option<Seq>,
}

/// Whom a publish concerns.
#[derive(Debug, Default)]
pub(super) struct Touched {
    /// It changed something that is sent.
    pub(super) any: bool,
    /// Or what a resource waits for, its content being the same: whoever holds one back looks again.
    pub(super) waits: bool,
    pub(super) groups: Vec<Arc<Group>>,
}

impl Content {
    /// Something was published; before that every question is answered with silence.
    pub fn ready(&self) -> bool {
        self.ready
    }

    /// The last publish.
    pub fn seq(&self) -> Seq {
        self.seq
    }

    /// Everything up to this revision of the store is in it.
    pub fn revision(&self) -> Revision {
        self.origin.revision
    }

    /// The newest configuration that it carries.
    pub fn configuration(&self) -> Revision {
        self.origin.configuration
    }

    /// The newest configuration of which whoever has everything up to `seq` has everything: publishes that changed
    /// nothing here count.
    pub fn covers(&self, seq: Seq) -> Revision {
        let later = self.history.partition_point(|(at, _)| *at <= seq);
        match self.history.get(later) {
            None => self.origin.configuration,
            Some((_, before)) if later > 0 || seq >= self.forgotten => *before,
            Some(_) => Revision(0),
        }
    }

    /// One name.
    pub fn get(&self, kind: ResourceType, name: &str) -> Option<&Entry> {
        self.names(kind).entries.get(name)
    }

    /// The name as the view keeps it, so that whoever keeps it too keeps no copy.
    pub fn name(&self, kind: ResourceType, name: &str) -> Option<&Arc<str>> {
        self.names(kind).known.get(name)
    }

    /// All names of a type, sorted.
    pub fn entries(&self, kind: ResourceType) -> impl ExactSizeIterator<Item = (&Arc<str>, &Entry)> {
        self.names(kind).entries.iter()
    }

    /// The virtual hosts of a route configuration, to whose names it is the prefix.
    pub fn hosts(&self, routes: &str) -> impl Iterator<Item = (&Arc<str>, &Entry)> + use<'_> {
        let prefix = format!("{routes}/");
        let from = self
            .names(ResourceType::VirtualHost)
            .entries
            .range::<str, _>((Bound::Included(prefix.as_str()), Bound::Unbounded));
        from.take_while(move |(name, _)| name.starts_with(&prefix))
    }

    /// When anything of a type last had to be sent: whoever has acknowledged it lacks nothing.
    pub fn newest(&self, kind: ResourceType) -> Seq {
        self.names(kind).newest
    }

    /// Every entry that came from `object`, with its name and the seq of what the object last contributed to it.
    pub fn carriers(&self, object: &ObjectRef) -> impl Iterator<Item = (&Arc<str>, &Entry, Seq)> {
        let carriers = self.carriers.get(object).into_iter().flatten();
        let entry = |(kind, name): &(ResourceType, Arc<str>)| self.names(*kind).entries.get_key_value(name);
        carriers.filter_map(entry).filter_map(move |(name, entry)| {
            let at = entry.resource.sources.iter().position(|source| source.object == *object)?;
            Some((name, entry, entry.contributed.get(at).copied().unwrap_or_default()))
        })
    }

    /// Keeps [`Content::carriers`] true while `new` takes the place of `old`.
    fn carry(&mut self, old: Option<&Arc<Resource>>, new: Option<&Arc<Resource>>) {
        if let (Some(old), Some(new)) = (old, new)
            && old.sources.iter().map(|s| &s.object).eq(new.sources.iter().map(|s| &s.object))
        {
            return;
        }
        if let Some(resource) = old {
            let key = (resource.kind, Arc::clone(&resource.name));
            for source in &resource.sources {
                if let Some(carriers) = self.carriers.get_mut(&source.object) {
                    carriers.remove(&key);
                    if carriers.is_empty() {
                        self.carriers.remove(&source.object);
                    }
                }
            }
        }
        if let Some(resource) = new {
            let key = (resource.kind, Arc::clone(&resource.name));
            for source in &resource.sources {
                self.carriers.entry(source.object.clone()).or_default().insert(key.clone());
            }
        }
    }

    /// What is kept of a name that went.
    pub fn tombstone(&self, kind: ResourceType, name: &str) -> Option<Tombstone> {
        self.names(kind).tombstones.get(name).copied()
    }

    /// Names that went after `from`, sorted.
    pub fn gone(&self, kind: ResourceType, from: Seq) -> impl Iterator<Item = (&Arc<str>, Tombstone)> {
        self.names(kind).tombstones.iter().filter(move |(_, t)| t.seq > from).map(|(n, t)| (n, *t))
    }

    /// Present names that have to be sent to whoever has everything up to `from`, sorted; by the log where it reaches
    /// back far enough, else by one scan.
    pub fn changed(&self, kind: ResourceType, from: Seq) -> Vec<Arc<str>> {
        let names = self.names(kind);
        if from < names.floor || from == Seq(0) {
            return names.entries.iter().filter(|(_, e)| e.seq > from).map(|(n, _)| Arc::clone(n)).collect();
        }
        let recent = names.log.iter().rev().take_while(|(seq, _)| *seq > from);
        // An older line of a name that changed again since is passed over, so each name comes once.
        let current = recent.filter(|(seq, name)| names.entries.get(name).is_some_and(|e| e.seq == *seq));
        current.map(|(_, name)| Arc::clone(name)).collect::<BTreeSet<_>>().into_iter().collect()
    }

    fn names(&self, kind: ResourceType) -> &Names {
        self.types.get(kind)
    }

    fn names_mut(&mut self, kind: ResourceType) -> &mut Names {
        self.types.get_mut(kind)
    }

    /// The group of all streams that ask for exactly this of a type. What it is to be told of begins now.
    pub fn join(&self, kind: ResourceType, subscription: &Arc<Subscription>) -> Arc<Group> {
        self.groups.join(kind, subscription, self.seq)
    }

    /// Up to where whoever has all that it asks for up to each of `seqs` has all that it asks for: cursors of streams
    /// that no publish concerned lag behind.
    pub fn extent<const N: usize>(&self, kind: ResourceType, subscription: &Subscription, seqs: [Seq; N]) -> [Seq; N] {
        self.groups.extent(kind, subscription, seqs, self.seq)
    }

    #[cfg(test)]
    pub(super) fn kept(&self) -> (usize, usize) {
        self.groups.kept()
    }

    /// No tombstone is older than this; none without tombstones.
    pub(super) fn oldest(&self) -> Option<Seq> {
        self.oldest
    }

    /// Forgets the tombstones that every stream has passed.
    pub(super) fn prune(&mut self, passed: Seq) {
        for names in self.types.iter_mut() {
            names.tombstones.retain(|_, t| t.seq > passed);
        }
        self.oldest = self.types.iter().flat_map(|names| names.tombstones.values()).map(|t| t.seq).min();
    }

    /// At `now`, in seconds since 1970.
    pub(super) fn apply(&mut self, seq: Seq, now: u32, origin: Origin, changes: Publish) -> Touched {
        let first = !std::mem::replace(&mut self.ready, true);
        self.seq = self.seq.max(seq);
        let before = std::mem::replace(&mut self.origin, origin).configuration;
        self.mark_drains(&changes);
        let mut touched = BTreeSet::new();
        let waits = !changes.upserts.is_empty();
        let brought: HashSet<_> = changes.upserts.iter().map(|r| (r.kind, &r.name)).collect();
        // Upserts of the same publish win: a name is never in both halves of a response.
        for (kind, name) in changes.removals.iter().filter(|(kind, name)| !brought.contains(&(*kind, name))) {
            let names = self.names_mut(*kind);
            if let Some(old) = names.entries.remove(name) {
                names.known.remove(name);
                let revision = origin.configuration;
                let tombstone = Tombstone { seq, created: old.created, drain: old.drain, revision };
                names.tombstones.insert(Arc::clone(name), tombstone);
                self.carry(Some(&old.resource), None);
                self.oldest.get_or_insert(seq);
                touched.insert((*kind, Arc::clone(name)));
            }
        }
        let mut children = Vec::new();
        for resource in changes.upserts {
            if self.upsert(seq, now, &resource) {
                touched.insert((resource.kind, Arc::clone(&resource.name)));
                // What belongs to a filter each stream sends behind it; as a change it would go before.
                if matches!(resource.kind, ResourceType::Cluster | ResourceType::Listener) {
                    children.extend(resource.children.iter().cloned());
                }
            }
        }
        for (kind, name) in children {
            let names = self.names_mut(kind);
            if let Some(entry) = names.entries.get_mut(&name)
                && entry.seq < seq
            {
                entry.seq = seq;
                names.log(seq, Arc::clone(&name));
                touched.insert((kind, name));
            }
        }
        let any = first || !touched.is_empty();
        if any {
            self.remember(seq, before);
        }
        Touched { any, waits, groups: self.groups.touch(seq, &touched) }
    }

    fn remember(&mut self, seq: Seq, before: Revision) {
        if self.history.len() == HISTORY
            && let Some((dropped, _)) = self.history.pop_front()
        {
            self.forgotten = dropped;
        }
        self.history.push_back((seq, before));
    }

    fn upsert(&mut self, seq: Seq, now: u32, resource: &Arc<Resource>) -> bool {
        let old = self.get(resource.kind, &resource.name).map(|entry| Arc::clone(&entry.resource));
        self.carry(old.as_ref(), Some(resource));
        let names = self.names_mut(resource.kind);
        names.tombstones.remove(&resource.name);
        if let Some(entry) = names.entries.get_mut(&resource.name) {
            let same = entry.resource.version == resource.version;
            entry.contributed = contributions(entry, resource, seq);
            entry.named = named(entry, resource, seq);
            // Equal bytes may come from other objects now; whoever asks for sources wants the new ones.
            entry.resource = Arc::clone(resource);
            if same {
                return false;
            }
            (entry.seq, entry.content, entry.changed) = (seq, seq, now);
        } else {
            let (contributed, named) = (vec![seq; resource.sources.len()], vec![seq; resource.services.len()]);
            let resource = Arc::clone(resource);
            let entry =
                Entry { resource, seq, content: seq, changed: now, created: seq, drain: false, contributed, named };
            names.known.insert(Arc::clone(&entry.resource.name));
            names.entries.insert(Arc::clone(&entry.resource.name), entry);
        }
        names.log(seq, Arc::clone(&resource.name));
        true
    }

    /// Connections of a listener or filter chain that is replaced go on for the drain time, with the clusters that its
    /// old version reached (O19).
    fn mark_drains(&mut self, changes: &Publish) {
        let changed = changes.upserts.iter().filter(|r| r.kind == ResourceType::Listener);
        let changed = changed.filter_map(|r| {
            let old = self.get(r.kind, &r.name)?;
            (old.resource.version != r.version).then_some(&old.resource)
        });
        let went = changes.removals.iter().filter(|(kind, _)| *kind == ResourceType::Listener);
        let went = went.filter_map(|(kind, name)| self.get(*kind, name)).map(|e| &e.resource);
        let mut reached = BTreeSet::new();
        for listener in changed.chain(went) {
            self.reach(listener, &mut |cluster| {
                reached.insert(Arc::clone(cluster));
            });
        }
        let clusters = &mut self.names_mut(ResourceType::Cluster).entries;
        for name in reached {
            if let Some(entry) = clusters.get_mut(&name) {
                entry.drain = true;
            }
        }
    }

    /// Calls `found` with every cluster that `resource` requires, itself or through its filters, scopes, route
    /// configurations and their virtual hosts.
    pub fn reach(&self, resource: &Resource, found: &mut dyn FnMut(&Arc<str>)) {
        for (kind, name) in &resource.requires {
            match kind {
                ResourceType::Cluster => found(name),
                // Down the chain only, so that no ring of names is followed for ever.
                _ if *kind <= resource.kind => {}
                // It always names all of them.
                ResourceType::ScopedRoute => {
                    self.entries(*kind).for_each(|(_, scope)| self.reach(&scope.resource, found));
                }
                _ => self.get(*kind, name).into_iter().for_each(|entry| self.reach(&entry.resource, found)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{model::Kind, xds::Source};

    fn publish(content: &mut Content, seq: u64, upserts: Vec<Resource>, removals: &[&str]) {
        let upserts = upserts.into_iter().map(Arc::new).collect();
        let removals = removals.iter().map(|name| (ResourceType::Cluster, (*name).into())).collect();
        content.apply(Seq(seq), 0, Origin::default(), Publish { upserts, removals });
    }

    #[test]
    fn nothing_is_kept_of_objects_that_carry_nothing_any_more() {
        let made_of = |name: &str| {
            let source = Source { object: ObjectRef::new(Kind::Service, "a", name), contribution: 1 };
            Resource { sources: vec![source], ..Resource::new(ResourceType::Cluster, "c", name.to_owned().into()) }
        };
        let mut content = Content::default();
        publish(&mut content, 1, vec![made_of("x")], &[]);
        publish(&mut content, 2, vec![made_of("y")], &[]);
        let carried: Vec<_> = content.carriers.iter().map(|(object, names)| (&*object.name, names.len())).collect();
        assert_eq!(carried, [("y", 1)]);
        publish(&mut content, 3, vec![], &["c"]);
        assert!(content.carriers.is_empty());
    }

    #[test]
    fn the_log_is_as_long_as_it_may_be_and_no_longer() {
        let mut content = Content::default();
        for seq in 1..=LOG as u64 + 2 {
            publish(&mut content, seq, vec![Resource::new(ResourceType::Cluster, "c", seq.to_string().into())], &[]);
            let names = content.names(ResourceType::Cluster);
            assert_eq!(names.log.len(), LOG.min(usize::try_from(seq).unwrap()));
            assert_eq!(names.floor, Seq(seq.saturating_sub(LOG as u64)));
        }
    }
}

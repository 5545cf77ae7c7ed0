//! The content of a view, and what its groups know, against a plain record of what was published.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ResourceType::{Cluster, Endpoints, Listener};
use proptest::prelude::*;

use super::*;
use crate::{
    model::{Audience, Kind, ObjectRef, Role},
    xds::{Resource, Source, Subscription},
};

const KINDS: [ResourceType; 3] = [Cluster, Endpoints, Listener];
const NAMES: u8 = 4;

type Name = (ResourceType, Arc<str>);
/// Of each type and name: its payload and sources, or that it goes.
type Changes = BTreeMap<(usize, u8), Option<(u8, u8)>>;

/// What is to be true.
#[derive(Default)]
struct Record {
    /// Since when each name has to be sent, its payload, its sources.
    present: BTreeMap<Name, (Seq, u8, u8)>,
    gone: BTreeMap<Name, Seq>,
    newest: BTreeMap<ResourceType, Seq>,
    /// Each publish that concerned a name.
    concerned: BTreeSet<(Seq, Name)>,
}

impl Record {
    fn publish(&mut self, seq: Seq, changes: &Changes) {
        let name = |(kind, name): &(usize, u8)| (KINDS[*kind], Arc::from(format!("n{name}")));
        let mut sent = BTreeSet::new();
        for (key, change) in changes {
            let key: Name = name(key);
            match change {
                None if self.present.remove(&key).is_some() => {
                    self.gone.insert(key.clone(), seq);
                    self.concerned.insert((seq, key));
                }
                None => {}
                Some((payload, sources)) => {
                    self.gone.remove(&key);
                    let old = self.present.get(&key).copied();
                    let same = old.filter(|(_, old, _)| old == payload);
                    self.present.insert(key.clone(), (same.map_or(seq, |(at, ..)| at), *payload, *sources));
                    sent.extend(same.is_none().then_some(key));
                }
            }
        }
        // Assignments follow their clusters.
        let clusters: Vec<_> = sent.iter().filter(|(kind, _)| *kind == Cluster).cloned().collect();
        for (_, name) in clusters {
            let key = (Endpoints, name);
            if let Some(entry) = self.present.get_mut(&key) {
                entry.0 = seq;
                sent.insert(key);
            }
        }
        for key in sent {
            self.newest.insert(key.0, seq);
            self.concerned.insert((seq, key));
        }
    }

    fn holds(&self, content: &Content) {
        for kind in KINDS {
            for from in (0..=content.seq().0).map(Seq) {
                let later = |at: Seq, key: &Name| key.0 == kind && at > from;
                let due = self.present.iter().filter(|(key, (at, ..))| later(*at, key)).map(|((_, name), _)| name);
                assert!(content.changed(kind, from).iter().eq(due), "{} after {from}", kind.short());
                let gone = self.gone.iter().filter(|(key, at)| later(**at, key)).map(|((_, name), at)| (name, *at));
                assert!(content.gone(kind, from).map(|(name, tombstone)| (name, tombstone.seq)).eq(gone));
            }
            assert_eq!(content.newest(kind), self.newest.get(&kind).copied().unwrap_or_default());
            for (_, name) in self.present.keys().filter(|(of, _)| *of == kind) {
                assert_eq!(content.name(kind, name), Some(name));
            }
        }
        for (at, object) in objects().into_iter().enumerate() {
            let carries = |(_, (.., sources)): &(&Name, &(Seq, u8, u8))| sources & 1 << at != 0;
            let carriers: BTreeSet<_> = self.present.iter().filter(carries).map(|(key, _)| key.clone()).collect();
            let said = content.carriers(&object).map(|(name, entry, _)| (entry.resource.kind, Arc::clone(name)));
            assert_eq!(said.collect::<BTreeSet<_>>(), carriers);
        }
        assert_eq!(content.configuration(), Revision(content.seq().0));
    }

    /// What a group says that was joined after `since`.
    fn is_known(&self, group: &Group, since: Seq, content: &Content) {
        let (kind, subscription) = (group.kind(), group.subscription());
        let concerns = |(_, (of, name)): &&(Seq, Name)| *of == kind && subscription.contains(name);
        let touches: BTreeSet<_> = self.concerned.iter().filter(concerns).map(|(at, _)| *at).collect();
        for seq in (since.0..=content.seq().0).map(Seq) {
            let next = touches.iter().find(|at| **at > seq);
            assert_eq!(group.touched(seq), next.is_some());
            assert_eq!(
                group.base(seq),
                touches.iter().rfind(|at| (since..=seq).contains(*at)).copied().unwrap_or(since)
            );
            let extent = next.map_or(content.seq(), |next| Seq(next.0 - 1));
            assert_eq!(content.extent(kind, subscription, [seq]), [extent]);
        }
    }
}

fn objects() -> [ObjectRef; 3] {
    ["x", "y", "z"].map(|name| ObjectRef::new(Kind::Service, "a", name))
}

fn resource(kind: ResourceType, name: &str, payload: u8, sources: u8) -> Arc<Resource> {
    let mut resource = Resource::new(kind, name, payload.to_string().into());
    if kind == Cluster {
        resource.children = vec![(Endpoints, name.into())];
    }
    let chosen = objects().into_iter().enumerate().filter(|(at, _)| sources & 1 << at != 0);
    resource.sources = chosen.map(|(_, object)| Source { object, contribution: 1 }).collect();
    Arc::new(resource)
}

fn publish(views: &Views, reader: &Reader, changes: &Changes) -> Seq {
    let mut publish = Publish::default();
    for ((kind, name), change) in changes {
        let (kind, name) = (KINDS[*kind], format!("n{name}"));
        match change {
            Some((payload, sources)) => publish.upserts.push(resource(kind, &name, *payload, *sources)),
            None => publish.removals.push((kind, name.into())),
        }
    }
    let seq = views.next_seq();
    reader.view().publish(seq, Revision(seq.0), publish);
    seq
}

fn asked(names: &[&str]) -> Arc<Subscription> {
    let mut subscription = Subscription::default();
    names.iter().for_each(|name| {
        subscription.insert((*name).into());
    });
    subscription.set_wildcard(names.is_empty());
    Arc::new(subscription)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_view_knows_of_each_name_what_was_published_of_it(
        all in prop::collection::vec(
            (
                prop::collection::btree_map(
                    (0..KINDS.len(), 0..NAMES), prop::option::weighted(0.7, (0..3_u8, 0..8_u8)), 0..4
                ),
                prop::bool::weighted(0.2),
            ),
            1..30,
        )
    ) {
        let views = Views::default();
        let audience = Audience { site: "fra".into(), role: Role::Edge, proven: true, cohort: "".into(), delta: true };
        let reader = views.open(&audience);
        let (mut record, mut groups, mut passed) = (Record::default(), Vec::<(Seq, Arc<Group>)>::new(), Seq(0));
        for (changes, passes) in all {
            record.gone.retain(|_, at| *at > passed);
            record.publish(publish(&views, &reader, &changes), &changes);
            let content = reader.view().read();
            record.holds(&content);
            groups.iter().for_each(|(since, group)| record.is_known(group, *since, &content));
            // Each set of names of each type, from the first publishes on.
            if let Some(kind) = KINDS.get(groups.len() / 3) {
                let sets = [&["n0"][..], &["n1", "n2"], &[]];
                groups.extend(sets.map(|names| (content.seq(), content.join(*kind, &asked(names)))));
            }
            if passes {
                passed = content.seq();
                reader.pass(passed);
            }
        }
    }
}

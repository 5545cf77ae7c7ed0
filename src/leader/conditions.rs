//! Which objects' conditions have to be looked at, and which of them have to be written. No I/O.
//!
//! Objects that changed come first, then those that proxies have not all taken, then one after the other in a slow
//! sweep. A status of which nothing but counts and laggards differs from what stands is not written for a while: while
//! ten thousand proxies connect or take a change, every look finds other counts. What is written stands under
//! `observed/v1/status/<kind-plural>/[<namespace>/]<name>`: the status as `get` shows it, and under `by` the replica that
//! wrote it.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use serde_json::Value;

use super::{OBJECTS_MAX, batch};
use crate::{
    model::{Keyspace, ObjectRef, Revision},
    pipeline::State,
    replicas::Fence,
    store::{Listing, Op, Transaction},
};

/// How often objects that are not programmed everywhere are looked at.
const UNFINISHED: Duration = Duration::from_millis(500);
/// How often the sweep looks at its next objects.
const SWEEP: Duration = Duration::from_secs(1);
/// How long counts and laggards may stand that are not true any more.
const PROGRESS: Duration = Duration::from_secs(10);
/// Laggards that are named, the worst first; whoever asks a replica is told of more, and the counts are complete.
const LAGGARDS_MAX: usize = 10;
/// How much of a proxy's words about a refusal is kept.
const ERROR_MAX: usize = 300;

/// The fingerprints of a status without its author.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Digest {
    whole: blake3::Hash,
    /// Without counts and laggards.
    verdict: blake3::Hash,
}

/// What a transaction has put in place: a key and its fingerprints, none where it was deleted.
pub(super) type Written = Vec<(String, Option<Digest>)>;

/// What stands under a key.
struct Standing {
    digest: Digest,
    /// When it was written, if in this term.
    since: Option<Instant>,
}

/// What stands, and what is to be done.
pub(super) struct Books {
    prefix: String,
    by: Arc<str>,
    /// What stands in the store.
    standing: BTreeMap<String, Standing>,
    /// What has to stand there, where it differs; none: nothing.
    wanted: BTreeMap<String, Option<(Bytes, Digest)>>,
    /// All objects of the newest state.
    objects: BTreeSet<ObjectRef>,
    observed: Option<Arc<State>>,
    seen: Revision,
    dirty: BTreeSet<ObjectRef>,
    unfinished: BTreeSet<ObjectRef>,
    unfinished_due: Option<Instant>,
    /// The sweep goes on after this one.
    swept: Option<ObjectRef>,
    sweep_due: Option<Instant>,
}

impl Books {
    pub(super) fn new(keyspace: &Keyspace, by: &Arc<str>) -> Self {
        Self {
            prefix: format!("{}status/", keyspace.observed()),
            by: Arc::clone(by),
            standing: BTreeMap::new(),
            wanted: BTreeMap::new(),
            objects: BTreeSet::new(),
            observed: None,
            seen: Revision(0),
            dirty: BTreeSet::new(),
            unfinished: BTreeSet::new(),
            unfinished_due: None,
            swept: None,
            sweep_due: None,
        }
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Takes note of what stands at the beginning of a term.
    pub(super) fn reset(&mut self, listing: &Listing) {
        let standing = |value: &Bytes| {
            let mut status: Value = serde_json::from_slice(value).unwrap_or_default();
            status.as_object_mut().and_then(|fields| fields.remove("by"));
            Standing { digest: Digest::of(status), since: None }
        };
        self.standing = listing.entries.iter().map(|entry| (entry.key.clone(), standing(&entry.value))).collect();
    }

    /// Takes note of a state: what was written since the one before is looked at first, and what is gone goes.
    pub(super) fn observe(&mut self, state: &Arc<State>) {
        let seen = self.seen.max(state.revision);
        // Endpoints come and go all the time, and are no objects.
        let same = |old: &Arc<State>| {
            Arc::ptr_eq(old, state)
                || (old.configuration.is_same(&state.configuration) && old.problems == state.problems)
        };
        if self.observed.as_ref().is_some_and(same) {
            (self.seen, self.observed) = (seen, Some(Arc::clone(state)));
            return;
        }
        let mut objects = BTreeSet::new();
        for stored in state.configuration.iter() {
            objects.insert((*stored.reference).clone());
            if stored.mod_revision > self.seen {
                self.dirty.insert((*stored.reference).clone());
            }
        }
        // An object that cannot be read has a status too: it says why.
        for problem in state.problems.iter() {
            let Some(object) = &problem.object else { continue };
            objects.insert(object.clone());
            if problem.revision > self.seen {
                self.dirty.insert(object.clone());
            }
        }
        let keys: BTreeSet<String> = objects.iter().map(|object| self.key(object)).collect();
        self.wanted.retain(|key, status| status.is_none() || keys.contains(key));
        let gone = self.standing.keys().filter(|key| !keys.contains(*key));
        self.wanted.extend(gone.map(|key| (key.clone(), None)));
        let lost: Vec<ObjectRef> = self.objects.difference(&objects).cloned().collect();
        for object in &lost {
            self.dirty.remove(object);
            self.unfinished.remove(object);
        }
        self.objects = objects;
        (self.seen, self.observed) = (seen, Some(Arc::clone(state)));
    }

    /// The objects to look at now, at most as many as one transaction takes.
    pub(super) fn next(&mut self, now: Instant) -> Vec<ObjectRef> {
        let mut next: Vec<ObjectRef> = self.dirty.iter().take(OBJECTS_MAX).cloned().collect();
        if next.len() < OBJECTS_MAX && self.unfinished_due.is_none_or(|due| due <= now) {
            self.unfinished_due = Some(now + UNFINISHED);
            let more = self.unfinished.iter().filter(|object| !self.dirty.contains(*object));
            next.extend(more.take(OBJECTS_MAX - next.len()).cloned());
        }
        if next.is_empty() && self.sweep_due.is_none_or(|due| due <= now) {
            self.sweep_due = Some(now + SWEEP);
            let after = self.swept.take().map_or(Bound::Unbounded, Bound::Excluded);
            next = self.objects.range((after, Bound::Unbounded)).take(OBJECTS_MAX).cloned().collect();
            // At the end it begins anew.
            self.swept = next.last().filter(|_| next.len() == OBJECTS_MAX).cloned();
        }
        for object in &next {
            self.dirty.remove(object);
            // What is unfinished still comes back behind the others.
            self.unfinished.remove(object);
        }
        next
    }

    /// Takes in what was found out about objects: the status, and whether it is final until something changes.
    pub(super) fn take(&mut self, found: Vec<(ObjectRef, Value, bool)>, now: Instant) {
        for (object, mut status, finished) in found {
            if !self.objects.contains(&object) {
                continue;
            }
            if !finished {
                self.unfinished.insert(object.clone());
            }
            shorten(&mut status);
            let key = self.key(&object);
            let digest = Digest::of(status.clone());
            if self.standing.get(&key).is_some_and(|standing| standing.will_do(&digest, now)) {
                self.wanted.remove(&key);
                continue;
            }
            status["by"] = Value::from(&*self.by);
            self.wanted.insert(key, Some((status.to_string().into(), digest)));
        }
    }

    /// The next transaction, if something has to be written.
    pub(super) fn plan(&self, fence: &Fence) -> Option<(Transaction, Written)> {
        let op = |(key, status): (&String, &Option<(Bytes, Digest)>)| match status {
            Some((value, _)) => Op::Put { key: key.clone(), value: value.clone(), lease: None },
            None => Op::Delete { key: key.clone() },
        };
        let txn = batch(fence, self.wanted.iter().map(op));
        let digest = |status: &Option<(Bytes, Digest)>| status.as_ref().map(|(_, digest)| *digest);
        let written = self.wanted.iter().take(txn.ops.len()).map(|(key, status)| (key.clone(), digest(status)));
        let written: Written = written.collect();
        (!txn.ops.is_empty()).then_some((txn, written))
    }

    /// A transaction of [`Books::plan`] was committed.
    pub(super) fn written(&mut self, written: Written, now: Instant) {
        for (key, digest) in written {
            let same = |status: &Option<(Bytes, Digest)>| status.as_ref().map(|(_, digest)| *digest) == digest;
            if self.wanted.get(&key).is_some_and(same) {
                self.wanted.remove(&key);
            }
            match digest {
                Some(digest) => drop(self.standing.insert(key, Standing { digest, since: Some(now) })),
                None => drop(self.standing.remove(&key)),
            }
        }
    }

    fn key(&self, object: &ObjectRef) -> String {
        let ObjectRef { kind, namespace, name } = object;
        let slash = if namespace.is_empty() { "" } else { "/" };
        format!("{}{}/{namespace}{slash}{name}", self.prefix, kind.plural())
    }
}

impl Standing {
    /// Nothing has to be written in its place yet.
    fn will_do(&self, found: &Digest, now: Instant) -> bool {
        let young = || self.since.is_some_and(|since| now < since + PROGRESS);
        self.digest == *found || (self.digest.verdict == found.verdict && young())
    }
}

impl Digest {
    fn of(mut status: Value) -> Self {
        // Keys of a JSON value are in order here, whatever the text's was.
        let fingerprint = |status: &Value| blake3::hash(status.to_string().as_bytes());
        let whole = fingerprint(&status);
        if let Some(fields) = status.as_object_mut() {
            fields.remove("proxies");
            fields.remove("laggards");
        }
        uncount(&mut status);
        let parents = status.get_mut("parents").and_then(Value::as_array_mut);
        parents.into_iter().flatten().for_each(uncount);
        Self { whole, verdict: fingerprint(&status) }
    }
}

/// The message of a condition `Programmed` says how many proxies.
fn uncount(conditioned: &mut Value) {
    let conditions = conditioned.get_mut("conditions").and_then(Value::as_array_mut);
    for condition in conditions.into_iter().flatten().filter_map(Value::as_object_mut) {
        if condition.get("type").is_some_and(|kind| kind == "Programmed") {
            condition.remove("message");
        }
    }
}

/// Fifty laggards of each of a thousand objects, every one in its own words, are too much to be written again and again.
fn shorten(status: &mut Value) {
    let Some(laggards) = status.get_mut("laggards").and_then(Value::as_array_mut) else { return };
    laggards.truncate(LAGGARDS_MAX);
    for laggard in laggards {
        let error = laggard.get("error").and_then(Value::as_str).unwrap_or_default();
        if let Some((end, _)) = error.char_indices().nth(ERROR_MAX) {
            laggard["error"] = Value::from(format!("{}…", error.split_at(end).0));
        }
    }
}

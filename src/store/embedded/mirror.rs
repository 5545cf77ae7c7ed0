//! What readers see: the keys, the kept history and the revision, in memory, as of the last durable commit.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
    sync::{OnceLock, PoisonError, RwLock, RwLockReadGuard},
};

use bytes::Bytes;
use tokio::sync::watch;

use super::History;
use crate::{
    model::Revision,
    store::{Batch, Change, KeyValue, Listing, StoreError, StoreId},
};

/// Revisions that one look at the history covers, so that a long replay does not hold the lock.
const CHUNK: usize = 256;

/// What stands under a key.
#[derive(Debug)]
struct Value {
    value: Bytes,
    create_revision: Revision,
    mod_revision: Revision,
}

impl Value {
    fn key_value(&self, key: &str) -> KeyValue {
        KeyValue {
            key: key.to_owned(),
            value: self.value.clone(),
            create_revision: self.create_revision,
            mod_revision: self.mod_revision,
        }
    }
}

/// The state of the store. Revisions in `log` have no gaps: they are `compacted + 1 ..= revision`.
#[derive(Debug, Default)]
pub(super) struct Mirror {
    store: StoreId,
    revision: u64,
    compacted: u64,
    kv: BTreeMap<String, Value>,
    log: VecDeque<Batch>,
    log_bytes: usize,
}

impl Mirror {
    /// A store's state as its file holds it; keys and batches follow by [`Mirror::put`] and [`Mirror::remember`].
    pub(super) fn at(store: StoreId, revision: u64, compacted: u64) -> Self {
        Mirror { store, revision, compacted, ..Mirror::default() }
    }

    /// The revision of the last commit.
    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    /// The last revision that is not in the history.
    pub(super) fn compacted(&self) -> u64 {
        self.compacted
    }

    /// Takes in a key.
    pub(super) fn put(&mut self, kv: KeyValue) {
        let KeyValue { key, value, create_revision, mod_revision } = kv;
        self.kv.insert(key, Value { value, create_revision, mod_revision });
    }

    /// Takes a batch into the history.
    pub(super) fn remember(&mut self, batch: Batch) {
        self.log_bytes += weight(&batch);
        self.log.push_back(batch);
    }

    /// Takes in what a commit has made durable.
    pub(super) fn apply(&mut self, batch: Batch) {
        for change in &batch.changes {
            match change {
                Change::Put(kv) => self.put(kv.clone()),
                Change::Delete(key) => {
                    self.kv.remove(key);
                }
            }
        }
        self.revision = batch.revision.0;
        self.remember(batch);
    }

    /// Up to which revision the history must go, so that with `coming` batches it keeps within `history`.
    pub(super) fn surplus(&self, coming: &[Batch], history: History) -> u64 {
        let mut revisions = self.log.len() + coming.len();
        let mut bytes = self.log_bytes + coming.iter().map(weight).sum::<usize>();
        let mut upto = self.compacted;
        for batch in self.log.iter().chain(coming) {
            if revisions <= history.revisions && bytes <= history.bytes {
                break;
            }
            revisions -= 1;
            bytes -= weight(batch);
            upto = batch.revision.0;
        }
        upto
    }

    /// Forgets the history up to a revision.
    pub(super) fn forget(&mut self, upto: u64) {
        while self.log.front().is_some_and(|batch| batch.revision.0 <= upto) {
            if let Some(batch) = self.log.pop_front() {
                self.log_bytes -= weight(&batch);
                self.compacted = batch.revision.0;
            }
        }
    }
}

/// What a batch costs in memory, about.
fn weight(batch: &Batch) -> usize {
    let change = |change: &Change| match change {
        Change::Put(kv) => 2 * kv.key.len() + kv.value.len() + 100,
        Change::Delete(key) => key.len() + 100,
    };
    batch.changes.iter().map(change).sum::<usize>() + 100
}

/// A part of the history.
#[derive(Debug)]
pub(super) enum Replay {
    /// The batches with changes below the prefix, and the last revision that was looked at (below the first asked for:
    /// there was nothing).
    Batches(Vec<Batch>, Revision),
    /// The history begins only after this revision.
    Compacted(Revision),
}

/// What the writer shares with readers.
#[derive(Debug)]
pub(super) struct Shared {
    mirror: RwLock<Mirror>,
    moved: watch::Sender<Revision>,
    failure: OnceLock<StoreError>,
}

impl Shared {
    pub(super) fn new(mirror: Mirror) -> Self {
        let moved = watch::Sender::new(Revision(mirror.revision));
        Shared { mirror: RwLock::new(mirror), moved, failure: OnceLock::new() }
    }

    fn read(&self) -> RwLockReadGuard<'_, Mirror> {
        self.mirror.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn revision(&self) -> Revision {
        Revision(self.read().revision)
    }

    pub(super) fn list(&self, prefix: &str) -> Listing {
        let mirror = self.read();
        let below = mirror.kv.range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
        let entries = below.take_while(|(key, _)| key.starts_with(prefix)).map(|(key, value)| value.key_value(key));
        Listing { store: mirror.store, revision: Revision(mirror.revision), entries: entries.collect() }
    }

    pub(super) fn get(&self, key: &str) -> Option<KeyValue> {
        self.read().kv.get(key).map(|value| value.key_value(key))
    }

    /// The next part of the history from revision `from` on.
    pub(super) fn replay(&self, prefix: &str, from: Revision) -> Replay {
        let mirror = self.read();
        if from.0 <= mirror.compacted {
            return Replay::Compacted(Revision(mirror.compacted));
        }
        let skip = usize::try_from(from.0 - mirror.compacted - 1).unwrap_or(usize::MAX);
        let mut upto = Revision(from.0 - 1);
        let mut batches = Vec::new();
        // `range` by index, since a deque's `skip` would walk all that it leaves out.
        for batch in mirror.log.range(skip.min(mirror.log.len())..).take(CHUNK) {
            upto = batch.revision;
            let below = |change: &&Change| match change {
                Change::Put(kv) => kv.key.starts_with(prefix),
                Change::Delete(key) => key.starts_with(prefix),
            };
            let changes: Vec<Change> = batch.changes.iter().filter(below).cloned().collect();
            if !changes.is_empty() {
                batches.push(Batch { revision: batch.revision, changes });
            }
        }
        Replay::Batches(batches, upto)
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Revision> {
        self.moved.subscribe()
    }

    /// Why the writer has stopped, if it has.
    pub(super) fn failure(&self) -> Option<StoreError> {
        self.failure.get().cloned()
    }

    /// Looks at the state, for the writer: nobody else changes it.
    pub(super) fn with<T>(&self, look: impl FnOnce(&Mirror) -> T) -> T {
        look(&self.read())
    }

    /// Shows a commit to readers, and wakes watches.
    pub(super) fn publish(&self, batches: Vec<Batch>, forget: u64) {
        let revision = {
            let mut mirror = self.mirror.write().unwrap_or_else(PoisonError::into_inner);
            for batch in batches {
                mirror.apply(batch);
            }
            mirror.forget(forget);
            mirror.revision
        };
        self.moved.send_replace(Revision(revision));
    }

    /// Says why there will be no more commits, and wakes watches so that they end.
    pub(super) fn fail(&self, why: StoreError) {
        // The first failure is the cause; later ones follow from it.
        let _ = self.failure.set(why);
        self.moved.send_modify(|_| {});
    }
}

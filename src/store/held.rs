//! What a follower holds of the store: every key below the prefix as last delivered, to tell whether the store that
//! answers now is still the same one, and to be written as the last-known-good copy.

use std::{borrow::Borrow, cmp::Ordering, collections::BTreeSet, ops::Bound, sync::Arc};

use super::{Batch, Change, KeyValue, Listing, StoreError, StoreId};
use crate::model::Revision;

/// A key and its value, ordered and found by the key.
#[derive(Clone, Debug)]
struct ByKey(Arc<KeyValue>);

impl PartialEq for ByKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.key == other.0.key
    }
}

impl Eq for ByKey {}

impl PartialOrd for ByKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ByKey {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.key.cmp(&other.0.key)
    }
}

impl Borrow<str> for ByKey {
    fn borrow(&self) -> &str {
        &self.0.key
    }
}

/// All keys of one store below the prefix. Values are shared with whoever else has them.
#[derive(Clone, Debug, Default)]
pub(super) struct Held {
    /// Which store it is; `None` before the first listing.
    store: Option<StoreId>,
    /// The revision of the last change.
    revision: Revision,
    entries: BTreeSet<ByKey>,
    /// How often another store has been adopted.
    era: u64,
}

/// What a copy is made of; cheap to take.
#[derive(Clone, Debug)]
pub(super) struct Snapshot {
    pub(super) store: StoreId,
    pub(super) revision: Revision,
    pub(super) entries: Vec<Arc<KeyValue>>,
    pub(super) era: u64,
}

impl Held {
    /// What a listing holds.
    pub(super) fn of(listing: &Listing) -> Self {
        let mut held = Self::default();
        held.reset(listing);
        held
    }

    /// Whether a listing can come from the store that is held.
    ///
    /// # Errors
    /// [`StoreError::Changed`], in words: another store, or an older state of it. A backup that was restored with a
    /// higher revision betrays itself by a key whose last write lies before the one that was read, or is another one of
    /// the same revision.
    pub(super) fn check(&self, listing: &Listing) -> Result<(), StoreError> {
        let Some(store) = self.store else { return Ok(()) };
        if store != listing.store {
            let now = listing.store;
            return Err(StoreError::Changed(format!(
                "its id is {now}, that of the store that was followed is {store}"
            )));
        }
        if listing.revision < self.revision {
            let (now, before) = (listing.revision, self.revision);
            return Err(StoreError::Changed(format!("it is at revision {now}, it was at {before}")));
        }
        for kv in &listing.entries {
            let Some(ByKey(held)) = self.entries.get(kv.key.as_str()) else { continue };
            let (key, now, before) = (&kv.key, kv.mod_revision, held.mod_revision);
            let fault = match now.cmp(&before) {
                Ordering::Less => {
                    format!("{key} was last written at revision {now} there, and has been read as of revision {before}")
                }
                Ordering::Equal if **held != *kv => {
                    format!("{key} holds another value at revision {now} there than has been read")
                }
                _ => continue,
            };
            return Err(StoreError::Changed(format!("{fault}: a backup that was restored")));
        }
        Ok(())
    }

    /// Takes a whole listing; whether it holds anything else than before. What is held already stays shared.
    pub(super) fn reset(&mut self, listing: &Listing) -> bool {
        let mut changed = self.store != Some(listing.store) || self.entries.len() != listing.entries.len();
        let take = |kv: &KeyValue| {
            let same = self.entries.get(kv.key.as_str()).filter(|held| *held.0 == *kv);
            same.cloned().unwrap_or_else(|| {
                changed = true;
                ByKey(Arc::new(kv.clone()))
            })
        };
        let entries = listing.entries.iter().map(take).collect();
        self.entries = entries;
        self.store = Some(listing.store);
        self.revision = listing.revision;
        changed
    }

    /// Takes the next revision.
    pub(super) fn apply(&mut self, batch: &Batch) {
        for change in &batch.changes {
            match change {
                Change::Put(kv) => drop(self.entries.replace(ByKey(Arc::new(kv.clone())))),
                Change::Delete(key) => drop(self.entries.take(key.as_str())),
            }
        }
        self.revision = batch.revision;
    }

    /// Holds nothing more: what comes next is another store, and wanted.
    pub(super) fn adopt(&mut self) {
        *self = Self { era: self.era + 1, ..Self::default() };
    }

    /// What is held below a prefix; `None` before the first listing.
    pub(super) fn list(&self, prefix: &str) -> Option<Listing> {
        let below = self.entries.range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
        let entries = below.take_while(|held| held.0.key.starts_with(prefix)).map(|held| (*held.0).clone());
        Some(Listing { store: self.store?, revision: self.revision, entries: entries.collect() })
    }

    /// What to write down; `None` before the first listing.
    pub(super) fn snapshot(&self) -> Option<Snapshot> {
        let entries = self.entries.iter().map(|held| Arc::clone(&held.0)).collect();
        Some(Snapshot { store: self.store?, revision: self.revision, entries, era: self.era })
    }
}

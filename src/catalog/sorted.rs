//! A sorted map whose clones share what neither has written since: a write costs a short run of entries, however many
//! there are and however many clones stand.

use std::{cmp::Ordering, sync::Arc};

/// Entries of one run at most; a run that grows beyond is cut in two.
const RUN: usize = 64;

type Run<K, V> = Arc<Vec<(K, V)>>;

/// Sorted by key, each once. Runs are never empty.
#[derive(Debug)]
pub(super) struct Sorted<K, V> {
    runs: Arc<Vec<Run<K, V>>>,
}

impl<K, V> Clone for Sorted<K, V> {
    fn clone(&self) -> Self {
        Self { runs: Arc::clone(&self.runs) }
    }
}

impl<K, V> Default for Sorted<K, V> {
    fn default() -> Self {
        Self { runs: Arc::default() }
    }
}

impl<K: PartialEq, V: PartialEq> PartialEq for Sorted<K, V> {
    /// By what is in it; where the runs are cut depends on the past.
    fn eq(&self, other: &Self) -> bool {
        self.is_same(other) || self.iter().eq(other.iter())
    }
}

impl<K, V> Sorted<K, V> {
    /// Whether nothing was written between the two; told by address.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.runs, &other.runs)
    }

    /// Every entry.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.runs.iter().flat_map(|run| run.iter()).map(|(key, value)| (key, value))
    }

    /// The entries from the first on whose key is not `below`; no key that is may stand behind one that is not.
    pub(super) fn from<'a>(
        &'a self,
        below: &dyn Fn(&K) -> bool,
    ) -> impl Iterator<Item = (&'a K, &'a V)> + use<'a, K, V> {
        let first = self.runs.partition_point(|run| run.last().is_some_and(|(key, _)| below(key)));
        let runs = self.runs.get(first..).unwrap_or_default();
        let skip = runs.first().map_or(0, |run| run.partition_point(|(key, _)| below(key)));
        runs.iter().flat_map(|run| run.iter()).skip(skip).map(|(key, value)| (key, value))
    }

    /// The entry that `order` finds equal.
    pub(super) fn find(&self, order: impl Fn(&K) -> Ordering) -> Option<(&K, &V)> {
        self.from(&|key| order(key) == Ordering::Less).next().filter(|(key, _)| order(key) == Ordering::Equal)
    }
}

impl<K: Ord + Clone, V: Clone> Sorted<K, V> {
    /// Puts an entry in, in place of one of the same key.
    pub(super) fn insert(&mut self, key: K, value: V) {
        let runs = Arc::make_mut(&mut self.runs);
        let at = runs.partition_point(|run| run.last().is_some_and(|(last, _)| *last < key));
        let at = at.min(runs.len().saturating_sub(1));
        let Some(run) = runs.get_mut(at) else {
            runs.push(Arc::new(vec![(key, value)]));
            return;
        };
        let run = Arc::make_mut(run);
        match run.binary_search_by(|(known, _)| known.cmp(&key)) {
            Ok(place) => run.splice(place..=place, [(key, value)]).for_each(drop),
            Err(place) => run.insert(place, (key, value)),
        }
        if run.len() > RUN {
            let rest = run.split_off(RUN / 2);
            runs.insert(at + 1, Arc::new(rest));
        }
    }

    /// Takes an entry out; says whether it was there.
    pub(super) fn remove(&mut self, key: &K) -> bool {
        let at = self.runs.partition_point(|run| run.last().is_some_and(|(last, _)| last < key));
        let place = self.runs.get(at).and_then(|run| run.binary_search_by(|(known, _)| known.cmp(key)).ok());
        let Some(place) = place else { return false };
        let runs = Arc::make_mut(&mut self.runs);
        if let Some(run) = runs.get_mut(at) {
            let run = Arc::make_mut(run);
            run.remove(place);
            if run.is_empty() {
                runs.remove(at);
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_holds_what_an_ordinary_map_holds_and_clones_keep_what_they_had(
            edits in prop::collection::vec((0..400u16, any::<Option<u8>>()), 0..900),
            looked in 0..400u16,
        ) {
            let mut known = BTreeMap::new();
            let mut sorted = Sorted::default();
            let mut kept: Vec<(Sorted<u16, u8>, BTreeMap<u16, u8>)> = Vec::new();
            for (step, (key, value)) in edits.into_iter().enumerate() {
                match value {
                    Some(value) => {
                        known.insert(key, value);
                        sorted.insert(key, value);
                    }
                    None => prop_assert_eq!(sorted.remove(&key), known.remove(&key).is_some()),
                }
                if step % 100 == 0 {
                    kept.push((sorted.clone(), known.clone()));
                }
            }
            kept.push((sorted, known));
            for (sorted, known) in kept {
                prop_assert!(sorted.iter().eq(known.iter()));
                prop_assert!(sorted.from(&|key| *key < looked).eq(known.range(looked..)));
                prop_assert_eq!(sorted.find(|key| key.cmp(&looked)), known.get_key_value(&looked));
                prop_assert!(sorted.runs.iter().all(|run| !run.is_empty() && run.len() <= RUN));
            }
        }
    }
}

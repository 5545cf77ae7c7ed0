//! The reverse map: who read what, so that a change finds its dirty units in proportion to itself.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use crate::catalog::{Changed, Read};

/// Who read what. Units are whatever the caller compiles by; choose a `K` that is cheap to clone. Both are numbered, so
/// that a unit which reads the same as before costs one look at each read, and a read is kept once whoever made it.
#[derive(Debug)]
pub struct Dependents<K> {
    units: Numbers<K>,
    /// By number of the unit: what it read last, sorted.
    reads: Vec<Vec<u32>>,
    known: Numbers<Arc<Read>>,
    /// By number of the read: the units that made it.
    readers: Vec<BTreeSet<u32>>,
}

impl<K> Default for Dependents<K> {
    fn default() -> Self {
        Self { units: Numbers::default(), reads: Vec::new(), known: Numbers::default(), readers: Vec::new() }
    }
}

impl<K: Ord + Clone + std::hash::Hash> Dependents<K> {
    /// Everything that `unit` read when it was last compiled; replaces what was recorded for it before.
    pub fn record(&mut self, unit: K, reads: BTreeSet<Read>) {
        let unit = self.units.give(unit);
        let mut new: Vec<u32> = reads.into_iter().map(|read| self.number(read)).collect();
        new.sort_unstable();
        let old = std::mem::take(slot(&mut self.reads, unit));
        for read in new.iter().filter(|read| old.binary_search(read).is_err()) {
            slot(&mut self.readers, *read).insert(unit);
        }
        for read in old.iter().filter(|read| new.binary_search(read).is_err()) {
            self.drop_reader(*read, unit);
        }
        *slot(&mut self.reads, unit) = new;
    }

    /// Nobody compiles `unit` any more.
    pub fn forget(&mut self, unit: &K) {
        let Some(unit) = self.units.take(unit) else { return };
        for read in std::mem::take(slot(&mut self.reads, unit)) {
            self.drop_reader(read, unit);
        }
    }

    /// Nothing is recorded.
    pub fn is_empty(&self) -> bool {
        self.units.of.is_empty() && self.known.of.is_empty()
    }

    /// The units whose result may be another now.
    pub fn dirty(&self, changed: &Changed) -> BTreeSet<K> {
        self.readers_of(changed.configuration.iter().chain(&changed.runtime))
    }

    /// The units that made any of these reads.
    pub fn readers_of<'a>(&self, reads: impl IntoIterator<Item = &'a Read>) -> BTreeSet<K> {
        let numbers = reads.into_iter().filter_map(|read| self.known.of.get(read));
        let readers: BTreeSet<u32> =
            numbers.filter_map(|read| self.readers.get(*read as usize)).flatten().copied().collect();
        readers.into_iter().filter_map(|unit| self.units.names.get(unit as usize)?.clone()).collect()
    }

    fn number(&mut self, read: Read) -> u32 {
        match self.known.of.get(&read) {
            Some(number) => *number,
            None => self.known.give(Arc::new(read)),
        }
    }

    fn drop_reader(&mut self, read: u32, unit: u32) {
        let readers = slot(&mut self.readers, read);
        readers.remove(&unit);
        if readers.is_empty()
            && let Some(Some(read)) = self.known.names.get(read as usize).cloned()
        {
            self.known.take(&read);
        }
    }
}

/// Numbers for things, those of forgotten ones given again.
#[derive(Debug)]
struct Numbers<T> {
    of: HashMap<T, u32>,
    names: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Default for Numbers<T> {
    fn default() -> Self {
        Self { of: HashMap::new(), names: Vec::new(), free: Vec::new() }
    }
}

impl<T: Eq + std::hash::Hash + Clone> Numbers<T> {
    fn give(&mut self, name: T) -> u32 {
        if let Some(number) = self.of.get(&name) {
            return *number;
        }
        // Four thousand million of anything do not fit into the memory of a machine.
        let number = self.free.pop().unwrap_or_else(|| u32::try_from(self.names.len()).unwrap_or(u32::MAX));
        *slot(&mut self.names, number) = Some(name.clone());
        self.of.insert(name, number);
        number
    }

    fn take(&mut self, name: &T) -> Option<u32> {
        let number = self.of.remove(name)?;
        *slot(&mut self.names, number) = None;
        self.free.push(number);
        Some(number)
    }
}

/// The place of a number, made if need be.
#[allow(clippy::indexing_slicing, reason = "the line before makes the place")]
fn slot<T: Default>(slots: &mut Vec<T>, number: u32) -> &mut T {
    let at = number as usize;
    if slots.len() <= at {
        slots.resize_with(at + 1, T::default);
    }
    &mut slots[at]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Kind, ObjectRef};

    #[test]
    fn dependents_know_the_last_reads_of_each_unit_only() {
        let read = |name: &str| Read::Object(ObjectRef::new(Kind::Site, "", name));
        let changed = |name| Changed { configuration: [read(name)].into(), ..Changed::default() };
        let mut dependents = Dependents::default();
        dependents.record(1, [read("a"), read("b")].into());
        dependents.record(2, [read("b")].into());
        assert_eq!(dependents.dirty(&changed("a")), [1].into());
        assert_eq!(dependents.dirty(&changed("b")), [1, 2].into());
        assert_eq!(dependents.dirty(&changed("c")), BTreeSet::new());
        dependents.record(1, [read("c")].into());
        assert_eq!(dependents.dirty(&changed("a")), BTreeSet::new());
        assert_eq!(dependents.dirty(&changed("b")), [2].into());
        assert_eq!(dependents.dirty(&changed("c")), [1].into());
        dependents.forget(&1);
        dependents.record(3, [read("a")].into());
        assert_eq!(dependents.dirty(&changed("c")), BTreeSet::new());
        assert_eq!(dependents.dirty(&changed("a")), [3].into(), "a number that was given again");
        assert_eq!((dependents.units.names.len(), dependents.known.names.len()), (2, 3));
        dependents.forget(&2);
        dependents.forget(&3);
        assert!(dependents.is_empty() && dependents.readers.iter().all(BTreeSet::is_empty));
    }
}

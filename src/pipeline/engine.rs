//! Which resources exist, what each was compiled from, and what a change makes stale. No I/O.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use crate::{
    catalog::{Configuration, Read, Runtime},
    compile::{self, HostCache, Outcome, Reader, Unit, reader::Dependents},
    model::{Audience, Problem},
    xds::Resource,
};

/// What one audience is to be told.
#[derive(Debug, Default)]
pub struct Delta {
    /// New or changed.
    pub upserts: Vec<Arc<Resource>>,
    /// Units that it no longer has.
    pub removals: Vec<Unit>,
}

impl Delta {
    /// Adds what came after it; the later of two changes of a name counts.
    pub fn follow(&mut self, newer: Self) {
        self.removals.extend(newer.removals);
        self.upserts.extend(newer.upserts);
    }

    /// A name that stands under another scope now is changed, not gone.
    fn settle(&mut self) {
        let present: HashSet<_> = self.upserts.iter().map(|r| (r.kind, Arc::clone(&r.name))).collect();
        self.removals.retain(|unit| !present.contains(&(unit.kind, Arc::clone(&unit.name))));
    }
}

/// Compiles each unit once for everybody who needs it, and again only when something that it read has changed.
#[derive(Debug, Default)]
pub struct Engine {
    audiences: BTreeMap<Audience, Names>,
    units: HashMap<Unit, Memo>,
    dependents: Dependents<Key>,
    hosts: HostCache,
}

#[derive(Debug, Default)]
struct Names {
    units: BTreeSet<Unit>,
    /// Its site is unknown or being deleted: it is told nothing, and everything once the site is back.
    silent: bool,
}

#[derive(Debug)]
struct Memo {
    resource: Option<Arc<Resource>>,
    problems: Vec<Problem>,
    /// How many audiences have it.
    users: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Key {
    Names(Audience),
    Unit(Unit),
}

impl Engine {
    /// Brings everything up to date with `configuration` and `runtime`, given what `changed` since the last call and
    /// which audiences are `opened` now; answers what each audience must be told. An audience whose names were computed
    /// is always in the answer, even if it has nothing; one of a site that is unknown or being deleted never is.
    pub fn update(
        &mut self,
        configuration: &Configuration,
        runtime: &Runtime,
        changed: &BTreeSet<Read>,
        opened: &[Audience],
    ) -> BTreeMap<Audience, Delta> {
        let mut stale_names: BTreeSet<Audience> = opened.iter().cloned().collect();
        let mut stale_units: BTreeSet<Unit> = BTreeSet::new();
        for key in self.dependents.readers_of(changed) {
            match key {
                Key::Names(audience) => drop(stale_names.insert(audience)),
                Key::Unit(unit) => drop(stale_units.insert(unit)),
            }
        }
        let mut deltas = BTreeMap::new();
        let gained = self.refresh_names(configuration, runtime, stale_names, &mut deltas);
        for unit in stale_units {
            let used = self.units.get(&unit).is_some_and(|m| m.users > 0);
            if used && self.compile(&unit, configuration, runtime) {
                self.tell_users(&unit, &mut deltas);
            }
        }
        for (audience, unit) in gained {
            if !self.units.contains_key(&unit) {
                self.compile(&unit, configuration, runtime);
            }
            let delta = deltas.entry(audience).or_default();
            match self.units.get(&unit).and_then(|m| m.resource.clone()) {
                Some(resource) => delta.upserts.push(resource),
                // An audience that was silent may still hold what came to nothing meanwhile.
                None => delta.removals.push(unit),
            }
        }
        deltas.values_mut().for_each(Delta::settle);
        self.forget_unused();
        deltas
    }

    /// Forgets an audience that nobody asks for any more.
    pub fn close(&mut self, audience: &Audience) {
        if let Some(names) = self.audiences.remove(audience) {
            self.dependents.forget(&Key::Names(audience.clone()));
            for unit in names.units {
                if let Some(memo) = self.units.get_mut(&unit) {
                    memo.users = memo.users.saturating_sub(1);
                }
            }
            self.forget_unused();
        }
    }

    /// Resources that failed their check and are left out, each as a problem of its sources.
    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.units.values().flat_map(|m| &m.problems)
    }

    /// Recomputes which units each audience has; answers (audience, unit) for those that it gained, or must be told
    /// again.
    fn refresh_names(
        &mut self,
        configuration: &Configuration,
        runtime: &Runtime,
        stale: BTreeSet<Audience>,
        deltas: &mut BTreeMap<Audience, Delta>,
    ) -> Vec<(Audience, Unit)> {
        let mut gained = Vec::new();
        for audience in stale {
            let reader = Reader::new(configuration, runtime);
            let named = compile::names(&audience, &reader);
            let reads = reader.into_reads();
            let old = self.audiences.remove(&audience).unwrap_or_default();
            let key = Key::Names(audience.clone());
            self.dependents.record(key, reads);
            // A site that is unknown or being deleted keeps what it had, and a new audience of it stays pending.
            let Some(named) = named else {
                self.audiences.insert(audience, Names { units: old.units, silent: true });
                continue;
            };
            deltas.entry(audience.clone()).or_default();
            let units: BTreeSet<Unit> = named.into_iter().collect();
            for unit in old.units.difference(&units) {
                if let Some(memo) = self.units.get_mut(unit) {
                    memo.users = memo.users.saturating_sub(1);
                }
                deltas.entry(audience.clone()).or_default().removals.push(unit.clone());
            }
            for unit in units.difference(&old.units) {
                if let Some(memo) = self.units.get_mut(unit) {
                    memo.users += 1;
                }
            }
            let told = units.iter().filter(|unit| old.silent || !old.units.contains(*unit));
            gained.extend(told.map(|unit| (audience.clone(), unit.clone())));
            self.audiences.insert(audience, Names { units, silent: false });
        }
        gained
    }

    /// Compiles one unit; true when its resource is another one than before.
    fn compile(&mut self, unit: &Unit, configuration: &Configuration, runtime: &Runtime) -> bool {
        let reader = Reader::new(configuration, runtime);
        let Outcome { resource, problems } = compile::compile(unit, &reader, &mut self.hosts);
        let reads = reader.into_reads();
        let old = self.units.remove(unit);
        self.dependents.record(Key::Unit(unit.clone()), reads);
        let users = old
            .as_ref()
            .map_or_else(|| self.audiences.values().filter(|n| n.units.contains(unit)).count(), |old| old.users);
        let old_resource = old.and_then(|m| m.resource);
        let (resource, changed) = match (old_resource, resource) {
            (Some(old), Some(new)) if *old == new => (Some(old), false),
            (None, None) => (None, false),
            (_, new) => (new.map(Arc::new), true),
        };
        self.units.insert(unit.clone(), Memo { resource, problems, users });
        changed
    }

    fn tell_users(&self, unit: &Unit, deltas: &mut BTreeMap<Audience, Delta>) {
        let resource = self.units.get(unit).and_then(|m| m.resource.as_ref());
        let told = self.audiences.iter().filter(|(_, names)| !names.silent && names.units.contains(unit));
        for (audience, _) in told {
            let delta = deltas.entry(audience.clone()).or_default();
            match resource {
                Some(resource) => delta.upserts.push(Arc::clone(resource)),
                None => delta.removals.push(unit.clone()),
            }
        }
    }

    fn forget_unused(&mut self) {
        let unused: Vec<Unit> = self.units.iter().filter(|(_, m)| m.users == 0).map(|(unit, _)| unit.clone()).collect();
        for unit in unused {
            self.units.remove(&unit);
            self.hosts.forget(&unit);
            self.dependents.forget(&Key::Unit(unit));
        }
    }
}

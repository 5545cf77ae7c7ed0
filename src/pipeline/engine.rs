//! Which resources exist, what each was compiled from, and what a change makes stale. No I/O.

#[cfg(test)]
pub(super) mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use crate::{
    catalog::{Configuration, Read, Runtime},
    compile::{self, HostCache, Judge, Judgement, Reader, Served, Unit, reader::Dependents},
    model::{Audience, Problem, Scope},
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
    audiences: BTreeMap<Arc<Audience>, Names>,
    units: HashMap<Unit, Memo>,
    /// Units that lost their last user: they are forgotten if that is still so at the end.
    idle: BTreeSet<Unit>,
    /// Units with faults.
    faulty: BTreeSet<Unit>,
    dependents: Dependents<Key>,
    hosts: HostCache,
    judge: Judge,
}

#[derive(Debug, Default)]
struct Names {
    /// What the objects say that it has.
    own: BTreeSet<Unit>,
    /// What those of them need that are compiled: an edge's groups and Secrets.
    brought: BTreeSet<Unit>,
    /// Its site is unknown or being deleted: it is told nothing, and everything once the site is back.
    silent: bool,
}

impl Names {
    fn has(&self, unit: &Unit) -> bool {
        self.own.contains(unit) || self.brought.contains(unit)
    }
}

#[derive(Debug, Default)]
struct Memo {
    resource: Option<Arc<Resource>>,
    problems: Vec<Problem>,
    /// The audiences that have it.
    users: BTreeSet<Arc<Audience>>,
    compiled: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Key {
    Names(Arc<Audience>),
    Unit(Unit),
    /// A virtual host of a unit.
    Host(Unit, Arc<str>),
}

/// Whom something is told.
type Told = Vec<(Arc<Audience>, Unit)>;

/// The state that is compiled.
#[derive(Clone, Copy)]
struct Inputs<'a> {
    configuration: &'a Configuration,
    runtime: &'a Runtime,
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
        let inputs = Inputs { configuration, runtime };
        self.judge.update(configuration, runtime, changed);
        let mut stale_names: BTreeSet<Arc<Audience>> = opened.iter().cloned().map(Arc::new).collect();
        let mut stale_units: BTreeSet<Unit> = BTreeSet::new();
        for key in self.dependents.readers_of(changed) {
            match key {
                Key::Names(audience) => drop(stale_names.insert(audience)),
                Key::Unit(unit) => drop(stale_units.insert(unit)),
                Key::Host(unit, domain) => {
                    self.hosts.touch(&unit, &domain);
                    stale_units.insert(unit);
                }
            }
        }
        let mut deltas = BTreeMap::new();
        // What may bring something else now.
        let mut bringing: BTreeSet<Arc<Audience>> = stale_names.clone();
        let mut gained = self.refresh_names(inputs, stale_names, &mut deltas);
        let mut changed_units = Vec::new();
        for unit in stale_units {
            let used = self.units.get(&unit).is_some_and(|m| m.compiled && !m.users.is_empty());
            if used && self.compile(&unit, inputs) {
                if matches!(unit.scope, Scope::Gateways { .. }) {
                    bringing.extend(self.units.get(&unit).iter().flat_map(|m| &m.users).cloned());
                }
                changed_units.push(unit);
            }
        }
        self.compile_new(&gained, inputs);
        let brought = self.refresh_brought(bringing, &mut deltas);
        self.compile_new(&brought, inputs);
        gained.extend(brought);
        changed_units.iter().for_each(|unit| self.tell_users(unit, &mut deltas));
        for (audience, unit) in gained {
            if !self.audiences.get(&audience).is_some_and(|names| names.has(&unit)) {
                continue;
            }
            let delta = deltas.entry(Audience::clone(&audience)).or_default();
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
        if let Some((audience, names)) = self.audiences.remove_entry(audience) {
            names.own.iter().chain(&names.brought).for_each(|unit| self.release(&audience, unit));
            self.dependents.forget(&Key::Names(audience));
            self.forget_unused();
        }
    }

    /// Resources that failed their check and are left out, each as a problem of its sources.
    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.faulty.iter().filter_map(|unit| self.units.get(unit)).flat_map(|memo| &memo.problems)
    }

    /// What is wrong between the objects.
    pub fn judgement(&self) -> &Judgement {
        self.judge.judgement()
    }

    /// Recomputes which units each audience has by itself; answers those that it gained, or must be told again.
    fn refresh_names(
        &mut self,
        Inputs { configuration, runtime }: Inputs<'_>,
        stale: BTreeSet<Arc<Audience>>,
        deltas: &mut BTreeMap<Audience, Delta>,
    ) -> Told {
        let mut gained = Vec::new();
        for audience in stale {
            let reader = Reader::new(configuration, runtime);
            let own = compile::own(&audience, &reader);
            self.dependents.record(Key::Names(Arc::clone(&audience)), reader.into_reads());
            let mut names = self.audiences.remove(&audience).unwrap_or_default();
            // A site that is unknown or being deleted keeps what it had, and a new audience of it stays pending.
            let was_silent = std::mem::replace(&mut names.silent, own.is_none());
            if let Some(own) = own {
                deltas.entry(Audience::clone(&audience)).or_default();
                self.exchange(&audience, &names.own, &own, deltas);
                if was_silent {
                    gained.extend(own.iter().chain(&names.brought).map(|unit| (Arc::clone(&audience), unit.clone())));
                } else {
                    gained.extend(own.difference(&names.own).map(|unit| (Arc::clone(&audience), unit.clone())));
                }
                names.own = own;
            }
            self.audiences.insert(audience, names);
        }
        gained
    }

    /// Recomputes what each of these audiences has beside its own, once all is compiled that brings something; answers
    /// what was gained.
    fn refresh_brought(&mut self, stale: BTreeSet<Arc<Audience>>, deltas: &mut BTreeMap<Audience, Delta>) -> Told {
        let mut gained = Vec::new();
        for audience in stale {
            if !self.audiences.get(&audience).is_some_and(|names| !names.silent) {
                continue;
            }
            let Some(mut names) = self.audiences.remove(&audience) else { continue };
            let bring = names.own.iter().filter(|unit| matches!(unit.scope, Scope::Gateways { .. }));
            let bring = bring.filter_map(|unit| self.units.get(unit)?.resource.as_ref());
            let needs = bring.flat_map(|resource| resource.requires.iter().chain(&resource.children));
            let brought: BTreeSet<Unit> = needs.flat_map(|need| compile::brought(&audience, need)).collect();
            self.exchange(&audience, &names.brought, &brought, deltas);
            gained.extend(brought.difference(&names.brought).map(|unit| (Arc::clone(&audience), unit.clone())));
            names.brought = brought;
            self.audiences.insert(audience, names);
        }
        gained
    }

    /// An audience has other units than before: who uses what, and what it must be told is gone.
    fn exchange(
        &mut self,
        audience: &Arc<Audience>,
        old: &BTreeSet<Unit>,
        new: &BTreeSet<Unit>,
        deltas: &mut BTreeMap<Audience, Delta>,
    ) {
        for unit in old.difference(new) {
            self.release(audience, unit);
            deltas.entry(Audience::clone(audience)).or_default().removals.push(unit.clone());
        }
        for unit in new.difference(old) {
            match self.units.get_mut(unit) {
                Some(memo) => drop(memo.users.insert(Arc::clone(audience))),
                None => {
                    let memo = Memo { users: [Arc::clone(audience)].into(), ..Memo::default() };
                    self.units.insert(unit.clone(), memo);
                }
            }
        }
    }

    fn compile_new(&mut self, gained: &Told, inputs: Inputs<'_>) {
        for (_, unit) in gained {
            if self.units.get(unit).is_some_and(|memo| !memo.compiled) {
                self.compile(unit, inputs);
            }
        }
    }

    /// Compiles one unit; true when its resource is another one than before.
    fn compile(&mut self, unit: &Unit, Inputs { configuration, runtime }: Inputs<'_>) -> bool {
        let Served { outcome, reads } = compile::serve(unit, configuration, runtime, &mut self.hosts);
        self.dependents.record(Key::Unit(unit.clone()), reads);
        self.record_hosts();
        let Some(memo) = self.units.get_mut(unit) else { return false };
        if outcome.problems.is_empty() {
            self.faulty.remove(unit);
        } else {
            self.faulty.insert(unit.clone());
        }
        memo.problems = outcome.problems;
        memo.compiled = true;
        let same = match (&memo.resource, &outcome.resource) {
            (Some(old), Some(new)) => Arc::ptr_eq(old, new) || old == new,
            (old, new) => old.is_none() && new.is_none(),
        };
        if !same {
            memo.resource = outcome.resource;
        }
        !same
    }

    fn record_hosts(&mut self) {
        for (unit, domain, reads) in self.hosts.take_reads() {
            let key = Key::Host(unit, domain);
            match reads {
                Some(reads) => self.dependents.record(key, reads),
                None => self.dependents.forget(&key),
            }
        }
    }

    /// One audience less has the unit.
    fn release(&mut self, audience: &Audience, unit: &Unit) {
        let Some(memo) = self.units.get_mut(unit) else { return };
        memo.users.remove(audience);
        if memo.users.is_empty() {
            self.idle.insert(unit.clone());
        }
    }

    fn tell_users(&self, unit: &Unit, deltas: &mut BTreeMap<Audience, Delta>) {
        let Some(memo) = self.units.get(unit) else { return };
        let told = memo.users.iter().filter(|user| self.audiences.get(*user).is_some_and(|names| !names.silent));
        for audience in told {
            let delta = deltas.entry(Audience::clone(audience)).or_default();
            match &memo.resource {
                Some(resource) => delta.upserts.push(Arc::clone(resource)),
                None => delta.removals.push(unit.clone()),
            }
        }
    }

    fn forget_unused(&mut self) {
        for unit in std::mem::take(&mut self.idle) {
            if self.units.get(&unit).is_some_and(|memo| !memo.users.is_empty()) {
                continue;
            }
            self.units.remove(&unit);
            self.faulty.remove(&unit);
            self.hosts.forget(&unit);
            self.dependents.forget(&Key::Unit(unit));
        }
        self.record_hosts();
    }
}

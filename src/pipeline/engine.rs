//! Which resources exist, what each was compiled from, and what a change makes stale. No I/O.

mod routes;
#[cfg(test)]
pub(super) mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use crate::{
    catalog::{Configuration, Read, Runtime},
    compile::{self, Outcome, Reader, Served, Unit, reader::Dependents},
    model::{Audience, Problem, Scope},
    xds::{Resource, ResourceType},
};

use routes::{Compiled, Hosts, Stale, host_unit};

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
    /// Units that lost their last user, or had none: they are forgotten if that is still so at the end.
    idle: BTreeSet<Unit>,
    dependents: Dependents<Key>,
    /// The virtual hosts of each route configuration.
    hosts: HashMap<Unit, Hosts>,
    /// What units need that nobody names else: route configurations their groups, and those that are served as they
    /// were accepted last what they had.
    brings: BTreeMap<Unit, BTreeSet<(ResourceType, Arc<str>)>>,
}

#[derive(Debug, Default)]
struct Names {
    /// What the objects say that it has.
    own: BTreeSet<Unit>,
    /// What it has: its own, and what those bring.
    units: BTreeSet<Unit>,
    /// Its site is unknown or being deleted: it is told nothing, and everything once the site is back.
    silent: bool,
    /// What went while it was told nothing.
    missed: BTreeSet<Unit>,
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
    /// The virtual host of a domain of a route configuration.
    Host(Unit, Arc<str>),
}

/// What the users of a unit are told.
enum Told {
    Here(Arc<Resource>),
    Gone(Unit),
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
        let mut stale_units: BTreeMap<Unit, Stale> = BTreeMap::new();
        for key in self.dependents.readers_of(changed) {
            match key {
                Key::Names(audience) => drop(stale_names.insert(audience)),
                Key::Unit(unit) => stale_units.entry(unit).or_default().domains = true,
                Key::Host(unit, domain) => drop(stale_units.entry(unit).or_default().hosts.insert(domain)),
            }
        }
        let mut deltas = BTreeMap::new();
        let mut gained = self.refresh_names(configuration, runtime, stale_names, &mut deltas);
        let mut changed_units = Vec::new();
        for (unit, stale) in stale_units {
            if self.units.get(&unit).is_some_and(|m| m.users > 0) {
                let told = self.compile(&unit, stale, configuration, runtime);
                changed_units.push((unit, told));
            }
        }
        self.compile_new(&gained, configuration, runtime);
        let brought = self.refresh_brought(&mut deltas);
        self.compile_new(&brought, configuration, runtime);
        gained.extend(brought);
        changed_units.iter().for_each(|(unit, told)| self.tell_users(unit, told, &mut deltas));
        for (audience, unit) in gained {
            if !self.audiences.get(&audience).is_some_and(|names| names.units.contains(&unit)) {
                continue;
            }
            let delta = deltas.entry(audience).or_default();
            delta.upserts.extend(self.hosts.get(&unit).into_iter().flat_map(Hosts::resources).cloned());
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
            names.units.iter().for_each(|unit| self.release(unit));
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
            let named = compile::roots(&audience, &reader);
            let reads = reader.into_reads();
            let old = self.audiences.remove(&audience).unwrap_or_default();
            let key = Key::Names(audience.clone());
            self.dependents.record(key, reads);
            // A site that is unknown or being deleted keeps what it had, and a new audience of it stays pending.
            let Some(named) = named else {
                self.audiences.insert(audience, Names { silent: true, ..old });
                continue;
            };
            deltas.entry(audience.clone()).or_default().removals.extend(old.missed.iter().cloned());
            let own: BTreeSet<Unit> = named.into_iter().collect();
            // What was brought stays until the units that brought it are compiled.
            let brought = old.units.difference(&old.own).cloned();
            let units: BTreeSet<Unit> = own.iter().cloned().chain(brought).collect();
            self.count(&audience, &old.units, &units, deltas);
            let told = units.iter().filter(|unit| old.silent || !old.units.contains(*unit));
            gained.extend(told.map(|unit| (audience.clone(), unit.clone())));
            self.audiences.insert(audience, Names { own, units, ..Names::default() });
        }
        gained
    }

    /// Recomputes what each audience has beside its own, once all is compiled that brings something; answers what was
    /// gained.
    fn refresh_brought(&mut self, deltas: &mut BTreeMap<Audience, Delta>) -> Vec<(Audience, Unit)> {
        let mut news = Vec::new();
        for (audience, names) in self.audiences.iter().filter(|(_, names)| !names.silent) {
            let bringing = self.brings.iter().filter(|(unit, _)| names.own.contains(*unit));
            let brought = bringing.flat_map(|(_, needs)| needs.iter().flat_map(|need| brought(audience, need)));
            let extra: BTreeSet<Unit> = brought.filter(|unit| !names.own.contains(unit)).collect();
            if names.units.len() != names.own.len() + extra.len() || !extra.is_subset(&names.units) {
                news.push((audience.clone(), names.own.union(&extra).cloned().collect::<BTreeSet<Unit>>()));
            }
        }
        let mut gained = Vec::new();
        for (audience, units) in news {
            let Some(mut names) = self.audiences.remove(&audience) else { continue };
            self.count(&audience, &names.units, &units, deltas);
            gained.extend(units.difference(&names.units).map(|unit| (audience.clone(), unit.clone())));
            names.units = units;
            self.audiences.insert(audience, names);
        }
        gained
    }

    /// An audience has other units than before: who uses what, and what it must be told is gone.
    fn count(
        &mut self,
        audience: &Audience,
        old: &BTreeSet<Unit>,
        new: &BTreeSet<Unit>,
        deltas: &mut BTreeMap<Audience, Delta>,
    ) {
        for unit in old.difference(new) {
            self.release(unit);
            let hosts = self.hosts.get(unit).into_iter().flat_map(Hosts::resources).map(|host| host_unit(unit, host));
            let removals = &mut deltas.entry(audience.clone()).or_default().removals;
            removals.extend(hosts.chain([unit.clone()]));
        }
        for unit in new.difference(old) {
            if let Some(memo) = self.units.get_mut(unit) {
                memo.users += 1;
            }
        }
    }

    fn compile_new(&mut self, gained: &[(Audience, Unit)], configuration: &Configuration, runtime: &Runtime) {
        for (_, unit) in gained {
            if !self.units.contains_key(unit) {
                self.compile(unit, Stale::all(), configuration, runtime);
            }
        }
    }

    /// Compiles what is stale of a unit; answers what its users must be told.
    fn compile(&mut self, unit: &Unit, stale: Stale, configuration: &Configuration, runtime: &Runtime) -> Vec<Told> {
        let compiled = if unit.has_hosts() {
            self.routes(unit, stale, configuration, runtime)
        } else {
            let Served { outcome: Outcome { resource, problems }, reads, brings } =
                compile::serve(unit, configuration, runtime);
            self.dependents.record(Key::Unit(unit.clone()), reads);
            Compiled { resource, problems, brings, told: Vec::new() }
        };
        let Compiled { resource, problems, brings, mut told } = compiled;
        if brings.is_empty() {
            self.brings.remove(unit);
        } else {
            self.brings.insert(unit.clone(), brings);
        }
        let old = self.units.remove(unit);
        let users = old
            .as_ref()
            .map_or_else(|| self.audiences.values().filter(|n| n.units.contains(unit)).count(), |old| old.users);
        let resource = match (old.and_then(|m| m.resource), resource) {
            (Some(old), Some(new)) if *old == new => Some(old),
            (None, None) => None,
            (_, Some(new)) => {
                let new = Arc::new(new);
                told.push(Told::Here(Arc::clone(&new)));
                Some(new)
            }
            (Some(_), None) => {
                told.push(Told::Gone(unit.clone()));
                None
            }
        };
        if users == 0 {
            self.idle.insert(unit.clone());
        }
        self.units.insert(unit.clone(), Memo { resource, problems, users });
        told
    }

    /// One audience less has the unit.
    fn release(&mut self, unit: &Unit) {
        let Some(memo) = self.units.get_mut(unit) else { return };
        memo.users = memo.users.saturating_sub(1);
        if memo.users == 0 {
            self.idle.insert(unit.clone());
        }
    }

    fn tell_users(&mut self, unit: &Unit, told: &[Told], deltas: &mut BTreeMap<Audience, Delta>) {
        if told.is_empty() {
            return;
        }
        for (audience, names) in self.audiences.iter_mut().filter(|(_, names)| names.units.contains(unit)) {
            let gone =
                told.iter().filter_map(|told| if let Told::Gone(unit) = told { Some(unit.clone()) } else { None });
            if names.silent {
                names.missed.extend(gone);
                continue;
            }
            let delta = deltas.entry(audience.clone()).or_default();
            delta.removals.extend(gone);
            let here =
                told.iter().filter_map(|told| if let Told::Here(new) = told { Some(Arc::clone(new)) } else { None });
            delta.upserts.extend(here);
        }
    }

    fn forget_unused(&mut self) {
        for unit in std::mem::take(&mut self.idle) {
            if self.units.get(&unit).is_some_and(|memo| memo.users > 0) {
                continue;
            }
            self.units.remove(&unit);
            self.forget_hosts(&unit);
            self.brings.remove(&unit);
            self.dependents.forget(&Key::Unit(unit));
        }
    }
}

/// The units of an audience that a resource in need of them brings along; Secrets go to those alone who proved who they
/// are.
fn brought(audience: &Audience, (kind, name): &(ResourceType, Arc<str>)) -> Vec<Unit> {
    let unit = |kind, scope: &Scope| Unit { kind, name: Arc::clone(name), scope: scope.clone() };
    let here = Scope::Site(Arc::clone(&audience.site));
    match kind {
        ResourceType::Cluster => [ResourceType::Cluster, ResourceType::Endpoints].map(|k| unit(k, &here)).into(),
        ResourceType::Secret if audience.proven => vec![unit(*kind, &Scope::Global)],
        _ => Vec::new(),
    }
}

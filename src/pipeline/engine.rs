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
    compile::{self, Judge, Judgement, Outcome, Reader, Roots, Served, Unit, dependents::Dependents},
    model::{Audience, ObjectRef, Problem, Scope},
    xds::{Resource, ResourceType},
};

use super::spread::spread;
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
    audiences: BTreeMap<Arc<Audience>, Names>,
    units: HashMap<Unit, Memo>,
    /// Units that lost their last user: they are forgotten if that is still so at the end.
    idle: BTreeSet<Unit>,
    /// Units with faults.
    faulty: BTreeSet<Unit>,
    dependents: Dependents<Key>,
    /// The virtual hosts of each route configuration.
    hosts: HashMap<Unit, Hosts>,
    /// What units need that nobody names else: route configurations their groups, and those that are served as they
    /// were accepted last what they had.
    brings: BTreeMap<Unit, BTreeSet<(ResourceType, Arc<str>)>>,
    judge: Judge,
}

#[derive(Debug, Default)]
struct Names {
    /// What it has by itself.
    own: BTreeSet<Unit>,
    /// What of that is not of one Service.
    head: BTreeSet<Unit>,
    /// What of that is of one: a core has thousands, and a change concerns few.
    services: BTreeMap<ObjectRef, BTreeSet<Unit>>,
    /// What those bring.
    brought: BTreeSet<Unit>,
    /// Its site is unknown or being deleted: it is told nothing, and everything once the site is back.
    silent: bool,
    /// What went while it was told nothing.
    missed: BTreeSet<Unit>,
}

/// Which of an audience's units are others now.
enum Part {
    Head(BTreeSet<Unit>),
    /// `None`: the Service is there no more.
    Service(ObjectRef, Option<BTreeSet<Unit>>),
    Brought(BTreeSet<Unit>),
}

impl Part {
    fn units(&self) -> Option<&BTreeSet<Unit>> {
        match self {
            Self::Head(units) | Self::Brought(units) => Some(units),
            Self::Service(_, units) => units.as_ref(),
        }
    }
}

impl Names {
    /// Puts a part in; answers what was there.
    fn put(&mut self, part: Part) -> BTreeSet<Unit> {
        match part {
            Part::Head(units) => std::mem::replace(&mut self.head, units),
            Part::Brought(units) => std::mem::replace(&mut self.brought, units),
            Part::Service(service, Some(units)) => self.services.insert(service, units).unwrap_or_default(),
            Part::Service(service, None) => self.services.remove(&service).unwrap_or_default(),
        }
    }

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
    /// What an audience has of a Service.
    Service(Arc<Audience>, ObjectRef),
    Unit(Unit),
    /// The virtual host of a domain of a route configuration.
    Host(Unit, Arc<str>),
}

/// What the users of a unit are told.
enum Told {
    Here(Arc<Resource>),
    Gone(Unit),
}

/// Who has what anew.
type Gained = Vec<(Arc<Audience>, Unit)>;

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
        let mut stale_services: Vec<(Arc<Audience>, ObjectRef)> = Vec::new();
        let mut stale_units: BTreeMap<Unit, Stale> = BTreeMap::new();
        for key in self.dependents.readers_of(changed) {
            match key {
                Key::Names(audience) => drop(stale_names.insert(audience)),
                Key::Service(audience, service) => stale_services.push((audience, service)),
                Key::Unit(unit) => stale_units.entry(unit).or_default().domains = true,
                Key::Host(unit, domain) => drop(stale_units.entry(unit).or_default().hosts.insert(domain)),
            }
        }
        let mut deltas = BTreeMap::new();
        // What may bring something else now.
        let mut bringing: BTreeSet<Arc<Audience>> = stale_names.clone();
        let mut gained = self.refresh_names(inputs, stale_names, stale_services, &mut deltas);
        stale_units.retain(|unit, _| self.units.get(unit).is_some_and(|m| m.compiled && !m.users.is_empty()));
        let changed_units = self.compile(stale_units, inputs);
        for (unit, _) in changed_units.iter().filter(|(unit, _)| matches!(unit.scope, Scope::Gateways { .. })) {
            bringing.extend(self.units.get(unit).iter().flat_map(|m| &m.users).cloned());
        }
        self.compile_new(&gained, inputs);
        let brought = self.refresh_brought(bringing, &mut deltas);
        self.compile_new(&brought, inputs);
        gained.extend(brought);
        changed_units.iter().for_each(|(unit, told)| self.tell_users(unit, told, &mut deltas));
        for (audience, unit) in gained {
            if !self.audiences.get(&audience).is_some_and(|names| names.has(&unit)) {
                continue;
            }
            let delta = deltas.entry(Audience::clone(&audience)).or_default();
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
        if let Some((audience, names)) = self.audiences.remove_entry(audience) {
            names.own.union(&names.brought).for_each(|unit| self.release(&audience, unit));
            for service in names.services.into_keys() {
                self.dependents.forget(&Key::Service(Arc::clone(&audience), service));
            }
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

    /// Recomputes which units each audience has by itself, and what some have of some Services; answers those that they
    /// gained, or must be told again.
    fn refresh_names(
        &mut self,
        inputs: Inputs<'_>,
        stale: BTreeSet<Arc<Audience>>,
        services: Vec<(Arc<Audience>, ObjectRef)>,
        deltas: &mut BTreeMap<Audience, Delta>,
    ) -> Gained {
        let mut gained = Vec::new();
        for audience in stale {
            let reader = Reader::new(inputs.configuration, inputs.runtime);
            let roots = compile::roots(&audience, &reader);
            self.dependents.record(Key::Names(Arc::clone(&audience)), reader.into_reads());
            let mut names = self.audiences.remove(&audience).unwrap_or_default();
            // A site that is unknown or being deleted keeps what it had, and a new audience of it stays pending.
            let was_silent = std::mem::replace(&mut names.silent, roots.is_none());
            if let Some(Roots { units, services }) = roots {
                let delta = deltas.entry(Audience::clone(&audience)).or_default();
                delta.removals.extend(std::mem::take(&mut names.missed));
                let mut new = self.exchange(&audience, &mut names, Part::Head(units), delta);
                // A silent one has looked at nothing.
                let listed = services.iter().filter(|service| was_silent || !names.services.contains_key(*service));
                let stale: Vec<ObjectRef> = names
                    .services
                    .keys()
                    .filter(|service| !services.contains(*service))
                    .chain(listed)
                    .cloned()
                    .collect();
                for service in stale {
                    let units = self.of_service(&audience, &service, services.contains(&service), inputs);
                    new.extend(self.exchange(&audience, &mut names, Part::Service(service, units), delta));
                }
                if was_silent {
                    new = names.own.union(&names.brought).cloned().collect();
                }
                gained.extend(new.into_iter().map(|unit| (Arc::clone(&audience), unit)));
            }
            self.audiences.insert(audience, names);
        }
        for (audience, service) in services {
            let concerned = |names: &Names| !names.silent && names.services.contains_key(&service);
            if !self.audiences.get(&audience).is_some_and(concerned) {
                continue;
            }
            let Some(mut names) = self.audiences.remove(&audience) else { continue };
            let units = self.of_service(&audience, &service, true, inputs);
            let delta = deltas.entry(Audience::clone(&audience)).or_default();
            let new = self.exchange(&audience, &mut names, Part::Service(service, units), delta);
            gained.extend(new.into_iter().map(|unit| (Arc::clone(&audience), unit)));
            self.audiences.insert(audience, names);
        }
        gained
    }

    /// What an audience has of a Service; `None`: it does not stand there.
    fn of_service(
        &mut self,
        audience: &Arc<Audience>,
        service: &ObjectRef,
        stands: bool,
        inputs: Inputs<'_>,
    ) -> Option<BTreeSet<Unit>> {
        let key = Key::Service(Arc::clone(audience), service.clone());
        if !stands {
            self.dependents.forget(&key);
            return None;
        }
        let reader = Reader::new(inputs.configuration, inputs.runtime);
        let units = compile::of_service(audience, service, &reader);
        self.dependents.record(key, reader.into_reads());
        Some(units)
    }

    /// Recomputes what each of these audiences has beside its own, once all is compiled that brings something; answers
    /// what was gained.
    fn refresh_brought(&mut self, stale: BTreeSet<Arc<Audience>>, deltas: &mut BTreeMap<Audience, Delta>) -> Gained {
        let mut gained = Vec::new();
        for audience in stale {
            if self.audiences.get(&audience).is_none_or(|names| names.silent) {
                continue;
            }
            let Some(mut names) = self.audiences.remove(&audience) else { continue };
            let needs = names.head.iter().filter_map(|unit| self.brings.get(unit)).flatten();
            let brought: BTreeSet<Unit> = needs.flat_map(|need| brought(&audience, need)).collect();
            let delta = deltas.entry(Audience::clone(&audience)).or_default();
            let new = self.exchange(&audience, &mut names, Part::Brought(brought), delta);
            gained.extend(new.into_iter().map(|unit| (Arc::clone(&audience), unit)));
            self.audiences.insert(audience, names);
        }
        gained
    }

    /// An audience has other units than before: who uses what, and what it must be told is gone. Answers what is new.
    fn exchange(&mut self, audience: &Arc<Audience>, names: &mut Names, part: Part, delta: &mut Delta) -> Vec<Unit> {
        let owned = !matches!(part, Part::Brought(_));
        let new = part.units().cloned().unwrap_or_default();
        let old = names.put(part);
        for unit in old.difference(&new) {
            if owned {
                names.own.remove(unit);
            }
            if names.has(unit) {
                continue;
            }
            self.release(audience, unit);
            let hosts = self.hosts.get(unit).into_iter().flat_map(Hosts::resources).map(|host| host_unit(unit, host));
            delta.removals.extend(hosts.chain([unit.clone()]));
        }
        let gained: Vec<Unit> = new.difference(&old).cloned().collect();
        for unit in &gained {
            if owned {
                names.own.insert(unit.clone());
            }
            let memo = self.units.entry(unit.clone()).or_default();
            memo.users.insert(Arc::clone(audience));
        }
        gained
    }

    fn compile_new(&mut self, gained: &Gained, inputs: Inputs<'_>) {
        let new = gained.iter().map(|(_, unit)| unit);
        let new = new.filter(|unit| self.units.get(*unit).is_some_and(|memo| !memo.compiled));
        let new = new.map(|unit| (unit.clone(), Stale::all())).collect();
        self.compile(new, inputs);
    }

    /// Compiles what is stale of units; answers what their users must be told.
    fn compile(&mut self, units: BTreeMap<Unit, Stale>, inputs: Inputs<'_>) -> Vec<(Unit, Vec<Told>)> {
        let Inputs { configuration, runtime } = inputs;
        let (with_hosts, alone): (Vec<_>, Vec<_>) = units.into_iter().partition(|(unit, _)| unit.has_hosts());
        let alone: Vec<Unit> = alone.into_iter().map(|(unit, _)| unit).collect();
        let served = spread(&alone, |unit| compile::serve(unit, configuration, runtime));
        let mut all = Vec::new();
        for (unit, served) in alone.into_iter().zip(served) {
            let Served { outcome: Outcome { resource, problems }, reads, brings } = served;
            self.dependents.record(Key::Unit(unit.clone()), reads);
            let told = self.keep(&unit, Compiled { resource, problems, brings, told: Vec::new() });
            all.push((unit, told));
        }
        for (unit, stale) in with_hosts {
            // Its hosts are spread.
            let compiled = self.routes(&unit, stale, configuration, runtime);
            let told = self.keep(&unit, compiled);
            all.push((unit, told));
        }
        all
    }

    /// Keeps what came of a unit; answers what its users must be told.
    fn keep(&mut self, unit: &Unit, Compiled { resource, problems, brings, mut told }: Compiled) -> Vec<Told> {
        if brings.is_empty() {
            self.brings.remove(unit);
        } else {
            self.brings.insert(unit.clone(), brings);
        }
        if problems.is_empty() {
            self.faulty.remove(unit);
        } else {
            self.faulty.insert(unit.clone());
        }
        let memo = self.units.entry(unit.clone()).or_default();
        (memo.problems, memo.compiled) = (problems, true);
        match (&memo.resource, resource) {
            (Some(old), Some(new)) if **old == new => {}
            (None, None) => {}
            (_, Some(new)) => {
                let new = Arc::new(new);
                told.push(Told::Here(Arc::clone(&new)));
                memo.resource = Some(new);
            }
            (Some(_), None) => {
                told.push(Told::Gone(unit.clone()));
                memo.resource = None;
            }
        }
        told
    }

    /// One audience less has the unit.
    fn release(&mut self, audience: &Audience, unit: &Unit) {
        let Some(memo) = self.units.get_mut(unit) else { return };
        memo.users.remove(audience);
        if memo.users.is_empty() {
            self.idle.insert(unit.clone());
        }
    }

    fn tell_users(&mut self, unit: &Unit, told: &[Told], deltas: &mut BTreeMap<Audience, Delta>) {
        let Some(memo) = self.units.get(unit).filter(|_| !told.is_empty()) else { return };
        for audience in &memo.users {
            let Some(names) = self.audiences.get_mut(audience) else { continue };
            let gone = told.iter().filter_map(|told| if let Told::Gone(unit) = told { Some(unit) } else { None });
            if names.silent {
                names.missed.extend(gone.cloned());
                continue;
            }
            let delta = deltas.entry(Audience::clone(audience)).or_default();
            delta.removals.extend(gone.cloned());
            let here = told.iter().filter_map(|told| if let Told::Here(new) = told { Some(new) } else { None });
            delta.upserts.extend(here.cloned());
        }
    }

    fn forget_unused(&mut self) {
        for unit in std::mem::take(&mut self.idle) {
            if self.units.get(&unit).is_some_and(|memo| !memo.users.is_empty()) {
                continue;
            }
            self.units.remove(&unit);
            self.forget_hosts(&unit);
            self.brings.remove(&unit);
            self.faulty.remove(&unit);
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

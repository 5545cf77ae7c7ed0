//! Every problem of a configuration, kept as it changes: an object is judged again when something has changed that its
//! judgement read, or when the conflicts of a Gateway that it names have.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    dependents::Dependents,
    reader::Reader,
    resolve::{
        problems::{self, Groups, Leads},
        status::Conflicts,
    },
};
use crate::{
    catalog::{Configuration, Read, Runtime},
    model::{Kind, ObjectRef, Problem},
};

/// What follows from the objects alone. A clone shares everything.
#[derive(Clone, Debug, Default)]
pub struct Judgement {
    configuration: Configuration,
    /// What is wrong with each object; those with which nothing is are absent. A copy shares what is the same.
    pub problems: Arc<BTreeMap<Arc<ObjectRef>, Arc<[Problem]>>>,
    /// Which listeners are in conflict.
    pub conflicts: Arc<Conflicts>,
}

impl Judgement {
    /// Looks at a whole configuration.
    pub fn of(configuration: &Configuration, runtime: &Runtime) -> Self {
        Judge::of(configuration, runtime).judgement
    }

    /// Whether it is of these objects; told by address.
    pub fn is_of(&self, configuration: &Configuration) -> bool {
        self.configuration.is_same(configuration)
    }
}

/// The problems of these objects alone, with less to look at than all of them.
pub fn problems_of(
    objects: &BTreeSet<ObjectRef>,
    configuration: &Configuration,
    runtime: &Runtime,
) -> Vec<(ObjectRef, Problem)> {
    if objects.iter().any(|object| object.kind == Kind::Site) {
        let judgement = Judgement::of(configuration, runtime);
        let found = objects.iter().filter_map(|object| Some((object, judgement.problems.get(object)?)));
        return found.flat_map(|(o, found)| found.iter().map(|problem| (o.clone(), problem.clone()))).collect();
    }
    let reader = Reader::new(configuration, runtime);
    let conflicts = Conflicts::find(&reader);
    let stored = objects.iter().filter_map(|object| configuration.get(object));
    let found = stored.flat_map(|stored| {
        let found = problems::of(stored, &conflicts, &Groups::new(), &reader);
        found.into_iter().map(|problem| (ObjectRef::clone(&stored.reference), problem))
    });
    found.collect()
}

/// A [`Judgement`], and what it was made of.
#[derive(Debug, Default)]
pub struct Judge {
    judgement: Judgement,
    leads: BTreeMap<ObjectRef, Leads>,
    groups: Groups,
    dependents: Dependents<Question>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Question {
    Conflicts,
    Object(Arc<ObjectRef>),
}

impl Judge {
    /// Looks at a whole configuration.
    pub fn of(configuration: &Configuration, runtime: &Runtime) -> Self {
        let mut judge = Self::default();
        judge.update(configuration, runtime, &BTreeSet::new());
        judge
    }

    /// Which groups are behind which Gateways.
    #[cfg(test)]
    pub(super) fn behind(&self) -> &Groups {
        &self.groups
    }

    /// The newest judgement.
    pub fn judgement(&self) -> &Judgement {
        &self.judgement
    }

    /// Brings it up to date, given what `changed` since the last call; the first looks at everything.
    pub fn update(&mut self, configuration: &Configuration, runtime: &Runtime, changed: &BTreeSet<Read>) {
        self.judgement.configuration = configuration.clone();
        let mut dirty: BTreeSet<ObjectRef> = BTreeSet::new();
        // The first time nothing is known of any.
        let mut conflicts = self.dependents.is_empty();
        if conflicts {
            dirty.extend(configuration.iter().map(|stored| ObjectRef::clone(&stored.reference)));
        }
        for question in self.dependents.readers_of(changed) {
            match question {
                Question::Conflicts => conflicts = true,
                Question::Object(object) => drop(dirty.insert(ObjectRef::clone(&object))),
            }
        }
        dirty.extend(changed.iter().filter_map(|read| match read {
            Read::Object(object) => Some(object.clone()),
            _ => None,
        }));
        if conflicts {
            dirty.extend(self.find_conflicts(configuration, runtime));
        }
        // Sites last: how many groups are behind one follows from the routes.
        let (sites, others): (BTreeSet<_>, BTreeSet<_>) = dirty.into_iter().partition(|o| o.kind == Kind::Site);
        let mut regrouped = false;
        for object in others {
            regrouped |= self.judge(&object, configuration, runtime);
        }
        let all = configuration.all(Kind::Site).filter(|_| regrouped);
        let sites: BTreeSet<_> =
            sites.into_iter().chain(all.map(|stored| ObjectRef::clone(&stored.reference))).collect();
        for site in sites {
            self.judge(&site, configuration, runtime);
        }
    }

    /// Finds the conflicts anew; answers whom another outcome concerns: Gateways, and the routes that name them.
    fn find_conflicts(&mut self, configuration: &Configuration, runtime: &Runtime) -> BTreeSet<ObjectRef> {
        let reader = Reader::new(configuration, runtime);
        let found = Conflicts::find(&reader);
        self.dependents.record(Question::Conflicts, reader.into_reads());
        let mut concerned = BTreeSet::new();
        for gateway in found.differ(&self.judgement.conflicts) {
            concerned.extend(configuration.referrers(&gateway).map(|route| ObjectRef::clone(&route.reference)));
            concerned.insert(gateway);
        }
        self.judgement.conflicts = Arc::new(found);
        concerned
    }

    /// Judges one object; true if the groups behind a Gateway are others now.
    fn judge(&mut self, object: &ObjectRef, configuration: &Configuration, runtime: &Runtime) -> bool {
        let Some(stored) = configuration.get(object) else {
            self.dependents.forget(&Question::Object(Arc::new(object.clone())));
            self.found(object, Vec::new());
            return self.lead(object, Leads::default());
        };
        let reader = Reader::new(configuration, runtime);
        let found = problems::of(stored, &self.judgement.conflicts, &self.groups, &reader);
        let leads = problems::leads(stored, &self.judgement.conflicts, &reader);
        self.dependents.record(Question::Object(stored.reference.clone()), reader.into_reads());
        self.found(object, found);
        self.lead(object, leads)
    }

    fn found(&mut self, object: &ObjectRef, found: Vec<Problem>) {
        let known = self.judgement.problems.get(object);
        if known.map(|known| &**known).unwrap_or_default() == found {
            return;
        }
        let problems = Arc::make_mut(&mut self.judgement.problems);
        if found.is_empty() {
            problems.remove(object);
        } else {
            problems.insert(Arc::new(object.clone()), found.into());
        }
    }

    fn lead(&mut self, object: &ObjectRef, leads: Leads) -> bool {
        let old = self.leads.remove(object).unwrap_or_default();
        if old == leads {
            if old != Leads::default() {
                self.leads.insert(object.clone(), old);
            }
            return false;
        }
        let mut regrouped = false;
        for gateway in leads.from.iter().filter(|_| !leads.to.is_empty()) {
            let behind = self.groups.entry(gateway.clone()).or_default();
            for group in &leads.to {
                let count = behind.entry(Arc::clone(group)).or_default();
                regrouped |= *count == 0;
                *count += 1;
            }
        }
        for gateway in &old.from {
            let Some(behind) = self.groups.get_mut(gateway) else { continue };
            for group in &old.to {
                if let Some(count) = behind.get_mut(group) {
                    *count -= 1;
                }
            }
            let before = behind.len();
            behind.retain(|_, count| *count > 0);
            regrouped |= behind.len() != before;
            if behind.is_empty() {
                self.groups.remove(gateway);
            }
        }
        if leads != Leads::default() {
            self.leads.insert(object.clone(), leads);
        }
        regrouped
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{catalog::testing::*, model::Object};

    #[test]
    fn a_new_problem_costs_no_copy_of_those_that_stood() {
        let lost = |name: &str| -> Object { route(name, "a/none").rule(to("a/gone", 80)) };
        let mut world = World::of([lost("a/one")]);
        let mut judge = Judge::of(world.catalog.configuration(), world.catalog.runtime());
        let before = judge.judgement().clone();
        let changed = world.put(lost("a/two"));
        judge.update(world.catalog.configuration(), world.catalog.runtime(), &changed.configuration);
        let after = judge.judgement();
        assert_eq!((before.problems.len(), after.problems.len()), (1, 2));
        let one = ObjectRef::new(Kind::HttpRoute, "a", "one");
        assert!(Arc::ptr_eq(&before.problems[&one], &after.problems[&one]));
    }
}

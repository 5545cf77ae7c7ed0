//! The property on which the pipeline rests: what was read says what a change makes dirty, nothing is missed.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::{
    catalog::{
        Read,
        testing::{edits::*, *},
    },
    compile::{
        dependents::Dependents,
        judge::{Judge, Judgement},
        resolve::{Plan, plan},
    },
    model::*,
};

/// What is compiled.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Question {
    Names(Audience),
    Plan(Unit),
}

/// What comes of it.
#[derive(Debug, PartialEq)]
enum Answer {
    Names(Option<Vec<Unit>>),
    Plan(Option<Plan>),
}

fn ask(world: &World, question: &Question) -> (Answer, BTreeSet<Read>) {
    let reader = reader(world);
    let answer = match question {
        Question::Names(audience) => Answer::Names(names(audience, &reader)),
        Question::Plan(unit) => Answer::Plan(plan(unit, &reader)),
    };
    (answer, reader.into_reads())
}

/// Everything that was ever asked for, compiled again only when it is dirty.
#[derive(Debug, Default)]
struct Compiled {
    answers: BTreeMap<Question, Answer>,
    dependents: Dependents<Question>,
}

impl Compiled {
    fn compile(&mut self, world: &World, question: Question) {
        let (answer, reads) = ask(world, &question);
        self.dependents.record(question.clone(), reads);
        self.answers.insert(question, answer);
    }

    fn names(&self) -> Vec<Vec<Unit>> {
        let names = |answer: &Answer| match answer {
            Answer::Names(units) => units.clone(),
            Answer::Plan(_) => None,
        };
        self.answers.values().filter_map(names).collect()
    }
}

fn audiences() -> Vec<Audience> {
    let all = |site| {
        [(Role::Edge, true), (Role::Edge, false), (Role::Core, true), (Role::Grpc, true)]
            .map(|(role, proven)| audience(site, role, proven))
    };
    SITES.into_iter().flat_map(all).collect()
}

/// Every unit that an audience has says something, and every group that its routes name is its own.
fn check_closed(world: &World, units: &[Unit]) -> Result<(), TestCaseError> {
    let clusters: BTreeSet<&str> =
        units.iter().filter(|unit| unit.kind == crate::xds::ResourceType::Cluster).map(|unit| &*unit.name).collect();
    for unit in units {
        let reader = reader(world);
        let found = plan(unit, &reader);
        prop_assert!(found.is_some(), "{unit:?} says nothing");
        let Some(Plan::RouteConfiguration(found)) = found else { continue };
        for host in found.hosts {
            let HostAnswer::Routes(routes) = host.answer else { continue };
            for target in routes.iter().flat_map(|r| r.mirrors.iter().chain(r.backends.iter().flat_map(|b| &b.target)))
            {
                prop_assert!(clusters.contains(target.group.as_str()), "{} is not there", target.group);
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn recomputing_what_a_change_touches_equals_recomputing_everything(
        start in starts(),
        edits in prop::collection::vec(edits(), 1..40),
    ) {
        let mut world = start.into_iter().fold(World::new(), World::with);
        let mut compiled = Compiled::default();
        audiences().into_iter().for_each(|audience| compiled.compile(&world, Question::Names(audience)));
        for edit in edits {
            let dirty = compiled.dependents.dirty(&edit.clone().apply(&mut world));
            dirty.into_iter().for_each(|question| compiled.compile(&world, question));
            for (question, answer) in &compiled.answers {
                prop_assert_eq!(answer, &ask(&world, question).0, "{:?} after {:?}", question, edit);
            }
            for units in compiled.names() {
                check_closed(&world, &units)?;
                let new = units.into_iter().map(Question::Plan).filter(|question| !compiled.answers.contains_key(question));
                new.collect::<Vec<_>>().into_iter().for_each(|question| compiled.compile(&world, question));
            }
        }
        let mut fresh = empty();
        fresh.reset(&world.listing());
        prop_assert_eq!(fresh.configuration(), world.catalog.configuration());
        prop_assert_eq!(fresh.runtime(), world.catalog.runtime());
    }
}

/// What is wrong, whenever the faulty value was written: a rewrite that says the same is no change.
fn found(judgement: &Judgement) -> Vec<Problem> {
    judgement
        .problems
        .values()
        .flat_map(|found| found.iter())
        .cloned()
        .map(|problem| Problem { revision: Revision(0), ..problem })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn judging_what_a_change_touches_equals_judging_everything(
        batches in prop::collection::vec(prop::collection::vec(histories(), 1..4), 1..20)
    ) {
        let mut world = World::new();
        let mut judge = Judge::default();
        for batch in batches {
            let mut changed = BTreeSet::new();
            for edit in batch.clone() {
                let edited = edit.apply(&mut world);
                changed.extend(edited.configuration.into_iter().chain(edited.runtime));
            }
            let (configuration, runtime) = (world.catalog.configuration(), world.catalog.runtime());
            judge.update(configuration, runtime, &changed);
            let fresh = Judge::of(configuration, runtime);
            let full = fresh.judgement();
            prop_assert!(judge.judgement().is_of(configuration));
            prop_assert_eq!(found(judge.judgement()), found(full), "after {:?}", batch);
            prop_assert_eq!(&judge.judgement().conflicts, &full.conflicts, "after {:?}", batch);
            prop_assert_eq!(judge.behind(), fresh.behind(), "after {:?}", batch);
        }
    }
}

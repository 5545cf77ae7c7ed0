//! What follows from the objects alone, found once for a state and not once a question.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    compile::Judgement,
    model::{ObjectRef, Problem},
    pipeline::State,
};

/// Every problem of a state, by object and by key, and which listeners are in conflict.
#[derive(Debug, Default)]
pub struct Judged {
    pub(super) judgement: Judgement,
    /// Faults of resources and of keys.
    by_object: BTreeMap<ObjectRef, Vec<Problem>>,
    by_key: BTreeMap<String, Vec<Problem>>,
}

impl Judged {
    /// Sorts what was found when the state was compiled; looks at every object where it has not been yet.
    pub fn of(state: &State) -> Self {
        let judgement = match state.judgement.is_of(&state.configuration) {
            true => state.judgement.clone(),
            false => Judgement::of(&state.configuration, &state.runtime),
        };
        let mut judged = Self { judgement, ..Self::default() };
        for problem in state.problems.iter().cloned() {
            match &problem.object {
                Some(object) => judged.by_object.entry(object.clone()).or_default().push(problem),
                None => judged.by_key.entry(problem.key.clone()).or_default().push(problem),
            }
        }
        judged
    }

    /// What is wrong with an object, or with its key.
    pub fn problems(&self, object: &ObjectRef, key: &str) -> impl Iterator<Item = &Problem> {
        let between = self.judgement.problems.get(object).into_iter().flat_map(|found| found.iter());
        let alone = [self.by_object.get(object), self.by_key.get(key)];
        between.chain(alone.into_iter().flatten().flatten())
    }

    /// Objects that something is wrong with, whether they are served or not.
    pub fn objects(&self) -> impl Iterator<Item = &ObjectRef> {
        let between = self.judgement.problems.keys().map(|object| &**object);
        let both: BTreeSet<&ObjectRef> = between.chain(self.by_object.keys()).collect();
        both.into_iter()
    }
}

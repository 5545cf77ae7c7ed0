//! What follows from the objects alone, found once for a state and not once a question.

use std::collections::BTreeMap;

use crate::{
    compile::{self, Reader, resolve::status::Conflicts},
    model::{ObjectRef, Problem},
    pipeline::State,
};

/// Every problem of a state, by object and by key, and which listeners are in conflict.
#[derive(Debug, Default)]
pub struct Judged {
    by_object: BTreeMap<ObjectRef, Vec<Problem>>,
    by_key: BTreeMap<String, Vec<Problem>>,
    pub(super) conflicts: Conflicts,
}

impl Judged {
    /// Looks at the whole configuration.
    pub fn of(state: &State) -> Self {
        let mut judged =
            Self { conflicts: Conflicts::find(&Reader::new(&state.configuration, &state.runtime)), ..Self::default() };
        let found = compile::resolve::problems::problems(&state.configuration, &state.runtime);
        for problem in found.into_iter().chain(state.problems.iter().cloned()) {
            match &problem.object {
                Some(object) => judged.by_object.entry(object.clone()).or_default().push(problem),
                None => judged.by_key.entry(problem.key.clone()).or_default().push(problem),
            }
        }
        judged
    }

    /// What is wrong with an object, or with its key.
    pub fn problems(&self, object: &ObjectRef, key: &str) -> impl Iterator<Item = &Problem> {
        let of_object = self.by_object.get(object).into_iter().flatten();
        of_object.chain(self.by_key.get(key).into_iter().flatten())
    }

    /// Objects that something is wrong with, whether they are served or not.
    pub fn objects(&self) -> impl Iterator<Item = &ObjectRef> {
        self.by_object.keys()
    }
}

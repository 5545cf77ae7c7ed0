//! What of the things that came past admission (`etcdctl put`, `etcdctl del`) the leader agrees to. No I/O.
//!
//! A valid object that admission lets pass gets its accepted copy; one that it would have refused gets none and is named
//! with the reason. A deletion is agreed to at once.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::json;

use super::{BYTES_MAX, OBJECTS_MAX};
use crate::{
    admission,
    catalog::accepted,
    model::{Keyspace, Object, ObjectRef, Revision, StoreKey},
    pipeline::State,
    replicas::Fence,
    store::{Compare, Op, Transaction},
};

/// Before an object that was refused is looked at again: what it does not fit to may have changed.
const AGAIN: Duration = Duration::from_secs(5);

/// An object that admission would have refused.
struct Refused {
    /// Which of its writes.
    write: Revision,
    /// Why.
    message: String,
    again: Instant,
}

/// What the leader has refused in this term, and how far it has come.
pub(super) struct Agreement {
    keyspace: Keyspace,
    by: Arc<str>,
    refused: BTreeMap<Arc<ObjectRef>, Refused>,
    /// A state that has not read the last transaction yet would ask for it again.
    after: Revision,
}

/// What admission is asked about.
pub(super) struct Question {
    state: Arc<State>,
    writes: Vec<Arc<ObjectRef>>,
    deletions: Vec<Arc<ObjectRef>>,
}

/// What it said.
pub(super) struct Verdict {
    question: Question,
    faults: BTreeMap<ObjectRef, String>,
}

impl Question {
    /// May take a while: it compiles what the objects are in.
    pub(super) fn judge(self) -> Verdict {
        let configuration = &self.state.configuration;
        let objects: Vec<Object> =
            self.writes.iter().filter_map(|object| configuration.get(object)).map(|s| s.object.clone()).collect();
        let verdict = admission::check(configuration, &self.state.runtime, &objects, &[]);
        Verdict { faults: verdict.faults.into_iter().collect(), question: self }
    }
}

impl Agreement {
    pub(super) fn new(keyspace: &Keyspace, by: &Arc<str>) -> Self {
        Self { keyspace: keyspace.clone(), by: Arc::clone(by), refused: BTreeMap::new(), after: Revision(0) }
    }

    /// What waits for a word, as much as one transaction takes.
    pub(super) fn ask(&mut self, state: &Arc<State>, now: Instant) -> Option<Question> {
        let waiting = &state.unagreed.writes;
        self.refused.retain(|object, refused| waiting.get(object).is_some_and(|w| w.mod_revision == refused.write));
        if state.revision < self.after {
            return None;
        }
        let mut bytes = 0;
        let open = waiting.iter().filter(|(object, write)| {
            // What is not served in this very version is not what the state speaks of.
            state.configuration.get(object).is_some_and(|stored| stored.mod_revision == write.mod_revision)
                && self.refused.get(*object).is_none_or(|refused| refused.again <= now)
        });
        let fitting = open.take(OBJECTS_MAX).take_while(|(_, write)| {
            bytes += write.value.len();
            bytes <= BYTES_MAX
        });
        let writes: Vec<_> = fitting.map(|(object, _)| Arc::clone(object)).collect();
        let room = OBJECTS_MAX - writes.len();
        let deletions: Vec<_> = state.unagreed.deletions.keys().take(room).cloned().collect();
        let something = !writes.is_empty() || !deletions.is_empty();
        something.then(|| Question { state: Arc::clone(state), writes, deletions })
    }

    /// The transaction that says it; `head` as it was read before the state was.
    pub(super) fn answer(
        &mut self,
        verdict: &Verdict,
        head: Revision,
        fence: &Fence,
        now: (Instant, u64),
    ) -> Option<Transaction> {
        let Verdict { question, faults } = verdict;
        let head_key = self.keyspace.format(&StoreKey::Head);
        let mut compares = vec![fence.compare(), Compare::ModRevision(head_key.clone(), head)];
        let mut ops = Vec::new();
        let mut names = Vec::new();
        for object in &question.writes {
            let Some(write) = question.state.unagreed.writes.get(object) else { continue };
            if let Some(message) = faults.get(object) {
                self.refuse(object, write.mod_revision, message, now.0);
                continue;
            }
            let key = self.keyspace.format(&StoreKey::Accepted((**object).clone()));
            compares.push(self.unchanged(object, write.mod_revision));
            compares.push(Compare::ModRevision(key.clone(), write.accepted));
            ops.push(Op::Put { key, value: accepted::encode(Some(write.age), &write.value), lease: None });
            names.push(object.to_string());
        }
        for object in &question.deletions {
            let Some(copy) = question.state.unagreed.deletions.get(object) else { continue };
            let key = self.keyspace.format(&StoreKey::Accepted((**object).clone()));
            compares.push(self.unchanged(object, Revision(0)));
            compares.push(Compare::ModRevision(key.clone(), *copy));
            ops.push(Op::Delete { key });
            names.push(format!("{object} (gone)"));
        }
        if ops.is_empty() {
            return None;
        }
        let who = format!("leader/{}", self.by);
        let audit =
            json!({ "who": who, "verb": "accept", "objects": names, "unixMillis": now.1, "replica": &*self.by });
        let key = format!("{}audit/{:014}-{:08x}", self.keyspace.observed(), now.1, fastrand::u32(..));
        ops.push(Op::Put { key, value: audit.to_string().into(), lease: None });
        ops.push(Op::Put { key: head_key, value: now.1.to_string().into(), lease: None });
        Some(Transaction { compares, ops })
    }

    /// The transaction of [`Agreement::answer`] was committed.
    pub(super) fn written(&mut self, at: Revision) {
        self.after = at;
    }

    /// Why an object that is served has no accepted copy of what it says.
    pub(super) fn refused(&self, object: &ObjectRef) -> Option<&str> {
        self.refused.get(object).map(|refused| refused.message.as_str())
    }

    fn unchanged(&self, object: &Arc<ObjectRef>, seen: Revision) -> Compare {
        Compare::ModRevision(self.keyspace.format(&StoreKey::Object((**object).clone())), seen)
    }

    fn refuse(&mut self, object: &Arc<ObjectRef>, write: Revision, message: &str, now: Instant) {
        let refused = Refused { write, message: message.to_owned(), again: now + AGAIN };
        if self.refused.insert(Arc::clone(object), refused).is_none() {
            tracing::warn!(%object, message, "written past admission and not accepted; it is served while it is valid");
        }
    }
}

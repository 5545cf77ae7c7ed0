//! An object and its accepted copy: which of the two is in service, what is wrong with the other, and what the leader
//! has to agree to. Pure: what is served follows from the two values alone, whatever stood there before.

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;

use super::{Parse, Stored, accepted};
use crate::{
    manifest::Mode,
    model::{Object, ObjectRef, Problem, Revision, Severity},
    store::KeyValue,
};

/// What came past admission and waits for the leader's word, by object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unagreed {
    /// Valid values that their accepted copies do not hold.
    pub writes: BTreeMap<Arc<ObjectRef>, RawWrite>,
    /// Accepted copies whose objects are gone, each with the copy's `mod_revision`.
    pub deletions: BTreeMap<Arc<ObjectRef>, Revision>,
}

impl Unagreed {
    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty() && self.deletions.is_empty()
    }

    /// What `reference` waits for now; what readers hold is left as it is.
    pub(super) fn set(this: &mut Arc<Self>, reference: &Arc<ObjectRef>, waits: Option<Waits>) {
        let (write, deletion) = match waits {
            None => (None, None),
            Some(Waits::Write(write)) => (Some(write), None),
            Some(Waits::Deletion(copy)) => (None, Some(copy)),
        };
        if this.writes.get(reference) == write.as_ref() && this.deletions.get(reference) == deletion.as_ref() {
            return;
        }
        let this = Arc::make_mut(this);
        match write {
            Some(write) => drop(this.writes.insert(Arc::clone(reference), write)),
            None => drop(this.writes.remove(reference)),
        }
        match deletion {
            Some(copy) => drop(this.deletions.insert(Arc::clone(reference), copy)),
            None => drop(this.deletions.remove(reference)),
        }
    }
}

/// A valid value that its accepted copy does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawWrite {
    /// The object's bytes.
    pub value: Bytes,
    /// The revision of the object's last write.
    pub mod_revision: Revision,
    /// The `mod_revision` of the accepted copy's key; 0: there is none.
    pub accepted: Revision,
    /// What goes into the accepted copy; see [`accepted::encode`].
    pub age: Revision,
}

/// The two values of an object, as far as they stand.
#[derive(Debug, Default)]
pub(super) struct Copies {
    pub(super) object: Option<KeyValue>,
    pub(super) accepted: Option<KeyValue>,
}

/// The two keys of an object.
#[derive(Debug)]
pub(super) struct Keys {
    pub(super) object: String,
    pub(super) accepted: String,
}

/// What the leader has to agree to.
#[derive(Debug)]
pub(super) enum Waits {
    Write(RawWrite),
    Deletion(Revision),
}

/// What follows from the two values.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    pub(super) stored: Option<Stored>,
    pub(super) problems: Vec<Problem>,
    pub(super) waits: Option<Waits>,
}

/// An accepted copy, read.
struct Accepted<'a> {
    entry: &'a KeyValue,
    /// Of the object; where the copy's first line cannot be read, it says nothing.
    age: Option<Revision>,
    /// What it says; a copy that cannot be read counts as absent.
    object: Result<Object, String>,
}

fn read_copy<'a>(reference: &ObjectRef, entry: &'a KeyValue, parse: Parse) -> Accepted<'a> {
    match accepted::decode(entry) {
        Err(fault) => Accepted { entry, age: None, object: Err(fault) },
        Ok((age, bytes)) => {
            let object = read(reference, &bytes, Mode::Tolerant, parse);
            let object = object.map(|(object, _)| object).map_err(|faults| faults.join("; "));
            Accepted { entry, age: Some(age), object }
        }
    }
}

/// Reads a value, which must be of the object that its key names.
fn read(reference: &ObjectRef, bytes: &[u8], mode: Mode, parse: Parse) -> Result<(Object, Vec<String>), Vec<String>> {
    let (object, warnings) = parse(reference, bytes, mode)?;
    if object.reference() == *reference {
        Ok((object, warnings))
    } else {
        Err(vec![format!("the value is {}, the key is of {reference}", object.reference())])
    }
}

/// Decides: the object where it is valid, else the accepted copy.
pub(super) fn judge(reference: &Arc<ObjectRef>, keys: &Keys, copies: &Copies, parse: Parse) -> Verdict {
    let same = |object: &KeyValue, copy: &KeyValue| {
        accepted::decode(copy).ok().and_then(|(age, bytes)| (bytes == object.value).then_some(age))
    };
    match (&copies.object, &copies.accepted) {
        (None, None) => Verdict::default(),
        (None, Some(copy)) => gone(reference, keys, copy, parse),
        (Some(object), copy) => match copy.as_ref().and_then(|copy| same(object, copy)) {
            Some(age) => agreed(reference, keys, object, age, parse),
            None => raw(reference, keys, object, copy.as_ref(), parse),
        },
    }
}

/// The object is as it was accepted: it is read as far as it goes, perhaps by a version that knows less.
fn agreed(reference: &Arc<ObjectRef>, keys: &Keys, object: &KeyValue, age: Revision, parse: Parse) -> Verdict {
    let told = |severity, reason, message| problem(reference, &keys.object, object, severity, reason, message);
    match read(reference, &object.value, Mode::Tolerant, parse) {
        Ok((served, warnings)) => Verdict {
            problems: warnings.into_iter().map(|w| told(Severity::Warning, "Tolerated", w)).collect(),
            stored: Some(stored(reference, keys, served, age, object.mod_revision)),
            waits: None,
        },
        Err(faults) => Verdict {
            problems: faults.into_iter().map(|f| told(Severity::Error, "InvalidObject", f)).collect(),
            ..Verdict::default()
        },
    }
}

/// The object came past admission: it is served if it passes all that it can be held to by itself.
fn raw(reference: &Arc<ObjectRef>, keys: &Keys, object: &KeyValue, copy: Option<&KeyValue>, parse: Parse) -> Verdict {
    let mut verdict = Verdict::default();
    let copy = copy.map(|entry| read_copy(reference, entry, parse));
    if let Some(Accepted { entry, object: Err(fault), .. }) = &copy {
        verdict.problems.push(bad_copy(reference, keys, entry, Severity::Warning, fault));
    }
    let age = copy.as_ref().and_then(|copy| copy.age).unwrap_or(object.create_revision);
    let copied = copy.as_ref().map(|copy| copy.entry.mod_revision).unwrap_or_default();
    let accepted = copy.and_then(|copy| copy.object.ok());
    let (faults, instead) = match (read(reference, &object.value, Mode::Strict, parse), accepted) {
        (Ok((served, _)), accepted) => {
            let served = stored(reference, keys, served, age, object.mod_revision);
            verdict.stored = Some(Stored {
                accepted: accepted.is_some(),
                fallback: accepted.filter(|accepted| *accepted != served.object).map(Arc::new),
                ..served
            });
            let (value, mod_revision) = (object.value.clone(), object.mod_revision);
            verdict.waits = Some(Waits::Write(RawWrite { value, mod_revision, accepted: copied, age }));
            return verdict;
        }
        (Err(faults), Some(served)) => {
            verdict.stored = Some(stored(reference, keys, served, age, copied));
            (faults, format!("its last accepted copy, of revision {copied}, is served instead"))
        }
        (Err(faults), None) => (faults, "it has no accepted copy and is out of service".to_owned()),
    };
    let told = |fault| {
        let message = format!("{fault}; {instead}");
        problem(reference, &keys.object, object, Severity::Error, "InvalidObject", message)
    };
    verdict.problems.extend(faults.into_iter().map(told));
    verdict
}

/// The object is gone, its accepted copy stands: a deletion that is not yet agreed, and serves on.
fn gone(reference: &Arc<ObjectRef>, keys: &Keys, entry: &KeyValue, parse: Parse) -> Verdict {
    let copy = read_copy(reference, entry, parse);
    let mut verdict = Verdict { waits: Some(Waits::Deletion(entry.mod_revision)), ..Verdict::default() };
    match copy.object {
        Ok(object) => {
            let message = "the key is gone, deletion not yet agreed: its last accepted copy serves on until the leader \
                           agrees; tidegate delete deletes at once";
            let (severity, reason) = (Severity::Warning, "DeletionNotAgreed");
            verdict.problems.push(problem(reference, &keys.object, entry, severity, reason, message.into()));
            let age = copy.age.unwrap_or(entry.create_revision);
            verdict.stored = Some(stored(reference, keys, object, age, entry.mod_revision));
        }
        Err(fault) => verdict.problems.push(bad_copy(reference, keys, entry, Severity::Error, &fault)),
    }
    verdict
}

fn bad_copy(reference: &ObjectRef, keys: &Keys, entry: &KeyValue, severity: Severity, fault: &str) -> Problem {
    let message = format!("the accepted copy cannot be read and counts as absent: {fault}");
    problem(reference, &keys.accepted, entry, severity, "InvalidAcceptedCopy", message)
}

fn problem(
    reference: &ObjectRef,
    key: &str,
    entry: &KeyValue,
    severity: Severity,
    reason: &str,
    message: String,
) -> Problem {
    Problem {
        object: Some(reference.clone()),
        key: key.to_owned(),
        severity,
        reason: reason.into(),
        message,
        revision: entry.mod_revision,
    }
}

/// An object in service that is its own accepted copy.
fn stored(
    reference: &Arc<ObjectRef>,
    keys: &Keys,
    object: Object,
    create_revision: Revision,
    mod_revision: Revision,
) -> Stored {
    Stored {
        reference: Arc::clone(reference),
        object,
        create_revision,
        mod_revision,
        key: keys.object.clone(),
        accepted: true,
        fallback: None,
    }
}

//! Writes: parse, admit, store; in one transaction where it fits, with the audit key and `head` in the same one.

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::json;
use tonic::Status;

use super::{Context, store_status};
use crate::{
    admission,
    catalog::accepted,
    manifest::{self, Mode},
    model::{Kind, Object, ObjectRef, Revision, StoreKey},
    rpc::{self, Applied, ApplyRequest, ApplyResponse, DeleteRequest, DeleteResponse, Fault, applied::Outcome},
    store::{Compare, KeyValue, Op, StoreError, Transaction, TxnOutcome},
};

/// The limit of one transaction: each object is stored twice, as itself and as its accepted copy, and etcd takes 128 operations, 1.5 MiB.
const OBJECTS_MAX: usize = 60;
/// Bytes of manifests in one transaction.
const BYTES_MAX: usize = 600 * 1024;
/// How often a write is checked again because another one came first.
const ATTEMPTS: usize = 8;
/// How long a write waits for this replica to have read what it must be checked against.
const CATCH_UP: Duration = Duration::from_secs(5);

/// How many keys are asked for at once.
const READS: usize = 32;

/// One object to write.
struct Write {
    reference: ObjectRef,
    value: Bytes,
}

/// The two keys of an object, and what stands there.
struct Standing {
    object_key: String,
    object: Option<KeyValue>,
    accepted_key: String,
    accepted: Option<KeyValue>,
}

impl Standing {
    async fn read(context: &Context, reference: ObjectRef) -> Result<Self, Status> {
        let object_key = context.keyspace.format(&StoreKey::Object(reference.clone()));
        let accepted_key = context.keyspace.format(&StoreKey::Accepted(reference));
        let (object, accepted) = tokio::try_join!(context.store.get(&object_key), context.store.get(&accepted_key))
            .map_err(|e| store_status(&e))?;
        Ok(Self { object_key, object, accepted_key, accepted })
    }

    fn outcome(&self, value: &Bytes) -> Outcome {
        let same = |entry: &KeyValue| entry.value == *value;
        let accepted = |copy: &KeyValue| accepted::decode(copy).is_ok_and(|(_, bytes)| bytes == *value);
        match (&self.object, &self.accepted) {
            (None, None) => Outcome::Created,
            (Some(object), Some(copy)) if same(object) && accepted(copy) => Outcome::Unchanged,
            _ => Outcome::Configured,
        }
    }

    /// The revision of the last write of either.
    fn revision(&self) -> Revision {
        let of = |entry: &Option<KeyValue>| entry.as_ref().map(|entry| entry.mod_revision).unwrap_or_default();
        of(&self.object).max(of(&self.accepted))
    }

    /// Writes both keys; the age is kept while one of them stands.
    fn put(&self, value: &Bytes) -> [Op; 2] {
        let age = self.accepted.as_ref().and_then(|copy| accepted::decode(copy).ok()).map(|(age, _)| age);
        let age = age.or_else(|| self.object.as_ref().map(|object| object.create_revision));
        let put = |key: &String, value| Op::Put { key: key.clone(), value, lease: None };
        [put(&self.object_key, value.clone()), put(&self.accepted_key, accepted::encode(age, value))]
    }

    /// Nobody has written either since they were read; a raw write does not bump `head`.
    fn compares(&self) -> [Compare; 2] {
        [(&self.object_key, &self.object), (&self.accepted_key, &self.accepted)].map(|(key, entry)| {
            let at = entry.as_ref().map(|entry| entry.mod_revision).unwrap_or_default();
            Compare::ModRevision(key.clone(), at)
        })
    }
}

/// What stands of each, in their order, many asked for at once.
async fn standing<'a>(
    context: &Context,
    references: impl Iterator<Item = &'a ObjectRef>,
) -> Result<Vec<Standing>, Status> {
    let reads = references.cloned().map(|reference| Standing::read(context, reference)).collect::<Vec<_>>();
    stream::iter(reads).buffered(READS).try_collect().await
}

/// Checks everything at once, then writes; or says every fault and writes nothing.
pub(super) async fn apply(context: &Context, who: &str, request: ApplyRequest) -> Result<ApplyResponse, Status> {
    let mut response = ApplyResponse::default();
    let mut objects: Vec<Object> = Vec::new();
    let mut places = Vec::new();
    let mut writes = Vec::new();
    let mut seen = BTreeSet::new();
    for source in &request.sources {
        let parsed = manifest::parse(&source.name, &source.text, Mode::Strict);
        response.faults.extend(parsed.faults.iter().map(fault));
        response.warnings.extend(parsed.warnings.iter().map(ToString::to_string));
        for located in parsed.objects {
            let reference = located.object.reference();
            let place = (source.name.clone(), located.span.line, located.span.column);
            if !seen.insert(reference.clone()) {
                let message = format!("{reference} stands in this apply twice; keep one of them");
                response.faults.push(at(&place, message));
            }
            let value = manifest::to_yaml(&located.json);
            writes.push(Write { reference, value: value.into() });
            objects.push(located.object);
            places.push(place);
        }
    }
    if objects.is_empty() && response.faults.is_empty() {
        response.faults.push(Fault { message: "there is no object in the input".into(), ..Fault::default() });
    }
    if !response.faults.is_empty() {
        return Ok(response);
    }
    for _ in 0..ATTEMPTS {
        let (head, state) = current(context).await?;
        let verdict = admission::check(&state.configuration, &state.runtime, &objects, &[]);
        for (reference, message) in &verdict.faults {
            let place = objects.iter().position(|o| o.reference() == *reference).and_then(|i| places.get(i));
            response.faults.push(match place {
                Some(place) => at(place, message.clone()),
                None => Fault { message: format!("{reference}: {message}"), ..Fault::default() },
            });
        }
        if !response.faults.is_empty() {
            return Ok(response);
        }
        let mut warnings = response.warnings.clone();
        warnings.extend(verdict.warnings);
        if let Some(done) = store_all(context, who, &writes, head, request.dry_run).await? {
            return Ok(ApplyResponse { warnings, ..done });
        }
    }
    Err(Status::aborted("others kept writing at the same time; nothing was written, try again"))
}

/// Writes what differs from the store; `None` when another write came first.
async fn store_all(
    context: &Context,
    who: &str,
    writes: &[Write],
    mut head: Revision,
    dry_run: bool,
) -> Result<Option<ApplyResponse>, Status> {
    let mut response = ApplyResponse::default();
    let mut pending = Vec::new();
    let all = standing(context, writes.iter().map(|write| &write.reference)).await?;
    for (write, standing) in writes.iter().zip(all) {
        let outcome = standing.outcome(&write.value);
        response.revision = response.revision.max(standing.revision().0);
        response.applied.push(Applied { object: Some(to_rpc(&write.reference)), outcome: outcome.into() });
        if outcome != Outcome::Unchanged {
            pending.push((write, standing));
        }
    }
    if dry_run || pending.is_empty() {
        return Ok(Some(response));
    }
    let parts = split(pending);
    let total = parts.len();
    for (index, part) in parts.into_iter().enumerate() {
        let names: Vec<String> = part.iter().map(|(write, _)| write.reference.to_string()).collect();
        let ops = part.iter().flat_map(|(write, standing)| standing.put(&write.value)).collect();
        let compares = part.iter().flat_map(|(_, standing)| standing.compares()).collect();
        match commit(context, who, "apply", &names, Transaction { compares, ops }, head).await? {
            TxnOutcome::Committed(revision) => {
                head = revision;
                response.revision = revision.0;
                response.transactions += 1;
            }
            TxnOutcome::Conflict(_) if index == 0 => return Ok(None),
            TxnOutcome::Conflict(_) => {
                return Err(Status::aborted(format!(
                    "another write came between: {index} of {total} transactions are written; \
                     run the same apply again to complete it"
                )));
            }
        }
    }
    Ok(Some(response))
}

/// What is referred to first, each part within the limits of one transaction.
fn split(mut writes: Vec<(&Write, Standing)>) -> Vec<Vec<(&Write, Standing)>> {
    let fits = writes.len() <= OBJECTS_MAX && writes.iter().map(|(w, _)| w.value.len()).sum::<usize>() <= BYTES_MAX;
    if fits {
        return vec![writes];
    }
    writes.sort_by(|(a, _), (b, _)| a.reference.cmp(&b.reference));
    let mut parts: Vec<Vec<(&Write, Standing)>> = Vec::new();
    let mut bytes = 0;
    for write in writes {
        let size = write.0.value.len();
        bytes += size;
        match parts.last_mut() {
            Some(part) if part.len() < OBJECTS_MAX && bytes <= BYTES_MAX => part.push(write),
            _ => {
                bytes = size;
                parts.push(vec![write]);
            }
        }
    }
    parts
}

/// Deletes objects; those that do not exist are named, not an error.
pub(super) async fn delete(context: &Context, who: &str, request: DeleteRequest) -> Result<DeleteResponse, Status> {
    // A name given twice is deleted once: no key may stand twice in a transaction.
    let references = request.objects.iter().map(from_rpc).collect::<Result<BTreeSet<_>, _>>()?;
    for _ in 0..ATTEMPTS {
        let (head, _) = current(context).await?;
        let mut response = DeleteResponse::default();
        let mut ops = Vec::new();
        for (reference, standing) in references.iter().zip(standing(context, references.iter()).await?) {
            if standing.object.is_none() && standing.accepted.is_none() {
                response.missing.push(to_rpc(reference));
            } else {
                response.deleted.push(to_rpc(reference));
                ops.extend([standing.object_key, standing.accepted_key].map(|key| Op::Delete { key }));
            }
        }
        if ops.is_empty() {
            return Ok(response);
        }
        if response.deleted.len() > OBJECTS_MAX {
            return Err(Status::invalid_argument(format!("at most {OBJECTS_MAX} objects in one delete")));
        }
        let names: Vec<String> = references.iter().map(ToString::to_string).collect();
        let txn = Transaction { ops, ..Transaction::default() };
        if let TxnOutcome::Committed(revision) = commit(context, who, "delete", &names, txn, head).await? {
            response.revision = revision.0;
            return Ok(response);
        }
    }
    Err(Status::aborted("others kept writing at the same time; nothing was deleted, try again"))
}

/// The revision of `head`, and a state that has read at least it.
async fn current(context: &Context) -> Result<(Revision, std::sync::Arc<crate::pipeline::State>), Status> {
    let key = context.keyspace.format(&StoreKey::Head);
    let head = context.store.get(&key).await.map_err(|e| store_status(&e))?;
    let revision = head.map_or(Revision(0), |kv| kv.mod_revision);
    let state = tokio::time::timeout(CATCH_UP, context.reach(revision)).await.map_err(|_| {
        Status::unavailable("this replica has not read the store's newest state yet; nothing was written, try again")
    })?;
    Ok((revision, state))
}

/// Puts the audit key and `head` with it, which no other write may have bumped since.
async fn commit(
    context: &Context,
    who: &str,
    verb: &str,
    names: &[String],
    mut txn: Transaction,
    head: Revision,
) -> Result<TxnOutcome, Status> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let audit = json!({ "who": who, "verb": verb, "objects": names, "unixMillis": now.as_millis() as u64,
        "replica": &*context.replica });
    let key = format!("{}audit/{:014}-{:08x}", context.keyspace.observed(), now.as_millis(), fastrand::u32(..));
    txn.ops.push(Op::Put { key, value: audit.to_string().into(), lease: None });
    let head_key = context.keyspace.format(&StoreKey::Head);
    txn.ops.push(Op::Put { key: head_key.clone(), value: format!("{}", now.as_millis()).into(), lease: None });
    txn.compares.push(Compare::ModRevision(head_key, head));
    context.store.txn(txn).await.map_err(|error| match error {
        StoreError::Unavailable(_) => Status::unavailable(format!(
            "{error}; whether this transaction was written is not known: run the same command again when the store is \
             back, it writes only what is missing"
        )),
        other => store_status(&other),
    })
}

fn fault(fault: &manifest::Fault) -> Fault {
    Fault { source: fault.source.clone(), line: fault.line, column: fault.column, message: fault.text() }
}

fn at(place: &(String, u32, u32), message: String) -> Fault {
    Fault { source: place.0.clone(), line: place.1, column: place.2, message }
}

/// An object's name on the wire.
pub(super) fn to_rpc(reference: &ObjectRef) -> rpc::ObjectRef {
    rpc::ObjectRef {
        kind: reference.kind.to_string(),
        namespace: reference.namespace.clone(),
        name: reference.name.clone(),
    }
}

/// The inverse of [`to_rpc`]; kinds by any of their names, namespace `default` when none is given.
pub(super) fn from_rpc(reference: &rpc::ObjectRef) -> Result<ObjectRef, Status> {
    let kind = parse_kind(&reference.kind)?;
    let namespace = if reference.namespace.is_empty() { "default" } else { &reference.namespace };
    if reference.name.is_empty() {
        return Err(Status::invalid_argument(format!("which {kind}? the name is empty")));
    }
    Ok(ObjectRef::new(kind, namespace, &reference.name))
}

/// A kind by any of its names.
pub(super) fn parse_kind(text: &str) -> Result<Kind, Status> {
    Kind::parse(text).ok_or_else(|| {
        let all: Vec<&str> = Kind::ALL.iter().map(|k| k.plural()).collect();
        Status::invalid_argument(format!("there is no kind {text:?}; kinds are {}", all.join(", ")))
    })
}

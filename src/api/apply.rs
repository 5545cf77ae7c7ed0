//! Writes: parse, admit, store; in one transaction where it fits, with the audit key and `head` in the same one.

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use serde_json::json;
use tonic::Status;

use super::{Context, store_status};
use crate::{
    admission,
    manifest::{self, Mode},
    model::{Kind, Object, ObjectRef, Revision, StoreKey},
    rpc::{self, Applied, ApplyRequest, ApplyResponse, DeleteRequest, DeleteResponse, Fault, applied::Outcome},
    store::{Compare, Op, StoreError, Transaction, TxnOutcome},
};

/// design.md's limit of one transaction: each object is stored twice later, and etcd takes 128 operations, 1.5 MiB.
const OBJECTS_MAX: usize = 60;
/// Bytes of manifests in one transaction.
const BYTES_MAX: usize = 600 * 1024;
/// How often a write is checked again because another one came first.
const ATTEMPTS: usize = 8;
/// How long a write waits for this replica to have read what it must be checked against.
const CATCH_UP: Duration = Duration::from_secs(5);

/// One object to write.
struct Write {
    reference: ObjectRef,
    key: String,
    value: Bytes,
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
            let key = context.keyspace.format(&StoreKey::Object(reference.clone()));
            writes.push(Write { reference, key, value: value.into() });
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
    for write in writes {
        let stored = context.store.get(&write.key).await.map_err(|e| store_status(&e))?;
        let outcome = match &stored {
            None => Outcome::Created,
            Some(kv) if kv.value == write.value => Outcome::Unchanged,
            Some(_) => Outcome::Configured,
        };
        response.revision = response.revision.max(stored.map_or(0, |kv| kv.mod_revision.0));
        if outcome != Outcome::Unchanged {
            pending.push(write);
        }
        response.applied.push(Applied { object: Some(to_rpc(&write.reference)), outcome: outcome.into() });
    }
    if dry_run || pending.is_empty() {
        return Ok(Some(response));
    }
    let parts = split(pending);
    let total = parts.len();
    for (index, part) in parts.into_iter().enumerate() {
        let names: Vec<String> = part.iter().map(|w| w.reference.to_string()).collect();
        let ops = part.iter().map(|w| Op::Put { key: w.key.clone(), value: w.value.clone(), lease: None }).collect();
        match commit(context, who, "apply", &names, ops, head).await? {
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
fn split(mut writes: Vec<&Write>) -> Vec<Vec<&Write>> {
    let fits = writes.len() <= OBJECTS_MAX && writes.iter().map(|w| w.value.len()).sum::<usize>() <= BYTES_MAX;
    if fits {
        return vec![writes];
    }
    writes.sort_by(|a, b| a.reference.cmp(&b.reference));
    let mut parts: Vec<Vec<&Write>> = Vec::new();
    let mut bytes = 0;
    for write in writes {
        bytes += write.value.len();
        match parts.last_mut() {
            Some(part) if part.len() < OBJECTS_MAX && bytes <= BYTES_MAX => part.push(write),
            _ => {
                bytes = write.value.len();
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
        for reference in &references {
            let key = context.keyspace.format(&StoreKey::Object(reference.clone()));
            if context.store.get(&key).await.map_err(|e| store_status(&e))?.is_some() {
                response.deleted.push(to_rpc(reference));
                ops.push(Op::Delete { key });
            } else {
                response.missing.push(to_rpc(reference));
            }
        }
        if ops.is_empty() {
            return Ok(response);
        }
        if ops.len() > OBJECTS_MAX {
            return Err(Status::invalid_argument(format!("at most {OBJECTS_MAX} objects in one delete")));
        }
        let names: Vec<String> = references.iter().map(ToString::to_string).collect();
        if let TxnOutcome::Committed(revision) = commit(context, who, "delete", &names, ops, head).await? {
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

async fn commit(
    context: &Context,
    who: &str,
    verb: &str,
    names: &[String],
    mut ops: Vec<Op>,
    head: Revision,
) -> Result<TxnOutcome, Status> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let audit = json!({ "who": who, "verb": verb, "objects": names, "unixMillis": now.as_millis() as u64,
        "replica": &*context.replica });
    let key = format!("{}audit/{:014}-{:08x}", context.keyspace.observed(), now.as_millis(), fastrand::u32(..));
    ops.push(Op::Put { key, value: audit.to_string().into(), lease: None });
    let head_key = context.keyspace.format(&StoreKey::Head);
    ops.push(Op::Put { key: head_key.clone(), value: format!("{}", now.as_millis()).into(), lease: None });
    let txn = Transaction { compares: vec![Compare::ModRevision(head_key, head)], ops };
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

//! What both stores refuse, so that a program which runs on one runs on the other: etcd's default limits.

use std::collections::BTreeSet;

use super::{Compare, Op, StoreError, Transaction};

/// etcd's `--max-request-bytes`, its default.
pub(super) const MAX_REQUEST_BYTES: usize = 1_572_864;

/// etcd's `--max-txn-ops`, its default; it holds for the compares and for the operations.
pub(super) const MAX_OPS: usize = 128;

/// What one operation or compare costs beside its key and value: field tags, lengths, lease.
const OVERHEAD_BYTES: usize = 32;

/// Refuses what etcd would refuse, before anything is sent or written.
pub(super) fn check(txn: &Transaction) -> Result<(), StoreError> {
    let refuse = |what: String| Err(StoreError::Refused(what));
    if txn.ops.len() > MAX_OPS || txn.compares.len() > MAX_OPS {
        let (ops, compares) = (txn.ops.len(), txn.compares.len());
        return refuse(format!(
            "{ops} operations and {compares} compares in one transaction; {MAX_OPS} of each at most"
        ));
    }
    let mut bytes = 0;
    for compare in &txn.compares {
        let (Compare::ModRevision(key, _) | Compare::CreateRevision(key, _)) = compare;
        bytes += key.len() + OVERHEAD_BYTES;
    }
    let mut keys = BTreeSet::new();
    for op in &txn.ops {
        let (key, value) = match op {
            Op::Put { key, value, .. } => (key, value.len()),
            Op::Delete { key } => (key, 0),
        };
        if key.is_empty() {
            return refuse("an empty key".to_owned());
        }
        if !keys.insert(key.as_str()) {
            return refuse(format!("the key {key:?} stands twice in one transaction"));
        }
        bytes += key.len() + value + OVERHEAD_BYTES;
    }
    if bytes > MAX_REQUEST_BYTES {
        return refuse(format!("a transaction of {bytes} bytes; {MAX_REQUEST_BYTES} at most"));
    }
    Ok(())
}

/// The life of a lease in whole seconds, rounded up, at least 1; at most etcd's limit of 9,000,000,000.
pub(super) fn lease_seconds(ttl: std::time::Duration) -> u64 {
    let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
    seconds.clamp(1, 9_000_000_000)
}

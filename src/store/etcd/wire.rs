//! Our words ↔ etcd's: ranges, keys, transactions, errors.

use std::error::Error as _;

use bytes::Bytes;
use etcd_client::{Compare as EtcdCompare, CompareOp, Error, Txn, TxnOp};

use super::{GetOptions, PutOptions};
use crate::{
    model::Revision,
    store::{Compare, KeyValue, Op, StoreError, Transaction},
};

/// etcd counts in `i64`, never below 0.
pub(super) fn revision(revision: i64) -> Revision {
    Revision(u64::try_from(revision).unwrap_or_default())
}

/// `[key, end)` of all keys that begin with `prefix`; `\0` as the end is etcd's "no end".
pub(super) fn range(prefix: &str) -> (Vec<u8>, Vec<u8>) {
    if prefix.is_empty() {
        return (vec![0], vec![0]);
    }
    let mut end = prefix.as_bytes().to_vec();
    // A byte of UTF-8 is at most 0xf4, so this stops at the last one; it is written for any bytes all the same.
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return (prefix.as_bytes().to_vec(), end);
        }
    }
    (prefix.as_bytes().to_vec(), vec![0])
}

/// A key and its value; `None`, with a warning, when the key is not UTF-8.
pub(super) fn key_value(kv: etcd_client::KeyValue) -> Option<KeyValue> {
    let (create_revision, mod_revision) = (revision(kv.create_revision()), revision(kv.mod_revision()));
    let (key, value) = kv.into_key_value();
    let key = key_text(key)?;
    Some(KeyValue { key, value: Bytes::from(value), create_revision, mod_revision })
}

/// A key as text; `None`, with a warning, when it is not UTF-8.
pub(super) fn key_text(key: Vec<u8>) -> Option<String> {
    String::from_utf8(key)
        .inspect_err(|error| {
            tracing::warn!(key = %error.as_bytes().escape_ascii(), "a key is not UTF-8 and is left out");
        })
        .ok()
}

/// One transaction of etcd's.
pub(super) fn txn(txn: Transaction) -> Txn {
    // Without a write etcd may answer from a member that lags, unless there is a linearizable read in it.
    let fresh = txn.ops.is_empty().then(|| TxnOp::get("/", Some(GetOptions::new().with_keys_only())));
    let compares = txn.compares.into_iter().map(|compare| match compare {
        Compare::ModRevision(key, at) => EtcdCompare::mod_revision(key, CompareOp::Equal, at.0.cast_signed()),
        Compare::CreateRevision(key, at) => EtcdCompare::create_revision(key, CompareOp::Equal, at.0.cast_signed()),
    });
    let ops = txn.ops.into_iter().map(|op| match op {
        Op::Put { key, value, lease } => {
            let options = lease.map(|lease| PutOptions::new().with_lease(lease.0));
            TxnOp::put(key, value, options)
        }
        Op::Delete { key } => TxnOp::delete(key, None),
    });
    let otherwise: Vec<TxnOp> = fresh.clone().into_iter().collect();
    let ops = ops.chain(fresh);
    Txn::new().when(compares.collect::<Vec<_>>()).and_then(ops.collect::<Vec<_>>()).or_else(otherwise)
}

fn message(error: &Error) -> &str {
    if let Error::GRpcStatus(status) = error { status.message() } else { "" }
}

/// The revision that was asked for has been compacted.
pub(super) fn is_compacted(error: &Error) -> bool {
    message(error).contains("required revision has been compacted")
}

/// tonic refuses to decode so large an answer.
pub(super) fn is_too_large(error: &Error) -> bool {
    message(error).contains("decoded message length too large")
}

/// The member that the call was for could not be connected to.
pub(super) fn was_not_sent(error: &Error) -> bool {
    let Error::GRpcStatus(status) = error else { return false };
    let mut causes = std::iter::successors(status.source(), |&cause| cause.source());
    causes.any(|cause| cause.is::<tonic::ConnectError>())
}

/// Under JWT every change of users makes tokens old; the library renews invalid ones only.
pub(super) fn is_old_token(error: &Error) -> bool {
    message(error).contains("revision of auth store is old")
}

/// What etcd's alarm NOSPACE means, and the way out.
const NOSPACE: &str = "etcd is out of space (alarm NOSPACE): free some with `etcdctl compact REVISION`, then \
                       `etcdctl defrag`, then `etcdctl alarm disarm`, and give it a larger --quota-backend-bytes";

/// An error of etcd, as the contract says it.
pub(super) fn words(error: &Error) -> StoreError {
    match error {
        Error::LeaseKeepAliveError(text) if text.contains("not found") => StoreError::LeaseNotFound,
        Error::GRpcStatus(status) => {
            let text = status.message();
            let refusals = [
                "authentication failed",
                "request is too large",
                "too many operations",
                "duplicate key",
                "key is not provided",
                "TTL",
            ];
            if text.contains("lease not found") {
                StoreError::LeaseNotFound
            } else if text.contains("database space exceeded") {
                StoreError::Full(NOSPACE.to_owned())
            } else if refusals.iter().any(|refusal| text.contains(refusal)) {
                StoreError::Refused(text.to_owned())
            } else if status.code() == tonic::Code::PermissionDenied {
                StoreError::Refused(format!("etcd denies it: {text}"))
            } else {
                StoreError::Unavailable(format!("{}: {text}", status.code()))
            }
        }
        other => StoreError::Unavailable(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::range;

    #[test]
    fn a_range_ends_where_the_prefix_does() {
        assert_eq!(range(""), (vec![0], vec![0]));
        assert_eq!(range("/a/"), (b"/a/".to_vec(), b"/a0".to_vec()));
        assert_eq!(range("\u{10ffff}"), (vec![0xf4, 0x8f, 0xbf, 0xbf], vec![0xf4, 0x8f, 0xbf, 0xc0]));
    }
}

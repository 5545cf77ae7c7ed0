//! What stands in the file: protobuf records, so that a later version can add a field and still read an older file.

use bytes::Bytes;
use prost::Message;

use crate::{
    model::Revision,
    store::{Batch, Change, KeyValue, StoreError},
};

/// A value of the table `kv`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Entry {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) value: Bytes,
    #[prost(uint64, tag = "2")]
    pub(super) create_revision: u64,
    #[prost(uint64, tag = "3")]
    pub(super) mod_revision: u64,
    /// 0: none.
    #[prost(int64, tag = "4")]
    pub(super) lease: i64,
}

impl Entry {
    pub(super) fn key_value(&self, key: &str) -> KeyValue {
        KeyValue {
            key: key.to_owned(),
            value: self.value.clone(),
            create_revision: Revision(self.create_revision),
            mod_revision: Revision(self.mod_revision),
        }
    }
}

/// A value of the table `log`: what one revision changed.
#[derive(Clone, PartialEq, Message)]
pub(super) struct LogEntry {
    #[prost(message, repeated, tag = "1")]
    changes: Vec<LogChange>,
}

#[derive(Clone, PartialEq, Message)]
struct LogChange {
    #[prost(string, tag = "1")]
    key: String,
    /// Absent: deleted.
    #[prost(message, optional, tag = "2")]
    entry: Option<Entry>,
}

impl LogEntry {
    pub(super) fn of(batch: &Batch) -> Self {
        let changes = batch.changes.iter().map(|change| match change {
            Change::Put(kv) => LogChange {
                key: kv.key.clone(),
                entry: Some(Entry {
                    value: kv.value.clone(),
                    create_revision: kv.create_revision.0,
                    mod_revision: kv.mod_revision.0,
                    lease: 0,
                }),
            },
            Change::Delete(key) => LogChange { key: key.clone(), entry: None },
        });
        LogEntry { changes: changes.collect() }
    }

    pub(super) fn batch(self, revision: u64) -> Batch {
        let changes = self.changes.into_iter().map(|change| match change.entry {
            Some(entry) => Change::Put(entry.key_value(&change.key)),
            None => Change::Delete(change.key),
        });
        Batch { revision: Revision(revision), changes: changes.collect() }
    }
}

/// Reads a record, or says which one is damaged.
pub(super) fn read<M: Message + Default>(bytes: &[u8], what: impl std::fmt::Display) -> Result<M, StoreError> {
    M::decode(bytes).map_err(|error| StoreError::Damaged(format!("{what}: {error}")))
}

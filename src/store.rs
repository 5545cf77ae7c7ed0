//! The contract of the store: ordered keys, one revision counter, listing, watching, transactions, leases.
//!
//! Two implementations, etcd (production) and embedded (one process, nothing to install); nothing above knows which
//! one runs. [`follow()`] turns either into one stream that survives compaction, disconnection and restarts.

mod contract;
mod embedded;
mod etcd;
mod follow;
mod limits;
#[cfg(test)]
mod suite;

pub use contract::{
    Batch, Change, Compare, KeyValue, LeaseId, Listing, Op, Store, StoreError, Transaction, TxnOutcome, WatchEvent,
    Watcher,
};
pub use embedded::Embedded;
pub use etcd::{Etcd, EtcdConfig};
pub use follow::{Feed, follow};

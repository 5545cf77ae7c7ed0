//! The contract of the store: ordered keys, one revision counter, listing, watching, transactions, leases.
//!
//! Two implementations, etcd (production) and embedded (one process, nothing to install); nothing above knows which
//! one runs. [`follow()`] turns either into one stream that survives compaction, disconnection and restarts;
//! [`Sheltered`] adds what a store needs that others keep: the last-known-good copy, and a hold when it is exchanged.

mod contract;
mod control;
mod embedded;
mod etcd;
mod follow;
mod good;
mod guard;
mod held;
mod limits;
mod sheltered;
#[cfg(test)]
mod suite;

pub use contract::{
    Batch, Change, Compare, KeyValue, LeaseId, Listing, Op, Store, StoreError, StoreId, Transaction, TxnOutcome,
    WatchEvent, Watcher,
};
pub use control::{Accepted, CopyMade, CopyStatus, NotAccepted, StoreControl};
pub use embedded::Embedded;
pub use etcd::{Etcd, EtcdConfig};
pub use follow::{Feed, follow};
pub use sheltered::Sheltered;

//! The trait and its words.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::mpsc;

use crate::model::Revision;

/// One key and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// UTF-8; keys that are not are left out, and counted.
    pub key: String,
    /// As written.
    pub value: Bytes,
    /// The revision at which the key came to be, since it was last absent.
    pub create_revision: Revision,
    /// The revision of its last write.
    pub mod_revision: Revision,
}

/// Which store it is: revisions of two stores say nothing of one another. etcd's cluster id; a random number that an
/// embedded store keeps in its file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreId(pub u64);

impl std::fmt::Display for StoreId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// Every key below a prefix at one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Which store was listed.
    pub store: StoreId,
    /// The revision that the listing shows.
    pub revision: Revision,
    /// In key order.
    pub entries: Vec<KeyValue>,
}

/// What happened to one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It was written.
    Put(KeyValue),
    /// It was deleted, or its lease ended.
    Delete(String),
}

/// All changes of one revision, in the order of the transaction; never a part of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The revision.
    pub revision: Revision,
    /// Its changes below the watched prefix.
    pub changes: Vec<Change>,
}

/// What a [`Watcher`] delivers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchEvent {
    /// A whole revision.
    Batch(Batch),
    /// Everything up to this revision has been delivered.
    Progress(Revision),
    /// The history that was asked for is gone; list again. The watch ends.
    Compacted(Revision),
}

/// A running watch: ends with an error, or when it is dropped. Bounded; a slow reader slows the watch, it loses
/// nothing.
pub type Watcher = mpsc::Receiver<Result<WatchEvent, StoreError>>;

/// A lease: keys bound to it go when it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub i64);

/// A condition of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compare {
    /// The key's `mod_revision` is this; revision 0: the key is absent.
    ModRevision(String, Revision),
    /// The key's `create_revision` is this; revision 0: the key is absent.
    CreateRevision(String, Revision),
}

/// A step of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the words of a key/value store")]
pub enum Op {
    Put { key: String, value: Bytes, lease: Option<LeaseId> },
    Delete { key: String },
}

/// Atomic: all of `ops` when every compare holds, else none. No key may stand twice in `ops`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transaction {
    /// All must hold.
    pub compares: Vec<Compare>,
    /// In order.
    pub ops: Vec<Op>,
}

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TxnOutcome {
    /// Applied, at this revision.
    Committed(Revision),
    /// A compare did not hold; nothing was changed. The revision is the store's then.
    Conflict(Revision),
}

/// Why the store did not do it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// It cannot be reached, or did not answer in time; try again.
    #[error("the store cannot be reached: {0}")]
    Unavailable(String),
    /// It is known to be away, so it was not even asked.
    #[error("the store is away: {0}")]
    Away(String),
    /// The lease is gone.
    #[error("the lease has ended")]
    LeaseNotFound,
    /// The request is outside a limit (size, number of operations, a duplicate key).
    #[error("the store refuses the request: {0}")]
    Refused(String),
    /// The store is not the one that it was (other cluster id, a revision that went back).
    #[error("the store is another one, or an older state of it: {0}")]
    Changed(String),
    /// It is out of space: it answers reads and takes no writes.
    #[error("the store takes no writes: {0}")]
    Full(String),
    /// Its data cannot be read.
    #[error("the store's data is damaged: {0}")]
    Damaged(String),
}

/// The contract. Every call has a deadline of its own (5 s unless it says otherwise).
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Every key below `prefix`, all pages at the one revision that the listing names.
    async fn list(&self, prefix: &str) -> Result<Listing, StoreError>;

    /// One key, or `None`.
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, StoreError>;

    /// Replays kept history from revision `from` (inclusive), then goes on live.
    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watcher, StoreError>;

    /// Applies a transaction.
    async fn txn(&self, txn: Transaction) -> Result<TxnOutcome, StoreError>;

    /// A new lease that ends `ttl` after its last renewal (whole seconds, at least 1).
    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError>;

    /// Renews a lease once.
    ///
    /// # Errors
    /// [`StoreError::LeaseNotFound`] when it has ended.
    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError>;

    /// Ends a lease now and deletes its keys.
    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError>;

    /// Forgets which store answered so far: the one that answers next is taken for the true one. A store that cannot be
    /// exchanged behind its own back has nothing to forget.
    fn adopt(&self) {}

    /// Waits until the store may be used: one that a feed stands before, until that has read it.
    async fn opened(&self) {}
}

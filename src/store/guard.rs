//! A store as it may be used while its feed is fresh, and while it is not: nothing is written into a store that nobody
//! has read, that is away, or that is not the one that was followed; reads are answered with what is served.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::sync::watch;

use super::{
    KeyValue, LeaseId, Listing, Store, StoreError, Transaction, TxnOutcome, Watcher, follow::Ties, held::Held,
};
use crate::model::Revision;

/// Why the store is not to be used; `None` while it may be.
pub(super) type Gate = Option<StoreError>;

/// Forwards to a store while the gate is open. Gate and keys are the follower's.
pub(super) struct Guarded {
    inner: Arc<dyn Store>,
    prefix: String,
    gate: watch::Receiver<Gate>,
    held: watch::Receiver<Held>,
}

impl Guarded {
    pub(super) fn new(inner: Arc<dyn Store>, prefix: String, ties: &Ties) -> Arc<Self> {
        Arc::new(Self { inner, prefix, gate: ties.gate.subscribe(), held: ties.held.subscribe() })
    }

    /// Passes while the gate is open.
    fn pass(&self) -> Result<(), StoreError> {
        match &*self.gate.borrow() {
            None => Ok(()),
            Some(StoreError::Unavailable(why)) => Err(StoreError::Away(why.clone())),
            Some(other) => Err(other.clone()),
        }
    }

    /// The keys as they are served, in place of a store that is not to be used.
    fn remembered(&self, prefix: &str, why: StoreError) -> Result<Listing, StoreError> {
        let below = prefix.starts_with(&self.prefix);
        below.then(|| self.held.borrow().list(prefix)).flatten().ok_or(why)
    }
}

#[async_trait]
impl Store for Guarded {
    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        match self.pass() {
            Ok(()) => self.inner.list(prefix).await,
            Err(why) => self.remembered(prefix, why),
        }
    }

    async fn get(&self, key: &str) -> Result<Option<KeyValue>, StoreError> {
        match self.pass() {
            Ok(()) => self.inner.get(key).await,
            Err(why) => Ok(self.remembered(key, why)?.entries.into_iter().find(|kv| kv.key == key)),
        }
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watcher, StoreError> {
        self.pass()?;
        self.inner.watch(prefix, from).await
    }

    async fn txn(&self, txn: Transaction) -> Result<TxnOutcome, StoreError> {
        self.pass()?;
        self.inner.txn(txn).await
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.pass()?;
        self.inner.grant(ttl).await
    }

    // A lease of the store that was followed is unknown to another one: these two can do no harm there.
    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.inner.keep_alive(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.inner.revoke(lease).await
    }

    fn adopt(&self) {
        self.inner.adopt();
    }

    async fn opened(&self) {
        // An error says that the feed has ended, and nothing is to be waited for.
        drop(self.gate.clone().wait_for(Option::is_none).await);
    }
}

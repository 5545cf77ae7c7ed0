//! A store that takes writes only while its feed is fresh: nothing is written into a store that nobody has read, that
//! is away, or that is not the one that was followed.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::sync::watch;

use super::{KeyValue, LeaseId, Listing, Store, StoreError, Transaction, TxnOutcome, Watcher};
use crate::model::Revision;

/// Why writes are refused; `None` while they are not.
pub(super) type Gate = Option<StoreError>;

/// Forwards to a store; [`Gate`] is told by the follower.
pub(super) struct Guarded {
    inner: Arc<dyn Store>,
    gate: watch::Receiver<Gate>,
}

impl Guarded {
    pub(super) fn new(inner: Arc<dyn Store>, gate: watch::Receiver<Gate>) -> Arc<Self> {
        Arc::new(Self { inner, gate })
    }

    fn pass(&self) -> Result<(), StoreError> {
        self.gate.borrow().clone().map_or(Ok(()), Err)
    }
}

#[async_trait]
impl Store for Guarded {
    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        self.inner.list(prefix).await
    }

    async fn get(&self, key: &str) -> Result<Option<KeyValue>, StoreError> {
        self.inner.get(key).await
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watcher, StoreError> {
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
}

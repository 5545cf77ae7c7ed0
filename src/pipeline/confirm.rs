//! Has this replica read everything? It writes a mark and waits until its own loop has taken that revision: the one
//! way to know it, since a watch that was cut off is silent just as one on which nothing happens.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

use super::State;
use crate::{
    model::{Freshness, Keyspace, Revision, StoreKey},
    snapshot::Views,
    store::{LeaseId, Op, Store, StoreError, Transaction, TxnOutcome},
};

/// A mark is written within this, or the store counts as away.
const WRITE: Duration = Duration::from_secs(2);
/// A mark comes back within this: a batch of configuration may have to be compiled before.
const RETURN: Duration = Duration::from_secs(15);
/// So long a mark outlives the last question; the names of replicas that were taken down must not pile up.
const LEASE: Duration = Duration::from_secs(600);

/// Answers those who ask [`Views::confirm`], one probe at a time, until `cancel`.
pub async fn confirm(
    views: Arc<Views>,
    store: Arc<dyn Store>,
    keyspace: Keyspace,
    replica: Arc<str>,
    state: watch::Receiver<Arc<State>>,
    cancel: CancellationToken,
) {
    let (mark, watched) = (keyspace.format(&StoreKey::Mark(replica.to_string())), keyspace.watched());
    let mut prober = Prober { store, mark, watched, lease: None, state };
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            probe = views.probe() => {
                let confirmed = tokio::select! {
                    () = cancel.cancelled() => return,
                    confirmed = prober.probe() => confirmed,
                };
                views.confirmed(probe, confirmed);
            }
        }
    }
}

struct Prober {
    store: Arc<dyn Store>,
    /// The key of this replica's own mark; its value means nothing.
    mark: String,
    /// What the loop follows.
    watched: String,
    /// The mark's, as long as it lives.
    lease: Option<LeaseId>,
    state: watch::Receiver<Arc<State>>,
}

impl Prober {
    async fn probe(&mut self) -> bool {
        // A view may be published a moment before the state that says so.
        let loaded = timeout(RETURN, self.state.wait_for(|state| state.loaded())).await;
        if !loaded.is_ok_and(|state| state.is_ok_and(|state| state.freshness == Freshness::Fresh)) {
            return false;
        }
        match timeout(WRITE, self.write()).await {
            Ok(Ok(TxnOutcome::Committed(revision))) => reached(revision, &mut self.state).await,
            Ok(Err(StoreError::Refused(why) | StoreError::Full(why))) => {
                // A store that answers but takes nothing (out of space) may not stop proxies from being served.
                tracing::warn!(key = self.mark, why, "the store takes no mark; what it lists is compared instead");
                match timeout(RETURN, self.newest()).await {
                    Ok(Ok(newest)) => reached(newest, &mut self.state).await,
                    Ok(Err(_)) | Err(_) => false,
                }
            }
            Ok(Ok(TxnOutcome::Conflict(_)) | Err(_)) | Err(_) => false,
        }
    }

    async fn write(&mut self) -> Result<TxnOutcome, StoreError> {
        let held = match self.lease {
            Some(held) => match self.store.keep_alive(held).await {
                Err(StoreError::LeaseNotFound) => None,
                renewed => renewed.map(|()| Some(held))?,
            },
            None => None,
        };
        let lease = match held {
            Some(held) => held,
            None => self.store.grant(LEASE).await?,
        };
        self.lease = Some(lease);
        let op = Op::Put { key: self.mark.clone(), value: "".into(), lease: Some(lease) };
        self.store.txn(Transaction { compares: Vec::new(), ops: vec![op] }).await
    }

    /// The last write of what stands. A deletion leaves no trace there; one that counts comes with a write of `head`.
    async fn newest(&self) -> Result<Revision, StoreError> {
        let listing = self.store.list(&self.watched).await?;
        // A member that is cut off from the others refuses writes like a full one, but answers no such question; nor
        // does a store that is away, for which the listing would be answered with what is served.
        self.store.txn(Transaction::default()).await?;
        Ok(listing.entries.iter().map(|entry| entry.mod_revision).max().unwrap_or_default())
    }
}

/// Waits until the loop has published `revision`, as long as the store is there.
async fn reached(revision: Revision, state: &mut watch::Receiver<Arc<State>>) -> bool {
    let settled = |state: &Arc<State>| state.revision >= revision || state.freshness != Freshness::Fresh;
    let settled = timeout(RETURN, state.wait_for(settled)).await;
    settled.is_ok_and(|state| state.is_ok_and(|state| state.revision >= revision))
}

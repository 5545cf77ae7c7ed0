//! Has this replica read everything? It writes a mark and waits until its own loop has taken that revision: the one
//! way to know it, since a watch that was cut off is silent just as one on which nothing happens.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

use super::State;
use crate::{
    model::{Freshness, Revision},
    snapshot::Views,
    store::{Op, Store, StoreError, Transaction, TxnOutcome},
};

/// A mark is written within this, or the store counts as away.
const WRITE: Duration = Duration::from_secs(2);
/// A mark comes back within this: a batch of configuration may have to be compiled before.
const RETURN: Duration = Duration::from_secs(15);

/// Answers those who ask [`Views::confirm`], one probe at a time, until `cancel`. `mark` is the key of this replica's
/// own mark; its value means nothing.
pub async fn confirm(
    views: Arc<Views>,
    store: Arc<dyn Store>,
    mark: String,
    mut state: watch::Receiver<Arc<State>>,
    cancel: CancellationToken,
) {
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            probe = views.probe() => {
                let confirmed = tokio::select! {
                    () = cancel.cancelled() => return,
                    confirmed = probed(&*store, &mark, &mut state) => confirmed,
                };
                views.confirmed(probe, confirmed);
            }
        }
    }
}

async fn probed(store: &dyn Store, mark: &str, state: &mut watch::Receiver<Arc<State>>) -> bool {
    // A view may be published a moment before the state that says so.
    let loaded = timeout(RETURN, state.wait_for(|state| state.loaded())).await;
    if !loaded.is_ok_and(|state| state.is_ok_and(|state| state.freshness == Freshness::Fresh)) {
        return false;
    }
    let op = Op::Put { key: mark.to_owned(), value: "".into(), lease: None };
    match timeout(WRITE, store.txn(Transaction { compares: Vec::new(), ops: vec![op] })).await {
        Ok(Ok(TxnOutcome::Committed(revision))) => reached(revision, state).await,
        Ok(Err(StoreError::Refused(why) | StoreError::Full(why))) => {
            // A store that answers but takes nothing (out of space) may not stop proxies from being served.
            tracing::warn!(key = mark, why, "the store takes no mark; that it has been read to the end is assumed");
            true
        }
        Ok(Ok(TxnOutcome::Conflict(_)) | Err(_)) | Err(_) => false,
    }
}

/// Waits until the loop has published `revision`, as long as the store is there.
async fn reached(revision: Revision, state: &mut watch::Receiver<Arc<State>>) -> bool {
    let settled = |state: &Arc<State>| state.revision >= revision || state.freshness != Freshness::Fresh;
    let settled = timeout(RETURN, state.wait_for(settled)).await;
    settled.is_ok_and(|state| state.is_ok_and(|state| state.revision >= revision))
}

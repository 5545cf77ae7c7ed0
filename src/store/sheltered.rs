//! A store that other processes keep, with all that makes it safe to depend on: its feed outlives it by way of the
//! last-known-good copy, freezes when it is exchanged, and takes writes only while it is fresh.

use std::{path::PathBuf, sync::Arc};

use tokio::{
    sync::{mpsc, watch},
    task::spawn_blocking,
};
use tokio_util::sync::CancellationToken;

use super::{
    Feed, Store, StoreControl, StoreError,
    follow::{Fallback, Follower, Ties},
    good::Keeper,
    guard::Guarded,
    held::Held,
};

/// The parts, before they run.
pub struct Sheltered {
    inner: Arc<dyn Store>,
    store: Arc<dyn Store>,
    prefix: String,
    control: StoreControl,
    ties: Ties,
    keeper: Option<Keeper>,
}

impl Sheltered {
    /// Reads the newest copy below `dir`, if there is a good one. Does not ask the store yet.
    pub async fn open(inner: Arc<dyn Store>, prefix: String, dir: PathBuf) -> Self {
        let below = prefix.clone();
        let (keeper, fallback) = match spawn_blocking(move || Keeper::open(dir, &below)).await {
            Ok((keeper, Ok(good))) => (Some(keeper), Fallback::Ready(good)),
            Ok((keeper, Err(why))) => (Some(keeper), Fallback::Missing(why)),
            Err(error) => (None, Fallback::Missing(format!("reading the last-known-good copy failed: {error}"))),
        };
        let copies = keeper.as_ref().map_or_else(|| watch::channel(Default::default()).1, Keeper::status);
        let (control, orders) = StoreControl::new(copies);
        let unread = StoreError::Unavailable("it has not been read yet".to_owned());
        let ties = Ties { orders, fallback, ..Ties::new(Some(unread)) };
        let store = Guarded::new(Arc::clone(&inner), prefix.clone(), &ties);
        Self { inner, store, prefix, control, ties, keeper }
    }

    /// The store, to be used while its feed is fresh; else writes are refused, and reads answered with what is served.
    pub fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store)
    }

    /// What an operator may tell it.
    pub fn control(&self) -> StoreControl {
        self.control.clone()
    }

    /// Follows, as [`super::follow()`] does, and keeps the copy, until `cancel` or until nobody listens.
    pub async fn run(self, cancel: CancellationToken, out: mpsc::Sender<Feed>) {
        // Outlives the follower, so that the keeper can tell whether something is unsaved.
        let held: watch::Sender<Held> = self.ties.held.clone();
        let follower = Follower::new(self.inner, self.prefix, out).tied(self.ties);
        let done = CancellationToken::new();
        let follow = async {
            follower.run(cancel).await;
            done.cancel();
        };
        let keep = async {
            if let Some(keeper) = self.keeper {
                keeper.run(held.subscribe(), done.clone()).await;
            }
        };
        tokio::join!(follow, keep);
    }
}

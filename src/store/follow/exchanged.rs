//! A store that goes away, goes back or is exchanged, under a follower that holds a copy, takes orders and keeps a gate.
#![expect(clippy::disallowed_methods, reason = "tasks of a test end with its runtime")]

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, UNIX_EPOCH},
};

use async_trait::async_trait;
use futures::FutureExt;
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{Fallback, Feed, Follower, Ties, tests::QUICK};
use crate::{
    model::Revision,
    store::{
        Accepted, CopyStatus, KeyValue, LeaseId, Listing, NotAccepted, Store, StoreControl, StoreError, StoreId,
        Transaction, TxnOutcome, Watcher, good::Good, guard::Guarded, suite::PATIENCE,
    },
};

/// A store that is what a test says it is.
struct Puppet {
    listing: Mutex<Result<Listing, StoreError>>,
    watch: Mutex<Option<mpsc::Sender<Result<super::WatchEvent, StoreError>>>>,
    /// How long a listing takes.
    slow: Mutex<Duration>,
    adopted: AtomicU32,
    written: AtomicU32,
}

fn away() -> StoreError {
    StoreError::Unavailable("away".to_owned())
}

impl Puppet {
    fn new(listing: Result<Listing, StoreError>) -> Arc<Self> {
        let (listing, watch, slow) = (Mutex::new(listing), Mutex::default(), Mutex::default());
        Arc::new(Self { listing, watch, slow, adopted: AtomicU32::new(0), written: AtomicU32::new(0) })
    }

    /// From now on it is this one; the watch that runs ends.
    fn become_(&self, listing: Result<Listing, StoreError>) {
        *self.listing.lock().unwrap() = listing;
        *self.watch.lock().unwrap() = None;
    }

    fn adopted(&self) -> u32 {
        self.adopted.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl Store for Puppet {
    async fn list(&self, _: &str) -> Result<Listing, StoreError> {
        let slow = *self.slow.lock().unwrap();
        if !slow.is_zero() {
            tokio::time::sleep(slow).await;
        }
        self.listing.lock().unwrap().clone()
    }

    async fn get(&self, _: &str) -> Result<Option<KeyValue>, StoreError> {
        Ok(None)
    }

    async fn watch(&self, _: &str, _: Revision) -> Result<Watcher, StoreError> {
        let (events, watcher) = mpsc::channel(1);
        *self.watch.lock().unwrap() = Some(events);
        Ok(watcher)
    }

    async fn txn(&self, _: Transaction) -> Result<TxnOutcome, StoreError> {
        self.written.fetch_add(1, Ordering::SeqCst);
        Ok(TxnOutcome::Committed(Revision(1)))
    }

    async fn grant(&self, _: Duration) -> Result<LeaseId, StoreError> {
        self.written.fetch_add(1, Ordering::SeqCst);
        Ok(LeaseId(1))
    }

    async fn keep_alive(&self, _: LeaseId) -> Result<(), StoreError> {
        Ok(())
    }

    async fn revoke(&self, _: LeaseId) -> Result<(), StoreError> {
        Ok(())
    }

    fn adopt(&self) {
        self.adopted.fetch_add(1, Ordering::SeqCst);
    }
}

/// Keys and the revisions of their last writes.
fn listing(store: u64, revision: u64, keys: &[(&str, u64)]) -> Listing {
    let entries = keys.iter().map(|(key, at)| KeyValue {
        key: (*key).to_owned(),
        value: format!("{key} at {at}").into(),
        create_revision: Revision(1),
        mod_revision: Revision(*at),
    });
    Listing { store: StoreId(store), revision: Revision(revision), entries: entries.collect() }
}

/// A follower over a puppet, and all that it is tied to.
struct Scene {
    puppet: Arc<Puppet>,
    feed: mpsc::Receiver<Feed>,
    control: StoreControl,
    guarded: Arc<Guarded>,
    _copies: watch::Sender<CopyStatus>,
}

impl Scene {
    fn with(first: Result<Listing, StoreError>, fallback: Fallback) -> Self {
        let puppet = Puppet::new(first);
        let copies = watch::Sender::new(CopyStatus::default());
        let (control, orders) = StoreControl::new(copies.subscribe());
        let ties = Ties { orders, fallback, ..Ties::new(Some(away())) };
        let guarded = Guarded::new(puppet.clone(), "/".to_owned(), &ties);
        let (out, feed) = mpsc::channel(8);
        let mut follower = Follower::new(puppet.clone(), "/".to_owned(), out).tied(ties);
        follower.pace = QUICK;
        tokio::spawn(follower.run(CancellationToken::new()));
        Self { puppet, feed, control, guarded, _copies: copies }
    }

    fn start(first: Listing) -> Self {
        Self::with(Ok(first), Fallback::Unneeded)
    }

    async fn next(&mut self) -> Feed {
        timeout(PATIENCE, self.feed.recv()).await.expect("a message in time").expect("it goes on")
    }

    async fn reset(&mut self) -> Listing {
        match self.next().await {
            Feed::Reset(listing) => listing,
            other => panic!("{other:?}"),
        }
    }

    async fn frozen(&mut self) -> String {
        loop {
            match self.next().await {
                Feed::Frozen { reason } => return reason,
                Feed::Down { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }

    async fn silence(&mut self) {
        let said = timeout(Duration::from_millis(250), self.feed.recv()).await;
        assert!(said.is_err(), "{said:?}");
    }

    async fn write(&self) -> Result<TxnOutcome, StoreError> {
        self.guarded.txn(Transaction::default()).await
    }
}

fn good(listing: Listing) -> Fallback {
    Fallback::Ready(Good { listing, written: UNIX_EPOCH + Duration::from_secs(1_764_081_000) })
}

#[tokio::test]
async fn another_store_freezes_whatever_its_revision() {
    let mut scene = Scene::start(listing(1, 5, &[("/a", 5)]));
    scene.reset().await;
    scene.puppet.become_(Ok(listing(2, 500, &[("/a", 400)])));
    let reason = scene.frozen().await;
    assert!(reason.contains("its id is 2") && reason.contains("tidegate store accept"), "{reason}");
    scene.silence().await;
    scene.puppet.become_(Ok(listing(1, 6, &[])));
    assert_eq!(scene.reset().await.revision, Revision(6), "the one that was followed is back");
}

#[tokio::test]
async fn a_lower_revision_freezes() {
    let mut scene = Scene::start(listing(1, 5, &[]));
    scene.reset().await;
    scene.puppet.become_(Ok(listing(1, 4, &[])));
    let reason = scene.frozen().await;
    assert!(reason.contains("at revision 4") && reason.contains("was at 5"), "{reason}");
}

#[tokio::test]
async fn a_backup_that_was_restored_with_a_higher_revision_freezes_by_a_key_that_went_back() {
    let mut scene = Scene::start(listing(1, 10, &[("/a", 9), ("/b", 3)]));
    scene.reset().await;
    scene.puppet.become_(Ok(listing(1, 1_000_000, &[("/a", 8), ("/b", 3)])));
    let reason = scene.frozen().await;
    assert!(reason.contains("/a was last written at revision 8") && reason.contains("backup"), "{reason}");
    scene.silence().await;
    // Keys that are gone, new, or newer are nothing but changes.
    scene.puppet.become_(Ok(listing(1, 12, &[("/a", 11), ("/c", 12)])));
    assert_eq!(scene.reset().await.entries.len(), 2);
}

#[tokio::test]
async fn other_bytes_at_the_revision_that_was_read_freeze_and_are_served_once_accepted() {
    let mut scene = Scene::start(listing(1, 5, &[("/a", 5)]));
    scene.reset().await;
    // A backup of before revision 5, restored, and written to as often.
    let mut restored = listing(1, 6, &[("/a", 5)]);
    restored.entries[0].value = "another".into();
    scene.puppet.become_(Ok(restored.clone()));
    let reason = scene.frozen().await;
    assert!(reason.contains("/a holds another value at revision 5") && reason.contains("backup"), "{reason}");
    scene.control.accept().await.unwrap();
    assert_eq!(scene.reset().await, restored);
    // What is held, for the copy and for reads, is the new one as well.
    scene.puppet.become_(Err(away()));
    while !matches!(scene.next().await, Feed::Down { .. }) {}
    assert_eq!(scene.guarded.list("/").await, Ok(restored));
}

#[tokio::test]
async fn what_came_by_the_watch_counts_as_read() {
    let mut scene = Scene::start(listing(1, 5, &[("/a", 5)]));
    scene.reset().await;
    let watch = loop {
        let running = scene.puppet.watch.lock().unwrap().clone();
        match running {
            Some(watch) => break watch,
            None => tokio::task::yield_now().await,
        }
    };
    let newer = listing(1, 7, &[("/a", 7)]).entries.remove(0);
    let batch = super::Batch { revision: Revision(7), changes: vec![crate::store::Change::Put(newer)] };
    watch.send(Ok(super::WatchEvent::Batch(batch))).await.unwrap();
    assert!(matches!(scene.next().await, Feed::Batch(_)));
    drop(watch);
    scene.puppet.become_(Ok(listing(1, 900, &[("/a", 5)])));
    assert!(scene.frozen().await.contains("/a"));
}

#[tokio::test]
async fn an_operator_ends_the_hold_and_nobody_else() {
    let mut scene = Scene::start(listing(1, 50, &[("/a", 50)]));
    scene.reset().await;
    assert!(
        matches!(scene.control.accept().await, Err(NotAccepted::Nothing(StoreError::Refused(_)))),
        "nothing is frozen"
    );
    scene.puppet.become_(Err(away()));
    assert!(matches!(scene.next().await, Feed::Down { .. }));
    let down = scene.control.accept().await;
    assert!(matches!(down, Err(NotAccepted::Nothing(StoreError::Unavailable(_)))), "down is not frozen");
    assert_eq!(scene.puppet.adopted(), 0);

    scene.puppet.become_(Ok(listing(2, 3, &[("/a", 3)])));
    scene.frozen().await;
    scene.puppet.become_(Err(away()));
    assert_eq!(scene.control.accept().await, Err(NotAccepted::Nothing(away())), "nobody answers: nothing is accepted");
    scene.silence().await;
    scene.puppet.become_(Ok(listing(2, 3, &[("/a", 3)])));
    scene.silence().await;

    // Who has left before it was heard has ordered nothing.
    let adopted = scene.puppet.adopted();
    assert!(scene.control.accept().now_or_never().is_none());
    scene.silence().await;
    assert_eq!(scene.puppet.adopted(), adopted);
    // Nor has who leaves while the store is read.
    *scene.puppet.slow.lock().unwrap() = QUICK.longest * 2;
    let impatient = async {
        while scene.puppet.adopted() == adopted {
            assert!(timeout(QUICK.longest, scene.control.accept()).await.is_err());
        }
    };
    timeout(PATIENCE, impatient).await.expect("one of them is heard, whoever has left before him");
    scene.silence().await;
    *scene.puppet.slow.lock().unwrap() = Duration::ZERO;

    let accepted = Accepted { store: StoreId(2), revision: Revision(3) };
    assert_eq!(scene.control.accept().await, Ok(accepted));
    assert_eq!(scene.reset().await.store, StoreId(2));
    scene.puppet.become_(Ok(listing(1, 60, &[])));
    assert!(scene.reset().await.store == StoreId(2), "the accepted one is listed again, then followed");
    assert!(scene.frozen().await.contains("its id is 1"), "the first one is a stranger now");
}

#[tokio::test]
async fn writes_pass_only_while_the_feed_is_fresh() {
    let mut scene = Scene::with(Err(away()), Fallback::Missing("no copy".to_owned()));
    assert!(matches!(scene.next().await, Feed::Down { .. }));
    assert!(matches!(scene.write().await, Err(StoreError::Away(_))), "nothing has been read yet");
    assert!(matches!(scene.guarded.list("/").await, Err(StoreError::Away(_))));
    assert!(timeout(Duration::from_millis(20), scene.guarded.opened()).await.is_err());
    scene.puppet.become_(Ok(listing(1, 5, &[])));
    scene.reset().await;
    timeout(PATIENCE, scene.guarded.opened()).await.expect("it may be used");
    assert!(scene.write().await.is_ok() && scene.guarded.grant(Duration::from_secs(1)).await.is_ok());
    scene.puppet.become_(Err(away()));
    assert!(matches!(scene.next().await, Feed::Down { .. }));
    assert!(matches!(scene.write().await, Err(StoreError::Away(_))));
    scene.puppet.become_(Ok(listing(2, 9, &[])));
    scene.frozen().await;
    let refused = scene.write().await.expect_err("frozen");
    assert!(matches!(&refused, StoreError::Changed(why) if why.contains("tidegate store accept")), "{refused}");
    assert!(scene.guarded.grant(Duration::from_secs(1)).await.is_err());
    scene.puppet.become_(Err(away()));
    assert!(matches!(scene.write().await, Err(StoreError::Changed(_))), "frozen it stays");
    assert_eq!(scene.puppet.written.load(Ordering::SeqCst), 2, "nothing else has reached the store");
    scene.puppet.become_(Ok(listing(2, 9, &[])));
    scene.control.accept().await.unwrap();
    scene.reset().await;
    assert!(scene.write().await.is_ok());
}

#[tokio::test]
async fn without_the_store_the_copy_is_served_after_a_while_and_the_store_when_it_answers() {
    let copy = listing(1, 5, &[("/a", 5)]);
    let mut scene = Scene::with(Err(away()), good(copy.clone()));
    assert!(matches!(scene.next().await, Feed::Down { .. }));
    let Feed::Copy { listing: served, reason } = scene.next().await else { panic!("no copy") };
    assert_eq!(served, copy);
    assert!(reason.contains("2025-11-25T14:30:00Z") && reason.contains("revision 5"), "{reason}");
    assert!(reason.contains("away"), "{reason}");
    assert!(matches!(scene.write().await, Err(StoreError::Away(_))));
    scene.silence().await;
    scene.puppet.become_(Ok(listing(1, 8, &[])));
    assert_eq!(scene.reset().await.revision, Revision(8));
    scene.puppet.become_(Err(away()));
    assert!(matches!(scene.next().await, Feed::Down { .. }));
    scene.silence().await;
}

#[tokio::test]
async fn a_store_that_answers_in_time_is_served_and_not_the_copy() {
    let mut scene = Scene::with(Ok(listing(1, 6, &[])), good(listing(1, 5, &[("/a", 5)])));
    assert_eq!(scene.reset().await.revision, Revision(6));
    scene.silence().await;
}

#[tokio::test]
async fn a_store_that_is_not_that_of_the_copy_freezes_over_the_copy() {
    for exchanged in [listing(2, 9, &[]), listing(1, 4, &[]), listing(1, 99, &[("/a", 2)])] {
        let mut scene = Scene::with(Ok(exchanged), good(listing(1, 5, &[("/a", 5)])));
        assert!(matches!(scene.next().await, Feed::Copy { .. }));
        let reason = scene.frozen().await;
        assert!(reason.contains("serving the last-known-good copy") && reason.contains("accept"), "{reason}");
        scene.control.accept().await.unwrap();
        scene.reset().await;
    }
}

#[tokio::test]
async fn why_there_is_no_copy_is_said() {
    let mut scene = Scene::with(Err(away()), Fallback::Missing("/data/x: it is a symbolic link".to_owned()));
    let Feed::Down { reason } = scene.next().await else { panic!("not down") };
    assert!(reason.contains("away") && reason.contains("/data/x: it is a symbolic link"), "{reason}");
}

#[tokio::test]
async fn reads_are_answered_with_what_is_served_while_the_store_is_not_to_be_used() {
    let served = listing(1, 5, &[("/a", 5), ("/ab", 4), ("/b", 3)]);
    let mut scene = Scene::start(served.clone());
    scene.reset().await;
    let check = async |scene: &Scene| {
        assert_eq!(scene.guarded.list("/a").await.unwrap().entries, served.entries[..2]);
        assert_eq!(scene.guarded.get("/a").await, Ok(Some(served.entries[0].clone())));
        assert_eq!(scene.guarded.get("/").await, Ok(None));
        assert!(scene.guarded.list("elsewhere").await.is_err() && scene.guarded.watch("/", Revision(1)).await.is_err());
    };
    scene.puppet.become_(Err(away()));
    assert!(matches!(scene.next().await, Feed::Down { .. }));
    check(&scene).await;
    scene.puppet.become_(Ok(listing(2, 9, &[("/a", 9)])));
    scene.frozen().await;
    check(&scene).await;
}

//! Following over an embedded store that can be cut off and exchanged, and over a real etcd.
#![expect(clippy::disallowed_methods, reason = "tasks of a test end with its runtime")]

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{Feed, Follower, PACE, Pace, follow};
use crate::{
    model::Revision,
    store::{
        Change, Embedded, Etcd, KeyValue, LeaseId, Listing, Store, StoreError, Transaction, TxnOutcome, Watcher,
        embedded::History,
        etcd::server::Server,
        suite::{PATIENCE, delete, put, write},
    },
};

pub(super) const QUICK: Pace = Pace {
    first: Duration::from_millis(5),
    longest: Duration::from_millis(50),
    check: Duration::from_secs(300),
    start: Duration::from_millis(200),
};

/// Forwards to a store, which can be taken away or exchanged.
struct Line {
    inner: Mutex<Option<Arc<dyn Store>>>,
    cut: Mutex<CancellationToken>,
    /// No watch begins while a test holds it.
    door: tokio::sync::Mutex<()>,
}

impl Line {
    fn to(store: &Arc<impl Store>) -> Arc<Line> {
        let inner: Arc<dyn Store> = store.clone();
        Arc::new(Line { inner: Mutex::new(Some(inner)), cut: Mutex::default(), door: tokio::sync::Mutex::default() })
    }

    fn cut(&self) {
        *self.inner.lock().unwrap() = None;
        self.cut.lock().unwrap().cancel();
    }

    fn join(&self, store: &Arc<impl Store>) {
        *self.cut.lock().unwrap() = CancellationToken::new();
        *self.inner.lock().unwrap() = Some(store.clone());
    }

    fn inner(&self) -> Result<Arc<dyn Store>, StoreError> {
        self.inner.lock().unwrap().clone().ok_or_else(|| StoreError::Unavailable("cut".to_owned()))
    }
}

#[async_trait]
impl Store for Line {
    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        self.inner()?.list(prefix).await
    }

    async fn get(&self, key: &str) -> Result<Option<KeyValue>, StoreError> {
        self.inner()?.get(key).await
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watcher, StoreError> {
        let _open = self.door.lock().await;
        let mut inner = self.inner()?.watch(prefix, from).await?;
        let cut = self.cut.lock().unwrap().clone();
        let (out, watcher) = mpsc::channel(1);
        tokio::spawn(async move {
            loop {
                let event = tokio::select! {
                    () = cut.cancelled() => Err(StoreError::Unavailable("cut".to_owned())),
                    Some(event) = inner.recv() => event,
                };
                if out.send(event.clone()).await.is_err() || event.is_err() {
                    return;
                }
            }
        });
        Ok(watcher)
    }

    async fn txn(&self, txn: Transaction) -> Result<TxnOutcome, StoreError> {
        self.inner()?.txn(txn).await
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.inner()?.grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.inner()?.keep_alive(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.inner()?.revoke(lease).await
    }
}

/// A consumer: keeps what the feed says, as the contract of [`Feed`] allows it to.
struct Consumer {
    feed: mpsc::Receiver<Feed>,
    task: JoinHandle<()>,
    kv: BTreeMap<String, Bytes>,
    revision: Revision,
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Consumer {
    fn of(store: Arc<dyn Store>, prefix: &str, pace: Pace) -> Consumer {
        let (out, feed) = mpsc::channel(4);
        let mut follower = Follower::new(store, prefix.to_owned(), out);
        follower.pace = pace;
        let task = tokio::spawn(follower.run(CancellationToken::new()));
        Consumer { feed, task, kv: BTreeMap::new(), revision: Revision(0) }
    }

    /// The next message that is not mere progress, taken in.
    async fn next(&mut self) -> Feed {
        loop {
            let feed = timeout(PATIENCE, self.feed.recv()).await.expect("a message in time").expect("it goes on");
            match &feed {
                Feed::Reset(listing) | Feed::Copy { listing, .. } => {
                    assert!(listing.revision >= self.revision, "a reset goes back");
                    self.revision = listing.revision;
                    self.kv = listing.entries.iter().map(|kv| (kv.key.clone(), kv.value.clone())).collect();
                }
                Feed::Batch(batch) => {
                    assert!(batch.revision > self.revision, "a batch comes twice");
                    self.revision = batch.revision;
                    for change in &batch.changes {
                        match change {
                            Change::Put(kv) => drop(self.kv.insert(kv.key.clone(), kv.value.clone())),
                            Change::Delete(key) => drop(self.kv.remove(key)),
                        }
                    }
                }
                Feed::Progress(_) => continue,
                Feed::Down { .. } | Feed::Frozen { .. } => {}
            }
            return feed;
        }
    }

    async fn batch(&mut self) -> Revision {
        match self.next().await {
            Feed::Batch(batch) => batch.revision,
            other => panic!("{other:?}"),
        }
    }

    fn keys(&self) -> Vec<&str> {
        self.kv.keys().map(String::as_str).collect()
    }
}

#[tokio::test]
async fn first_everything_then_each_revision_below_the_prefix() {
    let store = Embedded::in_memory().unwrap();
    let first = write(&*store, vec![put("/p/a", "1"), put("/else", "1")]).await;
    let mut consumer = Consumer::of(store.clone(), "/p/", QUICK);
    assert!(matches!(consumer.next().await, Feed::Reset(listing) if listing.revision == first));
    assert_eq!(consumer.keys(), ["/p/a"]);
    write(&*store, vec![put("/else", "2")]).await;
    let third = write(&*store, vec![put("/p/b", "1"), delete("/p/a")]).await;
    assert_eq!(consumer.batch().await, third);
    assert_eq!(consumer.keys(), ["/p/b"]);
}

#[tokio::test]
async fn an_outage_is_said_once_and_what_changed_in_it_follows() {
    let store = Embedded::in_memory().unwrap();
    let line = Line::to(&store);
    let mut consumer = Consumer::of(line.clone(), "/", QUICK);
    assert!(matches!(consumer.next().await, Feed::Reset(_)));
    for _ in 0..3 {
        line.cut();
        assert!(matches!(consumer.next().await, Feed::Down { .. }));
        let mut last = Revision(0);
        for n in 0..10 {
            last = write(&*store, vec![put("/a", n.to_string())]).await;
        }
        assert!(timeout(Duration::from_millis(200), consumer.next()).await.is_err(), "nothing more is said");
        line.join(&store);
        assert!(matches!(consumer.next().await, Feed::Reset(listing) if listing.revision == last));
        let next = write(&*store, vec![put("/b", "1")]).await;
        assert_eq!(consumer.batch().await, next);
    }
}

#[tokio::test]
async fn the_end_of_an_outage_is_told_even_if_nothing_changed() {
    let store = Embedded::in_memory().unwrap();
    let line = Line::to(&store);
    let mut consumer = Consumer::of(line.clone(), "/", QUICK);
    assert!(matches!(consumer.next().await, Feed::Reset(_)));
    line.cut();
    assert!(matches!(consumer.next().await, Feed::Down { .. }));
    line.join(&store);
    let told = timeout(PATIENCE, consumer.feed.recv()).await.unwrap();
    assert!(matches!(told, Some(Feed::Reset(listing)) if listing.revision == Revision(0)));
}

#[tokio::test]
async fn a_deletion_in_an_outage_is_found_though_its_history_is_gone() {
    let store = Embedded::in_memory_keeping(History { revisions: 5, ..History::default() }).unwrap();
    write(&*store, vec![put("/a", "1"), put("/b", "1")]).await;
    let line = Line::to(&store);
    let mut consumer = Consumer::of(line.clone(), "/", QUICK);
    assert!(matches!(consumer.next().await, Feed::Reset(_)));
    line.cut();
    assert!(matches!(consumer.next().await, Feed::Down { .. }));
    write(&*store, vec![delete("/a")]).await;
    for n in 0..10 {
        write(&*store, vec![put("~", n.to_string())]).await;
    }
    line.join(&store);
    assert!(matches!(consumer.next().await, Feed::Reset(_)));
    assert_eq!(consumer.keys(), ["/b"]);
    let last = write(&*store, vec![put("/c", "1")]).await;
    assert_eq!(consumer.batch().await, last);
}

#[tokio::test]
async fn an_older_state_freezes_until_the_store_is_back() {
    let (store, older) = (Embedded::in_memory().unwrap(), Embedded::in_memory().unwrap());
    for n in 0..5 {
        write(&*store, vec![put("/a", n.to_string())]).await;
    }
    write(&*older, vec![put("/only/in/the/older", "1")]).await;
    let line = Line::to(&store);
    let mut consumer = Consumer::of(line.clone(), "/", QUICK);
    assert!(matches!(consumer.next().await, Feed::Reset(_)));
    line.cut();
    assert!(matches!(consumer.next().await, Feed::Down { .. }));
    line.join(&older);
    assert!(matches!(consumer.next().await, Feed::Frozen { .. }));
    write(&*older, vec![put("/only/in/the/older", "2")]).await;
    line.cut();
    line.join(&older);
    assert!(timeout(Duration::from_millis(300), consumer.next()).await.is_err(), "nothing is taken from it");
    line.join(&store);
    assert!(matches!(consumer.next().await, Feed::Reset(listing) if listing.revision == Revision(5)));
    assert_eq!(consumer.keys(), ["/a"]);
}

#[tokio::test]
async fn the_whole_prefix_is_checked_now_and_then() {
    let store = Embedded::in_memory().unwrap();
    let pace = Pace { check: Duration::from_millis(40), ..QUICK };
    let mut consumer = Consumer::of(store.clone(), "/", pace);
    for _ in 0..3 {
        assert!(matches!(consumer.next().await, Feed::Reset(_)));
    }
}

#[tokio::test]
async fn it_ends_when_it_is_cancelled_or_nobody_listens() {
    let store = Embedded::in_memory().unwrap();
    let (out, mut feed) = mpsc::channel(1);
    let cancel = CancellationToken::new();
    let following = tokio::spawn(follow(store.clone(), "/".to_owned(), cancel.clone(), out));
    assert!(matches!(timeout(PATIENCE, feed.recv()).await, Ok(Some(Feed::Reset(_)))));
    cancel.cancel();
    timeout(PATIENCE, following).await.expect("cancelled").unwrap();
    let (out, feed) = mpsc::channel(1);
    let following = tokio::spawn(follow(store, "/".to_owned(), CancellationToken::new(), out));
    drop(feed);
    timeout(PATIENCE, following).await.expect("unheard").unwrap();
}

/// Writes, again and again until etcd is there.
async fn insist(store: &dyn Store, key: &str, value: u32) {
    let until = Instant::now() + PATIENCE;
    let txn = Transaction { compares: Vec::new(), ops: vec![put(key, value.to_string())] };
    while let Err(error) = store.txn(txn.clone()).await {
        assert!(Instant::now() < until, "{error}");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarts_of_etcd_cost_nothing_and_nothing_goes_back() {
    let mut server = Server::start().await;
    let mut consumer = Consumer::of(server.store().await, "/n", PACE);
    assert!(matches!(consumer.next().await, Feed::Reset(_)));
    let store = server.store().await;
    let writer = tokio::spawn(async move {
        for n in 0..300 {
            insist(&*store, "/n", n).await;
            sleep(Duration::from_millis(10)).await;
        }
    });
    for _ in 0..2 {
        sleep(Duration::from_millis(500)).await;
        server.kill();
        server.start_again().await;
    }
    // In order; those of an outage may be left out for the newest, and one that was written twice may come twice.
    let mut newest = 0;
    while newest < 299 {
        match consumer.next().await {
            Feed::Batch(_) | Feed::Reset(_) => {
                let value: u32 = std::str::from_utf8(&consumer.kv["/n"]).unwrap().parse().unwrap();
                assert!(value >= newest, "{value} after {newest}");
                newest = value;
            }
            Feed::Down { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    writer.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_etcd_deleted_and_compacted_in_an_outage_is_found() {
    let server = Server::start().await;
    let store = server.store().await;
    write(&*store, vec![put("/k/a", "1"), put("/k/b", "1")]).await;
    // The follower's own line to etcd is cut, not etcd itself, so that the outage can be used.
    let line = Line::to(&server.store().await);
    let mut consumer = Consumer::of(line.clone(), "/k/", QUICK);
    assert!(matches!(consumer.next().await, Feed::Reset(_)));
    line.cut();
    assert!(matches!(consumer.next().await, Feed::Down { .. }));
    write(&*store, vec![delete("/k/a")]).await;
    write(&*store, vec![put("/k/c", "1")]).await;
    server.compact().await;
    line.join(&store);
    assert!(matches!(consumer.next().await, Feed::Reset(_)));
    assert_eq!(consumer.keys(), ["/k/b", "/k/c"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_etcd_that_was_restored_from_a_backup_freezes_the_feed() {
    let mut server = Server::start().await;
    let store = server.store().await;
    write(&*store, vec![put("/k/a", "1")]).await;
    server.kill();
    let backup = tempfile::tempdir().unwrap();
    server.copy_data(&backup.path().join("data"));
    server.start_again().await;
    let mut consumer = Consumer::of(server.store().await, "/k/", QUICK);
    assert!(matches!(consumer.next().await, Feed::Reset(_)));
    insist(&*store, "/k/a", 2).await;
    consumer.batch().await;
    server.kill();
    std::fs::remove_dir_all(server.data()).unwrap();
    std::fs::rename(backup.path().join("data"), server.data()).unwrap();
    server.start_again().await;
    while !matches!(consumer.next().await, Feed::Frozen { .. }) {}
    assert_eq!(&consumer.kv["/k/a"][..], b"2", "what was served stays");
}

/// How the follower is held up while history goes.
#[derive(Clone, Copy, Debug)]
enum Pause {
    /// It has lost the store.
    Cut,
    /// It has listed and is about to watch.
    BeforeWatch,
    /// Its consumer takes nothing.
    Consumer,
}

/// Something is written and deleted, and history is compacted up to the last write, which is a deletion.
async fn history_goes(server: &Server, store: &Etcd, round: usize) {
    let (now, last) = (format!("/k/{round}"), format!("/k/{}", round.wrapping_sub(1)));
    let steps = match round % 4 {
        0 => vec![vec![put(&now, "1"), delete(&last)]],
        1 => vec![vec![put(&now, "1")], vec![put("/k/all", round.to_string())], vec![delete(&last)]],
        2 => vec![vec![put(&now, "1"), put(&last, "2")], vec![delete(&last)]],
        _ => vec![vec![delete(&last)]],
    };
    for ops in steps {
        write(store, ops).await;
    }
    server.compact().await;
}

/// Reliability, fault 6: history is compacted at its head while the watch is paused, deletions included. It passes when
/// after each of 120 pauses the consumer holds exactly what a listing shows: no deletion is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_deletion_is_lost_when_history_is_compacted_in_a_pause_of_the_watch() {
    let began = Instant::now();
    let server = Server::start().await;
    let store = server.store().await;
    let line = Line::to(&server.store().await);
    let mut consumer = Consumer::of(line.clone(), "/k/", QUICK);
    assert!(matches!(consumer.next().await, Feed::Reset(_)));
    for round in 0..120 {
        let pause = [Pause::Cut, Pause::BeforeWatch, Pause::Consumer][round % 3];
        if !matches!(pause, Pause::Consumer) {
            line.cut();
            while !matches!(consumer.next().await, Feed::Down { .. }) {}
        }
        let mut door = None;
        if let Pause::BeforeWatch = pause {
            door = Some(line.door.lock().await);
            line.join(&store);
            assert!(matches!(consumer.next().await, Feed::Reset(_)));
        }
        history_goes(&server, &store, round).await;
        drop(door);
        if let Pause::Cut = pause {
            line.join(&store);
        }
        let listing = store.list("/k/").await.unwrap();
        let listed: Vec<_> = listing.entries.iter().map(|kv| (kv.key.clone(), kv.value.clone())).collect();
        let until = Instant::now() + Duration::from_secs(10);
        while consumer.kv.iter().map(|(key, value)| (key.clone(), value.clone())).ne(listed.iter().cloned()) {
            let held = consumer.keys().join(" ");
            let next = timeout(until - Instant::now(), consumer.next()).await;
            let feed = next.unwrap_or_else(|_| panic!("round {round}, {pause:?}: held {held}, listed {listed:?}"));
            assert!(!matches!(feed, Feed::Frozen { .. }), "{feed:?}");
        }
    }
    eprintln!("120 pauses with compaction in {:?}", began.elapsed());
}

/// A store whose values below `/n/` are all written by the same transaction, and so are all equal.
fn is_whole(kv: &BTreeMap<String, Bytes>) -> bool {
    kv.len() == 128 && kv.values().all(|value| Some(value) == kv.values().next())
}

/// Reliability, fault 7: 20 MB of history to catch up with, in transactions of 128 operations and 1.4 MiB. It passes
/// when nothing fails to decode and a consumer never holds a part of a transaction, neither of a listing after an
/// outage nor of the changes that waited for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backlog_of_full_transactions_is_taken_in_without_ever_showing_half_of_one() {
    let server = Server::start().await;
    let store = server.store().await;
    let full = async |round: usize| {
        let value = Bytes::from(format!("{round:02}").repeat(5_500));
        write(&*store, (0..128).map(|key| put(&format!("/n/{key:03}"), value.clone())).collect()).await
    };
    let first = full(0).await;
    let line = Line::to(&server.store().await);
    let mut consumer = Consumer::of(line.clone(), "/n/", QUICK);
    assert!(matches!(consumer.next().await, Feed::Reset(_)));
    assert!(consumer.revision == first && is_whole(&consumer.kv));
    for outage in [false, true] {
        if outage {
            line.cut();
            while !matches!(consumer.next().await, Feed::Down { .. }) {}
        }
        let mut last = first;
        for round in 1..=15 {
            last = full(round).await;
        }
        if outage {
            line.join(&store);
        }
        while consumer.revision < last {
            let feed = consumer.next().await;
            assert!(is_whole(&consumer.kv), "half a transaction at {}", consumer.revision);
            assert!(outage || matches!(feed, Feed::Batch(_)), "the watch held: {feed:?}");
        }
    }
}

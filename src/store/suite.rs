//! What every store promises, as claims that each implementation is held to with [`contract_tests`].

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::{task::JoinSet, time::timeout};

use super::{Batch, Change, Compare, Op, Store, StoreError, StoreId, Transaction, TxnOutcome, WatchEvent, Watcher};
use crate::model::Revision;

/// A store under test, and what only its keeper can do to it.
#[async_trait]
pub(super) trait Harness: Send + Sync {
    /// The store; empty at first.
    fn store(&self) -> Arc<dyn Store>;

    /// Makes the store forget its history so far.
    async fn forget_history(&self);
}

/// How long a test waits for what must come.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

pub(super) fn put(key: &str, value: impl Into<Bytes>) -> Op {
    Op::Put { key: key.to_owned(), value: value.into(), lease: None }
}

pub(super) fn delete(key: &str) -> Op {
    Op::Delete { key: key.to_owned() }
}

/// Applies operations without conditions.
pub(super) async fn write(store: &dyn Store, ops: Vec<Op>) -> Revision {
    match store.txn(Transaction { compares: Vec::new(), ops }).await.unwrap() {
        TxnOutcome::Committed(revision) => revision,
        outcome @ TxnOutcome::Conflict(_) => panic!("without a compare there is no conflict: {outcome:?}"),
    }
}

/// The next event that is not mere progress.
pub(super) async fn event(watcher: &mut Watcher) -> Result<WatchEvent, StoreError> {
    loop {
        match timeout(PATIENCE, watcher.recv()).await.expect("an event in time").expect("the watch goes on") {
            Ok(WatchEvent::Progress(_)) => {}
            event => return event,
        }
    }
}

pub(super) async fn batch(watcher: &mut Watcher) -> Batch {
    match event(watcher).await.unwrap() {
        WatchEvent::Batch(batch) => batch,
        other => panic!("{other:?}"),
    }
}

fn keys(batch: &Batch) -> Vec<&str> {
    batch.changes.iter().map(key).collect()
}

fn key(change: &Change) -> &str {
    match change {
        Change::Put(kv) => &kv.key,
        Change::Delete(key) => key,
    }
}

pub(super) async fn revisions_count_changes_and_mark_keys(harness: &dyn Harness) {
    let store = harness.store();
    let first = write(&*store, vec![put("/a", "1")]).await;
    let second = write(&*store, vec![put("/a", "2"), put("/b", "1")]).await;
    assert_eq!(second.0, first.0 + 1);
    let a = store.get("/a").await.unwrap().unwrap();
    assert_eq!((&a.value[..], a.create_revision, a.mod_revision), (&b"2"[..], first, second));
    let third = write(&*store, vec![delete("/a")]).await;
    assert_eq!(store.get("/a").await.unwrap(), None);
    assert_eq!(write(&*store, vec![delete("/a")]).await, third, "what changes nothing is no revision");
    assert_eq!(write(&*store, vec![]).await, third);
    let fourth = write(&*store, vec![put("/a", "")]).await;
    let a = store.get("/a").await.unwrap().unwrap();
    assert_eq!((a.value.len(), a.create_revision, a.mod_revision), (0, fourth, fourth), "it came to be again");
    assert_eq!(store.list("/").await.unwrap().revision, fourth);
}

pub(super) async fn a_listing_says_which_store_it_is_of(harness: &dyn Harness) {
    let store = harness.store();
    let empty = store.list("/").await.unwrap().store;
    assert_ne!(empty, StoreId(0));
    write(&*store, vec![put("/a", "1")]).await;
    harness.forget_history().await;
    assert_eq!(store.list("/").await.unwrap().store, empty, "whatever is written");
    store.adopt();
    assert_eq!(store.list("/a").await.unwrap().store, empty, "nobody exchanged it");
}

pub(super) async fn a_transaction_is_atomic_and_a_conflict_changes_nothing(harness: &dyn Harness) {
    let store = harness.store();
    let absent = |key: &str| Compare::ModRevision(key.to_owned(), Revision(0));
    let made = store.txn(Transaction { compares: vec![absent("/a")], ops: vec![put("/a", "1"), put("/b", "1")] }).await;
    let Ok(TxnOutcome::Committed(at)) = made else { panic!("{made:?}") };
    let again = Transaction { compares: vec![absent("/c"), absent("/a")], ops: vec![put("/b", "2"), delete("/a")] };
    assert_eq!(store.txn(again).await, Ok(TxnOutcome::Conflict(at)));
    let listing = store.list("/").await.unwrap();
    assert_eq!(listing.revision, at);
    assert_eq!(
        listing.entries.iter().map(|kv| (&kv.key[..], &kv.value[..])).collect::<Vec<_>>(),
        [("/a", &b"1"[..]), ("/b", &b"1"[..])]
    );
    let born = |revision| Compare::CreateRevision("/a".to_owned(), revision);
    let bump = |compare| Transaction { compares: vec![compare], ops: vec![put("/a", "2")] };
    assert_eq!(store.txn(bump(born(Revision(0)))).await, Ok(TxnOutcome::Conflict(at)));
    assert_eq!(store.txn(bump(born(at))).await, Ok(TxnOutcome::Committed(Revision(at.0 + 1))));
    let stale = Compare::ModRevision("/a".to_owned(), at);
    assert_eq!(store.txn(bump(stale)).await, Ok(TxnOutcome::Conflict(Revision(at.0 + 1))));
    assert_eq!(
        store.txn(bump(born(at))).await,
        Ok(TxnOutcome::Committed(Revision(at.0 + 2))),
        "a write keeps the birth"
    );
}

pub(super) async fn a_listing_of_many_pages_shows_one_revision(harness: &dyn Harness) {
    let store = harness.store();
    for page in 0..25 {
        write(&*store, (0..100).map(|n| put(&format!("/many/{page:02}/{n:03}"), "0")).collect()).await;
    }
    // Each write changes the first and the last key alike: a listing that mixes revisions shows them different.
    let writer = store.clone();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        for n in 0..200 {
            write(&*writer, vec![put("/many/00/000", n.to_string()), put("/many/24/099", n.to_string())]).await;
        }
    });
    loop {
        let listing = store.list("/many/").await.unwrap();
        assert_eq!(listing.entries.len(), 2500);
        assert!(listing.entries.is_sorted_by(|a, b| a.key < b.key));
        let (first, last) = (listing.entries.first().unwrap(), listing.entries.last().unwrap());
        assert_eq!((&first.value, first.mod_revision <= listing.revision), (&last.value, true));
        // A store in memory answers at once; the writer must get its turn.
        tokio::task::yield_now().await;
        if tasks.try_join_next().is_some_and(|ended| ended.is_ok()) {
            break;
        }
    }
}

pub(super) async fn a_watch_replays_whole_revisions_and_goes_on_live(harness: &dyn Harness) {
    let store = harness.store();
    let first = write(&*store, (0..100).map(|n| put(&format!("/w/{n:03}"), "1")).collect()).await;
    write(&*store, vec![put("/else", "1")]).await;
    let third = write(&*store, vec![put("/w/000", "2"), put("/else", "2"), delete("/w/001")]).await;
    let mut from_first = store.watch("/w/", first).await.unwrap();
    let mut from_third = store.watch("/w/", third).await.unwrap();
    let mut from_now = store.watch("/w/", Revision(third.0 + 1)).await.unwrap();
    let whole = batch(&mut from_first).await;
    assert_eq!((whole.revision, whole.changes.len()), (first, 100));
    for watcher in [&mut from_first, &mut from_third] {
        let replayed = batch(watcher).await;
        assert_eq!((replayed.revision, keys(&replayed)), (third, vec!["/w/000", "/w/001"]));
        assert!(
            matches!(&replayed.changes[0], Change::Put(kv) if kv.create_revision == first && &kv.value[..] == b"2")
        );
        assert_eq!(replayed.changes[1], Change::Delete("/w/001".to_owned()));
    }
    let live = write(&*store, vec![delete("/w/002")]).await;
    for watcher in [&mut from_first, &mut from_third, &mut from_now] {
        assert_eq!(batch(watcher).await, Batch { revision: live, changes: vec![Change::Delete("/w/002".to_owned())] });
    }
}

pub(super) async fn a_slow_watch_loses_nothing(harness: &dyn Harness) {
    let store = harness.store();
    let first = write(&*store, vec![put("/slow", "0")]).await;
    let mut watcher = store.watch("/slow", first).await.unwrap();
    let last = write_many(&*store, 1000).await;
    let mut expected = first;
    while expected <= last {
        assert_eq!(batch(&mut watcher).await.revision, expected);
        expected.0 += 1;
    }
}

async fn write_many(store: &dyn Store, writes: usize) -> Revision {
    let mut last = Revision(0);
    for n in 0..writes {
        last = write(store, vec![put("/slow", n.to_string())]).await;
    }
    last
}

pub(super) async fn forgotten_history_is_said_to_be_compacted(harness: &dyn Harness) {
    let store = harness.store();
    let first = write(&*store, vec![put("/a", "1")]).await;
    write(&*store, vec![put("/a", "2")]).await;
    harness.forget_history().await;
    let now = store.list("/").await.unwrap().revision;
    let mut watcher = store.watch("/", first).await.unwrap();
    let Ok(WatchEvent::Compacted(upto)) = event(&mut watcher).await else { panic!("not compacted") };
    assert!(upto > first && upto <= now, "{upto}");
    assert_eq!(timeout(PATIENCE, watcher.recv()).await.unwrap(), None, "the watch ends");
    let mut watcher = store.watch("/", Revision(now.0 + 1)).await.unwrap();
    let live = write(&*store, vec![put("/a", "3")]).await;
    assert_eq!(batch(&mut watcher).await.revision, live);
}

pub(super) async fn a_watch_from_the_future_is_refused(harness: &dyn Harness) {
    let store = harness.store();
    let now = write(&*store, vec![put("/a", "1")]).await;
    let answer = store.watch("/", Revision(now.0 + 100)).await.map(|_| ());
    assert!(matches!(answer, Err(StoreError::Changed(_))), "{answer:?}");
}

pub(super) async fn the_end_of_a_lease_deletes_its_keys_at_one_revision(harness: &dyn Harness) {
    let store = harness.store();
    let lease = store.grant(Duration::from_secs(1)).await.unwrap();
    let bound = |key: &str| Op::Put { key: key.to_owned(), value: Bytes::new(), lease: Some(lease) };
    let made = write(&*store, vec![bound("/l/a"), bound("/l/b"), bound("/l/c"), bound("/l/d")]).await;
    write(&*store, vec![put("/l/b", "free"), delete("/l/d")]).await;
    let mut watcher = store.watch("/l/", Revision(made.0 + 2)).await.unwrap();
    let ended = batch(&mut watcher).await;
    let mut gone = keys(&ended);
    gone.sort_unstable();
    assert_eq!((ended.revision.0, gone), (made.0 + 2, vec!["/l/a", "/l/c"]));
    let left: Vec<_> = store.list("/l/").await.unwrap().entries.into_iter().map(|kv| kv.key).collect();
    assert_eq!(left, ["/l/b"]);
    assert_eq!(store.keep_alive(lease).await, Err(StoreError::LeaseNotFound));
    let late = Transaction { compares: vec![], ops: vec![put("/l/e", ""), bound("/l/f")] };
    assert_eq!(store.txn(late).await, Err(StoreError::LeaseNotFound));
    assert_eq!(store.get("/l/e").await.unwrap(), None, "nothing of it was applied");
}

pub(super) async fn renewing_holds_a_lease_and_revoking_ends_it(harness: &dyn Harness) {
    let store = harness.store();
    let lease = store.grant(Duration::from_secs(2)).await.unwrap();
    let op = Op::Put { key: "/l".to_owned(), value: Bytes::new(), lease: Some(lease) };
    let made = write(&*store, vec![op]).await;
    let mut watcher = store.watch("/l", Revision(made.0 + 1)).await.unwrap();
    for _ in 0..10 {
        store.keep_alive(lease).await.unwrap();
        let early = timeout(Duration::from_millis(400), async { batch(&mut watcher).await }).await;
        assert!(early.is_err(), "{early:?}");
    }
    store.revoke(lease).await.unwrap();
    assert_eq!(batch(&mut watcher).await.changes, [Change::Delete("/l".to_owned())]);
    assert_eq!(store.revoke(lease).await, Err(StoreError::LeaseNotFound));
    assert_ne!(store.grant(Duration::from_secs(60)).await.unwrap(), lease);
}

pub(super) async fn a_prefix_holds_what_begins_with_it_and_no_more(harness: &dyn Harness) {
    let store = harness.store();
    let all = ["/p", "/p/", "/p/a", "/p/ÿ", "/p/\u{10ffff}", "/p/\u{10ffff}x", "/p0", "/o", "/q", "\u{10ffff}"];
    let first = write(&*store, all.iter().map(|key| put(key, "")).collect()).await;
    for prefix in ["", "/", "/p", "/p/", "/p/a", "/p/\u{10ffff}", "\u{10ffff}", "/nothing"] {
        let mut expected: Vec<&str> = all.into_iter().filter(|key| key.starts_with(prefix)).collect();
        expected.sort_unstable();
        let listing = store.list(prefix).await.unwrap();
        assert_eq!(listing.entries.iter().map(|kv| &kv.key[..]).collect::<Vec<_>>(), expected, "list {prefix:?}");
        if !expected.is_empty() {
            let mut watcher = store.watch(prefix, first).await.unwrap();
            let batch = batch(&mut watcher).await;
            let mut seen = keys(&batch);
            seen.sort_unstable();
            assert_eq!(seen, expected, "watch {prefix:?}");
        }
    }
}

pub(super) async fn large_values_are_listed_and_caught_up_with(harness: &dyn Harness) {
    let store = harness.store();
    let value = |n: u8| Bytes::from(vec![n; 1 << 20]);
    let first = write(&*store, vec![put("/big/0", value(0))]).await;
    for n in 1..8 {
        write(&*store, vec![put(&format!("/big/{n}"), value(n))]).await;
    }
    let listing = store.list("/big/").await.unwrap();
    assert!(listing.entries.iter().map(|kv| kv.value.clone()).eq((0..8).map(value)));
    let mut watcher = store.watch("/big/", first).await.unwrap();
    for n in 0..8 {
        let batch = batch(&mut watcher).await;
        assert_eq!(batch.revision.0, first.0 + u64::from(n));
        assert!(matches!(&batch.changes[..], [Change::Put(kv)] if kv.value == value(n)));
    }
}

pub(super) async fn large_revisions_are_caught_up_with_whole(harness: &dyn Harness) {
    let store = harness.store();
    let mut expected = Vec::new();
    for n in 0..8 {
        expected.push(write(&*store, (0..4).map(|key| put(&format!("/big/{key}"), vec![n; 350_000])).collect()).await);
    }
    let mut watcher = store.watch("/big/", expected[0]).await.unwrap();
    for revision in expected {
        let batch = batch(&mut watcher).await;
        assert_eq!((batch.revision, keys(&batch)), (revision, vec!["/big/0", "/big/1", "/big/2", "/big/3"]));
    }
}

/// Reliability, fault 7, at the store: 20 MB of history in transactions as large as they may be. It passes when each
/// arrives whole, and nothing fails to decode.
pub(super) async fn a_backlog_of_full_transactions_is_caught_up_with_whole(harness: &dyn Harness) {
    let store = harness.store();
    let all: Vec<String> = (0..128).map(|n| format!("/full/{n:03}")).collect();
    let mut expected = Vec::new();
    for n in 0..15 {
        expected.push(write(&*store, all.iter().map(|key| put(key, vec![n; 11_000])).collect()).await);
    }
    let mut watcher = store.watch("/full/", expected[0]).await.unwrap();
    for (n, revision) in expected.into_iter().enumerate() {
        let batch = batch(&mut watcher).await;
        assert_eq!((batch.revision, keys(&batch)), (revision, all.iter().map(String::as_str).collect()));
        let whole =
            |change: &Change| matches!(change, Change::Put(kv) if kv.value.iter().all(|b| usize::from(*b) == n));
        assert!(batch.changes.iter().all(whole));
    }
}

pub(super) async fn concurrent_writers_lose_nothing(harness: &dyn Harness) {
    let store = harness.store();
    let first = write(&*store, vec![put("/sum", "0")]).await;
    let mut tasks = JoinSet::new();
    for name in 0..8 {
        let store = store.clone();
        tasks.spawn(async move {
            let mut own = 0;
            while own < 20 {
                let sum = store.get("/sum").await.unwrap().unwrap();
                let next = std::str::from_utf8(&sum.value).unwrap().parse::<u64>().unwrap() + 1;
                let compares = vec![Compare::ModRevision("/sum".to_owned(), sum.mod_revision)];
                let ops = vec![put("/sum", next.to_string()), put(&format!("/own/{name}"), (own + 1).to_string())];
                if let TxnOutcome::Committed(_) = store.txn(Transaction { compares, ops }).await.unwrap() {
                    own += 1;
                }
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    assert_eq!(&store.get("/sum").await.unwrap().unwrap().value[..], b"160");
    // The history tells the same: every step once, in order.
    let mut watcher = store.watch("/", Revision(first.0 + 1)).await.unwrap();
    let mut own = BTreeMap::<String, u64>::new();
    for step in 1..=160 {
        let batch = batch(&mut watcher).await;
        assert_eq!((batch.revision.0, batch.changes.len()), (first.0 + step, 2));
        *own.entry(key(&batch.changes[1]).to_owned()).or_default() += 1;
    }
    assert_eq!((own.len(), own.values().all(|steps| *steps == 20)), (8, true));
}

pub(super) async fn what_is_outside_the_limits_is_refused(harness: &dyn Harness) {
    let store = harness.store();
    let now = write(&*store, vec![put("/a", "1")]).await;
    let refused = [
        (0..129).map(|n| put(&format!("/{n}"), "")).collect(),
        vec![put("/a", vec![0; 1_600_000])],
        vec![put("/a", "1"), put("/a", "2")],
        vec![put("/a", "1"), delete("/a")],
        vec![put("", "1")],
    ];
    for ops in refused {
        let answer = store.txn(Transaction { compares: vec![], ops }).await;
        assert!(matches!(answer, Err(StoreError::Refused(_))), "{answer:?}");
    }
    assert_eq!(store.list("/").await.unwrap().revision, now);
    write(&*store, (0..128).map(|n| put(&format!("/{n}"), "")).collect()).await;
    write(&*store, vec![put("/a", vec![0; 1_500_000])]).await;
}

pub(super) async fn who_followed_a_history_serves_what_one_serves_who_lists_at_its_end(harness: &dyn Harness) {
    crate::pipeline::histories::who_followed_serves_what_one_serves_who_lists_at_the_end(harness.store()).await;
}

/// Makes a test of each claim; the argument builds the [`Harness`].
macro_rules! contract_tests {
    ($harness:expr) => {
        crate::store::suite::contract_tests! { $harness;
            revisions_count_changes_and_mark_keys,
            a_listing_says_which_store_it_is_of,
            a_transaction_is_atomic_and_a_conflict_changes_nothing,
            a_listing_of_many_pages_shows_one_revision,
            a_watch_replays_whole_revisions_and_goes_on_live,
            a_slow_watch_loses_nothing,
            forgotten_history_is_said_to_be_compacted,
            a_watch_from_the_future_is_refused,
            the_end_of_a_lease_deletes_its_keys_at_one_revision,
            renewing_holds_a_lease_and_revoking_ends_it,
            a_prefix_holds_what_begins_with_it_and_no_more,
            large_values_are_listed_and_caught_up_with,
            large_revisions_are_caught_up_with_whole,
            a_backlog_of_full_transactions_is_caught_up_with_whole,
            concurrent_writers_lose_nothing,
            what_is_outside_the_limits_is_refused,
            who_followed_a_history_serves_what_one_serves_who_lists_at_its_end,
        }
    };
    ($harness:expr; $($claim:ident,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $claim() {
                crate::store::suite::$claim(&$harness.await).await;
            }
        )*
    };
}
pub(super) use contract_tests;

//! The contract over the embedded store, and what only it promises.

use std::{path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::Instant;

use super::{Embedded, History};
use crate::{
    model::Revision,
    store::{
        Change, Listing, Op, Store, StoreError, WatchEvent,
        suite::{self, Harness, batch, delete, event, put, write},
    },
};

struct Kept {
    store: Arc<Embedded>,
    /// Keeps the file until the store is gone.
    _dir: Option<tempfile::TempDir>,
}

/// How many revisions the stores under test keep.
const KEPT: usize = 2000;

fn history() -> History {
    History { revisions: KEPT, ..History::default() }
}

#[async_trait]
impl Harness for Kept {
    fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    async fn forget_history(&self) {
        for n in 0..KEPT {
            write(&*self.store, vec![put("~noise", n.to_string())]).await;
        }
    }
}

async fn memory() -> Kept {
    Kept { store: Embedded::in_memory_keeping(history()).unwrap(), _dir: None }
}

async fn disk() -> Kept {
    let (dir, path) = place();
    Kept { store: Embedded::open_keeping(&path, history()).unwrap(), _dir: Some(dir) }
}

fn place() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    (dir, path)
}

mod in_memory {
    crate::store::suite::contract_tests!(super::memory());
}

mod on_disk {
    crate::store::suite::contract_tests!(super::disk());
}

async fn filled(store: &dyn Store) -> Listing {
    write(store, vec![put("/a", "1"), put("/b", "1"), put("/c", "1")]).await;
    write(store, vec![put("/a", "2"), delete("/b")]).await;
    store.list("").await.unwrap()
}

#[tokio::test]
async fn a_store_that_is_opened_again_has_its_keys_its_history_and_its_counters() {
    let (_dir, path) = place();
    let store = Embedded::open(&path).unwrap();
    let before = filled(&*store).await;
    let lease = store.grant(Duration::from_secs(60)).await.unwrap();
    drop(store);
    let store = Embedded::open(&path).unwrap();
    assert_eq!(store.list("").await.unwrap(), before);
    let mut watcher = store.watch("", Revision(2)).await.unwrap();
    assert!(matches!(&batch(&mut watcher).await.changes[..], [Change::Put(_), Change::Delete(key)] if key == "/b"));
    assert_eq!(write(&*store, vec![put("/d", "")]).await, Revision(3));
    store.keep_alive(lease).await.unwrap();
    assert_ne!(store.grant(Duration::from_secs(60)).await.unwrap(), lease);
}

#[tokio::test]
async fn a_copy_of_the_file_under_a_running_store_opens_with_all_that_was_answered() {
    let (dir, path) = place();
    let store = Embedded::open(&path).unwrap();
    let before = filled(&*store).await;
    let copy = dir.path().join("copy.redb");
    std::fs::copy(&path, &copy).unwrap();
    let copied = Embedded::open(&copy).unwrap();
    assert_eq!(copied.list("").await.unwrap(), before);
}

#[tokio::test]
async fn leases_live_on_in_full_after_a_start_and_still_end_with_their_keys() {
    let (_dir, path) = place();
    let store = Embedded::open(&path).unwrap();
    let lease = store.grant(Duration::from_secs(2)).await.unwrap();
    write(&*store, vec![Op::Put { key: "/l".to_owned(), value: Bytes::new(), lease: Some(lease) }]).await;
    tokio::time::sleep(Duration::from_millis(1200)).await;
    drop(store);
    let opened = Instant::now();
    let store = Embedded::open(&path).unwrap();
    let mut watcher = store.watch("/l", Revision(2)).await.unwrap();
    assert_eq!(batch(&mut watcher).await.changes, [Change::Delete("/l".to_owned())]);
    assert!(opened.elapsed() >= Duration::from_millis(1900), "it ended {:?} after the start", opened.elapsed());
    drop(store);
    let store = Embedded::open(&path).unwrap();
    assert_eq!(store.keep_alive(lease).await, Err(StoreError::LeaseNotFound));
}

#[tokio::test]
async fn history_is_bounded_on_disk_too() {
    let (_dir, path) = place();
    let few = History { revisions: 10, ..History::default() };
    let store = Embedded::open_keeping(&path, few).unwrap();
    for n in 0..25 {
        write(&*store, vec![put("/a", n.to_string())]).await;
    }
    drop(store);
    let store = Embedded::open(&path).unwrap();
    let mut watcher = store.watch("", Revision(15)).await.unwrap();
    assert_eq!(event(&mut watcher).await, Ok(WatchEvent::Compacted(Revision(15))));
    let mut watcher = store.watch("", Revision(16)).await.unwrap();
    assert_eq!(batch(&mut watcher).await.revision, Revision(16));
    drop(store);
    let small = History { bytes: 1000, ..History::default() };
    let store = Embedded::open_keeping(&path, small).unwrap();
    let now = write(&*store, vec![put("/a", vec![0; 600])]).await;
    let mut watcher = store.watch("", Revision(now.0 - 1)).await.unwrap();
    assert!(matches!(event(&mut watcher).await, Ok(WatchEvent::Compacted(_))), "bytes count as well");
}

#[tokio::test]
async fn a_file_that_is_open_elsewhere_is_refused_in_words() {
    let (_dir, path) = place();
    let _store = Embedded::open(&path).unwrap();
    let Err(StoreError::Unavailable(words)) = Embedded::open(&path).map(|_| ()) else { panic!("opened twice") };
    assert!(words.contains("open in another process"), "{words}");
}

#[tokio::test]
async fn a_file_that_is_no_store_is_called_damaged() {
    let (_dir, path) = place();
    std::fs::write(&path, vec![b'x'; 1 << 20]).unwrap();
    let answer = Embedded::open(&path).map(|_| ());
    assert!(matches!(answer, Err(StoreError::Damaged(_))), "{answer:?}");
}

#[tokio::test]
async fn a_damaged_file_opens_or_is_refused_but_breaks_nothing() {
    let (dir, path) = place();
    let store = Embedded::open(&path).unwrap();
    filled(&*store).await;
    drop(store);
    let whole = std::fs::read(&path).unwrap();
    let copy = dir.path().join("copy.redb");
    let mut damaged = 0;
    for (round, at) in (0..whole.len().min(64 << 10)).step_by(509).enumerate() {
        let mut bytes = whole.clone();
        if round % 8 == 7 {
            bytes.truncate(at);
        } else {
            bytes[at..(at + 64).min(whole.len())].fill(0xa5);
        }
        std::fs::write(&copy, bytes).unwrap();
        damaged += u32::from(Embedded::open(&copy).is_err());
    }
    assert!(damaged > 0, "no damage was seen");
}

#[cfg(unix)]
#[tokio::test]
async fn nobody_else_may_read_the_file() {
    let (_dir, path) = place();
    let _store = Embedded::open(&path).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn dropping_the_store_ends_its_watches() {
    let store = Embedded::in_memory().unwrap();
    let mut watcher = store.watch("", Revision(1)).await.unwrap();
    drop(store);
    let ended = tokio::time::timeout(suite::PATIENCE, watcher.recv()).await;
    assert_eq!(ended.unwrap(), None);
}

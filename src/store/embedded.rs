//! The store inside this process: one redb file (or memory only), nothing to install.
//!
//! One thread writes. It takes all transactions that wait, applies them in one redb transaction, makes that durable with
//! one fsync, shows the result to readers and then answers. Readers see a copy in memory, so that a read never waits for
//! the disk.

mod disk;
mod mirror;
mod record;
mod writer;

#[cfg(test)]
mod tests;

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError, mpsc as std_mpsc},
    thread::JoinHandle,
    time::Duration,
};

use async_trait::async_trait;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    task::JoinSet,
    time::timeout,
};

use self::{
    disk::Disk,
    mirror::{Replay, Shared},
    writer::{Job, Task},
};
use super::{KeyValue, LeaseId, Listing, Store, StoreError, Transaction, TxnOutcome, WatchEvent, Watcher, limits};
use crate::model::Revision;

/// How long a call may take, waiting for its turn included.
const DEADLINE: Duration = Duration::from_secs(5);

/// Jobs that may wait for the writer; more callers wait for a place.
const QUEUE: usize = 1024;

/// Events that a watch holds for its reader.
const WATCH_BUFFER: usize = 64;

/// How much history a store keeps for watches that resume: so many revisions, and so many bytes of keys and values.
#[derive(Clone, Copy, Debug)]
pub(super) struct History {
    /// Revisions.
    pub(super) revisions: usize,
    /// Bytes, because history stands in memory too.
    pub(super) bytes: usize,
}

impl Default for History {
    fn default() -> Self {
        History { revisions: 10_000, bytes: 64 << 20 }
    }
}

/// The embedded store. Dropping it finishes what was begun, ends its watches and frees the file.
pub struct Embedded {
    shared: Arc<Shared>,
    places: Arc<Semaphore>,
    /// `None` only while it is dropped.
    jobs: Option<std_mpsc::SyncSender<Task>>,
    writer: Option<JoinHandle<()>>,
    watches: Mutex<JoinSet<()>>,
}

impl Embedded {
    /// Opens the file, or makes it (mode 0600). Reads it whole before it returns: call it at start.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if it cannot be read as a store, [`StoreError::Unavailable`] if it cannot be opened, for
    /// instance because another process has it open.
    pub fn open(path: &Path) -> Result<Arc<Self>, StoreError> {
        Self::open_keeping(path, History::default())
    }

    /// A store that is gone when it is dropped.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if the writer cannot be started.
    pub fn in_memory() -> Result<Arc<Self>, StoreError> {
        Self::in_memory_keeping(History::default())
    }

    pub(super) fn open_keeping(path: &Path, history: History) -> Result<Arc<Self>, StoreError> {
        let path = path.to_owned();
        Self::start(move || Disk::open(&path), history)
    }

    pub(super) fn in_memory_keeping(history: History) -> Result<Arc<Self>, StoreError> {
        Self::start(Disk::in_memory, history)
    }

    /// The writer opens the file itself: should redb panic over a damaged one, its thread ends and not ours.
    fn start(
        open: impl FnOnce() -> Result<Disk, StoreError> + Send + 'static,
        history: History,
    ) -> Result<Arc<Self>, StoreError> {
        let (ready, opened) = std_mpsc::sync_channel(1);
        let (jobs, queue) = std_mpsc::sync_channel(QUEUE);
        let writer = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || match open().and_then(|disk| writer::Writer::load(disk, history)) {
                Ok((writer, shared)) => {
                    if ready.send(Ok(shared)).is_ok() {
                        writer.run(&queue);
                    }
                }
                Err(error) => {
                    // The caller waits for exactly this message; it cannot be gone.
                    let _ = ready.send(Err(error));
                }
            })
            .map_err(|error| StoreError::Unavailable(format!("its writer cannot be started: {error}")))?;
        let shared =
            opened.recv().unwrap_or_else(|_| Err(StoreError::Damaged("the file breaks its reader".to_owned())))?;
        Ok(Arc::new(Embedded {
            shared,
            places: Arc::new(Semaphore::new(QUEUE)),
            jobs: Some(jobs),
            writer: Some(writer),
            watches: Mutex::new(JoinSet::new()),
        }))
    }

    /// Puts a job into the writer's queue and waits for its answer.
    async fn ask<T>(&self, job: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Job) -> Result<T, StoreError> {
        let asked = async {
            let place = self.places.clone().acquire_owned().await.map_err(|_| self.stopped())?;
            let (answer, answered) = oneshot::channel();
            let jobs = self.jobs.as_ref().ok_or_else(|| self.stopped())?;
            // With a place in hand this never blocks: there are as many places as the queue is long.
            jobs.send(Task { job: job(answer), _place: place }).map_err(|_| self.stopped())?;
            answered.await.map_err(|_| self.stopped())?
        };
        timeout(DEADLINE, asked)
            .await
            .unwrap_or_else(|_| Err(StoreError::Unavailable("the disk did not answer within 5 s".to_owned())))
    }

    fn stopped(&self) -> StoreError {
        self.shared.failure().unwrap_or_else(|| StoreError::Unavailable("the writer has stopped".to_owned()))
    }
}

/// A place in the queue, given back when the job is done.
type Place = OwnedSemaphorePermit;

impl Drop for Embedded {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(writer) = self.writer.take() {
            // A writer that panicked has said so already.
            let _ = writer.join();
        }
    }
}

#[async_trait]
impl Store for Embedded {
    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        Ok(self.shared.list(prefix))
    }

    async fn get(&self, key: &str) -> Result<Option<KeyValue>, StoreError> {
        Ok(self.shared.get(key))
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watcher, StoreError> {
        let now = self.shared.revision();
        if from.0 > now.0 + 1 {
            return Err(StoreError::Changed(format!("revision {from} was asked for, the store is at {now}")));
        }
        let (out, watcher) = mpsc::channel(WATCH_BUFFER);
        let mut watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
        while watches.try_join_next().is_some() {}
        watches.spawn(replay(self.shared.clone(), prefix.to_owned(), from, out));
        Ok(watcher)
    }

    async fn txn(&self, txn: Transaction) -> Result<TxnOutcome, StoreError> {
        limits::check(&txn)?;
        self.ask(|answer| Job::Txn(txn, answer)).await
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.ask(|answer| Job::Grant(ttl, answer)).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.ask(|answer| Job::KeepAlive(lease, answer)).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.ask(|answer| Job::Revoke(lease, answer)).await
    }
}

/// One watch: reads history from its own cursor, so that a slow reader slows itself only and loses nothing as long as
/// the history is kept.
async fn replay(
    shared: Arc<Shared>,
    prefix: String,
    from: Revision,
    out: mpsc::Sender<Result<WatchEvent, StoreError>>,
) {
    let mut moved = shared.subscribe();
    let mut next = from;
    let mut told = Revision(from.0.saturating_sub(1));
    loop {
        moved.borrow_and_update();
        let (batches, upto) = match shared.replay(&prefix, next) {
            Replay::Compacted(upto) => {
                // A reader that is gone needs no answer, here and below.
                let _ = out.send(Ok(WatchEvent::Compacted(upto))).await;
                return;
            }
            Replay::Batches(batches, upto) => (batches, upto),
        };
        for batch in batches {
            told = batch.revision;
            if out.send(Ok(WatchEvent::Batch(batch))).await.is_err() {
                return;
            }
        }
        if upto.0 >= next.0 {
            next = Revision(upto.0 + 1);
            continue;
        }
        if upto > told {
            told = upto;
            if out.send(Ok(WatchEvent::Progress(upto))).await.is_err() {
                return;
            }
        }
        if let Some(failure) = shared.failure() {
            let _ = out.send(Err(failure)).await;
            return;
        }
        tokio::select! {
            () = out.closed() => return,
            changed = moved.changed() => if changed.is_err() { return },
        }
    }
}

//! The one writer: takes what waits, applies it in one redb transaction, commits, shows it, answers.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use redb::{ReadableDatabase as _, ReadableTable as _, Table};
use tokio::sync::oneshot;

use super::{
    History, Place,
    disk::{COMPACTED, Disk, IDENTITY, KV, LAST_LEASE, LAYOUT, LAYOUT_KEY, LEASES, LOG, META, REVISION},
    mirror::{Mirror, Shared},
    record::{self, Entry, LogEntry},
};
use crate::{
    model::Revision,
    store::{Batch, Change, Compare, KeyValue, LeaseId, Op, StoreError, StoreId, Transaction, TxnOutcome},
};

/// Jobs that share one commit, at most.
const GROUP: usize = 128;

/// How often leases are looked at, at least.
const TICK: Duration = Duration::from_millis(500);

type Answer<T> = oneshot::Sender<Result<T, StoreError>>;

/// What the writer is asked for.
pub(super) enum Job {
    Txn(Transaction, Answer<TxnOutcome>),
    Grant(Duration, Answer<LeaseId>),
    KeepAlive(LeaseId, Answer<()>),
    Revoke(LeaseId, Answer<()>),
}

/// A job and its place in the queue.
pub(super) struct Task {
    pub(super) job: Job,
    pub(super) _place: Place,
}

#[derive(Debug)]
struct Lease {
    ttl: Duration,
    ends: Instant,
    keys: BTreeSet<String>,
}

/// The writer's state. The leases run ahead of the disk during a turn; should its commit fail, the writer stops.
pub(super) struct Writer {
    disk: Disk,
    history: History,
    shared: Arc<Shared>,
    leases: BTreeMap<LeaseId, Lease>,
    last_lease: i64,
}

impl Writer {
    /// Reads the whole file.
    pub(super) fn load(disk: Disk, history: History) -> Result<(Self, Arc<Shared>), StoreError> {
        prepare(&disk)?;
        let words = |error: redb::Error| disk.words(error);
        let read = disk.db.begin_read().map_err(|e| words(e.into()))?;
        let meta = read.open_table(META).map_err(|e| words(e.into()))?;
        let number = |name: &str| -> Result<u64, StoreError> {
            Ok(meta.get(name).map_err(|e| words(e.into()))?.map_or(0, |guard| guard.value()))
        };
        let layout = number(LAYOUT_KEY)?;
        if layout != LAYOUT {
            let name = &disk.name;
            return Err(StoreError::Damaged(format!("{name} has layout {layout}, this version reads {LAYOUT}")));
        }
        let now = Instant::now();
        let mut leases = BTreeMap::new();
        for row in read.open_table(LEASES).map_err(|e| words(e.into()))?.iter().map_err(|e| words(e.into()))? {
            let (id, seconds) = row.map_err(|e| words(e.into()))?;
            let ttl = Duration::from_secs(seconds.value());
            leases.insert(LeaseId(id.value()), Lease { ttl, ends: now + ttl, keys: BTreeSet::new() });
        }
        let mut mirror = Mirror::at(StoreId(number(IDENTITY)?), number(REVISION)?, number(COMPACTED)?);
        for row in read.open_table(KV).map_err(|e| words(e.into()))?.iter().map_err(|e| words(e.into()))? {
            let (key, value) = row.map_err(|e| words(e.into()))?;
            let key = key.value();
            let entry: Entry = record::read(value.value(), format_args!("the key {key:?}"))?;
            if let Some(lease) = leases.get_mut(&LeaseId(entry.lease)) {
                lease.keys.insert(key.to_owned());
            }
            mirror.put(entry.key_value(key));
        }
        let mut expected = mirror.compacted();
        for row in read.open_table(LOG).map_err(|e| words(e.into()))?.iter().map_err(|e| words(e.into()))? {
            let (revision, value) = row.map_err(|e| words(e.into()))?;
            let revision = revision.value();
            expected += 1;
            if revision != expected {
                return Err(StoreError::Damaged(format!("its history lacks revision {expected}")));
            }
            let entry: LogEntry = record::read(value.value(), format_args!("revision {revision}"))?;
            mirror.remember(entry.batch(revision));
        }
        if expected != mirror.revision() {
            let revision = mirror.revision();
            return Err(StoreError::Damaged(format!("its history ends at {expected}, the store is at {revision}")));
        }
        let last_lease = i64::try_from(number(LAST_LEASE)?).unwrap_or_default();
        drop(meta);
        drop(read);
        let shared = Arc::new(Shared::new(mirror));
        Ok((Writer { disk, history, shared: shared.clone(), leases, last_lease }, shared))
    }

    /// Works until nobody can ask any more, or until the disk fails.
    pub(super) fn run(mut self, queue: &Receiver<Task>) {
        loop {
            let first = match queue.recv_timeout(self.until_next_end(Instant::now())) {
                Ok(task) => Some(task),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let tasks: Vec<Task> = first.into_iter().chain(queue.try_iter().take(GROUP - 1)).collect();
            if let Err(error) = self.turn(tasks) {
                tracing::error!(%error, "the embedded store stops: a commit failed");
                self.shared.fail(error);
                return;
            }
        }
    }

    fn until_next_end(&self, now: Instant) -> Duration {
        let ends = self.leases.values().map(|lease| lease.ends).min();
        ends.map_or(TICK, |ends| ends.saturating_duration_since(now).min(TICK))
    }

    /// One commit. An error means that nothing of it is durable and that the disk cannot be trusted; a job that is
    /// merely refused gets its own answer.
    fn turn(&mut self, tasks: Vec<Task>) -> Result<(), StoreError> {
        let now = Instant::now();
        let mut answers: Vec<Box<dyn FnOnce()>> = Vec::with_capacity(tasks.len());
        let mut places = Vec::with_capacity(tasks.len());
        let mut writes = Vec::new();
        for Task { job, _place } in tasks {
            places.push(_place);
            match job {
                // Renewals first, and before ends: who asks in time is not punished for a slow disk.
                Job::KeepAlive(id, answer) => {
                    let renewed = self.leases.get_mut(&id).map(|lease| lease.ends = now + lease.ttl);
                    answers.push(Box::new(move || drop(answer.send(renewed.ok_or(StoreError::LeaseNotFound)))));
                }
                job => writes.push(job),
            }
        }
        let ended: Vec<LeaseId> =
            self.leases.iter().filter(|(_, lease)| lease.ends <= now).map(|(id, _)| *id).collect();
        if !writes.is_empty() || !ended.is_empty() {
            let txn = self.disk.db.begin_write().map_err(|e| self.disk.words(e))?;
            let (revision, compacted) = self.shared.with(|mirror| (mirror.revision(), mirror.compacted()));
            let (batches, revision) = {
                let mut apply = Apply {
                    disk: &self.disk,
                    kv: txn.open_table(KV).map_err(|e| self.disk.words(e))?,
                    leases: txn.open_table(LEASES).map_err(|e| self.disk.words(e))?,
                    held: &mut self.leases,
                    last_lease: &mut self.last_lease,
                    revision,
                    batches: Vec::new(),
                    now,
                };
                for job in writes {
                    answers.push(apply.job(job)?);
                }
                for id in ended {
                    apply.end(id)?;
                }
                (apply.batches, apply.revision)
            };
            let forget = self.shared.with(|mirror| mirror.surplus(&batches, self.history));
            self.log(&txn, &batches, revision, compacted..forget)?;
            txn.commit().map_err(|e| self.disk.words(e))?;
            if !batches.is_empty() {
                self.shared.publish(batches, forget);
            }
        }
        for answer in answers {
            answer();
        }
        Ok(())
    }

    /// Writes the history and the counters of a commit.
    fn log(
        &self,
        txn: &redb::WriteTransaction,
        batches: &[Batch],
        revision: u64,
        forget: std::ops::Range<u64>,
    ) -> Result<(), StoreError> {
        let mut log = txn.open_table(LOG).map_err(|e| self.disk.words(e))?;
        for batch in batches {
            let entry = prost::Message::encode_to_vec(&LogEntry::of(batch));
            log.insert(batch.revision.0, entry.as_slice()).map_err(|e| self.disk.words(e))?;
        }
        for revision in forget.start + 1..=forget.end {
            log.remove(revision).map_err(|e| self.disk.words(e))?;
        }
        let mut meta = txn.open_table(META).map_err(|e| self.disk.words(e))?;
        let last_lease = u64::try_from(self.last_lease).unwrap_or_default();
        for (name, number) in [(REVISION, revision), (COMPACTED, forget.end), (LAST_LEASE, last_lease)] {
            meta.insert(name, number).map_err(|e| self.disk.words(e))?;
        }
        Ok(())
    }
}

/// Makes the tables of a new file.
fn prepare(disk: &Disk) -> Result<(), StoreError> {
    let txn = disk.db.begin_write().map_err(|e| disk.words(e))?;
    {
        let mut meta = txn.open_table(META).map_err(|e| disk.words(e))?;
        if meta.get(LAYOUT_KEY).map_err(|e| disk.words(e))?.is_none() {
            meta.insert(LAYOUT_KEY, LAYOUT).map_err(|e| disk.words(e))?;
        }
        // Also in a file of a version that knew of none.
        if meta.get(IDENTITY).map_err(|e| disk.words(e))?.is_none() {
            meta.insert(IDENTITY, fastrand::u64(1..)).map_err(|e| disk.words(e))?;
        }
        txn.open_table(KV).map_err(|e| disk.words(e))?;
        txn.open_table(LOG).map_err(|e| disk.words(e))?;
        txn.open_table(LEASES).map_err(|e| disk.words(e))?;
    }
    txn.commit().map_err(|e| disk.words(e))
}

/// A commit in the making.
struct Apply<'a, 't> {
    disk: &'a Disk,
    kv: Table<'t, &'static str, &'static [u8]>,
    leases: Table<'t, i64, u64>,
    held: &'a mut BTreeMap<LeaseId, Lease>,
    last_lease: &'a mut i64,
    revision: u64,
    batches: Vec<Batch>,
    now: Instant,
}

impl Apply<'_, '_> {
    /// Does a job; what comes back tells the caller, once the commit is durable.
    fn job(&mut self, job: Job) -> Result<Box<dyn FnOnce()>, StoreError> {
        // A caller that has given up needs no answer: the sends may fail.
        Ok(match job {
            Job::Txn(txn, answer) => {
                let outcome = self.txn(txn)?;
                Box::new(move || drop(answer.send(outcome)))
            }
            Job::Grant(ttl, answer) => {
                let id = self.grant(ttl)?;
                Box::new(move || drop(answer.send(Ok(id))))
            }
            Job::Revoke(id, answer) => {
                let ended = if self.end(id)? { Ok(()) } else { Err(StoreError::LeaseNotFound) };
                Box::new(move || drop(answer.send(ended)))
            }
            Job::KeepAlive(id, answer) => {
                let known = if self.held.contains_key(&id) { Ok(()) } else { Err(StoreError::LeaseNotFound) };
                Box::new(move || drop(answer.send(known)))
            }
        })
    }

    fn entry(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        let found = self.kv.get(key).map_err(|e| self.disk.words(e))?;
        found.map(|guard| record::read(guard.value(), format_args!("the key {key:?}"))).transpose()
    }

    /// The outer error stops the store, the inner one answers this transaction.
    fn txn(&mut self, txn: Transaction) -> Result<Result<TxnOutcome, StoreError>, StoreError> {
        for compare in &txn.compares {
            let holds = match compare {
                Compare::ModRevision(key, at) => self.entry(key)?.map_or(0, |entry| entry.mod_revision) == at.0,
                Compare::CreateRevision(key, at) => self.entry(key)?.map_or(0, |entry| entry.create_revision) == at.0,
            };
            if !holds {
                return Ok(Ok(TxnOutcome::Conflict(Revision(self.revision))));
            }
        }
        let gone = |op: &Op| matches!(op, Op::Put { lease: Some(id), .. } if !self.held.contains_key(id));
        if txn.ops.iter().any(gone) {
            return Ok(Err(StoreError::LeaseNotFound));
        }
        let revision = self.revision + 1;
        let mut changes = Vec::new();
        for op in txn.ops {
            match op {
                Op::Put { key, value, lease } => {
                    let before = self.entry(&key)?;
                    self.detach(&key, before.as_ref());
                    if let Some(held) = lease.and_then(|id| self.held.get_mut(&id)) {
                        held.keys.insert(key.clone());
                    }
                    let entry = Entry {
                        value,
                        create_revision: before.map_or(revision, |entry| entry.create_revision),
                        mod_revision: revision,
                        lease: lease.map_or(0, |id| id.0),
                    };
                    let bytes = prost::Message::encode_to_vec(&entry);
                    self.kv.insert(key.as_str(), bytes.as_slice()).map_err(|e| self.disk.words(e))?;
                    let (create_revision, mod_revision) = (Revision(entry.create_revision), Revision(revision));
                    changes.push(Change::Put(KeyValue { key, value: entry.value, create_revision, mod_revision }));
                }
                Op::Delete { key } => {
                    if let Some(before) = self.entry(&key)? {
                        self.detach(&key, Some(&before));
                        self.kv.remove(key.as_str()).map_err(|e| self.disk.words(e))?;
                        changes.push(Change::Delete(key));
                    }
                }
            }
        }
        self.push(changes);
        Ok(Ok(TxnOutcome::Committed(Revision(self.revision))))
    }

    /// A revision is counted only where something changed, as in etcd.
    fn push(&mut self, changes: Vec<Change>) {
        if !changes.is_empty() {
            self.revision += 1;
            self.batches.push(Batch { revision: Revision(self.revision), changes });
        }
    }

    fn detach(&mut self, key: &str, entry: Option<&Entry>) {
        if let Some(held) = entry.and_then(|entry| self.held.get_mut(&LeaseId(entry.lease))) {
            held.keys.remove(key);
        }
    }

    fn grant(&mut self, ttl: Duration) -> Result<LeaseId, StoreError> {
        *self.last_lease += 1;
        let id = LeaseId(*self.last_lease);
        let seconds = crate::store::limits::lease_seconds(ttl);
        self.leases.insert(id.0, seconds).map_err(|e| self.disk.words(e))?;
        let ttl = Duration::from_secs(seconds);
        self.held.insert(id, Lease { ttl, ends: self.now + ttl, keys: BTreeSet::new() });
        Ok(id)
    }

    /// Ends a lease and deletes its keys, all at one revision. Says whether there was such a lease.
    fn end(&mut self, id: LeaseId) -> Result<bool, StoreError> {
        let Some(lease) = self.held.remove(&id) else { return Ok(false) };
        self.leases.remove(id.0).map_err(|e| self.disk.words(e))?;
        let mut changes = Vec::new();
        for key in lease.keys {
            self.kv.remove(key.as_str()).map_err(|e| self.disk.words(e))?;
            changes.push(Change::Delete(key));
        }
        self.push(changes);
        Ok(true)
    }
}

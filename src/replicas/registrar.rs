//! Keeps this replica registered, and its leadership if it is elected, for as long as its lease lives.
//!
//! The lease's life is counted on this machine's monotonic clock from before each renewal was sent, so that a leader
//! steps down no later than the store may give its place away.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep_until, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    Fence, Member, Members, Settings,
    departed::Departed,
    membership::{self, Seen},
    peers::Peers,
};
use crate::{
    model::{Keyspace, Revision},
    store::{self, Compare, Feed, LeaseId, Op, Store, StoreError, Transaction, TxnOutcome},
};

/// Messages of a followed prefix that may wait.
const FEED: usize = 64;
/// How long giving the lease up may take at a stop.
const FAREWELL: Duration = Duration::from_secs(1);

/// Where the registrar says what it knows.
pub(super) struct Told {
    pub(super) members: watch::Sender<Option<Arc<Members>>>,
    pub(super) leadership: watch::Sender<Option<Fence>>,
    pub(super) complaint: watch::Sender<Option<String>>,
    pub(super) peers: Arc<Peers>,
    pub(super) departed: Arc<Departed>,
}

/// A lease, and what it holds.
#[derive(Clone, Copy, Debug)]
struct Held {
    lease: LeaseId,
    /// Until when the store keeps it for certain.
    until: Instant,
    /// When the registration was written under it.
    registered: Option<Revision>,
}

pub(super) struct Registrar {
    name: Arc<str>,
    member: Member,
    ttl: Duration,
    store: Arc<dyn Store>,
    replicas_prefix: String,
    own_key: String,
    leader_key: String,
    told: Told,
    held: Option<Held>,
    leader: Seen,
    beat: Instant,
}

impl Registrar {
    pub(super) fn new(
        settings: &Settings,
        instance: &str,
        store: Arc<dyn Store>,
        keyspace: &Keyspace,
        told: Told,
    ) -> Self {
        let replicas_prefix = format!("{}replicas/", keyspace.observed());
        let member = Member {
            api: settings.advertise.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            instance: instance.to_owned(),
        };
        Self {
            name: Arc::clone(&settings.name),
            member,
            ttl: settings.ttl,
            store,
            own_key: format!("{replicas_prefix}{}", settings.name),
            replicas_prefix,
            leader_key: format!("{}leader", keyspace.observed()),
            told,
            held: None,
            leader: Seen::default(),
            beat: Instant::now(),
        }
    }

    pub(super) async fn run(mut self, cancel: CancellationToken) {
        let mut follows = JoinSet::new();
        let mut follow = |prefix: &str| {
            let (feed_in, feed) = mpsc::channel(FEED);
            follows.spawn(store::follow(Arc::clone(&self.store), prefix.to_owned(), cancel.clone(), feed_in));
            feed
        };
        // A store that nobody has read yet is waited for; when that takes too long, what is wrong will be said.
        let opened = tokio::time::timeout(self.ttl, self.store.opened());
        tokio::select! {
            () = cancel.cancelled() => return,
            _ = opened => self.beat = Instant::now(),
        }
        let (mut members, mut leader) = (follow(&self.replicas_prefix), follow(&self.leader_key));
        loop {
            tokio::select! {
                () = cancel.cancelled() => break,
                () = sleep_until(self.beat) => {
                    tokio::select! {
                        () = cancel.cancelled() => break,
                        () = self.renew() => {}
                    }
                }
                Some(feed) = members.recv() => self.take_members(&feed),
                Some(feed) = leader.recv() => self.take_leader(&feed),
            }
        }
        self.step_down("it stops");
        if let Some(held) = self.held {
            // Best effort: if it fails, the lease runs out.
            drop(tokio::time::timeout(FAREWELL, self.leave(held)).await);
        }
    }

    /// Gives the registration up in a way that tells others that this replica's proxies are gone with it.
    async fn leave(&self, held: Held) -> Result<(), StoreError> {
        if let Some(registered) = held.registered {
            let compare = Compare::ModRevision(self.own_key.clone(), registered);
            self.store.txn(self.put(&self.own_key, membership::FAREWELL.into(), held.lease, compare)).await?;
        }
        self.store.revoke(held.lease).await
    }

    fn take_members(&mut self, feed: &Feed) {
        let known = self.told.members.borrow().clone();
        if let Some(known) = &known {
            self.told.departed.note(known, &self.replicas_prefix, feed);
        }
        let Some(mut new) = membership::members(known.as_deref(), &self.replicas_prefix, feed) else { return };
        if let Some(Held { registered: at @ Some(_), .. }) = self.held {
            // What is read may be older than what was written.
            if membership::at(feed) < at || new.get(&self.name) == Some(&self.member) {
                new.insert(Arc::clone(&self.name), self.member.clone());
            } else {
                tracing::warn!(replica = %self.name, "somebody has taken the registration away; it is written anew");
                self.held = self.held.map(|held| Held { registered: None, ..held });
                self.beat = Instant::now();
            }
        }
        self.tell(new);
        if known.is_none() {
            // The candidacy has waited for this.
            self.beat = Instant::now();
        }
    }

    fn tell(&self, members: Members) {
        self.told.peers.retain(&members);
        self.told.members.send_if_modified(|known| {
            let differs = known.as_deref() != Some(&members);
            if differs {
                *known = Some(Arc::new(members));
            }
            differs
        });
    }

    fn take_leader(&mut self, feed: &Feed) {
        self.leader = membership::leader(self.leader, &self.leader_key, feed);
        let fence = self.told.leadership.borrow().clone();
        match fence {
            Some(fence)
                if self.leader.at >= fence.create_revision && self.leader.made != Some(fence.create_revision) =>
            {
                self.step_down("its leader key is gone");
                self.beat = Instant::now();
            }
            // The place is free.
            None if self.leader.made.is_none() => self.beat = Instant::now(),
            _ => {}
        }
    }

    /// One beat: the lease lives, the registration stands, and so does the candidacy; or it is said why not.
    async fn renew(&mut self) {
        let next = Instant::now() + self.ttl.mul_f64(0.3);
        if let Err(error) = self.stand().await {
            if matches!(error, StoreError::LeaseNotFound) {
                self.held = None;
            }
            let reason = format!("replica {} is not registered: {error}", self.name);
            self.complain(self.held.is_none_or(|held| held.until <= Instant::now()).then_some(reason));
        }
        if self.held.is_none_or(|held| held.until <= Instant::now()) {
            self.step_down("its lease was not renewed in time");
        }
        // A call that took long has eaten up the pause; one that failed at once has not.
        self.beat = next.max(Instant::now() + self.ttl.mul_f64(0.02));
    }

    /// Whichever of lease, registration and leadership is missing is asked for.
    async fn stand(&mut self) -> Result<(), StoreError> {
        let held = self.lease().await?;
        let held = match held.registered {
            Some(_) => held,
            None => match self.register(held).await? {
                Some(registered) => {
                    let held = Held { registered: Some(registered), ..held };
                    self.held = Some(held);
                    let known = self.told.members.borrow().clone();
                    if let Some(mut members) = known.map(Arc::unwrap_or_clone) {
                        members.insert(Arc::clone(&self.name), self.member.clone());
                        self.tell(members);
                    }
                    held
                }
                None => return Ok(()),
            },
        };
        self.complain(None);
        // Who does not know whom to ask can conclude nothing, so it does not lead.
        let knows = self.told.members.borrow().is_some();
        if knows && self.told.leadership.borrow().is_none() {
            self.campaign(held).await?;
        }
        Ok(())
    }

    async fn lease(&mut self) -> Result<Held, StoreError> {
        let sent = Instant::now();
        if let Some(held) = self.held {
            match self.within(self.store.keep_alive(held.lease)).await {
                Ok(()) => {
                    let held = Held { until: sent + self.ttl, ..held };
                    self.held = Some(held);
                    return Ok(held);
                }
                Err(StoreError::LeaseNotFound) => {
                    self.held = None;
                    self.step_down("its lease has ended");
                }
                Err(error) => return Err(error),
            }
        }
        let sent = Instant::now();
        let lease = self.within(self.store.grant(self.ttl)).await?;
        let held = Held { lease, until: sent + self.ttl, registered: None };
        self.held = Some(held);
        Ok(held)
    }

    /// Writes the registration where none stands, or one of this very process; `None`: another one has the name.
    async fn register(&mut self, held: Held) -> Result<Option<Revision>, StoreError> {
        let standing = self.within(self.store.get(&self.own_key)).await?;
        if let Some(other) = standing.as_ref().map(|kv| membership::parse(&kv.value))
            && other.instance != self.member.instance
        {
            let at = if other.api.is_empty() { "an unknown address" } else { &other.api };
            self.complain(Some(format!(
                "replica {} is not registered: another process at {at} has that name; give each replica its own \
                 (--replica). After a crash the name is free again within {:?}",
                self.name, self.ttl
            )));
            return Ok(None);
        }
        let seen = standing.map_or(Revision(0), |kv| kv.mod_revision);
        let compare = Compare::ModRevision(self.own_key.clone(), seen);
        let txn = self.put(&self.own_key, membership::value(&self.member).into(), held.lease, compare);
        Ok(match self.within(self.store.txn(txn)).await? {
            TxnOutcome::Committed(revision) => Some(revision),
            TxnOutcome::Conflict(_) => None,
        })
    }

    /// Makes the leader key if there is none; finds it made where the answer to an earlier attempt was lost.
    async fn campaign(&mut self, held: Held) -> Result<(), StoreError> {
        let compare = Compare::CreateRevision(self.leader_key.clone(), Revision(0));
        // A name alone could be that of another process.
        let value = Bytes::from(format!("{} {}", self.name, self.member.instance));
        let txn = self.put(&self.leader_key, value.clone(), held.lease, compare);
        let made = match self.within(self.store.txn(txn)).await? {
            TxnOutcome::Committed(revision) => Some(revision),
            TxnOutcome::Conflict(_) => {
                let standing = self.within(self.store.get(&self.leader_key)).await?;
                standing.filter(|kv| kv.value == value).map(|kv| kv.create_revision)
            }
        };
        if let Some(create_revision) = made.filter(|_| held.until > Instant::now()) {
            tracing::info!(replica = %self.name, revision = %create_revision, "this replica leads");
            let fence = Fence { key: self.leader_key.clone(), create_revision };
            self.told.leadership.send_replace(Some(fence));
        }
        Ok(())
    }

    fn put(&self, key: &str, value: Bytes, lease: LeaseId, compare: Compare) -> Transaction {
        let op = Op::Put { key: key.to_owned(), value, lease: Some(lease) };
        Transaction { compares: vec![compare], ops: vec![op] }
    }

    /// Waits for a third of the lease's life at most, and never beyond the end of what is held.
    async fn within<T>(&self, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        let now = Instant::now();
        let patience = now + self.ttl / 3;
        let end = self.held.map(|held| held.until).filter(|until| *until > now).map_or(patience, |u| u.min(patience));
        let late = || StoreError::Unavailable("it did not answer in time".to_owned());
        timeout_at(end, call).await.unwrap_or_else(|_| Err(late()))
    }

    fn step_down(&self, why: &str) {
        self.told.leadership.send_if_modified(|fence| {
            let led = fence.take().is_some();
            if led {
                tracing::info!(replica = %self.name, why, "this replica no longer leads");
            }
            led
        });
    }

    fn complain(&self, complaint: Option<String>) {
        self.told.complaint.send_if_modified(|known| {
            let differs = *known != complaint;
            if differs {
                if let Some(complaint) = &complaint {
                    tracing::warn!("{complaint}");
                }
                *known = complaint;
            }
            differs
        });
    }
}

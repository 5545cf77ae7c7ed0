//! The store in etcd, the production one: etcd ≥ 3.4, its v3 API, one transaction of ours is one of its own.
//!
//! The client library retries nothing, waits for ever and trusts what it is told; deadlines, paging, whole revisions and
//! the question "is this still the same store?" stand here.

mod pump;
#[cfg(test)]
pub(super) mod server;
mod wire;

#[cfg(test)]
mod tests;

use std::{
    future::Future,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use etcd_client::{
    Certificate, Client, ConnectOptions, GetOptions, Identity, PutOptions, ResponseHeader, TlsOptions, WatchOptions,
};
use tokio::{
    sync::{OnceCell, mpsc},
    task::JoinSet,
    time::timeout,
};

use super::{
    KeyValue, LeaseId, Listing, Store, StoreError, StoreId, Transaction, TxnOutcome, WatchEvent, Watcher, limits,
};
use crate::model::Revision;

/// How long a call may take; a listing: each of its pages.
const DEADLINE: Duration = Duration::from_secs(5);

/// Keep-alive pings of the connection. etcd refuses clients that ping more often than every 5 s.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));

/// The largest answer that is taken. A page that is larger is asked for again in smaller ones.
const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// Keys of a page.
const PAGE: i64 = 1000;

/// Events that a watch holds for its reader; more wait in etcd.
const WATCH_BUFFER: usize = 64;

/// Where etcd is, and who we are to it.
#[derive(Clone, Default)]
pub struct EtcdConfig {
    /// `http://host:2379` or `https://…`, any number of members of one cluster.
    pub endpoints: Vec<String>,
    /// PEM of the authorities that etcd's certificate may come from.
    pub ca: Option<Vec<u8>>,
    /// PEM of our certificate; with `key`.
    pub cert: Option<Vec<u8>>,
    /// PEM of its key.
    pub key: Option<Vec<u8>>,
    /// With `password`; a client certificate is better, since tokens end at bad moments.
    pub user: Option<String>,
    /// The password.
    pub password: Option<String>,
}

impl std::fmt::Debug for EtcdConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Neither key nor password: this ends up in logs.
        f.debug_struct("EtcdConfig")
            .field("endpoints", &self.endpoints)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

impl EtcdConfig {
    fn options(&self) -> ConnectOptions {
        let mut options = ConnectOptions::new()
            .with_connect_timeout(DEADLINE)
            .with_keep_alive(KEEP_ALIVE.0, KEEP_ALIVE.1)
            .with_keep_alive_while_idle(true)
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        if self.ca.is_some() || self.cert.is_some() {
            let mut tls = TlsOptions::new();
            if let Some(ca) = &self.ca {
                tls = tls.ca_certificate(Certificate::from_pem(ca));
            }
            if let (Some(cert), Some(key)) = (&self.cert, &self.key) {
                tls = tls.identity(Identity::from_pem(cert, key));
            }
            options = options.with_tls(tls);
        }
        options
    }
}

/// Which store answers, so that another one, or an older state of it, is noticed.
#[derive(Debug, Default)]
struct Seen {
    cluster: Option<u64>,
    revision: i64,
}

/// The etcd store. Connects when it is first asked, and again by itself.
///
/// It asks one member and moves on to the next when that one fails. The library would pick one by chance for each call,
/// one that is down or stands still as readily as the others.
pub struct Etcd {
    config: EtcdConfig,
    /// One for each endpoint.
    clients: Vec<OnceCell<Client>>,
    /// Which of them is asked, counted on without end.
    current: AtomicUsize,
    seen: Arc<Mutex<Seen>>,
    watches: Mutex<JoinSet<()>>,
}

impl Etcd {
    /// Checks the configuration; connects later, so that etcd may be away.
    ///
    /// # Errors
    /// [`StoreError::Refused`] when the configuration cannot be used.
    pub async fn connect(config: EtcdConfig) -> Result<Arc<Self>, StoreError> {
        if config.cert.is_some() != config.key.is_some() {
            return Err(StoreError::Refused(
                "a client certificate needs its key, and a key its certificate".to_owned(),
            ));
        }
        if config.user.is_some() != config.password.is_some() {
            return Err(StoreError::Refused("a user needs a password, and a password a user".to_owned()));
        }
        if config.ca.is_none() && config.endpoints.iter().any(|endpoint| endpoint.starts_with("https://")) {
            return Err(StoreError::Refused("an https endpoint needs the authorities of its certificate".to_owned()));
        }
        if config.endpoints.is_empty() {
            return Err(StoreError::Refused("etcd needs an endpoint".to_owned()));
        }
        let unusable = |error| StoreError::Refused(format!("the configuration of etcd cannot be used: {error}"));
        let mut clients = Vec::new();
        for endpoint in &config.endpoints {
            let client = Client::connect([endpoint], Some(config.options())).await.map_err(unusable)?;
            // With a user the client asks for a token at once, which waits until etcd is needed.
            clients.push(if config.user.is_none() { OnceCell::new_with(Some(client)) } else { OnceCell::new() });
        }
        // Replicas are spread over the members.
        let current = AtomicUsize::new(fastrand::usize(..clients.len()));
        Ok(Arc::new(Etcd { config, clients, current, seen: Arc::default(), watches: Mutex::default() }))
    }

    /// The client of the member whose turn it is.
    async fn client(&self, turn: usize) -> Result<Client, etcd_client::Error> {
        let member = turn % self.clients.len();
        let absent = || etcd_client::Error::InvalidArgs("etcd needs an endpoint".to_owned());
        let (client, endpoint) = self.clients.get(member).zip(self.config.endpoints.get(member)).ok_or_else(absent)?;
        let connect = || async {
            let mut options = self.config.options();
            if let (Some(user), Some(password)) = (&self.config.user, &self.config.password) {
                options = options.with_user(user, password);
            }
            Client::connect([endpoint], Some(options)).await
        };
        client.get_or_try_init(connect).await.cloned()
    }

    /// Gives up the member whose turn it was, once however many calls found it wanting; whose turn it is now.
    fn move_on(&self, turn: usize) -> usize {
        let next = turn.wrapping_add(1);
        self.current.compare_exchange(turn, next, Ordering::Relaxed, Ordering::Relaxed).map_or_else(|now| now, |_| next)
    }

    /// One call of one member, and a new token if it was refused for its old one.
    async fn ask<T, F>(&self, turn: usize, call: impl FnOnce(Client) -> F + Send) -> Result<T, etcd_client::Error>
    where
        F: Future<Output = Result<T, etcd_client::Error>> + Send,
    {
        let client = self.client(turn).await?;
        let answer = call(client.clone()).await;
        if let Err(error) = &answer
            && wire::is_old_token(error)
        {
            // The next attempt has the new token, if there is one; this one is the caller's to repeat.
            let _ = client.refresh_token().await;
        }
        answer
    }

    /// One call with its deadline, and its error in words. Another member is asked only where nothing was sent to one;
    /// after any other failure it is the next call that asks another.
    async fn call<T, F>(&self, call: impl FnOnce(Client) -> F + Clone + Send) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, etcd_client::Error>> + Send,
    {
        let mut turn = self.current.load(Ordering::Relaxed);
        let attempt = async {
            for _ in 1..self.clients.len() {
                match self.ask(turn, call.clone()).await {
                    Err(error) if wire::was_not_sent(&error) => turn = self.move_on(turn),
                    answer => return answer,
                }
            }
            self.ask(turn, call).await
        };
        let answer = match timeout(DEADLINE, attempt).await {
            Err(_) => Err(StoreError::Unavailable("etcd did not answer within 5 s".to_owned())),
            Ok(answer) => answer.map_err(|error| wire::words(&error)),
        };
        if let Err(StoreError::Unavailable(_)) = answer {
            self.move_on(turn);
        }
        answer
    }

    /// The highest revision seen. What is asked after this can only be answered with this or a higher one.
    fn floor(&self) -> i64 {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).revision
    }

    /// Holds a linearizable answer against what was seen before it was asked for.
    fn same_store(&self, header: Option<&ResponseHeader>, floor: i64) -> Result<Revision, StoreError> {
        let header = header.ok_or_else(|| StoreError::Damaged("an answer of etcd has no header".to_owned()))?;
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let cluster = *seen.cluster.get_or_insert(header.cluster_id());
        if cluster != header.cluster_id() {
            let now = header.cluster_id();
            return Err(StoreError::Changed(format!("the cluster's id is {now:x}, it was {cluster:x}")));
        }
        if header.revision() < floor {
            return Err(StoreError::Changed(format!("it is at revision {}, it was at {floor}", header.revision())));
        }
        seen.revision = seen.revision.max(header.revision());
        Ok(wire::revision(header.revision()))
    }

    /// All pages at the revision of the first. `Ok(None)`: that revision was compacted meanwhile.
    async fn list_once(&self, prefix: &str) -> Result<Option<Listing>, StoreError> {
        let (mut key, end) = wire::range(prefix);
        let mut limit = PAGE;
        let mut at = None;
        let mut entries = Vec::new();
        loop {
            let mut options = GetOptions::new().with_range(end.clone()).with_limit(limit);
            if let Some(Revision(revision)) = at {
                options = options.with_revision(revision.cast_signed());
            }
            let floor = self.floor();
            let ask = key.clone();
            let page = self
                .call(|client| async move {
                    let mut kv = client.kv_client().max_decoding_message_size(MAX_MESSAGE_BYTES);
                    match kv.get(ask, Some(options)).await {
                        Ok(page) => Ok(Ok(page)),
                        Err(error) if wire::is_compacted(&error) => Ok(Err(PageError::Compacted)),
                        Err(error) if wire::is_too_large(&error) && limit > 1 => Ok(Err(PageError::TooLarge)),
                        Err(error) => Err(error),
                    }
                })
                .await?;
            let mut page = match page {
                Ok(page) => page,
                Err(PageError::Compacted) => return Ok(None),
                Err(PageError::TooLarge) => {
                    limit = (limit / 8).max(1);
                    continue;
                }
            };
            let now = self.same_store(page.header(), floor)?;
            at.get_or_insert(now);
            let store = StoreId(page.header().map_or(0, ResponseHeader::cluster_id));
            let more = page.more();
            let kvs = page.take_kvs();
            if let Some(last) = kvs.last() {
                key = last.key().to_vec();
                key.push(0);
            }
            let empty = kvs.is_empty();
            entries.extend(kvs.into_iter().filter_map(wire::key_value));
            if !more || empty {
                return Ok(Some(Listing { store, revision: at.unwrap_or(now), entries }));
            }
        }
    }
}

/// Why a page has to be asked for again.
enum PageError {
    Compacted,
    TooLarge,
}

#[async_trait]
impl Store for Etcd {
    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        // Compaction happens every few minutes: twice during one listing is already strange.
        for _ in 0..3 {
            if let Some(listing) = self.list_once(prefix).await? {
                return Ok(listing);
            }
        }
        Err(StoreError::Unavailable("history is compacted faster than it can be listed".to_owned()))
    }

    async fn get(&self, key: &str) -> Result<Option<KeyValue>, StoreError> {
        let floor = self.floor();
        let mut found = self
            .call(|client| async move {
                client.kv_client().max_decoding_message_size(MAX_MESSAGE_BYTES).get(key, None).await
            })
            .await?;
        self.same_store(found.header(), floor)?;
        Ok(found.take_kvs().into_iter().find_map(wire::key_value))
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watcher, StoreError> {
        // etcd takes a watch from the future and is silent, so the (linearizable) revision is asked for first.
        let floor = self.floor();
        let (key, end) = wire::range(prefix);
        let probe = GetOptions::new().with_count_only();
        let ask = key.clone();
        let now = self.call(|client| async move { client.kv_client().get(ask, Some(probe)).await }).await?;
        let now = self.same_store(now.header(), floor)?;
        if from.0 > now.0 + 1 {
            return Err(StoreError::Changed(format!("revision {from} was asked for, the store is at {now}")));
        }
        let options = WatchOptions::new()
            .with_range(end)
            // One revision early, which is dropped again: before 3.5.18 an etcd whose history was compacted up to the
            // very revision that is asked for says nothing, and leaves out what that revision deleted. To etcd 0 means
            // "from now on", and there is nothing before 1.
            .with_start_revision(from.0.saturating_sub(1).max(1).cast_signed())
            .with_fragment()
            .with_progress_notify();
        let stream = self
            .call(|client| async move {
                client.watch_client().max_decoding_message_size(MAX_MESSAGE_BYTES).watch(key, Some(options)).await
            })
            .await?;
        let cluster = self.seen.lock().unwrap_or_else(PoisonError::into_inner).cluster;
        let (out, watcher) = mpsc::channel::<Result<WatchEvent, StoreError>>(WATCH_BUFFER);
        let pump = pump::Pump::new(stream, out, cluster, from);
        let mut watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
        while watches.try_join_next().is_some() {}
        watches.spawn(pump.run());
        Ok(watcher)
    }

    async fn txn(&self, txn: Transaction) -> Result<TxnOutcome, StoreError> {
        limits::check(&txn)?;
        let floor = self.floor();
        let txn = wire::txn(txn);
        let answer = self.call(|client| async move { client.kv_client().txn(txn).await }).await?;
        let revision = self.same_store(answer.header(), floor)?;
        Ok(if answer.succeeded() { TxnOutcome::Committed(revision) } else { TxnOutcome::Conflict(revision) })
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        let seconds = limits::lease_seconds(ttl).cast_signed();
        let granted = self.call(|client| async move { client.lease_client().grant(seconds, None).await }).await?;
        Ok(LeaseId(granted.id()))
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        // The library sends one renewal and waits for its answer; the stream ends with the pair.
        self.call(|client| async move { client.lease_client().keep_alive(lease.0).await.map(|_| ()) }).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.call(|client| async move { client.lease_client().revoke(lease.0).await.map(|_| ()) }).await
    }

    fn adopt(&self) {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Seen::default();
    }
}

//! Who leads, who steps down, who is known; on one embedded store that all share, and on its faults.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use async_trait::async_trait;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::task::JoinSet;
use tonic::codegen::Service;

use super::*;
use crate::store::{
    Change, Embedded, Feed, KeyValue, LeaseId, Listing, Op, StoreError, Transaction, TxnOutcome, Watcher,
};

const TTL: Duration = Duration::from_secs(1);
const LIMIT: Duration = Duration::from_secs(20);

/// A way to a store that can be cut.
struct Link {
    store: Arc<dyn Store>,
    cut: AtomicBool,
}

impl Link {
    fn open(&self) -> Result<&Arc<dyn Store>, StoreError> {
        if self.cut.load(Ordering::Relaxed) { Err(StoreError::Unavailable("cut".into())) } else { Ok(&self.store) }
    }
}

#[async_trait]
impl Store for Link {
    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        self.open()?.list(prefix).await
    }
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, StoreError> {
        self.open()?.get(key).await
    }
    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watcher, StoreError> {
        self.open()?.watch(prefix, from).await
    }
    async fn txn(&self, txn: Transaction) -> Result<TxnOutcome, StoreError> {
        self.open()?.txn(txn).await
    }
    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.open()?.grant(ttl).await
    }
    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.open()?.keep_alive(lease).await
    }
    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.open()?.revoke(lease).await
    }
}

/// A replica, and its tasks.
struct Joined {
    replicas: Replicas,
    link: Arc<Link>,
    cancel: CancellationToken,
    tasks: JoinSet<()>,
}

fn join(store: &Arc<dyn Store>, name: &str, advertise: &str) -> Joined {
    let link = Arc::new(Link { store: Arc::clone(store), cut: AtomicBool::new(false) });
    let settings = Settings { name: name.into(), advertise: advertise.into(), caution: None, ttl: TTL, tls: None };
    let cancel = CancellationToken::new();
    let through: Arc<dyn Store> = Arc::clone(&link) as Arc<dyn Store>;
    let (replicas, run) = Replicas::join(settings, through, &Keyspace::default(), cancel.clone());
    let mut tasks = JoinSet::new();
    tasks.spawn(run);
    Joined { replicas, link, cancel, tasks }
}

impl Joined {
    fn fence(&self) -> Option<Fence> {
        self.replicas.leadership().borrow().clone()
    }

    fn knows(&self) -> Vec<String> {
        self.replicas.members().borrow().iter().flat_map(|all| all.keys()).map(ToString::to_string).collect()
    }

    async fn leads(&self) -> Fence {
        let mut leadership = self.replicas.leadership();
        let fence = tokio::time::timeout(LIMIT, leadership.wait_for(Option::is_some)).await.unwrap().unwrap().clone();
        fence.unwrap()
    }
}

async fn until(what: &str, done: impl Fn() -> bool) {
    let end = Instant::now() + LIMIT;
    while !done() {
        assert!(Instant::now() < end, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn shared() -> Arc<dyn Store> {
    Embedded::in_memory().unwrap()
}

async fn write(store: &Arc<dyn Store>, fence: &Fence) -> TxnOutcome {
    let op = Op::Put { key: "/x".into(), value: "1".into(), lease: None };
    store.txn(Transaction { compares: vec![fence.compare()], ops: vec![op] }).await.unwrap()
}

#[tokio::test]
async fn one_of_three_leads_and_hands_over_at_once_when_it_stops() {
    let store = shared();
    let mut all = vec![join(&store, "a", "h:1"), join(&store, "b", "h:2"), join(&store, "c", "h:3")];
    until("all know all", || all.iter().all(|one| one.knows() == ["a", "b", "c"])).await;
    until("one leads", || all.iter().filter(|one| one.fence().is_some()).count() == 1).await;
    let at = all.iter().position(|one| one.fence().is_some()).unwrap();
    let mut leader = all.remove(at);
    let fence = leader.fence().unwrap();
    assert!(matches!(write(&store, &fence).await, TxnOutcome::Committed(_)));
    assert_eq!(leader.replicas.others().unwrap().len(), 2);

    let began = Instant::now();
    leader.cancel.cancel();
    leader.tasks.join_next().await.unwrap().unwrap();
    until("another leads", || all.iter().any(|one| one.fence().is_some())).await;
    assert!(began.elapsed() < TTL, "it waited for the lease: {:?}", began.elapsed());
    assert!(matches!(write(&store, &fence).await, TxnOutcome::Conflict(_)), "the old fence opens nothing");
    until("it is forgotten", || all.iter().all(|one| one.knows().len() == 2)).await;
}

#[tokio::test]
async fn a_leader_that_cannot_renew_steps_down_by_itself_and_comes_back_as_a_follower() {
    let store = shared();
    let first = join(&store, "a", "h:1");
    let fence = first.leads().await;
    let second = join(&store, "b", "h:2");
    until("both are known", || first.knows().len() == 2).await;

    let began = Instant::now();
    first.link.cut.store(true, Ordering::Relaxed);
    until("it steps down", || first.fence().is_none()).await;
    assert!(began.elapsed() < TTL + TTL / 2, "{:?}", began.elapsed());
    assert!(first.knows().contains(&"b".to_owned()), "the last known replicas stand");
    let new = second.leads().await;
    assert!(new.create_revision > fence.create_revision);
    assert!(matches!(write(&store, &fence).await, TxnOutcome::Conflict(_)));
    assert!(matches!(write(&store, &new).await, TxnOutcome::Committed(_)));
    until("it says why", || first.replicas.complaint().is_some_and(|why| why.contains("cut"))).await;

    first.link.cut.store(false, Ordering::Relaxed);
    until("it is registered again", || second.knows() == ["a", "b"] && first.replicas.complaint().is_none()).await;
    assert_eq!((first.fence(), second.fence()), (None, Some(new)));
}

#[tokio::test]
async fn a_leader_key_that_somebody_deletes_costs_the_office_and_is_fought_for_anew() {
    let store = shared();
    let one = join(&store, "a", "h:1");
    let fence = one.leads().await;
    let op = Op::Delete { key: fence.key.clone() };
    store.txn(Transaction { compares: vec![], ops: vec![op] }).await.unwrap();
    until("it leads anew", || one.fence().is_some_and(|new| new.create_revision > fence.create_revision)).await;
}

#[tokio::test]
async fn a_second_process_of_one_name_says_so_and_asks_the_first() {
    let store = shared();
    let first = join(&store, "a", "h:1");
    first.leads().await;
    let second = join(&store, "a", "h:2");
    until("it says so", || second.replicas.complaint().is_some_and(|why| why.contains("--replica"))).await;
    let asked: Vec<String> = second.replicas.others().unwrap().into_iter().map(|(_, member)| member.api).collect();
    assert_eq!(asked, ["h:1"]);
    assert_eq!(first.replicas.others(), Some(vec![]));
    assert_eq!((first.replicas.complaint(), second.fence()), (None, None));
    assert_eq!((first.replicas.registered(), second.replicas.registered()), (true, false));
}

async fn delete(store: &Arc<dyn Store>, key: &str) {
    let op = Op::Delete { key: key.to_owned() };
    store.txn(Transaction { compares: vec![], ops: vec![op] }).await.unwrap();
}

#[tokio::test]
async fn a_registration_that_somebody_deletes_or_writes_over_is_written_anew_at_once() {
    let store = shared();
    let (a, b) = (join(&store, "a", "h:1"), join(&store, "b", "h:2"));
    until("both know both", || a.knows() == ["a", "b"] && b.knows() == ["a", "b"]).await;
    let key = "/tidegate/observed/v1/replicas/a";
    let standing = store.get(key).await.unwrap().unwrap();
    let anew = async |after: Revision| {
        let end = Instant::now() + TTL / 4;
        loop {
            let new = store.get(key).await.unwrap().filter(|kv| kv.mod_revision > after && kv.value == standing.value);
            if let Some(new) = new {
                return new.mod_revision;
            }
            assert!(Instant::now() < end, "it waits for a beat, or for ever");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    delete(&store, key).await;
    let at = anew(standing.mod_revision).await;
    until("it is known again", || b.replicas.others().unwrap().len() == 1 && b.knows() == ["a", "b"]).await;

    // Of this process, and wrong.
    let value = String::from_utf8(standing.value.to_vec()).unwrap().replace("h:1", "h:9");
    let op = Op::Put { key: key.into(), value: value.into(), lease: None };
    let TxnOutcome::Committed(wrong) = store.txn(Transaction { compares: vec![], ops: vec![op] }).await.unwrap() else {
        panic!("a write without a condition is refused")
    };
    assert!(anew(wrong).await > at);

    // Of another process: it says so, and comes back when that one goes.
    let op = Op::Put { key: key.into(), value: "{}".into(), lease: None };
    store.txn(Transaction { compares: vec![], ops: vec![op] }).await.unwrap();
    until("it says so", || a.replicas.complaint().is_some_and(|why| why.contains("another process"))).await;
    delete(&store, key).await;
    until("it is registered again", || a.replicas.complaint().is_none()).await;
}

#[tokio::test]
async fn a_leader_key_of_another_process_of_this_name_is_no_office() {
    let store = shared();
    let op = Op::Put { key: "/tidegate/observed/v1/leader".into(), value: "a".into(), lease: None };
    store.txn(Transaction { compares: vec![], ops: vec![op.clone()] }).await.unwrap();
    let one = join(&store, "a", "h:1");
    until("it is registered", || one.knows() == ["a"]).await;
    tokio::time::sleep(TTL / 2).await;
    assert_eq!(one.fence(), None);
    delete(&store, "/tidegate/observed/v1/leader").await;
    let fence = one.leads().await;
    let value = store.get(&fence.key).await.unwrap().unwrap().value;
    assert_eq!(value, format!("a {}", one.replicas.instance));
}

/// A store that answers everything, but lists no replicas.
struct Mute(Arc<dyn Store>);

#[async_trait]
impl Store for Mute {
    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        if prefix.ends_with("replicas/") { std::future::pending().await } else { self.0.list(prefix).await }
    }
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, StoreError> {
        self.0.get(key).await
    }
    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watcher, StoreError> {
        self.0.watch(prefix, from).await
    }
    async fn txn(&self, txn: Transaction) -> Result<TxnOutcome, StoreError> {
        self.0.txn(txn).await
    }
    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.0.grant(ttl).await
    }
    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.0.keep_alive(lease).await
    }
    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.0.revoke(lease).await
    }
}

#[tokio::test]
async fn who_does_not_know_the_others_yet_says_so_and_does_not_lead() {
    let store = shared();
    let mute: Arc<dyn Store> = Arc::new(Mute(Arc::clone(&store)));
    let one = join(&mute, "a", "h:1");
    assert_eq!(one.replicas.others(), None);
    let asked = one.replicas.standings(&[], Report::default()).await;
    assert!(asked.unreachable()[0].starts_with("the other replicas: they are not known yet"), "{asked:?}");
    let key = "/tidegate/observed/v1/replicas/a";
    let end = Instant::now() + LIMIT;
    while store.get(key).await.unwrap().is_none() {
        assert!(Instant::now() < end, "it is registered all the same");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(TTL / 2).await;
    assert_eq!((one.fence(), one.replicas.others()), (None, None));
}

#[tokio::test]
async fn a_replica_that_does_not_answer_is_named_with_the_reason() {
    let store = shared();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = listener.local_addr().unwrap().to_string();
    drop(listener);
    let one = join(&store, "a", "h:1");
    let (_two, _three) = (join(&store, "b", &closed), join(&store, "c", ""));
    until("all are known", || one.knows().len() == 3).await;
    let asked = one.replicas.standings(&[], Report { revision: Revision(7), ..Report::default() }).await;
    let named = asked.unreachable();
    assert!(named[0].starts_with("b: ") && named[0].contains("refused"), "{named:?}");
    assert!(named[1].starts_with("c: ") && named[1].contains("--advertise"), "{named:?}");
    assert_eq!((named.len(), asked.slowest), (2, ("a".into(), Revision(7))));
}

#[test]
fn registrations_are_read_tolerantly_and_outages_change_nothing() {
    let prefix = "/r/";
    let entry = |key: &str, value: &str| KeyValue {
        key: key.into(),
        value: value.to_owned().into(),
        create_revision: Revision(1),
        mod_revision: Revision(1),
    };
    let entries = vec![
        entry("/r/a", r#"{"api":"h:1","version":"9","more":[]}"#),
        entry("/r/b", "garbage"),
        entry("/r/c/d", "{}"),
        entry("/r/", "{}"),
    ];
    let listing = Feed::Reset(Listing { revision: Revision(3), entries, ..Listing::default() });
    let known = membership::members(None, prefix, &listing).unwrap();
    let apis: Vec<_> = known.iter().map(|(name, member)| (&**name, member.api.as_str())).collect();
    assert_eq!(apis, [("a", "h:1"), ("b", "")]);
    assert_eq!(membership::members(Some(&known), prefix, &listing), None);
    assert_eq!(membership::members(Some(&known), prefix, &Feed::Down { reason: String::new() }), None);
    let batch = crate::store::Batch { revision: Revision(4), changes: vec![Change::Delete("/r/b".into())] };
    assert_eq!(membership::members(Some(&known), prefix, &Feed::Batch(batch)).unwrap().len(), 1);
    let many = (0..300).map(|n| entry(&format!("/r/{n:03}"), "{}")).collect();
    let flood = Feed::Reset(Listing { revision: Revision(5), entries: many, ..Listing::default() });
    assert_eq!(membership::members(Some(&known), prefix, &flood).unwrap().len(), 256);
}

#[tokio::test]
async fn a_replica_that_loses_its_registration_is_asked_on_until_it_is_back_or_says_farewell() {
    let store = shared();
    let (a, mut b) = (join(&store, "a", "h:1"), join(&store, "b", "h:2"));
    let others = || a.replicas.others().into_iter().flatten().map(|(_, member)| member.api).collect::<Vec<_>>();
    until("they meet", || a.knows() == ["a", "b"]).await;
    b.link.cut.store(true, Ordering::Relaxed);
    until("its lease ends", || a.knows() == ["a"]).await;
    assert_eq!(others(), ["h:2"]);
    b.link.cut.store(false, Ordering::Relaxed);
    until("it is back", || a.knows() == ["a", "b"]).await;
    assert_eq!(others(), ["h:2"]);
    // One that is stopped before it has heard that it stands says no farewell.
    until("it knows that it is back", || b.replicas.registered()).await;
    b.cancel.cancel();
    b.tasks.join_next().await.unwrap().unwrap();
    until("it is forgotten", || a.knows() == ["a"]).await;
    assert_eq!(others(), NOBODY);
}

const NOBODY: [&str; 0] = [];

#[test]
fn a_farewell_and_the_end_that_follows_it_may_come_at_once_and_an_end_alone_is_a_loss() {
    let member = |api: &str| Member { api: api.into(), version: String::new(), instance: String::new() };
    let known: Members = [("a".into(), member("h:1")), ("b".into(), member("h:2")), ("c".into(), member(""))].into();
    let missed = |feed: Feed| {
        let departed = departed::Departed::default();
        departed.note(&known, "/r/", &feed);
        departed.missed(&Members::new()).into_iter().map(|(name, _)| name.to_string()).collect::<Vec<_>>()
    };
    let put = |key: &str, value: &'static str| KeyValue {
        key: key.into(),
        value: value.into(),
        create_revision: Revision(1),
        mod_revision: Revision(2),
    };
    let batch = |changes| Feed::Batch(crate::store::Batch { revision: Revision(4), changes });
    let gone = |name: &str| Change::Delete(format!("/r/{name}"));
    let farewell = Change::Put(put("/r/a", membership::FAREWELL));
    assert_eq!(missed(batch(vec![farewell, gone("a"), gone("b"), gone("c"), gone("x")])), ["b"]);
    let entries = vec![put("/r/a", "{}")];
    assert_eq!(missed(Feed::Reset(Listing { revision: Revision(3), entries, ..Listing::default() })), ["b"]);
    let leaving =
        membership::members(Some(&known), "/r/", &batch(vec![Change::Put(put("/r/a", membership::FAREWELL))]));
    assert!(!leaving.unwrap().contains_key("a"));
}

#[test]
fn answers_are_summed_and_the_slowest_and_the_stale_are_named() {
    use crate::status::Standing;
    let report = |acked, revision, stale: &str| Report {
        standings: vec![Standing { total: acked, acked, ..Standing::default() }],
        revision: Revision(revision),
        stale: stale.into(),
    };
    let all = [("a".into(), report(2, 9, "")), ("b".into(), report(3, 7, "the store is away"))];
    let merged = standings::merge(1, &all, Vec::new());
    assert_eq!((merged.standings[0].total, merged.standings[0].acked), (5, 5));
    assert_eq!(merged.slowest, ("b".into(), Revision(7)));
    assert_eq!(merged.stale, "b: the store is away");
    // What `b` has not compiled it cannot have served, whatever its proxies have acknowledged.
    assert_eq!(merged.gaps(Revision(7)).behind, "");
    assert_eq!(merged.gaps(Revision(8)).behind, "replica b has not compiled revision 8 yet");
    assert_eq!(merged.gaps(Revision(7)).stale, merged.stale);
}

#[tokio::test]
async fn only_the_certificate_of_a_control_plane_of_the_trust_domain_is_taken_for_a_replicas() {
    let dir = tempfile::tempdir().unwrap();
    let planes = [("cp1".to_owned(), vec![]), ("cp2".to_owned(), vec![])];
    let sites = [(crate::model::Role::Edge, "edge1".to_owned())];
    crate::certs::dev_certs(dir.path(), "tidegate.local", &sites, &["ann".to_owned()], &planes).unwrap();
    let certificates = |folder: &str| {
        let file = |name: &str| dir.path().join(folder).join(name);
        let chain = |name: &str| -> Vec<CertificateDer<'static>> {
            CertificateDer::pem_file_iter(file(name)).unwrap().map(Result::unwrap).collect()
        };
        (chain("ca.crt"), chain("tls.crt"), PrivateKeyDer::from_pem_file(file("tls.key")).unwrap())
    };
    let meet = async |server: &str, domain: &'static str| {
        let (ca, chain, key) = certificates(server);
        let config = crate::serve::intake::mutual_tls(ca, chain, key).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (ca, chain, key) = certificates("control-plane/cp1");
        let tls = PeerTls::new(ca, chain, key, Arc::new(move || domain.to_owned())).unwrap();
        let accept = async {
            let (socket, _) = listener.accept().await.unwrap();
            drop(tokio_rustls::TlsAcceptor::from(Arc::new(config)).accept(socket).await);
        };
        let uri = format!("http://{address}").parse().unwrap();
        let (met, ()) = tokio::join!(tls.connector().call(uri), accept);
        met.map(drop).map_err(|error| error.to_string())
    };
    assert_eq!(meet("control-plane/cp2", "tidegate.local").await, Ok(()));
    for (server, domain) in
        [("edge/edge1", "tidegate.local"), ("operator/ann", "tidegate.local"), ("control-plane/cp2", "other")]
    {
        let refused = meet(server, domain).await.unwrap_err();
        assert!(refused.contains("certificate"), "{server}: {refused}");
    }
}

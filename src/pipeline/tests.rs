//! The loop, fed by hand: silence before the first listing, then every revision, and the last known state in need.

use std::time::Duration;

use tokio::task::JoinSet;

use super::*;
use crate::{
    catalog::testing::*,
    model::{AppProtocol, Keyspace, Role, ServiceSpec, SiteState},
    snapshot::Reader,
    store::{
        Batch as Changes, Change, Embedded, KeyValue, LeaseId, Op, Store, StoreError, Transaction, TxnOutcome, Watcher,
    },
    xds::ResourceType,
};

/// How long a test waits for what must come.
const LIMIT: Duration = Duration::from_secs(20);

/// A pipeline, what it is fed, and what it makes of it.
struct Line {
    feed: mpsc::Sender<Feed>,
    views: Arc<Views>,
    state: watch::Receiver<Arc<State>>,
    sites: watch::Receiver<Arc<Sites>>,
    watermarks: watch::Receiver<Arc<Watermarks>>,
    fresh: watch::Receiver<bool>,
    cancel: CancellationToken,
    tasks: JoinSet<Result<(), String>>,
}

fn line() -> Line {
    let (feed_in, feed) = mpsc::channel(16);
    let (state_in, state) = watch::channel(Arc::new(State::starting()));
    let (sites_in, sites) = watch::channel(Arc::new(Sites::default()));
    let (watermarks_in, watermarks) = watch::channel(Arc::default());
    let (fresh_in, fresh) = watch::channel(false);
    let views = Arc::new(Views::default());
    let cancel = CancellationToken::new();
    let pipeline = Pipeline {
        catalog: empty(),
        views: Arc::clone(&views),
        feed,
        state: state_in,
        sites: sites_in,
        watermarks: watermarks_in,
        fresh: fresh_in,
    };
    let mut tasks = JoinSet::new();
    tasks.spawn(pipeline.run(cancel.clone()));
    Line { feed: feed_in, views, state, sites, watermarks, fresh, cancel, tasks }
}

impl Line {
    async fn feed(&self, feed: Feed) {
        self.feed.send(feed).await.unwrap();
    }

    async fn wait(&self, what: impl FnMut(&Arc<State>) -> bool) -> Arc<State> {
        let mut state = self.state.clone();
        let reached = tokio::time::timeout(LIMIT, state.wait_for(what)).await.expect("the state comes").unwrap();
        Arc::clone(&reached)
    }

    async fn at(&self, revision: u64) -> Arc<State> {
        self.wait(|state| state.loaded() && state.revision == Revision(revision)).await
    }
}

fn open(line: &Line, site: &str) -> Reader {
    line.views.open(&Audience { site: site.into(), role: Role::Edge, proven: true, cohort: "".into(), delta: true })
}

async fn ready(reader: &Reader) {
    let mut published = reader.view().subscribe();
    while !reader.view().read().ready() {
        tokio::time::timeout(LIMIT, published.changed()).await.expect("the view is published").unwrap();
    }
}

fn listeners(reader: &Reader) -> Vec<String> {
    reader.view().read().entries(ResourceType::Listener).map(|(name, _)| name.to_string()).collect()
}

/// The whole store as a listing, and its last change as a batch.
fn reset(world: &World) -> Feed {
    Feed::Reset(world.listing())
}

fn batch(world: &World) -> Feed {
    let listing = world.listing();
    let newest = listing.entries.iter().filter(|entry| entry.mod_revision == listing.revision);
    Feed::Batch(Changes { revision: listing.revision, changes: newest.cloned().map(Change::Put).collect() })
}

#[tokio::test]
async fn before_the_first_listing_there_is_silence_and_after_it_a_view_shows_every_revision() {
    let line = line();
    let early = open(&line, "e1");
    line.feed(Feed::Down { reason: "away".into() }).await;
    let state = line.wait(|state| state.freshness != Freshness::Starting { reason: None }).await;
    assert_eq!(state.freshness, Freshness::Starting { reason: Some("away".into()) });
    assert!(!state.loaded() && !early.view().read().ready());

    let mut world = World::of([edge("e1"), gateway("a/g", vec![http(80, None)])]);
    line.feed(reset(&world)).await;
    line.at(2).await;
    ready(&early).await;
    assert_eq!(listeners(&early), ["gateway/80"]);
    assert_eq!(early.view().revision(), Revision(2));
    assert!(line.sites.borrow().get("e1").is_some());

    world.put(gateway("a/g", vec![http(81, None)]));
    line.feed(batch(&world)).await;
    line.at(3).await;
    assert_eq!(listeners(&early), ["gateway/81"]);
    let late = open(&line, "e1");
    assert!(Arc::ptr_eq(late.view(), early.view()));
    line.feed(Feed::Progress(Revision(9))).await;
    line.at(9).await;
    assert_eq!(early.view().revision(), Revision(9), "a view says up to where it is complete");
}

#[tokio::test]
async fn a_store_that_is_away_or_another_one_leaves_the_last_known_state_in_service() {
    let line = line();
    let world = World::of([edge("e1"), gateway("a/g", vec![http(80, None)])]);
    line.feed(reset(&world)).await;
    line.at(2).await;
    line.feed(Feed::Down { reason: "away".into() }).await;
    let state = line.wait(|state| state.freshness == Freshness::Stale { reason: "away".into() }).await;
    assert_eq!((state.loaded(), state.revision), (true, Revision(2)));
    // Who comes now is served too.
    let late = open(&line, "e1");
    ready(&late).await;
    assert_eq!(listeners(&late), ["gateway/80"]);
    line.feed(Feed::Frozen { reason: "went back".into() }).await;
    line.wait(|state| state.freshness == Freshness::Frozen { reason: "went back".into() }).await;
    assert_eq!(listeners(&late), ["gateway/80"]);
    line.feed(reset(&World::of([edge("e1")]))).await;
    line.wait(|state| state.freshness == Freshness::Fresh).await;
    assert_eq!(listeners(&late), Vec::<String>::new());
}

#[tokio::test]
async fn a_view_of_an_unknown_site_stays_pending_and_one_of_a_site_that_goes_keeps_what_it_has() {
    let line = line();
    let mut world = World::of([edge("e1"), gateway("a/g", vec![http(80, None)])]);
    let (known, unknown) = (open(&line, "e1"), open(&line, "e2"));
    line.feed(reset(&world)).await;
    line.at(2).await;
    ready(&known).await;
    assert!(!unknown.view().read().ready());
    world.put(edge("e1").site(|site| site.state = SiteState::Deleting));
    line.feed(batch(&world)).await;
    line.at(3).await;
    world.put(edge("e2"));
    line.feed(batch(&world)).await;
    line.at(4).await;
    ready(&unknown).await;
    assert_eq!(
        (listeners(&known), listeners(&unknown)),
        (vec!["gateway/80".to_owned()], vec!["gateway/80".to_owned()])
    );
}

#[tokio::test]
async fn live_endpoints_reach_grpc_clients_in_their_own_form_before_the_configuration_that_came_with_them() {
    let line = line();
    let speaks = |spec: &mut ServiceSpec| spec.ports[0].app_protocol = AppProtocol::H2c;
    let mut world = World::of([core("c1"), service("a/s", &[80]).service(speaks), set("a/s", "c1")]);
    let audience = Audience { site: "c1".into(), role: Role::Grpc, proven: true, cohort: "".into(), delta: false };
    let client = line.views.open(&audience);
    line.feed(reset(&world)).await;
    ready(&client).await;
    let before = world.listing().revision;
    world.live("c1", "a/s", "x", Some("10.9.9.9:80"));
    world.put(service("a/other", &[80]));
    let Listing { revision, entries, .. } = world.listing();
    let changes = entries.into_iter().filter(|entry| entry.mod_revision > before).map(Change::Put).collect();
    line.feed(Feed::Batch(Changes { revision, changes })).await;
    line.at(revision.0).await;
    let content = client.view().read();
    let entry = content.get(ResourceType::Endpoints, "a/s:80").unwrap();
    assert!(String::from_utf8_lossy(&entry.resource.payload).contains("10.9.9.9"));
    assert!(entry.content < content.seq(), "what was sent first is what the configuration says too");
}

#[tokio::test]
async fn the_loop_ends_when_it_is_told_to() {
    let mut line = line();
    line.cancel.cancel();
    let ended = tokio::time::timeout(LIMIT, line.tasks.join_next()).await.expect("it ends");
    assert_eq!(ended.unwrap().unwrap(), Ok(()));
}

#[tokio::test]
async fn a_copy_is_served_and_called_stale_until_the_store_answers() {
    let line = line();
    let early = open(&line, "e1");
    let world = World::of([edge("e1"), gateway("a/g", vec![http(80, None)])]);
    line.feed(Feed::Down { reason: "away".into() }).await;
    line.feed(Feed::Copy { listing: world.listing(), reason: "a copy".into() }).await;
    let state = line.wait(|state| state.loaded() && state.revision == Revision(2)).await;
    assert_eq!(state.freshness, Freshness::Stale { reason: "a copy".into() });
    ready(&early).await;
    assert_eq!(listeners(&early), ["gateway/80"]);
    line.feed(reset(&world)).await;
    line.wait(|state| state.freshness == Freshness::Fresh).await;
}

fn acked(revision: u64, site_revision: u64) -> Feed {
    let entry = KeyValue {
        key: "/tidegate/v1/acked/core".into(),
        value: format!("{{\"revision\":{site_revision},\"connected\":true}}").into(),
        create_revision: Revision(revision),
        mod_revision: Revision(revision),
    };
    Feed::Batch(Changes { revision: Revision(revision), changes: vec![Change::Put(entry)] })
}

#[tokio::test]
async fn a_watermark_comes_by_its_own_channel_and_is_no_configuration() {
    let mut line = line();
    let reader = open(&line, "e1");
    let mut world = World::of([edge("e1"), gateway("a/g", vec![http(80, None)])]);
    line.feed(reset(&world)).await;
    line.at(2).await;
    ready(&reader).await;
    let mut published = reader.view().subscribe();
    published.mark_unchanged();
    line.feed(acked(7, 2)).await;
    tokio::time::timeout(LIMIT, line.watermarks.changed()).await.expect("it comes").unwrap();
    assert_eq!(line.watermarks.borrow()["core"].revision, Revision(2));
    line.at(7).await;
    // Else its own write would be a reason for the next.
    let at = |reader: &Reader| (reader.view().revision().0, reader.view().read().configuration().0);
    assert_eq!(at(&reader), (7, 2));
    line.feed(Feed::Progress(Revision(8))).await;
    line.at(8).await;
    let mut listing = world.listing();
    listing.revision = Revision(9);
    line.feed(Feed::Reset(listing)).await;
    line.at(9).await;
    assert_eq!(at(&reader), (9, 2));
    assert!(!published.has_changed().unwrap(), "nobody is woken");
    world.put(gateway("a/g", vec![http(81, None)]));
    let Feed::Batch(mut changes) = batch(&world) else { panic!("a batch") };
    changes.revision = Revision(10);
    line.feed(Feed::Batch(changes)).await;
    line.at(10).await;
    assert_eq!(at(&reader), (10, 10));
}

#[tokio::test]
async fn streams_are_told_whether_the_changes_of_the_store_arrive() {
    let mut line = line();
    assert!(!*line.fresh.borrow());
    let turned = async |line: &mut Line, fresh: bool| {
        tokio::time::timeout(LIMIT, line.fresh.wait_for(|now| *now == fresh)).await.expect("it turns").unwrap();
    };
    line.feed(reset(&World::of([edge("e1")]))).await;
    turned(&mut line, true).await;
    line.feed(Feed::Down { reason: "away".into() }).await;
    turned(&mut line, false).await;
    line.feed(Feed::Progress(Revision(5))).await;
    turned(&mut line, true).await;
}

/// A replica with a store, and somebody who answers those who must know whether it has read everything.
struct Confirmed {
    line: Line,
    store: Arc<Embedded>,
}

const MARK: &str = "/tidegate/v1/marks/cp1";

/// The store is ahead of the replica.
async fn confirmed() -> Confirmed {
    let mut line = line();
    let store = Embedded::in_memory().unwrap();
    let op = Op::Put { key: "/other".into(), value: "".into(), lease: None };
    for _ in 0..9 {
        store.txn(Transaction { compares: vec![], ops: vec![op.clone()] }).await.unwrap();
    }
    let (views, state, cancel) = (Arc::clone(&line.views), line.state.clone(), line.cancel.clone());
    let confirm = confirm(views, Arc::<Embedded>::clone(&store), Keyspace::default(), "cp1".into(), state, cancel);
    line.tasks.spawn(async move {
        confirm.await;
        Ok(())
    });
    line.feed(reset(&World::of([edge("e1")]))).await;
    line.at(1).await;
    Confirmed { line, store }
}

impl Confirmed {
    /// The mark, once it is written.
    async fn mark(&self) -> KeyValue {
        let written = async {
            loop {
                if let Some(mark) = self.store.get(MARK).await.unwrap() {
                    return mark;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(LIMIT, written).await.expect("a mark")
    }
}

async fn answer(question: impl Future<Output = bool>) -> bool {
    tokio::time::timeout(LIMIT, question).await.expect("an answer")
}

#[tokio::test]
async fn a_replica_knows_that_it_has_read_everything_when_its_own_mark_comes_back() {
    let replica = confirmed().await;
    let question = replica.line.views.confirm();
    tokio::pin!(question);
    let mark = replica.mark().await;
    replica.line.feed(Feed::Progress(Revision(mark.mod_revision.0 - 1))).await;
    replica.line.at(mark.mod_revision.0 - 1).await;
    let early = tokio::time::timeout(Duration::from_millis(20), &mut question).await;
    assert!(early.is_err(), "it has not come back");
    replica.line.feed(Feed::Batch(Changes { revision: mark.mod_revision, changes: vec![Change::Put(mark)] })).await;
    assert!(answer(question).await);
}

#[tokio::test]
async fn a_replica_that_is_cut_off_knows_nothing_for_sure() {
    let replica = confirmed().await;
    let line = &replica.line;
    line.feed(Feed::Down { reason: "away".into() }).await;
    line.wait(|state| state.freshness.stale().is_some()).await;
    assert!(!answer(line.views.confirm()).await);
    assert_eq!(replica.store.get(MARK).await.unwrap(), None, "nothing is written for it");
    // One that learns of it while it waits for its mark.
    line.feed(Feed::Progress(Revision(1))).await;
    line.wait(|state| state.freshness == Freshness::Fresh).await;
    let question = line.views.confirm();
    replica.mark().await;
    line.feed(Feed::Down { reason: "away".into() }).await;
    assert!(!answer(question).await);
}

/// A store that takes nothing, and answers if it is not cut off from the rest of its cluster.
struct Full {
    newest: Revision,
    cut_off: bool,
}

impl Full {
    fn read<T>(&self, answer: T) -> Result<T, StoreError> {
        if self.cut_off { Err(StoreError::Unavailable("no leader".into())) } else { Ok(answer) }
    }
}

#[async_trait::async_trait]
impl Store for Full {
    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        let (key, mod_revision) = (format!("{prefix}head"), self.newest);
        let entry = KeyValue { key, value: "".into(), create_revision: Revision(1), mod_revision };
        // Other keys are written as well.
        Ok(Listing { revision: Revision(self.newest.0 + 9), entries: vec![entry], ..Listing::default() })
    }

    async fn get(&self, _: &str) -> Result<Option<KeyValue>, StoreError> {
        self.read(None)
    }

    async fn watch(&self, _: &str, _: Revision) -> Result<Watcher, StoreError> {
        Err(StoreError::Unavailable("not asked for".into()))
    }

    async fn txn(&self, txn: Transaction) -> Result<TxnOutcome, StoreError> {
        if txn.ops.is_empty() {
            return self.read(TxnOutcome::Committed(Revision(self.newest.0 + 9)));
        }
        Err(StoreError::Full("out of space".into()))
    }

    async fn grant(&self, _: Duration) -> Result<LeaseId, StoreError> {
        Err(StoreError::Full("out of space".into()))
    }

    async fn keep_alive(&self, _: LeaseId) -> Result<(), StoreError> {
        Err(StoreError::LeaseNotFound)
    }

    async fn revoke(&self, _: LeaseId) -> Result<(), StoreError> {
        Err(StoreError::LeaseNotFound)
    }
}

async fn on_full(full: Full) -> Line {
    let mut line = line();
    let (views, state, cancel) = (Arc::clone(&line.views), line.state.clone(), line.cancel.clone());
    line.tasks.spawn(async move {
        confirm(views, Arc::new(full), Keyspace::default(), "cp1".into(), state, cancel).await;
        Ok(())
    });
    line.feed(reset(&World::of([edge("e1")]))).await;
    line.at(1).await;
    line
}

#[tokio::test]
async fn a_store_that_takes_no_writes_stops_no_proxy_from_being_compared_with_what_it_lists() {
    let line = on_full(Full { newest: Revision(3), cut_off: false }).await;
    let question = line.views.confirm();
    tokio::pin!(question);
    let early = tokio::time::timeout(Duration::from_millis(50), &mut question).await;
    assert!(early.is_err(), "what was written last has not been read");
    line.feed(Feed::Progress(Revision(3))).await;
    assert!(answer(question).await);
}

#[tokio::test]
async fn a_member_that_is_full_and_cut_off_confirms_nothing() {
    let line = on_full(Full { newest: Revision(1), cut_off: true }).await;
    assert!(!answer(line.views.confirm()).await);
}

#[tokio::test]
async fn a_mark_goes_by_itself_some_time_after_the_last_question() {
    let replica = confirmed().await;
    let question = replica.line.views.confirm();
    let mark = replica.mark().await;
    replica.line.feed(Feed::Progress(mark.mod_revision)).await;
    assert!(answer(question).await);
    // The first lease of this store.
    replica.store.revoke(LeaseId(1)).await.unwrap();
    assert_eq!(replica.store.get(MARK).await.unwrap(), None);
    // A lease that has ended is no obstacle.
    let question = replica.line.views.confirm();
    let mark = replica.mark().await;
    replica.line.feed(Feed::Progress(mark.mod_revision)).await;
    assert!(answer(question).await);
}

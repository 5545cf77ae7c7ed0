//! The loop, fed by hand: silence before the first listing, then every revision, and the last known state in need.

use std::time::Duration;

use tokio::task::JoinSet;

use super::*;
use crate::{
    catalog::testing::*,
    model::{Role, SiteState},
    snapshot::Reader,
    store::{Batch as Changes, Change},
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
    cancel: CancellationToken,
    tasks: JoinSet<Result<(), String>>,
}

fn line() -> Line {
    let (feed_in, feed) = mpsc::channel(16);
    let (state_in, state) = watch::channel(Arc::new(State::starting()));
    let (sites_in, sites) = watch::channel(Arc::new(Sites::default()));
    let views = Arc::new(Views::default());
    let cancel = CancellationToken::new();
    let (watermarks_in, _watermarks) = watch::channel(Arc::default());
    let pipeline = Pipeline {
        catalog: empty(),
        views: Arc::clone(&views),
        feed,
        state: state_in,
        sites: sites_in,
        watermarks: watermarks_in,
    };
    let mut tasks = JoinSet::new();
    tasks.spawn(pipeline.run(cancel.clone()));
    Line { feed: feed_in, views, state, sites, cancel, tasks }
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
    line.views.open(&Audience { site: site.into(), role: Role::Edge, proven: true, cohort: "".into() })
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
async fn the_loop_ends_when_it_is_told_to() {
    let mut line = line();
    line.cancel.cancel();
    let ended = tokio::time::timeout(LIMIT, line.tasks.join_next()).await.expect("it ends");
    assert_eq!(ended.unwrap().unwrap(), Ok(()));
}
